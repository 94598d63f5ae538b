"""A run whose data is divided over two devices learns CartPole."""

import json
import subprocess
import sys
from pathlib import Path

from tests.forced_devices import environment

OPTIONS = (
    *("--learner", "replay"),
    *("--steps", "60000", "--learning-rate", "1e-3", "--hidden", "64", "64", "--num-envs", "8"),
    *("--stop-at-return", "300", "--window", "20", "--evaluation-episodes", "20"),
    *("--video-seconds", "0", "--checkpoint-seconds", "0", "--quiet"),
)


def test_cartpole_is_learned_on_two_devices(tmp_path: Path) -> None:
    """Random play lasts 20 steps, the limit is 500."""
    argv = [sys.executable, "-m", "noisydqn", "train", "gymnax:CartPole-v1", "--devices", "2"]
    out = tmp_path / "run"
    variables = environment(devices=2)
    del variables["XLA_FLAGS"]
    variables["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    subprocess.run([*argv, *OPTIONS, "--out", str(out)], env=variables, check=True)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["evaluation"]["mean_return"] > 250
