"""Updates and statistics of several devices against their twins on one.

To be run in a process with four devices, as `tests/unit/test_devices.py` does.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec
from tests.unit.test_agent import make_batch

from noisydqn.distributions import Distribution, Expected, ImplicitQuantile
from noisydqn.learner import sum_tree
from noisydqn.learner.agent import Agent, UpdateNoise, sample_update_noise
from noisydqn.learner.gradient import Descent
from noisydqn.learner.parallel import Minibatch, ParallelAgent
from noisydqn.learner.replay import Replay, ReplayState
from noisydqn.nets.network import QNetwork
from noisydqn.nets.noisy import sample_noise
from noisydqn.nets.torsos import Flatten
from noisydqn.preprocessing import normalize
from noisydqn.runners.probe import probe_data
from noisydqn.shards import AXIS, Shards
from noisydqn.types import Batch, Row

ACTIONS, FEATURES, BATCH = 3, 4, 16
SAME, DIVIDED = PartitionSpec(), PartitionSpec(AXIS)

pytestmark = pytest.mark.parametrize("number", [2, 4])


def over_devices(function: Callable[..., Any], number: int, *specs: Any, out: Any) -> Any:
    """Compile a function for several devices."""
    mesh = Mesh(np.array(jax.devices()[:number]), (AXIS,))
    return jax.jit(
        jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False)
    )


def network(distribution: Distribution) -> QNetwork:
    torso = Flatten(FEATURES)
    return QNetwork(torso, (5,), ACTIONS, distribution=distribution, key=jax.random.key(0))


def descent(number: int = 1) -> Descent:
    """Steps that are the gradient itself, with a penalty that is not of the batch."""
    return Descent(optax.sgd(1.0), sigma_penalty=0.1, sigma_rate=1.0, shards=Shards(number))


def assert_same(ours: Any, theirs: Any, tolerance: float = 1e-6) -> None:
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=tolerance)


@pytest.mark.parametrize("distribution", [Expected("squared"), ImplicitQuantile(8, 4)])
def test_the_gradient_of_a_batch(number: int, distribution: Distribution) -> None:
    """Of the same batch under the same noise; the steps of SGD are the gradient."""
    net, batch = network(distribution), make_batch(BATCH)

    def agent(number: int) -> Agent:
        return Agent(descent(number), True, None, target_period=1, target_rate=0.5)

    learner = agent(1).init(net, jax.random.key(0))
    noise = sample_update_noise(net, jax.random.key(7), BATCH)
    specs: Any = UpdateNoise
    divided = specs(SAME, SAME, SAME, DIVIDED)

    def update(learner: Any, batch: Batch, noise: UpdateNoise) -> Any:
        learner, error, metrics = agent(number).update(learner, batch, noise)
        return learner.online.vector, learner.target.vector, error, metrics

    of_all = over_devices(update, number, SAME, DIVIDED, divided, out=(SAME, SAME, DIVIDED, SAME))
    online, target, error, metrics = of_all(learner, batch, noise)
    expected, error_of_one, metrics_of_one = jax.jit(agent(1).update)(learner, batch, noise)
    assert float(jnp.max(jnp.abs(online - learner.online.vector))) > 1e-2
    assert_same(online - learner.online.vector, expected.online.vector - learner.online.vector)
    assert_same((target, error), (expected.target.vector, error_of_one))
    assert_same(metrics, metrics_of_one, 1e-5)


def test_the_gradient_of_a_minibatch_some_of_which_is_ignored(number: int) -> None:
    """The first device has none that counts: the mean is over those that count on all."""
    net = network(Expected("squared"))
    transitions = make_batch(BATCH).transitions
    batch = Minibatch(
        observation=transitions.s_tm1,
        action=transitions.a_tm1,
        target=transitions.r_t[:, None],
        weight=(jnp.arange(BATCH) >= BATCH // 2 + 1).astype(jnp.float32),
    )

    def agent(number: int) -> ParallelAgent:
        return ParallelAgent(descent(number), discount=0.9, return_lambda=0.5)

    learner = agent(1).init(net, jax.random.key(0))
    noise = sample_noise(net, jax.random.key(3))

    def update(learner: Any, batch: Minibatch) -> Any:
        learner, metrics = agent(number).update(learner, batch, noise, None)
        return learner.online.vector, metrics

    of_all = over_devices(update, number, SAME, DIVIDED, out=(SAME, SAME))
    online, metrics = of_all(learner, batch)
    expected, metrics_of_one = jax.jit(
        lambda learner, batch: agent(1).update(learner, batch, noise, None)
    )(learner, batch)
    assert_same(online - learner.online.vector, expected.online.vector - learner.online.vector)
    assert_same(metrics, metrics_of_one, 1e-5)


def test_noise_of_an_update_is_shared_and_queries_are_not(number: int) -> None:
    net, size = network(ImplicitQuantile(8, 4)), BATCH // number

    def sample(key: jax.Array) -> UpdateNoise:
        noise = sample_update_noise(net, key, size, shards=Shards(number))
        return jax.tree.map(lambda x: x[None], noise)

    of_all = over_devices(sample, number, SAME, out=DIVIDED)(jax.random.key(0))
    for x in jax.tree.leaves(of_all._replace(queries=None)):
        assert (x == x[:1]).all()
    assert not np.any(np.diff(of_all.queries.tm1, axis=0) == 0)


def test_running_statistics(number: int) -> None:
    """Of observations, some of which do not count, and of returns."""
    values = 1e3 + jax.random.normal(jax.random.key(0), (5, BATCH, FEATURES))
    counted = jax.random.bernoulli(jax.random.key(1), 0.7, (5, BATCH))
    rewards, first = values[:, :, 0], ~counted

    def run(shards: Shards, values: Any, counted: Any, rewards: Any, first: Any) -> Any:
        moments = normalize.init((FEATURES,))
        scale = normalize.init_return_scale(values.shape[1])
        for i in range(len(values)):
            moments = normalize.update(moments, values[i], counted[i], shards)
            scale = normalize.update_return_scale(scale, rewards[i], first[i], 0.9, shards)
        return moments.rounded, scale.discounted_return, scale.moments.rounded

    of_envs = PartitionSpec(None, AXIS)
    out = SAME, DIVIDED, SAME
    of_all = over_devices(lambda *x: run(Shards(number), *x), number, *[of_envs] * 4, out=out)(
        values, counted, rewards, first
    )
    of_one = jax.jit(lambda *x: run(Shards(), *x))(values, counted, rewards, first)
    for ours, theirs in zip(jax.tree.leaves(of_all), jax.tree.leaves(of_one), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    kept = np.asarray(values, np.float64)[np.asarray(counted)]
    np.testing.assert_allclose(of_all[0].mean, kept.mean(0), rtol=1e-6)
    np.testing.assert_allclose(of_all[0].variance, kept.var(0), rtol=1e-4)


def _buffers(number: int, *, prioritized: bool = True) -> tuple[Replay, ReplayState]:
    """A buffer on each device [number, ...], with other priorities on each."""
    replay = Replay(20, 2, 2, 0.9, prioritized, 1e-4, shards=Shards(number))
    row = Row(jnp.zeros(2), jnp.int32(0), jnp.float32(0), jnp.bool_(False), jnp.bool_(False))

    def fill(key: jax.Array) -> ReplayState:
        own = jax.random.fold_in(key, jax.lax.axis_index(AXIS))
        state = Replay(20, 2, 2, 0.9, prioritized, 1e-4).init(row)
        leaves = jnp.arange(16, dtype=jnp.int32)
        values = jax.random.uniform(own, (16,)) * (1 + 9.0 * jax.lax.axis_index(AXIS))
        return jax.tree.map(
            lambda x: x[None],
            state._replace(tree=sum_tree.put(state.tree, leaves, values), position=jnp.int32(9)),
        )

    return replay, over_devices(fill, number, SAME, out=DIVIDED)(jax.random.key(2))


def test_importance_weights(number: int) -> None:
    """Against the definition, (P_min / P)^beta, with the probabilities of the whole batch."""
    replay, states = _buffers(number)

    def sample(state: ReplayState, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        own = jax.random.fold_in(key, jax.lax.axis_index(AXIS))
        one = jax.tree.map(lambda x: x[0], state)
        batch = replay.sample(one, own, BATCH // number, jnp.float32(0.7))
        return batch.indices, batch.weights

    of_all = over_devices(sample, number, DIVIDED, SAME, out=DIVIDED)
    indices, weights = map(np.asarray, of_all(states, jax.random.key(4)))
    probabilities: list[float] = []
    for device, own in enumerate(indices.reshape(number, -1)):
        leaves = np.asarray(sum_tree.get(states.tree[device], jnp.arange(24)), np.float64)
        probabilities += [leaves[i] / leaves.sum() / number for i in own]
    expected = (min(probabilities) / np.array(probabilities)) ** 0.7
    np.testing.assert_allclose(weights, expected, rtol=1e-5)
    assert weights.max() == 1
    assert (weights.reshape(number, -1).max(1) == 1).sum() == 1  # of the batch, not of each share


def test_the_largest_priority_is_that_of_all_devices(number: int) -> None:
    replay, states = _buffers(number)

    def update(state: ReplayState, error: jax.Array) -> jax.Array:
        one = jax.tree.map(lambda x: x[0], state)
        indices = jnp.arange(len(error), dtype=jnp.int32)
        return replay.set_priorities(one, indices, error, jnp.float32(1)).max_priority[None]

    errors = jnp.arange(8.0)
    largest = over_devices(update, number, DIVIDED, DIVIDED, out=DIVIDED)(states, errors)
    np.testing.assert_allclose(largest, 7 + 1e-4)


def test_what_is_reported_of_the_data(number: int) -> None:
    """An element that is constant on each device may differ between them."""
    rewards = jnp.arange(64.0)
    observations = jnp.stack([jnp.ones(64), jnp.repeat(jnp.arange(number), 64 // number)], axis=1)
    observations = observations.astype(jnp.float32)

    def probe(rewards: Any, observations: Any) -> Any:
        rows = jnp.int32(len(rewards))
        return probe_data(rewards, observations, rows, Shards(number))

    of_all = over_devices(probe, number, DIVIDED, DIVIDED, out=SAME)(rewards, observations)
    expected = {"reward_min": 0.0, "reward_max": 63.0, "constant_observations": 1.0}
    assert {name: float(x) for name, x in of_all.items()} == expected
