"""The place where the actors of a run play, and what cannot be played by actors."""

import math
from collections.abc import Callable
from typing import Protocol

from noisydqn.cluster import RayCluster
from noisydqn.config.config import Config
from noisydqn.cores import usable_cores
from noisydqn.envs.catalogue import is_atari
from noisydqn.envs.given import Instance, refuse_for_instance
from noisydqn.envs.host import HostEnvironment
from noisydqn.envs.protocol import Environment
from noisydqn.errors import UserError
from noisydqn.runners.actors.local import LocalActors
from noisydqn.runners.actors.pool import ActorPool
from noisydqn.runners.actors.ray_actors import RayActors

RAY_UNITS = 10_000
"""Parts of a core that Ray counts."""


class Place(Protocol):
    """A place where actors run."""

    def make_pool(self, warn: Callable[[str], None]) -> ActorPool:
        """Make a pool that tells of problems that do not end a run."""
        ...

    def warning(self, actors: int) -> str | None:
        """Return a line if the place is small for so many actors."""
        ...

    def close(self) -> None:
        """Leave the place."""
        ...


class Here:
    """Processes of this machine."""

    def make_pool(self, warn: Callable[[str], None]) -> ActorPool:
        """Make a pool."""
        del warn
        return LocalActors()

    def warning(self, actors: int) -> str | None:
        """Return a line if there are more actors than cores."""
        return _crowded(actors, len(usable_cores()), "cores that they and the learner share")

    def close(self) -> None:
        """Do nothing: pools end their actors."""


class OnRay:
    """A Ray cluster.

    Args:
        address: of the cluster.
        actors: that play there.
    """

    def __init__(self, address: str, actors: int) -> None:
        self._cluster, self._actors = RayCluster(address), actors
        alive = [node["Resources"] for node in self._cluster.nodes() if node["Alive"]]
        self._cores = [int(resources.get("CPU", 0.0)) for resources in alive]

    def make_pool(self, warn: Callable[[str], None]) -> ActorPool:
        """Make a pool, in which actors share cores if there are too few."""
        together = math.ceil(self._actors / max(sum(self._cores), 1))  # on a core
        return RayActors(self._cluster, math.floor(RAY_UNITS / together) / RAY_UNITS, warn)

    def warning(self, actors: int) -> str | None:
        """Return a line if there are more actors than cores."""
        return _crowded(actors, sum(self._cores), "cores of the Ray cluster")

    def close(self) -> None:
        """Leave the cluster."""
        self._cluster.close()


def _crowded(actors: int, cores: int, what: str) -> str | None:
    if actors <= cores:
        return None
    return f"--actors {actors} are more than the {cores} {what}: they will be slower than fewer"


def open_place(config: Config, env: Environment, ray: str | None) -> Place:
    """Check that a run can have the actors that it asks for, and open the place where they play.

    Args:
        config: of the run.
        env: its environment.
        ray: the address of a Ray cluster; None for processes of this machine.

    Raises:
        UserError: it cannot, or the cluster cannot be used.
    """
    if config.actors.actors == 0:
        if ray is not None:
            raise UserError("--ray starts actors on a cluster: say how many, with --actors")
        return Here()
    env.by_kind(device=lambda _: _refuse_device(config), host=lambda env: _check(config, env))
    return Here() if ray is None else OnRay(ray, config.actors.actors)


def _refuse_device(config: Config) -> None:
    raise UserError(
        f"--actors {config.actors.actors} plays environments of Gymnasium, and "
        f"{config.environment.env} is one in JAX, which the learner steps on its own device: leave "
        "out --actors"
    )


def _check(config: Config, env: HostEnvironment) -> None:
    actors = config.actors.actors
    if isinstance(env.entry, Instance):
        refuse_for_instance({f"--actors {actors}": True})
    if env.vectorization == "own" and not is_atari(env.entry):
        raise UserError(
            f"--actors {actors} and --vectorization own exclude each other, as such environments "
            "cannot be seeded apart from each other: give --vectorization sync"
        )
