"""Where the state of a run on the device lies: the parts on its leading axis, and their devices.

The parts are the seeds that are trained side by side or, of a single seed, its shards: shares of
its environments and of what it learns from, one on each device, with a copy of the learner.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from noisydqn.errors import UserError, counted
from noisydqn.program_cache import current_device
from noisydqn.shards import AXIS, Shards

Tree = TypeVar("Tree")


def usable_devices() -> list[jax.Device]:
    """List the devices that this process may use; the first is the one that others use."""
    if jax.config.values["jax_default_device"] is not None:  # the surrounding program chose it
        return [current_device()]
    return jax.local_devices()


def devices_for(number: int) -> tuple[jax.Device, ...]:
    """Return the devices of a run.

    Raises:
        UserError: there are fewer.
    """
    found = usable_devices()
    if number > len(found):
        raise UserError(
            f"--devices {number}: JAX has {counted(len(found), 'device')} here "
            f"({found[0].platform}); give --devices {len(found)} or less"
        )
    return tuple(found[:number])


@dataclasses.dataclass(frozen=True)
class Placement:
    """The parts of a state, and the devices that they are divided over.

    Args:
        seeds: seeds that are trained side by side.
        shards: of a single seed.
        devices: as many as divide the parts evenly.
    """

    seeds: int
    shards: Shards
    devices: tuple[jax.Device, ...]

    @staticmethod
    def create(num_devices: int, seeds: int) -> "Placement":
        """Divide several seeds over devices, or the data of a single one.

        Raises:
            UserError: there are fewer devices.
        """
        shards = Shards(num_devices if seeds == 1 else 1)
        return Placement(seeds, shards, devices_for(num_devices))

    @property
    def parts(self) -> int:
        """The length of the leading axis."""
        return self.seeds * self.shards.number

    def lift(self, function: Callable[..., Any], states: int) -> Callable[..., Any]:
        """Lift a function of one part to all: its first `states` arguments have an axis of parts.

        The other arguments are the same for all.
        """
        of_device = _of_parts(function, self.parts // len(self.devices), states)
        if len(self.devices) == 1:
            return of_device

        def of_all(*args: Any) -> Any:
            divided, same = PartitionSpec(AXIS), PartitionSpec()
            specs = (divided,) * states + (same,) * (len(args) - states)
            # Every part has a copy of its own of what is the same in all, so nothing that
            # `check_vma` could check is promised.
            return jax.shard_map(
                of_device, mesh=self._mesh, in_specs=specs, out_specs=divided, check_vma=False
            )(*args)

        return of_all

    @property
    def _mesh(self) -> Mesh:
        return Mesh(np.array(self.devices), (AXIS,), axis_types=(AxisType.Auto,))

    def place(self, tree: Tree) -> Tree:
        """Move arrays [parts, ...] to their devices."""
        if len(self.devices) == 1:
            return tree
        return jax.device_put(tree, NamedSharding(self._mesh, PartitionSpec(AXIS)))

    def placed(self, structs: Tree) -> Tree:
        """Add to shapes and types [parts, ...] where such arrays lie."""
        return self._at(structs, PartitionSpec(AXIS))

    def everywhere(self, structs: Tree) -> Tree:
        """Add to shapes and types that every device has such arrays."""
        return self._at(structs, PartitionSpec())

    def _at(self, structs: Tree, spec: PartitionSpec) -> Tree:
        if len(self.devices) == 1:
            return structs
        sharding = NamedSharding(self._mesh, spec)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), structs
        )

    def by_seed(self, log: np.ndarray) -> np.ndarray:
        """Join the environments of all shards: from [parts, steps, envs] to [seeds, steps, envs].

        Environment e of shard s becomes environment s * envs + e.
        """
        if self.shards.number == 1:
            return log
        return np.moveaxis(log, 0, 1).reshape(1, log.shape[1], -1)


def _of_parts(function: Callable[..., Any], parts: int, states: int) -> Callable[..., Any]:
    """Lift a function of one part to several on one device."""

    def of_several(*args: Any) -> Any:
        axes = [0] * states + [None] * (len(args) - states)
        return jax.vmap(function, in_axes=axes)(*args)

    def of_one(*args: Any) -> Any:
        # A batch of one costs time in every product; without it nothing is copied.
        one = jax.tree.map(lambda x: x[0], args[:states])
        return jax.tree.map(lambda x: x[None], function(*one, *args[states:]))

    return of_several if parts > 1 else of_one
