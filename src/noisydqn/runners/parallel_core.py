"""The core that learns from rollouts: keep the newest steps, and learn from them when full.

The learner's part is `learner/parallel.py`.
"""

import dataclasses
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from noisydqn.compilation import Runs
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.learner.agent import acting_outputs
from noisydqn.learner.gradient import Metrics
from noisydqn.learner.options import ParallelOptions
from noisydqn.learner.parallel import (
    Minibatch,
    ParallelAgent,
    ParallelLearner,
    Rollout,
    greedy_return,
)
from noisydqn.masks import opened
from noisydqn.nets.network import QNetwork
from noisydqn.nets.noisy import NetworkNoise, sample_noise
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
from noisydqn.runners.schedule import RolloutSchedule
from noisydqn.runners.state import ActorState, Statistics
from noisydqn.shards import ONE, Shards
from noisydqn.trees import LARGE, Flat, num_rows
from noisydqn.types import Mixed, Row, TimeStep

MATCHED = 2**31 - 1
"""What the learner's key is folded with for the samples of matched targets."""


class Decision(NamedTuple):
    """The choice whose outcome is not known yet."""

    action: Int[Array, " envs *d"]
    value: Float[Array, "envs *k m"]  # the greedy return where it was made


class Lesson(NamedTuple):
    """A whole rollout [T * envs, ...] that is being learned from."""

    rollout: Rollout
    targets: Float[Array, "size *k m"]
    order: Int[Array, "updates batch"]  # the steps in each minibatch
    key: PRNGKeyArray  # of the updates' noise
    done: Int[Array, ""]  # updates made
    matched: Flat[NetworkNoise] | None  # [K, ...], the samples that targets belong to


