"""A whole training run: the loop, its evaluations, and the files it leaves."""

import dataclasses
import errno
import json
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noisydqn.checkpoint.lock import locked
from noisydqn.checkpoint.reader import newest_whole
from noisydqn.compilation import Compiler
from noisydqn.config.config import Config
from noisydqn.envs.catalogue import Entry
from noisydqn.envs.device import DeviceEnvironment
from noisydqn.envs.given import Given, accept
from noisydqn.envs.host import HostEnvironment, Notices
from noisydqn.envs.registry import AnyEnvironment, environment_spec, make_environment
from noisydqn.errors import DivergedError, EnvironmentFailedError, StoppedError, UserError
from noisydqn.files import given_path, write_json
from noisydqn.imports import find, name_of
from noisydqn.nets.torsos import TorsoMaker
from noisydqn.options import argument, field_names, refuse_unknown, shown
from noisydqn.play.policy import GreedyPolicy, describe
from noisydqn.play.video import video_problem
from noisydqn.presets import DEFAULT_PRESET, PRESETS, config_for
from noisydqn.program_cache import program_cache
from noisydqn.runners.exploration import Explorer, explorer_options
from noisydqn.runners.schedule import UpdateSchedule
from noisydqn.runners.stop import Stop, stoppable
from noisydqn.runs.folder import (
    RunFolder,
    check_same,
    check_spaces,
    create_folders,
    holds_run,
    open_folders,
    refuse_without_checkpoints,
    write_config,
    write_spaces,
)
from noisydqn.runs.memory import check_memory
from noisydqn.runs.named import config_named
from noisydqn.runs.plots import draw_curves, read_columns
from noisydqn.runs.session import Loop
from noisydqn.runs.show import Video
from noisydqn.runs.trackers import Terminal
from noisydqn.settings import own_settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
"""Errors of a disk that is full, read-only or broken."""


@dataclasses.dataclass(frozen=True)
class SeedResult:
    """What the run of one seed came to."""

    folder: Path
    policy: GreedyPolicy  # the best
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


@own_settings()
def train(
    config: Config | str | None = None,
    *,
    env: AnyEnvironment = None,
    torso: str | TorsoMaker | None = None,
    explorer: Explorer | Callable[[], Explorer] | None = None,
    out: Path | str | None = None,
    quiet: bool = False,
    resume: bool = False,
    cache: Path | str | None = None,
    **options: Any,
) -> Result:
    """Train, evaluate and film; leaves a run folder. This is what `noisydqn train` does.

        noisydqn.train(env="LunarLander-v3", seed=1)
        noisydqn.train(env=lambda: MyEnv(size=5), steps=50_000)
        noisydqn.train(noisydqn.PRESETS["catcher"])
        noisydqn.train(env="CartPole-v1", explorer=Boltzmann(temperature=0.1))

    Ctrl-C and SIGTERM end training within seconds; a checkpoint and the weights are then saved,
    but not evaluated or filmed. A second signal quits at once.

    Args:
        config: the options, or what `noisydqn train` takes as NAME: a preset, an environment, or a
            run whose options are taken; if None those that suit `env`.
        env: an id, as on the command line, or a function that makes an environment of
            Gymnasium, or such an environment, which is made again from its spec, without changes
            made to it since, or trained on itself if it has none; if None that of `config`.
        torso: a torso, as on the command line, or a function of a module that makes one from the
            shape of an observation and a key, any `equinox.Module`; if None that of `config`.
        explorer: a way to explore: one of `noisydqn.runners.exploration`, an instance of an
            `Explorer` class of a module that its class makes without arguments, or a function of
            a module that makes one; if None that of `config`.
        out: the run's folder, new or empty; if None a new one under `runs/`.
        quiet: print nothing, unless interrupted.
        resume: if `out` holds a run with these options go on with it, as `resume` does.
        cache: folder of compiled programs, which the next run need not compile again; "" for none.
            If None, `NOISYDQN_CACHE` or a folder in the user's cache folder.
        options: changes to the config, such as `seed=1`.

    Raises:
        UserError: an option or the environment cannot be used, or `out` holds something already
            or cannot be written to.
        EnvironmentFailedError: an environment failed while training; what was trained is saved.
        DivergedError: a loss, a gradient or a weight became NaN or infinite.
    """
    quiet, resume = argument("quiet", quiet, bool), argument("resume", resume, bool)
    cache = _given_cache(cache)
    env, brought = accept(env)
    maker = None if env is None or isinstance(env, str) else env
    options = brought | options
    if torso is not None:
        options["torso"] = torso if isinstance(torso, str) else _torso_name(torso)
    if explorer is not None:
        options |= explorer_options(explorer)
    refuse_unknown(options, [*field_names(Config), "out", "quiet", "resume", "cache"])
    if "preset" in options:
        raise UserError(f"preset={options['preset']!r}: give it first, as in train('cartpole')")
    config = _config(_given_config(config), env).replace(**options)
    out = None if out is None else given_path(out)
    if resume:
        if out is None:
            raise UserError("--resume needs --out: name the folder of the run to go on with")
        if holds_run(out):
            changes = check_same(config, out)
            return _resume(out, changes, Given(maker, {}), quiet=quiet, cache=cache)
    environment = make_environment(config, maker, Notices(None))
    check_memory(config, environment)
    out, folders = create_folders(config, out, environment_spec(environment))
    return _run(config, environment, out, folders, quiet=quiet, cache=cache)


