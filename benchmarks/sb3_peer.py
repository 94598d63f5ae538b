"""The same work for Stable-Baselines3's DQN, an optional dependency of the benchmarks.

Its settings are those that RL Baselines3 Zoo publishes for its DQN. Where training lasts longer
than there, epsilon still falls over the same number of steps.
"""

import time
from collections import deque
from typing import Any

from noisydqn.presets import config_for

_LUNARLANDER_TUNED = {
    "learning_rate": 6.3e-4,
    "batch_size": 128,
    "buffer_size": 50_000,
    "learning_starts": 0,
    "gamma": 0.99,
    "target_update_interval": 250,
    "train_freq": 4,
    "gradient_steps": -1,
    "exploration_steps": 12_000,  # 0.12 of 100,000
    "exploration_final_eps": 0.1,
}
TUNED: dict[str, dict[str, Any]] = {
    "LunarLander-v3": _LUNARLANDER_TUNED,
    "Acrobot-v1": _LUNARLANDER_TUNED,
    "CartPole-v1": {
        "learning_rate": 2.3e-3,
        "batch_size": 64,
        "buffer_size": 100_000,
        "learning_starts": 1_000,
        "gamma": 0.99,
        "target_update_interval": 10,
        "train_freq": 256,
        "gradient_steps": 128,
        "exploration_steps": 8_000,  # 0.16 of 50,000
        "exploration_final_eps": 0.04,
    },
    "MountainCar-v0": {
        "learning_rate": 4e-3,
        "batch_size": 128,
        "buffer_size": 10_000,
        "learning_starts": 1_000,
        "gamma": 0.98,
        "target_update_interval": 600,
        "train_freq": 16,
        "gradient_steps": 8,
        "exploration_steps": 24_000,  # 0.2 of 120,000
        "exploration_final_eps": 0.07,
    },
}
"""Arguments of `DQN`; `exploration_steps` are the steps until epsilon has its final value."""


def solve(env: str, seed: int, goal: float, window: int) -> dict[str, Any]:
    """Train until the mean of `window` training returns is `goal`, or for our preset's steps."""
    start = time.time()
    import torch
    from stable_baselines3 import DQN
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.evaluation import evaluate_policy

    torch.set_num_threads(1)  # faster here than two threads
    solved: list[int] = []

    class Stop(BaseCallback):
        """A callback that stops at the goal."""

        def _on_training_start(self) -> None:
            self.recent: deque[float] = deque(maxlen=window)

        def _on_step(self) -> bool:
            for info in self.locals["infos"]:
                if "episode" in info:
                    self.recent.append(info["episode"]["r"])
            if len(self.recent) == window and sum(self.recent) / window >= goal:
                solved.append(self.num_timesteps)
            return not solved

    steps = config_for(env).steps
    tuned = dict(TUNED[env])
    model = DQN(
        "MlpPolicy",
        env,
        seed=seed,
        device="cpu",
        exploration_fraction=tuned.pop("exploration_steps") / steps,
        policy_kwargs={"net_arch": [256, 256]},
        **tuned,
    )
    model.learn(steps, callback=Stop())
    seconds = time.time() - start
    evaluation, _ = evaluate_policy(model, model.get_env(), n_eval_episodes=100)
    return {
        "solved_step": solved[0] if solved else None,
        "seconds": round(seconds, 1),
        "evaluation": round(float(evaluation), 1),
    }


def steps_per_second(env: str, steps: int) -> float:
    """Measure plain DQN: batch 32, one update a step, three layers of 128, one environment."""
    import torch
    from stable_baselines3 import DQN

    torch.set_num_threads(1)
    model = DQN(
        "MlpPolicy",
        env,
        learning_starts=1_000,
        batch_size=32,
        train_freq=1,
        gradient_steps=1,
        policy_kwargs={"net_arch": [128, 128, 128]},
        device="cpu",
    )
    model.learn(2_000)
    start = time.perf_counter()
    model.learn(steps, reset_num_timesteps=False)
    return steps / (time.perf_counter() - start)
