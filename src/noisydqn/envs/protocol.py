"""The interface of an environment, on the device or on the host, for training and play."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from noisydqn.envs.spec import EnvironmentSpec, Statistic

if TYPE_CHECKING:
    from noisydqn.envs.device import DeviceEnvironment
    from noisydqn.envs.host import HostEnvironment

R = TypeVar("R")


class Environment(Protocol):
    """An environment behind one of two adapters: `DeviceEnvironment` or `HostEnvironment`."""

    @property
    def spec(self) -> EnvironmentSpec:
        """The interface of the environment."""
        ...

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """The statistics that evaluations report where an episode's `info` holds them."""
        ...

    @property
    def video_problem(self) -> str | None:
        """The reason, in a line, why no video can be made, or None."""
        ...

    @property
    def trains_seeds_together(self) -> bool:
        """Whether one program trains all seeds side by side."""
        ...

    @property
    def plays_one_at_a_time(self) -> bool:
        """Whether one use of the environment should end before the next begins."""
        ...

    def tell_notices(self, tell: Callable[[str], None]) -> None:
        """Send notices to `tell` from now on: lines about problems that do not end a run."""
        ...

    def by_kind(
        self,
        *,
        device: "Callable[[DeviceEnvironment], R]",
        host: "Callable[[HostEnvironment], R]",
    ) -> R:
        """Call the function for this kind of environment and return its result."""
        ...
