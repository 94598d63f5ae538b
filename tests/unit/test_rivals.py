"""Logs of other libraries become runs, or are refused in one line that says where they are bad."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from noisydqn.errors import UserError
from noisydqn.report.records import Run
from noisydqn.report.rivals import Name, name_of_path
from noisydqn.runs.recorded import read_recorded

# protobuf makes these classes at run time, without types.
EVENT: Any = event_pb2
SUMMARY: Any = summary_pb2


def only(path: Path | str, **options: Any) -> Run:
    (run,) = read_recorded([path], **options)
    return run


def refusal(path: Path | str, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        read_recorded([path], **options)
    assert str(error.value).isprintable()
    return str(error.value)


# Names


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("logs/Acrobot-v1/dqn/seed-3", Name("Acrobot-v1", "dqn", 3)),
        ("runs/CartPole-v1__dqn__1__1700000000", Name("CartPole-v1", "dqn", 1)),
        ("logs/qrdqn/CartPole-v1_2", Name("CartPole-v1", "qrdqn", 2)),
        ("logs/seed_7", Name(None, None, 7)),
        ("logs/first", Name()),
    ],
)
def test_paths_say_of_what_a_log_is(path: str, name: Name) -> None:
    assert name_of_path(Path(path)) == name


# Stable-Baselines3


def write_monitor(
    file: Path, rows: Sequence[tuple[float, int, float]], start: float = 50.0, env: str = "Maze-v0"
) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    header = json.dumps({"t_start": start, "env_id": env})
    lines = [f"#{header}", "r,l,t", *(f"{r},{length},{t}" for r, length, t in rows)]
    file.write_text("\n".join(lines) + "\n")


def test_monitors_of_several_environments_are_one_run(tmp_path: Path) -> None:
    folder = tmp_path / "dqn" / "seed-4"
    write_monitor(folder / "0.monitor.csv", [(1.0, 10, 1.0), (3.0, 10, 3.0)])
    write_monitor(folder / "1.monitor.csv", [(2.0, 5, 1.0)], start=51.0)
    np.savez(folder / "evaluations.npz", timesteps=[10, 20], results=[[1.0, 3.0], [4.0, 6.0]])
    run = only(tmp_path)
    assert (run.env, run.seed, run.recorder) == ("Maze-v0", 4, "Stable-Baselines3")
    assert run.episodes.values.tolist() == [1, 2, 3]
    assert run.episodes.steps.tolist() == [10, 15, 25]
    assert run.episodes.seconds.tolist() == [1, 2, 3]
    assert run.evaluations.values.tolist() == [2, 5]
    assert (run.steps, run.seconds) == (25, 3)


def test_variants_of_logs_are_named_by_hand_or_by_the_library(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_monitor(tmp_path / name / "monitor.csv", [(1.0, 10, 1.0)])
    runs = read_recorded([tmp_path])
    assert [(run.variant, run.seed) for run in runs] == [
        ("Stable-Baselines3", 0),
        ("Stable-Baselines3", 1),
    ]
    named = read_recorded([f"ours={tmp_path / 'a'}", f"theirs={tmp_path / 'b'}"])
    assert [run.variant for run in named] == ["ours", "theirs"]


def test_seeds_that_are_not_known_do_not_take_those_that_are(tmp_path: Path) -> None:
    for name in ("a", "seed_0", "z"):
        write_monitor(tmp_path / name / "monitor.csv", [(1.0, 10, 1.0)])
    runs = read_recorded([tmp_path])
    assert sorted((Path(run.place).name, run.seed) for run in runs) == [
        ("a", 1),
        ("seed_0", 0),
        ("z", 2),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("r,l,t\n1,2,3\n", "line 1: it is not the header of a monitor"),
        ("#{x}\nr,l,t\n", "line 1: "),
        ("#[1]\nr,l,t\n1,2,3\n", "line 1: "),
        ('#{"t_start": 0}\nr,l\n1,2\n', "line 2: it has no column t"),
        ('#{"t_start": 0}\nr,l,t\n1,2,3\n1,2\n', "line 4: "),
        ('#{"t_start": 0}\nr,l,t\n1,2,x\n', "line 3: could not convert string to float: 'x'"),
    ],
)
def test_damaged_monitors_are_refused_by_line(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "monitor.csv").write_text(text)
    line = refusal(tmp_path, env="Maze-v0")
    assert f"{tmp_path / 'monitor.csv'} cannot be read (" in line
    assert reason in line


def test_a_monitor_without_episodes_has_no_returns(tmp_path: Path) -> None:
    write_monitor(tmp_path / "monitor.csv", [])
    assert not only(tmp_path).has_returns


def test_damaged_evaluations_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "evaluations.npz"
    file.write_bytes(b"PK\x03\x04 nothing")
    assert f"{file} cannot be read (" in refusal(tmp_path, env="Maze-v0")
    np.savez(file, timesteps=[1, 2], results=[[1.0]])
    assert "do not fit" in refusal(tmp_path, env="Maze-v0")
    np.savez(file, timesteps=[1, 2])
    assert "results" in refusal(tmp_path, env="Maze-v0")
    np.savez(file, timesteps=np.array([{}], object), results=[[1.0]])  # would be unpickled
    assert f"{file} cannot be read (" in refusal(tmp_path, env="Maze-v0")


def test_an_environment_that_no_file_names_is_asked_for(tmp_path: Path) -> None:
    np.savez(tmp_path / "evaluations.npz", timesteps=[1, 2], results=[[1.0], [2.0]])
    assert "does not say which environment it is of: give --env" in refusal(tmp_path)
    assert only(tmp_path, env="Maze-v0").env == "Maze-v0"


# TensorBoard


def write_events(file: Path, points: Sequence[tuple[str, int, float]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as opened:
        writer = RecordWriter(opened)
        for i, (tag, step, value) in enumerate(points):
            entry = SUMMARY.Summary.Value(tag=tag, simple_value=value)
            summary = SUMMARY.Summary(value=[entry])
            event = EVENT.Event(wall_time=100.0 + i, step=step, summary=summary)
            writer.write(event.SerializeToString())
        writer.flush()


EPISODES = [
    ("charts/episodic_return", 10, 1.0),
    ("charts/SPS", 10, 9.0),
    ("charts/episodic_return", 20, 2.0),
]


def test_events_of_cleanrl(tmp_path: Path) -> None:
    folder = tmp_path / "CartPole-v1__dqn__3__1700000000"
    write_events(folder / "events.out.tfevents.1.host", EPISODES)
    run = only(tmp_path)
    assert (run.env, run.variant, run.seed) == ("CartPole-v1", "dqn", 3)
    assert run.episodes.steps.tolist() == [10, 20]
    assert run.episodes.values.tolist() == [1, 2]
    assert run.episodes.seconds.tolist() == [0, 2]


def test_an_event_file_may_be_cut_off_but_not_damaged(tmp_path: Path) -> None:
    file = tmp_path / "events.out.tfevents.1.host"
    write_events(file, EPISODES)
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    assert only(tmp_path, env="Maze-v0").episodes.values.tolist() == [1]
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    file.write_bytes(damaged)
    line = refusal(tmp_path, env="Maze-v0")
    assert f"{file} cannot be read (" in line
    assert "its checksum is wrong" in line


def test_events_without_returns_say_which_tags_are_read(tmp_path: Path) -> None:
    write_events(tmp_path / "events.out.tfevents.1.host", [("loss", 1, 2.0)])
    assert "no returns: expected one of the tags charts/episodic_return" in refusal(tmp_path)


# Plain CSV


def test_a_plain_file_holds_many_runs(tmp_path: Path) -> None:
    file = tmp_path / "all.csv"
    file.write_text(
        "variant,env,seed,steps,mean_return,seconds\n"
        "a,Maze-v0,0,10,1,0.5\na,Maze-v0,1,10,2,0.5\nb,Maze-v0,0,10,3,\na,Maze-v0,0,20,4,1\n"
    )
    runs = {(run.variant, run.seed): run for run in read_recorded([file])}
    assert list(runs) == [("a", 0), ("a", 1), ("b", 0)]
    assert runs["a", 0].evaluations.values.tolist() == [1, 4]
    assert runs["a", 0].seconds == 1
    assert not runs["b", 0].evaluations.knows("seconds")


def test_a_plain_file_without_names_is_one_run(tmp_path: Path) -> None:
    file = tmp_path / "one.csv"
    file.write_text("step,return\n10,1\n20,2\n")
    run = only(f"mine={file}", env="Maze-v0")
    assert (run.variant, run.env, run.seed) == ("mine", "Maze-v0", 0)
    assert run.episodes.values.tolist() == [1, 2]


def test_a_plain_file_with_other_columns_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "one.csv"
    file.write_text("step,score\n10,1\n")
    assert "line 1: expected the columns step and return or mean_return" in refusal(file)
    file.write_text("step,return\n10,1\n20\n")
    assert f"{file} cannot be read (ValueError: line 3: " in refusal(file)
