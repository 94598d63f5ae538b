"""Learning among valid actions; the environments raise, or count, where an action is invalid."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.mask_envs import JaxKnapsack, Knapsack, TicTacToe

import noisydqn

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "masks.md"

COMMON: dict[str, Any] = {
    "hidden": (64, 64),
    "torso": "flat",
    "num_envs": 8,
    "learning_rate": 1e-3,
    "evaluation_episodes": 500,
    "video_seconds": 0,
    "seed": 1,
    "quiet": True,
}
REPLAY: dict[str, Any] = {
    "learning_starts": 500,
    "updates_per_step": 0.25,
    "learn_every": 2,
    "batch_size": 64,
    "n_step": 1,
    "target_period": 100,
    "replay_capacity": 20_000,
}
GAME: dict[str, Any] = {
    "steps": 40_000,
    "updates_per_step": 0.5,
    "n_step": 3,
    "learning_rate_final": 1e-4,
    "schedule_updates": 20_000,
}
PARALLEL: dict[str, Any] = {"learner": "parallel", "num_envs": 32, "minibatches": 8}

CASES: dict[str, tuple[Any, dict[str, Any], float]] = {
    # Random valid play scores 1.49, packing by value and weight 1.82, the best 1.86.
    "knapsack": (Knapsack, REPLAY | {"steps": 20_000}, 1.75),
    "knapsack in JAX": (JaxKnapsack, REPLAY | {"steps": 20_000}, 1.75),
    "knapsack from rollouts": (JaxKnapsack, PARALLEL | {"steps": 64_000}, 1.75),
    # Random play scores 0.
    "tic-tac-toe": (TicTacToe, REPLAY | GAME, 0.8),
}


@pytest.mark.parametrize("name", CASES)
def test_learns_among_the_valid_actions(name: str, tmp_path: Path) -> None:
    env, options, goal = CASES[name]
    result = noisydqn.train(env=env, **COMMON | options, out=tmp_path / "run")
    assert result.seeds[0].summary["evaluation"]["mean_return"] > goal
    if env is JaxKnapsack:
        path = tmp_path / "run" / "episodes.csv"
        assert not np.genfromtxt(path, delimiter=",", names=True)["wrong"].any()


def test_the_example_with_a_game_of_pettingzoo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pettingzoo")
    (code,) = re.findall(r"<!-- test: pettingzoo -->\n```python\n(.*?)```", PAGE.read_text(), re.S)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(PAGE), "exec"), {})  # noqa: S102
