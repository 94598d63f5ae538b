"""Actions of several dimensions: the arithmetic, beside twins that list every joint action."""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noisydqn.dimensions import by_dimension, end_to_end, existing, firsts, places
from noisydqn.distributions import DISTRIBUTIONS, joint
from noisydqn.distributions.base import Distribution, Example
from noisydqn.distributions.bootstrap import Greedy, Munchausen
from noisydqn.distributions.lambda_returns import Steps, lambda_returns
from noisydqn.learner import lens
from noisydqn.learner.agent import reported_values
from noisydqn.learner.parallel import greedy_return
from noisydqn.masks import made_valid
from noisydqn.nets.network import QNetwork
from noisydqn.nets.noisy import sample_noise
from noisydqn.nets.prior import Prior
from noisydqn.nets.torsos import Flatten
from noisydqn.runners.exploration import Boltzmann, EpsilonGreedy, RandomFirst

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
SIZES = 3, 2, 4
TOTAL = sum(SIZES)
JOINT = list(itertools.product(*map(range, SIZES)))
"""Every joint action."""

OPTIONS: dict[str, dict[str, Any]] = {
    "expected": {},
    "quantile": {"quantiles": 4},
    "implicit-quantile": {"quantiles": 4, "acting_quantiles": 4},
}
ALL: list[Distribution] = [DISTRIBUTIONS[x](**y) for x, y in OPTIONS.items()]
every_distribution = pytest.mark.parametrize("distribution", ALL, ids=OPTIONS)


def some_outputs(distribution: Distribution, number: int = TOTAL) -> jax.Array:
    width = 4 if distribution.acting_query() is not None else distribution.num_outputs
    return jnp.asarray(RNG.normal(size=(number, width)), jnp.float32)


def listed(outputs: jax.Array) -> jax.Array:
    """The outputs of every joint action, [24, n]: of a choice in each dimension."""
    starts = np.cumsum((0, *SIZES))
    return jnp.stack(
        [sum(outputs[starts[d] + a] for d, a in enumerate(action)) / len(SIZES) for action in JOINT]
    )


@pytest.mark.parametrize("sizes", [(5,), (3, 3), (3, 2, 4), (1, 6), (1, 1)], ids=str)
def test_arrangements_agree_with_a_loop(sizes: tuple[int, ...]) -> None:
    values = RNG.normal(size=(2, sum(sizes))).astype(np.float32)
    arranged = np.asarray(by_dimension(jnp.asarray(values), sizes))
    np.testing.assert_array_equal(end_to_end(arranged, sizes), values)
    np.testing.assert_array_equal(end_to_end(jnp.asarray(arranged), sizes), values)
    if len(sizes) == 1:
        assert arranged.shape == values.shape
        assert int(places(jnp.int32(3), sizes)) == 3
        assert existing(sizes) is None
        return
    exists = existing(sizes)
    start = 0
    for d, size in enumerate(sizes):
        np.testing.assert_array_equal(arranged[:, d, :size], values[:, start : start + size])
        assert (arranged[:, d, size:] == -np.inf).all()
        assert exists is None or exists[d].sum() == size
        start += size
    assert arranged.shape == (2, len(sizes), max(sizes))
    best = np.argmax(arranged, axis=-1)
    chosen = np.take_along_axis(values, places(best, sizes), axis=1)
    np.testing.assert_array_equal(chosen, arranged.max(axis=-1))
    assert firsts(sizes)[0] == 0


@every_distribution
def test_the_best_choices_make_the_best_joint_action(distribution: Distribution) -> None:
    """Twin: the values of all joint actions, each the mean of its choices' values."""
    outputs = some_outputs(distribution)
    q = joint.values_of(distribution, SIZES, outputs)
    values = distribution.values(listed(outputs))
    means = [np.mean([q[d, a] for d, a in enumerate(action)]) for action in JOINT]
    np.testing.assert_allclose(values, means, rtol=1e-4, atol=1e-5)
    assert JOINT[int(np.argmax(values))] == tuple(np.argmax(q, axis=-1))
    greedy = greedy_return(distribution, SIZES, outputs, None)
    everything = greedy_return(distribution, (len(JOINT),), listed(outputs), None)
    np.testing.assert_allclose(greedy, everything, rtol=1e-4, atol=1e-5)


def as_example(distribution: Distribution, outputs: tuple[jax.Array, jax.Array]) -> Example:
    query = None if distribution.acting_query() is None else jnp.linspace(0.1, 0.9, 4)
    numbers = jnp.float32(0.3), jnp.float32(0.9)
    nothing = jnp.int32(0)
    return Example(outputs[0], query, nothing, *numbers, outputs[1], Greedy(nothing))


