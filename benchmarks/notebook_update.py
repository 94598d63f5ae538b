"""One update of the first notebook's network at batch 256: noisydqn against PyTorch eager.

    python -m benchmarks.notebook_update [--threads 2] [--rounds 7]

Both sides do the same work: factorised noise in three independent samples, double Q-learning,
weighted smooth-L1 loss, AdamW, priorities returned. The two take turns, round by round, in one
process, each on all `threads`. The table has medians and the ratio within each round.

noisydqn's updates run in a compiled loop, as in training; PyTorch's run as its users write them.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

from benchmarks import results
from benchmarks.torch_peer import ACTIONS, BATCH, UPDATES_A_ROUND, torch_round

NAME = "notebook_update"


def jax_round() -> Callable[[], float]:
    """Return a function that makes some updates and returns milliseconds per update."""
    import jax
    import jax.numpy as jnp

    from noisydqn import PRESETS
    from noisydqn.envs.catcher import CatcherPixels
    from noisydqn.envs.device import DeviceEnvironment
    from noisydqn.learner.agent import UpdateNoise, sample_update_noise
    from noisydqn.runners import build
    from noisydqn.types import Batch, LearnerState, Transition

    config = PRESETS["catcher-notebook"]
    agent = build.make_agent(config.program)
    policy = build.make_policy(
        config.program, DeviceEnvironment.create(CatcherPixels()).spec, jax.random.key(0)
    )
    keys = jax.random.split(jax.random.key(1), 7)
    shape = (1000, 42, 42)
    observations = jax.random.normal(keys[0], shape)
    next_observations = jax.random.normal(keys[1], shape)
    a_tm1 = jax.random.randint(keys[2], (BATCH,), 0, ACTIONS)
    r_t, weights = jax.random.normal(keys[3], (BATCH,)), jax.random.uniform(keys[4], (BATCH,))
    discount_t = jnp.full(BATCH, config.learning.discount)

    def update(
        carry: tuple[LearnerState, UpdateNoise], i: jax.Array
    ) -> tuple[tuple[LearnerState, UpdateNoise], jax.Array]:
        learner, noise = carry
        transitions = Transition(
            jax.lax.dynamic_slice_in_dim(observations, i * 7, BATCH),
            a_tm1,
            r_t,
            discount_t,
            jax.lax.dynamic_slice_in_dim(next_observations, i * 7, BATCH),
        )
        batch = Batch(transitions, jnp.arange(BATCH), weights)
        learner, error, _ = agent.update(learner, batch, noise)
        key = jax.random.fold_in(keys[5], i)
        return (learner, sample_update_noise(policy.network, key, BATCH)), jnp.sum(error)

    run = jax.jit(lambda carry: jax.lax.scan(update, carry, jnp.arange(UPDATES_A_ROUND))[0])
    carry = agent.init(policy.network, keys[0]), sample_update_noise(policy.network, keys[6], BATCH)
    carry = run(run(carry))  # twice: the first result has final types
    jax.block_until_ready(carry)

    def one_round() -> float:
        start = time.perf_counter()
        jax.block_until_ready(run(carry))
        return (time.perf_counter() - start) / UPDATES_A_ROUND * 1e3

    return one_round


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, range(arguments.threads))

    ours, theirs = jax_round(), torch_round(arguments.threads)
    pairs = [(ours(), theirs()) for _ in range(arguments.rounds)]
    command = f"python -m benchmarks.notebook_update --threads {arguments.threads}"
    results.save(NAME, command, pairs)
    print(table(pairs))


def table(pairs: list[tuple[float, float]]) -> str:
    """Format the results as a table in Markdown."""
    rows = [
        (name, *(f"{f(column):.{digits}f}" for f in (statistics.median, min, max)))
        for name, digits, column in (
            ("noisydqn, ms an update", 1, [ours for ours, _ in pairs]),
            ("PyTorch eager, ms an update", 1, [theirs for _, theirs in pairs]),
            ("ratio, round by round", 2, [theirs / ours for ours, theirs in pairs]),
        )
    ]
    return results.markdown(("", "median", "lowest", "highest"), rows)


if __name__ == "__main__":
    main()
