"""Files, TensorBoard, lines and plots say what happened, in order and under clear names."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tests.host_envs import CountingHostEnv

from noisydqn.config.config import Config
from noisydqn.envs.catcher import CAUGHT_FRACTION, CatcherPixels
from noisydqn.envs.guard import GuardedEnv
from noisydqn.envs.host import SUCCESS, HostEnvironment
from noisydqn.errors import UserError
from noisydqn.play.evaluate import Evaluation
from noisydqn.runners.report import Episode, SeedChunk, as_arrays, of_arrays
from noisydqn.runs.folder import RunFolder
from noisydqn.runs.messages import closing_lines
from noisydqn.runs.plots import draw_curves, read_columns, running_mean
from noisydqn.runs.result import Result, SeedResult
from noisydqn.runs.trackers import FileTracker, TensorBoardTracker, Terminal

CONFIG = Config(steps=4_000)
NAN = float("nan")
METRICS: tuple[str, ...] = ("loss", "q_error", "q_mean", "q_min", "q_max", "gradient_norm")


def chunk(*episodes: Episode) -> SeedChunk:
    metrics = dict.fromkeys(METRICS, 0.5)
    return SeedChunk(10, list(episodes), metrics, {"value": 0.02}, 0.1)


def caught(fraction: float, *returns: float) -> Evaluation:
    """An evaluation of Catcher."""
    return Evaluation(returns, 0, {"caught_fraction": fraction}, CatcherPixels.statistics)


def tracked(folder: RunFolder, *evaluations: Evaluation, success: bool = False) -> None:
    """The files of a run of 4,000 steps, with evaluations spread over it."""
    stats = {"success": 1.0} if success else {}
    files, board = FileTracker(folder), TensorBoardTracker(folder, CONFIG)
    for tracker in (files, board):
        tracker.chunk(2_000, 1.0, 9.0, chunk(Episode(900, 1.0, 5), Episode(950, 2.0, 7, stats)))
        tracker.chunk(4_000, 2.0, 9.0, chunk(Episode(3_000, 4.0, 5, stats)))
        for i, evaluation in enumerate(evaluations, 1):
            tracker.evaluation(4_000 * i // len(evaluations), 2.0, evaluation)
        tracker.close()


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.at(tmp_path)


# Lines


def test_lines_come_in_the_order_of_their_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An evaluation that takes longer than a chunk is not overtaken."""
    monkeypatch.setattr("noisydqn.runs.trackers.PLAIN_SECONDS", 0)
    with Terminal(CONFIG, quiet=False) as terminal:
        terminal.chunk(1_000, 1, 9, chunk())
        terminal.evaluating(1_000)
        terminal.chunk(2_000, 2, 9, chunk())
        terminal.evaluating(2_000)
        terminal.chunk(3_000, 3, 9, chunk())
        terminal.evaluation(1_000, 1, Evaluation((5.0,)))
        terminal.evaluation(2_000, 2, Evaluation((6.0,)))
        terminal.evaluating(3_000)  # which is never made
        terminal.chunk(4_000, 4, 9, chunk())
        terminal.close()
    lines = capsys.readouterr().out.splitlines()
    kinds = [("evaluation" in line, line.split()[0]) for line in lines]
    assert kinds == [
        (False, "1,000"),
        (True, "1,000"),
        (False, "2,000"),
        (True, "2,000"),
        (False, "3,000"),
        (False, "4,000"),
    ]


def test_a_notebook_gets_lines_of_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its output says that it is a terminal, but keeps each frame of a bar."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Terminal(CONFIG, quiet=False) as terminal:
        terminal.chunk(1_000, 1, 9, chunk())
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("    1,000 of 4,000 steps")


def result_of(folder: RunFolder, *, env: str = "A-v0", **evaluation: float) -> SeedResult:
    summary = {"env": env, "steps": 4_000, "train_seconds": 2.0, "solved_at_step": 3_000}
    policy: Any = None
    return SeedResult(folder.path, policy, summary | {"evaluation": evaluation})


