"""Exploration: how actions are chosen while training.

An `Explorer` is a value, a frozen dataclass of its options. Its state, such as the noise held,
is passed in and returned:

    state = explorer.init(network, num_envs, key)
    actions, state = explorer.act(state, values_fn, observation, step, key)
    state = explorer.resample(state, network, updated=updated, ended=ended, key=key)

All methods are traced by JAX. A scheme of your own needs one class, with `act` if it has no state:

    @dataclass(frozen=True)
    class Optimistic(Explorer):
        def act(self, state, values_fn, observation, step, key): ...

    noisydqn.train(env="CartPole-v1", explorer=Optimistic())
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol, get_type_hints, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from noisydqn.config.config import Config
from noisydqn.errors import UserError, in_one_line
from noisydqn.imports import PYTHON, find, name_of
from noisydqn.nets.network import QNetwork
from noisydqn.nets.noisy import NetworkNoise, sample_noise
from noisydqn.options import ABOVE_ZERO, at_least, between, convert_fields
from noisydqn.trees import Flat

Actions = Int[Array, " envs"]
Count = Int[Array, ""]
Flag = Bool[Array, ""]
Flags = Bool[Array, " envs"]
Key = PRNGKeyArray
Noise = Flat[NetworkNoise]
Observation = Float[Array, "envs ..."]
Values = Float[Array, "envs actions"]


class ValuesFn(Protocol):
    """The online network's action values at the newest observations."""

    def __call__(
        self,
        observation: Observation,
        /,
        noise: NetworkNoise | None = None,
    ) -> Values:
        """Compute the values [envs, actions].

        Args:
            observation: one per environment, preprocessed.
            noise: a noise sample that all environments share or, sampled with `shared=False`,
                samples with a leading axis [envs]. None uses the mean weights.
        """
        ...


@runtime_checkable
class Explorer(Protocol):
    """A way to explore. Subclasses inherit defaults for all but `act`."""

    @property
    def noisy_layers(self) -> bool:
        """Whether the network needs noisy layers."""
        return False

    @property
    def resamples_every_step(self) -> bool:
        """Whether `resample` matters also after steps that bring no update.

        Where it does not, the host runner saves a compiled call at such steps.
        """
        return False

    def init(self, network: QNetwork, num_envs: int, key: Key) -> Any:
        """Make the state before the first step, any tree of arrays."""
        del network, num_envs, key
        return ()

    def act(
        self, state: Any, values_fn: ValuesFn, observation: Observation, step: Count, key: Key
    ) -> tuple[Actions, Any]:
        """Choose an action, an int32, for every environment.

        The action at the last observation of an episode is ignored.

        Args:
            state: the explorer's own.
            values_fn: action values of the online network.
            observation: the newest ones, preprocessed.
            step: environment steps before this step, all environments counted.
            key: a new one at every step.

        Returns:
            The actions [envs] and the next state, of the same shapes and types.
        """
        ...

    def resample(
        self, state: Any, network: QNetwork, *, updated: Flag, ended: Flags, key: Key
    ) -> Any:
        """Prepare the state for the next step.

        Args:
            state: the explorer's own.
            network: the online network.
            updated: whether updates were scheduled after this step, also before learning starts.
            ended: where an episode has just ended.
            key: a new one at every call.
        """
        del network, updated, ended, key
        return state


@dataclasses.dataclass(frozen=True)
class Greedy(Explorer):
    """The greedy action of mean weights, always."""

    def act(
        self, state: Any, values_fn: ValuesFn, observation: Observation, step: Count, key: Key
    ) -> tuple[Actions, Any]:
        """Choose the greedy actions."""
        del step, key
        return _greedy(values_fn(observation)), state


