"""Parts of the runner with actors: shares of a replay buffer, first priorities, histories."""

import dataclasses
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.host_envs import CountingHostEnv
from tests.hosts import make
from tests.probes import SMALL

from noisydqn.envs.history import History
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.learner import sum_tree
from noisydqn.learner.agent import UpdateNoise
from noisydqn.learner.replay import Replay, ReplayState
from noisydqn.runners.actors.acting import actor_programs, of_one_environment, start_acting
from noisydqn.runners.actors.messages import Segment, Stand
from noisydqn.runners.actors.modes import merged
from noisydqn.runners.build import make_agent
from noisydqn.runners.state import raw_keys
from noisydqn.trees import Flat
from noisydqn.types import Batch, Row, TimeStep, Transition

SPEC = EnvironmentSpec(jax.ShapeDtypeStruct((3,), jnp.float32), 2, ("0", "1"))
LOCKSTEP = Replay(
    capacity=24,
    num_envs=4,
    n_step=2,
    discount=0.9,
    prioritized=True,
    priority_offset=0.0,
)
SHARED = dataclasses.replace(LOCKSTEP, lockstep=False)
ALPHA = jnp.float32(0.5)


def row(t: int, envs: range) -> Row:
    """A row that tells when and where it was written; episodes end at different times."""
    number = jnp.asarray([t * 10.0 + i for i in envs], jnp.float32)
    last = jnp.asarray([(t + i) % 4 == 3 for i in envs])
    return Row(number[:, None], number.astype(jnp.int32), number, last, last)


def leaves(replay: Replay, state: ReplayState) -> np.ndarray:
    size = replay.slots * replay.num_envs
    return np.asarray(sum_tree.get(state.tree, jnp.arange(size))).reshape(-1, replay.num_envs)


def test_shares_that_keep_step_are_one_buffer() -> None:
    """Also after the ring has gone round."""
    whole = LOCKSTEP.init(jax.tree.map(lambda x: x[0], row(0, range(1))))
    shares = SHARED.init(jax.tree.map(lambda x: x[0], row(0, range(1))))
    for t in range(20):
        whole = LOCKSTEP.add(whole, row(t, range(4)), ALPHA)
        for first in (2, 0):
            share = row(t, range(first, first + 2))
            shares = SHARED.add_share(shares, share, jnp.int32(first), ALPHA)
        jax.tree.map(np.testing.assert_array_equal, whole.rows, shares.rows)
        np.testing.assert_array_equal(leaves(LOCKSTEP, whole), leaves(SHARED, shares))
        env, back = jnp.arange(4), jnp.zeros(4, jnp.int32)
        expected = LOCKSTEP.newest(whole, env, back).tolist()
        assert SHARED.newest(shares, env, back).tolist() == expected
    extended = SHARED.extend(
        SHARED.init(jax.tree.map(lambda x: x[0], row(0, range(1)))),
        jax.tree.map(lambda *x: jnp.stack(x), *(row(t, range(4)) for t in range(20))),
    )
    jax.tree.map(np.testing.assert_array_equal, whole.rows, extended.rows)


