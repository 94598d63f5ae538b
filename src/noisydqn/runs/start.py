"""What a run starts from, if that is another run: weights, statistics and perhaps past steps.

All of it is copied into the new run's folder `start` before the run trains, in the form of a
checkpoint. So the new run never needs the other one again: it starts, resumes and restarts from
its own folder.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import numpy as np

from noisydqn.checkpoint.reader import Checkpoint, newest_whole, read_manifests
from noisydqn.checkpoint.snapshot import Snapshot
from noisydqn.checkpoint.writer import CheckpointWriter
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.errors import UserError, counted
from noisydqn.learner.policy import Policy
from noisydqn.preprocessing import moments, normalize
from noisydqn.preprocessing.normalize import Moments
from noisydqn.runners.core import Beginning, Core
from noisydqn.runners.replay_core import ReplayCore
from noisydqn.runs.folder import RunFolder
from noisydqn.trees import named
from noisydqn.types import Row

Which = Literal["best", "final"]
RETURNS = "returns"
"""The name of the moments of returns, by which rewards are scaled."""
RETURN_MOMENTS: Moments = jax.eval_shape(lambda: normalize.init(()).rounded)


class StartRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a start comes from, without a path."""

    run: str  # the name of its folder
    weights: Which
    steps: int  # that it was trained for
    sha256: str  # of the weights
    rows: int = 0  # steps of each environment that its replay buffer gives

    @property
    def words(self) -> str:
        """Describe the start in words."""
        rows = f" and {counted(self.rows, 'row')} of its replay buffer" if self.rows else ""
        return f"the {self.weights} weights of {self.run} ({self.steps:,} steps){rows}"


class Start(NamedTuple):
    """What one seed starts from."""

    record: StartRecord
    policy: Policy
    returns: Moments | None  # of discounted returns
    rows: Row | None  # [steps, envs, ...], oldest first; the last one ends its episode


def save_start(folder: RunFolder, start: Start) -> None:
    """Write a start into a run's folder.

    Raises:
        UserError: it cannot be written.
    """
    problems: list[str] = []
    writer = CheckpointWriter(folder.start, 1, None, problems.append)
    arrays: dict[str, Any] = {"policy": start.policy}
    if start.returns is not None:
        arrays[RETURNS] = start.returns
    number = 0 if start.rows is None else len(start.rows.last)
    writer.save(
        Snapshot(arrays, start.rows, 0, number), {"start": msgspec.to_builtins(start.record)}
    )
    writer.wait()
    if problems:
        raise UserError(
            f"--out {folder.path} cannot hold what the run starts from "
            f"({problems[0].partition(';')[0]}): name another folder"
        )


def read_record(folder: RunFolder) -> StartRecord | None:
    """Read where a run started from; None if it started from new weights, or it is not known."""
    try:
        manifests, _ = read_manifests(folder.start)
        return _record(manifests[0].run) if manifests else None
    except (UserError, OSError, msgspec.ValidationError):
        return None


def _record(run: dict[str, Any]) -> StartRecord:
    return msgspec.convert(run.get("start"), StartRecord)


def same_start(folder: RunFolder, start: Start | None) -> bool:
    """Tell whether the run in a folder started as a call asks for; None asks for nothing."""
    return start is None or read_record(folder) == start.record


class Begun(NamedTuple):
    """The starts of all seeds of a session, from which their first states are made."""

    checkpoints: Sequence[Checkpoint]

    @classmethod
    def of(cls, folders: Sequence[RunFolder], like: Policy) -> "Begun | None":
        """Read the starts of some seeds; None if they start from new weights.

        Args:
            folders: of the seeds.
            like: the shapes and types of their policies.

        Raises:
            UserError: a start is damaged, or does not fit the config.
        """
        found: list[Checkpoint] = []
        for folder in folders:
            if not folder.start.exists():
                continue
            checkpoint = newest_whole(folder.start, lambda _: None)
            if checkpoint is None:
                raise UserError(
                    f"{folder.start} holds nothing to start from: begin the run anew in another "
                    "folder"
                )
            _checked_policy(checkpoint, like)
            found.append(checkpoint)
        if len(found) not in (0, len(folders)):
            raise UserError(
                f"{folders[0].path} and the folders beside it did not start alike: restore their "
                "folders start, or begin the run anew in another folder"
            )
        return cls(found) if found else None

    def on_host(self, core: Core) -> Beginning:
        """Return the beginning of the only seed."""
        return Beginning(lambda state: _changed(core, state, self.checkpoints[0]), self._rows)

    @property
    def _rows(self) -> int:
        manifest = self.checkpoints[0].manifest
        return manifest.written if manifest.rows else 0

    def on_device(self, core: Core) -> Beginning:
        """Return the beginning of all parts, whose states are [parts, ...].

        The parts are the seeds, or the shards of a single one.
        """

        def begin(states: Any) -> Any:
            places = [(x, i) for x in self.checkpoints for i in range(core.acting.shards.number)]
            changed = [
                _changed(core, jax.tree.map(lambda x, i=i: x[i], states), checkpoint, shard)
                for i, (checkpoint, shard) in enumerate(places)
            ]
            return jax.tree.map(lambda *x: jnp.stack(x), *changed)

        return Beginning(begin, self._rows)


