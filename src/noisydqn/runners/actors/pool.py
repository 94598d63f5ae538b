"""The interface of the places where actors run."""

from collections.abc import Callable
from typing import Any, Protocol

from noisydqn.runners.actors.messages import Answer, Order, Setup, Stand, Weights


class ActorPool(Protocol):
    """A place that runs actors. Nothing here waits longer than it is told to."""

    def start(self, setup: Setup, stand: Stand, life: int) -> None:
        """Start an actor; one of the same index is ended before.

        Args:
            setup: what it is made of.
            stand: where it stands.
            life: goes along with its answers.

        Raises:
            UserError: the environment cannot be sent to another process.
        """
        ...

    def publish(self, weights: Weights) -> Any:
        """Prepare weights for orders to any number of actors."""
        ...

    def order(self, actor: int, order: Order) -> None:
        """Queue an order for an actor; its weights are what `publish` returned."""
        ...

    def answers(self, seconds: float) -> list[Answer]:
        """Return what has arrived, waiting up to some seconds for the first."""
        ...

    def end(self, actor: int) -> None:
        """End an actor at once; what it has not sent is lost."""
        ...

    def close(self) -> None:
        """End all actors."""
        ...


MakeActorPool = Callable[[Callable[[str], None]], ActorPool]
"""Makes a pool that tells of problems that do not end a run."""
