"""Sharing of runs on the Hugging Face hub: weights, config, results, video and a model card."""

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from noisydqn.errors import MissingExtraError, NotSharedError, UserError, in_one_line
from noisydqn.files import given_path
from noisydqn.folders import Folder
from noisydqn.runs.folder import (
    DEFAULT_PARENT,
    RunFolder,
    make_folder,
    open_folder,
    read_spaces,
    read_summary,
)
from noisydqn.runs.shared import check_run, check_sizes, shared_files, sizes_of

try:
    import huggingface_hub
    from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData
    from huggingface_hub.errors import (
        LocalTokenNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
except ImportError as error:
    raise MissingExtraError(
        "push and pull need huggingface_hub, which is not installed: pip install 'noisydqn[hub]'"
    ) from error

LIBRARY = "noisydqn"
NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
CARD = "README.md"
STAGE = ".noisydqn-pull-"
"""The start of the name of the folder in which a run lies until it is complete and checked."""
FULL = (errno.ENOSPC, errno.EDQUOT)


def _check_name(name: str) -> None:
    if NAME.fullmatch(name) is None:
        raise UserError(f"{name!r} is not a repository: give USER/NAME, such as me/catcher")


def push(path: Path, name: str, *, private: bool = False) -> str:
    """Share a run; return its URL.

    Only the files that a run consists of are sent, and each only if it is what its name says: no
    link and no file with a second name is followed to something else.

    Args:
        path: a folder that `train` made.
        name: the repository, `user/name`; created if it does not exist.
        private: whether a new repository is private.

    Raises:
        UserError: nobody is logged in, the hub refuses or cannot be reached, the name is not a
            repository's, or the folder does not hold exactly one run with weights, whose files
            are whole and not too large.
    """
    folder, stored = open_folder(path)
    _check_name(name)
    folder.weights("best")
    api = huggingface_hub.HfApi()
    temporary = "the folder of temporary files"
    with _writing(temporary, "TMPDIR"), tempfile.TemporaryDirectory() as place:
        stage = RunFolder.at(place)
        try:
            _copy(folder, stage)
            check_run(stage)
        except NotSharedError as error:
            raise UserError(
                f"{folder.path} was not shared: {error}; put a whole copy of the file in its "
                "place, or move it elsewhere"
            ) from error
        with _asking("the log-in"):
            user = str(api.whoami()["name"])
        card = model_card(stage, stored.options, name)
        stage.files.file(CARD).write(str(card).encode())
        with _asking(name):
            api.create_repo(name, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=name,
                folder_path=place,
                commit_message=f"{stored.options['env']}, shared by {user}",
            )
    return f"https://huggingface.co/{name}"


def _copy(folder: RunFolder, stage: RunFolder) -> None:
    """Copy what is shared of a run, so that what is sent is what was checked.

    Raises:
        NotSharedError: a file is a link, has a second name, or is too large.
    """
    sizes = sizes_of(folder)
    check_sizes(folder, sizes)
    for name, shared in shared_files(folder).items():
        if name in sizes:
            if shared.file.has_other_name():
                raise NotSharedError(f"{name} has a second name (it is a hard link)")
            stage.files.file(name).write(shared.file.read(shared.limit))


@contextlib.contextmanager
def _asking(what: str) -> Generator[None]:
    """Say in one line what the hub refused. Errors of the disk stay what they are."""
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise UserError(
            "not logged in to the hub: run `hf auth login`, or set HF_TOKEN to a token with write "
            "access"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(
            f"{what} has no such revision: give a branch, a tag or a commit of it"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{what} is not on the hub, or not for you to see: check the name, or log in with "
            "`hf auth login`"
        ) from error
    except Exception as error:
        if any(os.strerror(code) in str(error) for code in FULL):  # also in errors of its parts
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise UserError(
            f"the hub refused {what} or cannot be reached ({in_one_line(error)}): try again later"
        ) from error


@contextlib.contextmanager
def _writing(place: Path | str, remedy: str) -> Generator[None]:
    """Say in one line that a disk is full or cannot be written to."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise UserError(
                f"the disk of {place} is full: free some space, or name another place with {remedy}"
            ) from error
        raise UserError(
            f"{place} cannot be written to ({error.strerror or error}): name another place with "
            f"{remedy}"
        ) from error


def model_card(folder: RunFolder, options: dict[str, Any], name: str) -> ModelCard:
    """Write a repository's README, with evaluation results in the hub's metadata."""
    summary = read_summary(folder)
    evaluation: dict[str, Any] = summary.get("evaluation") or {}
    results = [
        EvalResult(
            task_type="reinforcement-learning",
            task_name="reinforcement-learning",
            dataset_type=options["env"],
            dataset_name=options["env"],
            metric_type=kind,
            metric_name=kind.replace("_", " "),
            metric_value=value,
        )
        for kind, value in evaluation.items()
        if kind != "episodes"
    ]
    data = ModelCardData(
        library_name=LIBRARY,
        license="mit",
        tags=["reinforcement-learning", "noisy-networks", "deep-q-network", options["env"]],
        model_name=name.split("/")[1],
        eval_results=results or None,
    )
    film = f"\n![The policy playing]({folder.video.name})\n" if folder.video.exists() else ""
    spec = read_spaces(folder)
    separate = spec is not None and spec.encoding.action_mask in ("info", "method")
    mask = ", action_mask=mask" if separate else ""
    outcome = ", ".join(f"{kind.replace('_', ' ')} {x:g}" for kind, x in evaluation.items())
    return ModelCard(
        f"---\n{data.to_yaml()}\n---\n\n# {name}\n{film}\n"
        f"A noisy deep Q-network for {options['env']}, trained with noisydqn: preset "
        f"{options['preset']}, seed {options['seed']}, {summary.get('steps', 0):,} steps.\n\n"
        f"Without noise, in episodes after training: {outcome or 'not evaluated'}.\n\n"
        f"```\nnoisydqn pull {name}\n```\n\n"
        "```python\nimport noisydqn\n\n"
        f'policy = noisydqn.load_policy("{DEFAULT_PARENT / name.split("/")[1]}")\n'
        f"action, _ = policy.predict(observation{mask})\n```\n"
    )


def pull(name: str, out: Path | None = None, *, revision: str | None = None) -> Path:
    """Fetch a run into a new folder; return the folder.

    Only files that `push` shares are fetched, by their names, all of one commit, which the
    folder's `README.md` then names. They are checked before the folder appears: a fetch that fails
    leaves nothing. Nothing that the config names is imported.

    Args:
        name: the repository, `user/name`.
        out: a new or empty folder; None takes a free one under `runs/`.
        revision: branch, tag or commit; None takes the newest.

    Raises:
        UserError: the repository holds no run of noisydqn, or a damaged or too large one; the hub
            refuses or cannot be reached; `out` is not empty; or the disk is full.
    """
    _check_name(name)
    target = DEFAULT_PARENT / name.split("/")[1] if out is None else given_path(out)
    with _writing(target, "--out"):
        if out is not None:
            _check_out(target)
        api = huggingface_hub.HfApi()
        commit, sizes = _list(api, name, revision)
        near = (*target.parents,) if out is None else (target, *target.parents)
        beside = next(path for path in near if os.path.lexists(path))  # on the same disk
        if shutil.disk_usage(beside).free < sum(sizes.values()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with tempfile.TemporaryDirectory(
            dir=beside, prefix=STAGE, ignore_cleanup_errors=True
        ) as place:
            stage = RunFolder.at(place)
            with _refusing(f"{name} at commit {commit}"):
                _fetch(api, name, commit, sizes, stage)
            stage.files.file(CARD).write(_origin(name, commit).encode())
            return _publish(stage, [CARD, *sizes], target, named=out is not None)


def _check_out(out: Path) -> None:
    """Refuse a folder that holds something, and a file."""
    if out.is_symlink() or out.exists():
        if not out.is_dir():
            raise UserError(f"--out {out} is a file: name a folder that is new or empty")
        if any(out.iterdir()):
            raise UserError(f"--out {out} is not empty, nothing was changed: name another folder")


@contextlib.contextmanager
def _refusing(what: str) -> Generator[None]:
    """Say in one line why what a repository holds is not fetched."""
    try:
        yield
    except NotSharedError as error:
        raise UserError(
            f"{what} holds no run that can be used, nothing was fetched: {error}; name another "
            "repository, or another --revision"
        ) from error


def _list(api: HfApi, name: str, revision: str | None) -> tuple[str, dict[str, int]]:
    """Find the commit that a revision is now, and the sizes of its files that are shared.

    Raises:
        UserError: it holds no run, or a too large one.
    """
    with _asking(name):
        info = api.model_info(name, revision=revision, files_metadata=True)
    commit = info.sha or ""
    there = {file.rfilename: file.size for file in info.siblings or []}
    with _refusing(f"{name} at {revision or 'its newest commit'}"):
        if COMMIT.fullmatch(commit) is None:
            raise NotSharedError("the hub names no commit")
        sizes: dict[str, int] = {}
        folder = RunFolder.at(name)
        for file in shared_files(folder):
            if file in there:
                size = there[file]
                if size is None:
                    raise NotSharedError(f"the hub does not say how large {file} is")
                sizes[file] = size
        check_sizes(folder, sizes)
    return commit, sizes


def _fetch(api: HfApi, name: str, commit: str, sizes: Mapping[str, int], stage: RunFolder) -> None:
    """Fetch the files of one commit into a folder, and check them there.

    Raises:
        NotSharedError: a file is not what its name says, or not of the size that was listed.
    """
    with _asking(name):
        for file in sizes:
            api.hf_hub_download(name, file, revision=commit, local_dir=stage.path)
    found = sizes_of(stage)
    for file, size in sizes.items():
        if found.get(file) != size:
            raise NotSharedError(
                f"{file} came with {found.get(file, 0):,} bytes, expected {size:,}"
            )
    check_run(stage)


def _origin(name: str, commit: str) -> str:
    """Write down where a run is from."""
    return (
        f"# {name}\n\nFetched from https://huggingface.co/{name} at commit {commit}:\n\n"
        f"```\nnoisydqn pull {name} --revision {commit}\n```\n"
    )


def _publish(stage: RunFolder, names: list[str], target: Path, *, named: bool) -> Path:
    """Move the files of a run into their folder, which is made unless it is there and empty.

    Args:
        stage: where they are, which may be a folder in `target`.
        names: of the files.
        target: the folder.
        named: whether the user named it; if not, a number is added where it is taken.

    Raises:
        UserError: another program has filled the folder.
    """
    made = not (named and target.is_dir())
    try:
        if not named:
            target = make_folder(target.name)
        elif made:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.mkdir()
        elif {*target.iterdir()} - {target / stage.path.name}:
            raise FileExistsError
        _move(stage.files, names, Folder(target), made=made)
    except FileExistsError as error:
        raise UserError(
            f"--out {target} was filled by another program meanwhile, nothing was fetched: name "
            "another folder"
        ) from error
    return target


def _move(stage: Folder, names: list[str], target: Folder, *, made: bool) -> None:
    """Move files into a folder, in this order, or none of them and remove it if it was made."""
    try:
        for name in names:
            stage.file(name).move(target.file(name))
    except BaseException:
        with contextlib.suppress(OSError):
            for name in names:
                if not stage.file(name).taken():
                    target.file(name).remove()
            if made:
                target.path.rmdir()
        raise