class ParallelTraining(NamedTuple):
    """Everything a run needs to resume, except its environments."""

    actor: ActorState
    learner: ParallelLearner
    rollout: Rollout  # [T, envs, ...], being filled
    slot: Int[Array, ""]  # of the next step in it
    decision: Decision
    lesson: Lesson
    statistics: Statistics
    matched: Flat[NetworkNoise] | None  # [K, ...], that values the rollout being filled


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

    runs: ClassVar[Runs] = "always"
    """Environments take much of the time: few updates are made for a step."""

    @staticmethod
    def create(
        options: ProgramOptions[ParallelOptions], spec: EnvironmentSpec, shards: Shards = ONE
    ) -> "ParallelCore":
        """Make the core of a program for environments with an interface."""
        return ParallelCore(
            acting=Acting.create(options, spec, shards),
            agent=build.make_parallel_agent(options, shards),
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
        matched = self._matched(policy.network, learner_key)
        seen = policy.preprocess(actor.stack)
        masks = actor.time_step.action_mask
        value = jax.eval_shape(self._values_under, policy.network, seen, None, matched, masks)
        decision = Decision(
            self.acting.spec.blank_actions(envs), jnp.zeros(value.shape, value.dtype)
        )
        step = _step(actor, decision, actor)
        rollout = jax.tree.map(lambda x: jnp.zeros((steps, *x.shape), x.dtype), step)
        rollout = rollout._replace(action_mask=jax.tree.map(opened, rollout.action_mask))
        updates, size = self.options.rollout_updates, steps * envs
        return ParallelTraining(
            actor=actor,
            learner=self.agent.init(policy.network, learner_key),
            rollout=rollout,
            slot=jnp.int32(steps - 1),
            decision=decision,
            lesson=Lesson(
                rollout=_flat(rollout),
                targets=_flat(rollout.value),
                order=jnp.zeros((updates, size // self.options.minibatches), jnp.int32),
                key=learner_key,
                done=jnp.int32(0),
                matched=matched,
            ),
            statistics=statistics,
            matched=matched,
        )

    def with_network(self, state: ParallelTraining, network: QNetwork) -> ParallelTraining:
        """Replace the weights before the first step."""
        copied = jax.tree.map(jnp.array, Flat.of(network, LARGE).arrays)
        online = state.learner.online.with_arrays(copied)
        return state._replace(learner=state.learner._replace(online=online))

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
    ) -> tuple[ParallelTraining, Int[Array, " envs *d"]]:
        """Choose the actions [envs].

        `step` counts environment steps before this one.
        """
        value = self._value(state)
        state, actions = self.acting.choose(state, step)
        return state._replace(decision=Decision(actions, value)), actions

    def _value(self, state: ParallelTraining) -> Float[Array, "envs *k m"]:
        """Describe the greedy return at the newest observations."""
        policy, actor = self.acting.policy(state), state.actor
        acting = self.options.return_noise == "acting"
        noise = self.acting.explorer.noise(actor.explorer) if acting else None
        seen = policy.preprocess(actor.stack)
        masks = actor.time_step.action_mask
        return self._values_under(policy.network, seen, noise, state.matched, masks)

    def _values_under(
        self,
        network: QNetwork,
        seen: Float[Array, "envs ..."] | Mixed,
        noise: NetworkNoise | None,
        matched: Flat[NetworkNoise] | None,
        masks: Bool[Array, "envs actions"] | None,
    ) -> Float[Array, "envs *k m"]:
        """Describe the greedy return under noise or, with matched targets, under each sample."""

        def under(noise: NetworkNoise | None) -> Array:
            outputs = acting_outputs(network, seen, noise, masks)
            of_env = partial(greedy_return, network.distribution, network.sizes)
            return jax.vmap(of_env)(outputs, masks)

        return under(noise) if matched is None else jax.vmap(under, out_axes=1)(matched.tree)

    def _samples(self, network: QNetwork, key: PRNGKeyArray) -> Flat[NetworkNoise]:
        """Sample the noise of an update."""
        rule = self.agent.noise
        if rule.mean:
            return Flat.of(None)
        if not rule.several:
            return Flat.of(sample_noise(network, key))
        keys = jax.random.split(key, rule.samples)
        return jax.vmap(lambda key: Flat.of(sample_noise(network, key)))(keys)

    def _matched(self, network: QNetwork, key: PRNGKeyArray) -> Flat[NetworkNoise] | None:
        """Sample the noise that a rollout is valued under; None without matched targets."""
        key = jax.random.fold_in(key, MATCHED)
        return self._samples(network, key) if self.agent.noise.matched else None

    def resample(self, state: ParallelTraining, updated: Bool[Array, ""]) -> ParallelTraining:
        """Let the explorer resample its noise: an update, to it, is the end of a rollout."""
        del updated
        return self.acting.resample(state, state.slot == 0)

    def learn(
        self, state: ParallelTraining, number: Int[Array, ""], sums: Flat[Metrics]
    ) -> tuple[ParallelTraining, Flat[Metrics]]:
        """Make some updates, on the newest whole rollout; `sums` adds up their metrics."""

        def prepare(
            _: Int[Array, ""], carry: tuple[PRNGKeyArray, Lesson]
        ) -> tuple[PRNGKeyArray, Lesson]:
            return self._prepare(state, carry[0])

        full = ((state.slot == 0) & (number > 0)).astype(jnp.int32)
        before = state.learner.key, state.lesson
        key, lesson = jax.lax.fori_loop(0, full, prepare, before)
        network = state.learner.online.tree

        def noise_of(i: Int[Array, ""]) -> Flat[NetworkNoise]:
            if lesson.matched is not None:
                return lesson.matched
            return self._samples(network, jax.random.fold_in(lesson.key, 2 * i))

        def update(i: Int[Array, ""], learning: Learning) -> Learning:
            learner, noise, sums = learning
            batch = self._minibatch(state, lesson, lesson.order[i])
            query_key = self.acting.shards.own_key(jax.random.fold_in(lesson.key, 2 * i + 1))
            queries = network.distribution.sample_queries(query_key, len(batch.action))
            query = None if queries is None else queries.tm1
            learner, metrics = self.agent.update(learner, batch, noise.tree, query)
            sums = jax.tree.map(jnp.add, sums, Flat.of(metrics))
            # Carried to the next, so that XLA computes a sample once, not for each weight.
            return Learning(learner, noise_of(i + 1), sums)

        done = lesson.done + number
        learning = Learning(state.learner._replace(key=key), noise_of(lesson.done), sums)
        learning = jax.lax.fori_loop(lesson.done, done, update, learning)
        matched, fresh = state.matched, self._matched(network, key)
        if matched is not None and fresh is not None:  # others for the next rollout
            matched = matched.with_vector(jnp.where(full, fresh.vector, matched.vector))
        state = state._replace(
            learner=learning.learner, lesson=lesson._replace(done=done), matched=matched
        )
        return state, learning.sums

    def _prepare(self, state: ParallelTraining, key: PRNGKeyArray) -> tuple[PRNGKeyArray, Lesson]:
        """Compute the targets of a full rollout, and divide it into minibatches."""
        key, target_key, order_key, updates_key = jax.random.split(key, 4)
        target_key, order_key = map(self.acting.shards.own_key, (target_key, order_key))
        distribution, rollout = state.learner.online.tree.distribution, state.rollout
        factor, final = self.acting.reward_factor(state.statistics), self._value(state)
        targets = self.agent.targets(distribution, rollout, final, factor, target_key)
        size, epochs = rollout.last.size, self.options.epochs
        order = jax.vmap(lambda key: jax.random.permutation(key, size))(
            jax.random.split(order_key, epochs)
        )
        order = order.astype(jnp.int32).reshape(self.options.rollout_updates, -1)
        lesson = Lesson(
            rollout=_flat(rollout),
            targets=_flat(targets),
            order=order,
            key=updates_key,
            done=jnp.int32(0),
            matched=state.matched,
        )
        return key, lesson

    def _minibatch(
        self, state: ParallelTraining, lesson: Lesson, indices: Int[Array, " batch"]
    ) -> Minibatch:
        """Collect some steps of a lesson, preprocessed with today's statistics."""
        rollout = lesson.rollout
        return Minibatch(
            observation=self.acting.policy(state).preprocess(_at(rollout.observation, indices)),
            action=rollout.action[indices],
            target=lesson.targets[indices],
            weight=1.0 - rollout.ignored[indices],
            action_mask=None if rollout.action_mask is None else rollout.action_mask[indices],
        )

    def probe(self, state: ParallelTraining) -> tuple[ParallelTraining, Probe]:
        """Measure sigma and, on observations of the rollout, what noise does to the values."""
        key, probe_key = jax.random.split(state.learner.key)
        seen = state.rollout.observation
        seen = _flat(seen)
        places = jnp.arange(PROBE_OBSERVATIONS) * num_rows(seen) // PROBE_OBSERVATIONS
        policy = self.acting.policy(state)
        exploration = self.acting.explorer.metrics(state.actor.explorer)
        known = min(MOST_ROWS, num_rows(seen))
        some = _at(seen, jnp.arange(known) * num_rows(seen) // known)
        data = probe_data(
            state.rollout.reward * self.acting.reward_factor(state.statistics),
            self.acting.numbers(some, stacked=self.acting.frames > 1),
            jnp.int32(known),
            self.acting.shards,
        )
        masks = _at(_flat(state.rollout.action_mask), places)
        shown = policy.preprocess(_at(seen, places))
        probe = probe_noise(policy.network, shown, masks, exploration, data, probe_key)
        probe = of_all(probe, self.acting.shards)
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
        action_mask=before.time_step.action_mask,
    )


def _at(batch: Any, indices: Int[Array, " batch"]) -> Any:
    """Collect some rows of every array of a tree."""
    return jax.tree.map(lambda x: x[indices], batch)


def _flat(rollout: Any) -> Any:
    """Join the axes of steps and environments of every array of a tree."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rollout)
