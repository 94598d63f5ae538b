"""A whole training run: the loop, its evaluations, and the files it leaves."""

import dataclasses
import signal
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from noisydqn.build import Policy
from noisydqn.config import MAX_COUNT, Config
from noisydqn.envs.catalogue import Maker
from noisydqn.envs.device import DeviceEnvironment
from noisydqn.envs.host import EnvironmentFailedError, HostEnvironment
from noisydqn.envs.select import environment_spec, make_environment
from noisydqn.errors import UserError
from noisydqn.imports import find, name_of
from noisydqn.presets import DEFAULT_PRESET, PRESETS, config_for
from noisydqn.torsos import TorsoMaker
from noisydqn.training import device, host
from noisydqn.training.curves import save_curves
from noisydqn.training.evaluate import Evaluation, evaluate
from noisydqn.training.film import save_film
from noisydqn.training.folder import (
    RunFolder,
    create_folders,
    free_path,
    open_folders,
)
from noisydqn.training.report import Chunk, SeedChunk
from noisydqn.training.trackers import FileTracker, TensorBoardTracker, Terminal, Tracker
from noisydqn.training.weights import load_policy, save_policy, write_json


class SeedKeys(NamedTuple):
    """The independent keys of one seed."""

    training: jax.Array
    selection: jax.Array  # of the evaluations that choose the best weights
    report: jax.Array  # of the evaluation that is reported: other episodes than those
    film: jax.Array


def seed_keys(seed: int) -> SeedKeys:
    """Everything random comes from these."""
    return SeedKeys(*jax.random.split(jax.random.key(seed), len(SeedKeys._fields)))


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
    interrupted: bool


def train(
    config: Config | None = None,
    *,
    env: str | Maker | None = None,
    torso: str | TorsoMaker | None = None,
    out: Path | str | None = None,
    quiet: bool = False,
    **options: Any,
) -> Result:
    """Train, evaluate and film; leaves a run folder. This is what `noisydqn train` does.

        noisydqn.train(env="LunarLander-v3", seed=1)
        noisydqn.train(env=lambda: MyEnv(size=5), steps=50_000)
        noisydqn.train(noisydqn.PRESETS["catcher"])

    Ctrl-C ends training after the chunk under way; the weights are then saved, but not
    evaluated or filmed. A second one quits at once.

    Args:
        config: the options; if None those that suit `env`.
        env: an id, as on the command line, or a function that makes an environment of
            Gymnasium; if None that of `config`.
        torso: a torso, as on the command line, or a function of a module that makes one from the
            shape of an observation and a key, any `equinox.Module`; if None that of `config`.
        out: the run's folder, new or empty; if None a new one under `runs/`.
        quiet: print nothing, unless interrupted.
        options: changes to the config, such as `seed=1`.

    Raises:
        UserError: an option or the environment cannot be used, or `out` holds something already
            or cannot be written to.
        EnvironmentFailedError: an environment failed while training; what was trained is saved.
    """
    maker = None if env is None or isinstance(env, str) else env
    if torso is not None:
        options["torso"] = torso if isinstance(torso, str) else _torso_name(torso)
    config = _config(config, env).replace(**options)
    environment = make_environment(config, maker)
    out, folders = create_folders(config, None if out is None else Path(out))
    with Terminal(config, quiet=quiet) as terminal:
        terminal.say(f"{config.preset}: {config.steps:,} steps of {config.env} into {out}")
        if config.steps < config.first_learning_step:
            terminal.warn(
                f"nothing will be learned: learning starts after {config.first_learning_step:,} "
                "steps; raise --steps or lower --learning-starts"
            )
        results: list[SeedResult] = []
        stopped = False
        for loop in _loops(config, environment, folders, terminal):
            stopped = _train_and_report(loop, terminal, out)
            results += [SeedResult(r.folder.path, r.best_policy, r.summary) for r in loop.runs]
            if stopped:
                terminal.warn(
                    f"interrupted after {loop.steps:,} steps; weights and metrics are in {out}"
                )
                break
        if config.num_seeds > 1:
            write_json(out / "summary.json", {"seeds": [result.summary for result in results]})
        if not stopped:
            terminal.say(_closing_line(out, results))
    return Result(out, results, stopped)


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
    folders: list[RunFolder],
    terminal: Terminal,
) -> Iterator["_Loop"]:
    """One loop for all seeds where they can be trained at once, else one for each in turn."""
    seeds = [config.replace(seed=config.seed + i, num_seeds=1) for i in range(config.num_seeds)]
    if not isinstance(env, HostEnvironment):
        yield _Loop(seeds, env, folders, terminal)
        return
    for seed, folder in zip(seeds, folders, strict=True):
        if len(seeds) > 1:
            terminal.start(f"seed {seed.seed}")
        yield _Loop([seed], env, [folder], terminal)