@dataclasses.dataclass(frozen=True)
class Noisy(Explorer):
    """The greedy action under a noise sample, which is held for a while.

    The state is the sample: one, if all environments share it, else [envs, ...].
    """

    acting_noise: Literal["step", "update", "episode"] = "update"
    """Noise: how long a noise sample is held while acting. Before learning starts, "update"
    resamples when an update would be made."""
    acting_noise_shared: bool = False
    """Noise: all environments act under one noise sample (else each has its own)."""

    def __post_init__(self) -> None:
        convert_fields(self)

    @property
    def noisy_layers(self) -> bool:
        """True: the noise is that of the layers."""
        return True

    @property
    def resamples_every_step(self) -> bool:
        """Whether the noise changes also between updates."""
        return self.acting_noise != "update"

    def init(self, network: QNetwork, num_envs: int, key: Key) -> Noise:
        """Sample noise: once if it is shared, else for each environment, [envs, ...]."""

        def sample(key: Key) -> Noise:
            return Flat.of(sample_noise(network, key, shared=self.acting_noise_shared))

        if self.acting_noise_shared:
            return sample(key)
        return jax.vmap(sample)(jax.random.split(key, num_envs))

    def values(self, state: Noise, values_fn: ValuesFn, observation: Observation) -> Values:
        """Compute action values under the noise held."""
        return values_fn(observation, state.tree)

    def act(
        self, state: Noise, values_fn: ValuesFn, observation: Observation, step: Count, key: Key
    ) -> tuple[Actions, Noise]:
        """Choose the greedy actions under the noise held."""
        del step, key
        return _greedy(self.values(state, values_fn, observation)), state

    def resample(
        self, state: Noise, network: QNetwork, *, updated: Flag, ended: Flags, key: Key
    ) -> Noise:
        """Keep the noise or sample it anew.

        "step": always anew. "update": when updates were scheduled. "episode": where an episode
        starts next; a shared sample is held until an episode starts in any environment.
        """
        fresh = self.init(network, len(ended), key)
        if self.acting_noise == "step":
            return fresh
        anew = updated if self.acting_noise == "update" else ended
        if self.acting_noise_shared:
            anew = jnp.any(anew)
        return fresh.with_vector(jnp.where(anew[..., None], fresh.vector, state.vector))


@dataclasses.dataclass(frozen=True)
class EpsilonGreedy(Explorer):
    """A random action with probability epsilon, else the greedy one of mean weights."""

    epsilon: Annotated[float, between(0, 1)] = 1.0
    """Noise: share of random actions at the start, where exploration is by epsilon."""
    epsilon_final: Annotated[float, between(0, 1)] = 0.05
    """Noise: share of random actions at the end of `epsilon_steps`; goes there linearly."""
    epsilon_steps: Annotated[int, at_least(1)] = 20_000
    """Noise: environment steps over which epsilon goes from start to end."""

    def __post_init__(self) -> None:
        convert_fields(self)

    def choose(self, q: Values, step: Count, key: Key) -> Actions:
        """Choose actions by their values."""
        done = jnp.minimum(step / self.epsilon_steps, 1)
        epsilon = self.epsilon + (self.epsilon_final - self.epsilon) * done
        choice_key, action_key = jax.random.split(key)
        explore = jax.random.uniform(choice_key, q.shape[:1]) < epsilon
        return jnp.where(explore, _uniform(action_key, q.shape), _greedy(q))

    def act(
        self, state: Any, values_fn: ValuesFn, observation: Observation, step: Count, key: Key
    ) -> tuple[Actions, Any]:
        """Choose random or greedy actions."""
        return self.choose(values_fn(observation), step, key), state


@dataclasses.dataclass(frozen=True)
class Both(Explorer):
    """Epsilon-greedy exploration with the values of a noisy network."""

    noise: Noisy = dataclasses.field(default_factory=Noisy)
    random: EpsilonGreedy = dataclasses.field(default_factory=EpsilonGreedy)

    @property
    def noisy_layers(self) -> bool:
        """True: the noise is that of the layers."""
        return True

    @property
    def resamples_every_step(self) -> bool:
        """Whether the noise changes also between updates."""
        return self.noise.resamples_every_step

    def init(self, network: QNetwork, num_envs: int, key: Key) -> Noise:
        """Sample noise."""
        return self.noise.init(network, num_envs, key)

    def act(
        self, state: Noise, values_fn: ValuesFn, observation: Observation, step: Count, key: Key
    ) -> tuple[Actions, Noise]:
        """Choose random actions, or greedy ones under the noise held."""
        return self.random.choose(
            self.noise.values(state, values_fn, observation), step, key
        ), state

    def resample(
        self, state: Noise, network: QNetwork, *, updated: Flag, ended: Flags, key: Key
    ) -> Noise:
        """Keep the noise or sample it anew."""
        return self.noise.resample(state, network, updated=updated, ended=ended, key=key)


