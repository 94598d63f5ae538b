"""Stable-Baselines3's DQN with the noisy layer, as docs/how-to/layers.md shows it."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noisydqn.torch import noisy_layers

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "layers.md"
CODE = re.findall(r"<!-- test: stable_baselines3 -->\n```python\n(.*?)```", PAGE.read_text(), re.S)


@pytest.fixture(params=range(2), ids=["features", "policy"])
def model(request: pytest.FixtureRequest) -> Any:
    """What each example trains."""
    pytest.importorskip("stable_baselines3")
    names: dict[str, Any] = {}
    exec(compile(CODE[request.param], str(PAGE), "exec"), names)  # noqa: S102
    return names["model"]


def test_learns_by_noise_alone(model: Any) -> None:
    """Random play balances the pole for some 22 steps."""
    assert model.exploration_rate == 0
    online, target = noisy_layers(model.q_net), noisy_layers(model.q_net_target)
    assert len(online) == len(target) >= 2
    assert all(layer.weight_sigma.std() > 0 for layer in online)  # sigma is learned, too
    observation = np.zeros(4, np.float32)
    values = [model.q_net(model.policy.obs_to_tensor(observation)[0]) for _ in range(2)]
    assert (values[0] != values[1]).all()
    if model.num_timesteps > 5_000:
        returns = [episode["r"] for episode in model.ep_info_buffer][-20:]
        assert sum(returns) / len(returns) > 60
