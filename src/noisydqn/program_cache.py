"""Compiled programs on disk, so that the next process need neither trace nor compile them.

JAX has a cache of its own, but it must trace and lower a program before it can look for it, which
takes longer than all else. Here a program whose maker can say what it is made from is found by
that; others are found by their text, after tracing.
"""

import hashlib
import io
import os
import pickle
import platform
import shutil
import stat
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
from jax.experimental import serialize_executable

from noisydqn.errors import UserError

CACHE_VARIABLE = "NOISYDQN_CACHE"
CACHE_BYTES = 2**29
"""Size of the cache of one version on one kind of processor; the least recently used goes first."""
CACHE_DAYS = 30
"""After so many days without use, the cache of another version or processor is removed."""
PACKAGES = ("jax", "jaxlib", "numpy", "equinox", "optax", "gymnax", "noisydqn")
"""Where the code of a program comes from."""
SUFFIX = ".program"


class Kept(NamedTuple):
    """A compiled program, and shapes and types in place of the arrays of its result."""

    compiled: Callable[..., Any]
    shapes: Any


class ProgramCache:
    """A folder of compiled programs, of this version on this kind of processor.

    Whoever can write to the folder can have code run: it must be the user's alone.

    Args:
        place: a folder for caches of all versions, made if there is none.

    Raises:
        OSError: it cannot be made.
        UserError: others may write to it.
    """

    def __init__(self, place: Path) -> None:
        self.folder = place / machine_key()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if hasattr(os, "getuid"):
            for folder in (place, self.folder):
                status = folder.stat()
                if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                    raise UserError("others may write to it")
        probe = self.folder / f".{os.getpid()}"
        probe.touch()
        probe.unlink()
        self._remove_old(place)

    def load(self, key: str) -> Kept | None:
        """Return the program of a key, None if it is not there or damaged."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        try:
            digest, data = data[:32], data[32:]
            if hashlib.sha256(data).digest() != digest:
                raise ValueError("cut short")
            payload, shapes, *trees = _Unpickler(io.BytesIO(data)).load()
            compiled = serialize_executable.deserialize_and_load(payload, *trees)
        except Exception:
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)  # when it was used last
        return Kept(compiled, shapes)

    def save(self, key: str, compiled: jax.stages.Compiled, shapes: Any) -> None:
        """Keep a program, unless JAX cannot serialize it or the disk is full."""
        path = self._path(key)
        beside = path.with_suffix(f".{os.getpid()}.part")
        try:
            payload, *trees = serialize_executable.serialize(compiled)
            data = _pickled((payload, shapes, *trees))
            beside.write_bytes(hashlib.sha256(data).digest() + data)
            beside.replace(path)
            self._prune()
        except Exception:
            with suppress(OSError):
                beside.unlink()

    def _path(self, key: str) -> Path:
        text = f"{_origin()}\n{_settings()}\n{key}"
        return self.folder / (hashlib.sha256(text.encode()).hexdigest() + SUFFIX)

    def _prune(self) -> None:
        """Remove the programs that were not used for longest, until the rest fits."""
        entries = sorted(
            ((status.st_mtime, status.st_size, path) for path, status in self._entries()),
            reverse=True,
        )
        total = 0
        for _, size, path in entries:
            total += size
            if total > CACHE_BYTES:
                path.unlink(missing_ok=True)

    def _entries(self) -> Generator[tuple[Path, os.stat_result]]:
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # another process removed it
                yield path, path.stat()

    def _remove_old(self, place: Path) -> None:
        """Remove other versions' caches that nobody uses, and what killed processes left."""
        oldest = time.time() - CACHE_DAYS * 86_400
        for other in place.iterdir():
            if other != self.folder and other.stat().st_mtime < oldest and _is_key(other.name):
                shutil.rmtree(other, ignore_errors=True)
        for path, status in self._entries():
            if path.suffix == ".part" and status.st_mtime < time.time() - 3_600:
                path.unlink(missing_ok=True)


# Trees of modules

_MISSING = jax.tree.structure(eqx.nn.Identity()).node_data()[1][0]
"""What Equinox puts in the place of fields that a module lacks: it must stay that very object."""


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: object) -> str | None:
        return "missing" if obj is _MISSING else None


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, pid: str) -> Any:
        return {"missing": _MISSING}[pid]


def _pickled(value: Any) -> bytes:
    """Pickle trees of modules.

    Raises:
        ValueError: they would not be the same again.
    """
    file = io.BytesIO()
    _Pickler(file).dump(value)
    file.seek(0)
    if _Unpickler(file).load() != value:
        raise ValueError("what was read is not what was written")
    return file.getvalue()


def _is_key(name: str) -> bool:
    return len(name) == 16 and set(name) <= set("0123456789abcdef")


# What a program depends on, beside its key


def _processor() -> str:
    """Model and features of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    return "\n".join(line for line in lines if line.startswith(wanted))


@lru_cache
def machine_key() -> str:
    """Name the folder for these versions of JAX and noisydqn on this kind of processor.

    Compiled programs use whatever the processor has, and would crash on one that lacks it.
    """
    parts = [*_versions("jax", "jaxlib", "noisydqn"), sys.platform, platform.machine()]
    return hashlib.sha256("\n".join([*parts, _processor()]).encode()).hexdigest()[:16]


@lru_cache
def _origin() -> str:
    """Sum up the code that programs are made from: this package's, and versions of the others."""
    digest = hashlib.sha256("\n".join([sys.version, *_versions(*PACKAGES)]).encode())
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _versions(*packages: str) -> list[str]:
    found: list[str] = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return found


def _settings() -> str:
    """Sum up JAX's settings, which may change a program, and the devices."""
    values = [f"{k}={v}" for k, v in sorted(jax.config.values.items()) if "cache" not in k]
    devices = [f"{x.device_kind} {x.client.platform_version}" for x in jax.devices()]
    return "\n".join([*values, os.environ.get("XLA_FLAGS", ""), *devices])


# The cache in use


_given: list[ProgramCache | None] = []
"""Those that were asked for, the newest last."""


def default_cache() -> Path | None:
    """Return the folder of the cache: `NOISYDQN_CACHE`, or noisydqn's in the user's cache folder.

    None if the variable is empty.
    """
    import platformdirs

    given = os.environ.get(CACHE_VARIABLE)
    if given is None:
        return platformdirs.user_cache_path("noisydqn", appauthor=False)
    return Path(given).expanduser() if given else None


def current_cache() -> ProgramCache | None:
    """Return the cache in use: one that was asked for, or the default one, or none."""
    return _given[-1] if _given else _open(default_cache())


@lru_cache
def _open(place: Path | None) -> ProgramCache | None:
    try:
        return None if place is None else ProgramCache(place)
    except (OSError, UserError):
        return None


@contextmanager
def program_cache(
    folder: Path | str | None, warn: Callable[[str], None]
) -> Generator[ProgramCache | None]:
    """Use a folder for compiled programs.

    Args:
        folder: where; None takes `default_cache`, an empty text means nowhere.
        warn: told in one line if the folder cannot be used: everything is compiled then.

    Yields:
        The cache, or None.
    """
    place = default_cache() if folder is None else Path(folder).expanduser() if folder else None
    cache = None
    if place is not None:
        try:
            cache = ProgramCache(place)
        except (OSError, UserError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            warn(
                f"no compiled program is kept in {place}: {reason}; name another folder in "
                f"{CACHE_VARIABLE}, or none"
            )
    _given.append(cache)
    try:
        yield cache
    finally:
        _given.remove(cache)  # not the last, if runs in other threads have begun since
