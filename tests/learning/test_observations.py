"""An environment that needs both an image and a vector: solved with both, by neither alone."""

from collections.abc import Callable
from typing import Any

import gymnasium
import pytest
from gymnasium.wrappers import FilterObservation
from tests.host_envs import Fetch
from tests.jax_fetch import JaxFetch

import noisydqn


def _only(part: str) -> Callable[[], gymnasium.Env[Any, Any]]:
    return lambda: FilterObservation(Fetch(), [part])


@pytest.mark.parametrize(
    ("env", "least", "most"),
    [
        (Fetch, 9.5, 10.0),
        (_only("camera"), 0.0, 6.0),
        (_only("wanted"), 0.0, 6.0),
        (JaxFetch(), 9.5, 10.0),
        (JaxFetch("camera"), 0.0, 6.0),
    ],
    ids=["both", "camera", "wanted", "both, in JAX", "camera, in JAX"],
)
def test_both_parts_are_needed(env: Any, least: float, most: float, tmp_path: Any) -> None:
    result = noisydqn.train(
        env=env,
        learner="replay",
        steps=4_000,
        learning_rate=1e-3,
        hidden=(64,),
        discount=0.0,  # each ball stands alone
        n_step=1,
        replay_capacity=4_000,
        seed=0,
        video_seconds=0,
        evaluation_episodes=100,
        out=tmp_path / "run",
        quiet=True,
    )
    assert least <= result.seeds[0].summary["evaluation"]["mean_return"] <= most
