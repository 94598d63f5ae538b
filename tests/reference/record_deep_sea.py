"""Record traces of bsuite's own DeepSea: `python -m tests.reference.record_deep_sea`.

It needs bsuite 0.3.6 and writes `tests/golden/deep_sea.npz`, which holds for each variant:

- `settings`: the arguments, as JSON; `right`: the action that moves right in each cell.
- `action`, `reward`, `last`: of each step, several whole episodes one after the other.
- `cell`: the place of the 1 in the observation after each step, counted along its rows; -1 where
  the observation is zero everywhere.
- `slips`, `noise`: the random events, and `drawn`: where bsuite drew the noise.
- `bad`, `treasures`: bsuite's counts of bad episodes and of treasures after each step.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from bsuite.environments.deep_sea import DeepSea

OUT = Path(__file__).parents[1] / "golden" / "deep_sea.npz"
EPISODES = 24
VARIANTS: dict[str, dict[str, Any]] = {
    "one": {"size": 1, "mapping_seed": 3},
    "two": {"size": 2, "mapping_seed": 0},
    "five": {"size": 5, "mapping_seed": 1},
    "ten": {"size": 10, "mapping_seed": 42},
    "twenty": {"size": 20, "mapping_seed": 42},
    "plain": {"size": 6, "randomize_actions": False},
    "costly": {"size": 7, "mapping_seed": 8, "unscaled_move_cost": 0.3},
    "stochastic": {"size": 5, "mapping_seed": 42, "deterministic": False},
    "stochastic-ten": {"size": 10, "mapping_seed": 7, "deterministic": False},
    "stochastic-costly": {
        "size": 4,
        "mapping_seed": 2,
        "deterministic": False,
        "unscaled_move_cost": 0.5,
    },
}


class Recorder:
    """A generator of random numbers that remembers the newest ones of a step."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.RandomState(seed)
        self.clear()

    def clear(self) -> None:
        self.uniform, self.normal = 1.0, np.nan

    def rand(self) -> float:
        self.uniform = self.random.rand()
        return self.uniform

    def randn(self) -> float:
        self.normal = self.random.randn()
        return self.normal


def cell(observation: np.ndarray) -> int:
    places = np.flatnonzero(observation)
    assert observation.dtype == np.float32
    assert np.all(observation.flat[places] == 1)
    return int(places[0]) if places.size else -1


def record(settings: dict[str, Any]) -> dict[str, np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that randomize_actions is for debugging
        env: Any = DeepSea(**settings)
    right, size, drawn = env._action_mapping, settings["size"], Recorder(0)
    env._rng = drawn
    chooser = np.random.default_rng(1)
    rows: list[tuple[Any, ...]] = []
    for episode in range(EPISODES):
        step = env.reset()
        assert cell(step.observation) == 0
        while not step.last():
            row, column = divmod(cell(step.observation), size)
            keeps_right = chooser.random() < (0.5, 0.9, 1.0)[episode % 3]
            action = int(right[row, column]) if keeps_right else 1 - int(right[row, column])
            drawn.clear()
            step = env.step(action)
            info = env.bsuite_info()
            slips, has_noise = drawn.uniform <= 1 / size, not np.isnan(drawn.normal)
            noise = drawn.normal if has_noise else 0.0
            seen = cell(step.observation)
            counts = info["total_bad_episodes"], info["denoised_return"]
            rows.append((action, step.reward, step.last(), seen, slips, noise, has_noise, *counts))
    names = ("action", "reward", "last", "cell", "slips", "noise", "drawn", "bad", "treasures")
    columns = {name: np.array(x) for name, x in zip(names, zip(*rows, strict=True), strict=True)}
    return {"settings": np.array(json.dumps(settings)), "right": right.astype(np.int8), **columns}


if __name__ == "__main__":
    recorded = {name: record(settings) for name, settings in VARIANTS.items()}
    arrays = {f"{name}/{key}": x for name, trace in recorded.items() for key, x in trace.items()}
    np.savez_compressed(OUT, **arrays)  # pyright: ignore[reportArgumentType]
    print(OUT, OUT.stat().st_size, "bytes")
