"""The core that learns from rollouts: keep the newest steps, and learn from them when full.

The learner's part is `learner/parallel.py`.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.learner.agent import acting_outputs
from noisydqn.learner.gradient import Metrics
from noisydqn.learner.options import ParallelOptions
from noisydqn.learner.parallel import Minibatch, ParallelAgent, ParallelLearner, Rollout
from noisydqn.nets.noisy import NetworkNoise, sample_noise
from noisydqn.runners import build
from noisydqn.runners.acting import Acting
from noisydqn.runners.options import ProgramOptions
from noisydqn.runners.probe import PROBE_OBSERVATIONS, Probe, probe_noise
from noisydqn.runners.schedule import RolloutSchedule
from noisydqn.runners.state import ActorState, Statistics
from noisydqn.trees import Flat
from noisydqn.types import Row, TimeStep


class Decision(NamedTuple):
    """The choice whose outcome is not known yet."""

    action: Int[Array, " envs"]
    value: Float[Array, "envs m"]  # the greedy return where it was made


class ParallelTraining(NamedTuple):
    """Everything a run needs to resume, except its environments."""

    actor: ActorState
    learner: ParallelLearner
    rollout: Rollout
    slot: Int[Array, ""]  # of the next step in the rollout
    decision: Decision
    statistics: Statistics


class Learning(NamedTuple):
    """What the loop of updates carries: the learner, the next update's noise, the metrics."""

    learner: ParallelLearner
    noise: Flat[NetworkNoise]
    sums: Flat[Metrics]


