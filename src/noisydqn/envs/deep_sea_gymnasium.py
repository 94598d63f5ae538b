"""DeepSea for Gymnasium: `gymnasium.make("noisydqn/DeepSea-v0", size=20)`."""

from typing import Any

import gymnasium
import jax
import numpy as np
from jaxtyping import Array

from noisydqn.envs.deep_sea import NUM_ACTIONS, DeepSea, DeepSeaState, Events
from noisydqn.settings import own_settings


class DeepSeaEnv(gymnasium.Env[np.ndarray, np.int64]):
    """DeepSea by the rules of `DeepSea.move`, with bsuite's observations and rewards.

    `info` counts the `treasures` of the step. That of an episode's last step holds `is_success`:
    whether the episode had no wrong move.

    Args:
        size: as all but the last one, an argument of `DeepSea`.
        render_mode: None or "rgb_array".

    Raises:
        UserError: an argument has an impossible value.
    """

    # Gymnasium declares this as an instance's attribute.
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        size: int = 10,
        deterministic: bool = True,
        unscaled_move_cost: float = 0.01,
        randomize_actions: bool = True,
        mapping_seed: int = 42,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f'render_mode must be None or "rgb_array", got {render_mode!r}')
        self.render_mode = render_mode
        cost = unscaled_move_cost
        self._sea = DeepSea(size, deterministic, cost, randomize_actions, mapping_seed)
        self.observation_space = gymnasium.spaces.Box(0, 1, (size, size), np.float32)
        self.action_space = gymnasium.spaces.Discrete(NUM_ACTIONS)
        self._step = jax.jit(self._after)
        self._draw = jax.jit(self._sea.render)
        self._state: DeepSeaState | None = None

    def _after(self, state: DeepSeaState, action: Array, events: Events) -> tuple[Any, ...]:
        state, reward, info = self._sea.move(state, action, events)
        return state, self._sea.observe(state), reward, self._sea.ended(state), info

    def _events(self) -> Events:
        if self._sea.deterministic:
            return Events._make((np.bool_(False), np.float32(0)))
        slips = self.np_random.random() < 1 / self._sea.size
        return Events._make((np.bool_(slips), np.float32(self.np_random.standard_normal())))

    def _started(self) -> DeepSeaState:
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset() before the first step() or render()")
        return self._state

    @own_settings()
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed, options=options)
        self._state = self._sea.start()
        return np.array(self._sea.observe(self._state)), {"treasures": 0}

    @own_settings()
    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move one row down."""
        if not self.action_space.contains(action):
            raise ValueError(f"action must be 0 or 1, got {action!r}")
        state = self._started()
        if self._sea.ended(state):
            raise gymnasium.error.ResetNeeded("the episode is over: call reset()")
        outcome = self._step(state, np.int32(action), self._events())
        self._state, observation, reward, terminated, counts = outcome
        info: dict[str, Any] = {"treasures": int(counts["treasures"])}
        if terminated:
            info["is_success"] = bool(counts["success"])
        return np.array(observation), float(reward), bool(terminated), False, info

    @own_settings()
    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the picture, height x width x RGB; None unless the render mode is "rgb_array"."""
        return np.array(self._draw(self._started())) if self.render_mode == "rgb_array" else None
