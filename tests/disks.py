"""Small disks, which can be full or read-only."""

import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(path: Path, size: str) -> Generator[Path]:
    """A separate disk at `path`, of a size such as "40k"; skips where mounting is not allowed."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount")
    try:
        yield path
    finally:
        # Lazily: a test that failed may have files of it open.
        subprocess.run(["umount", "--lazy", str(path)], check=True)  # noqa: S607
