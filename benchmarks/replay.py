"""Prioritized replay alone: sample and set priorities, by capacity, beside other libraries.

    python -m benchmarks.replay [--rounds 5] [--capacities 10000 1000000 ...]

Full replay buffers of vectors of 8 numbers, 32 and 256 transitions a batch, on one core. Ours
assembles 3-step transitions with importance weights and sets their priorities, in a compiled loop,
as training does. "One call each" does the same in two calls from Python; "tree alone" leaves out
the transitions. Other libraries, if installed, take turns with ours at a million: Tianshou's tree
(numba) alone, cpprb and TorchRL (C++) with the transitions that they store.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import results
from benchmarks.replay_peers import PEERS

NAME = "replay"
CAPACITIES = (10_000, 100_000, 1_000_000, 10_000_000)
PEER_CAPACITY = 1_000_000
BATCHES = (32, 256)
OBSERVATION = 8
CALLS = 1_000

Round = Callable[[], float]


def ours(capacity: int, batch_size: int) -> dict[str, Round]:
    """Return one function for each variant, which returns microseconds per sample and update."""
    import jax
    import jax.numpy as jnp

    from noisydqn.learner import sum_tree
    from noisydqn.learner.replay import Replay, ReplayState
    from noisydqn.types import Row

    replay = Replay(capacity, 1, 3, 0.99, prioritized=True, priority_offset=1e-4)
    half = jnp.float32(0.5)
    row = Row(jnp.zeros(OBSERVATION), jnp.int32(0), jnp.float32(0), jnp.bool_(0), jnp.bool_(0))
    state = replay.init(row)
    leaves = jnp.arange(capacity, dtype=jnp.int32)
    priorities = jax.random.uniform(jax.random.key(0), (capacity,))
    state = state._replace(
        rows=state.rows._replace(last=jnp.zeros_like(state.rows.last)),
        tree=jax.jit(sum_tree.put, donate_argnums=0)(state.tree, leaves, priorities),
    )

    def sample(state: ReplayState, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        batch = replay.sample(state, key, batch_size, half)
        # Everything sampled enters the priorities, so that XLA cannot leave it out.
        seen = batch.transitions.s_tm1.sum(-1) + batch.transitions.s_t.sum(-1)
        rest = batch.transitions.r_t + batch.transitions.discount_t + batch.transitions.a_tm1
        return batch.indices, batch.weights + seen + rest

    def put(state: ReplayState, indices: jax.Array, errors: jax.Array) -> ReplayState:
        return replay.set_priorities(state, indices, errors, half)

    def steps(state: ReplayState) -> ReplayState:
        def step(i: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            # The rows do not change. The loop does not carry them: it would copy them.
            now = state._replace(tree=carry[0], max_priority=carry[1])
            now = put(now, *sample(now, jax.random.fold_in(jax.random.key(1), i)))
            return now.tree, now.max_priority

        tree, greatest = jax.lax.fori_loop(0, CALLS, step, (state.tree, state.max_priority))
        return state._replace(tree=tree, max_priority=greatest)

    sample_call, put_call = jax.jit(sample), jax.jit(put, donate_argnums=0)
    keys = list(jax.random.split(jax.random.key(2), CALLS))

    def calls(state: ReplayState) -> ReplayState:
        for key in keys:
            state = put_call(state, *sample_call(state, key))
        return state

    strata = jax.vmap(lambda key: sum_tree.strata(key, batch_size))(
        jax.random.split(jax.random.key(3), 64)
    )

    def tree_step(i: Any, tree: sum_tree.SumTree) -> sum_tree.SumTree:
        indices, found = sum_tree.find(tree, jax.tree.map(lambda x: x[i % 64], strata))
        weights = (jnp.min(found) / found) ** half
        return sum_tree.put(tree, indices, (weights + 1e-4) ** half)

    def round_of(run: Callable[[Any], Any], start_from: Any) -> Round:
        """Return a round of `run`, which donates its own copy of a state and returns the next."""
        held = [run(jax.tree.map(jnp.copy, start_from))]

        def one_round() -> float:
            start = time.perf_counter()
            held[0] = jax.block_until_ready(run(held[0]))
            return (time.perf_counter() - start) / CALLS * 1e6

        return one_round

    def tree_steps(tree: sum_tree.SumTree) -> sum_tree.SumTree:
        return jax.lax.fori_loop(0, CALLS, tree_step, tree)

    return {
        "noisydqn": round_of(jax.jit(steps, donate_argnums=0), state),
        "noisydqn, one call each": round_of(calls, state),
        "noisydqn, tree alone": round_of(jax.jit(tree_steps, donate_argnums=0), state.tree),
    }


def timed(call: Callable[[], None]) -> float:
    """Measure the microseconds of a call."""
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - start) / CALLS * 1e6


def measure(capacities: list[int], rounds: int) -> list[dict[str, Any]]:
    """Measure the microseconds of every round, by capacity, batch size and library."""
    rows: list[dict[str, Any]] = []
    for capacity in capacities:
        for batch_size in BATCHES:
            sides = ours(capacity, batch_size)
            if capacity == PEER_CAPACITY:
                for name, make in PEERS.items():
                    try:
                        call = make(capacity, OBSERVATION, batch_size)
                    except (ImportError, RuntimeError) as error:  # or its compiled part fails
                        print(f"{name} is left out: {error}")
                        continue
                    call()
                    sides[name] = partial(timed, call)
            times: dict[str, list[float]] = {side: [] for side in sides}
            for _ in range(rounds):
                for side, one_round in sides.items():
                    times[side].append(one_round())
            rows += [
                {"capacity": capacity, "batch": batch_size, "library": side, "us": us}
                for side, us in times.items()
            ]
            print(capacity, batch_size, {k: round(min(v), 1) for k, v in times.items()}, flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Format medians as a table in Markdown."""
    medians = {
        (row["library"], row["capacity"], row["batch"]): statistics.median(row["us"])
        for row in rows
    }
    lines = [
        (library, f"{capacity:,}", *(f"{medians[library, capacity, size]:.0f}" for size in BATCHES))
        for library, capacity in dict.fromkeys(key[:2] for key in medians)
    ]
    return results.markdown(("", "transitions", *(f"batch {b}, us" for b in BATCHES)), lines)


def main() -> None:
    """Measure, save, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--capacities", type=int, nargs="+", default=list(CAPACITIES))
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    rows = measure(arguments.capacities, arguments.rounds)
    results.save(NAME, f"python -m benchmarks.replay --rounds {arguments.rounds}", rows)
    print(table(rows))


if __name__ == "__main__":
    main()
