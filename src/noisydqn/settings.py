"""The settings of JAX that this library relies on, whatever the surrounding program has set."""

import os
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import jax

from noisydqn.cores import usable_cores
from noisydqn.errors import UserError

NEEDED = {
    "enable_x64": False,
    "numpy_dtype_promotion": "standard",
    "numpy_rank_promotion": "allow",
    "transfer_guard": "allow",
}
"""Settings, by the name of JAX's context manager."""

_forks: list[int] = []
"""This process, if it was forked from one in which JAX had started."""


def _note_fork() -> None:
    bridge = sys.modules.get("jax._src.xla_bridge")
    if getattr(bridge, "backends_are_initialized", bool)():
        _forks[:] = [os.getpid()]


os.register_at_fork(after_in_child=_note_fork)


def dispatch_for_cores() -> None:
    """Run programs in the thread that calls them, if this process may use a single core.

    JAX hands them to another thread, so that the caller can do something else. With one core that
    only costs the switch: a tenth of a step of a small network. For processes of this library's own
    commands, as it concerns all programs. It has no effect once JAX has started.
    """
    if len(usable_cores()) == 1:
        jax.config.update("jax_cpu_enable_async_dispatch", False)


@contextmanager
def own_settings() -> Generator[None]:
    """Run a block or a function under the settings that its arrays need.

    A surrounding program may compute in 64 bits or be strict about promotion or transfers; its
    settings return afterwards. Settings belong to a thread, so every thread must enter this.

    Raises:
        UserError: JAX has no device that it may use, or its threads were lost in a fork.
    """
    if _forks:
        raise UserError(
            "this process was forked from one in which JAX had started, and JAX would hang in it: "
            "start it by multiprocessing's method 'spawn'"
        )
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            "JAX has no device of the kind that JAX_PLATFORMS names: unset it, or install JAX for "
            "that kind"
        ) from error
    with ExitStack() as stack:
        for name, needed in NEEDED.items():
            # Entering any setting makes JAX compile again, so only those that differ are entered.
            if str(getattr(jax.config, f"jax_{name}") or needed) != str(needed):
                stack.enter_context(getattr(jax, name)(needed))
        yield
