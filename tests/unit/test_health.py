"""Chunks that are not finite are refused, with the update since which they are not."""

from typing import Any

import numpy as np
import pytest

from noisydqn.errors import DivergedError
from noisydqn.runners.report import SeedChunk
from noisydqn.runs.health import check_finite


def chunk(updates: int, finite: float) -> SeedChunk:
    """A chunk of whose updates the share `finite` was finite."""
    metrics = {"finite": finite, "loss": 2.0, "gradient_norm": 3.0}
    return SeedChunk(updates, [], metrics, {}, 0.0)


def policy(*values: float) -> Any:
    return {"weight": np.array(values, np.float32)}


def test_finite_chunks_pass() -> None:
    check_finite(chunk(20, 1.0), policy(1.0), 10, (0, 40))
    check_finite(chunk(10, float("nan")), policy(1.0), 10, (0, 40))  # no update


@pytest.mark.parametrize(
    ("finite", "weight", "line"),
    [
        (0.7, 1.0, "update 18, between steps 0 and 40 .*; all weights are finite"),
        (0.7, np.nan, "update 18, .*; 1 arrays of weights are not finite, first .*weight"),
        (1.0, np.inf, "update 20, .*; 1 arrays of weights are not finite, first .*weight"),
    ],
)
def test_chunks_that_are_not_finite_are_refused(finite: float, weight: float, line: str) -> None:
    with pytest.raises(DivergedError, match=f"diverged at {line}"):
        check_finite(chunk(20, finite), policy(weight), 10, (0, 40))
