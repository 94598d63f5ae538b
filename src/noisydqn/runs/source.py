"""Reading of the run that another one starts from, and the comparison of the two."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import numpy as np

from noisydqn.checkpoint.reader import Checkpoint, newest_whole
from noisydqn.config.config import Config, variant_name
from noisydqn.config.run import MAX_SEEDS
from noisydqn.envs.registry import AnyEnvironment
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.errors import UserError
from noisydqn.files import Place, given_path
from noisydqn.learner.policy import Policy
from noisydqn.nets.build import torso_name
from noisydqn.options import argument, flag
from noisydqn.preprocessing.normalize import Moments
from noisydqn.runners.build import policy_like
from noisydqn.runners.cores import make_core
from noisydqn.runs import weights
from noisydqn.runs.exported import admit_policy, spec_of_run
from noisydqn.runs.folder import (
    SEED,
    Found,
    RunFolder,
    open_folders,
    read_runs,
    read_summary,
    run_name,
)
from noisydqn.runs.progress import StoredRun
from noisydqn.runs.start import (
    Start,
    StartRecord,
    Which,
    problem_of,
    problem_of_rows,
)
from noisydqn.trees import named
from noisydqn.types import Row

MOST_NAMED = 4
"""Differences that a message names."""
LACKING = {
    "perturbation": f"{flag('target_perturbation')} 0 there, above 0 here",
    "action_mask": "action masks only here",
}
"""What a replay buffer lacks, by the field of its rows."""


class Source(NamedTuple):
    """The run that a call names to start from."""

    path: Path
    weights: Which
    replay: bool  # whether to take its replay buffer, too

    @staticmethod
    def accept(
        start_from: Place | None, from_weights: object, from_replay: object
    ) -> "Source | None":
        """Check the arguments of a call; None if no run is named.

        Raises:
            UserError: one cannot be used, or says something about no run.
        """
        which: Which = argument("from_weights", from_weights, Which)
        replay: bool = argument("from_replay", from_replay, bool)
        if start_from is not None:
            path = given_path(start_from, "--from")
            open_folders(path)
            return Source(path, which, replay)
        for name, given in {
            "--from-weights final": which == "final",
            "--from-replay": replay,
        }.items():
            if given:
                raise UserError(f"{name} needs --from: name the folder of the run to start from")
        return None


class Interface(NamedTuple):
    """What decides the shapes of a policy's arrays."""

    config: Config
    spec: EnvironmentSpec

    @property
    def policy(self) -> Policy:
        """The shapes and types of its arrays."""
        return policy_like(self.config.program, self.spec)


def read_starts(
    source: Source,
    config: Config,
    spec: EnvironmentSpec,
    env: AnyEnvironment,
    tell: Callable[[str], None],
    *,
    trust: bool,
) -> list[Start]:
    """Read what each seed of a new run starts from.

    Args:
        source: the other run.
        config: the config of the new run.
        spec: the interface of its environment.
        env: the environment that the call gave, if any, for runs that are older than `spaces.json`.
        tell: receives lines about what does not travel.
        trust: whether code that the other run's config names may be imported and run.

    Raises:
        UserError: there is no such run, it is damaged, it does not fit, or its config names code
            and is not trusted.
    """
    runs, number = open_folders(source.path), config.run.num_seeds
    if len(runs) not in (1, number):
        raise UserError(
            f"--from {source.path} holds {len(runs)} runs, and --num-seeds is {number}: name the "
            f"folder of one of them, or give --num-seeds {len(runs)}"
        )
    here = Interface(config, spec)
    starts = [_read_start(source, run, here, env, tell, trust=trust) for run in runs]
    return starts * number if len(starts) == 1 else starts


def _read_start(
    source: Source,
    run: Found,
    here: Interface,
    env: AnyEnvironment,
    tell: Callable[[str], None],
    *,
    trust: bool,
) -> Start:
    folder, stored = run
    config = admit_policy(folder, stored, env, trust=trust)
    there = Interface(config, spec_of_run(folder, config, env))
    if found := [*differences(there, here), *(lacking(there, here) if source.replay else ())]:
        more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
        raise UserError(
            f"--from {folder.path} does not fit: {'; '.join(found[:MOST_NAMED])}{more}; give the "
            "options of that run (without NAME all of them are)"
        )
    file = folder.weights(source.weights)
    policy = weights.load_policy(file, there.config, there.spec)
    if problem := problem_of(policy):
        raise UserError(f"--from {file}: {problem}; start from other weights")
    arrays = {name: np.asarray(x) for name, x in named(policy).items()}
    rows, returns = _of_checkpoint(source, folder, there, here, tell)
    record = StartRecord(
        run=run_name(folder)[0],
        weights=source.weights,
        steps=int(read_summary(folder).get("steps") or 0),
        sha256=weights.checksum(arrays),
        rows=0 if rows is None else len(rows.last),
    )
    return Start(record, weights.policy_of_arrays(here.policy, arrays, file.path), returns, rows)