@every_distribution
@pytest.mark.parametrize("soft", [False, True], ids=["greedy", "munchausen"])
def test_losses_are_those_of_a_list_of_joint_actions(
    distribution: Distribution, *, soft: bool
) -> None:
    """Twin: the same losses and gradients, with every joint action as an action of its own."""
    outputs = some_outputs(distribution), some_outputs(distribution)
    selector = some_outputs(distribution)
    rule, number = Munchausen(0.9, 0.5, -5.0), 17

    def ours(outputs_tm1: jax.Array) -> jax.Array:
        example = as_example(distribution, (outputs_tm1, outputs[1]))
        q, q_tm1 = (
            joint.values_of(distribution, SIZES, x) for x in (selector, jnp.flip(selector, 0))
        )
        action = jnp.array(JOINT[number])
        reward = rule.reward(example.r_t, q_tm1, action) if soft else example.r_t
        choice = rule.choice(q) if soft else Greedy.of(q)
        example = example._replace(a_tm1=action, r_t=reward, choice=choice)
        return distribution.loss_of(joint.of_example(SIZES, example)).loss

    def twin(outputs_tm1: jax.Array) -> jax.Array:
        all_joint = listed(outputs_tm1), listed(outputs[1])
        example = as_example(distribution, all_joint)
        q, q_tm1 = (distribution.values(listed(x)) for x in (selector, jnp.flip(selector, 0)))
        reward = rule.reward(example.r_t, q_tm1, jnp.int32(number)) if soft else example.r_t
        choice = rule.choice(q) if soft else Greedy.of(q)
        example = example._replace(a_tm1=jnp.int32(number), r_t=reward, choice=choice)
        return distribution.loss_of(example).loss

    (loss, gradient), (expected, wanted) = (jax.value_and_grad(f)(outputs[0]) for f in (ours, twin))
    assert float(loss) == pytest.approx(float(expected), rel=1e-4, abs=1e-5)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-3, atol=1e-5)
    assert np.abs(gradient).max() > 1e-3


