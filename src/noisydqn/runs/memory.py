"""A check before a run that its replay buffers or rollouts fit into the free memory."""

import os
from pathlib import Path

import jax

from noisydqn.config.config import Config
from noisydqn.envs.protocol import Environment
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.errors import ConfigError, UserError
from noisydqn.options import flag
from noisydqn.runners.cores import make_core
from noisydqn.trees import size_of

MAX_PARTS = 4
"""Parts of an observation that a message names, the images first."""
TIGHT = 0.8
"""Share of the free memory that replay buffers may take without a warning."""


def experience_bytes(config: Config, spec: EnvironmentSpec) -> int:
    """Count the bytes of what one seed learns from: its replay buffer or rollout, and frames."""
    state = jax.eval_shape(make_core(config.program, spec).init, jax.random.key(0))
    counted = state._replace(learner=None, statistics=None)
    counted = counted._replace(actor=counted.actor.stack)
    return sum(size_of(leaf) for leaf in jax.tree.leaves(counted))


def check_memory(config: Config, env: Environment) -> str | None:
    """Compare what a run learns from with the memory that is free.

    Returns:
        A warning if they nearly fill it, else None.

    Raises:
        UserError: the replay buffers do not fit.
    """
    free = free_bytes(config.runner.devices)
    together = config.run.num_seeds if env.trains_seeds_together else 1
    return None if free is None else compare(config, env.spec, together, free)


def compare(config: Config, spec: EnvironmentSpec, seeds: int, free: int) -> str | None:
    """Compare the replay buffers of seeds that train together with `free` bytes.

    Returns and raises as `check_memory`.
    """
    needed = seeds * experience_bytes(config, spec)
    if needed <= TIGHT * free:
        return None
    of_seeds = f" for each of {seeds} seeds" if seeds > 1 else ""
    parts = jax.tree.leaves(spec.observation)
    observation = " and ".join(f"{part.dtype} {list(part.shape)}" for part in parts[:MAX_PARTS])
    name = config.learner.sized_by
    what = (
        f"{flag(name)} {getattr(config.learner, name)}{of_seeds} needs {_gigabytes(needed)} "
        f"for observations of {observation}, but {_gigabytes(free)} are free"
    )
    capacity = _fitting(config, spec, seeds, free)
    remedy = f"give {capacity} or less" if capacity else "give it fewer or smaller observations"
    if seeds > 1:
        remedy += ", or fewer --num-seeds"
    if needed <= free:
        return f"{what}: training may run out of memory; if it does, {remedy}"
    raise UserError(f"{what}: {remedy}")


def _fitting(config: Config, spec: EnvironmentSpec, seeds: int, free: int) -> int:
    """Return a round capacity that fits; 0 if none does."""
    needed, name = seeds * experience_bytes(config, spec), config.learner.sized_by
    capacity = int(getattr(config.learner, name) * TIGHT * free / needed)
    capacity -= capacity % 10 ** max(len(str(capacity)) - 2, 0)
    if capacity < 1:
        return 0
    try:
        smaller = config.replace(**{name: capacity})
    except ConfigError:
        return 0
    return capacity if seeds * experience_bytes(smaller, spec) <= free else 0


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:,.1f} GB"


# Free memory


def free_bytes(devices: int = 1) -> int | None:
    """Count the free bytes of some devices or, for CPUs, of the machine; None if unknown."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        limit = stats.get("bytes_limit")
        return None if limit is None else devices * (limit - stats.get("bytes_in_use", 0))
    known = [x for x in (_machine(), *left_by_groups(Path("/"))) if x is not None]
    return min(known, default=None)


def _machine() -> int | None:
    """Return the available memory of the machine, or all memory if the system tells only that."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def left_by_groups(root: Path) -> list[int]:
    """Return the free bytes of the process's control groups, from its own to the outermost."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    left: list[int] = []
    for line in lines:
        _, kinds, name = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("memory" if kinds else "")
        limit, usage = ("limit_in_bytes", "usage_in_bytes") if kinds else ("max", "current")
        own = mount / name.strip("/")
        for group in (own, *own.parents):
            if group == mount.parent:
                break
            left += _left(group, f"memory.{limit}", f"memory.{usage}")
    return left


def _left(group: Path, limit: str, usage: str) -> list[int]:
    """Return the free bytes of a control group, file cache included; [] without a limit."""
    try:
        most = int((group / limit).read_text())  # or "max"
        used = int((group / usage).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return []
    return [max(most - used + int(stat.get("inactive_file", 0)), 0)]
