"""Settings of all tests: programs are compiled soon, and shared by the processes that run them."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

from tests import annotations

# Before JAX is imported, and for the commands that tests start. Tests compile for longer than they
# run; code that is hardly optimized is there in a quarter of the time.
FAST = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", FAST)
os.environ.setdefault("NOISYDQN_CACHE", str(Path(__file__).parent.parent / "build" / "test-cache"))
# Tests run side by side: PyTorch's threads would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts the tests in the background lets them ignore Ctrl-C, which tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Shapes and types in annotations are checked while tests run, in the packages below. The hook has
# to be there before any of them is imported; `tests/unit/test_annotations.py` proves that it is.
install_import_hook(
    [
        "noisydqn.distributions",
        "noisydqn.learner",
        "noisydqn.masks",
        "noisydqn.nets",
        "noisydqn.preprocessing",
        "noisydqn.types",
    ],
    f"{annotations.__name__}.{annotations.check.__name__}",
)


@pytest.fixture(scope="module")
def fast_compiler() -> Iterator[None]:
    """Compile sooner what runs for a moment."""
    import jax

    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
