"""Lines that a run prints when it starts and ends."""

import json
import shlex
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from noisydqn.config.config import Config
from noisydqn.config.gate import named_code
from noisydqn.envs.action_masks import NAMES
from noisydqn.envs.encoding import MAX_NAMED_PARTS
from noisydqn.envs.spaces import Box, Discrete, MultiBinary
from noisydqn.envs.spec import EnvironmentSpec, Statistic
from noisydqn.errors import UserError, counted
from noisydqn.imports import is_inert
from noisydqn.nets.build import image_torso, torso_name
from noisydqn.runners.options import AnyProgram
from noisydqn.runs.folder import RunFolder
from noisydqn.runs.plots import read_columns
from noisydqn.runs.result import SeedResult
from noisydqn.types import Mixed


def describe(options: AnyProgram, spec: EnvironmentSpec) -> str:
    """Describe in one line how observations are encoded and which torso sees them.

    Raises:
        UserError: the torso has convolutions, and the observations are not images or too small.
    """
    ignored = spec.encoding.ignored
    left_out = f"; {', '.join(ignored)} left out, as text is not encoded" if ignored else ""
    if isinstance(spec.observation, Mixed):
        return f"observations: {_mixed(options, spec)}; all joined{left_out}"
    return f"observations: {_of_one_array(options, spec)}{left_out}"


def _mixed(options: AnyProgram, spec: EnvironmentSpec) -> str:
    """Describe images and vectors, and the torso of each."""
    encoding, network = spec.encoding, options.network
    running = options.preprocessing.normalize_observations == "running"
    frames, widths = options.preprocessing.frame_stack, network.vector_widths
    images: list[str] = []
    vectors: list[str] = []
    for path, (part, _) in zip(encoding.paths, encoding.parts, strict=True):
        image = spec.observation.images.get(path)
        notes = ["divided by 255"] if part.is_bytes else []
        if image is None:
            notes += [] if isinstance(part, Box | MultiBinary) else ["one-hot"]
            notes += ["normalized"] if running else []
            notes += [" ".join(["mlp", *map(str, widths)]) if widths else "flat"]
            vectors.append(", ".join([f"{path} {part.words}", *notes]))
        else:
            notes += [f"{frames} frames together"] if frames > 1 else []
            notes += [f"torso {image_torso(network, path, image)}"]
            images.append(", ".join([f"{path} {list(image.shape)}", *notes]))
    left = len(vectors) - MAX_NAMED_PARTS
    more = [f"{counted(left, 'more vector')}"] if left > 0 else []
    return "; ".join([*images, *vectors[:MAX_NAMED_PARTS], *more])


def _of_one_array(options: AnyProgram, spec: EnvironmentSpec) -> str:
    """Describe observations of one array, and its torso."""
    encoding, torso = spec.encoding, torso_name(options.network, spec.observation)
    preprocessing, what = options.preprocessing, [encoding.words]
    box = isinstance(encoding.observation, Box)
    shape = spec.observation.shape
    if torso in ("flat", "mlp"):
        changed = not box or len(shape) != 1
        what += [f"-> flattened to {counted(encoding.size, 'number')}"] if changed else []
    elif encoding.axes:
        what += [f"with channels first -> {shape}"]
    elif len(shape) == 3:
        what += ["with channels last"]
    notes: list[str] = []
    if any(part.is_bytes for part, _ in encoding.parts):
        kinds = {part.words.partition(" ")[0] for part, _ in encoding.parts if part.is_bytes}
        mixed = encoding.dtype != np.uint8
        name = "images" if kinds == {"image"} else "bytes"
        if mixed or preprocessing.normalize_observations == "scale":
            notes += [f"{name} divided by 255"]
    if any(not isinstance(part, Box) and part.size > 1 for part, _ in encoding.parts):
        notes += ["categories one-hot"]
    has_planes = any(len(part.shape) > 1 for part, _ in encoding.parts)
    if torso in ("flat", "mlp") and has_planes:
        notes += ["no convolutions"]
    if preprocessing.frame_stack > 1:
        notes += [f"{preprocessing.frame_stack} frames together"]
    return f"{', '.join([' '.join(what), *notes])}; torso {torso}"


