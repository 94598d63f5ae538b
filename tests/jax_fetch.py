"""`Fetch` in JAX: an observation of two parts, and neither alone is enough."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Balls(NamedTuple):
    """Which color lies left, which is wanted, where both lie, and how many were fetched."""

    left: jax.Array
    wanted: jax.Array
    places: jax.Array
    fetched: jax.Array


class JaxFetch:
    """See `tests.host_envs.Fetch`; `parts` leaves out the others."""

    num_actions = 2
    default_params = None

    def __init__(self, *parts: str) -> None:
        self.parts = parts or ("camera", "wanted")

    def _seen(self, balls: Balls) -> dict[str, jax.Array]:
        camera = jnp.zeros((9, 12, 3), jnp.uint8)
        ball = jnp.full((3, 3, 1), 255, jnp.uint8)
        for side, color in enumerate((balls.left, 1 - balls.left)):
            y, x = balls.places[side] + jnp.array([0, 6 * side])
            camera = jax.lax.dynamic_update_slice(camera, ball, (y, x, 2 * color))
        seen = {"camera": camera, "wanted": jax.nn.one_hot(balls.wanted, 2)}
        return {name: seen[name] for name in self.parts}

    @staticmethod
    def _thrown(key: jax.Array, fetched: jax.Array) -> Balls:
        sides, places = jax.random.split(key)
        left, wanted = jax.random.randint(sides, (2,), 0, 2)
        places = jax.random.randint(places, (2, 2), 0, jnp.array([7, 4]))
        return Balls(left, wanted, places, fetched)

    def reset_env(self, key: jax.Array, params: None) -> tuple[dict[str, jax.Array], Balls]:
        """Throw the first two balls."""
        del params
        balls = self._thrown(key, jnp.int32(0))
        return self._seen(balls), balls

    def step_env(self, key: jax.Array, balls: Balls, action: jax.Array, params: None) -> Any:
        """Fetch one ball, and throw two more."""
        del params
        fetched = jnp.where(action == 0, balls.left, 1 - balls.left)
        reward = (fetched == balls.wanted).astype(jnp.float32)
        after = self._thrown(key, balls.fetched + 1)
        return self._seen(after), after, reward, after.fetched == 10, {}
