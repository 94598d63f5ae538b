"""PQN as its authors publish it (purejaxql), for `benchmarks/pqn.py`, in an interpreter of its own.

It is given their configuration `pqn_minatar.yaml`, with game, steps and seed replaced. Compilation
is not counted. The final weights play for a thousand steps in 128 copies of the game.
"""

import json
import sys
import time
from pathlib import Path


def main() -> None:
    """Train, and print a line of JSON."""
    source, game, steps, seed = sys.argv[1:]
    sys.path.insert(0, source)
    import jax
    import yaml
    from purejaxql import pqn_minatar

    settings = Path(source, "purejaxql", "config", "alg", "pqn_minatar.yaml").read_text()
    config = yaml.safe_load(settings) | {"ENV_NAME": f"{game}-MinAtar", "WANDB_MODE": "disabled"}
    config |= {"TOTAL_TIMESTEPS": int(steps), "TOTAL_TIMESTEPS_DECAY": int(steps)}

    def trained(**changes: object) -> tuple[float, dict[str, jax.Array]]:
        train = pqn_minatar.make_train(config | changes)
        key = jax.random.PRNGKey(int(seed))
        compiled = jax.jit(train).lower(key).compile()
        start = time.perf_counter()
        metrics = jax.block_until_ready(compiled(key))["metrics"]
        return time.perf_counter() - start, metrics

    seconds, _ = trained(TEST_DURING_TRAINING=False)
    number = int(steps) // (config["NUM_STEPS"] * config["NUM_ENVS"])
    # It tests after every `int(number * interval)` updates: here after the last alone, whatever the
    # rounding.
    _, metrics = trained(TEST_DURING_TRAINING=True, TEST_INTERVAL=(number + 0.5) / number)
    done = number * config["NUM_STEPS"] * config["NUM_ENVS"]
    returned = float(metrics["test/returned_episode_returns"][-1])
    print(json.dumps({"steps_per_second": done / seconds, "mean_return": returned}))


main()
