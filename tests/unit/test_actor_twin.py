"""A run with actors against a slow, obvious twin: one environment and one step at a time."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests import inline_actors
from tests.inline_actors import InlineActors
from tests.runs import tiny

import noisydqn
from noisydqn import Config
from noisydqn.envs.registry import make_environment
from noisydqn.learner.gradient import no_metrics
from noisydqn.learner.policy import Policy
from noisydqn.runners.actors.acting import of_one_environment, start_acting
from noisydqn.runners.exploration import Greedy
from noisydqn.runners.replay_core import ReplayCore
from noisydqn.runs.keys import seed_keys
from noisydqn.types import TimeStep

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = tiny(
    num_envs=2,
    steps=256,
    chunk_steps=64,
    actor_steps=8,
    evaluation_every=0,
    evaluation_episodes=1,
    replay="uniform",
    acting_noise="step",
)


def twin(config: Config, lag: int) -> np.ndarray:
    """Train; returns the final weights."""
    env: Any = make_environment(config.environment)
    options, num_envs = config.program, config.runner.num_envs
    core = ReplayCore.create(options, env.spec)
    core = dataclasses.replace(core, acting=dataclasses.replace(core.acting, explorer=Greedy()))
    keys = jax.random.split(seed_keys(config.run.seed).training, 3)
    state = core.init(keys[1])
    acting = of_one_environment(options, env.spec)
    policy = core.acting.policy(state)
    together = start_acting(acting, policy, keys[2], num_envs)
    actors = [jax.tree.map(lambda x, i=i: x[i], together) for i in range(num_envs)]
    vectors = [env.vector(1) for _ in actors]
    newest = [x.reset(int(jax.random.bits(keys[0])), i) for i, x in enumerate(vectors)]

    @jax.jit
    def act(actor: Any, time_step: TimeStep, policy: Policy, step: Any) -> Any:
        actor = acting.see(actor, time_step)
        actor = acting.resample_for(policy.network, actor, step > 0)  # at every step
        return acting.choose_by(policy, actor, step)

    @jax.jit
    def store(state: Any, time_step: TimeStep, actions: Any) -> Any:
        state = core.observe(state, time_step)
        replay = core.replay.add(state.replay, core.row(state.actor, actions), jnp.float32(1))
        return state._replace(replay=replay)

    learn = jax.jit(core.learn)
    versions, step, updates = [policy], 0, 0
    for segment in range(config.total_steps // (8 * num_envs)):
        weights = versions[max(segment - lag, 0)]
        steps: list[tuple[TimeStep, np.ndarray, int]] = []
        for i in range(8):
            seen, taken = jax.tree.map(lambda *x: np.concatenate(x), *newest), list[Any]()
            for j, vector in enumerate(vectors):
                now = jnp.int32(step + i * num_envs)
                actors[j], action = act(actors[j], newest[j], weights, now)
                taken.append(np.asarray(action))
                newest[j] = jax.tree.map(np.array, vector.step(taken[-1]))
            ended = sum(int(x.last.sum()) for x in newest)
            steps.append((seen, np.concatenate(taken), ended))
        for seen, actions, ended in steps:
            state = store(state, seen, actions)
            scheduled = core.schedule.scheduled(step, ended)
            due = core.schedule.due(scheduled, step, updates)
            state, _ = learn(state, jnp.int32(due), no_metrics())
            step, updates = step + num_envs, updates + due
        if step % config.runner.chunk_steps == 0:  # a look at the noise takes a key
            state, _ = jax.jit(core.probe)(state)
        versions.append(jax.tree.map(jnp.array, core.acting.policy(state)))
    return np.asarray(state.learner.online.vector)


@pytest.mark.parametrize(
    ("lag", "more"), [(1, {}), (3, {"normalize_observations": "running", "n_step": 2})]
)
def test_a_run_is_its_twin(
    lag: int, more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = SMALL | more | {"actors": 2, "actor_lag": lag}
    inline_actors.use(monkeypatch, InlineActors())
    result = noisydqn.train(env="CartPole-v1", out=tmp_path / "run", **options)
    del options["quiet"]
    config = noisydqn.PRESETS["cartpole"].replace(**options)
    expected = twin(config, lag)
    found = noisydqn.load_policy(result.folder, "final")
    leaves = jax.tree.leaves(found.network)
    weights = np.concatenate([np.ravel(x) for x in leaves])
    # XLA compiles the twin's calls by themselves, and so rounds a few sums in another order.
    np.testing.assert_allclose(weights, expected, atol=1e-5)
