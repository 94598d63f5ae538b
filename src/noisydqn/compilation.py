"""Compiled programs: side by side in threads, and kept on disk for the next process.

A `Program` is a function and the shapes that it is called with. XLA compiles it once, in whatever
thread asks first. A `Compiler` compiles several at a time in threads of its own, so that the main
thread stays free to handle signals. `compilation_cache` keeps the results in a folder.
"""

import atexit
import hashlib
import os
import platform
import queue
import shutil
import stat
import sys
import threading
import time
import weakref
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, Self, TypeVar, cast

import jax

from noisydqn.errors import UserError
from noisydqn.settings import own_settings

R = TypeVar("R")

CACHE_VARIABLE = "NOISYDQN_CACHE"
CACHE_BYTES = 2**29
"""Size of the cache of one version on one kind of processor; the least recently used goes first."""
CACHE_DAYS = 30
"""After so many days without use, the cache of another version or processor is removed."""
CACHED_SECONDS = 0.15
"""Programs that compile faster than this are not worth a file."""

LEVEL = "xla_backend_optimization_level"

POLL_SECONDS = 0.05
MAX_THREADS = 4


def compile_options(optimize: bool) -> dict[str, Any]:
    """XLA's options for a program on the present device.

    On a CPU, LLVM's third level takes a fifth longer than the second, for the same speed. A
    program that runs once is not optimized at all: its compilation takes longer than its run. A
    level in `XLA_FLAGS` is left alone.
    """
    if jax.default_backend() != "cpu" or LEVEL in os.environ.get("XLA_FLAGS", ""):
        return {}
    return {LEVEL: 2 if optimize else 0}


_lowering = threading.RLock()
"""Held while a program is traced and lowered: Python's own lock lets one thread do so anyway."""


class Program(Generic[R]):
    """A function for arguments of fixed shapes, compiled once.

    Args:
        name: what the live view calls it.
        function: pure, of arrays and trees of them.
        args: makes the arguments, or shapes and types in their place.
        donate: positions of arguments whose memory the result may use.
        optimize: false for a program that runs once.
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., R],
        args: Callable[[], tuple[Any, ...]],
        *,
        donate: tuple[int, ...] = (),
        optimize: bool = True,
    ) -> None:
        self.name = name
        self._function, self._args, self._donate = function, args, donate
        self._optimize = optimize
        self._trace_lock, self._compile_lock = threading.Lock(), threading.Lock()
        self._traced: jax.stages.Traced | None = None
        self.lowered = threading.Event()
        """Set once XLA has it: what comes before holds Python's lock, and delays other threads."""
        self._compiled: Callable[..., R] | None = None

    @property
    def shapes(self) -> R:
        """Shapes and types in place of the arrays of the result."""
        return cast(R, self._trace().out_info)

    @property
    def ready(self) -> bool:
        """Whether it is compiled."""
        return self._compiled is not None

    def _trace(self) -> jax.stages.Traced:
        with self._trace_lock:
            if self._traced is None:
                options = compile_options(self._optimize)
                jitted = jax.jit(
                    self._function, donate_argnums=self._donate, compiler_options=options
                )
                self._traced = jitted.trace(*self._args())
            return self._traced

    def compile(self) -> Callable[..., R]:
        """The compiled function; another thread that compiles it already is waited for."""
        with self._compile_lock:
            if self._compiled is None:
                try:
                    with _lowering:
                        lowered = self._trace().lower()
                finally:
                    self.lowered.set()
                self._compiled = cast(Callable[..., R], lowered.compile())
            return self._compiled

    def __call__(self, *args: Any) -> R:
        """Run it, compiling it first if need be."""
        compiled = self._compiled
        return (self.compile() if compiled is None else compiled)(*args)


@lru_cache(maxsize=64)
def _program_for(
    name: str, function: Callable[..., Any], structure: Any, leaves: tuple[Any, ...]
) -> Program[Any]:
    return Program(name, function, lambda: jax.tree.unflatten(structure, leaves))


def program_for(name: str, function: Callable[..., R], *args: Any) -> Program[R]:
    """The program of a function for arguments like `args`; the same one for the same shapes."""
    leaves, structure = jax.tree.flatten(args)
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    return cast(Program[R], _program_for(name, function, structure, shapes))


_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


def busy() -> bool:
    """Whether a background thread is still at work, perhaps on what nobody waits for any more."""
    return any(thread.is_alive() for thread in _threads)


@atexit.register
def _join() -> None:
    """Let background threads finish before the interpreter ends: XLA does not survive that."""
    for thread in list(_threads):
        thread.join()


