"""Time of one update by network and head, in a compiled loop, beside PyTorch eager.

    python -m benchmarks.update [--rounds 5] [--networks mlp nature]

Noisy dueling double-DQN updates at batch 32 on one core: three samples of factorised noise,
importance weights, Adam, the target's copy. "mlp" is 8-128-128-128 with 4 actions, "nature" the
convolutions of Mnih et al. 2015 on 84 x 84 x 4 bytes as floats, 512 and 6 actions. Heads have their
papers' sizes and others; the large network is measured with two heads. Other kinds and numbers of
noise samples are measured with the small network. If PyTorch is installed, its update of expected
values and of C51, as PyTorch's users write it, takes turns with ours.
"""

import argparse
import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks import results

NAME = "update"
BATCH = 32
SHAPES: dict[str, tuple[tuple[int, ...], int, int]] = {
    "mlp": ((8,), 4, 100),
    "nature": ((84, 84, 4), 6, 10),
}
"""Observation, actions and updates a round of each network."""

HEADS: dict[str, dict[str, Any]] = {
    "expected": {},
    "expected, Munchausen": {"munchausen": True},
    "categorical, 51": {"distribution": "categorical"},
    "categorical, 51, Munchausen": {"distribution": "categorical", "munchausen": True},
    "quantile, 200": {"distribution": "quantile"},
    "quantile, 51": {"distribution": "quantile", "quantiles": 51},
    "implicit quantile, 64": {"distribution": "implicit-quantile"},
    "implicit quantile, 8": {
        "distribution": "implicit-quantile",
        "quantiles": 8,
        "acting_quantiles": 8,
    },
    "expected, factorised noise in heads": {"noise_in": "head"},
    "expected, factorised noise in heads, 8 samples": {"noise_in": "head", "noise_samples": 8},
    "expected, indexed noise": {"noise": "indexed"},
    "expected, indexed noise, 8 samples": {"noise": "indexed", "noise_samples": 8},
    "expected, indexed noise with a prior, 8 matched samples": {
        "noise": "indexed",
        "noise_samples": 8,
        "matched_targets": True,
        "prior_scale": 1.0,
    },
}
PEERS = ("expected", "categorical, 51")

Round = Callable[[], float]


def jax_round(network: str, head: str) -> Round:
    """Return a function that makes some updates and returns microseconds per update."""
    import jax
    import jax.numpy as jnp

    from noisydqn import Config
    from noisydqn.envs.encoding import numbered
    from noisydqn.envs.spec import EnvironmentSpec
    from noisydqn.learner.agent import UpdateNoise, sample_update_noise
    from noisydqn.runners import build
    from noisydqn.types import Batch, LearnerState, Transition

    shape, actions, number = SHAPES[network]
    torso: dict[str, Any] = (
        {"torso": "nature", "hidden": (512,)} if network == "nature" else {"torso": "flat"}
    )
    config = Config(target_period=500, target_rate=1.0, **torso, **HEADS[head])
    spec = EnvironmentSpec(jax.ShapeDtypeStruct(shape, jnp.float32), actions, numbered(actions))
    agent = build.make_agent(config.program)
    keys = jax.random.split(jax.random.key(0), 7)
    states = jax.random.uniform(keys[0], (2, 4 * BATCH, *shape))
    a_tm1 = jax.random.randint(keys[1], (BATCH,), 0, actions)
    r_t, weights = jax.random.normal(keys[2], (BATCH,)), jax.random.uniform(keys[3], (BATCH,))
    discount_t = jnp.full(BATCH, 0.99)

    def sample(key: jax.Array) -> UpdateNoise:
        return sample_update_noise(network_like, key, BATCH, agent.noise)

    def update(
        i: jax.Array, carry: tuple[LearnerState, UpdateNoise]
    ) -> tuple[LearnerState, UpdateNoise]:
        learner, noise = carry
        # Another batch every time, so that XLA cannot move work out of the loop.
        s_tm1, s_t = jax.lax.dynamic_slice_in_dim(states, i % (3 * BATCH), BATCH, axis=1)
        transitions = Transition(s_tm1, a_tm1, r_t, discount_t, s_t)
        batch = Batch(transitions, jnp.arange(BATCH), weights)
        learner = agent.update(learner, batch, noise)[0]
        return learner, sample(jax.random.fold_in(keys[5], i))

    run = jax.jit(lambda carry: jax.lax.fori_loop(0, number, update, carry))
    network_like = build.make_policy(config.program, spec, keys[6]).network
    carry = run((agent.init(network_like, keys[0]), sample(keys[5])))
    jax.block_until_ready(carry)

    def one_round() -> float:
        start = time.perf_counter()
        jax.block_until_ready(run(carry))
        return (time.perf_counter() - start) / number * 1e6

    return one_round


def measure(networks: list[str], rounds: int) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Measure the microseconds of every round, by network, head and side."""
    data: dict[str, dict[str, dict[str, list[float]]]] = {}
    with_torch = importlib.util.find_spec("torch") is not None
    for network in networks:
        data[network] = {}
        for head in HEADS if network == "mlp" else PEERS:
            sides = {"noisydqn": jax_round(network, head)}
            if with_torch and head in PEERS:
                from benchmarks.torch_update_peer import torch_round

                sides["PyTorch eager"] = torch_round(network, head)
            times: dict[str, list[float]] = {side: [] for side in sides}
            for _ in range(rounds):
                for side, one_round in sides.items():
                    times[side].append(one_round())
            data[network][head] = times
            medians = {side: round(statistics.median(x)) for side, x in times.items()}
            print(network, head, medians, flush=True)
    return data


def table(data: dict[str, dict[str, dict[str, list[float]]]]) -> str:
    """Format the medians of the rounds as a table in Markdown."""
    rows: list[tuple[str, ...]] = []
    for network, heads in data.items():
        for head, times in heads.items():
            ours = statistics.median(times["noisydqn"])
            theirs = statistics.median(times.get("PyTorch eager", [0.0]))
            peer = (f"{theirs / 1e3:.2f}", f"{theirs / ours:.1f}") if theirs else ("", "")
            rows.append((network, head, f"{ours / 1e3:.2f}", *peer))
    return results.markdown(("network", "head", "ms", "PyTorch eager, ms", "ratio"), rows)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    data = measure(arguments.networks, arguments.rounds)
    command = f"python -m benchmarks.update --rounds {arguments.rounds}"
    if arguments.networks != list(SHAPES):
        command += f" --networks {' '.join(arguments.networks)}"
    results.save(NAME, command, data)
    print(table(data))


if __name__ == "__main__":
    main()
