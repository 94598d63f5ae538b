"""Programs that XLA compiles in parallel threads and that the disk keeps for the next process.

A `Program` is a function and the shapes of its arguments. It is compiled once, in the first thread
that needs it, unless `program_cache` has it. A `Compiler` compiles several programs at a time in
background threads, so the main thread stays free to handle signals.
"""

import atexit
import contextlib
import math
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from functools import lru_cache, partial
from typing import Any, Generic, Literal, Self, TypeVar, cast

import jax

from noisydqn.program_cache import Device, Kept, current_cache, text_key
from noisydqn.settings import own_settings

R = TypeVar("R")

CACHED_SECONDS = 0.15
"""Compilation time below which a program is not worth a file."""

LEVEL, FUSIONS = "xla_backend_optimization_level", "xla_cpu_use_fusion_emitters"
Runs = Literal["always", "often", "seldom", "once"]
EFFORT: dict[Runs, dict[str, Any]] = {
    # At LLVM's third level, environments written in JAX step up to twice as fast as at the second.
    "always": {LEVEL: 3},
    # Compilation at the third level takes a fifth longer, and updates run no faster.
    "often": {LEVEL: 2},
    # Half the time to compile; the code runs a tenth to a third slower, except small programs.
    "seldom": {LEVEL: 1, FUSIONS: False},
    # A quarter of the time to compile; the code runs several times slower.
    "once": {LEVEL: 0, FUSIONS: False},
}
"""XLA's options for a program on a CPU, by how often it runs."""

POLL_SECONDS = 0.05
MAX_THREADS = 4
COMPILING = "compiler"
"""The name of threads that compile."""
END_SECONDS = 5.0
"""Seconds that the end of the interpreter waits for threads that do something else."""


def compile_options(runs: Runs) -> dict[str, Any]:
    """Choose XLA's options for the current device. A level set in `XLA_FLAGS` is kept."""
    if jax.default_backend() != "cpu" or LEVEL in os.environ.get("XLA_FLAGS", ""):
        return {}
    return EFFORT[runs]


_lowering = threading.RLock()
"""Held while a program is traced and lowered, which Python's own lock lets one thread do anyway."""


class Program(Generic[R]):
    """A function for arguments of fixed shapes, compiled once.

    Args:
        name: shown in the live view.
        function: pure function of arrays and trees of arrays.
        args: makes the arguments, or shapes and dtypes in their place.
        donate: positions of arguments whose memory the result may use.
        runs: how often the program runs, which decides how long its compilation may take.
        key: everything that the program depends on besides code and settings, so that the cache
            finds it without tracing; None if that is unknown.
        devices: those that it is compiled for; none stands for the current one.
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., R],
        args: Callable[[], tuple[Any, ...]],
        *,
        donate: tuple[int, ...] = (),
        runs: Runs = "often",
        key: str | None = None,
        devices: Sequence[Device] = (),
    ) -> None:
        self.name = name
        self._devices = devices
        self._function, self._args, self._donate = function, args, donate
        self._runs: Runs = runs
        self._key = None if key is None else f"{name} {key}"
        self._look_lock, self._trace_lock = threading.Lock(), threading.Lock()
        self._compile_lock = threading.Lock()
        self._looked = False
        self._traced: jax.stages.Traced | None = None
        self._shapes: R | None = None
        self._compiled: Callable[..., R] | None = None
        self._unsaved: Callable[[], None] | None = None
        self.done = threading.Event()
        """Set once compilation has succeeded or failed."""

    @property
    def shapes(self) -> R:
        """Shapes and dtypes in place of the arrays of the result."""
        self._look()
        if self._shapes is None:
            self._shapes = cast(R, self._trace().out_info)
        return self._shapes

    @property
    def ready(self) -> bool:
        """True once the program is compiled."""
        return self._compiled is not None

    def compile(self) -> Callable[..., R]:
        """Return the compiled function, compiling it or waiting for the thread that does."""
        try:
            self._look()
            with self._compile_lock:
                if self._compiled is None:
                    self._make()
                return cast(Callable[..., R], self._compiled)
        finally:
            self.done.set()

    def save(self) -> None:
        """Write the program to the cache if it was compiled here and took long enough."""
        with self._look_lock:
            save, self._unsaved = self._unsaved, None
        if save is not None:
            save()

    def __call__(self, *args: Any) -> R:
        """Run the program, compiling it first if necessary."""
        compiled = self._compiled
        if compiled is None:
            compiled = self.compile()
            self.save()
        return compiled(*args)

    def _trace(self) -> jax.stages.Traced:
        with self._trace_lock:
            if self._traced is None:
                # Unused arguments stay, so that the program's text shows which ones are unused.
                jitted = jax.jit(self._function, donate_argnums=self._donate, keep_unused=True)
                self._traced = jitted.trace(*self._args())
            return self._traced

    def _look(self) -> None:
        """Look the program up in the cache, if it has a key."""
        with self._look_lock:
            cache = current_cache()
            if self._looked or cache is None or self._key is None:
                return
            self._looked = True
            self._take(cache.load(cache.path(self._key), self._devices))

    def _take(self, kept: Kept | None) -> None:
        if kept is not None:
            self._compiled, self._shapes = kept
            self.done.set()

    def _make(self) -> None:
        cache, options = current_cache(), compile_options(self._runs)
        start = time.perf_counter()
        with _lowering:
            lowered = self._trace().lower()
        path = None if cache is None else cache.path(self._key or text_key(lowered, options))
        if cache is not None and path is not None and self._key is None:
            self._take(cache.load(path, self._devices))
        if self._compiled is not None:
            return
        self._compiled = compiled = _compiled(lowered, options)
        seconds = time.perf_counter() - start
        if cache is not None and path is not None and seconds > CACHED_SECONDS:
            self._unsaved = partial(cache.save, path, compiled, self._trace().out_info)


def _compiled(lowered: jax.stages.Lowered, options: dict[str, Any]) -> Any:
    try:
        return lowered.compile(options)
    except jax.errors.JaxRuntimeError:
        if not options:
            raise
        return lowered.compile()  # this version of XLA may not know the options


@lru_cache(maxsize=64)
def _program_for(
    name: str, function: Callable[..., Any], structure: Any, leaves: tuple[Any, ...]
) -> Program[Any]:
    return Program(name, function, lambda: jax.tree.unflatten(structure, leaves))


def program_for(name: str, function: Callable[..., R], *args: Any) -> Program[R]:
    """Return the program of a function for arguments like `args`, one for each set of shapes."""
    leaves, structure = jax.tree.flatten(args)
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    return cast(Program[R], _program_for(name, function, structure, shapes))


class Pace:
    """The pace of a long loop of compiled calls, as nothing can interrupt a call.

    Args:
        seconds: how long a call may take, roughly.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.most = 1
        """Steps that the next call may make."""

    @contextlib.contextmanager
    def timed(self, steps: int) -> Generator[None]:
        """Time a call that makes some steps and waits for its results."""
        before = time.perf_counter()
        yield
        seconds = time.perf_counter() - before
        self.most = min(4 * steps, math.ceil(steps * self._seconds / seconds))


