"""What a process does that is an actor, whoever started it."""

import contextlib
import os
import pickle
import traceback
from pathlib import Path
from typing import Any

import jax
from gymnasium.vector.utils import CloudpickleWrapper

from noisydqn.cores import usable_cores
from noisydqn.envs.notices import Notices
from noisydqn.errors import EnvironmentFailedError, UserError, in_one_line
from noisydqn.program_cache import program_cache
from noisydqn.runners.actors.actor import Actor
from noisydqn.runners.actors.messages import Failed, Order, Ready, Segment, Setup, Stand
from noisydqn.settings import own_settings


def packed(setup: Setup, stand: Stand) -> bytes:
    """Pickle what an actor is made of, functions of the user's included.

    Raises:
        UserError: the environment cannot be sent to another process.
    """
    setup = setup._replace(env=setup.env.with_notices(Notices(None)))
    try:
        return pickle.dumps(_wrapped((setup, stand)))
    except Exception as error:
        raise UserError(
            f"the environment cannot be sent to an actor ({in_one_line(error)}): give a function "
            "of a module that makes it, or leave out --actors"
        ) from error


def use_one_thread() -> None:
    """Let JAX compute on the CPU, in one thread.

    The bits then do not depend on how many cores there are, and actors do not compete for all. JAX
    counts the cores that it may use when it starts. Afterwards every thread may use all cores, or
    the threads of JAX would compute on the first core, in every actor of the machine.
    """
    jax.config.update("jax_platforms", "cpu")
    cores = usable_cores()
    with contextlib.suppress(OSError, AttributeError):  # where the system cannot do that
        os.sched_setaffinity(0, cores[:1])
        jax.devices()
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores)


_wrapped: Any = CloudpickleWrapper  # whose annotations know functions alone


class Serving:
    """An actor that answers with values, also where something raises.

    Args:
        made_of: from `packed`.
    """

    def __init__(self, made_of: bytes) -> None:
        self._context = contextlib.ExitStack()
        self._actor: Actor | None = None
        self.first = self._answered(self._make, made_of)

    def _make(self, made_of: bytes) -> Ready:
        lines: list[str] = []
        setup, stand = _unpacked(made_of)
        setup.env.tell_notices(lines.append)
        self._context.enter_context(own_settings())
        self._context.enter_context(program_cache(setup.cache, lines.append))
        self._actor = Actor(setup, stand)
        ready = self._actor.ready
        return ready._replace(notices=[*lines, *ready.notices])

    def play(self, order: Order) -> Segment | Failed:
        """Play a segment."""
        return self._answered(self._play, order)

    def _play(self, order: Order) -> Segment:
        assert self._actor is not None  # noqa: S101 - an actor that failed gets no orders
        return self._actor.play(order)

    @staticmethod
    def _answered(function: Any, *args: Any) -> Any:
        """Call a function; an error that another actor would meet, too, becomes an answer."""
        try:
            return function(*args)
        except EnvironmentFailedError as error:
            return Failed(f"{error.line}\n{error.traceback}".rstrip())
        except UserError as error:
            return Failed(error.line)
        except Exception as error:
            return Failed(f"an actor raised {in_one_line(error)}\n{traceback.format_exc()}")

    def close(self) -> None:
        """Close the environments."""
        if self._actor is not None:
            self._actor.close()
        self._context.close()


def _unpacked(made_of: bytes) -> tuple[Setup, Stand]:
    try:
        return pickle.loads(made_of).fn  # noqa: S301 - from the process that learns
    except Exception as error:
        raise UserError(
            f"the environment cannot be imported by an actor ({in_one_line(error)}): install its "
            "module where actors run"
        ) from error
