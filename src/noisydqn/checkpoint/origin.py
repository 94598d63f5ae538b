"""What made a checkpoint: versions and the machine, as far as they can change the bits of a run."""

import os
import platform
import subprocess
import sys
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from noisydqn.cores import usable_cores
from noisydqn.program_cache import current_device, processor_lines

PACKAGES = ("noisydqn", "jax", "jaxlib", "numpy", "equinox", "optax", "gymnasium")
IF_LOADED = {"gymnax": "gymnax", "ale_py": "ale-py"}
"""Modules whose packages are recorded only if the run uses them, with the packages' names."""

WORDS = {
    "system": "system",
    "machine": "architecture",
    "processor": "processor",
    "device": "device",
    "cores": "cores",
    "xla_flags": "XLA_FLAGS",
}
"""What the parts of an origin are called, beside the versions."""


class Origin(msgspec.Struct, frozen=True):
    """The record of what made a checkpoint."""

    versions: dict[str, str]  # of Python and packages, by name
    system: str
    machine: str  # its architecture
    processor: str  # its model
    device: str  # JAX's kind of device
    cores: int  # that the process could use
    xla_flags: str
    commit: str = ""  # of noisydqn's repository, "+" for changes since; "" if it is installed

    @classmethod
    def here(cls) -> "Origin":
        """Collect what makes the checkpoints of this process."""
        loaded = [package for module, package in IF_LOADED.items() if module in sys.modules]
        names = [*PACKAGES, *loaded]
        return cls(
            versions={"Python": platform.python_version()} | {x: _version(x) for x in names},
            system=platform.system(),
            machine=platform.machine(),
            processor=_processor(),
            device=current_device().device_kind,
            cores=len(usable_cores()),
            xla_flags=os.environ.get("XLA_FLAGS", ""),
            commit=commit(),
        )

    def differences(self, here: "Origin") -> str:
        """Say in which respects a checkpoint's origin differs from `here`; "" if in none.

        Packages that only one of them records are not compared.
        """
        both = [name for name in self.versions if name in here.versions]
        pairs = {name: (self.versions[name], here.versions[name]) for name in both}
        for name, words in WORDS.items():
            pairs[words] = (str(getattr(self, name)), str(getattr(here, name)))
        return ", ".join(
            f"{words} {then or 'none'} (here {now or 'none'})"
            for words, (then, now) in pairs.items()
            if then != now
        )


@lru_cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # it is used from its source
        return "unknown"


@lru_cache
def commit() -> str:
    """Name the commit of the repository that the package is used from; "+" marks changes since."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return ""
    command = ["git", "describe", "--always", "--dirty=+"]
    options: dict[str, Any] = {"cwd": root, "capture_output": True, "text": True, "timeout": 5}
    try:
        return subprocess.run(command, check=True, **options).stdout.strip()  # noqa: S603
    except (OSError, subprocess.SubprocessError):  # without git, say
        return ""


def _processor() -> str:
    """Return the model of the processor, as far as the system tells it."""
    for line in processor_lines().splitlines():
        name, _, model = line.partition(":")
        if name.strip() == "model name":
            return model.strip()
    return platform.processor() or "unknown"
