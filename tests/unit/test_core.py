"""Learning as every runner does it, against updates made one after another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.probes import SMALL

from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.learner.agent import sample_update_noise
from noisydqn.learner.gradient import no_metrics
from noisydqn.runners.replay_core import ReplayCore, ReplayTraining
from noisydqn.types import TimeStep

pytestmark = pytest.mark.slow

SPEC = EnvironmentSpec(jax.ShapeDtypeStruct((3,), jnp.float32), 2, ("0", "1"))


def filled(core: ReplayCore) -> ReplayTraining:
    """A state with some steps in its replay buffer."""
    state = core.init(jax.random.key(0))
    step = jax.jit(lambda state, time_step, i: core.act(core.observe(state, time_step), i)[0])
    rng = np.random.default_rng(0)
    envs = core.acting.num_envs
    for i in range(12):
        nothing = np.zeros(envs, bool)
        observation = rng.normal(size=(envs, 3)).astype(np.float32)
        reward = rng.normal(size=envs).astype(np.float32)
        time_step = TimeStep(observation, reward, nothing, nothing, {})  # pyright: ignore[reportArgumentType]
        state = step(state, time_step, jnp.int32(i))
    return state


def test_the_return_scale_sees_the_rewards_that_are_stored() -> None:
    """Both are clipped."""
    core = ReplayCore.create(SMALL.replace(reward_clip=0.5, normalize_rewards=True).program, SPEC)
    state, envs = core.init(jax.random.key(0)), core.acting.num_envs
    step = jax.jit(lambda state, time_step, i: core.act(core.observe(state, time_step), i)[0])
    nothing, rewards = jnp.zeros(envs, jnp.bool_), [0.0, 100.0, -3.0, 0.25]
    for i, reward in enumerate(rewards):
        time_step = TimeStep(jnp.zeros((envs, 3)), jnp.full(envs, reward), nothing, nothing, {})
        state = step(state, time_step, jnp.int32(i))
    assert state.replay.rows.reward[:4].tolist() == [[x] * envs for x in (0.0, 0.5, -0.5, 0.25)]
    discount = core.replay.discount
    second = 0.5 * discount - 0.5
    expected = np.var([0.5, second, second * discount + 0.25])
    assert state.statistics.return_scale is not None
    assert float(state.statistics.return_scale.moments.rounded.variance) == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize(("scheduled", "number"), [(3, 3), (3, 2), (3, 0), (20, 20)])
def test_learning_is_updates_one_after_another(scheduled: int, number: int) -> None:
    """In bursts: batches and noise are sampled before, priorities set after the updates."""
    core = ReplayCore.create(
        SMALL.replace(updates_per_step=1.5 if scheduled == 3 else 10).program, SPEC
    )
    burst = 3 if scheduled == 3 else 8
    state = filled(core)
    learned, sums = jax.jit(core.learn)(state, jnp.int32(number), no_metrics())

    learner, replay = state.learner, state.replay
    _, learn_key = jax.random.split(learner.key)
    losses: list[float] = []
    update, sample = jax.jit(core.agent.update), jax.jit(core.replay.sample, static_argnums=2)
    for i in range(0, number, burst):
        sample_key, noise_key = jax.random.split(jax.random.fold_in(learn_key, i // burst))
        samples, noises = jax.random.split(sample_key, burst), jax.random.split(noise_key, burst)
        beta = 0.4 + 0.6 * learner.updates / core.exponents.updates
        in_burst = range(min(burst, number - i))
        batches = [sample(replay, samples[k], 4, beta) for k in in_burst]
        errors: list[jax.Array] = []
        for k in in_burst:
            noise = sample_update_noise(learner.online.tree, noises[k], 4)
            learner, error, metrics = update(learner, batches[k], noise)
            errors.append(error)
            losses.append(float(metrics["loss"]))
        indices = jnp.concatenate([batch.indices for batch in batches])
        replay = core.replay.set_priorities(
            replay, indices, jnp.concatenate(errors), jnp.float32(0.5)
        )
    assert int(learned.learner.updates) == number
    np.testing.assert_allclose(
        learned.learner.online.vector, learner.online.vector, rtol=1e-4, atol=1e-6
    )
    for ours, theirs in zip(learned.replay.tree, replay.tree, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert float(sums.tree["loss"]) == pytest.approx(sum(losses), rel=1e-4)


def test_acting_does_not_depend_on_how_many_updates_were_made() -> None:
    """Actor and learner have separate keys: random actions and noise stay the same."""
    core = ReplayCore.create(SMALL.replace(exploration="both", acting_noise="step").program, SPEC)
    state = filled(core)
    learn = jax.jit(core.learn)
    few, many = (learn(state, jnp.int32(n), no_metrics())[0] for n in (0, 5))
    noises: list[jax.Array] = []
    for learned in (few, many):
        acted, _ = core.act(learned, jnp.int32(24))
        noises.append(core.resample(acted, jnp.bool_(True)).actor.explorer.vector)
    np.testing.assert_array_equal(noises[0], noises[1])
    assert (noises[0] != state.actor.explorer.vector).any()


def test_learning_does_not_depend_on_how_often_the_noise_was_resampled() -> None:
    core = ReplayCore.create(SMALL.program, SPEC)
    state = filled(core)
    learn = jax.jit(core.learn)
    other = core.resample(core.resample(state, jnp.bool_(True)), jnp.bool_(True))
    one, two = (learn(s, jnp.int32(3), no_metrics())[0] for s in (state, other))
    np.testing.assert_array_equal(one.learner.online.vector, two.learner.online.vector)
