"""Runs that learn have no findings, and runs that cannot learn have the one that explains it."""

from pathlib import Path
from typing import Any

import pytest

import noisydqn

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {"video_seconds": 0, "quiet": True, "evaluation_episodes": 10}


@pytest.mark.parametrize(("preset", "steps"), [("cartpole", 20_000), ("catcher", 24_000)])
def test_a_preset_raises_no_false_alarm(preset: str, steps: int, tmp_path: Path) -> None:
    noisydqn.train(preset, steps=steps, out=tmp_path / "run", **SMALL)
    assert noisydqn.doctor(tmp_path / "run")[0].findings == []


WRONG: dict[tuple[str, ...], dict[str, Any]] = {
    ("outside-support",): {"distribution": "categorical", "v_min": -0.1, "v_max": 0.1},
    ("epsilon-high", "replay-small"): {
        "exploration": "epsilon-greedy",
        "epsilon_final": 0.9,
        "replay_capacity": 60,
    },
}


@pytest.mark.parametrize("rules", WRONG)
def test_what_keeps_a_run_from_learning_is_found(rules: tuple[str, ...], tmp_path: Path) -> None:
    noisydqn.train("cartpole", steps=2_000, out=tmp_path / "run", **SMALL, **WRONG[rules])
    found = {finding.rule for finding in noisydqn.doctor(tmp_path / "run")[0].findings}
    assert set(rules) <= found
