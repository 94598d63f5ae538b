"""The core that learns from a replay buffer: store each step, sample batches, update.

The learner's part is `learner/agent.py`, the replay buffer's `learner/replay.py`.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from noisydqn.compilation import Runs
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.learner.agent import Agent, UpdateNoise, sample_update_noise
from noisydqn.learner.gradient import Metrics
from noisydqn.learner.options import ReplayOptions
from noisydqn.learner.replay import Replay, ReplayState
from noisydqn.learner.sum_tree import SumTree
from noisydqn.nets.network import QNetwork
from noisydqn.runners import build
from noisydqn.runners.acting import Acting
from noisydqn.runners.options import ProgramOptions
from noisydqn.runners.probe import (
    MOST_ROWS,
    PROBE_OBSERVATIONS,
    Probe,
    of_all,
    probe_data,
    probe_noise,
)
from noisydqn.runners.schedule import PriorityExponents, UpdateSchedule
from noisydqn.runners.state import ActorState, Statistics
from noisydqn.shards import ONE, Shards
from noisydqn.trees import LARGE, Flat
from noisydqn.types import LearnerState, Row, TimeStep, Transition

PERTURBATION = 2**31 - 1
"""What the actor's key is folded with for the random vectors of transitions."""


class ReplayTraining(NamedTuple):
    """Everything a run needs to resume, except its environments."""

    actor: ActorState
    learner: LearnerState
    replay: ReplayState
    statistics: Statistics


class Learning(NamedTuple):
    """What the loop of updates carries: the learner, the priorities of its replay, the metrics."""

    learner: LearnerState
    tree: SumTree
    max_priority: Float[Array, ""]
    sums: Flat[Metrics]  # of all updates


