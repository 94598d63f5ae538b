"""Throughput of actors on Pong, the overhead of Ray over processes, and the cost of messages.

    python -m benchmarks.actors [--steps 16384] [--rounds 3] [--no-ray] [--transfer-only]

Throughput: environment steps a second of asynchronous actors without learning, four frames of
84 x 84, the network of Mnih et al. 2015 with noisy layers: one actor of eight environments, two
that share eight, two of eight each. The first chunks, in which actors compile, do not count. The
overhead of Ray is the difference in microseconds per step.

Transfer: weights of that network from the learner to an actor, and a segment of 16 steps of four
environments back, as processes here (shared memory, a pipe) and Ray (its object store) carry them.
Each number is the median of rounds. Measure on a machine that does nothing else, with a core for
each actor and one for the learner.
"""

import argparse
import contextlib
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Generator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from benchmarks import results

NAME = "actors"
SEGMENT = (16, 4, 84, 84)
"""Steps, environments, height and width of a segment's frames."""
REPEATS = 30
SETUPS = ((1, 8), (2, 8), (2, 16))
"""Actors, and environments of all of them."""
CHUNK, WARM_UP_CHUNKS = 1_024, 6


def throughput(actors: int, num_envs: int, steps: int, place: Any) -> float:
    """Measure environment steps a second."""
    import jax

    from noisydqn.compilation import Compiler
    from noisydqn.envs.registry import make_environment
    from noisydqn.presets import config_for
    from noisydqn.runners.actors import runner
    from noisydqn.runners.actors.learning import learner_programs
    from noisydqn.runners.stop import Stop

    config = config_for("ALE/Pong-v5").replace(
        num_envs=num_envs,
        actors=actors,
        actor_mode="asynchronous",
        actor_lag=2,
        replay="uniform",  # nothing is judged, as nothing is learned from
        replay_capacity=20_000,
        learning_starts=2**30,
        chunk_steps=CHUNK,
        steps=WARM_UP_CHUNKS * CHUNK + steps,
    )
    env: Any = make_environment(config.environment)
    share, options = num_envs // actors, config.program
    made = learner_programs(options, env.spec, share, config.actors.actor_steps)
    moments: list[tuple[int, float]] = []
    with Compiler() as compiler:
        chunks = runner.run(
            made,
            env,
            options,
            config.actors,
            place.make_pool,
            jax.random.key(0),
            config.total_steps,
            None,
            print,
            stop=Stop(),
            compiler=compiler,
        )
        moments += [(chunk.steps, time.perf_counter()) for chunk in chunks]
    (first, began), (last, ended) = moments[WARM_UP_CHUNKS - 1], moments[-1]
    return (last - first) / (ended - began)


def messages() -> tuple[Any, Any]:
    """Make weights and a segment of Atari's size."""
    import jax

    from noisydqn.envs.registry import make_environment
    from noisydqn.presets import config_for
    from noisydqn.runners.build import policy_like

    config = config_for("ALE/Pong-v5")
    env: Any = make_environment(config.environment)
    network = policy_like(config.program, env.spec).network
    size = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(network))
    return np.zeros(size, np.float32), np.zeros(SEGMENT, np.uint8)


def _echo(pipe: Connection, answer: Any) -> None:
    while (message := pipe.recv()) is not None:
        message.sum()  # weights are read
        pipe.send(answer)


@contextlib.contextmanager
def by_process(answer: Any) -> Generator[Callable[[Any], Any]]:
    """Yield a call that shares a message with another process and returns its answer."""
    from noisydqn.runners.actors.shared_memory import SharedMemory

    memory = SharedMemory()
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=_echo, args=(theirs, answer), daemon=True)
    process.start()
    theirs.close()

    def call(message: Any) -> Any:
        pipe.send(memory.put(message))
        return pipe.recv()

    yield call
    pipe.send(None)
    process.join()
    memory.close()


class _Echo:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def call(self, message: Any) -> Any:
        message.sum()  # weights are read
        return self.answer.copy()


@contextlib.contextmanager
def by_ray(answer: Any, ray: Any) -> Generator[Callable[[Any], Any]]:
    """Yield the same of an actor of Ray, by its object store."""
    actor = ray.remote(_Echo).options(num_cpus=0).remote(answer)
    yield lambda message: ray.get(actor.call.remote(ray.put(message)))
    ray.kill(actor)


def median(call: Callable[[Any], Any], message: Any) -> float:
    """Return the median milliseconds of a call."""
    call(message)
    times: list[float] = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call(message)
        times.append(1_000 * (time.perf_counter() - start))
    return statistics.median(times)


def transfer(way: str, calling: Callable[[Any], Any]) -> dict[str, Any]:
    """Measure weights one way and a segment the other."""
    weights, segment = messages()
    nothing = np.zeros(1)
    with calling(nothing) as call:
        empty, out = median(call, nothing), median(call, weights)
    with calling(segment) as call:
        back = median(call, nothing)
    return {
        "what": "transfer",
        "place": way,
        "weights_megabytes": weights.nbytes / 1e6,
        "segment_megabytes": segment.nbytes / 1e6,
        "empty_ms": empty,
        "weights_ms": out - empty,
        "segment_ms": back - empty,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Format the results as a table in Markdown."""
    messages = {row["place"]: row for row in rows if row["what"] == "transfer"}
    lines: list[tuple[object, ...]] = []
    for row in (row for row in rows if row["what"] == "throughput"):
        sent = messages[row["place"]]
        shown = (f"{sent[name]:.1f}" for name in ("empty_ms", "weights_ms", "segment_ms"))
        sizes = row["actors"], row["environments"]
        lines.append((row["place"], *sizes, f"{row['steps_per_second']:,.0f}", *shown))
    header = ("place", "actors", "environments", "steps/s", "empty message, ms", "weights, ms more")
    return results.markdown((*header, "segment, ms more"), lines)


def main() -> None:
    """Measure, save, and print."""
    from noisydqn.cluster import RayCluster
    from noisydqn.runs.actors import Here, OnRay

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=16_384, help="that are measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-ray", action="store_true", help="processes alone")
    parser.add_argument("--transfer-only", action="store_true")
    args = parser.parse_args()
    rows = [transfer("processes", by_process)]
    if not args.no_ray:
        cluster = RayCluster("local")
        rows.append(transfer("ray", lambda answer: by_ray(answer, cluster.ray)))
        cluster.close()
    speeds: dict[tuple[str, int, int], list[float]] = {}
    for _ in range(0 if args.transfer_only else args.rounds):
        for actors, num_envs in SETUPS:
            for name in ("processes",) if args.no_ray else ("processes", "ray"):
                place = Here() if name == "processes" else OnRay("local", actors)
                with contextlib.closing(place):
                    found = throughput(actors, num_envs, args.steps, place)
                speeds.setdefault((name, actors, num_envs), []).append(found)
    for (name, actors, num_envs), found in speeds.items():
        speed = statistics.median(found)
        row = {"what": "throughput", "place": name, "actors": actors, "environments": num_envs}
        row |= {"steps_per_second": speed, "rounds": found}
        if name == "ray":
            here = statistics.median(speeds["processes", actors, num_envs])
            row["overhead_us"] = 1e6 * (1 / speed - 1 / here)
        rows.append(row)
    rows = results.others(NAME, rows, ("what", "place")) + rows
    results.save(NAME, "python -m benchmarks.actors " + " ".join(sys.argv[1:]), rows)
    for row in rows:
        print({name: x for name, x in row.items() if name != "rounds"})


if __name__ == "__main__":
    main()
