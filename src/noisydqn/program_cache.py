"""A cache of compiled programs on disk, so that the next process neither traces nor compiles.

JAX's own cache must trace and lower a program before it can look it up, which takes longer than
everything else. Here a program that comes with a key is found by that key, without tracing. A
program without a key is traced and found by its text.
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
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
from jax.experimental import serialize_executable

from noisydqn.cores import usable_cores
from noisydqn.errors import UserError

CACHE_VARIABLE = "NOISYDQN_CACHE"
OFF = ("", "none")
"""In place of a folder: programs are not kept."""
CACHE_BYTES = 2**29
"""Largest size of a version's cache on one kind of processor; the least recently used go first."""
CACHE_DAYS = 30
"""Days without use after which the cache of another version or processor is removed."""
PACKAGES = ("jax", "jaxlib", "numpy", "equinox", "optax", "gymnax", "noisydqn")
"""Packages that the code of a program comes from."""
Device = Any
"""A device of JAX, whose class type checkers do not take for a type."""
PREFIX, SUFFIX, PART = "programs-", ".program", ".part"


class Kept(NamedTuple):
    """A compiled program, and shapes and dtypes in place of the arrays of its result."""

    compiled: Callable[..., Any]
    shapes: Any


class ProgramCache:
    """A folder of compiled programs, for this version on this kind of processor.

    Anyone who can write to the folder can have code run, so only its owner may.

    Args:
        place: a folder for the caches of all versions, created if it does not exist.

    Raises:
        OSError: the folder cannot be created or written to.
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
        """Return the path of the program of a key, under the current settings."""
        text = f"{ORIGIN}\n{_settings()}\n{key}"
        return self.folder / (hashlib.sha256(text.encode()).hexdigest() + SUFFIX)

    def load(self, path: Path, devices: Sequence[Device] = ()) -> Kept | None:
        """Return a stored program, or None if it is missing or damaged.

        It runs on the current device, or on `devices` if it was compiled for several.
        """
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
                payload, *trees, execution_devices=devices or [current_device()]
            )
        except Exception:
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)  # the time of its last use
        return Kept(compiled, shapes)

    def save(self, path: Path, compiled: jax.stages.Compiled, shapes: Any) -> None:
        """Store a program, unless JAX cannot serialize it or the disk is full."""
        with suppress(Exception):  # the program itself works, whatever fails here
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
        """Remove the least recently used programs until the rest fits."""
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
        """Remove unused caches of other versions, and temporary files of killed processes."""
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
"""Equinox's placeholder for missing fields of a module, which is compared by identity."""


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: object) -> str | None:
        return "missing" if obj is _MISSING else None


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, pid: str) -> Any:
        return {"missing": _MISSING}[pid]


def _pickled(value: Any) -> bytes:
    """Pickle trees of modules.

    Raises:
        ValueError: unpickling would not give them back.
    """
    file = io.BytesIO()
    _Pickler(file).dump(value)
    file.seek(0)
    if _Unpickler(file).load() != value:
        raise ValueError("unpickling does not give the value back")
    return file.getvalue()


# What a program depends on, beside its key


def processor_lines() -> str:
    """Read the processor's model and features, as far as the system tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        return f"{platform.processor()} {platform.version()}"
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    return "\n".join(line for line in lines if line.startswith(wanted))


@lru_cache
def machine_key() -> str:
    """Name the folder for these versions of JAX and noisydqn on this kind of processor.

    Compiled programs use every feature of the processor and would crash on one that lacks it.
    """
    parts = [*_versions("jax", "jaxlib", "noisydqn"), sys.platform, platform.machine()]
    return PREFIX + hashlib.sha256("\n".join([*parts, processor_lines()]).encode()).hexdigest()[:16]


def _origin() -> str | None:
    """Hash the code that programs are made from: this package's source, the others' versions."""
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
"""Hash of the code as imported. If the source cannot be read it is None and nothing is cached."""


def _settings() -> str:
    """Describe what else can change a program: JAX's settings, the device, the cores in use.

    Settings can differ from thread to thread; those of the calling thread count.
    """
    names = sorted(name for name in jax.config.values if "cache" not in name)
    values = [f"{name}={getattr(jax.config, name, jax.config.values[name])}" for name in names]
    device = current_device()
    about = f"{device.device_kind}, {device.client.platform_version}, {len(usable_cores())} cores"
    return "\n".join([*values, os.environ.get("XLA_FLAGS", ""), about])


def current_device() -> Any:
    """Find the device that programs are compiled for."""
    given = jax.config.values["jax_default_device"]
    return jax.local_devices(backend=given)[0] if given is None or isinstance(given, str) else given


def text_key(lowered: jax.stages.Lowered, options: dict[str, Any]) -> str:
    """Derive a key from a program's text, for programs that come without one.

    The text omits the trees of arguments and result and the types that JAX checks, so the key
    adds them.
    """
    trees = (lowered.in_tree, lowered.in_avals, lowered.out_tree)
    try:
        about = _pickled(trees).hex()
    except Exception:
        about = uuid.uuid4().hex  # a key that is never found again
    return f"{options}\n{about}\n{lowered.as_text()}"


# The cache in use


_given: list[ProgramCache | None] = []
"""Caches requested by `program_cache`, the newest last."""


def default_cache() -> Path | None:
    """Return the default folder: `NOISYDQN_CACHE`, or noisydqn's in the user's cache folder.

    It is None if the variable is empty or "none".
    """
    import platformdirs

    given = os.environ.get(CACHE_VARIABLE)
    if given is None:
        return platformdirs.user_cache_path("noisydqn", appauthor=False)
    return None if given in OFF else Path(given).expanduser()


def current_cache() -> ProgramCache | None:
    """Return the cache in use: the newest requested one, the default one, or None."""
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
        folder: the folder; None takes `default_cache`, "none" or an empty string turns the cache
            off.
        warn: called with one line if the folder cannot be used; everything is then compiled.

    Yields:
        The cache, or None.
    """
    place, cache = folder, None
    try:
        if folder is None:
            place = default_cache()
        else:
            place = None if folder in OFF else Path(folder).expanduser()
        cache = None if place is None else ProgramCache(place)
    except (OSError, RuntimeError, UserError) as error:  # RuntimeError: no home folder
        reason = error.strerror if isinstance(error, OSError) else error
        warn(
            f"compiled programs cannot be kept in {place or CACHE_VARIABLE}: {reason}; name "
            f"another folder in {CACHE_VARIABLE}, or none"
        )
    _given.append(cache)
    try:
        yield cache
    finally:
        _given.remove(cache)  # not always the last: runs in other threads may have begun since
