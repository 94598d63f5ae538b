"""An account of the microseconds of a step of the host runner.

    python -m benchmarks.account [--envs LunarLander-v3 ALE/Pong-v5] [--numbers 1 8]

The work is that of `benchmarks.throughput`: noisy, dueling, double, prioritized, 3-step, an update
for each step (Pong: for every fourth). Each row is measured in a separate process on one core, the
parts in turn, in blocks of 256 steps (Pong: 32). Numbers are medians over the blocks, in
microseconds for a step of all environments:

- the bare environments: Gymnasium's own, or ALE's own vector, with random actions;
- the vector: the same behind our guard, with conversion of what it returns;
- acting and learning, each until its result is there, by calls that do nothing else;
- the bare updates: many in one call, without acting, environments and calls;
- a step of the runner, with all of these, also as a multiple of the two bare ones together.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks.throughput import work_of
from benchmarks.training import in_process

NAME = "account"
IDENTITY = ("env", "num_envs")
BLOCKS = 9
BLOCK_STEPS = {"LunarLander-v3": 256, "ALE/Pong-v5": 32}
UPDATES = 64
"""Bare updates in a call."""
WARM_STEPS = 2_048
MICRO = 1e6


class Parts:
    """A run after its warm-up, whose parts are called one by one.

    Args:
        env: name of the environment.
        num_envs: number of environments.
    """

    def __init__(self, env: str, num_envs: int) -> None:
        import jax

        from noisydqn.envs.registry import make_environment
        from noisydqn.learner.gradient import no_metrics
        from noisydqn.runners import host, host_programs

        self._work = host_programs.Work
        config = work_of(env, num_envs).replace(steps=WARM_STEPS, chunk_steps=512)
        environment: Any = make_environment(config.environment)
        self.updates = config.flat()["updates_per_step"] * num_envs
        """Updates for a step of all environments."""
        self.made = host_programs.programs(config.program, environment.spec)
        (*_, chunk) = host.run(self.made, environment, jax.random.key(0), config.total_steps)
        self.state, self.sums = chunk.state, no_metrics()
        self.vector = environment.vector(num_envs, processes=True)
        self.shown = self.vector.reset(0)
        self._size = num_envs, environment.spec.num_actions
        self._chance = np.random.default_rng(0)

    def play(self, actions: Any = None) -> None:
        """Step the environments; without actions, at random."""
        if actions is None:
            actions = self._chance.integers(self._size[1], size=self._size[0])
        self.shown = self.vector.step(np.asarray(actions))

    def call(self, *, acts: bool, learns: int) -> Any:
        """Choose actions, make some updates, or both."""
        work = self._work(WARM_STEPS, acts, learns > 0, learns, learns)
        self.state, actions, self.sums = self.made.calls(self.state, self.shown, work, self.sums)
        return actions

    def wait(self) -> None:
        """Wait for all that was called."""
        import jax

        jax.block_until_ready((self.state, self.sums))

    def step(self, due: int) -> None:
        """Take a step as the runner does."""
        self.play(self.call(acts=True, learns=due))


def bare_environments(env: str, num_envs: int) -> Callable[[], None]:
    """Make what steps Gymnasium's environments one after the other."""
    import gymnasium

    made = [gymnasium.make(env) for _ in range(num_envs)]
    for i, one in enumerate(made):
        one.reset(seed=i)
        one.action_space.seed(i)

    def step() -> None:
        for one in made:
            _, _, terminated, truncated, _ = one.step(one.action_space.sample())
            if terminated or truncated:
                one.reset()

    return step


def bare_atari(env: str, num_envs: int) -> Callable[[], None]:
    """Make what steps a vector of ALE's own, with the frames that agents see."""
    from ale_py.vector_env import AtariVectorEnv

    game = env.removeprefix("ALE/").removesuffix("-v5").lower()
    made = AtariVectorEnv(game, num_envs=num_envs, num_threads=1, repeat_action_probability=0.25)
    made.reset(seed=0)
    made.action_space.seed(0)

    def step() -> None:
        made.step(made.action_space.sample())

    return step


def timed(calls: int, call: Callable[[], Any]) -> float:
    """Return the microseconds of a call."""
    began = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - began) / calls * MICRO


def until_done(calls: int, call: Callable[[], Any], wait: Callable[[], None]) -> float:
    """Return the microseconds until the result of a call is there."""

    def both() -> None:
        call()
        wait()

    return timed(calls, both)


def measure(env: str, num_envs: int) -> dict[str, float]:
    """Measure all parts in this process."""
    from noisydqn.allocation import keep_freed_memory
    from noisydqn.settings import dispatch_for_cores

    keep_freed_memory()  # as commands do
    dispatch_for_cores()
    bare = (bare_atari if env.startswith("ALE/") else bare_environments)(env, num_envs)
    parts, block = Parts(env, num_envs), BLOCK_STEPS[env]
    due = max(1, round(parts.updates))
    every = max(1, round(1 / parts.updates))  # steps from one update to the next

    def updates() -> None:
        parts.call(acts=False, learns=UPDATES)
        parts.wait()

    def steps() -> None:
        for i in range(block):
            parts.step(0 if i % every else due)
        parts.wait()

    def one_block() -> dict[str, float]:
        acting = until_done(block, lambda: parts.call(acts=True, learns=0), parts.wait)
        learning = until_done(
            block // every, lambda: parts.call(acts=False, learns=due), parts.wait
        )
        return {
            "environment": timed(block, bare),
            "vector": timed(block, parts.play),
            "act": acting,
            "learn": learning / every,
            "updates": timed(max(1, block // UPDATES), updates) / UPDATES * parts.updates,
            "step": timed(1, steps) / block,
        }

    blocks = [one_block() for _ in range(BLOCKS)]
    parts.vector.close()
    return {name: round(statistics.median(x[name] for x in blocks), 1) for name in blocks[0]}


def table(rows: list[dict[str, Any]]) -> str:
    """Format the results as a table in Markdown."""
    names = ("environment", "vector", "act", "learn", "updates", "step")
    lines: list[tuple[object, ...]] = []
    for row in sorted(rows, key=lambda row: (row["env"], row["num_envs"]), reverse=True):
        ratio = row["step"] / (row["environment"] + row["updates"])
        speed = row["num_envs"] / row["step"] * MICRO
        shown = [f"{row[name]:,.0f}" for name in names]
        shown += [f"{ratio:.2f}", f"{speed:,.0f}"]
        lines.append((row["env"], row["num_envs"], *shown))
    heads = ("bare environment", "vector", "acting", "learning", "bare updates", "a step")
    header = ("", "environments", *heads, "times the bare", "steps/s")
    return results.markdown(header, lines)


def main() -> None:
    """Measure, save, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--envs", nargs="+", choices=BLOCK_STEPS, default=list(BLOCK_STEPS))
    parser.add_argument("--numbers", nargs="+", type=int, default=[1, 8], help="of environments")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for env in args.envs:
        for number in args.numbers:
            found = in_process(f"account.measure({env!r}, {number})", 1, "account")
            rows.append({"env": env, "num_envs": number, **found, "commit": results.commit()})
            print(rows[-1], flush=True)
    rows += results.others(NAME, rows, IDENTITY)
    results.save(NAME, "python -m benchmarks.account " + " ".join(sys.argv[1:]), rows)
    print(table(rows))


if __name__ == "__main__":
    main()
