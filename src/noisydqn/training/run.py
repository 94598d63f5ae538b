"""A whole training run: the loop, its evaluations, and the files it leaves."""

import dataclasses
import errno
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noisydqn.build import Policy
from noisydqn.checkpoint.lock import locked
from noisydqn.checkpoint.reader import newest_whole
from noisydqn.config import Config
from noisydqn.envs.catalogue import Maker
from noisydqn.envs.device import DeviceEnvironment
from noisydqn.envs.guard import EnvironmentFailedError
from noisydqn.envs.host import HostEnvironment
from noisydqn.envs.select import environment_spec, make_environment
from noisydqn.errors import UserError
from noisydqn.imports import find, name_of
from noisydqn.presets import DEFAULT_PRESET, PRESETS, config_for
from noisydqn.torsos import TorsoMaker
from noisydqn.training.curves import draw_curves, read_columns
from noisydqn.training.evaluate import Evaluation, evaluate
from noisydqn.training.film import save_film
from noisydqn.training.folder import (
    RunFolder,
    check_same,
    create_folders,
    free_path,
    holds_run,
    open_folders,
    refuse_without_checkpoints,
    write_config,
)
from noisydqn.training.health import DivergedError
from noisydqn.training.loop import Loop, seed_keys
from noisydqn.training.show import Video
from noisydqn.training.stop import Stop, stoppable
from noisydqn.training.trackers import Terminal
from noisydqn.training.weights import load_policy, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
"""Errors of a disk that is full, read-only or broken."""


