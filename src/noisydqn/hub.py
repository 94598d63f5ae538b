"""Sharing of runs on the Hugging Face hub: weights, config, results, video and a model card."""

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from noisydqn.errors import MissingExtraError, UserError
from noisydqn.files import free_path, given_path
from noisydqn.folders import File
from noisydqn.runs.folder import DEFAULT_PARENT, RunFolder, open_folder
from noisydqn.runs.summary import read_summary

try:
    import huggingface_hub
    from huggingface_hub import EvalResult, ModelCard, ModelCardData
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
except ImportError as error:
    raise MissingExtraError(
        "push and pull need huggingface_hub, which is not installed: pip install 'noisydqn[hub]'"
    ) from error

LIBRARY = "noisydqn"
NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


def _shared(folder: RunFolder) -> list[File]:
    """List the files of a run that are shared, existing or not."""
    return [
        folder.config,
        folder.spaces,
        folder.best,
        folder.final,
        folder.summary,
        folder.video,
        folder.curves,
        folder.metrics,
        folder.episodes,
        folder.evaluations,
    ]


def _check_name(name: str) -> None:
    if NAME.fullmatch(name) is None:
        raise UserError(f"{name!r} is not a repository: give USER/NAME, such as me/catcher")


def push(path: Path, name: str, *, private: bool = False) -> str:
    """Share a run; return its URL.

    Args:
        path: a folder that `train` made.
        name: the repository, `user/name`; created if it does not exist.
        private: whether a new repository is private.

    Raises:
        UserError: nobody is logged in, the hub refuses or cannot be reached, the name is not a
            repository's, or the folder does not hold exactly one run with weights.
    """
    folder, stored = open_folder(path)
    _check_name(name)
    folder.weights("best")
    api = huggingface_hub.HfApi()
    try:
        user = str(api.whoami()["name"])
    except LocalTokenNotFoundError as error:
        raise UserError(
            "not logged in to the hub: run `hf auth login`, or set HF_TOKEN to a token with write "
            "access"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise _refused("the log-in", error) from error
    try:
        with tempfile.TemporaryDirectory() as made:
            stage = Path(made)
            for file in _shared(folder):
                if file.exists():
                    (stage / file.name).write_bytes(file.read())
            (stage / "README.md").write_text(str(model_card(folder, stored.options, name)))
            api.create_repo(name, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=name,
                folder_path=stage,
                commit_message=f"{stored.options['env']}, shared by {user}",
            )
    except (HfHubHTTPError, OSError) as error:
        raise _refused(name, error) from error
    return f"https://huggingface.co/{name}"


def _refused(what: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())
    return UserError(f"the hub refused {what} or cannot be reached ({reason}): try again later")


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
    outcome = ", ".join(f"{kind.replace('_', ' ')} {x:g}" for kind, x in evaluation.items())
    return ModelCard(
        f"---\n{data.to_yaml()}\n---\n\n# {name}\n{film}\n"
        f"A noisy deep Q-network for {options['env']}, trained with noisydqn: preset "
        f"{options['preset']}, seed {options['seed']}, {summary.get('steps', 0):,} steps.\n\n"
        f"Without noise, in episodes after training: {outcome or 'not evaluated'}.\n\n"
        f"```\nnoisydqn pull {name}\n```\n\n"
        "```python\nimport noisydqn\n\n"
        f'policy = noisydqn.load_policy("{DEFAULT_PARENT / name.split("/")[1]}")\n'
        "action, _ = policy.predict(observation)\n```\n"
    )


def pull(name: str, out: Path | None = None, *, revision: str | None = None) -> Path:
    """Fetch a run into a new folder; return the folder.

    Only files that `push` shares are fetched, by their names.

    Args:
        name: the repository, `user/name`.
        out: a new or empty folder; None takes a free one under `runs/`.
        revision: branch, tag or commit; None takes the newest.

    Raises:
        UserError: the repository holds no run of noisydqn, the hub refuses or cannot be reached,
            or `out` is not empty.
    """
    _check_name(name)
    out = free_path(DEFAULT_PARENT / name.split("/")[1]) if out is None else given_path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} is not empty, nothing was changed: name another folder")
    api = huggingface_hub.HfApi()
    target = RunFolder.at(out)
    try:
        there = set(api.list_repo_files(name, revision=revision))
        wanted = [file.name for file in _shared(target) if file.name in there]
        if not {target.config.name, target.best.name} <= set(wanted):
            raise UserError(
                f"{name} holds no run of noisydqn ({target.config.name} and {target.best.name} "
                "are not both there): name a repository that noisydqn push made"
            )
        with tempfile.TemporaryDirectory() as cache:
            fetched = {
                file: api.hf_hub_download(name, file, revision=revision, cache_dir=cache)
                for file in wanted
            }
            out.mkdir(parents=True, exist_ok=True)
            for file, place in fetched.items():
                shutil.copyfile(place, out / file)  # the target of the cache's link, not the link
    except (HfHubHTTPError, OSError) as error:
        raise _refused(name, error) from error
    return out
