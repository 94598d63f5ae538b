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
import tempfile
import time
import uuid
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
PREFIX, SUFFIX, PART = "programs-", ".program", ".part"


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
        for folder in (place, self.folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if hasattr(os, "getuid"):
            for folder in (place, self.folder):
                status = folder.stat()
                if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                    raise UserError("others may write to it")
        with tempfile.TemporaryFile(dir=self.folder):
            pass
        self._remove_old(place)

    def path(self, key: str) -> Path:
        """Return where the program of a key is kept, under the present settings."""
        text = f"{ORIGIN}\n{_settings()}\n{key}"
        return self.folder / (hashlib.sha256(text.encode()).hexdigest() + SUFFIX)

    def load(self, path: Path) -> Kept | None:
        """Return a program that was kept, None if it is not there or damaged."""
        try:
            data = path.read_bytes()
        except OSError:
            return None
        try:
            digest, data = data[:32], data[32:]
            if hashlib.sha256(data).digest() != digest:
                raise ValueError("cut short")
            payload, shapes, *trees = _Unpickler(io.BytesIO(data)).load()
            compiled = serialize_executable.deserialize_and_load(
                payload, *trees, execution_devices=[_device()]
            )
        except Exception:
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)  # when it was used last
        return Kept(compiled, shapes)

    def save(self, path: Path, compiled: jax.stages.Compiled, shapes: Any) -> None:
        """Keep a program, unless JAX cannot serialize it or the disk is full."""
        with suppress(Exception):  # whatever is wrong, the program itself is fine
            payload, *trees = serialize_executable.serialize(compiled)
            data = _pickled((payload, shapes, *trees))
            file, name = tempfile.mkstemp(PART, dir=self.folder)
            beside = Path(name)
            try:
                with os.fdopen(file, "wb") as opened:
                    opened.write(hashlib.sha256(data).digest() + data)
                beside.replace(path)
            except BaseException:
                beside.unlink()
                raise
            self._prune()

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
        for other in place.glob(f"{PREFIX}*"):
            with suppress(OSError):
                if other != self.folder and other.stat().st_mtime < oldest:
                    shutil.rmtree(other, ignore_errors=True)
        for path, status in self._entries():
            if path.suffix == PART and status.st_mtime < time.time() - 3_600:
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


# What a program depends on, beside its key


def _processor() -> str:
    """Model and features of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        return f"{platform.processor()} {platform.version()}"
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    return "\n".join(line for line in lines if line.startswith(wanted))


@lru_cache
def machine_key() -> str:
    """Name the folder for these versions of JAX and noisydqn on this kind of processor.

    Compiled programs use whatever the processor has, and would crash on one that lacks it.
    """
    parts = [*_versions("jax", "jaxlib", "noisydqn"), sys.platform, platform.machine()]
    return PREFIX + hashlib.sha256("\n".join([*parts, _processor()]).encode()).hexdigest()[:16]


def _origin() -> str | None:
    """Sum up the code that programs are made from: this package's, and versions of the others."""
    digest = hashlib.sha256("\n".join([sys.version, *_versions(*PACKAGES)]).encode())
    root = Path(__file__).parent
    try:
        for path in sorted(root.rglob("[!.]*.py")):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    except OSError:
        return None
    return digest.hexdigest()


def _versions(*packages: str) -> list[str]:
    found: list[str] = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return found


ORIGIN = _origin()
"""That code as it was imported; None, and nothing is kept, if it cannot be read."""


def _settings() -> str:
    """Sum up what else may change a program: JAX's settings, the device, the cores in use.

    Settings belong to a thread, so this one's own count where they differ.
    """
    names = sorted(name for name in jax.config.values if "cache" not in name)
    values = [f"{name}={getattr(jax.config, name, jax.config.values[name])}" for name in names]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = _device()
    about = f"{device.device_kind}, {device.client.platform_version}, {cores} cores"
    return "\n".join([*values, os.environ.get("XLA_FLAGS", ""), about])


def _device() -> Any:
    """The device that programs are compiled for."""
    given = jax.config.values["jax_default_device"]
    return jax.local_devices(backend=given)[0] if given is None or isinstance(given, str) else given


def text_key(lowered: jax.stages.Lowered, options: dict[str, Any]) -> str:
    """Return the key of a program whose maker cannot say what it is made from: its text.

    The text has neither the trees of arguments and result nor the types that JAX checks.
    """
    trees = (lowered.in_tree, lowered.in_avals, lowered.out_tree)
    try:
        about = _pickled(trees).hex()
    except Exception:
        about = uuid.uuid4().hex  # nothing finds it
    return f"{options}\n{about}\n{lowered.as_text()}"


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
    if ORIGIN is None:
        return None
    return _given[-1] if _given else _default(os.environ.get(CACHE_VARIABLE))


@lru_cache
def _default(_: str | None) -> ProgramCache | None:
    with suppress(OSError, RuntimeError, UserError):
        place = default_cache()
        return None if place is None else ProgramCache(place)
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
    place, cache = folder or None, None
    try:
        place = default_cache() if folder is None else Path(folder).expanduser() if folder else None
        cache = None if place is None else ProgramCache(place)
    except (OSError, RuntimeError, UserError) as error:  # RuntimeError: no home folder
        reason = error.strerror if isinstance(error, OSError) else error
        warn(
            f"no compiled program is kept in {place or CACHE_VARIABLE}: {reason}; name another "
            f"folder in {CACHE_VARIABLE}, or none"
        )
    _given.append(cache)
    try:
        yield cache
    finally:
        _given.remove(cache)  # not the last, if runs in other threads have begun since
