"""Optimizers of a config against their formulas."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from noisydqn import Config
from noisydqn.runners import build


def steps(gradients: np.ndarray, **options: Any) -> np.ndarray:
    """What the optimizer of a config adds to the weights for each of some gradients."""
    optimizer = build.make_agent(Config(**options).program).descent.optimizer
    weights = jnp.zeros(gradients.shape[1:])
    state = optimizer.init(weights)
    taken: list[Any] = []
    for gradient in gradients:
        step, state = optimizer.update(jnp.asarray(gradient), state, weights)
        taken.append(step)
    return np.stack(taken)


def test_rectified_adam_written_out() -> None:
    """Liu et al. 2020, algorithm 2: without the second moment until its variance is finite."""
    gradients = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    rate, epsilon, beta_1, beta_2 = 0.01, 1e-3, 0.9, 0.999
    m, v = np.zeros(4), np.zeros(4)
    longest = 2 / (1 - beta_2) - 1
    expected: list[np.ndarray] = []
    for t, g in enumerate(gradients.astype(np.float64), start=1):
        m, v = beta_1 * m + (1 - beta_1) * g, beta_2 * v + (1 - beta_2) * g**2
        corrected = m / (1 - beta_1**t)
        length = longest - 2 * t * beta_2**t / (1 - beta_2**t)
        if length <= 5:
            expected.append(-rate * corrected)
            continue
        share = (length - 4) * (length - 2) * longest
        share = np.sqrt(share / ((longest - 4) * (longest - 2) * length))
        deviation = np.sqrt(v / (1 - beta_2**t))
        expected.append(-rate * share * corrected / (deviation + epsilon))
    taken = steps(gradients, optimizer="radam", learning_rate=rate, adam_epsilon=epsilon)
    np.testing.assert_allclose(taken, expected, rtol=0.02)  # float32: the length is a difference
    np.testing.assert_allclose(taken[:5], expected[:5], rtol=1e-5)


def test_the_step_size_of_rectified_adam_is_scheduled() -> None:
    gradients = np.ones((3, 1), np.float32)
    options = {"optimizer": "radam", "learning_rate": 0.4, "schedule_updates": 2}
    taken = steps(gradients, learning_rate_final=0.0, **options)
    np.testing.assert_allclose(taken[:, 0], [-0.4, -0.2, 0], atol=1e-6)
