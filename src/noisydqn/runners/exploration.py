"""The explorers that a config can name, and how a run finds a user's explorer again.

A new explorer is a class with its options and one line in `EXPLORERS`.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from noisydqn.errors import UserError, in_one_line
from noisydqn.imports import find, is_inert, name_of
from noisydqn.nets.network import QNetwork
from noisydqn.nets.noisy import NetworkNoise, sample_noise, scaled
from noisydqn.options import ABOVE_ZERO, at_least, between, convert_fields
from noisydqn.runners.explorer import (
    Actions,
    Count,
    Explorer,
    Flag,
    Flags,
    Key,
    Observation,
    Values,
    ValuesFn,
)
from noisydqn.trees import Flat

Noise = Flat[NetworkNoise]

GOAL_RATE = 0.1
"""How fast noise is scaled to its goal: the change of the logarithm of its factor in a step of all
environments, for each unit of difference between the goal and the share of actions changed."""
GOAL_RANGE = math.log(1_000)
"""Limit on the logarithm of the factor, in both directions."""
GOAL_AVERAGE = 0.01
"""Weight of the newest step in the reported share of actions changed."""


class ScaledNoise(NamedTuple):
    """The state of noise that is scaled to a goal."""

    noise: Noise
    log_factor: Float[Array, ""]
    goal: Float[Array, ""]
    changed: Float[Array, ""]  # moving average of the share of actions that noise changed


State = Noise | ScaledNoise
"""The state of a noisy explorer, without a goal and with one."""


def _in_steps(share: float | None, otherwise: int, steps: int) -> int:
    """Return the environment steps of a schedule: a share of the run's if there is one."""
    return otherwise if share is None else max(round(share * steps), 1)


def _between(start: float, end: float, step: Count, steps: int) -> Float[Array, ""]:
    """Return what goes from start to end within so many steps, linearly."""
    return start + (end - start) * jnp.minimum(step / steps, 1)


@dataclasses.dataclass(frozen=True)
class Greedy(Explorer):
    """The greedy action of mean weights, without exploration."""

    def act(
        self, state: Any, values_fn: ValuesFn, observation: Observation, step: Count, key: Key
    ) -> tuple[Actions, Any]:
        """Choose the greedy actions."""
        del step, key
        return _greedy(values_fn(observation)), state


@dataclasses.dataclass(frozen=True)
class Noisy(Explorer):
    """The greedy action under a noise sample, which is held for a while.

    The state is the sample: one, if all environments share it, else [envs, ...]. With a goal it is
    a `ScaledNoise`.
    """

    acting_noise: Literal["step", "update", "episode"] = "update"
    """How long a noise sample is held while acting. Before learning starts, "update" resamples
    when an update would be made."""
    acting_noise_shared: bool = False
    """All environments act under one noise sample; otherwise each has its own."""
    noise_goal: Annotated[float | None, between(0, 1)] = None
    """Share of greedy actions that noise is to change while acting. All noise is multiplied by a
    factor that rises while noise changes fewer and falls while it changes more (adapted from
    Plappert et al. 2018, "Parameter Space Noise"). If none, the factor is 1."""
    noise_goal_start: Annotated[float, between(0, 1)] = 1.0
    """Share of greedy actions that noise is to change at the start."""
    noise_goal_steps: Annotated[int, at_least(1)] = 20_000
    """Environment steps over which that share goes from start to goal, linearly."""
    noise_goal_share: Annotated[float | None, ABOVE_ZERO, between(0, 1)] = None
    """Share of the run's steps over which it does so, instead of `noise_goal_steps`."""

    def __post_init__(self) -> None:
        convert_fields(self)

    def of_run(self, steps: int) -> Explorer:
        """Turn the share into steps."""
        number = _in_steps(self.noise_goal_share, self.noise_goal_steps, steps)
        return dataclasses.replace(self, noise_goal_steps=number, noise_goal_share=None)

    @property
    def noisy_layers(self) -> bool:
        """True: the noise is that of the layers."""
        return True

    @property
    def resamples_every_step(self) -> bool:
        """Whether the noise changes also between updates."""
        return self.acting_noise != "update"

    def init(self, network: QNetwork, num_envs: int, key: Key) -> State:
        """Sample noise: once if it is shared, else for each environment, [envs, ...]."""
        sample = self._sample(network, num_envs, key)
        if self.noise_goal is None:
            return sample
        start = jnp.float32(self.noise_goal_start)
        return ScaledNoise(sample, jnp.float32(0), start, jnp.float32(0))

    def _sample(self, network: QNetwork, num_envs: int, key: Key) -> Noise:
        def sample(key: Key) -> Noise:
            return Flat.of(sample_noise(network, key, shared=self.acting_noise_shared))

        if self.acting_noise_shared:
            return sample(key)
        return jax.vmap(sample)(jax.random.split(key, num_envs))

    def noise(self, state: State) -> NetworkNoise:
        """Return the noise held, scaled to the goal if there is one."""
        if isinstance(state, ScaledNoise):
            return scaled(state.noise.tree, jnp.exp(state.log_factor))
        return state.tree

    def act(
        self,
        state: State,
        values_fn: ValuesFn,
        observation: Observation,
        step: Count,
        key: Key,
    ) -> tuple[Actions, State]:
        """Choose the greedy actions under the noise held."""
        del key
        actions = _greedy(values_fn(observation, self.noise(state)))
        return actions, self.scale(state, actions, values_fn, observation, step)

    def scale(
        self,
        state: State,
        actions: Actions,
        values_fn: ValuesFn,
        observation: Observation,
        step: Count,
    ) -> State:
        """Bring the factor of the noise nearer to its goal, given the greedy actions under it."""
        if self.noise_goal is None or not isinstance(state, ScaledNoise):
            return state
        goal = _between(self.noise_goal_start, self.noise_goal, step, self.noise_goal_steps)
        changed = jnp.mean(actions != _greedy(values_fn(observation)), dtype=jnp.float32)
        log_factor = state.log_factor + GOAL_RATE * (goal - changed)
        return ScaledNoise(
            noise=state.noise,
            log_factor=jnp.clip(log_factor, -GOAL_RANGE, GOAL_RANGE),
            goal=goal.astype(jnp.float32),
            changed=state.changed + GOAL_AVERAGE * (changed - state.changed),
        )

    def resample(
        self,
        state: State,
        network: QNetwork,
        *,
        updated: Flag,
        ended: Flags,
        key: Key,
    ) -> State:
        """Keep the noise or resample it.

        "step": always resample. "update": when updates were scheduled. "episode": where an episode
        starts next; a shared sample is held until an episode starts in any environment.
        """
        held = state.noise if isinstance(state, ScaledNoise) else state
        fresh = self._sample(network, len(ended), key)
        if self.acting_noise != "step":
            anew = updated if self.acting_noise == "update" else ended
            if self.acting_noise_shared:
                anew = jnp.any(anew)
            fresh = held.with_vector(jnp.where(anew[..., None], fresh.vector, held.vector))
        return state._replace(noise=fresh) if isinstance(state, ScaledNoise) else fresh

    def metrics(self, state: State) -> dict[str, Float[Array, ""]]:
        """Return the factor of the noise, its goal, and the share of actions that it changed."""
        if not isinstance(state, ScaledNoise):
            return {}
        return {
            "noise_factor": jnp.exp(state.log_factor),
            "noise_goal": state.goal,
            "changed_actions": state.changed,
        }