class Background:
    """Threads that take jobs in order; a caller can stop waiting for one.

    Leaving the context drops the jobs that no thread has begun. A thread whose job nobody waits
    for any more continues until it is done, and delays nobody but the end of the interpreter.

    Args:
        threads: how many there are at most.
        name: of the threads.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._most, self._name = threads, name
        self._threads: list[threading.Thread] = []
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = (
            queue.SimpleQueue()
        )
        self._futures: weakref.WeakSet[Future[Any]] = weakref.WeakSet()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for future in self._futures:
            future.cancel()
        for _ in self._threads:
            self._jobs.put(None)

    def submit(self, job: Callable[[], R]) -> Future[R]:
        """Have a job done."""
        future: Future[R] = Future()
        if len(self._threads) < self._most:
            # A daemon: Python's own pools are joined before anything can be said at exit.
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._threads.append(thread)
            _threads.add(thread)
            thread.start()
        self._futures.add(future)
        self._jobs.put((future, job))
        return future

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            future, job = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                with own_settings():
                    future.set_result(job())
            except BaseException as error:  # whoever waits is told
                future.set_exception(error)
            del future, job, item

    def join(self, seconds: float) -> bool:
        """Wait for the threads to end, but no longer; returns whether they did."""
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0))
        return not any(thread.is_alive() for thread in self._threads)


def wait(future: Future[R], check: Callable[[], None]) -> R:
    """The result of a job. Meanwhile `check` is called, and may raise to stop waiting."""
    while True:
        check()
        try:
            return future.result(POLL_SECONDS)
        except TimeoutError:
            if future.done():  # the job's own
                raise


class Compiler:
    """Compiles programs in threads of its own, as many at a time as there are cores.

    Args:
        check: called while a program is waited for; it may raise to stop waiting.
        announce: told the names of the programs that are waited for, none at the end.
    """

    def __init__(
        self,
        check: Callable[[], None] = lambda: None,
        announce: Callable[[Sequence[str]], None] = lambda _: None,
    ) -> None:
        self._check, self._announce = check, announce
        self._background = Background(min(os.cpu_count() or 1, MAX_THREADS), "compiler")
        self._futures: dict[int, Future[Any]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._background.__exit__()

    def start(self, *programs: Program[Any]) -> None:
        """Compile programs in the background, in this order."""
        for program in programs:
            if not program.ready and id(program) not in self._futures:
                self._futures[id(program)] = self._background.submit(program.compile)

    def start_after(self, first: Program[Any], make: Callable[[], Sequence[Program[Any]]]) -> None:
        """Compile what `make` returns, but not before XLA has the first, so as not to delay it."""

        def job() -> None:
            if not first.ready:
                first.lowered.wait()
            for program in make():
                program.compile()

        self._background.submit(job)

    def wait(self, *programs: Program[Any]) -> None:
        """Wait until programs are compiled."""
        self.start(*programs)
        waiting = [program for program in programs if not program.ready]
        try:
            while waiting:
                self._announce([program.name for program in waiting])
                wait(self._futures[id(waiting[0])], self._check)
                waiting = [program for program in waiting if not program.ready]
        finally:
            self._announce([])


# The cache


def default_cache() -> Path | None:
    """The folder of the cache: `NOISYDQN_CACHE`, or noisydqn's in the user's cache folder.

    None if the variable is empty.
    """
    import platformdirs

    given = os.environ.get(CACHE_VARIABLE)
    if given is None:
        return platformdirs.user_cache_path("noisydqn", appauthor=False)
    return Path(given).expanduser() if given else None


def _processor() -> str:
    """Model and features of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    return "\n".join(line for line in lines if line.startswith(wanted))


def machine_key() -> str:
    """The name of the folder for this version of JAX and noisydqn on this kind of processor.

    Compiled programs use whatever the processor has, and would crash on one that lacks it.
    """
    parts = [version(name) for name in ("jax", "jaxlib", "noisydqn")]
    parts += [sys.platform, platform.machine(), _processor()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@contextmanager
def compilation_cache(
    folder: Path | str | None, warn: Callable[[str], None]
) -> Generator[Path | None]:
    """Keep compiled programs in a folder, and take them from there.

    Where JAX's own cache is set up already, by the program around or by
    `JAX_COMPILATION_CACHE_DIR`, that one is left in use.

    Args:
        folder: where; None takes `default_cache`, an empty text means nowhere.
        warn: told in one line if the folder cannot be used: everything is compiled then.

    Yields:
        The folder in use, or None.
    """
    place = default_cache() if folder is None else Path(folder).expanduser() if folder else None
    if place is None or _setting("jax_compilation_cache_dir") is not None:
        yield None
        return
    try:
        own = _prepare(place)
    except (OSError, UserError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        warn(
            f"no compiled program is kept in {place}: {reason}; name another folder in "
            f"{CACHE_VARIABLE}, or none"
        )
        yield None
        return
    settings = {
        "jax_compilation_cache_dir": str(own),
        "jax_compilation_cache_max_size": CACHE_BYTES,
        "jax_persistent_cache_min_compile_time_secs": CACHED_SECONDS,
    }
    before = {name: _setting(name) for name in settings}
    _configure(settings)
    try:
        yield own
    finally:
        _configure(before)


def _setting(name: str) -> Any:
    return getattr(jax.config, name)


def _configure(settings: dict[str, Any]) -> None:
    from jax.experimental.compilation_cache import compilation_cache as jax_cache

    for name, value in settings.items():
        jax.config.update(name, value)
    jax_cache.reset_cache()  # JAX decides once whether it uses a cache


def _prepare(place: Path) -> Path:
    """Make the folder for this machine, which only the user may write to, and clear others.

    Raises:
        OSError: it cannot be made.
        UserError: others may write to it: what they put there would be run.
    """
    own = place / machine_key()
    own.mkdir(mode=0o700, parents=True, exist_ok=True)
    if hasattr(os, "getuid"):
        for folder in (place, own):
            status = folder.stat()
            if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise UserError("others may write to it")
    probe = own / f".{os.getpid()}"
    probe.touch()
    probe.unlink()
    _remove_unfinished(own)
    oldest = time.time() - CACHE_DAYS * 86_400
    for other in place.iterdir():
        if other != own and other.stat().st_mtime < oldest and _is_key(other.name):
            shutil.rmtree(other, ignore_errors=True)
    return own


def _is_key(name: str) -> bool:
    return len(name) == 16 and set(name) <= set("0123456789abcdef")


def _remove_unfinished(folder: Path) -> None:
    """Remove entries of a process that was killed while it wrote: the time comes last."""
    import filelock

    with filelock.FileLock(folder / ".lockfile"):
        for entry in folder.glob("*-cache"):
            if not entry.with_name(f"{entry.name.removesuffix('-cache')}-atime").exists():
                entry.unlink()
