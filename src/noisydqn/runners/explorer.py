"""The interface of exploration: how actions are chosen while training.

An `Explorer` is a value, a frozen dataclass of its options. Its state, such as the noise held,
is passed in and returned:

    state = explorer.init(network, num_envs, key)
    actions, state = explorer.act(state, values_fn, observation, step, key)
    state = explorer.resample(state, network, updated=updated, ended=ended, key=key)

All methods are traced by JAX. A scheme without a state needs `act` alone. `noisydqn.train` takes an
explorer of yours as `explorer=`.
"""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from noisydqn.nets.network import QNetwork
from noisydqn.nets.noisy import NetworkNoise
from noisydqn.types import Mixed

Actions = Int[Array, " envs *d"]
Count = Int[Array, ""]
Flag = Bool[Array, ""]
Flags = Bool[Array, " envs"]
Key = PRNGKeyArray
Observation = Float[Array, "envs ..."] | Mixed
Values = Float[Array, "envs *d actions"]


class ValuesFn(Protocol):
    """The online network's action values at the newest observations."""

    def __call__(
        self,
        observation: Observation,
        /,
        noise: NetworkNoise | None = None,
    ) -> Values:
        """Compute the values [envs, actions]; with action masks, -infinity for invalid actions.

        With actions of D dimensions they are [envs, D, n], and -infinity for choices that a
        dimension does not have.

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

    def of_run(self, steps: int) -> "Explorer":
        """Return the explorer of a run of so many environment steps.

        Where an option is a share of the run, this is where it becomes a number of steps.
        """
        del steps
        return self

    def build(self) -> "Explorer":
        """Return the explorer that acts: this one, unless it only stands for another."""
        return self

    def init(self, network: QNetwork, num_envs: int, key: Key) -> Any:
        """Make the state before the first step, any tree of arrays."""
        del network, num_envs, key
        return ()

    def noise(self, state: Any) -> NetworkNoise | None:
        """Return the noise sample that `act` acts under; None means the mean weights.

        The parallel learner values the states of a rollout under it, if told to.
        """
        del state
        return None

    def act(
        self, state: Any, values_fn: ValuesFn, observation: Observation, step: Count, key: Key
    ) -> tuple[Actions, Any]:
        """Choose an action, an int32, for every environment.

        The action at the last observation of an episode is ignored. An action that is invalid by
        the environment's mask is replaced by a random valid one.

        Args:
            state: the explorer's own.
            values_fn: action values of the online network.
            observation: the newest ones, preprocessed.
            step: environment steps before this step, all environments counted.
            key: a new one at every step.

        Returns:
            The actions, of the values' shape without the last axis: [envs] or [envs, D]. And the
            next state, of the same shapes and types.
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

    def metrics(self, state: Any) -> dict[str, Float[Array, ""]]:
        """Return numbers by name that describe exploration, for metrics.csv after each chunk."""
        del state
        return {}
