"""What every runner does at a step, whoever moves the environments: observe, act, store, learn.

All of it is pure and compiled by the runner. In a cycle:

    environments ──TimeStep──▶ observe ──▶ act and store ──actions──▶ environments
                                                │
                                                ▼
                                   learn, resample the noise
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.imports import PYTHON
from noisydqn.learner.agent import Agent, Metrics, UpdateNoise, acting_values, sample_update_noise
from noisydqn.learner.policy import Policy
from noisydqn.learner.replay import Replay
from noisydqn.learner.sum_tree import SumTree
from noisydqn.nets.noisy import noisy_layers
from noisydqn.preprocessing import frames, normalize
from noisydqn.preprocessing.options import PreprocessingOptions
from noisydqn.runners import build
from noisydqn.runners.exploration import Imported, RandomFirst
from noisydqn.runners.explorer import Explorer
from noisydqn.runners.options import ProgramOptions
from noisydqn.runners.probe import PROBE_OBSERVATIONS, Probe, probe_noise
from noisydqn.runners.schedule import PriorityExponents, UpdateSchedule
from noisydqn.runners.state import ActorState, Statistics, TrainingState
from noisydqn.trees import Flat
from noisydqn.types import LearnerState, Row, TimeStep, Transition


def program_key(options: ProgramOptions, *parts: object) -> str | None:
    """Return all that programs depend on, beside code; None if it is not known.

    Args:
        options: of the programs.
        parts: what else they depend on, such as the environment.
    """
    if options.network.torso.startswith(PYTHON) or isinstance(options.exploration, Imported):
        return None  # code that is not this package's
    return "\n".join(map(repr, (options, *parts)))


class Learning(NamedTuple):
    """What the loop of updates carries: the learner, the priorities of its replay, the metrics."""

    learner: LearnerState
    tree: SumTree
    max_priority: Float[Array, ""]
    sums: Flat[Metrics]  # of all updates


@dataclasses.dataclass(frozen=True)
class Core:
    """The steps of training on environments of one kind, put together from their parts."""

    spec: EnvironmentSpec
    make_policy: Callable[[PRNGKeyArray], Policy]
    preprocessing: PreprocessingOptions
    explorer: Explorer
    agent: Agent
    replay: Replay
    batch_size: int
    schedule: UpdateSchedule
    exponents: PriorityExponents

    @staticmethod
    def create(options: ProgramOptions, spec: EnvironmentSpec) -> "Core":
        """Make the core of a program for environments with an interface."""
        explorer, random_steps = options.exploration.build(), options.runner.random_steps
        return Core(
            spec=spec,
            make_policy=partial(build.make_policy, options, spec),
            preprocessing=options.preprocessing,
            explorer=RandomFirst(explorer, random_steps) if random_steps > 0 else explorer,
            agent=build.make_agent(options),
            replay=build.make_replay(options),
            batch_size=options.learning.batch_size,
            schedule=UpdateSchedule.create(options),
            exponents=PriorityExponents.create(options),
        )

    @property
    def num_envs(self) -> int:
        """Environments that step in lockstep."""
        return self.replay.num_envs

    def policy(self, state: TrainingState) -> Policy:
        """Return the policy of a state."""
        moments = state.statistics.moments
        return Policy(
            state.learner.online.tree,
            None if moments is None else moments.rounded,
            self.preprocessing.observation_clip,
            self.replay.frames,
        )

    def copy_policy(self, state: TrainingState, seed: int | None = None) -> Policy:
        """Copy the policy of a state that was computed; of one of the seeds on its first axis.

        By way of NumPy, so that nothing is compiled.
        """

        def copy(x: Array) -> np.ndarray:
            return np.array(np.asarray(x) if seed is None else np.asarray(x)[seed])

        online, statistics = jax.tree.map(copy, (state.learner.online, state.statistics))
        learner = state.learner._replace(online=online)
        policy = self.policy(state._replace(learner=learner, statistics=statistics))
        return jax.tree.map(jnp.asarray, policy)

    @property
    def noisy_layers(self) -> list[str]:
        """The names of the noisy layers."""
        policy = jax.eval_shape(self.make_policy, jax.random.key(0))
        return list(noisy_layers(policy.network))

    def init(self, key: PRNGKeyArray) -> TrainingState:
        """Make the state before the first time step: as if an episode had ended everywhere."""
        envs, spec = self.num_envs, self.spec.observation
        time_step = TimeStep(
            observation=jnp.zeros((envs, *spec.shape), spec.dtype),
            reward=jnp.zeros(envs),
            terminated=jnp.ones(envs, jnp.bool_),
            truncated=jnp.zeros(envs, jnp.bool_),
            info={},
        )
        learner_key, policy_key, explorer_key, actor_key = jax.random.split(key, 4)
        policy = self.make_policy(policy_key)
        row = _row(time_step, jnp.zeros(envs, jnp.int32))
        return TrainingState(
            actor=ActorState(
                key=actor_key,
                time_step=time_step,
                stack=frames.start(time_step.observation, self.replay.frames),
                explorer=self.explorer.init(policy.network, envs, explorer_key),
            ),
            learner=self.agent.init(policy.network, learner_key),
            replay=self.replay.init(jax.tree.map(lambda x: x[0], row)),
            statistics=Statistics(
                moments=None if policy.moments is None else normalize.init(spec.shape),
                return_scale=normalize.init_return_scale(envs)
                if self.preprocessing.normalize_rewards
                else None,
            ),
        )

    def observe(self, state: TrainingState, time_step: TimeStep) -> TrainingState:
        """Take in what the environments show next; after the last step that is a reset.

        Rewards are clipped here, before anything learns of them.
        """
        actor, (moments, scale) = state.actor, state.statistics
        started, clip = actor.time_step.last, self.preprocessing.reward_clip
        observation, reward = time_step.observation, time_step.reward
        if clip is not None:
            reward = jnp.clip(reward, -clip, clip)
        if moments is not None:
            moments = normalize.update(moments, observation)
        if scale is not None:
            scale = normalize.update_return_scale(scale, reward, started, self.replay.discount)
        actor = actor._replace(
            time_step=time_step._replace(reward=reward, info={}),
            stack=frames.push(actor.stack, observation, started, self.replay.frames),
        )
        return state._replace(actor=actor, statistics=Statistics(moments, scale))

    # Acting

    def act(
        self, state: TrainingState, step: Int[Array, ""]
    ) -> tuple[TrainingState, Int[Array, " envs"]]:
        """Choose the actions [envs] and store the step.

        `step` counts environment steps before this one.
        """
        actor, policy = state.actor, self.policy(state)
        key, act_key = jax.random.split(actor.key)
        values_fn = partial(acting_values, policy.network)
        seen = policy.preprocess(actor.stack)
        actions, explorer = self.explorer.act(actor.explorer, values_fn, seen, step, act_key)
        alpha, _ = self.exponents.after(state.learner.updates)
        # The reward is that of the step that led to this observation, by the action in the row
        # before. So a time step is stored only now, a step after it was returned.
        replay = self.replay.add(state.replay, _row(actor.time_step, actions), alpha)
        actor = actor._replace(key=key, explorer=explorer)
        return state._replace(actor=actor, replay=replay), actions

    def resample(self, state: TrainingState, updated: Bool[Array, ""]) -> TrainingState:
        """Let the explorer resample its noise.

        `updated` tells whether updates were scheduled after the newest step.
        """
        actor = state.actor
        key, resample_key = jax.random.split(actor.key)
        explorer = self.explorer.resample(
            actor.explorer,
            state.learner.online.tree,
            updated=updated,
            ended=actor.time_step.last,
            key=resample_key,
        )
        return state._replace(actor=actor._replace(key=key, explorer=explorer))

    # Learning

    def learn(
        self, state: TrainingState, number: Int[Array, ""], sums: Flat[Metrics]
    ) -> tuple[TrainingState, Flat[Metrics]]:
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
        self, state: TrainingState, key: PRNGKeyArray, number: Int[Array, ""], learning: Learning
    ) -> Learning:
        """Make the first `number` of a burst's updates.

        All batches and all noise are sampled before the first update, and priorities are set after
        the last: one large operation each instead of many small ones. It also lets XLA set the
        priorities in place, as everything that reads the tree then comes before.
        """
        sample_key, noise_key = jax.random.split(key)
        most, size = self.schedule.burst, self.batch_size
        replay = state.replay._replace(tree=learning.tree, max_priority=learning.max_priority)
        alpha, beta = self.exponents.after(learning.learner.updates)
        batches = jax.vmap(lambda key: self.replay.sample(replay, key, size, beta))(
            jax.random.split(sample_key, most)
        )
        network = learning.learner.online.tree
        noises = jax.vmap(lambda key: Flat.of(sample_update_noise(network, key, size)))(
            jax.random.split(noise_key, most)
        )

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

    def _prepare(self, state: TrainingState, transitions: Transition) -> Transition:
        """Preprocess sampled transitions, with today's statistics."""
        policy, scale = self.policy(state), state.statistics.return_scale
        of_return = 1.0 if scale is None else scale.scale
        return transitions._replace(
            s_tm1=policy.preprocess(transitions.s_tm1),
            r_t=transitions.r_t * (of_return * self.preprocessing.reward_scale),
            s_t=policy.preprocess(transitions.s_t),
        )

    def probe(self, state: TrainingState) -> tuple[TrainingState, Probe]:
        """Measure sigma and, on the newest observations, how often noise changes the action."""
        key, probe_key = jax.random.split(state.learner.key)
        replay, num_envs = state.replay, self.num_envs
        newest = jnp.arange(math.ceil(PROBE_OBSERVATIONS / num_envs) * num_envs, dtype=jnp.int32)
        slots = (replay.position - 1 - newest // num_envs) % self.replay.slots
        seen = self.replay.seen(replay.rows, slots, newest % num_envs)
        policy = self.policy(state)
        probe = probe_noise(policy.network, policy.preprocess(seen), probe_key)
        return state._replace(learner=state.learner._replace(key=key)), probe


def _row(time_step: TimeStep, action: Int[Array, " envs"]) -> Row:
    return Row(
        observation=time_step.observation,
        action=action,
        reward=time_step.reward,
        terminated=time_step.terminated,
        last=time_step.last,
    )
