"""The cache of compiled programs, for tests."""

from pathlib import Path
from typing import Any

from noisydqn import program_cache


def refuse(line: str) -> None:
    raise AssertionError(line)


def use(folder: Path | str | None) -> Any:
    """Keep programs in a folder; no line may be told."""
    return program_cache.program_cache(folder, refuse)
