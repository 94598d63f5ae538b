"""Lambda returns of every distribution against slow, obvious twins."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisydqn.distributions import (
    DISTRIBUTIONS,
    Categorical,
    Distribution,
    Expected,
    HLGauss,
    ImplicitQuantile,
    Quantile,
)
from noisydqn.distributions.base import Example
from noisydqn.distributions.bootstrap import Greedy
from noisydqn.distributions.lambda_returns import Steps, lambda_returns

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)
SMALL: dict[str, Distribution] = {
    "expected": Expected(loss="squared"),
    "categorical": Categorical(11, -4.0, 4.0),
    "quantile": Quantile(6),
    "implicit-quantile": ImplicitQuantile(6, 5),
    "hl-gauss": HLGauss(11, -4.0, 4.0),
}
EACH = pytest.mark.parametrize("distribution", SMALL.values(), ids=SMALL)


def test_every_distribution_is_tested() -> None:
    assert SMALL.keys() == DISTRIBUTIONS.keys()


def mixture_of_n_step_returns(steps: Steps, lambda_: float) -> np.ndarray:
    """The definition: (1 - lambda) sum_n lambda^(n-1) G^(n), the last one with what is left."""
    number = len(steps.r_t)
    targets: list[float] = []
    for t in range(number):
        total, weight, summed, discount = 0.0, 1.0, 0.0, 1.0
        for k in range(t, number):
            summed += discount * float(steps.r_t[k])
            discount *= float(steps.discount_t[k])
            n_step_return = summed + discount * float(steps.bootstrap[k, 0])
            if bool(steps.last[k]) or k == number - 1:
                total += weight * n_step_return
                break
            total += weight * (1 - lambda_) * n_step_return
            weight *= lambda_
        targets.append(total)
    return np.array(targets)


def random_steps(seed: int, number: int, width: int = 1) -> Steps:
    random = np.random.default_rng(seed)
    last = random.random(number) < 0.3
    terminated = last & (random.random(number) < 0.5)
    return Steps(
        r_t=jnp.asarray(random.normal(size=number), jnp.float32),
        discount_t=jnp.asarray(0.9 * (1 - terminated), jnp.float32),
        last=jnp.asarray(last),
        bootstrap=jnp.asarray(random.normal(size=(number, width)), jnp.float32),
    )


@given(st.integers(0, 1000), st.integers(1, 9), st.sampled_from([0.0, 0.65, 1.0]))
@settings(max_examples=40, deadline=None)
def test_expected_returns_are_mixtures_of_n_step_returns(
    seed: int, number: int, lambda_: float
) -> None:
    steps = random_steps(seed, number)
    got = lambda_returns(Expected(), steps, lambda_, KEY)[:, 0]
    np.testing.assert_allclose(got, mixture_of_n_step_returns(steps, lambda_), rtol=1e-4, atol=1e-5)


def test_a_worked_example() -> None:
    """Three steps, the second truncated: its return is its own reward and the value after it."""
    steps = Steps(
        r_t=jnp.array([1.0, 2.0, 4.0]),
        discount_t=jnp.array([0.5, 0.5, 0.0]),
        last=jnp.array([False, True, True]),
        bootstrap=jnp.array([[10.0], [20.0], [30.0]]),
    )
    got = lambda_returns(Expected(), steps, 0.5, KEY)[:, 0]
    truncated = 2 + 0.5 * 20
    np.testing.assert_allclose(got, [1 + 0.5 * (0.5 * truncated + 0.5 * 10), truncated, 4])


def test_categorical_returns_are_mixtures_of_probabilities() -> None:
    """Against a loop that moves each atom's probability by hand."""
    distribution = Categorical(11, -4.0, 4.0)
    random, number, atoms = np.random.default_rng(1), 6, 11
    steps = random_steps(2, number)
    bootstrap = random.dirichlet(np.ones(atoms), size=number).astype(np.float32)
    got = lambda_returns(distribution, steps._replace(bootstrap=jnp.asarray(bootstrap)), 0.65, KEY)
    support = np.linspace(-4, 4, atoms)
    following = bootstrap[-1]
    for t in reversed(range(number)):
        mixed = bootstrap[t] if steps.last[t] else 0.65 * following + 0.35 * bootstrap[t]
        moved = np.zeros(atoms)
        for atom, probability in zip(support, mixed, strict=True):
            place = np.clip(float(steps.r_t[t]) + float(steps.discount_t[t]) * atom, -4, 4)
            low = min(int((place + 4) / 0.8), atoms - 2)
            share = (place - support[low]) / 0.8
            moved[low] += probability * (1 - share)
            moved[low + 1] += probability * share
        following = moved
        np.testing.assert_allclose(got[t], moved, atol=1e-5)


def test_quantile_returns_are_samples_of_the_mixture() -> None:
    """Their distribution over keys is that of the mixture, not of averaged quantiles."""
    distribution = Quantile(4)
    values = jnp.array([[0.0, 1.0, 2.0, 3.0], [100.0, 101.0, 102.0, 103.0]])
    no = jnp.zeros(2, jnp.bool_)
    steps = Steps(jnp.zeros(2), jnp.ones(2), no, values)
    keys = jax.random.split(KEY, 4_000)
    first = jax.vmap(lambda key: lambda_returns(distribution, steps, 0.65, key)[0])(keys)
    of_second = np.asarray(first) >= 100
    np.testing.assert_allclose(of_second.mean(0), 0.65, atol=0.03)
    assert set(np.unique(first)) == set(np.asarray(values).ravel().tolist())
    together = np.asarray(np.corrcoef(of_second.T))[np.triu_indices(4, 1)]
    np.testing.assert_allclose(together, 0, atol=0.06)  # each is chosen by itself


@EACH
def test_lambda_0_is_the_one_step_target(distribution: Distribution) -> None:
    """By the loss that the replay learner takes of the same transition."""
    random = np.random.default_rng(3)
    width = 5 if distribution.acting_query() is not None else distribution.num_outputs
    outputs, outputs_t = (jnp.asarray(random.normal(size=(3, width)), jnp.float32) for _ in "12")
    query: Any = None
    if distribution.acting_query() is not None:
        query = jnp.asarray(random.random(width), jnp.float32)
    steps = Steps(
        r_t=jnp.array([0.7]),
        discount_t=jnp.array([0.9]),
        last=jnp.array([False]),
        bootstrap=distribution.greedy_return(outputs_t)[None],
    )
    target = lambda_returns(distribution, steps, 0.0, KEY)[0]
    action = jnp.int32(1)
    choice = Greedy.of(distribution.values(outputs_t))
    example = Example(outputs, query, action, steps.r_t[0], steps.discount_t[0], outputs_t, choice)
    got = distribution.loss_to(outputs, query, action, target)
    np.testing.assert_allclose(got, distribution.loss_of(example), rtol=1e-4, atol=1e-6)


@EACH
def test_the_target_has_no_gradient(distribution: Distribution) -> None:
    width = 5 if distribution.acting_query() is not None else distribution.num_outputs
    query = None if distribution.acting_query() is None else jnp.full(width, 0.5)
    outputs = jnp.ones((3, width))

    def loss(target: jax.Array) -> jax.Array:
        return distribution.loss_to(outputs, query, jnp.int32(0), target).loss

    target = distribution.greedy_return(jnp.full((3, width), 0.3))
    np.testing.assert_array_equal(jax.grad(loss)(target), jnp.zeros_like(target))