def test_the_last_lines_say_which_weights_played(folder: RunFolder) -> None:
    """There is no best of one."""
    out = folder.path
    tracked(folder, Evaluation((1.0,)))
    lines = closing_lines(out, CONFIG, [result_of(folder, mean_return=6.0)])
    assert lines == [
        "trained for 4,000 steps in 2 s; solved after 3,000",
        "without noise the final weights: a mean return of 6.0",
        f"curves, metrics and weights are in {out}",
        f"next: noisydqn evaluate {out}",
    ]
    tracked(folder, Evaluation((1.0,)), Evaluation((2.0,)))
    folder.video.path.touch()
    caught = result_of(folder, mean_return=6.0, caught_fraction=0.5)
    lines = closing_lines(out, CONFIG, [caught, caught], (CAUGHT_FRACTION,))
    assert lines[1] == "without noise the best of 2 evaluated: 50.00%, 50.00% of the fruit caught"
    assert lines[2].startswith("the video, curves")


def test_what_to_do_next_can_be_done(tmp_path: Path) -> None:
    """A command whose path is one word, or a call where no name leads to the environment."""
    folder = RunFolder.at(tmp_path / "two words" / "seed0")
    for env, expected in {
        "CartPole-v1": f"next: noisydqn evaluate '{folder.path.parent}'",
        "my_module:A-v0": f"next: noisydqn evaluate '{folder.path.parent}' --trust",
        "python:<m.<lambda>>": f'next: noisydqn.evaluate("{folder.path}", env=...)',
    }.items():
        config, result = CONFIG.replace(env=env), result_of(folder, mean_return=1)
        lines = closing_lines(folder.path.parent, config, [result])
        assert lines[-1] == expected


# Success


class GoalEnv(CountingHostEnv):
    """Reports at each step whether the goal is reached: in episodes of 3 steps, at the last."""

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        if self.episode % 3 < 2:  # in every third episode it says nothing
            info = {"is_success": np.bool_(terminated), "place": [1, 2]}
        return observation, reward, terminated, truncated, info


def test_success_comes_with_the_last_step_of_an_episode() -> None:
    vector = HostEnvironment(GoalEnv, "{}", None, "sync").vector(2)
    try:
        vector.reset(0)
        successes: list[list[float]] = []
        for _ in range(4 + 6 + 3):
            time_step = vector.step(np.zeros(2, np.int64))
            assert bool(vector.stats) <= bool(np.any(time_step.last))
            successes += [x.tolist() for x in vector.stats.values()]
    finally:
        vector.close()
    assert successes == [[1, 1], [0, 0]]


class CountedEnv(GoalEnv):
    """Declares counts of which it reports one that no episode has, and one that is no number."""

    episode_counts: Any = ("place", "rings", "missing")

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, info | {"rings": self.time}


@pytest.mark.slow
@pytest.mark.parametrize("vectorization", ["sync", "subprocess"])
def test_counts_come_with_the_last_step_of_an_episode(vectorization: str) -> None:
    vector = HostEnvironment(CountedEnv, "{}", None, vectorization).vector(2, processes=True)
    assert vector.counts == ("place", "rings", "missing")
    try:
        vector.reset(0)
        ended: list[dict[str, list[float]]] = []
        for _ in range(4 + 6 + 3):
            vector.step(np.zeros(2, np.int64))
            if vector.stats:
                ended.append({name: x.tolist() for name, x in vector.stats.items()})
    finally:
        vector.close()
    first, second, third = ended
    assert first == {"success": [1, 1], "rings": [3, 3]}
    assert second == {"success": [0, 0], "rings": [5, 5]}
    assert third == {"rings": [3, 3]}