@dataclasses.dataclass(frozen=True)
class EpsilonGreedy(Explorer):
    """A random action with probability epsilon, else the greedy one of mean weights.

    With actions of several dimensions each dimension has a random choice with this probability.
    """

    epsilon: Annotated[float, between(0, 1)] = 1.0
    """Share of random actions at the start."""
    epsilon_final: Annotated[float, between(0, 1)] = 0.05
    """Share of random actions after `epsilon_steps`, approached linearly."""
    epsilon_steps: Annotated[int, at_least(1)] = 20_000
    """Environment steps over which epsilon goes from start to end."""
    epsilon_share: Annotated[float | None, ABOVE_ZERO, between(0, 1)] = None
    """Share of the run's steps over which it does, instead of `epsilon_steps`. A run that is
    resumed with other --steps then follows the schedule of the new length."""

    def __post_init__(self) -> None:
        convert_fields(self)

    def of_run(self, steps: int) -> Explorer:
        """Turn the share into steps."""
        number = _in_steps(self.epsilon_share, self.epsilon_steps, steps)
        return dataclasses.replace(self, epsilon_steps=number, epsilon_share=None)

    def choose(self, q: Values, step: Count, key: Key) -> Actions:
        """Choose actions by their values."""
        epsilon = _between(self.epsilon, self.epsilon_final, step, self.epsilon_steps)
        choice_key, action_key = jax.random.split(key)
        explore = jax.random.uniform(choice_key, q.shape[:-1]) < epsilon
        return jnp.where(explore, _uniform(action_key, q.shape), _greedy(q))

    def act(
        self, state: Any, values_fn: ValuesFn, observation: Observation, step: Count, key: Key
    ) -> tuple[Actions, Any]:
        """Choose random or greedy actions."""
        return self.choose(values_fn(observation), step, key), state


@dataclasses.dataclass(frozen=True)
class Both(Noisy, EpsilonGreedy):
    """A random action with probability epsilon, else the greedy one under a noise sample."""

    def of_run(self, steps: int) -> Explorer:
        """Turn the shares into steps."""
        return dataclasses.replace(
            self,
            noise_goal_steps=_in_steps(self.noise_goal_share, self.noise_goal_steps, steps),
            noise_goal_share=None,
            epsilon_steps=_in_steps(self.epsilon_share, self.epsilon_steps, steps),
            epsilon_share=None,
        )

    def act(
        self,
        state: State,
        values_fn: ValuesFn,
        observation: Observation,
        step: Count,
        key: Key,
    ) -> tuple[Actions, State]:
        """Choose random actions, or greedy ones under the noise held."""
        q = values_fn(observation, self.noise(state))
        state = self.scale(state, _greedy(q), values_fn, observation, step)
        return self.choose(q, step, key), state