def _train_and_report(loop: "_Loop", terminal: Terminal, out: Path) -> bool:
    """Train, save, then evaluate and film; returns whether it was interrupted."""
    with _interruptible(terminal) as interrupted:
        try:
            loop.train(interrupted)
        except EnvironmentFailedError as failure:
            if loop.steps == 0:
                raise
            loop.save()
            raise failure.with_hint(f"what was trained until then is in {out}") from failure
        loop.save()
    if interrupted[0]:
        return True
    terminal.say("evaluating and filming the best weights")
    try:
        loop.report(terminal)
    except KeyboardInterrupt:
        return True
    return False


def _closing_line(out: Path, results: list[SeedResult]) -> str:
    summaries = [result.summary for result in results]
    caught = [s["evaluation"].get("caught_fraction") for s in summaries]
    if None in caught:
        means = ", ".join(f"{s['evaluation']['mean_return']:.1f}" for s in summaries)
        outcome = f"return {means}"
    else:
        outcome = f"catch {', '.join(f'{x:.2%}' for x in caught)} of the fruit"
    solved = summaries[0]["solved_at_step"]
    steps = "" if solved is None else f", solved after {solved:,} steps"
    return (
        f"trained in {summaries[0]['train_seconds']:.0f} s{steps}; without noise the best weights "
        f"{outcome}; everything is in {out}"
    )


@contextmanager
def _interruptible(terminal: Terminal) -> Generator[list[bool]]:
    """Turn the first Ctrl-C into a flag, `[True]`; a second one interrupts at once."""
    flag = [False]

    def note(number: int, frame: FrameType | None) -> None:
        del number, frame
        if flag[0]:
            raise KeyboardInterrupt
        flag[0] = True
        terminal.warn("interrupted: saving after this chunk (Ctrl-C again to quit without saving)")

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread: interrupts are not ours to handle
        yield flag
        return
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)


class _SeedRun:
    """One seed's side of a run: its trackers, its evaluations and its best weights."""

    def __init__(
        self,
        config: Config,
        env: DeviceEnvironment | HostEnvironment,
        folder: RunFolder,
        terminal: Terminal | None,
    ) -> None:
        self.config, self.env, self.folder = config, env, folder
        self.keys = seed_keys(config.seed)
        self.trackers: list[Tracker] = [FileTracker(folder), TensorBoardTracker(folder)]
        if terminal is not None:
            self.trackers.append(terminal)
        self.final: Policy | None = None
        self.best: Policy | None = None
        self.best_return = -float("inf")
        self.episodes = self.updates = 0
        self.recent: deque[float] = deque(maxlen=config.window)  # returns
        self.solved_at: tuple[int, float] | None = None
        self.pending: list[tuple[int, float, Policy, Future[Evaluation]]] = []
        self.summary: dict[str, Any] = {}

    @property
    def best_policy(self) -> Policy:
        """The best in an evaluation, or the last if there was none."""
        best = self.final if self.best is None else self.best
        if best is None:
            raise RuntimeError("nothing was trained yet")
        return best

    def chunk(
        self, steps: int, seconds: float, speed: float, chunk: SeedChunk, policy: Policy
    ) -> None:
        """Take in a chunk and the policy after it."""
        self.episodes += len(chunk.episodes)
        self.updates = chunk.updates
        self.final = policy
        for episode in chunk.episodes:
            self.recent.append(episode.episode_return)
            if self.solved_at is None and self.reached_return:
                self.solved_at = episode.step, seconds
        for tracker in self.trackers:
            tracker.chunk(steps, seconds, speed, chunk)

    @property
    def reached_return(self) -> bool:
        """Whether the mean return of the newest episodes is what training is to stop at."""
        goal = self.config.stop_at_return
        if goal is None or len(self.recent) < self.config.window:
            return False
        return sum(self.recent) / self.config.window >= goal

    def start_evaluation(self, pool: ThreadPoolExecutor, steps: int, seconds: float) -> None:
        """Evaluate the newest policy in another thread while training goes on."""
        assert self.final is not None  # noqa: S101 - a chunk came before
        key = jax.random.fold_in(self.keys.selection, steps)
        episodes = self.config.evaluation_episodes
        future = pool.submit(evaluate, self.env, self.final, episodes=episodes, key=key)
        self.pending.append((steps, seconds, self.final, future))

    def collect(self, *, wait: bool) -> None:
        """Take in the evaluations that are done, or all of them, in their order."""
        while self.pending and (wait or self.pending[0][3].done()):
            steps, seconds, policy, future = self.pending.pop(0)
            evaluation = future.result()
            if evaluation.mean_return >= self.best_return:
                self.best, self.best_return = policy, evaluation.mean_return
                save_policy(self.folder.best, policy)
            goal = self.config.stop_at_return
            if goal is None and evaluation.solved and self.solved_at is None:
                self.solved_at = steps, seconds
            for tracker in self.trackers:
                tracker.evaluation(steps, seconds, evaluation)

    def save(self, steps: int, seconds: float) -> None:
        """Write weights and summary, and close the trackers."""
        assert self.final is not None  # noqa: S101 - a chunk came before
        save_policy(self.folder.final, self.final)
        save_policy(self.folder.best, self.best_policy)
        for tracker in self.trackers:
            tracker.close()
        solved_step, solved_seconds = self.solved_at or (None, None)
        self.summary = {
            "preset": self.config.preset,
            "env": self.config.env,
            "seed": self.config.seed,
            "steps": steps,
            "updates": self.updates,
            "episodes": self.episodes,
            "train_seconds": round(seconds, 2),
            "steps_per_second": round(steps / seconds, 1),
            "solved_at_step": solved_step,
            "solved_at_seconds": None if solved_seconds is None else round(solved_seconds, 2),
            "evaluation": None,
        }
        write_json(self.folder.summary, self.summary)

    def report(self, terminal: Terminal) -> None:
        """Evaluate the best weights in episodes of their own, and film them."""
        config, policy = self.config, self.best_policy
        save_curves(self.folder)
        episodes = config.evaluation_episodes
        evaluation = evaluate(self.env, policy, episodes=episodes, key=self.keys.report)
        self.summary["evaluation"] = evaluation.summary()
        write_json(self.folder.summary, self.summary)
        if config.film_seconds > 0:
            try:
                save_film(self.folder.film, self.env, policy, config.film_seconds, self.keys.film)
            except UserError as error:
                terminal.warn(str(error))