@every_distribution
def test_lambda_returns_take_joint_actions(distribution: Distribution) -> None:
    outputs = [some_outputs(distribution) for _ in range(3)]
    tables = [listed(x) for x in outputs]
    pairs = [
        jnp.stack([greedy_return(distribution, SIZES, x, None) for x in outputs]),
        jnp.stack([greedy_return(distribution, (len(JOINT),), x, None) for x in tables]),
    ]
    numbers = jnp.ones(3), jnp.full(3, 0.9), jnp.zeros(3, bool)
    ours, theirs = (
        lambda_returns(distribution, Steps(*numbers, bootstrap), 0.5, KEY) for bootstrap in pairs
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@every_distribution
def test_one_dimension_is_left_as_it_is(distribution: Distribution) -> None:
    outputs = some_outputs(distribution)
    example = as_example(distribution, (outputs, outputs))
    assert joint.of_example((TOTAL,), example) is example
    same, row = joint.of_action((TOTAL,), outputs, jnp.int32(2))
    assert same is outputs
    assert int(row) == 2


def network(sizes: int | tuple[int, ...], **options: Any) -> QNetwork:
    return QNetwork(Flatten(4), (8,), sizes, key=jax.random.key(1), **options)


@every_distribution
@pytest.mark.parametrize("streams", [(), (6,)])
def test_the_dueling_mean_is_that_of_each_dimension(
    distribution: Distribution, streams: tuple[int, ...]
) -> None:
    """Twin: a network for each dimension, with its part of the advantages' layer."""
    options: dict[str, Any] = {"distribution": distribution, "dueling_hidden": streams}
    whole = network(SIZES, noisy=False, **options)
    x = jnp.asarray(RNG.normal(size=4), jnp.float32)
    query = distribution.acting_query()
    ours = np.asarray(whole.outputs(whole.features(x), None, query))
    start = 0

    def head(network: QNetwork) -> Any:
        layer: Any = network.advantage
        return layer.weight, layer.bias

    for size in SIZES:
        rows = slice(start * distribution.num_outputs, (start + size) * distribution.num_outputs)
        alone = eqx.tree_at(head, whole, [x[rows] for x in head(whole)])
        object.__setattr__(alone, "sizes", (size,))
        theirs = alone.outputs(alone.features(x), None, query)
        np.testing.assert_allclose(ours[start : start + size], theirs, rtol=1e-4, atol=1e-5)
        start += size
    assert start == len(ours)


@pytest.mark.parametrize("noise", ["factorised", "independent", "indexed"])
def test_networks_of_one_dimension_are_the_same(noise: Any) -> None:
    one, other = network(5, noise=noise), network((5,), noise=noise)
    assert eqx.tree_equal(one, other)
    x, sample = jnp.ones(4), sample_noise(network(SIZES, noise=noise), KEY)
    q = network(SIZES, noise=noise)(x, sample)
    assert q.shape == (3, 4)
    assert np.isfinite(q).sum() == TOTAL
    assert one(x, None).shape == (5,)


def test_a_prior_of_joint_actions_has_the_scale_given() -> None:
    from noisydqn.nets.build import make_network
    from noisydqn.nets.options import NetworkOptions

    options = NetworkOptions(noise="indexed", prior_scale=2.0, hidden=(8,), torso="flat")
    seen = jax.ShapeDtypeStruct((4,), np.dtype(np.float32))
    scales: list[float] = []
    for sizes in (9, (3, 3, 3)):
        made = make_network(options, seen, seen, sizes, ALL[0], noisy=True, key=KEY)
        assert isinstance(made.prior, Prior)
        scales.append(made.prior.scale)
    assert scales == [2.0, pytest.approx(2.0 * np.sqrt(3))]


def test_reported_values_are_those_of_all_joint_actions() -> None:
    made = network(SIZES)
    outputs = jnp.asarray(RNG.normal(size=(2, TOTAL, 1)), jnp.float32)
    reported = np.asarray(reported_values(made, outputs, None))
    for values, row in zip(reported, outputs, strict=True):
        everything = ALL[0].values(listed(row))
        of = np.min, np.mean, np.max
        np.testing.assert_allclose([f(values) for f in of], [f(everything) for f in of], rtol=1e-4)


def test_the_lens_averages_over_dimensions() -> None:
    q = by_dimension(jnp.asarray(RNG.normal(size=(8, 5, TOTAL)), jnp.float32), SIZES)
    mean_q = jnp.mean(q, axis=0)
    changes, gaps, entropies = [], [], []
    for d, size in enumerate(SIZES):
        part, mean_part = q[:, :, d, :size], mean_q[:, d, :size]
        changes.append(float(lens.action_change(part, mean_part)))
        gaps.append(float(lens.action_gap(mean_part)))
        entropies.append(float(lens.action_entropy(part)))
    assert float(lens.action_change(q, mean_q)) == pytest.approx(np.mean(changes), rel=1e-5)
    assert float(lens.action_gap(mean_q)) == pytest.approx(np.mean(gaps), rel=1e-5)
    assert float(lens.action_entropy(q)) == pytest.approx(np.mean(entropies), rel=1e-5)
    spread = np.std(np.asarray(end_to_end(q, SIZES)), axis=0, ddof=1).mean()
    assert float(lens.q_spread(q)) == pytest.approx(float(spread), rel=1e-5)


def test_random_choices_are_uniform_in_every_dimension() -> None:
    envs = 6_000
    q = by_dimension(jnp.zeros((envs, TOTAL)), SIZES)
    exists = existing(SIZES)
    assert exists is not None
    explorers = (
        EpsilonGreedy(epsilon=1.0),
        RandomFirst(EpsilonGreedy(epsilon=0.0, epsilon_final=0.0), 10),
        Boltzmann(),
    )
    known: Any = lambda *_: q  # noqa: E731
    for explorer in explorers:
        actions, _ = explorer.act((), known, q, jnp.int32(0), KEY)
        assert actions.shape == (envs, 3)
        valid = made_valid(actions, jnp.broadcast_to(exists, q.shape), jax.random.key(1))
        for d, size in enumerate(SIZES):
            shares = np.bincount(np.asarray(valid)[:, d], minlength=size) / envs
            assert shares.shape == (size,)
            assert np.abs(shares - 1 / size).max() < 0.035  # five standard deviations
    first: Any = lambda *_: q.at[:, :, 0].set(1.0)  # noqa: E731
    half = EpsilonGreedy(epsilon=0.5, epsilon_final=0.5)
    greedy, _ = half.act((), first, q, jnp.int32(0), KEY)
    random = np.asarray(greedy) != 0  # of dimensions of 4 choices, some do not exist
    assert not (random.all(axis=1) | ~random.any(axis=1)).all()  # each dimension by itself
