"""Catcher for Gymnasium: `gymnasium.make("noisydqn/Catcher-v0")`."""

from typing import Any

import gymnasium
import jax
import numpy as np

from noisydqn.envs import catcher
from noisydqn.settings import own_settings


class CatcherEnv(gymnasium.Env[np.ndarray, np.int64]):
    """The exact game: RGB 64 x 64, actions 0 left, 1 right, 2 nothing, one tick per step.

    `info` counts fruit `caught` and `missed` in the step, and shows the `lives` left.
    """

    # Gymnasium declares this as an instance's attribute.
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f'render_mode must be None or "rgb_array", got {render_mode!r}')
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(
            0, 255, (catcher.SIZE, catcher.SIZE, 3), np.uint8
        )
        self.action_space = gymnasium.spaces.Discrete(catcher.NUM_ACTIONS)
        self._tick = jax.jit(catcher.tick)
        self._draw = jax.jit(catcher.render)
        self._state: catcher.CatcherState | None = None

    def _spawns(self) -> np.ndarray:
        x = self.np_random.choice(catcher.SPAWN_X, 2)
        y = self.np_random.choice(catcher.SPAWN_Y, 2)
        return np.stack([x, y], axis=-1).astype(np.int32)

    def _started(self) -> catcher.CatcherState:
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset() before the first step() or render()")
        return self._state

    def _info(self, caught: int, missed: int) -> dict[str, Any]:
        return {"caught": caught, "missed": missed, "lives": int(self._started().lives)}

    @own_settings()
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a game."""
        super().reset(seed=seed, options=options)
        self._state = catcher.initial_state(self._spawns()[0])
        return self._screen(), self._info(0, 0)

    @own_settings()
    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Play one tick."""
        if not self.action_space.contains(action):
            raise ValueError(f"action must be 0 (left), 1 (right) or 2 (nothing), got {action!r}")
        before = self._started()
        self._state, reward, terminated = self._tick(before, np.int32(action), self._spawns())
        missed = int(before.lives) - int(self._started().lives)
        caught = round(float(reward) + missed + 5 * bool(terminated))
        return self._screen(), float(reward), bool(terminated), False, self._info(caught, missed)

    def _screen(self) -> np.ndarray:
        return np.array(self._draw(self._started()))

    @own_settings()
    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the screen, height x width x RGB; None unless the render mode is "rgb_array"."""
        return self._screen() if self.render_mode == "rgb_array" else None
