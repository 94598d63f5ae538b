"""Where the state of a run on the device lies: the parts on its leading axis, and their devices.

The parts are the seeds that are trained side by side or, of a single seed, its shards: shares of
its environments and of what it learns from, one on each device, with a copy of the learner.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from noisydqn.compilation import Program
from noisydqn.errors import UserError, counted
from noisydqn.program_cache import Device, current_device
from noisydqn.shards import AXIS, Shards

R = TypeVar("R")
Tree = TypeVar("Tree")


def usable_devices() -> list[Device]:
    """List the devices that this process may use; the first is the one that others use."""
    if jax.config.values["jax_default_device"] is not None:  # the surrounding program chose it
        return [current_device()]
    return jax.local_devices()


def devices_for(number: int) -> tuple[Device, ...]:
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
    devices: tuple[Device, ...]

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

    @property
    def groups(self) -> list[tuple[Device, ...]]:
        """The devices of each program: all of them for shards, which exchange data; one for seeds.

        A program for the seeds of one device is the one that a run of these seeds alone has. So
        its bits are the same, which those of one program for all devices would not be.
        """
        if self.shards.number > 1:
            return [self.devices]
        return [(device,) for device in self.devices]

    def lift(self, function: Callable[..., Any], states: int) -> Callable[..., Any]:
        """Lift a function of one part to those of a program.

        Its first `states` arguments have an axis of parts; the others are the same for all.
        """
        of_device = _of_parts(function, self.parts // len(self.devices), states)
        if self.shards.number == 1:
            return of_device

        def of_all(*args: Any) -> Any:
            divided, same = PartitionSpec(AXIS), PartitionSpec()
            specs = (divided,) * states + (same,) * (len(args) - states)
            # Every shard has a copy of its own of what is the same in all, so nothing that
            # `check_vma` could check is promised.
            return jax.shard_map(
                of_device,
                mesh=_mesh(self.devices),
                in_specs=specs,
                out_specs=divided,
                check_vma=False,
            )(*args)

        return of_all

    def structs(self, structs: Tree, group: tuple[Device, ...], *, same: bool = False) -> Tree:
        """Add to the shapes and types of a program's arguments where they lie.

        Args:
            structs: of arrays with an axis of parts.
            group: the devices of the program.
            same: the arrays have no such axis, and are the same for all parts.
        """
        if len(self.devices) == 1:
            return structs
        sharding = NamedSharding(_mesh(group), PartitionSpec() if same else PartitionSpec(AXIS))
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), structs
        )

    def place(self, tree: Tree) -> Tree:
        """Move arrays [parts, ...] to their devices."""
        return tree if len(self.devices) == 1 else jax.device_put(tree, self._divided)

    @property
    def _divided(self) -> NamedSharding:
        return NamedSharding(_mesh(self.devices), PartitionSpec(AXIS))

    def split(self, tree: Tree) -> list[Tree]:
        """Return each device's part of arrays that lie on all; nothing is copied."""

        def of(x: jax.Array) -> dict[Device, jax.Array]:
            return {shard.device: shard.data for shard in x.addressable_shards}

        leaves, structure = jax.tree.flatten(tree)
        parts = list(map(of, leaves))
        return [
            jax.tree.unflatten(structure, [part[device] for part in parts])
            for device in self.devices
        ]

    def join(self, trees: list[Tree]) -> Tree:
        """Undo `split`."""

        def of(*parts: jax.Array) -> jax.Array:
            shape = sum(map(len, parts)), *parts[0].shape[1:]
            return jax.make_array_from_single_device_arrays(shape, self._divided, list(parts))

        return jax.tree.map(of, *trees)

    def by_seed(self, log: np.ndarray) -> np.ndarray:
        """Join the environments of all shards: from [parts, steps, envs] to [seeds, steps, envs].

        Environment e of shard s becomes environment s * envs + e.
        """
        if self.shards.number == 1:
            return log
        return np.moveaxis(log, 0, 1).reshape(1, log.shape[1], -1)


def _mesh(devices: tuple[Device, ...]) -> Mesh:
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


class Divided(Generic[R]):
    """A function of all parts: one program or, for seeds on several devices, one on each.

    Args:
        placement: of the parts.
        programs: one for each of its groups of devices.
        states: how many arguments have an axis of parts; the others are the same for all.
    """

    def __init__(self, placement: Placement, programs: Sequence[Program[R]], states: int) -> None:
        self.programs = programs
        self._placement, self._states = placement, states

    def __call__(self, *args: Any) -> R:
        """Run the programs, side by side; the result is not waited for."""
        if len(self.programs) == 1:
            return self.programs[0](*args)
        parts, same = self._placement.split(args[: self._states]), args[self._states :]
        results = [run(*part, *same) for run, part in zip(self.programs, parts, strict=True)]
        return self._placement.join(results)


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
