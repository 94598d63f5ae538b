"""Environments with action masks, which raise an error at every invalid action."""

from functools import partial
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

ITEMS, ROOM, LARGEST = 5, 12, 9


class Knapsack(gymnasium.Env[Any, np.int64]):
    """Pack items into a bag until none fits; an item is worth its value, and fits or does not.

    Args:
        source: where the mask is: "info", "method" or "observation".
    """

    def __init__(self, source: str = "info") -> None:
        self.source = source
        seen = spaces.Box(0, 1, (2 * ITEMS + 1,), np.float32)
        mask = spaces.Box(0, 1, (ITEMS,), np.int8)
        self.observation_space = seen
        if source == "observation":
            self.observation_space = spaces.Dict({"observation": seen, "action_mask": mask})
        if source == "method":
            self.action_masks = self.mask
        self.action_space = spaces.Discrete(ITEMS)

    def mask(self) -> np.ndarray:
        return ~self.packed & (self.weights <= self.room)

    def _shown(self) -> tuple[Any, dict[str, Any]]:
        left = np.where(self.packed, 0, self.values)
        parts = [self.weights / LARGEST, left / LARGEST, [self.room / ROOM]]
        seen = np.concatenate(parts).astype(np.float32)
        mask = self.mask().astype(np.int8)
        if self.source == "observation":
            return {"observation": seen, "action_mask": mask}, {}
        return seen, {"action_mask": mask} if self.source == "info" else {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.weights = self.np_random.integers(1, LARGEST + 1, ITEMS)
        self.values = self.np_random.integers(1, LARGEST + 1, ITEMS)
        self.packed, self.room = np.zeros(ITEMS, bool), ROOM
        return self._shown()

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if not self.mask()[action]:
            raise RuntimeError(f"item {action} does not fit")
        self.packed[action] = True
        self.room -= int(self.weights[action])
        seen, info = self._shown()
        return seen, float(self.values[action]) / LARGEST, not self.mask().any(), False, info


class Pictured(Knapsack):
    """Shows a picture of the bag, too, and itself when it is rendered."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - Gymnasium's

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__("observation")
        self.render_mode = render_mode
        parts: Any = self.observation_space
        bag = spaces.Box(0, 255, (6, ROOM, 3), np.uint8)
        self.observation_space = spaces.Dict({"bag": bag, **parts})

    def _shown(self) -> tuple[Any, dict[str, Any]]:
        parts, info = super()._shown()
        return {"bag": self.render(), **parts}, info

    def render(self) -> np.ndarray:
        picture = np.zeros((6, ROOM, 3), np.uint8)
        picture[:, : self.room] = 255
        return picture


def own_vector(num_envs: int, source: str = "info") -> SyncVectorEnv:
    """Make a vector of `Knapsack`, as the vector entry point of an id."""
    return SyncVectorEnv([partial(Knapsack, source)] * num_envs)


gymnasium.register(
    "noisydqn-tests/OwnMasks-v0",
    "tests.mask_envs:Knapsack",
    vector_entry_point="tests.mask_envs:own_vector",
)

LINES = np.array(
    [[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 3, 6], [1, 4, 7], [2, 5, 8], [0, 4, 8], [2, 4, 6]]
)


class TicTacToe(gymnasium.Env[dict[str, np.ndarray], np.int64]):
    """Tic-tac-toe against a random opponent, who begins half of the games.

    Observations are as PettingZoo has them, but flat. The reward is 1 for a game won, -1 for one
    lost.
    """

    def __init__(self) -> None:
        seen = spaces.Box(0, 1, (18,), np.float32)
        mask = spaces.Box(0, 1, (9,), np.int8)
        self.observation_space = spaces.Dict({"observation": seen, "action_mask": mask})
        self.action_space = spaces.Discrete(9)
        self.board = np.zeros(9, int)  # 1 is the agent, -1 the opponent

    def _shown(self) -> dict[str, np.ndarray]:
        seen = np.concatenate([self.board == 1, self.board == -1]).astype(np.float32)
        return {"observation": seen, "action_mask": (self.board == 0).astype(np.int8)}

    def _won(self, player: int) -> bool:
        return bool((self.board[LINES] == player).all(axis=1).any())

    def _oppose(self) -> None:
        self.board[self.np_random.choice(np.flatnonzero(self.board == 0))] = -1

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.board[:] = 0
        if self.np_random.random() < 0.5:
            self._oppose()
        return self._shown(), {}

    def step(
        self, action: np.int64
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        if self.board[action] != 0:
            raise RuntimeError(f"place {action} is taken")
        self.board[action] = 1
        won = self._won(1)
        if not won and (self.board == 0).any():
            self._oppose()
        lost = self._won(-1)
        over = won or lost or not (self.board == 0).any()
        return self._shown(), float(won) - float(lost), over, False, {}


class Giving(Knapsack):
    """Gives other masks from the third step of an episode on, or at the first reset.

    Args:
        mask: what it gives; "missing" gives none.
        at: the step.
    """

    def __init__(self, mask: Any, at: int = 2) -> None:
        super().__init__()
        self.given, self.at, self.time = mask, at, 0

    def _with(self, info: dict[str, Any]) -> dict[str, Any]:
        if self.time < self.at:
            return info
        missing = isinstance(self.given, str) and self.given == "missing"
        return {} if missing else {"action_mask": self.given}

    def mask(self) -> np.ndarray:
        return np.ones(ITEMS, bool)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self.time = 0
        seen, info = super().reset(**kwargs)
        return seen, self._with(info)

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        seen, reward, _, _, info = super().step(action)
        return seen * 0, reward, False, False, self._with(info)


class Bag(NamedTuple):
    weights: jax.Array
    values: jax.Array
    packed: jax.Array
    room: jax.Array


class JaxKnapsack:
    """`Knapsack` in JAX; the statistic counts invalid actions. It can be made to get stuck."""

    num_actions = ITEMS
    default_params = None
    episode_counts = ("wrong",)

    def __init__(self, stuck_at: int | None = None) -> None:
        self.stuck_at = stuck_at

    def observe(self, state: Bag) -> jax.Array:
        left = jnp.where(state.packed, 0, state.values)
        parts = [state.weights / LARGEST, left / LARGEST, state.room[None] / ROOM]
        return jnp.concatenate(parts).astype(jnp.float32)

    def _fits(self, state: Bag) -> jax.Array:
        return ~state.packed & (state.weights <= state.room)

    def action_mask(self, state: Bag) -> jax.Array:
        fits = self._fits(state)
        if self.stuck_at is None:
            return fits
        return fits & (jnp.sum(state.packed) < self.stuck_at)

    def reset_env(self, key: jax.Array, params: None) -> tuple[jax.Array, Bag]:
        del params
        weights, values = jax.random.randint(key, (2, ITEMS), 1, LARGEST + 1)
        state = Bag(weights, values, jnp.zeros(ITEMS, bool), jnp.int32(ROOM))
        return self.observe(state), state

    def step_env(self, key: jax.Array, state: Bag, action: jax.Array, params: None) -> Any:
        del key, params
        wrong = ~self._fits(state)[action]
        reward = jnp.where(wrong, 0, state.values[action]) / LARGEST
        room = state.room - jnp.where(wrong, 0, state.weights[action])
        packed = state.packed.at[action].set(True)
        state = Bag(state.weights, state.values, packed, room)
        over = ~jnp.any(self._fits(state))
        info = {"wrong": wrong.astype(jnp.float32)}
        return self.observe(state), state, reward, over, info


class NumbersForMasks(JaxKnapsack):
    """Gives a mask of numbers."""

    def action_mask(self, state: Bag) -> jax.Array:
        return self._fits(state).astype(jnp.float32)
