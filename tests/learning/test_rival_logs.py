"""Logs that other libraries write today are read as they write them."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor
from torch.utils.tensorboard.writer import SummaryWriter

from noisydqn.runs.recorded import read_recorded

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


def test_stable_baselines3(tmp_path: Path) -> None:
    folder = tmp_path / "seed-3"
    folder.mkdir()
    env = Monitor(gymnasium.make("CartPole-v1"), str(folder))
    checked = EvalCallback(
        Monitor(gymnasium.make("CartPole-v1")),
        log_path=str(folder),
        eval_freq=100,
        n_eval_episodes=2,
        verbose=0,
    )
    DQN("MlpPolicy", env, learning_starts=50, seed=0).learn(400, callback=checked)
    env.close()
    (run,) = read_recorded([tmp_path])
    assert (run.env, run.seed, run.recorder) == ("CartPole-v1", 3, "Stable-Baselines3")
    assert run.episodes.values.tolist() == env.get_episode_rewards()
    assert run.episodes.steps.tolist() == np.cumsum(env.get_episode_lengths()).tolist()
    assert run.evaluations.steps.tolist() == [100, 200, 300, 400]
    assert run.episodes.knows("seconds")


def test_events_of_pytorch(tmp_path: Path) -> None:
    """The writer that CleanRL uses, with the name of a folder that it gives."""
    folder = tmp_path / "CartPole-v1__dqn__1__1700000000"
    writer = SummaryWriter(str(folder))
    writer.add_text("hyperparameters", "| seed | 1 |")
    for step in (10, 20, 30):
        writer.add_scalar("charts/episodic_return", step / 2, step)
    writer.close()
    (run,) = read_recorded([tmp_path])
    assert (run.env, run.variant, run.seed) == ("CartPole-v1", "dqn", 1)
    assert run.episodes.values.tolist() == [5, 10, 15]