@pytest.mark.parametrize("declared", [None, 3, "rings", [1, "rings"], lambda: ("rings",)])
def test_only_lists_of_names_declare_counts(declared: Any) -> None:
    env = CountedEnv()
    env.episode_counts = declared
    wanted = ("rings",) if isinstance(declared, list) else ()
    assert GuardedEnv(env, 0).episode_counts == wanted


def test_counts_survive_a_checkpoint() -> None:
    episodes = [
        Episode(3, 1.0, 2, {"success": 1.0, "rings": 4.0}),
        Episode(9, 2.0, 3, {"rings": 0.0}),
        Episode(12, 0.5, 3),
    ]
    assert of_arrays(as_arrays(episodes, ("rings", "missing"))) == episodes
    assert of_arrays(as_arrays(episodes)) == [
        Episode(3, 1.0, 2, {"success": 1.0}),
        Episode(9, 2.0, 3),
        Episode(12, 0.5, 3),
    ]


def test_counts_reach_the_files(folder: RunFolder) -> None:
    files = FileTracker(folder)
    files.chunk(9, 1.0, 9.0, chunk(Episode(3, 1.0, 2, {"rings": 4.0}), Episode(9, 2.0, 3)))
    files.close()
    lines = folder.episodes.path.read_text().splitlines()
    assert lines == ["step,return,length,success,rings", "3,1.0,2,,4.0", "9,2.0,3,,"]


