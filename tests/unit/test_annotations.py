"""Annotations of shapes are checked while tests run, in every package of the numerics."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from noisydqn import masks
from noisydqn.distributions import losses
from noisydqn.learner import sum_tree
from noisydqn.nets.noisy import NoisyLinear
from noisydqn.preprocessing import frames
from noisydqn.types import TimeStep

ONE, TWO, THREE = jnp.zeros(()), jnp.zeros(2), jnp.zeros(3)

WRONG: dict[str, Callable[[], Any]] = {
    "distributions, a number of axes": lambda: losses.squared(TWO),
    "distributions, sizes that differ": lambda: losses.quantile_loss(TWO, THREE, TWO),
    "learner": lambda: sum_tree.get(sum_tree.init(4), jnp.zeros((2, 2), int)),
    "masks": lambda: masks.filled(ONE, TWO > 0),
    "nets": lambda: NoisyLinear(
        2, 3, noise="factorised", sigma_init=0.5, key=jax.random.key(0)
    ).noise_from_normals(jnp.zeros((2, 3))),
    "preprocessing": lambda: frames.start(ONE, 4),
    "types": lambda: TimeStep(ONE, ONE, jnp.int32(0), jnp.int32(1), {}).last,
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_shape_or_type_is_refused(name: str) -> None:
    with pytest.raises(TypeCheckError):
        WRONG[name]()
    with pytest.raises(TypeCheckError):
        jax.jit(WRONG[name])()