@dataclasses.dataclass(frozen=True)
class ParallelCore:
    """The steps of training from rollouts."""

    acting: Acting
    agent: ParallelAgent
    options: ParallelOptions
    schedule: RolloutSchedule

    @staticmethod
    def create(options: ProgramOptions[ParallelOptions], spec: EnvironmentSpec) -> "ParallelCore":
        """Make the core of a program for environments with an interface."""
        return ParallelCore(
            acting=Acting.create(options, spec),
            agent=build.make_parallel_agent(options),
            options=options.learner,
            schedule=RolloutSchedule.create(options),
        )

    def init(self, key: PRNGKeyArray) -> ParallelTraining:
        """Make the state before the first time step: as if an episode had ended everywhere.

        The first time step is that of a reset. It fills the last slot, which the last step of the
        first rollout overwrites.
        """
        learner_key, policy_key, explorer_key, actor_key = jax.random.split(key, 4)
        policy = self.acting.make_policy(policy_key)
        actor, statistics = self.acting.init(policy, actor_key, explorer_key)
        envs, steps = self.acting.num_envs, self.options.rollout_steps
        outputs = jax.eval_shape(acting_outputs, policy.network, policy.preprocess(actor.stack))
        value = jax.eval_shape(jax.vmap(policy.network.distribution.greedy_return), outputs)
        decision = Decision(jnp.zeros(envs, jnp.int32), jnp.zeros(value.shape, value.dtype))
        step = _step(actor, decision, actor)
        return ParallelTraining(
            actor=actor,
            learner=self.agent.init(policy.network, learner_key),
            rollout=jax.tree.map(lambda x: jnp.zeros((steps, *x.shape), x.dtype), step),
            slot=jnp.int32(steps - 1),
            decision=decision,
            statistics=statistics,
        )

    def rows(self, state: ParallelTraining) -> None:
        """Return None: the rollout is saved with the rest."""
        del state

    def with_rows(self, state: ParallelTraining, rows: Row | None) -> ParallelTraining:
        """Return the state: it has no rows."""
        del rows
        return state

    def observe(self, state: ParallelTraining, time_step: TimeStep) -> ParallelTraining:
        """Take in what the environments show next, and store the step that led there."""
        before = state.actor
        state = self.acting.observe(state, time_step)
        step = _step(before, state.decision, state.actor)
        rollout = jax.tree.map(lambda x, new: x.at[state.slot].set(new), state.rollout, step)
        slot = (state.slot + 1) % self.options.rollout_steps
        return state._replace(rollout=rollout, slot=slot)

    def act(
        self, state: ParallelTraining, step: Int[Array, ""]
    ) -> tuple[ParallelTraining, Int[Array, " envs"]]:
        """Choose the actions [envs].

        `step` counts environment steps before this one.
        """
        value = self._value(state)
        state, actions = self.acting.choose(state, step)
        return state._replace(decision=Decision(actions, value)), actions

    def _value(self, state: ParallelTraining) -> Float[Array, "envs m"]:
        """Describe the greedy return at the newest observations."""
        policy, actor = self.acting.policy(state), state.actor
        acting = self.options.return_noise == "acting"
        noise = self.acting.explorer.noise(actor.explorer) if acting else None
        outputs = acting_outputs(policy.network, policy.preprocess(actor.stack), noise)
        return jax.vmap(policy.network.distribution.greedy_return)(outputs)

    def resample(self, state: ParallelTraining, updated: Bool[Array, ""]) -> ParallelTraining:
        """Let the explorer resample its noise; `updated` after each rollout."""
        return self.acting.resample(state, updated)

    def learn(
        self, state: ParallelTraining, number: Int[Array, ""], sums: Flat[Metrics]
    ) -> tuple[ParallelTraining, Flat[Metrics]]:
        """Learn from the rollout if updates are due; `sums` adds up their metrics."""

        def learn(
            _: Int[Array, ""], carry: tuple[ParallelLearner, Flat[Metrics]]
        ) -> tuple[ParallelLearner, Flat[Metrics]]:
            return self._learn(state, *carry)

        times = (number > 0).astype(jnp.int32)
        learner, sums = jax.lax.fori_loop(0, times, learn, (state.learner, sums))
        return state._replace(learner=learner), sums

    def _learn(
        self, state: ParallelTraining, learner: ParallelLearner, sums: Flat[Metrics]
    ) -> tuple[ParallelLearner, Flat[Metrics]]:
        """Make all updates of a whole rollout."""
        network, rollout = learner.online.tree, state.rollout
        key, target_key, noise_key, epochs_key = jax.random.split(learner.key, 4)
        factor, distribution = self.acting.reward_factor(state.statistics), network.distribution
        final = self._value(state)
        targets = self.agent.targets(distribution, rollout, final, factor, target_key)
        flat, targets = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (rollout, targets))
        size = len(flat.action)

        def epoch(i: Int[Array, ""], learning: Learning) -> Learning:
            epoch_key = jax.random.fold_in(epochs_key, i)
            order_key, updates_key = jax.random.split(epoch_key)
            order = jax.random.permutation(order_key, size).reshape(self.options.minibatches, -1)
            keys = jax.random.split(updates_key, self.options.minibatches)

            def update(j: Int[Array, ""], learning: Learning) -> Learning:
                batch = self._minibatch(state, flat, targets, order[j])
                return self._update(learning, batch, keys[j])

            return jax.lax.fori_loop(0, self.options.minibatches, update, learning)

        noise = Flat.of(sample_noise(network, noise_key))
        learning = Learning(learner, noise, sums)
        learning = jax.lax.fori_loop(0, self.options.epochs, epoch, learning)
        return learning.learner._replace(key=key), learning.sums

    def _update(self, learning: Learning, batch: Minibatch, key: PRNGKeyArray) -> Learning:
        """Make one update, and sample the noise of the next.

        It is carried there, so that XLA computes a sample once, not for each weight it enters.
        """
        learner, noise, sums = learning
        noise_key, query_key = jax.random.split(key)
        network = learner.online.tree
        queries = network.distribution.sample_queries(query_key, len(batch.action))
        query = None if queries is None else queries.tm1
        learner, metrics = self.agent.update(learner, batch, noise.tree, query)
        following = Flat.of(sample_noise(network, noise_key))
        return Learning(learner, following, jax.tree.map(jnp.add, sums, Flat.of(metrics)))

    def _minibatch(
        self,
        state: ParallelTraining,
        flat: Rollout,
        targets: Float[Array, "size m"],
        indices: Int[Array, " batch"],
    ) -> Minibatch:
        """Collect some steps of a rollout [T * envs, ...], preprocessed with today's statistics."""
        return Minibatch(
            observation=self.acting.policy(state).preprocess(flat.observation[indices]),
            action=flat.action[indices],
            target=targets[indices],
            weight=1.0 - flat.ignored[indices],
        )

    def probe(self, state: ParallelTraining) -> tuple[ParallelTraining, Probe]:
        """Measure sigma and, on observations of the rollout, how often noise changes the action."""
        key, probe_key = jax.random.split(state.learner.key)
        seen = state.rollout.observation
        seen = seen.reshape(-1, *seen.shape[2:])
        places = jnp.arange(PROBE_OBSERVATIONS) * len(seen) // PROBE_OBSERVATIONS
        policy = self.acting.policy(state)
        probe = probe_noise(policy.network, policy.preprocess(seen[places]), probe_key)
        return state._replace(learner=state.learner._replace(key=key)), probe


def _step(before: ActorState, decision: Decision, after: ActorState) -> Rollout:
    """Return one step of all environments [envs, ...], as a rollout holds it."""
    return Rollout(
        observation=before.stack,
        action=decision.action,
        value=decision.value,
        reward=after.time_step.reward,
        terminated=after.time_step.terminated,
        last=after.time_step.last,
        ignored=before.time_step.last,
    )
