"""The device runner: act, step, store and learn as one compiled program.

`run(config)` is a generator. Each item is a `Chunk`: what happened in some thousands of steps,
and the state after them. Progress, logs, evaluation and saving are its consumers, so the loop
itself knows nothing of them.

All arrays of the state have a leading axis of seeds; seeds are trained side by side with `vmap`.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from noisydqn import build
from noisydqn.agent import Agent, Metrics, act, values
from noisydqn.build import Policy
from noisydqn.config import Config
from noisydqn.envs import normalise
from noisydqn.envs.device import DeviceEnvironment, VectorEnvironment
from noisydqn.networks import QNetwork
from noisydqn.noisy import NetworkNoise, mean_abs_sigma, noisy_layers, sample_noise
from noisydqn.replay import Replay, ReplayState
from noisydqn.types import LearnerState, Row, TimeStep, Transition

PROBE_DRAWS, PROBE_OBSERVATIONS = 8, 32
"""How many draws and recent observations tell how often noise changes the greedy action."""


class TrainingState(NamedTuple):
    """Everything a run needs to go on."""

    key: PRNGKeyArray
    learner: LearnerState
    replay: ReplayState
    env_states: Any
    time_step: TimeStep  # [envs, ...], the newest: no action was taken on it yet
    noise: NetworkNoise  # the draw to act with next; [envs, ...] unless shared
    moments: normalise.Moments | None  # of observations
    return_scale: normalise.ReturnScale | None
    episode_return: Float[Array, " envs"]  # of the episodes under way
    episode_length: Int[Array, " envs"]


class ChunkLog(NamedTuple):
    """What happened in a chunk, on the device. Rows beyond the chunk's steps are zero."""

    ended: Bool[Array, "steps envs"]
    episode_return: Float[Array, "steps envs"]
    episode_length: Int[Array, "steps envs"]
    sums: Metrics  # over all updates
    updates: Int[Array, ""]  # made in this chunk
    sigma: Float[Array, " layers"]
    action_change: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class DeviceRunner:
    """The compiled program of a run and the parts that it is made of."""

    config: Config
    env: DeviceEnvironment
    vector: VectorEnvironment
    agent: Agent
    replay: Replay

    @staticmethod
    def create(config: Config, env: DeviceEnvironment) -> "DeviceRunner":
        """The runner of a config on an environment."""
        return DeviceRunner(
            config=config,
            env=env,
            vector=VectorEnvironment(env, env.default_params, config.num_envs),
            agent=build.make_agent(config),
            replay=build.make_replay(config),
        )

    def policy(self, state: TrainingState) -> Policy:
        """The policy of one seed's state."""
        return Policy(state.learner.online, state.moments, self.config.observation_clip)

    def init(self, key: PRNGKeyArray) -> TrainingState:
        """The state of one seed before its first step."""
        config = self.config
        key, policy_key, env_key, noise_key = jax.random.split(key, 4)
        policy = build.make_policy(config, self.env, policy_key)
        env_states, time_step = self.vector.reset(env_key)
        row = _row(time_step, jnp.zeros(config.num_envs, jnp.int32))
        scale = normalise.init_return_scale(config.num_envs) if config.normalise_rewards else None
        state = TrainingState(
            key=key,
            learner=self.agent.init(policy.network),
            replay=self.replay.init(jax.tree.map(lambda x: x[0], row)),
            env_states=env_states,
            time_step=time_step,
            noise=self._draw(policy.network, noise_key),
            moments=policy.moments,
            return_scale=scale,
            episode_return=jnp.zeros(config.num_envs),
            episode_length=jnp.zeros(config.num_envs, jnp.int32),
        )
        return self._observe(state, jnp.ones(config.num_envs, jnp.bool_))

    def step(
        self, state: TrainingState, step: Int[Array, ""], sums: Metrics
    ) -> tuple[TrainingState, Metrics]:
        """Act, store, step every environment once, and make the updates that are due.

        `step` counts environment steps before this one; `sums` adds up the updates' metrics.
        """
        key, act_key, env_key, learn_key, noise_key = jax.random.split(state.key, 5)
        actions = self._actions(state, act_key, step)
        alpha, _ = self._exponents(state.learner.updates)
        row = _row(state.time_step, actions)
        env_states, time_step = self.vector.step(env_key, state.env_states, actions, row.last)
        state = state._replace(
            key=key,
            replay=self.replay.add(state.replay, row, alpha),
            env_states=env_states,
            time_step=time_step,
        )
        state = self._observe(state, started=row.last)
        due = self._updates_due(state, step)
        state, sums = self._learn(state, self._updates_allowed(state, step, due), learn_key, sums)
        noise = self.renew_noise(state, noise_key, updated=due > 0, started=row.last)
        return state._replace(noise=noise), sums

    def _observe(self, state: TrainingState, started: Bool[Array, " envs"]) -> TrainingState:
        """Count what the newest time step shows; an episode `started` where it is a reset."""
        observation, reward = state.time_step.observation, state.time_step.reward
        scale = state.return_scale
        if scale is not None:
            scale = normalise.update_return_scale(scale, reward, started, self.config.discount)
        moments = state.moments
        if moments is not None:
            moments = normalise.update(moments, observation)
        return state._replace(
            moments=moments,
            return_scale=scale,
            episode_return=jnp.where(started, 0, state.episode_return) + reward,
            episode_length=jnp.where(started, 0, state.episode_length + 1),
        )

    # Acting

    def _draw(self, network: QNetwork, key: PRNGKeyArray) -> NetworkNoise:
        """Acting noise: one draw if it is shared, else one for each environment, [envs, ...]."""
        if self.config.acting_noise_shared:
            return sample_noise(network, key)
        keys = jax.random.split(key, self.config.num_envs)
        return jax.vmap(sample_noise, in_axes=(None, 0))(network, keys)

    def renew_noise(
        self,
        state: TrainingState,
        key: PRNGKeyArray,
        updated: Bool[Array, ""],
        started: Bool[Array, " envs"],
    ) -> NetworkNoise:
        """The noise to act with next: `state.noise` or, by the cadence chosen, a new draw.

        "step": always a new draw. "update": when an update was made, or would have been had
        learning started. "episode": where an episode `started`; a draw that all environments
        share is held until one starts in any of them.
        """
        fresh = self._draw(state.learner.online, key)
        if self.config.acting_noise == "step":
            return fresh
        renew = updated if self.config.acting_noise == "update" else started
        if self.config.acting_noise_shared:
            renew = jnp.any(renew)

        def choose(new: Array, old: Array) -> Array:
            trailing = (1,) * (new.ndim - renew.ndim)
            return jnp.where(renew.reshape(renew.shape + trailing), new, old)

        return jax.tree.map(choose, fresh, state.noise)

    def _actions(
        self, state: TrainingState, key: PRNGKeyArray, step: Int[Array, ""]
    ) -> Int[Array, " envs"]:
        observations = self.policy(state).preprocess(state.time_step.observation)
        shared = self.config.acting_noise_shared
        actions = act(state.learner.online, observations, state.noise, shared=shared)
        if self.config.random_steps == 0:
            return actions
        anything = jax.random.randint(key, actions.shape, 0, self.env.num_actions, jnp.int32)
        return jnp.where(step < self.config.random_steps, anything, actions)

    # Learning

    def _exponents(self, updates: Int[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Alpha and beta after `updates` updates."""
        config = self.config
        done = jnp.minimum(updates / config.schedule_updates, 1)
        alpha_0, alpha_1 = config.priority_exponent, config.priority_exponent_final
        beta_0, beta_1 = config.importance_exponent, config.importance_exponent_final
        return alpha_0 + (alpha_1 - alpha_0) * done, beta_0 + (beta_1 - beta_0) * done

    def _updates_due(self, state: TrainingState, step: Int[Array, ""]) -> Int[Array, ""]:
        """Updates that belong to this step of all environments, whether or not learning started.

        After any number of steps floor(steps * ratio) updates were due. Where updates go by steps
        the count does not depend on the seed, so that seeds trained side by side share one loop.
        """
        ratio = self.config.update_ratio
        if self.config.updates_per_episode > 0:
            return jnp.sum(state.time_step.last, dtype=jnp.int32) * ratio.numerator
        carried = (step % ratio.denominator) * ratio.numerator % ratio.denominator
        return (carried + self.config.num_envs * ratio.numerator) // ratio.denominator

    def _updates_allowed(
        self, state: TrainingState, step: Int[Array, ""], due: Int[Array, ""]
    ) -> Int[Array, ""]:
        steps_done = step + self.config.num_envs
        allowed = jnp.where(steps_done >= self.config.first_learning_step, due, 0)
        if self.config.max_updates is None:
            return allowed
        return jnp.minimum(allowed, self.config.max_updates - state.learner.updates)

    def _learn(
        self, state: TrainingState, number: Int[Array, ""], key: PRNGKeyArray, sums: Metrics
    ) -> tuple[TrainingState, Metrics]:
        """Make `number` updates, each on a batch of its own."""

        def update(i: Int[Array, ""], carry: tuple[LearnerState, Any, Any, Metrics]):
            learner, tree, max_priority, sums = carry
            replay = state.replay._replace(tree=tree, max_priority=max_priority)
            sample_key, noise_key = jax.random.split(jax.random.fold_in(key, i))
            alpha, beta = self._exponents(learner.updates)
            batch = self.replay.sample(replay, sample_key, self.config.batch_size, beta)
            batch = batch._replace(transitions=self._prepare(state, batch.transitions))
            learner, error, metrics = self.agent.update(learner, batch, noise_key)
            replay = self.replay.set_priorities(replay, batch.indices, error, alpha)
            sums = jax.tree.map(jnp.add, sums, metrics)
            return learner, replay.tree, replay.max_priority, sums

        start = (state.learner, state.replay.tree, state.replay.max_priority, sums)
        learner, tree, max_priority, sums = jax.lax.fori_loop(0, number, update, start)
        replay = state.replay._replace(tree=tree, max_priority=max_priority)
        return state._replace(learner=learner, replay=replay), sums

    def _prepare(self, state: TrainingState, transitions: Transition) -> Transition:
        """Normalise sampled transitions with today's statistics."""
        policy = self.policy(state)
        reward_scale = 1.0 if state.return_scale is None else state.return_scale.scale
        return transitions._replace(
            s_tm1=policy.preprocess(transitions.s_tm1),
            r_t=transitions.r_t * reward_scale,
            s_t=policy.preprocess(transitions.s_t),
        )

    # A chunk of steps

    def chunk(
        self, state: TrainingState, step: Int[Array, ""], number: Int[Array, ""]
    ) -> tuple[TrainingState, ChunkLog]:
        """Run `number` steps of all environments, at most `chunk_steps` in all."""
        shape = (self.vector_steps, self.config.num_envs)
        updates_before = state.learner.updates
        log = ChunkLog(
            ended=jnp.zeros(shape, jnp.bool_),
            episode_return=jnp.zeros(shape),
            episode_length=jnp.zeros(shape, jnp.int32),
            sums={name: jnp.float32(0) for name in Agent.metric_names},
            updates=jnp.int32(0),
            sigma=jnp.zeros(len(noisy_layers(state.learner.online))),
            action_change=jnp.float32(0),
        )

        def body(i: Int[Array, ""], carry: tuple[TrainingState, ChunkLog]):
            state, log = carry
            state, sums = self.step(state, step + i * self.config.num_envs, log.sums)
            log = log._replace(
                ended=log.ended.at[i].set(state.time_step.last),
                episode_return=log.episode_return.at[i].set(state.episode_return),
                episode_length=log.episode_length.at[i].set(state.episode_length),
                sums=sums,
            )
            return state, log

        state, log = jax.lax.fori_loop(0, number, body, (state, log))
        key, probe_key = jax.random.split(state.key)
        layers = noisy_layers(state.learner.online).values()
        log = log._replace(
            updates=state.learner.updates - updates_before,
            sigma=jnp.stack([mean_abs_sigma(layer) for layer in layers]),
            action_change=self._action_change(state, probe_key),
        )
        return state._replace(key=key), log

    @property
    def vector_steps(self) -> int:
        """Steps of all environments in a whole chunk."""
        return max(self.config.chunk_steps // self.config.num_envs, 1)

    def _action_change(self, state: TrainingState, key: PRNGKeyArray) -> Float[Array, ""]:
        """How often, on the newest observations, a draw of noise changes the greedy action."""
        network, replay = state.learner.online, state.replay
        slots = math.ceil(PROBE_OBSERVATIONS / self.config.num_envs)
        newest = (replay.position - 1 - jnp.arange(slots)) % self.replay.slots
        seen = replay.rows.observation[newest]
        seen = self.policy(state).preprocess(seen.reshape(-1, *seen.shape[2:]))
        mean_action = jnp.argmax(values(network, seen, None), axis=-1)

        def changed(key: PRNGKeyArray) -> Array:
            q = values(network, seen, sample_noise(network, key))
            return jnp.argmax(q, axis=-1) != mean_action

        return jnp.mean(jax.lax.map(changed, jax.random.split(key, PROBE_DRAWS)))


def _row(time_step: TimeStep, action: Int[Array, " envs"]) -> Row:
    return Row(
        observation=time_step.observation,
        action=action,
        reward=time_step.reward,
        terminated=time_step.terminated,
        last=time_step.last,
    )


# The loop, off the device


@dataclasses.dataclass(frozen=True)
class Episode:
    """A finished training episode."""

    step: int  # environment steps taken when it ended, all environments counted
    episode_return: float
    length: int  # steps


@dataclasses.dataclass(frozen=True)
class SeedChunk:
    """What one seed did in a chunk."""

    updates: int  # since the start
    episodes: list[Episode]
    metrics: dict[str, float]  # means over the chunk's updates; NaN if there were none
    sigma: dict[str, float]  # mean |sigma| of each noisy layer
    action_change: float  # share of observations on which noise changes the greedy action


@dataclasses.dataclass(frozen=True)
class Chunk:
    """What a run did since the last chunk. `state` is void once the next chunk is asked for."""

    steps: int  # since the start, summed over environments
    seeds: list[SeedChunk]
    state: TrainingState  # [seeds, ...]
    clip: float | None  # of normalised observations

    def policy(self, index: int) -> Policy:
        """The policy of the seed at `index`: a copy, which stays valid."""
        parts = self.state.learner.online, self.state.moments
        network, moments = jax.tree.map(lambda x: x[index], parts)
        return Policy(network, moments, self.clip)


class _Program(NamedTuple):
    """A runner and its two functions, compiled at their first call."""

    runner: DeviceRunner
    init: Callable[[PRNGKeyArray], TrainingState]
    chunk: Callable[[TrainingState, Array, Array], tuple[TrainingState, ChunkLog]]


@lru_cache(maxsize=8)
def _program(config: Config, env: DeviceEnvironment) -> _Program:
    """Kept, so that training again in one process, with another seed, compiles nothing."""
    runner = DeviceRunner.create(config, env)
    chunk = jax.jit(partial(_chunk_of_seeds, runner), donate_argnums=0)
    return _Program(runner, jax.jit(jax.vmap(runner.init)), chunk)


def run(config: Config, env: DeviceEnvironment, keys: PRNGKeyArray) -> Iterator[Chunk]:
    """Train, and yield after each chunk of steps until the steps or updates are used up.

    Args:
        config: the options. Its `seed` is not used here: `keys` stand for it.
        env: the environment to train on.
        keys: a key for each seed.
    """
    program = _program(config.replace(seed=0, num_seeds=1, steps=1), env)
    runner = program.runner
    state = program.init(keys)
    num_seeds = len(keys)
    total = math.ceil(config.steps / config.num_envs)
    done = 0
    updates = np.zeros(num_seeds, int)
    while done < total and (config.max_updates is None or updates.min() < config.max_updates):
        number = min(runner.vector_steps, total - done)
        state, log = program.chunk(state, jnp.int32(done * config.num_envs), jnp.int32(number))
        log = jax.tree.map(np.asarray, log)
        updates += log.updates
        names = list(noisy_layers(state.learner.online))
        seeds = [
            _seed_chunk(jax.tree.map(lambda x, i=i: x[i], log), names, done, int(updates[i]))
            for i in range(num_seeds)
        ]
        done += number
        yield Chunk(done * config.num_envs, seeds, state, config.observation_clip)


def _chunk_of_seeds(
    runner: DeviceRunner, state: TrainingState, step: Int[Array, ""], number: Int[Array, ""]
) -> tuple[TrainingState, ChunkLog]:
    if len(state.key) > 1:
        return jax.vmap(runner.chunk, in_axes=(0, None, None))(state, step, number)
    # A batch of one costs time in every product; without it nothing is copied.
    one = runner.chunk(jax.tree.map(lambda x: x[0], state), step, number)
    return jax.tree.map(lambda x: x[None], one)


def _seed_chunk(log: ChunkLog, layers: list[str], done: int, updates: int) -> SeedChunk:
    envs = log.ended.shape[1]
    episodes = [
        Episode(
            step=(done + int(i) + 1) * envs,
            episode_return=float(log.episode_return[i, e]),
            length=int(log.episode_length[i, e]),
        )
        for i, e in np.argwhere(log.ended)
    ]
    made = int(log.updates)
    return SeedChunk(
        updates=updates,
        episodes=episodes,
        metrics={name: float(x) / made if made else math.nan for name, x in log.sums.items()},
        sigma=dict(zip(layers, map(float, log.sigma), strict=True)),
        action_change=float(log.action_change),
    )
