"""Action masks: the arithmetic, beside slow obvious twins."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.probes import SMALL

from noisydqn import Config
from noisydqn.distributions import DISTRIBUTIONS
from noisydqn.distributions.base import Distribution, Example
from noisydqn.distributions.bootstrap import Greedy, Munchausen
from noisydqn.envs.encoding import numbered
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.learner.parallel import greedy_return
from noisydqn.learner.replay import Replay
from noisydqn.masks import filled, made_valid, masked, mean_of_valid, opened
from noisydqn.nets.network import QNetwork
from noisydqn.nets.torsos import Flatten
from noisydqn.runners.replay_core import ReplayCore
from noisydqn.types import Row, TimeStep

RNG = np.random.default_rng(0)
MASK = np.array([True, False, True, False, True])
ACTIONS = len(MASK)
DISTRIBUTION_OPTIONS: dict[str, dict[str, Any]] = {
    "expected": {},
    "categorical": {"atoms": 5, "v_min": -2.0, "v_max": 2.0},
    "quantile": {"quantiles": 4},
    "implicit-quantile": {"quantiles": 3, "acting_quantiles": 4},
    "hl-gauss": {"bins": 5, "v_min": -2.0, "v_max": 2.0},
}
ALL: list[Distribution] = [DISTRIBUTIONS[x](**y) for x, y in DISTRIBUTION_OPTIONS.items()]


def test_the_helpers_do_what_a_loop_does() -> None:
    q = jnp.asarray(RNG.normal(size=(3, ACTIONS)), jnp.float32)
    masks = jnp.asarray(np.stack([MASK, ~MASK, np.ones(ACTIONS, bool)]))
    for row, mask, hidden, full in zip(q, masks, masked(q, masks), filled(q, masks), strict=True):
        valid = [float(x) for x, fits in zip(row, mask, strict=True) if fits]
        mean = sum(valid) / len(valid)
        for i in range(ACTIONS):
            assert float(hidden[i]) == (float(row[i]) if mask[i] else -np.inf)
            assert float(full[i]) == pytest.approx(float(row[i]) if mask[i] else mean, rel=1e-5)
        assert float(mean_of_valid(row, mask)) == pytest.approx(mean, rel=1e-5, abs=1e-6)
    np.testing.assert_array_equal(masked(q, None), q)
    np.testing.assert_array_equal(filled(q, None), q)
    none = jnp.zeros((1, ACTIONS), jnp.bool_)
    np.testing.assert_array_equal(opened(jnp.concatenate([masks, none])), [*masks, ~none[0]])


def test_uniform_actions_become_uniform_valid_ones() -> None:
    number = 6_000
    keys = jax.random.split(jax.random.key(0))
    actions = jax.random.randint(keys[0], (number,), 0, ACTIONS)
    valid = made_valid(actions, jnp.broadcast_to(jnp.asarray(MASK), (number, ACTIONS)), keys[1])
    kept = MASK[np.asarray(actions)]
    np.testing.assert_array_equal(np.asarray(valid)[kept], np.asarray(actions)[kept])
    counts = np.bincount(np.asarray(valid), minlength=ACTIONS)
    assert (counts[~MASK] == 0).all()
    assert np.abs(counts[MASK] / number - 1 / 3).max() < 0.03  # five standard deviations


@pytest.mark.parametrize("distribution", ALL, ids=DISTRIBUTION_OPTIONS)
@pytest.mark.parametrize("streams", [(), (6,)])
def test_the_dueling_mean_is_that_of_the_valid_actions(
    distribution: Distribution, streams: tuple[int, ...]
) -> None:
    """Twin: outputs of a network that has only the valid actions."""

    whole = QNetwork(
        Flatten(4),
        (8,),
        ACTIONS,
        distribution=distribution,
        dueling_hidden=streams,
        noisy=False,
        key=jax.random.key(1),
    )

    def head(network: QNetwork) -> Any:
        layer: Any = network.advantage
        return layer.weight, layer.bias

    rows = np.repeat(MASK, distribution.num_outputs)
    few = eqx.tree_at(head, whole, [x[rows] for x in head(whole)])
    x = jnp.asarray(RNG.normal(size=4), jnp.float32)
    query = distribution.acting_query()
    ours = whole.outputs(whole.features(x), None, query, jnp.asarray(MASK))
    theirs = few.outputs(few.features(x), None, query)
    np.testing.assert_allclose(ours[MASK], theirs, rtol=1e-5, atol=1e-6)
    q = np.asarray(whole(x, None, jnp.asarray(MASK)))
    np.testing.assert_allclose(q[MASK], few(x, None), rtol=1e-5, atol=1e-6)
    assert (q[~MASK] == -np.inf).all()
    free = np.asarray(whole.outputs(whole.features(x), None, query))
    assert np.abs(free[MASK] - np.asarray(theirs)).max() > 1e-3  # the mask matters


def example(distribution: Distribution, outputs: np.ndarray, choice: Any) -> Example:
    n = outputs.shape[-1]
    query = None if distribution.acting_query() is None else jnp.linspace(0.1, 0.9, n)
    state = jnp.broadcast_to(jnp.linspace(-1, 1, n), outputs.shape)
    numbers = jnp.int32(1), jnp.float32(0.3), jnp.float32(0.9)
    return Example(state, query, *numbers, jnp.asarray(outputs), choice)


@pytest.mark.parametrize("distribution", ALL, ids=DISTRIBUTION_OPTIONS)
@pytest.mark.parametrize("munchausen", [None, Munchausen(0.9, 0.5, -1.0)], ids=["greedy", "soft"])
def test_targets_ignore_invalid_actions(
    distribution: Distribution, munchausen: Munchausen | None
) -> None:
    """Twin: the target where only the valid actions exist."""
    number = max(distribution.num_outputs, 4 if distribution.acting_query() is not None else 1)
    outputs = RNG.normal(size=(ACTIONS, number)).astype(np.float32)
    outputs[~MASK] += 50.0  # tempting
    q = distribution.values(jnp.asarray(outputs))
    hidden, mask = masked(q, jnp.asarray(MASK)), jnp.asarray(MASK)
    if munchausen is None:
        ours, theirs = Greedy.of(hidden), Greedy.of(q[MASK])
    else:
        ours, theirs = munchausen.choice(hidden, mask), munchausen.choice(q[MASK])
    loss = distribution.loss_of(example(distribution, outputs, ours))
    alone = distribution.loss_of(example(distribution, outputs[MASK], theirs))
    np.testing.assert_allclose(loss, alone, rtol=1e-4, atol=1e-5)
    if munchausen is not None:
        term = munchausen.reward(jnp.float32(0), hidden, jnp.int32(2))
        alone_term = munchausen.reward(jnp.float32(0), q[MASK], jnp.int32(1))
        np.testing.assert_allclose(term, alone_term, rtol=1e-5)


@pytest.mark.parametrize("distribution", ALL, ids=DISTRIBUTION_OPTIONS)
def test_the_greedy_return_is_that_of_a_valid_action(distribution: Distribution) -> None:
    number = max(distribution.num_outputs, 4 if distribution.acting_query() is not None else 1)
    outputs = jnp.asarray(RNG.normal(size=(ACTIONS, number)), jnp.float32)
    outputs = outputs.at[1].add(50.0)  # an invalid one
    ours = greedy_return(distribution, (ACTIONS,), outputs, jnp.asarray(MASK))
    np.testing.assert_allclose(ours, distribution.greedy_return(outputs[MASK]), rtol=1e-6)
    everything = greedy_return(distribution, (ACTIONS,), outputs, None)
    np.testing.assert_array_equal(everything, distribution.greedy_return(outputs))


def test_a_transition_has_the_masks_of_its_two_states() -> None:
    """Twin: state i shows i, and its mask is i + 1 in bits; the episode ends in state 3."""
    replay = Replay(8, 1, 2, 0.9, prioritized=False, priority_offset=0.0)

    def row(i: int) -> Row:
        flags = jnp.asarray([i == 3])
        numbers = jnp.zeros(1, jnp.int32), jnp.zeros(1)
        return Row(jnp.full((1, 1), float(i)), *numbers, flags, flags, action_mask=bits(i)[None])

    def bits(i: int) -> jax.Array:
        return (i + 1) >> jnp.arange(ACTIONS) & 1 > 0

    state = replay.init(jax.tree.map(lambda x: x[0], row(0)))
    assert state.rows.action_mask is not None
    assert bool(state.rows.action_mask.all())  # of rows that nothing was written to
    for i in range(6):
        state = replay.add(state, row(i), jnp.float32(1))
    found = replay.transitions(state.rows, jnp.arange(3))
    assert found.s_t[:, 0].tolist() == [2, 3, 3]
    np.testing.assert_array_equal(found.mask_tm1, [bits(i) for i in (0, 1, 2)])
    np.testing.assert_array_equal(found.mask_t, [bits(i) for i in (2, 3, 3)])


def spec(*, masked: bool) -> EnvironmentSpec:
    seen = jax.ShapeDtypeStruct((3,), jnp.float32)
    return EnvironmentSpec(seen, ACTIONS, numbered(ACTIONS), masked=masked)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"exploration": "epsilon-greedy", "epsilon": 1.0},
        {"exploration": "both", "epsilon": 0.5},
        {"exploration": "greedy"},
        {"exploration": "boltzmann", "temperature": 5.0},
        {"random_steps": 1_000},
        {"exploration": "python:tests.explorers.Stubborn"},
        {"noise_goal": 0.5},
    ],
    ids=str,
)
def test_no_explorer_takes_an_invalid_action(options: dict[str, Any]) -> None:
    config: Config = SMALL.replace(num_envs=64, **options)
    core = ReplayCore.create(config.program, spec(masked=True))
    envs = core.acting.num_envs
    masks = RNG.random((envs, ACTIONS)) < 0.3
    masks[np.arange(envs), RNG.integers(ACTIONS, size=envs)] = True
    nothing = jnp.zeros(envs, jnp.bool_)
    seen = jnp.asarray(RNG.normal(size=(envs, 3)), jnp.float32)
    time_step = TimeStep(seen, jnp.zeros(envs), nothing, nothing, {}, jnp.asarray(masks))

    @jax.jit
    def acted(key: jax.Array) -> jax.Array:
        state = core.observe(core.init(key), time_step)
        return core.act(state, jnp.int32(10))[1]

    actions = np.concatenate([acted(jax.random.key(i)) for i in range(3)])
    rows = np.tile(np.arange(envs), 3)
    assert masks[rows, actions].all()


def test_without_masks_nothing_is_stored_or_computed_for_them() -> None:
    core = ReplayCore.create(SMALL.program, spec(masked=False))
    state = jax.eval_shape(core.init, jax.random.key(0))
    assert state.replay.rows.action_mask is None
    assert state.actor.time_step.action_mask is None
    of_masked = ReplayCore.create(SMALL.program, spec(masked=True))
    rows = jax.eval_shape(of_masked.init, jax.random.key(0)).replay.rows
    envs = core.acting.num_envs
    assert rows.action_mask.shape == (core.replay.slots, envs, ACTIONS)
    assert rows.action_mask.dtype == jnp.bool_
