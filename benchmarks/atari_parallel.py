"""Atari by the parallel learner on all cores: spread updates, and ALE's XLA interface.

    python -m benchmarks.atari_parallel [--rounds 3]

Learning compares the presets with the updates of a rollout spread over the steps of the next one
(`spread_updates`) and made at once, in whole runs of the installed command. Stepping compares
calls of ALE's vector environment with calls of its XLA interface from compiled code, one for each
step or one for a rollout of 32 steps; nothing is learned there, and the environments repeat the
same few actions. Each round measures everything in turn. ALE asks for `pip install chex` here.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks.training import steps_per_second, trained

NAME = "atari_parallel"
IDENTITY = ("preset", "what", "round")
STEPS = {"pong-laptop": 163_840, "atari-parallel": 32_768}
"""Steps of a run with learning: 160 rollouts, and eight."""
VECTORS = {"pong-laptop": (32, 42), "atari-parallel": (128, 84)}
"""Environments of a preset, and the height and width of their frames."""
ROLLOUT = 32
LEARNING = {
    "learning, updates spread": "--spread-updates",
    "learning, updates at once": "--no-spread-updates",
}
STEPPING = ("stepping, own calls", "stepping, XLA, by step", "stepping, XLA, by rollout")


def learning(preset: str, option: str) -> float:
    """Measure the steps per second of training, without compiling and evaluation."""
    words = ["--steps", str(STEPS[preset]), "--chunk-steps", str(STEPS[preset] // 4), option]
    words += ["--evaluation-every", "0", "--evaluation-episodes", "1", "--quiet"]
    with trained(preset, *words, "--evaluation-max-steps", "100", "--video-seconds", "0") as run:
        return steps_per_second(run.folder)


def stepping(preset: str, what: str, seconds: float = 10.0) -> float:
    """Measure the steps per second of a bare vector environment."""
    from ale_py.vector_env import AtariVectorEnv

    num_envs, size = VECTORS[preset]
    env = AtariVectorEnv("pong", num_envs, noop_max=0, img_height=size, img_width=size, stack_num=1)
    env.reset(seed=0)
    actions = np.arange(ROLLOUT * num_envs).reshape(ROLLOUT, num_envs) % 6
    play = rollout_of(env, what, actions)
    play()
    steps, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        play()
        steps += actions.size
    env.close()
    return steps / elapsed


def rollout_of(env: Any, what: str, actions: np.ndarray) -> Callable[[], object]:
    """Return the function that plays a rollout."""
    import jax

    if what == STEPPING[0]:
        return lambda: [env.step(each) for each in actions]
    handle, _, step = env.xla()
    if what == STEPPING[1]:
        compiled = jax.jit(step)
        return lambda: [jax.device_get(compiled(handle, each)) for each in actions]
    scan = jax.jit(lambda actions: jax.lax.scan(step, handle, actions))
    return lambda: jax.block_until_ready(scan(actions))


def measure(rounds: int) -> Iterator[dict[str, Any]]:
    """Measure everything in turn."""
    for number, preset in itertools.product(range(rounds), VECTORS):
        for what in (*LEARNING, *STEPPING):
            option = LEARNING.get(what)
            speed = learning(preset, option) if option else stepping(preset, what)
            yield {"preset": preset, "what": what, "round": number, "steps_per_second": speed}


def table(rows: list[dict[str, Any]]) -> str:
    """Format medians, with the rounds, as a table in Markdown."""
    lines: list[tuple[object, ...]] = []
    for preset, what in itertools.product(VECTORS, (*LEARNING, *STEPPING)):
        found = [row for row in rows if (row["preset"], row["what"]) == (preset, what)]
        speeds = [row["steps_per_second"] for row in sorted(found, key=lambda row: row["round"])]
        each = ", ".join(f"{speed:,.0f}" for speed in speeds)
        lines.append((preset, what, f"{statistics.median(speeds):,.0f}", each))
    return results.markdown(("preset", "what", "steps per second", "each round"), lines)


def main() -> None:
    """Measure, save, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    command = f"python -m benchmarks.atari_parallel --rounds {rounds}"
    print(table(results.collect(NAME, command, IDENTITY, measure(rounds))))


if __name__ == "__main__":
    main()
