"""Statistics against rliable, the library of Agarwal et al. 2021, whose values are stored."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noisydqn.report import statistics
from noisydqn.report.statistics import Interval

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "golden" / "rliable.json").read_text()
)
"""As `rliable_values.py` wrote it."""
SCORES = {name: np.array(scores) for name, scores in GOLDEN["scores"].items()}
"""[seeds, environments]."""


def strata(name: str) -> list[np.ndarray]:
    return list(SCORES[name].T)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def check(got: Interval, estimate: float, ends: list[float]) -> None:
    """Compare an estimate exactly, and the ends of its interval within Monte Carlo error."""
    assert got.estimate == pytest.approx(estimate, abs=1e-6)
    error = 0.06 * (ends[1] - ends[0])  # four standard errors of 2,000 resamples
    np.testing.assert_allclose((got.low, got.high), ends, atol=error)


@pytest.mark.parametrize("name", ["x", "y"])
def test_the_interquartile_mean(name: str, rng: np.random.Generator) -> None:
    got = statistics.aggregate(strata(name), rng)
    check(got, GOLDEN["iqm"][name], GOLDEN["iqm_interval"][name])


def test_the_probability_of_improvement(rng: np.random.Generator) -> None:
    got = statistics.probability_of_improvement(strata("x"), strata("y"), rng)
    check(got, GOLDEN["improvement"], GOLDEN["improvement_interval"])


@pytest.mark.parametrize("name", ["x", "y"])
def test_the_performance_profile(name: str, rng: np.random.Generator) -> None:
    taus = np.array(GOLDEN["taus"])
    estimate, low, high = statistics.bootstrap(
        strata(name), lambda samples: statistics.profile(np.concatenate(samples, 1), taus), rng
    )
    np.testing.assert_allclose(estimate, GOLDEN["profile"][name], atol=1e-6)
    ends = np.array(GOLDEN["profile_interval"][name])
    # A share of 40 runs is a multiple of 0.025: an end may fall on the next one.
    np.testing.assert_allclose([low, high], ends, atol=0.0251)
