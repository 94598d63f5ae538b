"""Return distributions: literals worked out by hand, and slow twins written after the papers."""

import math
import re
from collections.abc import Callable
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from noisydqn import UserError
from noisydqn.distributions import (
    DISTRIBUTIONS,
    Categorical,
    Distribution,
    Expected,
    ImplicitQuantile,
    Quantile,
    losses,
)
from noisydqn.distributions.base import Example
from noisydqn.distributions.bootstrap import Choice, Greedy, Munchausen, Soft
from noisydqn.distributions.implicit_quantile import COSINES, FractionEmbedding
from noisydqn.options import field_names

ACTIONS = 3
SUPPORT = jnp.linspace(-2.0, 2.0, 5)  # spacing 1

Numbers = list[float]


def numbers(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


# Projection


def looped_projection(atoms: Numbers, probabilities: Numbers, support: Numbers) -> Numbers:
    """Algorithm 1 of Bellemare et al. 2017, the inner part, atom by atom."""
    projected = [0.0] * len(support)
    spacing = (support[-1] - support[0]) / (len(support) - 1)
    for atom, probability in zip(atoms, probabilities, strict=True):
        place = (min(max(atom, support[0]), support[-1]) - support[0]) / spacing
        lower, upper = math.floor(place), math.ceil(place)
        if lower == upper:
            projected[lower] += probability
        else:
            projected[lower] += probability * (upper - place)
            projected[upper] += probability * (place - lower)
    return projected


@pytest.mark.parametrize(
    ("atoms", "expected"),
    [
        ([0.0, 1.0], [0, 0, 0.25, 0.75, 0]),  # on the support: as it is
        ([0.5, 0.5], [0, 0, 0.5, 0.5, 0]),  # between two atoms: shared
        ([-0.25, 1.75], [0, 0.0625, 0.1875, 0.1875, 0.5625]),
        ([-9.0, 9.0], [0.25, 0, 0, 0, 0.75]),  # beyond the ends: at the ends
    ],
)
def test_projection_by_hand(atoms: Numbers, expected: Numbers) -> None:
    projected = losses.project(jnp.array(atoms), jnp.array([0.25, 0.75]), SUPPORT)
    np.testing.assert_allclose(projected, expected, atol=1e-6)


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    reward=st.floats(-30, 30, width=32),
    discount=st.floats(0, 1, width=32),
    seed=st.integers(0, 1_000),
)
def test_projection_against_loops(reward: float, discount: float, seed: int) -> None:
    support = jnp.linspace(-10.0, 10.0, 51)
    atoms = jnp.float32(reward) + jnp.float32(discount) * support
    probabilities = jax.nn.softmax(3 * numbers(seed, 51))
    projected = losses.project(atoms, probabilities, support)
    looped = looped_projection(atoms.tolist(), probabilities.tolist(), support.tolist())
    np.testing.assert_allclose(projected, looped, atol=1e-5)
    assert float(jnp.sum(projected)) == pytest.approx(1, abs=1e-5)


def test_divergence_by_hand() -> None:
    logits = jnp.log(jnp.array([0.5, 0.25, 0.25]))
    target = jnp.array([0.5, 0.5, 0.0])  # an atom without probability counts nothing
    loss = losses.categorical_loss(logits, target)
    assert float(loss) == pytest.approx(0.5 * math.log(1) + 0.5 * math.log(2))
    gradient = jax.grad(losses.categorical_loss)(logits, target)
    np.testing.assert_allclose(gradient, [0, -0.25, 0.25], atol=1e-6)  # estimate minus target
    assert float(losses.categorical_loss(jnp.log(target + 1e-9), target)) == pytest.approx(0)


# Quantiles


def looped_quantile_loss(quantiles: Numbers, fractions: Numbers, targets: Numbers) -> float:
    """Equation 10 of Dabney et al. 2018a, equation 3 of 2018b, with kappa = 1."""
    total = 0.0
    for theta, tau in zip(quantiles, fractions, strict=True):
        for target in targets:
            u = target - theta
            huber = 0.5 * u * u if abs(u) <= 1 else abs(u) - 0.5
            total += abs(tau - (1 if u < 0 else 0)) * huber / len(targets)
    return total