_threads: list[threading.Thread] = []


def busy() -> bool:
    """Tell whether a background thread still works, perhaps on a job that nobody waits for."""
    return any(thread.is_alive() for thread in list(_threads))


@atexit.register
def join_threads() -> None:
    """Wait for background threads, because XLA crashes if the interpreter ends before them.

    Compilation always ends; an evaluation whose environment hangs does not.
    """
    end = time.monotonic() + END_SECONDS
    for thread in list(_threads):
        thread.join(None if thread.name == COMPILING else max(end - time.monotonic(), 0))


class Background:
    """Threads that take jobs in order; a caller can stop waiting for a job.

    Leaving the context drops the jobs that no thread has begun. A job that is already running
    continues until it is done; it delays only the end of the interpreter.

    Args:
        threads: the largest number of threads.
        name: name of the threads.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._most, self._name = threads, name
        self._threads: list[threading.Thread] = []
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = (
            queue.SimpleQueue()
        )
        self._futures: weakref.WeakSet[Future[Any]] = weakref.WeakSet()
        self._closed, self._lock = False, threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._closed = True
            for future in self._futures:
                future.cancel()
            for _ in self._threads:
                self._jobs.put(None)

    def submit(self, job: Callable[[], R]) -> Future[R]:
        """Queue a job. It is dropped once the context is left."""
        future: Future[R] = Future()
        with self._lock:
            if self._closed:
                future.cancel()
                return future
            if len(self._threads) < self._most:
                # A daemon, because Python joins its own pools before any exit handler can print.
                thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                thread.start()
                self._threads.append(thread)
                _threads[:] = [*filter(threading.Thread.is_alive, _threads), thread]
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
        """Wait up to `seconds` for the threads to end; return whether they did."""
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0))
        return not any(thread.is_alive() for thread in self._threads)


def wait(future: Future[R], check: Callable[[], None]) -> R:
    """Wait for a job's result. Meanwhile `check` is called; it may raise to stop waiting."""
    while True:
        check()
        try:
            return future.result(POLL_SECONDS)
        except TimeoutError:
            if future.done():  # the job itself raised it
                raise


class Compiler:
    """Background threads that compile programs, at most one for each core.

    Args:
        check: called while waiting for a program; it may raise to stop waiting.
        announce: called with the names of the programs being waited for, with none at the end.
    """

    def __init__(
        self,
        check: Callable[[], None] = lambda: None,
        announce: Callable[[Sequence[str]], None] = lambda _: None,
    ) -> None:
        self._check, self._announce = check, announce
        self._background = Background(min(os.cpu_count() or 1, MAX_THREADS), COMPILING)
        self._futures: dict[Program[Any], Future[None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._background.__exit__()

    def start(self, *programs: Program[Any]) -> None:
        """Compile programs in the background, in this order."""
        for program in programs:
            if not program.ready and program not in self._futures:
                self._futures[program] = self._background.submit(partial(self._compile, program))

    def _compile(self, program: Program[Any]) -> None:
        program.compile()
        self._background.submit(program.save)  # after the programs that are queued

    def start_after(self, first: Program[Any], make: Callable[[], Sequence[Program[Any]]]) -> None:
        """Compile the programs that `make` returns once `first` is done, so as not to delay it."""

        def job() -> None:
            first.done.wait()
            for program in make():
                self._compile(program)

        self._background.submit(job)

    def wait(self, *programs: Program[Any]) -> None:
        """Wait until programs are compiled."""
        self.start(*programs)
        waiting = [program for program in programs if not program.ready]
        try:
            while waiting:
                self._announce([program.name for program in waiting])
                wait(self._futures[waiting[0]], self._check)
                waiting = [program for program in waiting if not program.ready]
        finally:
            self._announce([])