@dataclasses.dataclass(frozen=True)
class ReplayCore:
    """The steps of training from a replay buffer."""

    acting: Acting
    agent: Agent
    replay: Replay
    batch_size: int
    index_dim: int
    schedule: UpdateSchedule
    exponents: PriorityExponents

    runs: ClassVar[Runs] = "often"
    """Updates take most of the time."""

    @staticmethod
    def create(
        options: ProgramOptions[ReplayOptions], spec: EnvironmentSpec, shards: Shards = ONE
    ) -> "ReplayCore":
        """Make the core of a program for environments with an interface."""
        return ReplayCore(
            acting=Acting.create(options, spec, shards),
            agent=build.make_agent(options, shards),
            replay=build.make_replay(options, shards),
            batch_size=shards.part(options.learner.batch_size),
            index_dim=options.network.index_dim,
            schedule=UpdateSchedule.create(options),
            exponents=PriorityExponents.create(options),
        )

    def init(self, key: PRNGKeyArray) -> ReplayTraining:
        """Make the state before the first time step: as if an episode had ended everywhere."""
        learner_key, policy_key, explorer_key, actor_key = jax.random.split(key, 4)
        policy = self.acting.make_policy(policy_key)
        actor, statistics = self.acting.init(policy, actor_key, explorer_key)
        row = self.row(actor, self.acting.spec.blank_actions(self.acting.num_envs))
        return ReplayTraining(
            actor=actor,
            learner=self.agent.init(policy.network, learner_key),
            replay=self.replay.init(jax.tree.map(lambda x: x[0], row)),
            statistics=statistics,
        )

    def with_network(self, state: ReplayTraining, network: QNetwork) -> ReplayTraining:
        """Replace the weights of both networks before the first step."""
        flat, learner = Flat.of(network, LARGE).arrays, state.learner
        learner = learner._replace(  # copies, as each may be donated
            online=learner.online.with_arrays(jax.tree.map(jnp.array, flat)),
            target=learner.target.with_arrays(jax.tree.map(jnp.array, flat)),
        )
        return state._replace(learner=learner)

    def rows(self, state: ReplayTraining) -> Row:
        """Return the rows of the replay buffer, which checkpoints store separately."""
        return state.replay.rows

    def with_rows(self, state: ReplayTraining, rows: Row | None) -> ReplayTraining:
        """Replace the rows of the replay buffer."""
        return state._replace(replay=state.replay._replace(rows=rows))

    def observe(self, state: ReplayTraining, time_step: TimeStep) -> ReplayTraining:
        """Take in what the environments show next."""
        return self.acting.observe(state, time_step)

    def act(
        self, state: ReplayTraining, step: Int[Array, ""]
    ) -> tuple[ReplayTraining, Int[Array, " envs *d"]]:
        """Choose the actions [envs] and store the step.

        `step` counts environment steps before this one.
        """
        state, actions = self.acting.choose(state, step)
        alpha, _ = self.exponents.after(state.learner.updates)
        # The reward is that of the step that led to this observation, by the action in the row
        # before. So a time step is stored only now, a step after it was returned.
        row = self.row(state.actor, actions)
        return state._replace(replay=self.replay.add(state.replay, row, alpha)), actions

    def resample(self, state: ReplayTraining, updated: Bool[Array, ""]) -> ReplayTraining:
        """Let the explorer resample its noise."""
        return self.acting.resample(state, updated)

    def learn(
        self, state: ReplayTraining, number: Int[Array, ""], sums: Flat[Metrics]
    ) -> tuple[ReplayTraining, Flat[Metrics]]:
        """Make some updates, each on its own batch; `sums` adds up their metrics."""
        key, learn_key = jax.random.split(state.learner.key)
        most = self.schedule.burst

        def burst(i: Int[Array, ""], learning: Learning) -> Learning:
            in_burst = jnp.minimum(number - i * most, most)
            return self._learn_burst(state, jax.random.fold_in(learn_key, i), in_burst, learning)

        learning = Learning(state.learner, state.replay.tree, state.replay.max_priority, sums)
        learning = jax.lax.fori_loop(0, (number + most - 1) // most, burst, learning)
        replay = state.replay._replace(tree=learning.tree, max_priority=learning.max_priority)
        learner = learning.learner._replace(key=key)
        return state._replace(learner=learner, replay=replay), learning.sums

    def _learn_burst(
        self, state: ReplayTraining, key: PRNGKeyArray, number: Int[Array, ""], learning: Learning
    ) -> Learning:
        """Make the first `number` of a burst's updates.

        All batches and all noise are sampled before the first update, and priorities are set after
        the last: one large operation each instead of many small ones. It also lets XLA set the
        priorities in place, as everything that reads the tree then comes before.
        """
        sample_key, noise_key = jax.random.split(key)
        shards, most, size = self.acting.shards, self.schedule.burst, self.batch_size
        replay = state.replay._replace(tree=learning.tree, max_priority=learning.max_priority)
        alpha, beta = self.exponents.after(learning.learner.updates)
        batches = jax.vmap(lambda key: self.replay.sample(replay, key, size, beta))(
            jax.random.split(shards.own_key(sample_key), most)
        )
        network, rule = learning.learner.online.tree, self.agent.noise
        noises = jax.vmap(
            lambda key: Flat.of(sample_update_noise(network, key, size, rule, shards))
        )(jax.random.split(noise_key, most))

        def noise_of(i: Int[Array, ""] | int) -> Flat[UpdateNoise]:
            return noises.with_vector(noises.vector[jnp.minimum(i, most - 1)])

        def update(
            i: Int[Array, ""], carry: tuple[LearnerState, Flat[UpdateNoise], Array, Flat[Metrics]]
        ) -> tuple[LearnerState, Flat[UpdateNoise], Array, Flat[Metrics]]:
            learner, noise, errors, sums = carry
            batch = jax.tree.map(lambda x: x[i], batches)
            batch = batch._replace(transitions=self._prepare(state, batch.transitions))
            learner, error, metrics = self.agent.update(learner, batch, noise.tree)
            sums = jax.tree.map(jnp.add, sums, Flat.of(metrics))
            # Carried to the next, so that XLA takes it out of `noises` once, not for each weight.
            return learner, noise_of(i + 1), errors.at[i].set(error), sums

        start = learning.learner, noise_of(0), jnp.zeros((most, size)), learning.sums
        learner, _, errors, sums = jax.lax.fori_loop(0, number, update, start)
        counted = jnp.repeat(jnp.arange(most) < number, size)
        replay = self.replay.set_priorities(
            replay, batches.indices.reshape(-1), errors.reshape(-1), alpha, counted
        )
        return Learning(learner, replay.tree, replay.max_priority, sums)

    def _prepare(self, state: ReplayTraining, transitions: Transition) -> Transition:
        """Preprocess sampled transitions, with today's statistics."""
        policy = self.acting.policy(state)
        return transitions._replace(
            s_tm1=policy.preprocess(transitions.s_tm1),
            r_t=transitions.r_t * self.acting.reward_factor(state.statistics),
            s_t=policy.preprocess(transitions.s_t),
        )

    def probe(self, state: ReplayTraining) -> tuple[ReplayTraining, Probe]:
        """Measure sigma and, on the newest observations, what noise does to values and actions."""
        key, probe_key = jax.random.split(state.learner.key)
        replay, num_envs = state.replay, self.acting.num_envs
        span = max(num_envs, PROBE_OBSERVATIONS)  # of more environments, some at even distances
        newest = jnp.arange(PROBE_OBSERVATIONS, dtype=jnp.int32) * span // PROBE_OBSERVATIONS
        slots = self.replay.newest(replay, newest % num_envs, newest // num_envs)
        seen = self.replay.seen(replay.rows, slots, newest % num_envs)
        policy = self.acting.policy(state)
        exploration = self.acting.explorer.metrics(state.actor.explorer)
        data = self._probe_data(state)
        masks = replay.rows.action_mask
        masks = None if masks is None else masks[slots, newest % num_envs]
        seen = policy.preprocess(seen)
        probe = probe_noise(policy.network, seen, masks, exploration, data, probe_key)
        probe = of_all(probe, self.acting.shards)
        return state._replace(learner=state.learner._replace(key=key)), probe

    def _probe_data(self, state: ReplayTraining) -> dict[str, Array]:
        """Measure what the replay buffer holds: rewards in all rows, observations in some."""
        replay, place = state.replay, jnp.arange(MOST_ROWS, dtype=jnp.int32)
        written = replay.position if self.replay.lockstep else jnp.min(replay.position)
        known = jnp.minimum(written, MOST_ROWS)  # all slots before are written
        divisor = jnp.maximum(known, 1)
        slots = place % divisor * (written // divisor)
        rewards = replay.rows.reward * self.acting.reward_factor(state.statistics)
        envs = place % self.acting.num_envs
        observations = jax.tree.map(lambda x: x[slots, envs], replay.rows.observation)
        numbers = self.acting.numbers(observations)
        return probe_data(rewards, numbers, known, self.acting.shards)

    def row(self, actor: ActorState, action: Int[Array, " envs *d"]) -> Row:
        """Return the newest step as the replay buffer stores it."""
        perturbation = None
        if self.agent.perturbation > 0:
            shape = len(action), self.index_dim
            perturbation = jax.random.normal(jax.random.fold_in(actor.key, PERTURBATION), shape)
        time_step = actor.time_step
        return Row(
            observation=time_step.observation,
            action=action,
            reward=time_step.reward,
            terminated=time_step.terminated,
            last=time_step.last,
            perturbation=perturbation,
            action_mask=time_step.action_mask,
        )
