"""Trackers and callbacks of the user's: what they see, and how callbacks end a run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.host_envs import CountingHostEnv
from tests.unit.test_resume import results, tiny

import noisydqn
from noisydqn import Callback, Config, Evaluation, Training, UserError
from noisydqn.checkpoint.reader import newest_whole, read_manifests
from noisydqn.errors import ExtensionFailedError
from noisydqn.play.policy import GreedyPolicy
from noisydqn.runners.report import Episode, SeedChunk
from noisydqn.runs.folder import RunFolder
from noisydqn.runs.progress import StoredRun

OPTIONS: dict[str, Any] = tiny(env=CountingHostEnv, steps=160)


class Collecting:
    """A tracker that keeps all it gets."""

    def __init__(self, folder: Path | None = None, config: Config | None = None) -> None:
        self.folder, self.config = folder, config
        self.chunks: list[tuple[int, SeedChunk]] = []
        self.evaluations: list[int] = []
        self.closed = 0
        made.append(self)

    def chunk(self, steps: int, seconds: float, speed: float, chunk: SeedChunk) -> None:
        assert seconds > 0
        assert speed > 0
        self.chunks.append((steps, chunk))

    def evaluation(self, steps: int, seconds: float, evaluation: Evaluation) -> None:
        assert seconds > 0
        assert len(evaluation.returns) == 2
        self.evaluations.append(steps)

    def close(self) -> None:
        self.closed += 1


made: list[Collecting] = []


@pytest.fixture(autouse=True)
def clear() -> None:
    made.clear()


# Trackers


def test_a_tracker_gets_all_that_the_files_get(tmp_path: Path) -> None:
    tracker = Collecting()
    noisydqn.train(out=tmp_path / "run", trackers=[tracker], **OPTIONS)
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[1:]
    assert [steps for steps, _ in tracker.chunks] == [int(row.split(",")[0]) for row in rows]
    episodes = [episode for _, chunk in tracker.chunks for episode in chunk.episodes]
    assert len(episodes) == len((tmp_path / "run" / "episodes.csv").read_text().splitlines()) - 1
    assert tracker.evaluations == [120, 160]
    assert tracker.closed == 1


@pytest.mark.slow
@pytest.mark.parametrize("env", [CountingHostEnv, "noisydqn/Catcher-v0"])
def test_each_seed_gets_a_separate_tracker(env: Any, tmp_path: Path) -> None:
    """Whether the seeds take turns or are trained side by side."""
    options: dict[str, Any] = OPTIONS | {
        "env": env,
        "num_seeds": 2,
        "seed": 3,
        "evaluation_every": 0,
    }
    noisydqn.train(out=tmp_path / "run", trackers=[Collecting], **options)
    assert [(t.folder, t.config and t.config.run.seed) for t in made] == [
        (tmp_path / "run" / "seed3", 3),
        (tmp_path / "run" / "seed4", 4),
    ]
    assert [[steps for steps, _ in tracker.chunks] for tracker in made] == [[40, 80, 120, 160]] * 2
    assert [tracker.closed for tracker in made] == [1, 1]


def test_one_tracker_for_several_seeds_is_refused(tmp_path: Path) -> None:
    line = r"trackers: .*Collecting.* is one tracker for 2 seeds: give a function of \(folder"
    with pytest.raises(UserError, match=line):
        noisydqn.train(out=tmp_path / "run", trackers=[Collecting()], num_seeds=2, **OPTIONS)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"trackers": [3]}, "trackers: 3 lacks a method of noisydqn.Tracker"),
        ({"trackers": Collecting(), "env": 3}, "trackers must be a list, got .*put it in brackets"),
        ({"callbacks": Callback()}, "callbacks must be a list, got .*put it in brackets"),
        ({"callbacks": [Callback]}, "callbacks: .* is not a noisydqn.Callback: give an instance"),
        ({"callbacks": [print]}, "callbacks: .* is not a noisydqn.Callback: derive from it"),
        ({"callback": []}, "unknown option 'callback': did you mean callbacks"),
        ({"traker": []}, "unknown option 'traker': did you mean trackers"),
    ],
)
def test_what_is_neither_tracker_nor_callback_is_refused(
    given: dict[str, Any], line: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = OPTIONS | {"out": tmp_path / "run"} | given
    with pytest.raises(UserError, match=line):
        noisydqn.train(**options)
    assert not (tmp_path / "run").exists()


# Callbacks


class Watching(Callback):
    """Keeps the calls, and stops at some step."""

    def __init__(self, stop_at: float = np.inf) -> None:
        self.stop_at = stop_at
        self.calls: list[tuple[str, int]] = []

    def on_start(self, training: Training) -> None:
        self.calls.append(("start", training.steps))

    def on_chunk(self, training: Training, chunk: SeedChunk) -> bool | None:
        self.calls.append(("chunk", training.steps))
        assert training.num_updates == chunk.updates
        assert training.num_episodes >= len(chunk.episodes)
        assert isinstance(training.policy, GreedyPolicy)
        assert training.policy.predict(np.zeros(4, np.float32))[0] in (0, 1)
        return training.steps >= self.stop_at or None

    def on_evaluation(self, training: Training, steps: int, *_: Any) -> None:
        assert training.steps >= steps
        self.calls.append(("evaluation", steps))

    def on_end(self, training: Training, summary: dict[str, Any]) -> None:
        assert summary == json.loads((training.folder / "summary.json").read_text())
        assert summary["evaluation"] is not None
        self.calls.append(("end", training.steps))


def test_a_callback_is_called_in_order(tmp_path: Path) -> None:
    watching = Watching()
    options: dict[str, Any] = OPTIONS | {"evaluation_every": 0}
    noisydqn.train(out=tmp_path / "run", callbacks=[watching, Callback()], **options)
    chunks = [("chunk", steps) for steps in (40, 80, 120, 160)]
    assert watching.calls == [("start", 0), *chunks, ("evaluation", 160), ("end", 160)]


def test_a_callback_ends_training(tmp_path: Path) -> None:
    """The run is complete, and resuming it trains no further, but for a larger budget."""
    out = tmp_path / "run"
    result = noisydqn.train(out=out, callbacks=[Watching(stop_at=80)], **OPTIONS)
    assert not result.interrupted
    assert result.seeds[0].summary["steps"] == 80
    assert result.seeds[0].summary["evaluation"] is not None
    before = results(out)
    watching = Watching()
    noisydqn.resume(out, env=CountingHostEnv, callbacks=[watching], quiet=True)
    assert watching.calls == [("start", 80), ("evaluation", 80), ("end", 80)]
    assert results(out) == before
    noisydqn.resume(out, env=CountingHostEnv, steps=200, callbacks=[watching], quiet=True)
    assert watching.calls[-1] == ("end", 200)


class Acting(Callback):
    """Counts episodes, logs, and saves after some step."""

    def __init__(self, value: Any = 0.5) -> None:
        self.value = value
        self.episodes: list[int] = []

    def on_episode(self, training: Training, episode: Episode) -> None:
        assert episode.step <= training.steps
        self.episodes.append(episode.step)

    def on_chunk(self, training: Training, *_: Any) -> None:
        if training.steps == 80:
            training.save()
        training.log({"mine/half": self.value})


class Listening(Collecting):
    """A tracker that also takes values."""

    def values(self, steps: int, values: Mapping[str, float]) -> None:
        self.heard.append((steps, dict(values)))

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[int, dict[str, float]]] = []


def test_a_callback_sees_each_episode_saves_and_logs(tmp_path: Path) -> None:
    out, acting, tracker = tmp_path / "run", Acting(np.float32(0.5)), Listening()
    options: dict[str, Any] = OPTIONS | {"checkpoint_seconds": 0, "keep": 9}
    noisydqn.train(out=out, callbacks=[acting], trackers=[tracker, Collecting()], **options)
    rows = (out / "episodes.csv").read_text().splitlines()[1:]
    assert acting.episodes == [int(row.split(",")[0]) for row in rows]
    expected = [(steps, 0.5) for steps in (40, 80, 120, 160)]
    assert tracker.heard == [(steps, {"mine/half": value}) for steps, value in expected]
    events = EventAccumulator(str(out / "tensorboard")).Reload().Scalars("mine/half")
    assert [(event.step, event.value) for event in events] == expected
    manifests = read_manifests(RunFolder.at(out).checkpoints)[0]
    assert sorted(StoredRun.decode(x.run).progress.steps for x in manifests) == [80, 160]


def test_only_numbers_are_logged(tmp_path: Path) -> None:
    line = "callback Acting failed in on_chunk after 40 .*must hold numbers by name"
    with pytest.raises(ExtensionFailedError, match=line):
        noisydqn.train(out=tmp_path / "run", callbacks=[Acting("high")], **OPTIONS)


class StopsAtOnce(Callback):
    def on_start(self, training: Training) -> None:
        with pytest.raises(UserError, match="no policy before the first chunk"):
            _ = training.policy
        training.stop()


def test_a_stop_at_the_start_comes_after_a_chunk(tmp_path: Path) -> None:
    result = noisydqn.train(out=tmp_path / "run", callbacks=[StopsAtOnce()], **OPTIONS)
    assert result.seeds[0].summary["steps"] == 40


def test_a_callback_sees_all_seeds_and_ends_them_together(tmp_path: Path) -> None:
    class Stops(Callback):
        seeds: tuple[int, ...] = ()

        def on_chunk(self, training: Training, *_: Any) -> bool:
            self.seeds += (training.config.run.seed,)
            return training.config.run.seed == 0

    stops = Stops()
    options: dict[str, Any] = OPTIONS | {"env": "noisydqn/Catcher-v0", "num_seeds": 2}
    result = noisydqn.train(out=tmp_path / "run", callbacks=[stops], **options)
    assert stops.seeds == (0, 1)
    assert [seed.summary["steps"] for seed in result.seeds] == [40, 40]


class Failing(Callback):
    """Fails once, in a method of a given name."""

    def __init__(self, method: str) -> None:
        self.method = method

    def fail(self, method: str) -> None:
        if method == self.method:
            self.method = ""
            raise RuntimeError("no\nnetwork")

    def on_start(self, *_: Any) -> None:
        self.fail("on_start")

    def on_chunk(self, training: Training, *_: Any) -> None:
        if training.steps == 80:
            self.fail("on_chunk")

    def on_evaluation(self, *_: Any) -> None:
        self.fail("on_evaluation")

    def on_end(self, *_: Any) -> None:
        self.fail("on_end")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            {"callbacks": [Failing("on_chunk")]},
            "callback Failing failed in on_chunk after 80",
        ),
        ({"callbacks": [Failing("on_evaluation")]}, "callback Failing failed in on_evaluation of"),
        ({"callbacks": [Failing("on_end")]}, "callback Failing failed in on_end"),
    ],
)
def test_an_error_ends_a_run_with_everything_saved(
    given: dict[str, Any], line: str, tmp_path: Path
) -> None:
    """It is resumed with the same bits."""
    options: dict[str, Any] = OPTIONS | {"env": "CartPole-v1"}
    noisydqn.train(out=tmp_path / "whole", **options)
    out = tmp_path / "failed"
    with pytest.raises(ExtensionFailedError, match=f"the {line}.*: RuntimeError: no net") as caught:
        noisydqn.train(out=out, **given, **options)
    assert str(caught.value).endswith(f"; what was trained until then is in {out}")
    folder = RunFolder.at(out)
    assert folder.final.exists()
    assert folder.best.exists()
    assert newest_whole(folder.checkpoints, pytest.fail) is not None
    noisydqn.resume(out, quiet=True)
    assert results(out) == results(tmp_path / "whole")


def test_an_error_before_training_is_told_and_leaves_a_run_that_can_be_resumed(
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    with pytest.raises(ExtensionFailedError, match="callback Failing failed in on_start: Runtime"):
        noisydqn.train(out=out, callbacks=[Failing("on_start")], **OPTIONS)
    result = noisydqn.resume(out, env=CountingHostEnv, quiet=True)
    assert result.seeds[0].summary["steps"] == 160