@dataclasses.dataclass(frozen=True)
class Boltzmann(Explorer):
    """Actions sampled from the softmax of their values divided by a temperature."""

    temperature: Annotated[float, ABOVE_ZERO] = 1.0
    """Temperature of the softmax over action values, in units of scaled rewards."""

    def __post_init__(self) -> None:
        convert_fields(self)

    def act(
        self, state: Any, values_fn: ValuesFn, observation: Observation, step: Count, key: Key
    ) -> tuple[Actions, Any]:
        """Sample the actions."""
        del step
        logits = values_fn(observation) / self.temperature
        return jax.random.categorical(key, logits).astype(jnp.int32), state


@dataclasses.dataclass(frozen=True)
class RandomFirst(Explorer):
    """Uniformly random actions at the start, then another explorer.

    Args:
        then: the other explorer, which keeps its own state from the start.
        steps: environment steps with random actions.
    """

    then: Explorer
    steps: int

    @property
    def noisy_layers(self) -> bool:
        """Whether the other explorer needs noisy layers."""
        return self.then.noisy_layers

    @property
    def resamples_every_step(self) -> bool:
        """Whether the other explorer resamples between updates."""
        return self.then.resamples_every_step

    def noise(self, state: Any) -> NetworkNoise | None:
        """Return the other explorer's noise, though it does not choose the random actions."""
        return self.then.noise(state)

    def init(self, network: QNetwork, num_envs: int, key: Key) -> Any:
        """Make the other explorer's state."""
        return self.then.init(network, num_envs, key)

    def act(
        self, state: Any, values_fn: ValuesFn, observation: Observation, step: Count, key: Key
    ) -> tuple[Actions, Any]:
        """Choose random actions, later those of the other explorer."""
        key, random_key = jax.random.split(key)
        actions, state = self.then.act(state, values_fn, observation, step, key)
        shape = jax.eval_shape(values_fn, observation).shape  # nothing is computed
        return jnp.where(step < self.steps, _uniform(random_key, shape), actions), state

    def resample(
        self, state: Any, network: QNetwork, *, updated: Flag, ended: Flags, key: Key
    ) -> Any:
        """Resample the other explorer's state."""
        return self.then.resample(state, network, updated=updated, ended=ended, key=key)

    def metrics(self, state: Any) -> dict[str, Float[Array, ""]]:
        """Return the other explorer's."""
        return self.then.metrics(state)


def _greedy(q: Values) -> Actions:
    return jnp.argmax(q, axis=-1).astype(jnp.int32)


def _uniform(key: Key, shape: tuple[int, ...]) -> Actions:
    """Sample one of `shape[-1]` choices for each environment and dimension, `shape[:-1]`."""
    return jax.random.randint(key, shape[:-1], 0, shape[-1], jnp.int32)


EXPLORERS: dict[str, type[Explorer]] = {
    "noisy": Noisy,
    "epsilon-greedy": EpsilonGreedy,
    "both": Both,
    "greedy": Greedy,
    "boltzmann": Boltzmann,
}
"""The explorers that a config can name."""


@dataclasses.dataclass(frozen=True)
class Imported(Explorer):
    """A user's explorer, by the name of its class or of a function that makes it.

    Args:
        name: `python:module.name`. It is imported by `build`, not before.
    """

    name: str

    def act(
        self, state: Any, values_fn: ValuesFn, observation: Observation, step: Count, key: Key
    ) -> tuple[Actions, Any]:
        """Choose actions as that explorer does; programs hold what `build` returns instead."""
        return self.build().act(state, values_fn, observation, step, key)

    def build(self) -> Explorer:
        """Import and make the explorer.

        Raises:
            UserError: there is no such name, or it does not make an explorer without arguments.
        """
        maker = find(self.name)
        try:
            explorer: object = maker()
        except Exception as error:
            raise UserError(
                f"--exploration {self.name} failed without arguments ({in_one_line(error)})"
            ) from error
        if isinstance(explorer, type) or not isinstance(explorer, Explorer):
            raise UserError(
                f"--exploration {self.name} made {type(explorer).__name__}, expected a "
                "noisydqn.Explorer"
            )
        return explorer


def findable(explorer: Explorer | Callable[[], Explorer]) -> Explorer:
    """Return an explorer as a config holds it, so that a saved run finds it again.

    Args:
        explorer: one of `EXPLORERS`, an instance of a class of the user's that its class makes
            without arguments, or a function of a module that makes one.

    Raises:
        UserError: the explorer could not be found again.
    """
    of_instance = isinstance(explorer, Explorer) and not isinstance(explorer, type)
    if isinstance(explorer, Explorer) and type(explorer) in EXPLORERS.values():
        return explorer
    maker: Any = type(explorer) if of_instance else explorer
    imported = Imported(name_of(maker))
    problem = None
    if is_inert(imported.name) or find(imported.name) is not maker:
        problem = "cannot be found again by its name"
    elif imported.build() != explorer and of_instance:
        problem = "is not what its class makes without arguments"
    if problem is not None:
        raise UserError(
            f"the explorer {imported.name} {problem}, so the run could not be resumed: give a "
            "function of a module that makes it without arguments"
        )
    return imported