def _checked_policy(checkpoint: Checkpoint, like: Policy) -> Policy:
    policy = checkpoint.read("policy", like)
    if problem := problem_of(policy):
        raise checkpoint.unfit(problem)
    return policy


def _changed(core: Core, state: Any, checkpoint: Checkpoint, shard: int = 0) -> Any:
    """Return the state of one seed before its first step, changed by what it starts from.

    On several devices that of one of its shards, which takes its share of past steps.
    """
    policy = _checked_policy(checkpoint, jax.eval_shape(core.acting.make_policy, jax.random.key(0)))
    returns = None
    if any(name.startswith(f"{RETURNS}.") for name in checkpoint.manifest.arrays):
        returns = checkpoint.read(RETURNS, RETURN_MOMENTS)
    state = core.with_network(state, policy.network)
    state = core.acting.with_statistics(state, policy.moments, returns)
    if not checkpoint.manifest.rows or not isinstance(core, ReplayCore):
        return state
    extend = jax.jit(core.replay.extend, donate_argnums=0)
    replay = state.replay
    for rows in _stored_rows(core, state, checkpoint, shard):
        replay = extend(replay, rows)
    return state._replace(replay=replay)


def _stored_rows(core: ReplayCore, state: Any, checkpoint: Checkpoint, shard: int) -> Any:
    """Yield a shard's rows of a start block by block, [steps, envs, ...], oldest first."""
    manifest = checkpoint.manifest
    blocks = -(-manifest.slots // manifest.block_slots)
    if manifest.slots != manifest.written or len(manifest.rows) != blocks:
        raise checkpoint.unfit("blocks of its replay buffer are missing")
    envs, shards = core.acting.num_envs, core.acting.shards.number
    shape = manifest.slots, envs * shards
    own = slice(shard * envs, (shard + 1) * envs)
    like: Row = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((*shape, *x.shape[2:]), x.dtype), core.rows(state)
    )
    checkpoint.check_rows(like, 0)
    structure = jax.tree.structure(like)
    for _, fields in checkpoint.blocks(like, 0):
        block: Row = jax.tree.unflatten(structure, fields)
        if problem := problem_of_rows(block, core.acting.spec):
            raise checkpoint.unfit(problem)
        yield jax.tree.map(lambda x: jnp.array(x[:, own]), block)


def problem_of(policy: Policy) -> str:
    """Say what is wrong with the values of a policy that training would start from; "" if none."""
    for name, x in named(policy).items():
        if not np.isfinite(np.asarray(x)).all():
            return f"{name} is not finite"
    observed = [] if policy.moments is None else moments.each_of(policy.moments)
    if any(np.any(x.seen < 0) or np.any(x.squares < 0) for x in observed):
        return "its statistics of observations are impossible"
    return ""


def problem_of_rows(rows: Row, spec: EnvironmentSpec) -> str:
    """Say what is wrong with the values in rows of a replay buffer; "" if nothing is."""
    if not spec.has_actions(np.asarray(rows.action)):
        return "its replay buffer holds actions that the environment does not have"
    floats = [x for x in jax.tree.leaves(rows) if np.issubdtype(x.dtype, np.floating)]
    if not all(np.isfinite(np.asarray(x)).all() for x in floats):
        return "its replay buffer holds numbers that are not finite"
    if rows.action_mask is not None and not np.asarray(rows.action_mask).any(axis=-1).all():
        return "its replay buffer holds action masks that allow no action"
    return ""
