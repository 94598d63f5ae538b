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


def test_what_keeps_a_run_from_learning_is_found(tmp_path: Path) -> None:
    wrong: dict[str, dict[str, Any]] = {
        "outside-support": {"distribution": "categorical", "v_min": -0.1, "v_max": 0.1},
        "replay-small": {"replay_capacity": 60},
        "epsilon-high": {"exploration": "epsilon-greedy", "epsilon_final": 0.9},
    }
    for rule, options in wrong.items():
        noisydqn.train("cartpole", steps=4_000, out=tmp_path / rule, **SMALL, **options)
        found = [finding.rule for finding in noisydqn.doctor(tmp_path / rule)[0].findings]
        assert rule in found, found
