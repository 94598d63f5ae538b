"""Training speed at stated work: environment steps and updates a second.

    python -m benchmarks.throughput [--peer] [--atari]

The work on LunarLander-v3: noisy, dueling, double, prioritized, 3-step, three layers of 128,
batch 32, one update a step; on one core with one environment, and on two cores with eight.
"Rainbow" is the same with C51's 51 atoms. "8 updates every 8 steps" makes equally many updates,
but together. With `--atari`: Pong, four frames of 84 x 84, the network of Mnih et al. 2015, batch
32, an update every fourth step, eight environments, Rainbow on one core and expected values on two.
With `--peer`, Stable-Baselines3's plain DQN and Tianshou's Rainbow take turns, if they are
installed. Each number is the median of rounds, after learning has started. Work that is not
measured keeps its rows.
"""

import argparse
import importlib.util
import statistics
import sys
import time
from typing import Any, NamedTuple

from benchmarks import results
from benchmarks.training import in_process

NAME = "throughput"
ROUNDS = 3
BURSTS = ", 8 updates every 8 steps"
IDENTITY = ("library", "env", "num_envs", "learn_every", "cores")
"""The columns that identify a row."""


def work_of(env: str, num_envs: int) -> Any:
    """Make the configuration of the work that is stated above."""
    from noisydqn.presets import config_for

    config = config_for(env).replace(
        num_envs=num_envs,
        batch_size=32,
        learning_starts=1_000,
        n_step=3,
        stop_at_return=None,
        stop_at_evaluation=None,
        acting_noise="update",
        layer_norm=False,
    )
    if env.startswith("ALE/"):
        return config.replace(replay_capacity=20_000)
    return config.replace(updates_per_step=1.0, hidden=(128, 128, 128))


def measure(
    env: str, num_envs: int, steps: int, learn_every: int, distribution: Any
) -> dict[str, float]:
    """Measure the speed of the host runner from its first updates on."""
    import jax

    from noisydqn.allocation import keep_freed_memory
    from noisydqn.envs.registry import make_environment
    from noisydqn.runners import host, host_programs
    from noisydqn.settings import dispatch_for_cores

    keep_freed_memory()  # as commands do
    dispatch_for_cores()
    config = work_of(env, num_envs).replace(learn_every=learn_every, distribution=distribution)
    warm = 2_048
    config = config.replace(steps=warm + steps, chunk_steps=512)
    started = time.perf_counter()
    updates = 0
    environment: Any = make_environment(config.environment)
    made = host_programs.programs(config.program, environment.spec)
    for chunk in host.run(made, environment, jax.random.key(0), config.total_steps):
        if chunk.steps <= warm:
            started, updates = time.perf_counter(), chunk.seeds[0].updates
        last = chunk
    seconds = time.perf_counter() - started
    return {
        "steps_per_second": steps / seconds,
        "updates_per_second": (last.seeds[0].updates - updates) / seconds,  # pyright: ignore[reportPossiblyUnboundVariable]
    }


class Work(NamedTuple):
    """A measurement; `what` is the call that makes it."""

    library: str
    what: str
    env: str
    steps: int
    num_envs: int = 1
    learn_every: int = 1
    cores: int = 1


OURS = "throughput.measure('{env}', {num_envs}, {steps}, {learn_every}, 'expected')"
RAINBOW = "throughput.measure('{env}', {num_envs}, {steps}, {learn_every}, 'categorical')"
SB3 = "{{'steps_per_second': sb3_peer.steps_per_second('{env}', {steps})}}"
TIANSHOU = "{{'steps_per_second': tianshou_peer.steps_per_second('{env}', {steps}, {learn_every})}}"


def table(rows: list[dict[str, Any]]) -> str:
    """Format the results as a table in Markdown."""
    lines = [
        (
            row["library"] + (BURSTS if row["learn_every"] > 1 else ""),
            row["env"],
            f"{row['num_envs']} on {row['cores']}",
            f"{row['steps_per_second']:,.0f}",
            f"{row['updates_per_second']:,.0f}" if row.get("updates_per_second") else "",
        )
        for row in rows
    ]
    header = ("", "", "environments on cores", "steps/s", "updates/s")
    return results.markdown(header, lines)


def main() -> None:
    """Measure, save, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer", action="store_true", help="other libraries too")
    parser.add_argument("--atari", action="store_true", help="Pong too")
    args = parser.parse_args()
    lander = "LunarLander-v3"
    works = [
        Work("noisydqn", OURS, lander, 6_144),
        Work("noisydqn", OURS, lander, 6_144, learn_every=8),
        Work("noisydqn", OURS, lander, 16_384, num_envs=8, cores=2),
        Work("noisydqn, Rainbow", RAINBOW, lander, 6_144),
        Work("noisydqn, Rainbow", RAINBOW, lander, 6_144, learn_every=8),
    ]
    if args.peer and importlib.util.find_spec("stable_baselines3"):
        works.append(Work("stable-baselines3, plain", SB3, lander, 3_000))
    if args.peer and importlib.util.find_spec("tianshou"):
        works.append(Work("Tianshou, Rainbow", TIANSHOU, lander, 1_536))
        works.append(Work("Tianshou, Rainbow", TIANSHOU, lander, 1_536, learn_every=8))
    if args.atari:
        pong = "ALE/Pong-v5"
        works.append(Work("noisydqn, Rainbow", RAINBOW, pong, 2_048, num_envs=8))
        works.append(Work("noisydqn", OURS, pong, 2_048, num_envs=8, cores=2))
    measured: list[list[dict[str, float]]] = [[] for _ in works]
    for _ in range(ROUNDS):
        for runs, work in zip(measured, works, strict=True):
            call = work.what.format(**work._asdict())
            runs.append(in_process(call, work.cores, "sb3_peer", "throughput", "tianshou_peer"))
    rows: list[dict[str, Any]] = []
    for runs, work in zip(measured, works, strict=True):
        medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        about = {name: getattr(work, name) for name in IDENTITY}
        about |= {"steps": work.steps, "commit": results.commit()}
        rows.append({**about, **medians, "rounds": runs})
    rows += results.others(NAME, rows, IDENTITY)
    results.save(NAME, "python -m benchmarks.throughput " + " ".join(sys.argv[1:]), rows)
    print(table(rows))


if __name__ == "__main__":
    main()
