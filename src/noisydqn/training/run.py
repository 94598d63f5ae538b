"""A whole training run: the loop, its evaluations, and the files it leaves."""

import dataclasses
import signal
import time
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import jax

from noisydqn.build import Policy, make_environment
from noisydqn.config import Config
from noisydqn.envs.device import DeviceEnvironment
from noisydqn.errors import UserError
from noisydqn.training import device
from noisydqn.training.curves import save_curves
from noisydqn.training.evaluate import Evaluation, evaluate
from noisydqn.training.film import save_film
from noisydqn.training.folder import (
    RunFolder,
    choose_folder,
    create_folders,
    free_path,
    open_folders,
)
from noisydqn.training.trackers import FileTracker, TensorBoardTracker, Terminal, Tracker
from noisydqn.training.weights import load_policy, save_policy, write_json

SELECTION, REPORT = 1, 2
"""Folded into evaluation keys: episodes that choose the best weights are not those reported."""


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


def report_key(seed: int) -> jax.Array:
    """The key of the evaluation that is reported, here and by `noisydqn evaluate --seed`."""
    return jax.random.fold_in(jax.random.key(seed), REPORT)


class _SeedRun:
    """One seed's side of a run: its trackers, its evaluations and its best weights."""

    def __init__(
        self, config: Config, env: DeviceEnvironment, folder: RunFolder, terminal: Terminal | None
    ) -> None:
        self.config, self.env, self.folder = config, env, folder
        self.trackers: list[Tracker] = [FileTracker(folder), TensorBoardTracker(folder)]
        if terminal is not None:
            self.trackers.append(terminal)
        self.best: Policy | None = None
        self.best_return = -float("inf")
        self.episodes = self.updates = 0
        self.solved_at: tuple[int, float] | None = None
        self.pending: list[tuple[int, float, Policy, Future[Evaluation]]] = []

    def chunk(self, steps: int, seconds: float, speed: float, chunk: device.SeedChunk) -> None:
        self.episodes += len(chunk.episodes)
        self.updates = chunk.updates
        for tracker in self.trackers:
            tracker.chunk(steps, seconds, speed, chunk)

    def start_evaluation(
        self, pool: ThreadPoolExecutor, policy: Policy, steps: int, seconds: float
    ) -> None:
        """Evaluate in another thread while training goes on."""
        key = jax.random.fold_in(jax.random.key(self.config.seed), SELECTION)
        key = jax.random.fold_in(key, steps)
        episodes = self.config.evaluation_episodes
        future = pool.submit(evaluate, self.env, policy, episodes=episodes, key=key)
        self.pending.append((steps, seconds, policy, future))

    def collect(self, *, wait: bool) -> None:
        """Take in the evaluations that are done, or all of them, in their order."""
        while self.pending and (wait or self.pending[0][3].done()):
            steps, seconds, policy, future = self.pending.pop(0)
            evaluation = future.result()
            if evaluation.mean_return >= self.best_return:
                self.best, self.best_return = policy, evaluation.mean_return
                save_policy(self.folder.best, policy)
            if evaluation.solved and self.solved_at is None:
                self.solved_at = steps, seconds
            for tracker in self.trackers:
                tracker.evaluation(steps, seconds, evaluation)

    def summary(self, steps: int, seconds: float, evaluation: Evaluation | None) -> dict[str, Any]:
        solved_step, solved_seconds = self.solved_at or (None, None)
        return {
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
            "evaluation": None if evaluation is None else evaluation.summary(),
        }


@contextmanager
def _interruptible(terminal: Terminal) -> Generator[list[bool]]:
    """Turn the first Ctrl-C into a flag, `[True]`; a second one interrupts at once."""
    flag = [False]

    def note(number: int, frame: FrameType | None) -> None:
        del number, frame
        if flag[0]:
            raise KeyboardInterrupt
        flag[0] = True
        terminal.say("interrupted: saving after this chunk (Ctrl-C again to quit without saving)")

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread: interrupts are not ours to handle
        yield flag
        return
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)


def train(config: Config, *, out: Path | str | None = None, quiet: bool = False) -> Result:
    """Train, evaluate and film; leaves a run folder. This is what `noisydqn train` does.

    Args:
        config: the options, for instance `noisydqn.PRESETS["catcher"].replace(seed=1)`.
        out: the run's folder, new or empty; if None a new one under `runs/`.
        quiet: print nothing.

    Raises:
        UserError: `out` holds something already or cannot be written to.
    """
    out = choose_folder(config, None if out is None else Path(out))
    folders = create_folders(config, out)
    with Terminal(config, quiet=quiet) as terminal, _interruptible(terminal) as interrupted:
        terminal.say(f"{config.preset}: {config.steps:,} steps of {config.env} into {out}")
        loop = _Loop(config, folders, terminal)
        loop.train(interrupted)
        stopped = interrupted[0]
        if not stopped:
            terminal.say("evaluating and filming the best weights")
        results = [loop.finish(i, interrupted=stopped) for i in range(len(folders))]
        if config.num_seeds > 1:
            summaries = [result.summary for result in results]
            write_json(out / "summary.json", {"seeds": summaries})
        terminal.say(_closing_line(out, results, interrupted=stopped))
    return Result(out, results, stopped)