@own_settings()
def resume(
    folder: Path | str,
    *,
    env: AnyEnvironment = None,
    steps: int | None = None,
    quiet: bool = False,
    cache: Path | str | None = None,
    **unknown: Any,
) -> Result:
    """Go on with a run where its newest whole checkpoint left it; `noisydqn resume` does this.

    It ends with the same bits as if it had never stopped, unless `steps` is changed or an
    environment is not deterministic. A run without a checkpoint begins anew.

    Args:
        folder: one that `train` made.
        env: what made the environment, where the config cannot name it: as in `train`.
        steps: a new budget, at least as large as what was trained; None keeps the old.
        quiet: print nothing, unless interrupted.
        cache: as in `train`.
        unknown: refused: other options are those that the run was started with.

    Raises:
        UserError: an argument cannot be used, the folder holds no run or no whole checkpoint, or
            another process trains it.
        EnvironmentFailedError: as `train`.
        DivergedError: as `train`.
    """
    refuse_unknown(unknown, ["folder", "env", "steps", "quiet", "cache"], "resume")
    quiet, cache = argument("quiet", quiet, bool), _given_cache(cache)
    given = accept(env)
    changes = {} if steps is None else {"steps": steps}
    return _resume(given_path(folder, "the run"), changes, given, quiet=quiet, cache=cache)


def _resume(
    out: Path,
    changes: dict[str, Any],
    given: Given,
    *,
    quiet: bool,
    cache: Path | str | None,
) -> Result:
    runs = open_folders(out)
    for folder, _ in runs:
        refuse_without_checkpoints(out, folder)
    configs = [config.replace(**changes) for _, config in runs]
    folders = [folder for folder, _ in runs]
    first = configs[0]
    seeds = range(first.seed, first.seed + len(runs))
    if configs != [first.replace(seed=seed) for seed in seeds]:
        raise UserError(f"{out} holds runs that were not started together: resume one of them")
    environment = _given_environment(first, given)
    for folder in folders:
        check_spaces(folder, environment_spec(environment))
    config = first.replace(num_seeds=len(runs))
    return _run(config, environment, out, folders, quiet=quiet, cache=cache, resumed=True)


def _given_environment(config: Config, given: Given) -> DeviceEnvironment | HostEnvironment:
    """The environment of a run, or one that was given for it; the run's options stay."""
    making = {k: x for k, x in given.options.items() if k in ("env_kwargs", "max_episode_steps")}
    return make_environment(config.replace(**making), given.entry, Notices(None))