def test_quantile_loss_by_hand() -> None:
    loss = losses.quantile_loss(jnp.array([0.0, 2.0]), jnp.array([0.25, 0.75]), jnp.array([0.5]))
    # 0.25 * (0.5^2 / 2) for the estimate below, (1 - 0.75) * (1.5 - 0.5) for the one above
    assert float(loss) == pytest.approx(0.25 * 0.125 + 0.25 * 1.0)


@pytest.mark.parametrize(("n", "m"), [(4, 4), (5, 3), (1, 7)])
def test_quantile_loss_against_loops(n: int, m: int) -> None:
    quantiles, targets = 2 * numbers(0, n), 2 * numbers(1, m)
    fractions = jax.random.uniform(jax.random.key(2), (n,))
    loss = losses.quantile_loss(quantiles, fractions, targets)
    looped = looped_quantile_loss(quantiles.tolist(), fractions.tolist(), targets.tolist())
    assert float(loss) == pytest.approx(looped, rel=1e-5)


def test_quantile_loss_is_least_at_the_quantiles() -> None:
    """The estimate for 3/4 of 0, 1, 2, 3 settles between 2 and 3."""
    targets, estimate = 100 * jnp.arange(4.0), jnp.array([0.0])
    slope = jax.grad(losses.quantile_loss)
    for place, sign in ((150.0, -1), (290.0, 0), (350.0, 1)):
        gradient = slope(estimate + place, jnp.array([0.75]), targets)[0]
        assert int(jnp.sign(jnp.round(gradient, 4))) == sign


# Whole distributions, with both kinds of choice


def looped_softmax(x: Numbers) -> Numbers:
    powers = [math.exp(value - max(x)) for value in x]
    return [power / sum(powers) for power in powers]


RULE = Munchausen(scale=0.9, temperature=0.5, minimum=-1.0)


def looped_choice(selector: Numbers, *, soft: bool) -> list[tuple[float, float]]:
    """The probability and the bonus of each action."""
    if not soft:
        best = selector.index(max(selector))
        return [(float(a == best), 0.0) for a in range(len(selector))]
    policy = looped_softmax([q / RULE.temperature for q in selector])
    return [(pi, -RULE.temperature * math.log(pi)) for pi in policy]


def looped_expected(example: Example, choice: list[tuple[float, float]]) -> float:
    r, discount = float(example.r_t), float(example.discount_t)
    target = r
    for (probability, bonus), q in zip(choice, example.outputs_t[:, 0].tolist(), strict=True):
        target += discount * probability * (q + bonus)
    return 0.5 * (target - float(example.outputs_tm1[example.a_tm1, 0])) ** 2


def looped_categorical(example: Example, choice: list[tuple[float, float]]) -> float:
    r, discount = float(example.r_t), float(example.discount_t)
    target = [0.0] * len(SUPPORT)
    for (probability, bonus), logits in zip(choice, example.outputs_t.tolist(), strict=True):
        atoms = [r + discount * (atom + bonus) for atom in SUPPORT.tolist()]
        part = looped_projection(atoms, looped_softmax(logits), SUPPORT.tolist())
        target = [t + probability * p for t, p in zip(target, part, strict=True)]
    estimate = looped_softmax(example.outputs_tm1[example.a_tm1].tolist())
    pairs = zip(target, estimate, strict=True)
    return sum(t * math.log(t / p) for t, p in pairs if t > 0)


