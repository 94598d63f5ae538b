"""Losses against literals worked out by hand."""

import jax
import jax.numpy as jnp
import pytest

from noisydqn.distributions import losses
from noisydqn.distributions.bootstrap import Greedy

Q_TM1 = jnp.array([1.0, 2.0, 3.0])
VALUE = jnp.array([10.0, 20.0, 30.0])
SELECTOR = jnp.array([0.0, 5.0, 1.0])


def error(a_tm1: int = 0, discount_t: float = 0.9, selector: jax.Array = SELECTOR) -> float:
    r_t, discount = jnp.float32(0.5), jnp.float32(discount_t)
    action = jnp.int32(a_tm1)
    return float(losses.td_error(Q_TM1, action, r_t, discount, VALUE, Greedy.of(selector)))


def test_double_q_selects_with_one_network_and_values_with_the_other() -> None:
    assert error() == pytest.approx(0.5 + 0.9 * 20 - 1)


def test_plain_q_learning() -> None:
    assert error(selector=VALUE) == pytest.approx(0.5 + 0.9 * 30 - 1)


def test_a_terminal_state_has_no_value() -> None:
    assert error(discount_t=0, a_tm1=2) == pytest.approx(0.5 - 3)


def test_only_the_estimate_has_a_gradient() -> None:
    def f(q_tm1: jax.Array, value: jax.Array, selector: jax.Array) -> jax.Array:
        r_t, discount_t, choice = jnp.float32(1), jnp.float32(0.9), Greedy.of(selector)
        return losses.td_error(q_tm1, jnp.int32(1), r_t, discount_t, value, choice)

    estimate, value, selector = jax.grad(f, argnums=(0, 1, 2))(Q_TM1, VALUE, SELECTOR)
    assert estimate.tolist() == [0, -1, 0]
    assert not value.any()
    assert not selector.any()


@pytest.mark.parametrize(
    ("x", "smooth", "square"), [(0.0, 0, 0), (0.5, 0.125, 0.125), (-1, 0.5, 0.5), (-3, 2.5, 4.5)]
)
def test_losses(x: float, smooth: float, square: float) -> None:
    assert float(losses.smooth_l1(jnp.float32(x))) == pytest.approx(smooth)
    assert float(losses.squared(jnp.float32(x))) == pytest.approx(square)


@pytest.mark.parametrize(("x", "slope"), [(0.0, 0), (0.5, 0.5), (3.0, 1), (-3.0, -1)])
def test_slope_of_smooth_l1(x: float, slope: float) -> None:
    assert float(jax.grad(losses.smooth_l1)(jnp.float32(x))) == slope
