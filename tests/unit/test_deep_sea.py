"""DeepSea beside its rules: events, bad arguments, pictures, when it counts as solved, training."""

import json
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from tests.commands import refused

import noisydqn
from noisydqn.cli import main
from noisydqn.envs.deep_sea import DIVER, GROUND, TREASURE, DeepSea, Events, solved_after
from noisydqn.envs.deep_sea_gymnasium import DeepSeaEnv
from noisydqn.envs.options import EnvironmentOptions
from noisydqn.envs.registry import make_environment
from noisydqn.errors import UserError

NOTHING = Events(jnp.bool_(False), jnp.float32(0))


def test_mappings_are_those_of_their_seeds() -> None:
    """The first rows of `numpy.random.RandomState(seed).binomial(1, 0.5, [10, 10])`."""
    assert DeepSea().right_actions[0].tolist() == [0, 1, 1, 1, 0, 0, 0, 1, 1, 1]
    assert DeepSea(mapping_seed=1).right_actions.tolist() != DeepSea().right_actions.tolist()
    assert DeepSea(randomize_actions=False).right_actions.all()


def test_events_have_their_frequencies() -> None:
    keys = jax.random.split(jax.random.key(0), 20_000)
    events = jax.vmap(DeepSea(8, deterministic=False).sample_events)(keys)
    assert np.mean(events.slips) == pytest.approx(1 / 8, abs=5 * np.sqrt(1 / 8 * 7 / 8 / 20_000))
    assert np.mean(events.noise) == pytest.approx(0, abs=5 / np.sqrt(20_000))
    assert np.std(events.noise) == pytest.approx(1, abs=5 / np.sqrt(2 * 20_000))
    assert abs(np.corrcoef(events.slips, events.noise)[0, 1]) < 5 / np.sqrt(20_000)
    assert not np.any(jax.vmap(DeepSea(8).sample_events)(keys).slips)


def test_gymnasium_has_the_same_events() -> None:
    env = DeepSeaEnv(4, deterministic=False, randomize_actions=False)
    finals, noise = [], []
    for seed in range(300):
        env.reset(seed=seed)
        outcomes = [env.step(np.int64(1)) for _ in range(4)]
        reached = bool(outcomes[2][0][3, 3])
        finals.append(reached)
        assert outcomes[3][4]["is_success"]
        assert outcomes[3][4]["treasures"] == reached
        if reached:
            noise.append(outcomes[3][1] - (1 - 0.01 / 4))
    assert np.mean(finals) == pytest.approx(0.75**3, abs=5 * np.sqrt(0.42 * 0.58 / 300))
    assert np.std(noise) == pytest.approx(1, abs=0.4)
    assert env.reset(seed=3)[0].tolist() == env.reset(seed=3)[0].tolist()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"size": 0}, "size must be a whole number from 1 to 1000, got 0"),
        ({"size": 1001}, "size must be a whole number from 1 to 1000, got 1001"),
        ({"size": "10"}, "size must be a whole number from 1 to 1000, got '10'"),
        ({"size": True}, "size must be a whole number from 1 to 1000, got True"),
        ({"mapping_seed": None}, "mapping_seed must be a whole number from 0 to 4294967295, got N"),
        ({"deterministic": 1}, "deterministic must be true or false, got 1"),
        ({"randomize_actions": "no"}, "randomize_actions must be true or false, got 'no'"),
        ({"unscaled_move_cost": "x"}, "unscaled_move_cost must be a number, got 'x'"),
        ({"unscaled_move_cost": float("nan")}, "unscaled_move_cost must be a number, got nan"),
    ],
)
def test_impossible_arguments_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match="noisydqn/DeepSea-v0: ") as refusal:
        DeepSea(**kwargs)
    assert message in str(refusal.value)
    with pytest.raises(UserError, match="noisydqn/DeepSea-v0: "):
        DeepSeaEnv(**kwargs)


def test_unknown_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["train", "noisydqn/DeepSea-v0", "--env-kwargs", '{"depth": 10}']
    known = "size, deterministic, unscaled_move_cost, randomize_actions, mapping_seed"
    assert f"DeepSea-v0 takes {known}, but not 'depth'" in refused(capsys, *argv)


def test_arguments_reach_the_device_and_its_programs() -> None:
    envs = [
        make_environment(EnvironmentOptions(env="noisydqn/DeepSea-v0", env_kwargs=kwargs))
        for kwargs in ("{}", '{"size": 10}', '{"size": 7, "deterministic": false}')
    ]
    assert [env.spec.observation.shape for env in envs] == [(10, 10), (10, 10), (7, 7)]
    assert envs[0] == envs[1]  # the same programs
    assert envs[0] != envs[2]


