"""The right of one process to write to the folder of a run, and folders that were half made."""

import re
import stat
from collections.abc import Callable
from pathlib import Path

from noisydqn.checkpoint.format import FILE, MANIFEST
from noisydqn.checkpoint.lock import NAME as LOCK
from noisydqn.checkpoint.lock import Lock
from noisydqn.checkpoint.writer import NONE_YET
from noisydqn.config.config import Config
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.errors import UserError
from noisydqn.folders import PART, Folder
from noisydqn.runs.folder import (
    DEFAULT_PARENT,
    SEED,
    RunFolder,
    make_folder,
    runs_in,
    write_config,
    write_spaces,
)

EARLY_FILES = {"config.json", "spaces.json", LOCK}
"""Files that a run makes before it trains; each may still be in the making."""


class Claim:
    """The locks of a run's folder and of the seeds in it that can be resumed alone, until `close`.

    Args:
        whole: the folder, which is created if necessary.

    Raises:
        UserError: another process trains the run, or the folder cannot be written to.
    """

    def __init__(self, whole: RunFolder) -> None:
        self.whole = whole
        self.notices: list[str] = []  # for the terminal, which is not there yet
        self._locks: list[Lock] = []
        self.lock(whole)

    def lock(self, folder: RunFolder) -> None:
        """Also lock another folder.

        Raises:
            UserError: as when a claim is made.
        """
        lock = Lock(folder.files, self.notices.append)
        lock.take()
        self._locks.append(lock)

    def lock_again(self, folder: RunFolder) -> None:
        """Lock a folder again that was made anew, if it was locked.

        Raises:
            UserError: as when a claim is made.
        """
        for lock in self._locks:
            if lock.folder is folder.files:
                lock.take()

    def close(self) -> None:
        """Release the locks."""
        for lock in self._locks:
            lock.release()


def claim_folder(config: Config, out: Path | None, *, resume: bool) -> Claim:
    """Take the folder of a new run.

    What an earlier run left that was killed before it trained is removed.

    Args:
        config: config of the run.
        out: the folder, new, empty or half made; None makes a new one under `runs/`.
        resume: whether `out` may hold a run, which is left as it is.

    Raises:
        UserError: `out` holds something else, is a file or cannot be written to, or another
            process trains the run in it.
    """
    try:
        if out is None:
            name = re.sub(r"[^\w.-]+", "-", config.preset)  # one from a file could be a path
            return Claim(RunFolder.at(make_folder(f"{name}-seed{config.run.seed}")))
        if out.exists() and not out.is_dir():
            raise UserError(f"--out {out} is a file: name a folder that is new or empty")
        whole = RunFolder.at(out)
        _refuse_other(whole, resume=resume)  # nothing is written to the folder of another program
        whole.files.make()
        claim = Claim(whole)
        try:
            _refuse_other(whole, resume=resume)  # another process may have been faster
            if is_half_made(whole):
                _clear(whole)
        except BaseException:
            claim.close()
            raise
    except OSError as error:
        raise unwritable(DEFAULT_PARENT if out is None else out, error) from error
    return claim


def unwritable(out: Path, error: OSError) -> UserError:
    """Return the error of a folder for a new run that cannot be written to."""
    return UserError(f"--out {out} cannot be written to: {error.strerror}; name another folder")


def _refuse_other(whole: RunFolder, *, resume: bool) -> None:
    half_made = is_half_made(whole)
    holds_run = bool(runs_in(whole))  # a half-made one may have become a run meanwhile
    if not (half_made or (resume and holds_run)):
        what = "already holds a run" if holds_run else "is not empty"
        raise UserError(f"--out {whole.path} {what}, nothing was changed: name another folder")


def is_half_made(whole: RunFolder) -> bool:
    """Tell whether a folder holds nothing but what a run makes before it trains."""
    if not whole.files.exists():
        return True
    # The config comes first here: another process, which makes its lock first, may begin meanwhile.
    config_of_ours = not whole.config.taken() or whole.files.file(LOCK).taken()
    return config_of_ours and all(_is_early(whole, name) for name in whole.files.names())


def _is_early(folder: RunFolder, name: str) -> bool:
    """Tell whether a run makes something of that name before it trains."""
    kind = folder.files.kind(name)
    if kind is None:  # another process has just renamed or removed it
        return True
    if kind == stat.S_IFREG:
        return name.removesuffix(PART) in EARLY_FILES
    if kind != stat.S_IFDIR:
        return False
    if name == folder.start.path.name:
        names = [x.removesuffix(PART) for x in folder.start.names()]
        return all(x == NONE_YET or MANIFEST.fullmatch(x) or FILE.fullmatch(x) for x in names)
    if name == folder.checkpoints.path.name:
        return {x.removesuffix(PART) for x in folder.checkpoints.names()} <= {NONE_YET, LOCK}
    seed = folder.seed(name)
    return SEED.fullmatch(name) is not None and all(
        SEED.fullmatch(inner) is None and _is_early(seed, inner) for inner in seed.files.names()
    )


def _clear(whole: RunFolder) -> None:
    """Remove what is half made, but for the lock.

    Raises:
        UserError: another process trains one of the seeds.
    """
    for name in whole.files.names():
        seed = whole.seed(name)
        if SEED.fullmatch(name) and seed.files.file(LOCK).taken():
            with Lock(seed.files, lambda _: None):
                pass
    _empty(whole.files, {LOCK})


def _empty(folder: Folder, kept: set[str]) -> None:
    for name in set(folder.names()) - kept:
        if folder.kind(name) == stat.S_IFDIR:
            inner = folder.folder(name)
            _empty(inner, set())
            inner.remove()
        else:
            folder.file(name).remove()


def create_folders(
    config: Config,
    claim: Claim,
    spec: EnvironmentSpec,
    *,
    together: bool,
    fill: Callable[[list[RunFolder]], None] = lambda _: None,
) -> list[RunFolder]:
    """Make the folder of each seed of a run, with its config and spaces.

    Args:
        config: config of the run.
        claim: the run's folder, which is that of the only seed if there is one.
        spec: the interface of the environment.
        together: whether the seeds are trained, and resumed, together. Otherwise each folder has
            a lock of its own.
        fill: writes what else belongs in the folders. Without a config they are not a run yet, so
            one that is killed meanwhile is not resumed.

    Raises:
        UserError: a folder cannot be written to.
    """
    whole, run = claim.whole, config.run
    seeds = range(run.seed, run.seed + run.num_seeds)
    folders = [whole.seed(f"seed{seed}") for seed in seeds] if run.num_seeds > 1 else [whole]
    try:
        # All folders come before the first config, so that a run of which only some seeds are
        # there is recognized as half made.
        for folder in folders:
            folder.files.make()
            if folder is not whole and not together:
                claim.lock(folder)
        fill(folders)
        for seed, folder in zip(seeds, folders, strict=True):
            write_config(folder, config.replace(seed=seed, num_seeds=1))
            write_spaces(folder, spec)
    except OSError as error:
        raise unwritable(whole.path, error) from error
    return folders
