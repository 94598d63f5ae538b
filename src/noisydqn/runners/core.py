"""What every runner does at a step, whoever moves the environments: observe, act, store, learn.

All of it is pure and compiled by the runner. In a cycle:

    environments ──TimeStep──▶ observe ──▶ act and store ──actions──▶ environments
                                                │
                                                ▼
                                     learn, renew the noise
"""

import dataclasses
import math
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from noisydqn import build
from noisydqn.config.config import Config
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.imports import PYTHON
from noisydqn.learner.agent import Agent, Metrics, UpdateNoise, act, sample_update_noise, values
from noisydqn.learner.policy import Policy
from noisydqn.learner.replay import Replay, ReplayState
from noisydqn.learner.sum_tree import SumTree
from noisydqn.nets.network import QNetwork
from noisydqn.nets.noisy import NetworkNoise, mean_abs_sigma, noisy_layers, sample_noise
from noisydqn.preprocessing import frames, normalize
from noisydqn.trees import Flat
from noisydqn.types import LearnerState, Row, TimeStep, Transition

PROBE_DRAWS, PROBE_OBSERVATIONS = 8, 32
"""How many draws and recent observations tell how often noise changes the greedy action."""

MAX_BURST = 8
"""Batches that are drawn together at most."""


Count = TypeVar("Count", int, Array)


def program_key(config: Config, *parts: object) -> str | None:
    """Return all that the programs of a config depend on, beside code; None if it is not known.

    Args:
        config: the config's own `of_program`.
        parts: what else they depend on, such as the environment.
    """
    if config.torso.startswith(PYTHON):  # code that is not this package's
        return None
    return "\n".join(map(repr, (config, *parts)))


class TrainingState(NamedTuple):
    """Everything a run needs to go on, but for its environments."""

    key: PRNGKeyArray
    learner: LearnerState
    replay: ReplayState
    time_step: TimeStep  # [envs, ...], the newest, reward clipped: no action was taken on it yet
    stack: Shaped[Array, "envs ..."]  # of frames, the newest that of `time_step`
    noise: Flat[NetworkNoise]  # the draw to act with next; [envs, ...] unless shared
    moments: normalize.RunningMoments | None  # of observations
    return_scale: normalize.ReturnScale | None

    def with_rows(self, rows: Row | None) -> "TrainingState":
        """The same with other rows in the memory, or none: checkpoints keep those by themselves."""
        return self._replace(replay=self.replay._replace(rows=rows))


class Learning(NamedTuple):
    """What updates change."""

    learner: LearnerState
    tree: SumTree
    max_priority: Float[Array, ""]
    sums: Flat[Metrics]  # of all updates


class Probe(NamedTuple):
    """What the noise of a network is worth at some moment."""

    sigma: Float[Array, " layers"]  # mean |sigma| of each noisy layer
    action_change: Float[Array, ""]  # share of observations where noise changes the greedy action


