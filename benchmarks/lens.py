"""The cost of the noise lens: processor time of training with and without it.

    python -m benchmarks.lens [WORK ...] [--rounds 20]

Two runs with the same seed take turns, chunk by chunk, in one process; they make the same updates.
One measures at the end of each chunk what noise does and writes it to `metrics.csv`, as every run
does. In the other, the measurement is taken out. So all that differs is the end of a chunk, the
program that measures and the row. It is timed by itself, too, because the time of whole chunks
varies by more than it costs. Times are those of the process on its processors
(`time.process_time`), which other processes disturb less than wall time.
"""

import argparse
import itertools
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from benchmarks import results

NAME = "lens"
IDENTITY = ("work",)
WARM_UP = 3
"""Chunks that do not count: programs are compiled and learning starts."""
WORKS: dict[str, dict[str, Any]] = {
    "catcher": {"preset": "catcher"},
    "lunarlander": {"preset": "lunarlander"},
    "cartpole": {"preset": "cartpole"},
    "cartpole, independent": {"preset": "cartpole", "noise": "independent"},
    "cartpole, indexed": {"preset": "cartpole", "noise": "indexed"},
    "deepsea": {"preset": "deepsea"},
    "minatar": {"preset": "minatar", "exploration": "noisy"},
}
WORDS = {"minatar": "minatar (Breakout), parallel learner, noisy"}


@contextmanager
def measuring(*, lens: bool) -> Generator[None]:
    """Have programs that are traced now measure what noise does, or nothing."""
    import jax.numpy as jnp

    from noisydqn.nets.noisy import noisy_layers
    from noisydqn.runners import parallel_core, replay_core
    from noisydqn.runners.probe import Probe

    def nothing(
        network: Any, observations: Any, masks: Any, exploration: Any, data: Any, key: Any
    ) -> Probe:
        del observations, masks, key
        return Probe(jnp.zeros(len(noisy_layers(network))), jnp.float32(0), {}, exploration, data)

    if lens:
        yield
        return
    with (
        mock.patch.object(replay_core, "probe_noise", nothing),
        mock.patch.object(parallel_core, "probe_noise", nothing),
    ):
        yield


class Times(NamedTuple):
    """The processor time of a chunk, and of its end alone, in seconds."""

    chunk: float
    end: float


class Timed:
    """A function whose calls are timed."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function, self.seconds = function, 0.0

    def __call__(self, *args: Any) -> Any:
        """Call the function and wait for its results."""
        import jax

        before = time.process_time()
        result = jax.block_until_ready(self._function(*args))
        self.seconds += time.process_time() - before
        return result


def chunk_times(work: str, folder: Path, *, lens: bool) -> Generator[tuple[int, Times]]:
    """Train without end; yield the steps of each chunk, and its times."""
    import jax

    from noisydqn import PRESETS
    from noisydqn.envs.device import DeviceEnvironment
    from noisydqn.envs.host import HostEnvironment
    from noisydqn.envs.registry import make_environment
    from noisydqn.runners import device, host, host_programs
    from noisydqn.runs.folder import RunFolder
    from noisydqn.runs.trackers import FileTracker

    changes = dict(WORKS[work])
    config = PRESETS[changes.pop("preset")].replace(steps=10**8, **changes)
    env, key = make_environment(config.environment), jax.random.key(0)
    # Not `programs` itself, which would return the programs of the other run.
    if isinstance(env, DeviceEnvironment):
        made: Any = device.programs.__wrapped__(config.program, env, 1)
        end = Timed(made.end)
        training = device.run(made._replace(end=end), key[None], config.total_steps)
    else:
        assert isinstance(env, HostEnvironment)
        made = host_programs.programs.__wrapped__(config.program, env.spec)
        end = Timed(made.probe)
        training = host.run(made._replace(probe=end), env, key, config.total_steps)
    with measuring(lens=lens):
        probe = made.end.programs[0] if isinstance(env, DeviceEnvironment) else made.probe
        probe.compile()
    run = RunFolder.at(folder)
    run.files.make()
    record, steps = Timed(FileTracker(run).chunk), 0
    while True:
        before, before_end = time.process_time(), end.seconds + record.seconds
        chunk = next(training)
        record(chunk.steps, 0.0, 0.0, chunk.seeds[0])
        after, after_end = time.process_time(), end.seconds + record.seconds
        yield chunk.steps - steps, Times(after - before, after_end - before_end)
        steps = chunk.steps


def pairs(work: str) -> Iterator[tuple[int, Times, Times]]:
    """Yield the steps of a chunk, and its times with and without the lens."""
    with tempfile.TemporaryDirectory() as parent:
        both = [chunk_times(work, Path(parent) / str(lens), lens=lens) for lens in (True, False)]
        for number in itertools.count():
            times: dict[int, tuple[int, Times]] = {}
            for i in (0, 1) if number % 2 == 0 else (1, 0):
                times[i] = next(both[i])
            yield times[0][0], times[0][1], times[1][1]


def measure(work: str, rounds: int) -> dict[str, Any]:
    """Measure one work."""
    taken = list(itertools.islice(pairs(work), WARM_UP, WARM_UP + rounds))
    return {
        "work": work,
        "steps": taken[0][0],
        "with": [[round(x, 5) for x in times] for _, times, _ in taken],
        "without": [[round(x, 5) for x in times] for _, _, times in taken],
    }


def medians(row: dict[str, Any], name: str) -> Times:
    """Return the medians of a row's times, with or without the lens."""
    chunk, end = (statistics.median(x) for x in zip(*row[name], strict=True))
    return Times(chunk, end)


def cost(row: dict[str, Any]) -> float:
    """Return the share of the steps per second that the lens costs, by the end of a chunk alone."""
    without = medians(row, "without")
    added = medians(row, "with").end - without.end
    return added / (without.chunk + added)


def table(rows: list[dict[str, Any]]) -> str:
    """Format the rows as a table in Markdown."""
    header = ("run", "steps in a chunk", "chunk without", "chunk with", "cost by the end alone")
    lines = [
        (
            WORDS.get(row["work"], row["work"]),
            f"{row['steps']:,}",
            *(f"{1000 * medians(row, x).chunk:,.0f} ms" for x in ("without", "with")),
            f"{cost(row):.2%}",
        )
        for row in sorted(rows, key=lambda row: list(WORKS).index(row["work"]))
    ]
    return results.markdown(header, lines)


def main() -> None:
    """Measure, save, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("works", nargs="*", default=list(WORKS), metavar="WORK")
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    os.environ["NOISYDQN_CACHE"] = ""  # a kept program would measure
    rows: list[dict[str, Any]] = []
    for work in args.works:
        row = measure(work, args.rounds)
        print(f"{work}: {cost(row):.2%}", flush=True)
        rows = [row, *results.others(NAME, [row], IDENTITY)]
        results.save(NAME, "python -m benchmarks.lens " + shlex.join(sys.argv[1:]), rows)
    print(table(rows))


if __name__ == "__main__":
    main()