def test_success_reaches_the_files_and_the_live_view(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracked(folder, success=True)
    with folder.episodes.path.open() as file:
        assert [row["success"] for row in csv.DictReader(file)] == ["", "1.0", "1.0"]
    monkeypatch.setattr("noisydqn.runs.trackers.PLAIN_SECONDS", 0)
    with Terminal(CONFIG, quiet=False) as terminal:
        successes = (Episode(1, 1.0, 1, {"success": x}) for x in (1.0, 0.0, 1.0, 1.0))
        terminal.chunk(1_000, 1, 9, chunk(Episode(1, 1.0, 1), *successes))
    assert "success 75%" in capsys.readouterr().out


# Files


def test_all_files_begin_with_the_step(folder: RunFolder) -> None:
    tracked(folder, Evaluation((1.0,)))
    for file in (folder.metrics, folder.episodes, folder.evaluations):
        assert file.path.read_text().startswith("step,")


def test_an_older_run_keeps_its_header_and_is_plotted(folder: RunFolder) -> None:
    folder.metrics.path.write_text("steps,seconds,updates,loss,sigma.value\n1000,0.5,5,,0.02\n")
    folder.episodes.path.write_text("step,return,length\n900,1.0,5\n")
    folder.evaluations.path.write_text("steps,seconds,episodes,mean_return\n1000,0.5,1,2.0\n")
    written = (folder.metrics, folder.episodes, folder.evaluations)
    sizes = [file.size() for file in written]
    files = FileTracker(folder, sizes)
    files.chunk(2_000, 1.0, 9.0, chunk(Episode(1_900, 2.0, 6, {"success": 1.0})))
    files.evaluation(2_000, 1.0, Evaluation((3.0,)))
    files.close()
    assert folder.metrics.path.read_text().splitlines()[2] == "2000,1.0,10,0.5,0.02"
    metrics, episodes, evaluations = map(read_columns, written)
    assert metrics["step"] == evaluations["step"] == [1000, 2000]
    assert np.isnan(metrics["loss"][0])
    assert episodes == {"step": [900, 1900], "return": [1, 2], "length": [5, 6]}
    draw_curves(folder)


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> EventAccumulator:
    folder = RunFolder.at(tmp_path_factory.mktemp("run"))
    tracked(folder, caught(0.5, 1.0, 3.0), success=True)
    accumulator = EventAccumulator(str(folder.tensorboard))
    return accumulator.Reload()


def test_tensorboard_explains_its_names(events: EventAccumulator) -> None:
    scalars: Any = events.Tags()["scalars"]
    assert {"episode/Return", "episode/Success", "episode/Q-Error"} <= set(scalars)
    assert sum("error" in tag.lower() for tag in scalars) == 2
    assert "The loss" in events.SummaryMetadata("episode/Q-Error").summary_description
    assert "TD errors" in events.SummaryMetadata("learning/priority_error").summary_description
    assert [event.value for event in events.Scalars("evaluation/mean_return")] == [2.0]
    assert [event.value for event in events.Scalars("evaluation/caught_fraction")] == [0.5]
    assert "Fraction of the fruit" in (
        events.SummaryMetadata("evaluation/caught_fraction").summary_description
    )


def test_tensorboard_knows_the_hyperparameters(events: EventAccumulator) -> None:
    (content,) = events.PluginTagToContent("hparams").values()
    protobuf: Any = plugin_data_pb2
    data = protobuf.HParamsPluginData.FromString(content)
    options = data.session_start_info.hparams
    assert set(options) == set(CONFIG.flat())
    assert options["learning_rate"].number_value == CONFIG.learning.learning_rate
    assert options["hidden"].string_value == "(128, 128, 128)"
    assert options["double"].bool_value is True


# Plots and video


def test_running_mean() -> None:
    assert running_mean([1.0, 3.0, 5.0, 7.0], 2) == [1.0, 2.0, 4.0, 6.0]


@pytest.mark.parametrize(
    ("evaluations", "success", "title"),
    [
        ((), False, "Loss"),
        ((Evaluation((1.0,)),), True, "Success of training episodes"),
        (
            (caught(0.5, 1.0), caught(1.0, 2.0)),
            False,
            "Caught fraction in evaluations",
        ),
    ],
)
def test_plots(
    folder: RunFolder, evaluations: tuple[Evaluation, ...], success: bool, title: str
) -> None:
    """Evaluations stand beside the training episodes that they are compared with."""
    tracked(folder, *evaluations, success=success)
    result = Result(folder.path, [result_of(folder)])
    returns, middle, noise = result.plot().axes
    named = {line.get_label(): list(line.get_ydata()) for line in returns.lines}  # pyright: ignore[reportArgumentType]
    assert named.pop("training, exploring") == [1.0, 2.0, 4.0]
    means = [evaluation.mean_return for evaluation in evaluations]
    assert list(named.values()) == ([means] if means else [])
    assert middle.get_title() == title
    assert [line.get_label() for line in noise.lines] == ["value"]


def test_plots_of_a_run_in_which_nothing_happened(folder: RunFolder) -> None:
    files = FileTracker(folder)
    metrics = dict.fromkeys(METRICS, NAN)
    files.chunk(10, 1.0, 9.0, SeedChunk(0, [], metrics, {}, 0.0))
    files.close()
    texts = [axes.texts[0].get_text() for axes in draw_curves(folder).axes]
    assert texts == ["no training episode ended", "no updates", "no layer is noisy"]


def test_a_statistic_that_later_evaluations_alone_report(folder: RunFolder) -> None:
    files = FileTracker(folder)
    for step, stats in ((10, {}), (20, {"success_rate": 0.5})):
        evaluation = Evaluation((1.0,), stats=stats, statistics=(SUCCESS,))
        files.evaluation(step, 1.0, evaluation)
        columns = read_columns(folder.evaluations)
        titles = [axes.get_title() for axes in draw_curves(folder).axes]
        assert ("Success rate in evaluations" in titles) == bool(stats)
    files.close()
    assert columns["success_rate"] == [pytest.approx(NAN, nan_ok=True), 0.5]


def test_a_notebook_shows_plot_and_video(folder: RunFolder) -> None:
    result: Any = Result(folder.path, [result_of(folder)])
    assert result.plot()._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="noisydqn record makes a video"):
        result.video()
    folder.video.path.write_bytes(b"pictures")
    assert result.video().path == folder.video.path
    assert "data:video/mp4;base64,cGljdHVyZXM=" in result.video()._repr_html_()