@dataclasses.dataclass(frozen=True)
class Boltzmann(Explorer):
    """Actions sampled from the softmax of their values divided by a temperature."""

    temperature: Annotated[float, ABOVE_ZERO] = 1.0
    """Noise: temperature of the softmax over action values, in units of scaled rewards, where
    exploration is by "boltzmann"."""

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


def _greedy(q: Values) -> Actions:
    return jnp.argmax(q, axis=-1).astype(jnp.int32)


def _uniform(key: Key, shape: tuple[int, ...]) -> Actions:
    """Sample one of `shape[1]` actions for each of `shape[0]` environments."""
    return jax.random.randint(key, shape[:1], 0, shape[1], jnp.int32)


EXPLORERS: dict[str, type[Explorer]] = {
    "noisy": Noisy,
    "epsilon-greedy": EpsilonGreedy,
    "both": Both,
    "greedy": Greedy,
    "boltzmann": Boltzmann,
}
"""The explorers that a config can name."""


def make_explorer(config: Config) -> Explorer:
    """Make the explorer of a config, from the options that have the names of its fields.

    Raises:
        UserError: the config names a class or a function of the user's that makes no explorer.
    """
    name = config.exploration
    explorer = _made(name) if name.startswith(PYTHON) else _from_options(EXPLORERS[name], config)
    return RandomFirst(explorer, config.random_steps) if config.random_steps > 0 else explorer


def _made(name: str) -> Explorer:
    """Call what the user's name stands for, without arguments."""
    maker = find(name)
    try:
        explorer: object = maker()
    except Exception as error:
        raise UserError(
            f"--exploration {name} failed without arguments ({in_one_line(error)})"
        ) from error
    if isinstance(explorer, type) or not isinstance(explorer, Explorer):
        raise UserError(
            f"--exploration {name} made {type(explorer).__name__}, expected a "
            "noisydqn.runners.exploration.Explorer"
        )
    return explorer


def _from_options(kind: type[Any], config: Config) -> Any:
    hints, options = get_type_hints(kind), dict[str, Any]()
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            options[field.name] = _from_options(hint, config)
        else:
            options[field.name] = getattr(config, field.name)
    return kind(**options)


def explorer_options(explorer: Explorer | Callable[[], Explorer]) -> dict[str, Any]:
    """Return the options by which a config, and a saved run, find an explorer again.

    Args:
        explorer: one of `EXPLORERS`, an instance of a class of the user's that its class makes
            without arguments, or a function of a module that makes one.

    Raises:
        UserError: the explorer could not be found again.
    """
    for name, kind in EXPLORERS.items():
        if type(explorer) is kind:
            return {"exploration": name, **_to_options(explorer)}
    of_instance = isinstance(explorer, Explorer) and not isinstance(explorer, type)
    maker: Any = type(explorer) if of_instance else explorer
    name = name_of(maker)
    problem = None
    if "<" in name or find(name) is not maker:
        problem = "cannot be found again by its name"
    elif of_instance and _made(name) != explorer:
        problem = "is not what its class makes without arguments"
    if problem is not None:
        raise UserError(
            f"the explorer {name} {problem}, so the run could not be resumed: give a function of "
            "a module that makes it without arguments"
        )
    _made(name)
    return {"exploration": name}


def _to_options(explorer: Any) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for field in dataclasses.fields(explorer):
        value = getattr(explorer, field.name)
        options |= _to_options(value) if dataclasses.is_dataclass(value) else {field.name: value}
    return options