def test_a_share_may_be_ahead_of_the_others() -> None:
    """Each is a buffer by itself."""
    alone = dataclasses.replace(LOCKSTEP, num_envs=2, capacity=12)
    one = alone.init(jax.tree.map(lambda x: x[0], row(0, range(1))))
    shares = SHARED.init(jax.tree.map(lambda x: x[0], row(0, range(1))))
    for t in range(9):
        one = alone.add(one, row(t, range(2)), ALPHA)
        shares = SHARED.add_share(shares, row(t, range(2)), jnp.int32(0), ALPHA)
        if t % 3 == 0:
            late = row(t // 3, range(2, 4))
            shares = SHARED.add_share(shares, late, jnp.int32(2), ALPHA)
    np.testing.assert_array_equal(leaves(alone, one), leaves(SHARED, shares)[:, :2])
    assert shares.position.tolist() == [3, 3, 3, 3]
    assert shares.rows.reward[:, 2].tolist() == [2.0, 12.0, 22.0, 0.0, 0.0, 0.0]


def test_errors_set_first_priorities() -> None:
    """Where they are known; else the largest priority seen does."""
    state = SHARED.init(jax.tree.map(lambda x: x[0], row(0, range(1))))
    state = state._replace(max_priority=jnp.float32(9))
    for t in range(3):
        errors = jnp.asarray([[0.0, jnp.nan], [4.0, jnp.nan]])
        state = SHARED.add_share(state, row(t, range(2)), jnp.int32(0), ALPHA, errors)
    # Row 0 of the first environment is complete with row 2; the second one's episode ends there.
    assert leaves(SHARED, state)[:3, :2].tolist() == [[2.0, 3.0], [0.0, 3.0], [0.0, 0.0]]


def test_no_transition_crosses_a_new_start() -> None:
    state = SHARED.init(jax.tree.map(lambda x: x[0], row(0, range(1))))
    for t in range(3):
        state = SHARED.add_share(state, row(t, range(2)), jnp.int32(0), ALPHA)
    before = leaves(SHARED, state)
    state = SHARED.end_share(state, jnp.int32(0), 2)
    for t in range(2):
        state = SHARED.add_share(state, row(t, range(2)), jnp.int32(0), ALPHA)
    after = leaves(SHARED, state)
    np.testing.assert_array_equal(after[:3], before[:3])
    assert (before[0, 0], after[1, 0], after[2, 0], after[3, 0]) == (1, 0, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("distribution", ["expected", "quantile", "implicit-quantile"])
def test_an_actor_judges_what_it_did(distribution: str) -> None:
    """By the loss of each transition of up to n steps, without noise, one after the other."""
    config = SMALL.replace(distribution=distribution, reward_clip=1.0, noise="factorised")
    options, share, steps, n = config.program, 2, 5, config.learner.n_step  # pyright: ignore[reportAttributeAccessIssue]
    acting = of_one_environment(options, SPEC)
    policy = acting.make_policy(jax.random.key(1))
    states = start_acting(acting, policy, jax.random.key(2), share)
    rng = np.random.default_rng(0)
    last = np.array([[0, 0, 1, 0, 0], [0, 0, 0, 0, 0]], bool).T
    time_steps: Any = TimeStep(
        rng.normal(size=(steps, share, 3)).astype(np.float32),  # pyright: ignore[reportArgumentType]
        (3 * rng.normal(size=(steps, share))).astype(np.float32),  # pyright: ignore[reportArgumentType]
        last,  # pyright: ignore[reportArgumentType]
        np.zeros_like(last),  # pyright: ignore[reportArgumentType]
        {},
    )
    actions = rng.integers(0, 2, (steps, share)).astype(np.int32)
    programs = actor_programs(options, SPEC, share, steps)
    network = programs.network(np.asarray(Flat.of(policy.network).vector))
    given = (time_steps, actions, network, None, np.float32(0.5), raw_keys(states))
    assert programs.judge is not None
    found = np.asarray(programs.judge(*given))
    assert np.isnan(found[-1]).all()
    for env in range(share):
        queries = policy.network.distribution.sample_queries(states.key[env], steps)
        for begin in (i for i in range(steps - 1) if not last[i, env]):
            ends = [i for i in range(begin + 1, steps) if last[i, env]]
            end = min([begin + n, steps - 1, *ends])
            rewards = np.clip(time_steps.reward[begin + 1 : end + 1, env], -1, 1)
            discount = config.learning.discount ** np.arange(len(rewards) + 1)
            transition = Transition(
                s_tm1=time_steps.observation[begin, env],
                a_tm1=actions[begin, env],
                r_t=np.float32(0.5 * np.sum(discount[:-1] * rewards)),  # pyright: ignore[reportArgumentType]
                discount_t=np.float32(0 if last[end, env] else discount[-1]),  # pyright: ignore[reportArgumentType]
                s_t=time_steps.observation[end, env],
            )
            batch = Batch(
                jax.tree.map(lambda x: jnp.asarray(x)[None], transition),
                jnp.zeros(1, jnp.int32),
                jnp.ones(1),
            )
            own = jax.tree.map(lambda x, i=begin: x[i : i + 1], queries)
            noise = UpdateNoise(None, None, None, own)
            (_, error), _ = make_agent(options).losses(policy.network, policy.network, batch, noise)
            assert found[begin, env] == pytest.approx(float(error[0]), rel=1e-4, abs=1e-6)


def test_a_part_of_a_vector_starts_as_in_the_whole() -> None:
    env = make(CountingHostEnv)
    whole, part = env.vector(5), env.vector(2)
    for vector in (whole, part):
        vector.remember()
    whole.reset(7)
    part.reset(7, 3)
    seeds = [vector._backend._seeds for vector in (whole, part)]  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
    assert seeds[0][3:] == seeds[1]


def test_the_history_of_a_share() -> None:
    """It is what the share alone would have recorded."""
    whole, share = History(3, 1), History(2, 1)
    rng = np.random.default_rng(0)
    for i in range(40):
        actions, reward = rng.integers(0, 2, 3), rng.normal(size=3)
        last = (i + np.array([0, 2, 5])) % np.array([4, 7, 30]) == 0
        whole.record(actions, reward, last, whole.starts())
        share.record(actions[:2], reward[:2], last[:2], share.starts())
        found, expected = whole.save().of_share(slice(0, 2)), share.save()
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_segments_are_joined_in_the_order_of_environments() -> None:
    def segment(number: int) -> Segment:
        values: Any = np.full((2, 1), number)
        time_steps = TimeStep(values, values, values, values, {})
        newest = jax.tree.map(lambda x: x[0], time_steps)
        stats = {1: {"success": np.ones(1)}} if number == 1 else {0: {"x": np.zeros(1)}}
        stand = Stand([np.full((1, 1), number)], newest, None)
        metrics = {"factor": np.array([number])}
        return Segment(0, 3, 4, time_steps, values, None, stats, stand, metrics, float(number))

    found = merged([segment(1), segment(2)])
    assert found.actions.tolist() == [[1, 2], [1, 2]]
    assert np.asarray(found.reached.reward).tolist() == [[1, 2], [1, 2]]
    assert found.stand.acting[0].tolist() == [[1], [2]]
    assert found.exploration["factor"].tolist() == [1, 2]
    assert found.errors is None
    assert (found.share, found.seconds) == (2, 2.0)
    np.testing.assert_array_equal(found.stats[0]["x"], [np.nan, 0.0])
    np.testing.assert_array_equal(found.stats[1]["success"], [1.0, np.nan])


def test_an_actor_computes_in_one_thread_on_any_core() -> None:
    """The thread is not bound to the first core, where those of all actors would meet."""
    program = (
        "import os, jax\n"
        "from pathlib import Path\n"
        "from noisydqn.runners.actors.serving import use_one_thread\n"
        "before = os.sched_getaffinity(0)\n"
        "use_one_thread()\n"
        "threads = [int(thread.name) for thread in Path('/proc/self/task').iterdir()]\n"
        "names = [Path(f'/proc/self/task/{x}/comm').read_text() for x in threads]\n"
        "everywhere = all(os.sched_getaffinity(thread) == before for thread in threads)\n"
        "print(sum('Eigen' in name for name in names), everywhere)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    assert done.stdout.split() == ["1", "True"]
