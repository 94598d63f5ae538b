"""Runs that are killed, in separate processes; `python -m benchmarks.kills` kills more."""

import pytest
from benchmarks import kills


@pytest.mark.parametrize(
    ("work", "steps"),
    [("catcher", 8_000), ("cartpole", 5_000), ("pong", 800)],
)
def test_killed_runs_end_with_the_same_bits(work: str, steps: int) -> None:
    """Two kills of one run, the first while a checkpoint is written."""
    done = kills.run(work, 2, 2, seed=1, steps=steps)
    assert len(done) >= 1
