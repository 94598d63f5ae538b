"""Where the time of the parallel learner goes: environments, acting, learning.

    python -m benchmarks.parallel [--games Breakout ...] [--num-envs 128] [--seeds 1]

The device program of the preset `minatar` on one core, in three versions that take turns: the
environments alone, under random actions; with acting, each step stored; and all of it. Each round
is several rollouts. The difference of two versions is what the larger one does more. On a GPU,
`--num-envs 4096 --seeds 10` measures the throughput of several seeds in one program.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks import results
from benchmarks.minatar import GAMES

NAME = "parallel"
IDENTITY = ("device", "game", "num_envs", "seeds")
ROLLOUTS = 4
"""Rollouts of a round."""

Round = Callable[[], float]


def rounds(game: str, num_envs: int, seeds: int, minibatches: int | None) -> dict[str, Round]:
    """Return functions that play some rollouts each and return seconds."""
    import jax
    import jax.numpy as jnp

    from noisydqn import PRESETS
    from noisydqn.compilation import compile_options
    from noisydqn.envs.device import DeviceEnvironment
    from noisydqn.envs.registry import make_environment
    from noisydqn.learner.gradient import no_metrics
    from noisydqn.runners.device import DeviceRunner, DeviceState

    config = PRESETS["minatar"].replace(env=f"gymnax:{game}-MinAtar", num_envs=num_envs)
    if minibatches is not None:
        config = config.replace(minibatches=minibatches)
    env = make_environment(config.environment)
    assert isinstance(env, DeviceEnvironment)
    runner = DeviceRunner.create(config.program, env)
    core, steps = runner.core, ROLLOUTS * config.program.learner.rollout_steps
    num_actions = runner.vector.spec.num_actions

    def alone(state: DeviceState, i: Any) -> DeviceState:
        actor = state.training.actor
        key, action_key, env_key = jax.random.split(actor.key, 3)
        actions = jax.random.randint(action_key, (num_envs,), 0, num_actions)
        last = actor.time_step.last
        env_states, time_step = runner.vector.step(env_key, state.env_states, actions, last)
        actor = actor._replace(key=key, time_step=time_step._replace(info={}))
        del i
        return state._replace(env_states=env_states, training=state.training._replace(actor=actor))

    def acting(state: DeviceState, i: Any) -> DeviceState:
        training, actions = core.act(state.training, i * num_envs)
        actor = training.actor
        key, env_key = jax.random.split(actor.key)
        last = actor.time_step.last
        env_states, time_step = runner.vector.step(env_key, state.env_states, actions, last)
        training = core.observe(training._replace(actor=actor._replace(key=key)), time_step)
        training = core.resample(training, jnp.bool_(True))
        return state._replace(env_states=env_states, training=training)

    def everything(state: DeviceState, i: Any) -> DeviceState:
        return runner.step(state, i * num_envs, no_metrics())[0]

    def round_of(step: Callable[[DeviceState, Any], DeviceState]) -> Round:
        def play(state: DeviceState, start: Any) -> DeviceState:
            return jax.lax.fori_loop(start, start + steps, lambda i, x: step(x, i), state)

        keys = jax.random.split(jax.random.key(0), seeds)
        state: Any = jax.jit(jax.vmap(runner.init))(keys)
        if seeds == 1:
            state = jax.tree.map(lambda x: x[0], state)
        else:
            play = jax.vmap(play, in_axes=(0, None))
        program = jax.jit(play, donate_argnums=0)
        compiled = program.lower(state, jnp.int32(0)).compile(compile_options("always"))
        held, played = [state], [0]

        def one() -> float:
            before = time.perf_counter()
            held[0] = jax.block_until_ready(compiled(held[0], jnp.int32(played[0])))
            played[0] += steps
            return time.perf_counter() - before

        one()
        return one

    return {
        "environments": round_of(alone),
        "with acting": round_of(acting),
        "all": round_of(everything),
    }


def measure(game: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one game."""
    import jax

    from noisydqn import PRESETS

    num_envs, seeds = arguments.num_envs, arguments.seeds
    versions = rounds(game, num_envs, seeds, arguments.minibatches)
    seconds: dict[str, list[float]] = {name: [] for name in versions}
    for _ in range(arguments.rounds):
        for name, play in versions.items():
            seconds[name].append(play())
    medians = {name: statistics.median(x) for name, x in seconds.items()}
    vector_steps = ROLLOUTS * PRESETS["minatar"].program.learner.rollout_steps
    per_step = {name: 1e6 * x / vector_steps for name, x in medians.items()}
    return {
        "device": jax.devices()[0].device_kind,
        "game": game,
        "num_envs": num_envs,
        "seeds": seeds,
        "environments": round(per_step["environments"], 1),
        "acting": round(per_step["with acting"] - per_step["environments"], 1),
        "learning": round(per_step["all"] - per_step["with acting"], 1),
        "steps_per_second": round(seeds * num_envs * 1e6 / per_step["all"]),
        "rounds": seconds,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Format the rows as a table in Markdown."""
    header = ("device", "game", "copies", "seeds", "environments", "acting", "learning", "steps/s")
    lines = [
        (
            row["device"],
            row["game"],
            row["num_envs"],
            row["seeds"],
            *(f"{row[name]:,.0f} µs" for name in ("environments", "acting", "learning")),
            f"{row['steps_per_second']:,}",
        )
        for row in sorted(rows, key=lambda row: (row["device"], GAMES.index(row["game"])))
    ]
    return results.markdown(header, lines)


def main() -> None:
    """Measure, save, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--games", nargs="+", choices=GAMES, default=list(GAMES))
    parser.add_argument("--num-envs", type=int, default=128)
    parser.add_argument("--minibatches", type=int, help="another number than the preset's")
    parser.add_argument("--seeds", type=int, default=1, help="seeds in one program")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rows: list[dict[str, Any]] = []
    for game in arguments.games:
        row = measure(game, arguments)
        print({name: x for name, x in row.items() if name != "rounds"}, flush=True)
        rows = [row, *results.others(NAME, [row], IDENTITY)]
        command = "python -m benchmarks.parallel " + " ".join(sys.argv[1:])
        results.save(NAME, command, rows)
    print(table(rows))


if __name__ == "__main__":
    main()