@dataclasses.dataclass(frozen=True)
class Core:
    """The steps of training on environments of one kind."""

    config: Config
    spec: EnvironmentSpec
    agent: Agent
    replay: Replay

    @staticmethod
    def create(config: Config, spec: EnvironmentSpec) -> "Core":
        """The core of a config."""
        return Core(config, spec, build.make_agent(config), build.make_replay(config))

    def policy(self, state: TrainingState) -> Policy:
        """The policy of a state."""
        config = self.config
        network = state.learner.online.tree
        moments = None if state.moments is None else state.moments.rounded
        return Policy(network, moments, config.observation_clip, config.frame_stack)

    def copy_policy(self, state: TrainingState, seed: int | None = None) -> Policy:
        """A copy of the policy of a state that was computed; of one of the seeds on its first axis.

        By way of NumPy, so that nothing is compiled.
        """

        def copy(x: Array) -> np.ndarray:
            return np.array(np.asarray(x) if seed is None else np.asarray(x)[seed])

        moments = None if state.moments is None else state.moments.rounded
        online, moments = jax.tree.map(copy, (state.learner.online, moments))
        config = self.config
        policy = Policy(online.tree, moments, config.observation_clip, config.frame_stack)
        return jax.tree.map(jnp.asarray, policy)

    @property
    def noisy_layers(self) -> list[str]:
        """The names of the noisy layers."""
        policy = jax.eval_shape(
            partial(build.make_policy, self.config, self.spec), jax.random.key(0)
        )
        return list(noisy_layers(policy.network))

    def init(self, key: PRNGKeyArray) -> TrainingState:
        """The state before the first time step: as if an episode had ended everywhere."""
        config = self.config
        envs, spec = config.num_envs, self.spec.observation
        time_step = TimeStep(
            observation=jnp.zeros((envs, *spec.shape), spec.dtype),
            reward=jnp.zeros(envs),
            terminated=jnp.ones(envs, jnp.bool_),
            truncated=jnp.zeros(envs, jnp.bool_),
            info={},
        )
        key, policy_key, noise_key = jax.random.split(key, 3)
        policy = build.make_policy(config, self.spec, policy_key)
        row = self._row(time_step, jnp.zeros(envs, jnp.int32))
        return TrainingState(
            key=key,
            learner=self.agent.init(policy.network),
            replay=self.replay.init(jax.tree.map(lambda x: x[0], row)),
            time_step=time_step,
            stack=frames.start(time_step.observation, config.frame_stack),
            noise=self._draw(policy.network, noise_key),
            moments=None if policy.moments is None else normalize.init(spec.shape),
            return_scale=normalize.init_return_scale(envs) if config.normalize_rewards else None,
        )

    def observe(self, state: TrainingState, time_step: TimeStep) -> TrainingState:
        """Take in what the environments show next; after the last step that is a reset.

        Rewards are clipped here, before anything learns of them.
        """
        config, started = self.config, state.time_step.last
        observation, reward = time_step.observation, time_step.reward
        if config.reward_clip is not None:
            reward = jnp.clip(reward, -config.reward_clip, config.reward_clip)
        moments, scale = state.moments, state.return_scale
        if moments is not None:
            moments = normalize.update(moments, observation)
        if scale is not None:
            scale = normalize.update_return_scale(scale, reward, started, config.discount)
        return state._replace(
            time_step=time_step._replace(reward=reward, info={}),
            stack=frames.push(state.stack, observation, started, config.frame_stack),
            moments=moments,
            return_scale=scale,
        )

    # Acting

    def act(
        self, state: TrainingState, step: Int[Array, ""]
    ) -> tuple[TrainingState, Int[Array, " envs"]]:
        """Choose the actions [envs] and store the step.

        `step` counts environment steps before this one.
        """
        actions, key = self._greedy(state), state.key
        share = self._random_share(step)
        if share is not None:
            key, act_key = jax.random.split(key)
            actions = self._some_random(actions, share, act_key)
        alpha, _ = self._exponents(state.learner.updates)
        replay = self.replay.add(state.replay, self._row(state.time_step, actions), alpha)
        return state._replace(key=key, replay=replay), actions

    def _row(self, time_step: TimeStep, action: Int[Array, " envs"]) -> Row:
        return Row(
            observation=time_step.observation,
            action=action,
            reward=time_step.reward,
            terminated=time_step.terminated,
            last=time_step.last,
        )

    def _greedy(self, state: TrainingState) -> Int[Array, " envs"]:
        policy = self.policy(state)
        return act(policy.network, policy.preprocess(state.stack), state.noise.tree)

    def _some_random(
        self, actions: Int[Array, " envs"], share: Float[Array, ""], key: PRNGKeyArray
    ) -> Int[Array, " envs"]:
        choice_key, action_key = jax.random.split(key)
        anything = jax.random.randint(
            action_key, actions.shape, 0, self.spec.num_actions, jnp.int32
        )
        return jnp.where(jax.random.uniform(choice_key, actions.shape) < share, anything, actions)

    def _random_share(self, step: Int[Array, ""]) -> Float[Array, ""] | None:
        """The share of random actions at a step; None if there are never any."""
        config = self.config
        epsilon = None
        if config.exploration in ("epsilon-greedy", "both"):
            done = jnp.minimum(step / config.epsilon_steps, 1)
            epsilon = config.epsilon + (config.epsilon_final - config.epsilon) * done
        if config.random_steps == 0:
            return epsilon
        return jnp.where(step < config.random_steps, 1.0, 0.0 if epsilon is None else epsilon)

    def _draw(self, network: QNetwork, key: PRNGKeyArray) -> Flat[NetworkNoise]:
        """Acting noise: one draw if it is shared, else one for each environment, [envs, ...]."""
        shared = self.config.acting_noise_shared

        def draw(key: PRNGKeyArray) -> Flat[NetworkNoise]:
            return Flat.of(sample_noise(network, key, shared=shared))

        if shared:
            return draw(key)
        return jax.vmap(draw)(jax.random.split(key, self.config.num_envs))

    def _renew_noise(
        self, state: TrainingState, key: PRNGKeyArray, updated: Bool[Array, ""]
    ) -> Flat[NetworkNoise]:
        """The noise to act with next: `state.noise` or, by the cadence chosen, a new draw.

        "step": always a new draw. "update": when an update was made, or would have been had
        learning started. "episode": where an episode starts next; a draw that all environments
        share is held until one starts in any of them.
        """
        fresh = self._draw(state.learner.online.tree, key)
        if self.config.acting_noise == "step":
            return fresh
        renew = updated if self.config.acting_noise == "update" else state.time_step.last
        if self.config.acting_noise_shared:
            renew = jnp.any(renew)
        return fresh.with_vector(jnp.where(renew[..., None], fresh.vector, state.noise.vector))

    # Learning

    def learn(
        self,
        state: TrainingState,
        due: Int[Array, ""],
        allowed: Int[Array, ""],
        sums: Flat[Metrics],
    ) -> tuple[TrainingState, Flat[Metrics]]:
        """Make `allowed` of the `due` updates, each on a batch of its own, and renew the noise.

        `sums` adds up the updates' metrics.
        """
        key, learn_key, noise_key = jax.random.split(state.key, 3)
        most = self._burst

        def burst(i: Int[Array, ""], carry: Learning) -> Learning:
            number = jnp.minimum(allowed - i * most, most)
            return self._learn_burst(state, jax.random.fold_in(learn_key, i), number, carry)

        carry = Learning(state.learner, state.replay.tree, state.replay.max_priority, sums)
        carry = jax.lax.fori_loop(0, (allowed + most - 1) // most, burst, carry)
        replay = state.replay._replace(tree=carry.tree, max_priority=carry.max_priority)
        state = state._replace(key=key, learner=carry.learner, replay=replay)
        return state._replace(noise=self._renew_noise(state, noise_key, due > 0)), carry.sums

    @property
    def _burst(self) -> int:
        """Updates whose batches are drawn together: those due at once, if they are few."""
        config = self.config
        return min(math.ceil(config.update_ratio * config.num_envs * config.learn_every), MAX_BURST)

    def _learn_burst(
        self, state: TrainingState, key: PRNGKeyArray, number: Int[Array, ""], carry: Learning
    ) -> Learning:
        """Make the first `number` of a burst's updates.

        All batches and all noise are drawn before the first update, and priorities are set after
        the last: one large operation each instead of many small ones. It also lets XLA set the
        priorities in place, as everything that reads the tree then comes before.
        """
        sample_key, draw_key = jax.random.split(key)
        most, size = self._burst, self.config.batch_size
        replay = state.replay._replace(tree=carry.tree, max_priority=carry.max_priority)
        alpha, beta = self._exponents(carry.learner.updates)
        batches = jax.vmap(lambda key: self.replay.sample(replay, key, size, beta))(
            jax.random.split(sample_key, most)
        )
        network = carry.learner.online.tree
        noise = jax.vmap(lambda key: Flat.of(sample_update_noise(network, key, size)))(
            jax.random.split(draw_key, most)
        )

        def noise_of(i: Int[Array, ""] | int) -> Flat[UpdateNoise]:
            return noise.with_vector(noise.vector[jnp.minimum(i, most - 1)])

        def update(
            i: Int[Array, ""], carry: tuple[LearnerState, Flat[UpdateNoise], Array, Flat[Metrics]]
        ) -> tuple[LearnerState, Flat[UpdateNoise], Array, Flat[Metrics]]:
            learner, draws, errors, sums = carry
            batch = jax.tree.map(lambda x: x[i], batches)
            batch = batch._replace(transitions=self._prepare(state, batch.transitions))
            learner, error, metrics = self.agent.update(learner, batch, draws.tree)
            sums = jax.tree.map(jnp.add, sums, Flat.of(metrics))
            # Carried to the next, so that XLA takes it out of `noise` once, not for each weight.
            return learner, noise_of(i + 1), errors.at[i].set(error), sums

        learner, _, errors, sums = jax.lax.fori_loop(
            0, number, update, (carry.learner, noise_of(0), jnp.zeros((most, size)), carry.sums)
        )
        made = jnp.arange(most) < number
        replay = self.replay.set_priorities(
            replay,
            batches.indices.reshape(-1),
            errors.reshape(-1),
            alpha,
            jnp.repeat(made, size),
        )
        return Learning(learner, replay.tree, replay.max_priority, sums)

    def updates_due(self, step: Count, ended: Count) -> Count:
        """Updates that are due after a step of all environments, whether or not learning started.

        `step` counts environment steps before it, `ended` the episodes that it ends. After each
        `learn_every` steps of all environments floor(steps * ratio) updates were due. Where updates
        go by steps the count does not depend on the seed, so that seeds trained side by side share
        one loop.
        """
        config, ratio = self.config, self.config.update_ratio
        if config.updates_per_episode > 0:
            return ended * ratio.numerator
        group = config.num_envs * config.learn_every
        ends = (step + config.num_envs) % group == 0
        before = step + config.num_envs - group
        carried = (before % ratio.denominator) * ratio.numerator % ratio.denominator
        return ends * ((carried + group * ratio.numerator) // ratio.denominator)

    def _exponents(self, updates: Int[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Alpha and beta after `updates` updates."""
        config = self.config
        done = jnp.minimum(updates / config.schedule_updates, 1)
        alpha_0, alpha_1 = config.priority_exponent, config.priority_exponent_final
        beta_0, beta_1 = config.importance_exponent, config.importance_exponent_final
        return alpha_0 + (alpha_1 - alpha_0) * done, beta_0 + (beta_1 - beta_0) * done

    def _prepare(self, state: TrainingState, transitions: Transition) -> Transition:
        """Preprocess sampled transitions, with today's statistics."""
        policy = self.policy(state)
        scale = 1.0 if state.return_scale is None else state.return_scale.scale
        return transitions._replace(
            s_tm1=policy.preprocess(transitions.s_tm1),
            r_t=transitions.r_t * (scale * self.config.reward_scale),
            s_t=policy.preprocess(transitions.s_t),
        )

    # Looking at the noise

    def probe(self, state: TrainingState) -> tuple[TrainingState, Probe]:
        """How large sigma is and how often, on the newest observations, noise changes an action."""
        key, probe_key = jax.random.split(state.key)
        network, replay = state.learner.online.tree, state.replay
        layers = noisy_layers(network).values()
        state = state._replace(key=key)
        if not layers:
            return state, Probe(jnp.zeros(0), jnp.float32(0))
        num_envs = self.config.num_envs
        newest = jnp.arange(math.ceil(PROBE_OBSERVATIONS / num_envs) * num_envs, dtype=jnp.int32)
        slots = (replay.position - 1 - newest // num_envs) % self.replay.slots
        seen = self.replay.seen(replay.rows, slots, newest % num_envs)
        seen = self.policy(state).preprocess(seen)
        mean_action = jnp.argmax(values(network, seen, None), axis=-1)

        def changed(key: PRNGKeyArray) -> Array:
            q = values(network, seen, sample_noise(network, key))
            return jnp.argmax(q, axis=-1) != mean_action

        change = jnp.mean(jax.lax.map(changed, jax.random.split(probe_key, PROBE_DRAWS)))
        return state, Probe(jnp.stack([mean_abs_sigma(layer) for layer in layers]), change)
