"""How often a report's intervals contain the truth, and how often its verdicts are wrong.

    python -m benchmarks.coverage

Final returns of seeds are simulated. The intervals are of the interquartile mean of one variant,
and of the probability of improvement and the difference of medians of two equal variants. A
verdict of above or below is wrong then.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import results
from noisydqn.report import statistics
from noisydqn.report.comparison import compare
from noisydqn.report.records import Run, Series
from noisydqn.report.results import Cell, make_results

NAME = "coverage"
SEEDS, SIMULATIONS, RESAMPLES = (5, 10, 20), 1_000, 1_000
LARGE = 2_000_000
MEASURED = ("iqm", "improvement", "difference", "wrong")

Draw = Callable[[np.random.Generator, int], np.ndarray]
DISTRIBUTIONS: dict[str, Draw] = {
    "normal": lambda rng, number: rng.normal(size=number),
    "lognormal": lambda rng, number: rng.lognormal(size=number),
}


def iqm(samples: list[np.ndarray]) -> np.ndarray:
    """Return the interquartile mean of the only stratum."""
    return statistics.interquartile_mean(samples[0])


def improvement(samples: list[np.ndarray]) -> np.ndarray:
    """Return the probability of improvement of the first stratum over the second."""
    return statistics.improvement(*samples)


def difference(samples: list[np.ndarray]) -> np.ndarray:
    """Return the difference of the medians of two strata."""
    return np.median(samples[0], 1) - np.median(samples[1], 1)


def cell(finals: np.ndarray) -> Cell:
    """Make runs with these final returns."""
    runs = [
        Run("", "simulated", seed, evaluations=Series.of([1, 2], [0, value]))
        for seed, value in enumerate(finals)
    ]
    return make_results(runs).cells[0]


def measure(draw: Draw, seeds: int, rng: np.random.Generator) -> dict[str, float]:
    """Simulate; returns the shares of intervals that contain the truth and of wrong verdicts."""
    large = np.sort(draw(rng, LARGE))
    true_iqm = float(large[LARGE // 4 : -LARGE // 4].mean())
    counts: dict[str, int] = dict.fromkeys(MEASURED, 0)
    for _ in range(SIMULATIONS):
        x, y = draw(rng, seeds), draw(rng, seeds)
        for name, strata, statistic, truth in (
            ("iqm", [x], iqm, true_iqm),
            ("improvement", [x, y], improvement, 0.5),
            ("difference", [x, y], difference, 0.0),
        ):
            _, low, high = statistics.bootstrap(strata, statistic, rng, RESAMPLES)
            counts[name] += bool(low <= truth <= high)
        counts["wrong"] += compare(cell(x), cell(y)).outcome in ("above", "below")
    return {name: count / SIMULATIONS for name, count in counts.items()}


def table(rows: list[dict[str, Any]]) -> str:
    """Format the results."""
    header = ("returns", "seeds", "interquartile mean", "probability of improvement")
    header = (*header, "difference of medians", "wrong verdicts")
    lines = [
        [row["returns"], row["seeds"], *(f"{row[name]:.1%}" for name in MEASURED)] for row in rows
    ]
    return results.markdown(header, lines)


def main() -> None:
    """Simulate every distribution and number of seeds, and save the shares."""
    rng = np.random.default_rng(0)
    rows = [
        {"returns": name, "seeds": seeds, **measure(draw, seeds, rng)}
        for name, draw in DISTRIBUTIONS.items()
        for seeds in SEEDS
    ]
    results.save(NAME, "python -m benchmarks.coverage", rows)
    print(table(rows))


if __name__ == "__main__":
    main()
