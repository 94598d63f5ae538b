"""What can be resumed: checks of a run's folder, its config and its checkpoints."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from noisydqn.checkpoint.format import manifest_name
from noisydqn.checkpoint.reader import is_empty, read_manifests
from noisydqn.checkpoint.writer import NONE_YET, clear
from noisydqn.config.config import Config
from noisydqn.config.stored import from_stored
from noisydqn.errors import UserError
from noisydqn.folders import File
from noisydqn.options import flag
from noisydqn.runs.claim import Claim
from noisydqn.runs.folder import SEED, Found, RunFolder
from noisydqn.runs.progress import StoredRun

FREE = (
    *("steps", "max_seconds", "checkpoint_seconds", "keep"),
    *("video_seconds", "step_timeout", "track"),
)
"""Options that may change when a run is resumed: they decide when it ends, what it saves and who
watches, not what it trains."""
WORDS = {"preset": "preset (NAME)", "env": "environment (NAME)"}
"""Options that have no flag."""


def differing(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """List the options that differ, but for the free ones."""
    return [name for name in wanted if name not in FREE and stored.get(name) != wanted[name]]


def check_same(config: Config, whole: RunFolder, runs: Sequence[Found]) -> dict[str, Any]:
    """Check that the runs found in a folder have the options of `config`.

    Returns:
        The free options, which may differ.

    Raises:
        UserError: other options differ.
    """
    wanted = config.flat()
    stored = {**runs[0][1].options, "num_seeds": len(runs)}
    if others := [WORDS.get(x, flag(x)) for x in differing(stored, wanted)]:
        raise UserError(
            f"--out {whole.path} holds a run with other {', '.join(others)}: give the same "
            "options, or name another folder"
        )
    return {name: wanted[name] for name in FREE}


def check_config(place: RunFolder, file: File, config: Config) -> None:
    """Check that a run has the config that its checkpoints were trained with.

    Checkpoints of older versions do not record it.

    Args:
        place: the folder with the checkpoints.
        file: the config of the first seed that they hold.
        config: what that file holds.

    Raises:
        UserError: options that decide what is trained differ.
    """
    for manifest in read_manifests(place.checkpoints)[0]:
        path = place.checkpoints.path / manifest_name(manifest.number)
        stored = None
        with suppress(msgspec.ValidationError):  # which is an error only if it is to be used
            stored = StoredRun.decode(manifest.run).config
        if stored is None:
            continue
        before, now = from_stored(stored, path).options, config.flat()
        if others := differing(before, now):
            words = [f"{WORDS.get(x, flag(x))} {now[x]} (was {before.get(x)})" for x in others]
            raise UserError(
                f"{file} differs from the config that {path} was trained with: "
                f"{', '.join(words)}; restore {file.name}, or train anew in another folder"
            )


def refuse_part(whole: RunFolder, folders: list[RunFolder]) -> None:
    """Refuse to resume a seed that is trained together with others, or a part of the seeds.

    Args:
        whole: the folder that the user named.
        folders: the runs in it.

    Raises:
        UserError: it is one.
    """
    parent = whole.path.absolute().parent
    if folders == [whole] and is_empty(whole.checkpoints) and _is_seed_of(parent, whole):
        raise UserError(
            f"{whole.path} holds no checkpoints, nothing was changed: it was trained together with "
            f"others: resume {parent}"
        )
    if folders != [whole]:
        names = {folder.path.name for folder in folders}
        absent = [x for x in whole.files.names() if SEED.fullmatch(x) and x not in names]
        if absent:
            raise UserError(
                f"{whole.path / absent[0]} holds no config.json, nothing was changed: restore it, "
                "or repeat the command that began to make the run"
            )


def _is_seed_of(parent: Path, folder: RunFolder) -> bool:
    named = SEED.fullmatch(folder.path.name) is not None
    return named and RunFolder.at(parent).checkpoints.exists()


def check_checkpoints(place: RunFolder, seeds: list[RunFolder], claim: Claim) -> None:
    """Refuse to begin again where something was trained, but there are no checkpoints of it.

    A run that was ended before its first checkpoint does begin again, with a notice.

    Args:
        place: the folder that the checkpoints belong in.
        seeds: the folders of the seeds that they belong to.
        claim: takes the notice.

    Raises:
        UserError: the checkpoints are missing.
    """
    if not is_empty(place.checkpoints) or not any(map(was_trained, seeds)):
        return
    never_saved = place.checkpoints.file(NONE_YET).exists()
    if never_saved and not any(seed.final.taken() for seed in seeds):
        claim.notices.append(
            f"{place.path} was ended before its first checkpoint: what it had trained is trained "
            "again"
        )
        return
    raise UserError(
        f"{place.path} holds no checkpoints, nothing was changed: train anew in another folder, or "
        f"over what is there: noisydqn resume {place.path} --restart (in Python restart=True)"
    )


def was_trained(seed: RunFolder) -> bool:
    """Tell whether a seed's folder holds weights or a row of metrics."""
    if seed.final.taken() or seed.best.taken():
        return True
    try:
        with seed.metrics.reading() as file:
            file.readline()  # the header
            return bool(file.read(1))
    except FileNotFoundError:
        return False
    except OSError:  # something is there that cannot be read
        return True


def clear_run(places: Iterable[RunFolder], seeds: Iterable[RunFolder]) -> None:
    """Remove what a run made, but for its config, so that it is trained from the beginning.

    Raises:
        UserError: something cannot be removed.
    """
    try:
        for place in places:
            if place.checkpoints.exists():
                clear(place.checkpoints, 0, range(0))
        for seed in seeds:
            for file in seed.results:
                file.remove()
            if seed.tensorboard.exists():
                for name in seed.tensorboard.names():
                    if name.startswith("events.out.tfevents."):
                        seed.tensorboard.file(name).remove()
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be removed: {error.strerror}; make its folder writable, or "
            "train anew in another folder"
        ) from error
