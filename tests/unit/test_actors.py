"""Runs whose environments are played by actors: results do not depend on how they are shared."""

import csv
from pathlib import Path
from typing import Any

import pytest
from tests import inline_actors
from tests.host_envs import BrokenEnv
from tests.inline_actors import InlineActors
from tests.runs import results, tiny, train_until

import noisydqn
from noisydqn.errors import EnvironmentFailedError, UserError
from noisydqn.runners.actors.messages import Order

pytestmark = pytest.mark.slow

SMALL = tiny(num_envs=4, steps=640, chunk_steps=160, actor_steps=8, evaluation_every=300)


def of_learning(folder: Path) -> dict[str, Any]:
    """What a run came to, but for how its actors fared."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    kept = [name for name in rows[0] if "second" not in name and not name.startswith("actors.")]
    return results(folder) | {"metrics": [{name: row[name] for name in kept} for row in rows]}


def train(out: Path, monkeypatch: pytest.MonkeyPatch, pool: Any, **options: Any) -> dict[str, Any]:
    inline_actors.use(monkeypatch, pool)
    given: dict[str, Any] = {"env": "CartPole-v1", "actors": 2, **SMALL, **options}
    noisydqn.train(out=out, **given)
    return of_learning(out)


@pytest.mark.parametrize(
    ("env", "options"),
    [
        ("CartPole-v1", {"n_step": 3, "actor_lag": 2}),
        (
            "CartPole-v1",
            {
                "normalize_observations": "running",
                "normalize_rewards": True,
                "replay": "uniform",
                "acting_noise": "episode",
                "actor_lag": 0,
            },
        ),
        ("noisydqn-tests/Fetch-v0", {"frame_stack": 2, "exploration": "both"}),
        ("python:tests.mask_envs.Knapsack", {"acting_noise": "step", "learning_starts": 100}),
        ("Pendulum-v1", {"action_bins": 5}),
    ],
)
def test_results_do_not_depend_on_the_number_of_actors(
    env: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        train(tmp_path / str(n), monkeypatch, InlineActors(n), env=env, actors=n, **options)
        for n in (1, 2, 4)
    ]
    assert found[0] == found[1] == found[2]
    assert found[0]["summary"]["updates"] > 100


def test_actors_that_die_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments are played again from where their actor stood; one that comes twice counts once."""
    expected = train(tmp_path / "whole", monkeypatch, InlineActors())
    moments = {(0, 0), (1, 3), (0, 7), (1, 7), (0, 8), (1, 19)}

    def dies(actor: int, order: Order) -> bool:
        moment = actor, order.number
        dying = moment in moments
        moments.discard(moment)
        return dying

    pool = InlineActors(3, dies, twice=True)
    assert train(tmp_path / "killed", monkeypatch, pool) == expected
    assert not moments
    last = (tmp_path / "killed" / "metrics.csv").read_text().splitlines()
    row = dict(zip(last[0].split(","), last[-1].split(","), strict=True))
    assert row["actors.restarts"] == "6"
    assert int(row["actors.segments_repeated"]) > 20
    assert row["actors.segments_lost"] == "0"


@pytest.mark.parametrize("lag", [0, 2])
def test_a_resumed_run_ends_with_the_same_bits(
    lag: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"env": "CartPole-v1", "actors": 2, **SMALL, "actor_lag": lag}
    options["checkpoint_seconds"] = 1e-9
    expected = train(tmp_path / "whole", monkeypatch, InlineActors(), **options)
    out = tmp_path / "killed"
    for seed in (1, 2):
        inline_actors.use(monkeypatch, InlineActors(seed))
        with monkeypatch.context() as dying:
            train_until(2, dying, out=out, resume=True, **options)
    inline_actors.use(monkeypatch, InlineActors(3))
    noisydqn.resume(out, quiet=True)
    assert of_learning(out) == expected