# Comparison


def differences(there: Interface, here: Interface) -> list[str]:
    """Say in words what does not fit, the options and spaces first, then layer by layer."""
    pairs = zip(_facts(there).items(), _facts(here).values(), strict=True)
    found = [f"{what} {old} there, {new} here" for (what, old), new in pairs if old != new]
    return found or list(_layers(named(there.policy), named(here.policy)))


def _facts(of: Interface) -> dict[str, str]:
    """Describe what all layers depend on."""
    config, spec = of.config, of.spec
    network, parts = config.network, named(spec.observation)
    whole = torso_name(network, spec.observation) if "" in parts else network.torso
    normalized = config.preprocessing.normalize_observations == "running"
    return {
        "observations": ", ".join(
            f"{path} {list(x.shape)} of {x.dtype}".lstrip() for path, x in parts.items()
        ),
        "actions": " + ".join(map(str, spec.action_sizes)),
        flag("frame_stack"): str(config.preprocessing.frame_stack),
        "running normalization of observations": "on" if normalized else "off",
        "torso": whole,
        flag("distribution"): variant_name("distribution", config.distribution),
        flag("dueling"): "on" if network.dueling else "off",
    }


def _layers(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    """Compare arrays by name, and describe each layer that differs once."""
    told: set[str] = set()
    for path in dict.fromkeys([*there, *here]):
        layer = path.rpartition(".")[0]
        old, new = there.get(path), here.get(path)
        if layer in told or (old is not None and new is not None and old.shape == new.shape):
            continue
        told.add(layer)
        both = [any(x.startswith(f"{layer}.") for x in arrays) for arrays in (there, here)]
        if old is not None and new is not None:
            yield f"{_words(layer)}: {_size(old)} there, {_size(new)} here"
        elif all(both):
            kinds = ["noisy" if f"{layer}.weight_mu" in x else "plain" for x in (there, here)]
            yield f"{_words(layer)}: {kinds[0]} there, {kinds[1]} here"
        else:
            yield f"{_words(layer)}: only {'there' if both[0] else 'here'}"


def _size(array: Any) -> str:
    return "x".join(map(str, array.shape)) or "1"


def _words(layer: str) -> str:
    """Name a layer as users know it."""
    name, _, number = layer.removeprefix("network.").partition(".")
    which = f" {int(number) + 1}" if number.isdecimal() else f" {number}" if number else ""
    stream, underscore, part = name.partition("_")
    if name in ("advantage", "value"):
        return f"{name} head"
    if underscore and part in ("hidden", "norms"):
        kind = "hidden layer" if part == "hidden" else "normalization"
        return f"{kind}{which} of the {stream} stream"
    return {"hidden": "hidden layer", "norms": "normalization"}.get(name, name) + which


def lacking(there: Interface, here: Interface) -> Iterator[str]:
    """Say what keeps a replay buffer from being used."""
    old, new = there.config, here.config
    rows = _row_of(there), _row_of(here)
    for row, where in zip(rows, ("there", "here"), strict=True):
        if row is None:
            yield f"no replay buffer {where}: {flag('learner')} parallel"
            return
    if old.actors.actors and old.actors.asynchronous:
        yield "asynchronous actors there, whose steps are not in one order"
    if (before := old.runner.num_envs) != (now := new.runner.num_envs):
        yield f"{flag('num_envs')} {before} there, {now} here, and a replay buffer keeps them apart"
    for name in Row._fields:
        lacks, needs = (getattr(row, name) is None for row in rows)
        if lacks and not needs:
            yield LACKING.get(name, f"{name} of each step: only here")


def _row_of(of: Interface) -> Row | None:
    """Return the shapes of a row of the replay buffer; None if there is none."""
    core = make_core(of.config.program, of.spec)
    return core.rows(jax.eval_shape(core.init, jax.random.key(0)))


# Checkpoints of the other run


def _of_checkpoint(
    source: Source,
    folder: RunFolder,
    there: Interface,
    here: Interface,
    tell: Callable[[str], None],
) -> tuple[Row | None, Moments | None]:
    """Read what only a checkpoint holds: past steps, and the scale of rewards."""
    scaled = [x.config.preprocessing.normalize_rewards for x in (there, here)]
    if not source.replay and not all(scaled):
        return None, None
    found = _newest(folder, tell)
    if found is None:
        if source.replay:
            raise UserError(
                f"--from {folder.path} holds no checkpoint, so no replay buffer: leave out "
                "--from-replay"
            )
        tell(f"{folder.path} holds no checkpoint: the normalization of rewards starts anew")
        return None, None
    checkpoint, index, number = found
    rows = _rows(checkpoint, index, number, there, here) if source.replay else None
    returns = _returns(checkpoint, index) if all(scaled) else None
    return rows, returns


def _newest(folder: RunFolder, tell: Callable[[str], None]) -> tuple[Checkpoint, int, int] | None:
    """Find the newest checkpoint that holds a seed, its index there and the number of seeds.

    Raises:
        UserError: it is damaged.
    """
    whole, index = folder, 0
    if not folder.checkpoints.exists() and SEED.fullmatch(folder.path.absolute().name):
        whole = RunFolder.at(folder.path.absolute().parent)  # trained together with others
        names = (
            [seed.path.name for seed, _ in read_runs(whole)] if whole.checkpoints.exists() else []
        )
        if folder.path.name not in names:
            return None
        index = names.index(folder.path.name)
    try:
        checkpoint = newest_whole(whole.checkpoints, tell)
        if checkpoint is None:
            return None
        number = len(StoredRun.decode(checkpoint.manifest.run).progress.seeds)
    except (msgspec.ValidationError, OSError) as error:
        raise UserError(f"{whole.checkpoints} cannot be read ({error})") from error
    if index >= number:
        raise UserError(f"{checkpoint.path} holds {number} seeds, expected {index + 1} or more")
    return checkpoint, index, number


def _rows(
    checkpoint: Checkpoint, index: int, number: int, there: Interface, here: Interface
) -> Row | None:
    """Read the rows of a replay buffer [steps, envs, ...], oldest first; None if it is empty.

    The newest row ends its episode, as a truncated one does: another run's steps follow it.
    """
    of_one, runner = _row_of(there), there.config.runner
    shards = runner.devices if number == 1 else 1
    shape = number * shards, runner.num_envs // shards

    def of_parts(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((shape[0], x.shape[0], shape[1], *x.shape[2:]), x.dtype)

    like: Row = jax.tree.map(of_parts, of_one)
    checkpoint.check_rows(like, 1)
    manifest = checkpoint.manifest
    if manifest.written == 0:
        return None
    own = slice(index * shards, (index + 1) * shards)
    blocks = [
        [np.concatenate(x[own], axis=1) for x in fields]  # of all shards
        for _, fields in checkpoint.blocks(like, 1)
    ]
    fields = [np.concatenate(parts) for parts in zip(*blocks, strict=True)]
    kept = min(manifest.written, manifest.slots)
    oldest = manifest.written % manifest.slots if manifest.written > kept else 0
    rows: Row = jax.tree.unflatten(
        jax.tree.structure(like), [np.roll(x[:kept], -oldest, axis=0) for x in fields]
    )
    if problem := problem_of_rows(rows, there.spec):
        raise checkpoint.unfit(problem)
    rows.last[-1] = True
    needed = _row_of(here)
    superfluous = {name: None for name in Row._fields if getattr(needed, name) is None}
    return jax.tree.map(jnp.asarray, rows._replace(**superfluous))


def _returns(checkpoint: Checkpoint, index: int) -> Moments:
    """Read the moments of discounted returns, by which rewards are scaled."""
    of_host, of_device = (
        f"{x}.statistics.return_scale.moments" for x in ("state", "state.training")
    )
    arrays = checkpoint.manifest.arrays
    path = of_device if f"{of_device}.seen" in arrays else of_host
    entry = arrays.get(f"{path}.seen")
    shape = () if entry is None else entry.shape  # [seeds] on the device
    if len(shape) > 1 or (len(shape) == 1 and not index < shape[0] <= MAX_SEEDS):
        raise checkpoint.unfit("its scale of rewards is impossible")
    number = jax.ShapeDtypeStruct(shape, np.dtype(np.float32))
    like = {"mean": {"value": number}, "squares": {"value": number}}
    read: Any = checkpoint.read(path, like)
    seen: Any = checkpoint.read(f"{path}.seen", jax.ShapeDtypeStruct(shape, np.dtype(np.uint32)))
    values = [seen, read["mean"]["value"], read["squares"]["value"]]
    moments = Moments(
        *(jnp.float32(np.asarray(x) if shape == () else np.asarray(x)[index]) for x in values)
    )
    if not all(np.isfinite(np.asarray(x)) for x in moments) or moments.squares < 0:
        raise checkpoint.unfit("its scale of rewards is impossible")
    return moments