def describe_actions(spec: EnvironmentSpec) -> str | None:
    """Say in one line which choices an action has, where it is not one of a list; else None."""
    actions = spec.encoding.actions
    if isinstance(actions, Discrete):
        return None
    return f"actions: {actions.words}; {counted(spec.num_actions, 'action value')}"


def describe_masks(spec: EnvironmentSpec) -> str | None:
    """Say in one line that the environment gives action masks, and where; None if it does not."""
    given = spec.encoding.action_mask
    if given is msgspec.UNSET:
        return None
    name = NAMES[given] if spec.spaces is not None else "action_mask(state)"
    return f"action masks: {name} says which of {spec.num_actions} actions are valid"


def how_to(command: str, folder: Path, config: Config) -> str:
    """Return the command line for a run, or the Python call if its environment has no name."""
    if is_inert(config.environment.env):
        return f"noisydqn.{command}({json.dumps(str(folder), ensure_ascii=False)}, env=...)"
    trust = ["--trust"] if named_code(config.flat()) else []
    return shlex.join(["noisydqn", command, str(folder), *trust])


def stopped_line(word: str, steps: int, out: Path, config: Config, *, saved: bool) -> str:
    """Say where a signal, in one `word`, stopped a run, and how to resume it."""
    resume = how_to("resume", out, config)
    if steps == 0:
        return f"{word} before the first step; to train: {resume}"
    where = f"weights and metrics are in {out}; " if saved else ""
    return f"{word} after {steps:,} steps; {where}to resume: {resume}"


def outcome(evaluations: list[dict[str, Any]], statistics: tuple[Statistic, ...]) -> str:
    """Summarize the evaluations of all seeds: the goal's statistic, or the returns."""
    for statistic in statistics:
        values = [evaluation.get(statistic.name) for evaluation in evaluations]
        if statistic.goal is not None and None not in values:
            return statistic.say(*(value for value in values if value is not None))
    returns = [f"{evaluation['mean_return']:.1f}" for evaluation in evaluations]
    return f"a mean return of {', '.join(returns)}"


def closing_lines(
    out: Path, config: Config, results: list[SeedResult], statistics: tuple[Statistic, ...] = ()
) -> list[str]:
    """Say what the run achieved, where its files are, and what to do next."""
    summaries = [result.summary for result in results]
    seconds = summaries[0]["train_seconds"]
    solved = summaries[0]["solved_at_step"]
    reached = "" if solved is None else f"; solved after {solved:,}"
    achieved = outcome([summary["evaluation"] for summary in summaries], statistics)
    folders = [RunFolder.at(result.folder) for result in results]
    evaluations = max(_number_of_evaluations(folder) for folder in folders)
    weights = "the final weights" if evaluations < 2 else f"the best of {evaluations} evaluated"
    video = "the video, " if any(folder.video.exists() for folder in folders) else ""
    is_call = is_inert(config.environment.env)
    played = folders[0].path if is_call else out  # a call takes the folder of one seed
    page = RunFolder.at(out).report
    look = [f"all of it on one page: {page}"] if page.exists() else []
    return [
        f"trained for {summaries[0]['steps']:,} steps in {seconds:.0f} s{reached}",
        f"without noise {weights}: {achieved}",
        f"{video}curves, metrics and weights are in {out}",
        *look,
        f"next: {how_to('evaluate', played, config)}",
    ]


def _number_of_evaluations(folder: RunFolder) -> int:
    """Count the evaluations of a run, as far as its file tells."""
    try:
        return len(read_columns(folder.evaluations).get("step", []))
    except UserError:
        return 0
