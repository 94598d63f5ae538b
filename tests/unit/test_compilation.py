"""Programs and the threads that compile them."""

import threading
import time

import jax
import jax.numpy as jnp
import pytest

from noisydqn import compilation
from noisydqn.compilation import (
    Background,
    Compiler,
    Program,
    program_for,
    wait,
)

VECTOR = jax.ShapeDtypeStruct((3,), jnp.float32)


class GoneError(Exception):
    """Nobody waits any more."""


def double(x: jax.Array) -> jax.Array:
    return 2 * x


def test_a_program_knows_its_result_before_it_is_compiled() -> None:
    program = Program("double", double, lambda: (VECTOR,))
    assert program.shapes.shape == (3,)
    assert not program.ready
    assert program(jnp.arange(3.0)).tolist() == [0, 2, 4]
    assert program.ready


def test_programs_are_the_same_for_the_same_shapes() -> None:
    assert program_for("double", double, VECTOR) is program_for("double", double, jnp.zeros(3))
    assert program_for("double", double, VECTOR) is not program_for("double", double, jnp.zeros(4))


def test_programs_are_compiled_in_other_threads() -> None:
    threads: list[str] = []

    def traced(x: jax.Array) -> jax.Array:
        threads.append(threading.current_thread().name)
        return x

    said: list[list[str]] = []
    programs = [Program(name, traced, lambda: (VECTOR,)) for name in ("one", "other")]
    with Compiler(announce=lambda names: said.append(list(names))) as compiler:
        compiler.wait(*programs)
    assert all(program.ready for program in programs)
    assert set(threads) == {"compiler"}
    assert said[0] == ["one", "other"]
    assert said[-1] == []


def test_waiting_for_a_program_can_be_interrupted() -> None:
    release = threading.Event()

    def slow(x: jax.Array) -> jax.Array:
        release.wait(20)
        return x

    def leave() -> None:
        if time.monotonic() > start + 0.2:
            raise GoneError

    start = time.monotonic()
    with pytest.raises(GoneError), Compiler(leave) as compiler:
        compiler.wait(Program("slow", slow, lambda: (VECTOR,)))
    assert time.monotonic() - start < 10
    assert compilation.busy()
    release.set()
    while compilation.busy():  # it would keep its program in the next test's cache
        time.sleep(0.01)


def test_a_job_of_a_context_that_was_left_is_dropped() -> None:
    """Otherwise a thread would wait forever, and Python would not end."""
    with Background(2, "jobs") as background:
        background.submit(lambda: None).result(5)
    assert background.submit(lambda: None).cancelled()
    assert background.join(5)


def test_jobs_raise_where_they_are_waited_for_and_threads_end() -> None:
    def fail() -> None:
        raise TimeoutError("the job's own")

    with Background(2, "jobs") as background:
        failing, fine = background.submit(fail), background.submit(lambda: 1)
        assert wait(fine, lambda: None) == 1
        with pytest.raises(TimeoutError, match="own"):
            wait(failing, lambda: None)
    assert background.join(5)