class _Loop:
    """Drives a runner and hands what it reports to the seeds' trackers."""

    def __init__(
        self,
        seeds: list[Config],
        env: DeviceEnvironment | HostEnvironment,
        folders: list[RunFolder],
        terminal: Terminal,
    ) -> None:
        self.config, self.env = seeds[0], env
        self.runs = [
            _SeedRun(seed, env, folder, terminal if i == 0 else None)
            for i, (seed, folder) in enumerate(zip(seeds, folders, strict=True))
        ]
        self.steps = 0
        self.seconds = 0.0

    def train(self, interrupted: list[bool]) -> None:
        """Train until the budget is used up, it is solved, or a flag is raised.

        Evaluates on the way.
        """
        every = self.config.evaluation_every or MAX_COUNT
        evaluated = 0
        start = last = time.perf_counter()
        with ThreadPoolExecutor(max_workers=1) as pool, closing(self._chunks()) as chunks:
            for chunk in chunks:
                now = time.perf_counter()
                speed = (chunk.steps - self.steps) / (now - last)
                self.steps, self.seconds, last = chunk.steps, now - start, now
                for i, run in enumerate(self.runs):
                    policy = chunk.policy(i)
                    run.chunk(chunk.steps, self.seconds, speed, chunk.seeds[i], policy)
                    run.collect(wait=False)
                if interrupted[0] or self._finished:
                    break
                if chunk.steps // every > evaluated // every:
                    evaluated = chunk.steps
                    self._evaluate(pool)
            if not interrupted[0] and evaluated < self.steps:
                self._evaluate(pool)
            for run in self.runs:
                run.collect(wait=True)
        self.seconds = time.perf_counter() - start

    def _chunks(self) -> Generator[Chunk]:
        keys = [run.keys.training for run in self.runs]
        if isinstance(self.env, HostEnvironment):
            return host.run(self.config, self.env, keys[0])
        return device.run(self.config, self.env, jnp.stack(keys))

    @property
    def _finished(self) -> bool:
        """Whether the time is used up, or every seed has reached the return to stop at."""
        limit = self.config.max_seconds
        if limit is not None and self.seconds >= limit:
            return True
        return all(run.solved_at is not None for run in self.runs) and (
            self.config.stop_at_return is not None
        )

    def _evaluate(self, pool: ThreadPoolExecutor) -> None:
        for run in self.runs:
            run.start_evaluation(pool, self.steps, self.seconds)

    def save(self) -> None:
        """Write the weights of all seeds, before anything else can go wrong."""
        for run in self.runs:
            run.save(self.steps, self.seconds)

    def report(self, terminal: Terminal) -> None:
        """Report on every seed."""
        for run in self.runs:
            run.report(terminal)


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
