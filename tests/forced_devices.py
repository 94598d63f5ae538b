"""Processes in which JAX has several devices: those of the CPU, which a flag multiplies."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import FAST

ROOT = Path(__file__).parent.parent
FORCED = "--xla_force_host_platform_device_count"


def environment(devices: int) -> dict[str, str]:
    """The environment variables of a process with so many devices."""
    flags = f"{FAST} {FORCED}={devices}"
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}


def run_tests(file: str, devices: int = 4) -> None:
    """Run the tests of a file of `tests/sharded` in a process with several devices."""
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*argv, f"tests/sharded/{file}"],
        cwd=ROOT,
        env=environment(devices),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-2_000:]
