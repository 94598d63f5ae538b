"""Values of rliable, the library of Agarwal et al. 2021, on scores made here.

python tests/reference/rliable_values.py, in an environment with rliable. Writes
`tests/golden/rliable.json`. The project does not install it: its dependencies take long to build.
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rliable import library, metrics

OUT = Path(__file__).parents[1] / "golden" / "rliable.json"
SEEDS, ENVS, RESAMPLES = 10, 4, 50_000
TAUS = np.linspace(0, 1, 11)


def main() -> None:
    rng = np.random.default_rng(2021)
    centers = np.array([0.3, 0.5, 0.6, 0.8])
    x = np.clip(rng.normal(centers + 0.1, 0.15, (SEEDS, ENVS)), 0, 1).round(3)
    y = np.clip(rng.normal(centers, 0.15, (SEEDS, ENVS)), 0, 1).round(3)
    x[:3, 1], y[:3, 1] = 0.5, 0.5  # ties
    scores = {"x": x, "y": y}

    def aggregate(values):
        return np.array([metrics.aggregate_iqm(values)])

    iqm, iqm_intervals = library.get_interval_estimates(scores, aggregate, reps=RESAMPLES)
    improvement, improvement_interval = library.get_interval_estimates(
        {"x,y": (x, y)}, metrics.probability_of_improvement, reps=RESAMPLES
    )
    profile, profile_intervals = library.create_performance_profile(scores, TAUS, reps=RESAMPLES)
    values = {
        "versions": {name: version(name) for name in ("rliable", "arch", "numpy", "scipy")},
        "scores": {name: each.tolist() for name, each in scores.items()},
        "iqm": {name: float(each[0]) for name, each in iqm.items()},
        "iqm_interval": {name: each[:, 0].tolist() for name, each in iqm_intervals.items()},
        "improvement": float(np.ravel(improvement["x,y"])[0]),
        "improvement_interval": np.ravel(improvement_interval["x,y"]).tolist(),
        "taus": TAUS.tolist(),
        "profile": {name: each.tolist() for name, each in profile.items()},
        "profile_interval": {name: each.tolist() for name, each in profile_intervals.items()},
    }
    OUT.write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