def _run(
    config: Config,
    environment: DeviceEnvironment | HostEnvironment,
    out: Path,
    folders: list[RunFolder],
    *,
    quiet: bool,
    cache: Path | str | None,
    resumed: bool = False,
) -> Result:
    """Train all seeds in the folders that were made for them."""
    together = not isinstance(environment, HostEnvironment)
    places = [RunFolder(out)] if together else folders
    with ExitStack() as stack:
        for place in places:
            stack.enter_context(locked(place.checkpoints))
        terminal = stack.enter_context(Terminal(config, quiet=quiet))
        stack.enter_context(program_cache(cache, terminal.warn))
        try:
            return _run_locked(config, environment, out, folders, terminal, resumed=resumed)
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            raise UserError(
                f"{out} cannot be written to: {error.strerror}; make room or make it "
                f"writable, then: {_how_to('resume', out, config.env)}"
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
    first_step = UpdateSchedule.create(config).first_step
    if config.steps < first_step:
        terminal.warn(
            f"nothing will be learned: learning starts after {first_step:,} "
            "steps; raise --steps or lower --learning-starts"
        )
    if (tight := check_memory(config, environment)) is not None:
        terminal.warn(tight)
    results: list[SeedResult] = []
    spec = environment_spec(environment)
    terminal.say(describe(config, spec))
    if isinstance(environment, HostEnvironment):
        environment.notices.tell(terminal.warn)
    if config.film_seconds > 0 and (problem := video_problem(environment)) is not None:
        terminal.warn(f"no video: {problem}")
    with stoppable(terminal.warn) as stop, Compiler(stop.check, terminal.compiling) as compiler:
        for loop in _loops(
            config, environment, out, folders, terminal, stop, compiler, resumed=resumed
        ):
            for run in loop.runs if resumed else ():
                write_config(run.folder, run.config)
                write_spaces(run.folder, spec)
            with closing(loop):
                _train_and_report(loop, terminal, out)
            if loop.steps > 0:
                results += [
                    SeedResult(r.folder.path, GreedyPolicy(r.best_policy, spec), r.summary)
                    for r in loop.runs
                ]
            if stop.asked:
                terminal.warn(_stopped_line(stop, loop.steps, out, config.env))
                break
    if config.num_seeds > 1:
        write_json(out / "summary.json", {"seeds": [result.summary for result in results]})
    if not stop.asked:
        terminal.say("\n".join(_closing_lines(out, results)))
    return Result(out, results, stop.signal)


def _given_cache(cache: Path | str | None) -> Path | str | None:
    """The folder of compiled programs; None is the usual one, "" is none."""
    if cache is None or (isinstance(cache, str) and not cache):
        return cache
    return given_path(cache, "--cache")


def _given_config(given: object) -> Config | None:
    if given is None or isinstance(given, Config):
        return given
    if isinstance(given, str | Path):
        return config_named(str(given))
    raise UserError(
        f"the config is {shown(given)}, expected a Config or a name: give an environment as env="
    )


def _config(config: Config | None, env: Entry | None) -> Config:
    if env is None:
        return PRESETS[DEFAULT_PRESET] if config is None else config
    if isinstance(env, str):
        return config_for(env) if config is None else config.replace(env=env)
    name = name_of(env)
    if config is None:
        preset = re.sub(r"[^\w.-]+", "-", name.rpartition(".")[2].strip("<>"))
        return PRESETS["default"].replace(env=name, preset=preset)
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
    stop: Stop,
    compiler: Compiler,
    *,
    resumed: bool,
) -> Iterator[Loop]:
    """One loop for all seeds where they can be trained at once, else one for each in turn."""
    seeds = [config.replace(seed=config.seed + i, num_seeds=1) for i in range(config.num_seeds)]

    def loop(seeds: list[Config], folders: list[RunFolder], place: RunFolder) -> Loop:
        checkpoint = newest_whole(place.checkpoints, terminal.warn) if resumed else None
        return Loop(seeds, env, folders, place.checkpoints, checkpoint, terminal, stop, compiler)

    if not isinstance(env, HostEnvironment):
        yield loop(seeds, folders, RunFolder(out))
        return
    for seed, folder in zip(seeds, folders, strict=True):
        if len(seeds) > 1:
            terminal.start(f"seed {seed.seed}")
        yield loop([seed], [folder], folder)


def _train_and_report(loop: Loop, terminal: Terminal, out: Path) -> None:
    """Train and save, then evaluate and record a video, unless a stop is asked for."""
    trained = f"what was trained until then is in {out}"
    try:
        loop.train()
    except (EnvironmentFailedError, DivergedError) as failure:
        if loop.steps == 0:
            raise
        loop.save()
        raise failure.with_hint(trained) from failure
    if loop.steps == 0:
        return
    loop.save()
    if loop.stop.asked:
        return
    films = any(run.films for run in loop.runs)
    terminal.say(
        "playing the weights that are kept, without noise, for results"
        f"{' and video' if films else ''}"
    )
    try:
        with suppress(StoppedError):
            loop.report(terminal)
    except EnvironmentFailedError as failure:
        raise failure.with_hint(trained) from failure
    except UserError as error:
        raise UserError(f"{error}; {trained}") from error


def _how_to(do: str, folder: Path, env: str) -> str:
    """The command for a run, or the call where no name leads to its environment `env`."""
    if "<" in env:
        return f"noisydqn.{do}({json.dumps(str(folder), ensure_ascii=False)}, env=...)"
    return shlex.join(["noisydqn", do, str(folder)])


def _stopped_line(stop: Stop, steps: int, out: Path, env: str) -> str:
    resume = _how_to("resume", out, env)
    if steps == 0:
        return f"{stop.word} before the first step; to train: {resume}"
    return (
        f"{stop.word} after {steps:,} steps; weights and metrics are in {out}; to resume: {resume}"
    )


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
    env = summaries[0]["env"]
    played = folders[0].path if "<" in env else out  # a call takes the folder of one seed
    return [
        f"trained for {summaries[0]['steps']:,} steps in {seconds:.0f} s{reached}",
        f"without noise {weights}: {outcome}",
        f"{video}curves, metrics and weights are in {out}",
        f"next: {_how_to('evaluate', played, env)}",
    ]