def _closing_line(out: Path, results: list[SeedResult], *, interrupted: bool) -> str:
    if interrupted:
        steps = results[0].summary["steps"]
        return f"interrupted after {steps:,} steps; weights and metrics are in {out}"
    caught = [result.summary["evaluation"]["caught_fraction"] for result in results]
    seconds = results[0].summary["train_seconds"]
    return (
        f"trained in {seconds:.0f} s; without noise the best weights catch "
        f"{', '.join(f'{x:.2%}' for x in caught)} of the fruit; everything is in {out}"
    )


class _Loop:
    """Drives the device runner and hands what it reports to the seeds' trackers."""

    def __init__(self, config: Config, folders: list[RunFolder], terminal: Terminal) -> None:
        self.config = config
        self.env = make_environment(config)
        self.runs = [
            _SeedRun(
                config.replace(seed=config.seed + i, num_seeds=1),
                self.env,
                folder,
                terminal if i == 0 else None,
            )
            for i, folder in enumerate(folders)
        ]
        self.steps = 0
        self.seconds = 0.0
        self.final: list[Policy] = []

    def train(self, interrupted: list[bool]) -> None:
        config = self.config
        start = last = time.perf_counter()
        every = config.evaluation_every or config.steps
        evaluated = 0
        with ThreadPoolExecutor(max_workers=1) as pool:
            for chunk in device.run(config, self.env):
                now = time.perf_counter()
                speed = (chunk.steps - self.steps) / (now - last)
                self.steps, self.seconds, last = chunk.steps, now - start, now
                for run, seed_chunk in zip(self.runs, chunk.seeds, strict=True):
                    run.chunk(chunk.steps, self.seconds, speed, seed_chunk)
                    run.collect(wait=False)
                self.final = [chunk.policy(i) for i in range(config.num_seeds)]
                if interrupted[0]:
                    break
                if chunk.steps // every > evaluated // every:
                    evaluated = chunk.steps
                    self._evaluate(pool)
            if not interrupted[0] and evaluated < self.steps:
                self._evaluate(pool)
            for run in self.runs:
                run.collect(wait=True)
        self.seconds = time.perf_counter() - start

    def _evaluate(self, pool: ThreadPoolExecutor) -> None:
        for run, policy in zip(self.runs, self.final, strict=True):
            run.start_evaluation(pool, policy, self.steps, self.seconds)

    def finish(self, index: int, *, interrupted: bool) -> SeedResult:
        """Save what a seed has learned; unless interrupted, also report on it and film it."""
        run, final = self.runs[index], self.final[index]
        folder, config = run.folder, run.config
        save_policy(folder.final, final)
        if run.best is None:
            run.best = final
            save_policy(folder.best, final)
        for tracker in run.trackers:
            tracker.close()
        if interrupted:
            summary = run.summary(self.steps, self.seconds, None)
            write_json(folder.summary, summary)
            return SeedResult(folder.path, run.best, summary)
        key = report_key(config.seed)
        evaluation = evaluate(self.env, run.best, episodes=config.evaluation_episodes, key=key)
        summary = run.summary(self.steps, self.seconds, evaluation)
        write_json(folder.summary, summary)
        save_curves(folder)
        if config.film_seconds > 0:
            save_film(folder.film, self.env, run.best, config.film_seconds, key)
        return SeedResult(folder.path, run.best, summary)


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
        key = report_key(config.seed if seed is None else seed)
        yield folder.path, evaluate(env, policy, episodes=episodes, key=key)


def record_run(path: Path, out: Path | None, seconds: float, seed: int | None) -> Iterator[Path]:
    """Film a run, or each run of a folder of seeds; yields the films' paths.

    Args:
        path: a folder that `train` made.
        out: the film, a new file; None takes a free name in the run's folder.
        seconds: length of the film.
        seed: of the games; None takes the run's own.

    Raises:
        UserError: `out` exists, or would have to hold several films, or as `evaluate_run`.
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
        key = report_key(config.seed if seed is None else seed)
        save_film(film, env, policy, seconds, key)
        yield film


def _load(folder: RunFolder, config: Config, weights: str) -> tuple[DeviceEnvironment, Policy]:
    env = make_environment(config)
    return env, load_policy(folder.weights(weights), config, env)