def looped_quantile(example: Example, choice: list[tuple[float, float]]) -> float:
    r, discount = float(example.r_t), float(example.discount_t)
    columns = zip(*example.outputs_t.tolist(), strict=True)
    targets = [
        r + discount * sum(pi * (z + bonus) for (pi, bonus), z in zip(choice, column, strict=True))
        for column in columns
    ]
    estimates = example.outputs_tm1[example.a_tm1].tolist()
    fractions = (
        [(i + 0.5) / len(estimates) for i in range(len(estimates))]
        if example.query_tm1 is None
        else example.query_tm1.tolist()
    )
    return looped_quantile_loss(estimates, fractions, targets)


@pytest.mark.parametrize("soft", [False, True], ids=["greedy", "soft"])
@pytest.mark.parametrize(
    ("distribution", "sizes", "looped"),
    [
        (Expected("squared"), (1, 1), looped_expected),
        (Categorical(5, -2.0, 2.0), (5, 5), looped_categorical),
        (Quantile(4), (4, 4), looped_quantile),
        (ImplicitQuantile(4, 3), (4, 6), looped_quantile),
    ],
    ids=["expected", "categorical", "quantile", "implicit"],
)
def test_loss_against_loops(
    distribution: Distribution,
    sizes: tuple[int, int],
    looped: Callable[[Example, list[tuple[float, float]]], float],
    soft: bool,
) -> None:
    selector = numbers(3, ACTIONS)
    choice: Choice = RULE.choice(selector) if soft else Greedy.of(selector)
    implicit = isinstance(distribution, ImplicitQuantile)
    example = Example(
        outputs_tm1=numbers(0, ACTIONS, sizes[0]),
        query_tm1=jax.random.uniform(jax.random.key(1), (sizes[0],)) if implicit else None,
        a_tm1=jnp.int32(1),
        r_t=jnp.float32(0.3),
        discount_t=jnp.float32(0.7),
        outputs_t=numbers(2, ACTIONS, sizes[1]),
        choice=choice,
    )
    loss, error = distribution.loss_of(example)
    expected = looped(example, looped_choice(selector.tolist(), soft=soft))
    assert float(loss) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    if not isinstance(distribution, Expected):
        assert float(error) == float(loss)

    def of_target(outputs_t: jax.Array) -> jax.Array:
        return distribution.loss_of(example._replace(outputs_t=outputs_t)).loss

    assert not jax.grad(of_target)(example.outputs_t).any()  # targets have no gradient


def test_values_are_the_means() -> None:
    logits = jnp.log(jnp.array([[0.25, 0, 0.5, 0, 0.25], [0, 0, 0, 0.5, 0.5]]) + 1e-12)
    np.testing.assert_allclose(Categorical(5, -2.0, 2.0).values(logits), [0, 1.5], atol=1e-5)
    quantiles = jnp.array([[1.0, 3.0], [-1.0, 1.0]])
    assert Quantile(2).values(quantiles).tolist() == [2, 0]
    assert ImplicitQuantile(8, 2).values(quantiles).tolist() == [2, 0]
    assert Expected().values(quantiles[:, :1]).tolist() == [1, -1]


def test_queries_of_implicit_quantiles_are_fractions() -> None:
    distribution = ImplicitQuantile(8, 4)
    assert distribution.acting_query().tolist() == [0.125, 0.375, 0.625, 0.875]
    tm1, t = distribution.sample_queries(jax.random.key(0), 5)
    assert tm1.shape == t.shape == (5, 8)
    assert len(np.unique(np.stack([tm1, t]))) == 80  # none is shared
    assert float(jnp.min(tm1)) >= 0
    assert float(jnp.max(tm1)) < 1


def test_a_fractions_embedding() -> None:
    """Equation 4 of Dabney et al. 2018b, written out."""
    embedding = FractionEmbedding(6, 4, key=jax.random.key(0))
    weight, bias = embedding.linear.weight, embedding.linear.bias
    assert bias is not None
    expected = [
        max(sum(math.cos(math.pi * i * 0.3) * float(weight[j, i]) for i in range(6)) + b, 0)
        for j, b in enumerate(bias.tolist())
    ]
    np.testing.assert_allclose(embedding(jnp.float32(0.3)), expected, atol=1e-6)
    assert ImplicitQuantile().embedding(4, key=jax.random.key(0)).linear.in_features == COSINES