@dataclasses.dataclass(frozen=True)
class SeedResult:
    """What the run of one seed came to."""

    folder: Path
    policy: Policy  # the best
    summary: dict[str, Any]  # as in summary.json


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run came to."""

    folder: Path
    seeds: list[SeedResult]
    signal: int | None = None  # what stopped it, such as signal.SIGINT

    @property
    def interrupted(self) -> bool:
        """Whether it was stopped before its end."""
        return self.signal is not None

    def plot(self, seed: int = 0) -> "Figure":
        """Plot the curves of a seed; a notebook shows them where the call ends a cell.

        Args:
            seed: place of the seed in `seeds`, counted from 0.

        Returns:
            A `matplotlib.figure.Figure`, as in `curves.png`.
        """
        return draw_curves(RunFolder(self.seeds[seed].folder))

    def video(self, seed: int = 0) -> Video:
        """Return the video of a seed; a notebook plays it where the call ends a cell.

        Args:
            seed: place of the seed in `seeds`, counted from 0.

        Raises:
            UserError: the run left no video.
        """
        path = RunFolder(self.seeds[seed].folder).film
        if not path.exists():
            raise UserError(
                f"{path} does not exist: the run was stopped, has film_seconds=0, or its "
                "environment cannot be drawn; noisydqn record makes a video of a run"
            )
        return Video(path)


def train(
    config: Config | None = None,
    *,
    env: str | Maker | None = None,
    torso: str | TorsoMaker | None = None,
    out: Path | str | None = None,
    quiet: bool = False,
    resume: bool = False,
    **options: Any,
) -> Result:
    """Train, evaluate and film; leaves a run folder. This is what `noisydqn train` does.

        noisydqn.train(env="LunarLander-v3", seed=1)
        noisydqn.train(env=lambda: MyEnv(size=5), steps=50_000)
        noisydqn.train(noisydqn.PRESETS["catcher"])

    Ctrl-C and SIGTERM end training after the chunk under way; a checkpoint and the weights are
    then saved, but not evaluated or filmed. A second Ctrl-C quits at once.

    Args:
        config: the options; if None those that suit `env`.
        env: an id, as on the command line, or a function that makes an environment of
            Gymnasium; if None that of `config`.
        torso: a torso, as on the command line, or a function of a module that makes one from the
            shape of an observation and a key, any `equinox.Module`; if None that of `config`.
        out: the run's folder, new or empty; if None a new one under `runs/`.
        quiet: print nothing, unless interrupted.
        resume: if `out` holds a run with these options go on with it, as `resume` does.
        options: changes to the config, such as `seed=1`.

    Raises:
        UserError: an option or the environment cannot be used, or `out` holds something already
            or cannot be written to.
        EnvironmentFailedError: an environment failed while training; what was trained is saved.
        DivergedError: a loss, a gradient or a weight became NaN or infinite.
    """
    maker = None if env is None or isinstance(env, str) else env
    if torso is not None:
        options["torso"] = torso if isinstance(torso, str) else _torso_name(torso)
    config = _config(config, env).replace(**options)
    out = None if out is None else Path(out)
    if resume:
        if out is None:
            raise UserError("--resume needs --out: name the folder of the run to go on with")
        if holds_run(out):
            changes = check_same(config, out)
            return _resume(out, changes, maker, quiet=quiet)
    environment = make_environment(config, maker)
    out, folders = create_folders(config, out)
    return _run(config, environment, out, folders, quiet=quiet)


def resume(
    folder: Path | str,
    *,
    env: Maker | None = None,
    steps: int | None = None,
    quiet: bool = False,
) -> Result:
    """Go on with a run where its newest whole checkpoint left it; `noisydqn resume` does this.

    It ends with the same bits as if it had never stopped, unless `steps` is changed or an
    environment is not deterministic. A run without a checkpoint begins anew.

    Args:
        folder: one that `train` made.
        env: the function that made the environment, where the config cannot name it.
        steps: a new budget, at least as large as what was trained; None keeps the old.
        quiet: print nothing, unless interrupted.

    Raises:
        UserError: the folder holds no run or no whole checkpoint, or another process trains it.
        EnvironmentFailedError: as `train`.
        DivergedError: as `train`.
    """
    return _resume(Path(folder), {} if steps is None else {"steps": steps}, env, quiet=quiet)


def _resume(out: Path, changes: dict[str, Any], maker: Maker | None, *, quiet: bool) -> Result:
    runs = open_folders(out)
    for folder, _ in runs:
        refuse_without_checkpoints(out, folder)
    configs = [config.replace(**changes) for _, config in runs]
    folders = [folder for folder, _ in runs]
    first = configs[0]
    seeds = range(first.seed, first.seed + len(runs))
    if configs != [first.replace(seed=seed) for seed in seeds]:
        raise UserError(f"{out} holds runs that were not started together: resume one of them")
    environment = make_environment(first, maker)
    config = first.replace(num_seeds=len(runs))
    return _run(config, environment, out, folders, quiet=quiet, resumed=True)


def _run(
    config: Config,
    environment: DeviceEnvironment | HostEnvironment,
    out: Path,
    folders: list[RunFolder],
    *,
    quiet: bool,
    resumed: bool = False,
) -> Result:
    """Train all seeds in the folders that were made for them."""
    together = not isinstance(environment, HostEnvironment)
    places = [RunFolder(out)] if together else folders
    with ExitStack() as stack:
        for place in places:
            stack.enter_context(locked(place.checkpoints))
        terminal = stack.enter_context(Terminal(config, quiet=quiet))
        try:
            return _run_locked(config, environment, out, folders, terminal, resumed=resumed)
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            raise UserError(
                f"{out} cannot be written to: {error.strerror}; make room or make it "
                f"writable, then: noisydqn resume {out}"
            ) from error


def _run_locked(
    config: Config,
    environment: DeviceEnvironment | HostEnvironment,
    out: Path,
    folders: list[RunFolder],
    terminal: Terminal,
    *,
    resumed: bool,
) -> Result:
    terminal.say(f"{config.preset}: {config.steps:,} steps of {config.env} into {out}")
    if config.steps < config.first_learning_step:
        terminal.warn(
            f"nothing will be learned: learning starts after {config.first_learning_step:,} "
            "steps; raise --steps or lower --learning-starts"
        )
    results: list[SeedResult] = []
    stop = Stop()
    for loop in _loops(config, environment, out, folders, terminal, resumed=resumed):
        for run in loop.runs if resumed else ():
            write_config(run.folder, run.config)
        with closing(loop):
            stop = _train_and_report(loop, terminal, out)
        results += [SeedResult(r.folder.path, r.best_policy, r.summary) for r in loop.runs]
        if stop.asked:
            terminal.warn(
                f"{stop.word} after {loop.steps:,} steps; weights and metrics are in {out}; "
                f"to go on: noisydqn resume {out}"
            )
            break
    if config.num_seeds > 1:
        write_json(out / "summary.json", {"seeds": [result.summary for result in results]})
    if not stop.asked:
        terminal.say("\n".join(_closing_lines(out, results)))
    return Result(out, results, stop.signal)


def _config(config: Config | None, env: str | Maker | None) -> Config:
    if env is None:
        return PRESETS[DEFAULT_PRESET] if config is None else config
    if isinstance(env, str):
        return config_for(env) if config is None else config.replace(env=env)
    name = name_of(env)
    if config is None:
        return PRESETS["default"].replace(env=name, preset=name.rpartition(".")[2].strip("<>"))
    return config.replace(env=name)


def _torso_name(maker: TorsoMaker) -> str:
    """The name by which the run finds its torso again when it is loaded.

    Raises:
        UserError: it would find nothing, or something else.
    """
    name = name_of(maker)
    if "<" in name or find(name) is not maker:
        raise UserError(
            f"the torso {name} cannot be found again by its name, so the run could not be loaded: "
            "give a function of a module"
        )
    return name


def _loops(
    config: Config,
    env: DeviceEnvironment | HostEnvironment,
    out: Path,
    folders: list[RunFolder],
    terminal: Terminal,
    *,
    resumed: bool,
) -> Iterator[Loop]:
    """One loop for all seeds where they can be trained at once, else one for each in turn."""
    seeds = [config.replace(seed=config.seed + i, num_seeds=1) for i in range(config.num_seeds)]

    def loop(seeds: list[Config], folders: list[RunFolder], place: RunFolder) -> Loop:
        checkpoint = newest_whole(place.checkpoints, terminal.warn) if resumed else None
        return Loop(seeds, env, folders, place.checkpoints, checkpoint, terminal)

    if not isinstance(env, HostEnvironment):
        yield loop(seeds, folders, RunFolder(out))
        return
    for seed, folder in zip(seeds, folders, strict=True):
        if len(seeds) > 1:
            terminal.start(f"seed {seed.seed}")
        yield loop([seed], [folder], folder)


def _train_and_report(loop: Loop, terminal: Terminal, out: Path) -> Stop:
    """Train, save, then evaluate and film; returns whether it was asked to stop."""
    with stoppable(terminal.warn) as stop:
        try:
            loop.train(stop)
        except (EnvironmentFailedError, DivergedError) as failure:
            if loop.steps == 0:
                raise
            loop.save()
            raise failure.with_hint(f"what was trained until then is in {out}") from failure
        loop.save()
        if stop.asked:
            return stop
        terminal.say("playing the weights that are kept, without noise, for results and video")
        stop.at_once = True
        try:
            loop.report(terminal)
        except KeyboardInterrupt:
            stop.signal = stop.signal or signal.SIGINT
        return stop


def _closing_lines(out: Path, results: list[SeedResult]) -> list[str]:
    """Say what was achieved, where things are, and what to do next."""
    summaries = [result.summary for result in results]
    seconds = summaries[0]["train_seconds"]
    solved = summaries[0]["solved_at_step"]
    reached = "" if solved is None else f"; solved after {solved:,}"
    caught = [s["evaluation"].get("caught_fraction") for s in summaries]
    if None in caught:
        returns = [f"{s['evaluation']['mean_return']:.1f}" for s in summaries]
        outcome = f"a mean return of {', '.join(returns)}"
    else:
        outcome = f"{', '.join(f'{x:.2%}' for x in caught)} of the fruit caught"
    folders = [RunFolder(result.folder) for result in results]
    evaluations = max(len(read_columns(f.evaluations).get("step", [])) for f in folders)
    weights = "the final weights" if evaluations < 2 else f"the best of {evaluations} evaluated"
    video = "the video, " if any(folder.film.exists() for folder in folders) else ""
    return [
        f"trained for {summaries[0]['steps']:,} steps in {seconds:.0f} s{reached}",
        f"without noise {weights}: {outcome}",
        f"{video}curves, metrics and weights are in {out}",
        f"next: noisydqn evaluate {out}",
    ]


def evaluate_run(
    path: Path, episodes: int, seed: int | None, weights: str
) -> Iterator[tuple[Path, Evaluation]]:
    """Evaluate a run, or each run of a folder of seeds; yields its folder and the outcome.

    Args:
        path: a folder that `train` made.
        episodes: whole episodes to play.
        seed: of the episodes; None takes the run's own, as its summary did.
        weights: "best" or "final".

    Raises:
        UserError: the folder holds no run, or weights that are missing or damaged.
    """
    for folder, config in open_folders(path):
        env, policy = _load(folder, config, weights)
        key = seed_keys(config.seed if seed is None else seed).report
        yield folder.path, evaluate(env, policy, episodes=episodes, key=key)


def record_run(path: Path, out: Path | None, seconds: float, seed: int | None) -> Iterator[Path]:
    """Film a run, or each run of a folder of seeds; yields the films' paths.

    Args:
        path: a folder that `train` made.
        out: the film, a new file; None takes a free name in the run's folder.
        seconds: length of the film.
        seed: of the games; None takes the run's own.

    Raises:
        UserError: `out` exists, cannot be written, or would have to hold several films; or as
            `evaluate_run`.
    """
    runs = open_folders(path)
    if out is not None and len(runs) > 1:
        raise UserError(
            f"--out names one film, but {path} holds {len(runs)} runs: name one run's folder"
        )
    for folder, config in runs:
        env, policy = _load(folder, config, "best")
        film = free_path(folder.film) if out is None else out
        if film.exists():
            raise UserError(f"--out {film} exists, nothing was changed: name a new file")
        key = seed_keys(config.seed if seed is None else seed).film
        save_film(film, env, policy, seconds, key)
        yield film


def _load(
    folder: RunFolder, config: Config, weights: str
) -> tuple[DeviceEnvironment | HostEnvironment, Policy]:
    env = make_environment(config)
    return env, load_policy(folder.weights(weights), config, environment_spec(env))