def test_pictures_show_the_diver_the_treasure_and_the_ground() -> None:
    env = DeepSea(4, randomize_actions=False)
    state = env.start()
    places = []
    for _ in range(4):
        picture = np.asarray(env.render(state))
        assert picture.shape == (255, 204, 3)
        places.append(np.argwhere((picture == DIVER).all(-1))[0].tolist())
        state, _, _ = env.move(state, jnp.int32(1), NOTHING)
    assert places == [[0, 0], [51, 51], [102, 102], [153, 153]]
    picture = np.asarray(env.render(state))
    assert picture[-1, -1].tolist() == list(DIVER)
    assert picture[-1, 0].tolist() == list(GROUND)
    assert picture[160, -1].tolist() == list(TREASURE)
    assert np.asarray(DeepSea(300).render(env.start())).shape == (301, 300, 3)


def test_gymnasium_checks_pass_and_bad_calls_are_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make("noisydqn/DeepSea-v0", size=3, render_mode="rgb_array").unwrapped)
    with pytest.raises(ValueError, match="render_mode must be"):
        DeepSeaEnv(render_mode="human")
    env = DeepSeaEnv(2)
    with pytest.raises(gymnasium.error.ResetNeeded, match="before the first"):
        env.step(np.int64(0))
    env.reset(seed=0)
    assert env.render() is None
    with pytest.raises(ValueError, match="action must be 0 or 1, got"):
        env.step(np.int64(2))
    env.step(np.int64(0))
    assert env.step(np.int64(0))[2]
    with pytest.raises(gymnasium.error.ResetNeeded, match="the episode is over"):
        env.step(np.int64(0))


def test_solved_as_bsuite_counts_it() -> None:
    episodes = np.arange(1, 401)
    late = np.minimum(episodes, 180)  # good from episode 181 on; 180 < 0.9 n from 201 on
    assert solved_after(episodes, late) == 201
    assert solved_after(episodes, late, deterministic=False) == 226
    assert solved_after(episodes, episodes) is None
    assert solved_after(episodes, np.zeros(400)) == 1
    assert solved_after(episodes, np.zeros(400), deterministic=False) == 100
    logged = np.array([100, 200, 300])
    assert solved_after(logged, late[logged - 1]) == 300
    assert solved_after(episodes[:0], late[:0]) is None
    assert solved_after(np.array([10]), np.array([9])) is None  # 90% is not below 90%


SHORT: dict[str, Any] = {
    "steps": 1_200,
    "stop_at_return": None,
    "evaluation_episodes": 3,
    "video_seconds": 1,
    "quiet": True,
}


@pytest.mark.slow
def test_a_short_run_counts_successes_and_treasures(tmp_path: Path) -> None:
    """Two cells: a treasure is found often, and any episode without one is bad."""
    out = tmp_path / "run"
    noisydqn.train("deepsea", env_kwargs={"size": 2}, out=out, **SHORT)
    header, *rows = (out / "episodes.csv").read_text().splitlines()
    assert header == "step,return,length,success,treasures"
    parsed = [dict(zip(header.split(","), map(float, row.split(",")), strict=True)) for row in rows]
    assert len(parsed) == 400  # two steps and a reset each
    for row in parsed:
        assert row["length"] == 2
        assert row["success"] == row["treasures"] == (row["return"] > 0.9)
    assert {row["success"] for row in parsed} == {0.0, 1.0}
    evaluation = json.loads((out / "summary.json").read_text())["evaluation"]
    assert {"treasures", "success_rate"} <= evaluation.keys()
    assert (out / "policy.mp4").stat().st_size > 0


@pytest.mark.slow
def test_seeds_side_by_side_and_resumed_count_the_same(tmp_path: Path) -> None:
    argv = ["train", "noisydqn/DeepSea-v0", "--env-kwargs", '{"size": 3}', "--num-seeds", "2"]
    argv += ["--video-seconds", "0", "--evaluation-episodes", "1", "--stop-at-return", "none"]
    argv += ["--quiet"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main([*argv, "--steps", "2000", "--out", str(whole)]) == 0
    assert main([*argv, "--steps", "1000", "--out", str(parts)]) == 0
    assert main(["resume", str(parts), "--steps", "2000", "--quiet"]) == 0
    for seed in ("seed0", "seed1"):
        first, second = ((out / seed / "episodes.csv").read_text() for out in (whole, parts))
        assert first == second
        assert first.count("\n") == 501