@pytest.mark.parametrize("name", ["expected", "categorical", "quantile"])
def test_distributions_without_queries(name: str) -> None:
    distribution, key = DISTRIBUTIONS[name](), jax.random.key(0)
    assert distribution.sample_queries(key, 5) is None
    assert distribution.acting_query() is None
    assert distribution.embedding(5, key=key) is None


# Options


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("expected", {"loss": "huber"}, "--loss must be one of smooth-l1, squared, got 'huber'"),
        ("categorical", {"atoms": 1}, "--atoms must be at least 2, got 1"),
        ("categorical", {"atoms": 5.5}, "--atoms must be a whole number, got 5.5"),
        ("categorical", {"v_max": math.inf}, "--v-max must be a number, got inf"),
        ("categorical", {"v_min": 12}, "--v-min 12.0 must be below --v-max 10.0"),
        ("quantile", {"quantiles": 0}, "--quantiles must be at least 1, got 0"),
        ("implicit-quantile", {"quantiles": 0}, "--quantiles must be at least 1, got 0"),
        ("implicit-quantile", {"acting_quantiles": 0}, "--acting-quantiles must be at least 1"),
    ],
)
def test_options_are_checked(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        DISTRIBUTIONS[name](**options)


def test_options_are_converted() -> None:
    assert Categorical(np.int64(11), -1, np.float32(2)) == Categorical(11, -1.0, 2.0)  # pyright: ignore[reportArgumentType]


def test_only_quantiles_is_the_name_of_two_options() -> None:
    """Or one with the same meaning: on the command line a name is one flag."""
    names = [name for kind in DISTRIBUTIONS.values() for name in field_names(kind)]
    assert {name for name in names if names.count(name) > 1} <= {"quantiles"}


# Munchausen targets


def test_munchausen_term_and_policy_by_hand() -> None:
    rule = Munchausen(scale=0.9, temperature=1.0, minimum=-1.0)
    q = jnp.log(jnp.array([0.5, 0.3, 0.2]))  # its policy
    r_t = jnp.float32(2)
    assert float(rule.reward(r_t, q, jnp.int32(0))) == pytest.approx(2 + 0.9 * math.log(0.5))
    assert float(rule.reward(r_t, q, jnp.int32(2))) == pytest.approx(2 - 0.9)  # bounded
    choice = rule.choice(q)
    np.testing.assert_allclose(choice.policy, [0.5, 0.3, 0.2], rtol=1e-6)
    np.testing.assert_allclose(choice.bonus, -q, rtol=1e-6)
    entropy = -sum(p * math.log(p) for p in (0.5, 0.3, 0.2))
    assert float(choice.expect(jnp.array([1.0, 2.0, 3.0]))) == pytest.approx(1.7 + entropy)


def test_a_cold_policy_is_greedy() -> None:
    """And finite, though the other actions' log-probabilities are hundreds."""
    rule = Munchausen(scale=0.9, temperature=1e-3, minimum=-1.0)
    q = jnp.array([1.0, 3.0, 2.0])
    assert float(rule.choice(q).expect(q)) == pytest.approx(3)
    assert float(rule.reward(jnp.float32(0), q, jnp.int32(1))) == pytest.approx(0, abs=1e-6)
    assert float(rule.reward(jnp.float32(0), q, jnp.int32(0))) == pytest.approx(-0.9)


def test_branches_are_what_is_expected() -> None:
    x, q = numbers(0, ACTIONS, 2), numbers(1, ACTIONS)
    choices: list[Choice] = [Greedy.of(q), Soft(jax.nn.softmax(q), numbers(2, ACTIONS))]
    for choice in choices:
        weights, rows, bonus = choice.branches(x)
        np.testing.assert_allclose(weights @ (rows + bonus[:, None]), choice.expect(x), rtol=1e-5)
        assert float(jnp.sum(weights)) == pytest.approx(1)
