"""JAX's settings that this library's programs rely on, whatever a program around them has set."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import jax

from noisydqn.errors import UserError

NEEDED = {
    "enable_x64": False,
    "numpy_dtype_promotion": "standard",
    "numpy_rank_promotion": "allow",
    "transfer_guard": "allow",
}
"""Settings by the name of JAX's context manager."""


@contextmanager
def own_settings() -> Generator[None]:
    """Run a block or a function under the settings that its arrays are made for.

    A program that computes in 64 bits, or that is strict about promotion or transfers, keeps its
    settings outside. They belong to a thread: what runs in another needs this there, too.

    Raises:
        UserError: JAX has no device that it may use.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            "JAX has no device of the kind that JAX_PLATFORMS names: unset it, or install JAX for "
            "that kind"
        ) from error
    with ExitStack() as stack:
        for name, needed in NEEDED.items():
            # Entering anything has JAX compile anew, so only what differs is entered.
            if str(getattr(jax.config, f"jax_{name}") or needed) != str(needed):
                stack.enter_context(getattr(jax, name)(needed))
        yield