def test_atari_is_shared_out_and_played_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a vector of its own for each actor, through the middle of episodes."""
    moments = {(0, 5), (1, 11)}

    def dies(actor: int, order: Order) -> bool:
        dying = (actor, order.number) in moments
        moments.discard((actor, order.number))
        return dying

    options: dict[str, Any] = {"env": "ALE/Pong-v5", "num_envs": 2, "steps": 256}
    options |= {"chunk_steps": 64, "hidden": (16,), "max_episode_steps": 30}
    options |= {"learning_starts": 128, "evaluation_every": 0, "evaluation_episodes": 1}
    pools = InlineActors(1), InlineActors(2, dies)
    one, two = (
        train(tmp_path / str(n), monkeypatch, pool, actors=n, **options)
        for n, pool in enumerate(pools, 1)
    )
    assert one == two
    assert not moments


def test_a_run_with_actors_starts_from_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its weights and its replay buffer."""
    before = tmp_path / "before"
    noisydqn.train(env="CartPole-v1", out=before, **SMALL)
    found = [
        train(tmp_path / str(n), monkeypatch, InlineActors(n), actors=n, **more)
        for n in (1, 2)
        for more in [{"start_from": before, "from_replay": True}]
    ]
    assert found[0] == found[1]
    assert found[0]["summary"]["started_from"].endswith("rows of its replay buffer")


ASYNCHRONOUS: dict[str, Any] = {"actor_mode": "asynchronous"}
UPDATES = (SMALL["steps"] - SMALL["learning_starts"]) // 2 + 1


def actors_of(folder: Path) -> dict[str, float]:
    """How the actors of a run fared in its last chunk."""
    with (folder / "metrics.csv").open(newline="") as file:
        *_, last = csv.DictReader(file)
    return {name: float(value) for name, value in last.items() if name.startswith("actors.")}


def test_nobody_waits_for_a_slow_actor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The updates are as many as the steps bring, and what waits is bounded."""
    moments = {(0, 2), (1, 9), (1, 12)}

    def dies(actor: int, order: Order) -> bool:
        dying = (actor, order.number) in moments
        moments.discard((actor, order.number))
        return dying

    expected = train(tmp_path / "whole", monkeypatch, InlineActors())
    pool = InlineActors(1, dies, twice=True, speeds=(1, 5))
    out = tmp_path / "asynchronous"
    found = train(out, monkeypatch, pool, **ASYNCHRONOUS, evaluation_every=0)
    assert not moments
    summary = found["summary"]
    assert summary["steps"] == expected["summary"]["steps"]
    # With the step that reaches the start of learning, which is one of two environments here.
    assert summary["updates"] == expected["summary"]["updates"] - 1 == UPDATES
    fared = actors_of(out)
    assert fared["actors.segments_lost"] == fared["actors.restarts"] == 3
    assert fared["actors.steps_per_second.1"] > fared["actors.steps_per_second.0"]
    assert fared["actors.alive"] == 2
    assert fared["actors.replay_fill"] == 1
    assert pool.most_waiting <= 3  # the lag, one more, and the first answer


def test_asynchronous_runs_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"env": "CartPole-v1", "actors": 2, **SMALL, **ASYNCHRONOUS}
    options |= {"checkpoint_seconds": 1e-9, "normalize_rewards": True}
    out = tmp_path / "out"
    inline_actors.use(monkeypatch, InlineActors(1))
    with monkeypatch.context() as dying:
        train_until(3, dying, out=out, **options)
    inline_actors.use(monkeypatch, InlineActors(2))
    noisydqn.resume(out, quiet=True)
    found = results(out)
    assert found["summary"]["steps"] == SMALL["steps"]
    assert found["summary"]["updates"] == UPDATES
    ends = [int(row[0]) for row in found["episodes"]]
    assert ends == sorted(ends)
    with pytest.raises(UserError, match="asynchronous actors"):
        noisydqn.train(start_from=out, from_replay=True, out=tmp_path / "other", quiet=True)


def test_an_environment_that_fails_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another actor would fail alike. What was trained is saved."""
    inline_actors.use(monkeypatch, InlineActors())
    out = tmp_path / "out"
    with pytest.raises(EnvironmentFailedError, match="the motor is 100% broken") as caught:
        noisydqn.train(env=lambda: BrokenEnv("raise"), actors=2, out=out, **SMALL)
    assert "RuntimeError" in caught.value.traceback
    assert (out / "config.json").exists()
