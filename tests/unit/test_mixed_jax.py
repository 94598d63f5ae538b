"""Observations of several parts from environments in JAX."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from tests.hosts import SMALL
from tests.jax_fetch import JaxFetch
from tests.runs import tiny
from tests.spaces import samples

import noisydqn
from noisydqn import UserError, load_policy
from noisydqn.envs.device import DeviceEnvironment
from noisydqn.envs.device_encoding import encode, space_of
from noisydqn.envs.encoding import Encoding
from noisydqn.envs.spaces import describe_space
from noisydqn.runs.messages import describe
from noisydqn.types import Mixed

ROBOT = spaces.Dict(
    {
        "arm": spaces.Dict(
            {
                "angles": spaces.Box(-np.inf, np.inf, (4,), np.float32),
                "camera": spaces.Box(0, 255, (3, 8, 9), np.uint8),
            }
        ),
        "bytes": spaces.Box(0, 255, (2, 2), np.uint8),
        "touch": spaces.Tuple(
            [spaces.Box(0, 1, (5,), cast(Any, bool)), spaces.Box(0, 255, (), np.uint8)]
        ),
    }
)


class Seen(NamedTuple):
    """What the fetcher sees, not in a dictionary."""

    camera: jax.Array
    wanted: jax.Array


class TupleFetch(JaxFetch):
    """Shows a named tuple and gives masks."""

    def _seen(self, balls: Any) -> Any:
        return Seen(**super()._seen(balls))

    def action_mask(self, balls: Any) -> jax.Array:
        """Allow both."""
        del balls
        return jnp.ones(2, bool)


class LosesItsCamera(JaxFetch):
    """Shows other parts after a step than after a reset."""

    def step_env(self, key: jax.Array, balls: Any, action: jax.Array, params: None) -> Any:
        seen, *rest = super().step_env(key, balls, action, params)
        return {"wanted": seen["wanted"]}, *rest


class GainsParts(JaxFetch):
    """Shows one array after a reset, and a dictionary after a step."""

    def reset_env(self, key: jax.Array, params: None) -> Any:
        seen, balls = super().reset_env(key, params)
        return seen["wanted"], balls


class ShrinksItsCamera(JaxFetch):
    """Shows a smaller picture after a step."""

    def step_env(self, key: jax.Array, balls: Any, action: jax.Array, params: None) -> Any:
        seen, *rest = super().step_env(key, balls, action, params)
        return {**seen, "camera": seen["camera"][:5]}, *rest


class ShowsAKey(JaxFetch):
    """Shows a random key, which is no number."""

    def reset_env(self, key: jax.Array, params: None) -> Any:
        seen, balls = super().reset_env(key, params)
        return {**seen, "wanted": key}, balls


class ShowsAList(JaxFetch):
    """Shows a list, which is neither dictionary nor tuple."""

    def _seen(self, balls: Any) -> Any:
        return list(super()._seen(balls).values())


@pytest.mark.parametrize("images", [("auto",), ("none",), ("arm.camera",)], ids=" ".join)
def test_parts_are_stored_as_those_of_gymnasium(images: tuple[str, ...]) -> None:
    some, batch = samples(ROBOT, 3)
    encoding = Encoding.of(space_of(some[0], "seen"), spaces.Discrete(2), None, images)
    twin = encoding.encode(batch)
    one_by_one = [jax.jit(partial(encode, encoding, name="seen"))(one) for one in some]
    stored = jax.tree.map(lambda *parts: np.stack(parts), *one_by_one)
    jax.tree.map(partial(np.testing.assert_array_equal, strict=True), stored, twin)


def test_spaces_are_read_from_shapes_and_types() -> None:
    seen = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, ROBOT.sample()))
    assert describe_space(space_of(seen, "seen")) == describe_space(ROBOT)
    numbers = space_of({"a": jnp.int32(3), "b": jnp.ones(2, jnp.bfloat16)}, "seen")
    whole = spaces.Box(-np.inf, np.inf, (), np.float32)
    assert numbers == spaces.Dict({"a": whole, "b": spaces.Box(-np.inf, np.inf, (2,), np.float32)})


def test_a_line_says_what_goes_where() -> None:
    env = DeviceEnvironment.create(JaxFetch())
    assert describe(SMALL.program, env.spec) == (
        "observations: camera [9, 12, 3], divided by 255, torso minatar; wanted vector (2,), flat; "
        "all joined"
    )
    one = DeviceEnvironment.create(JaxFetch(), images=("none",)).spec
    assert one.observation == jax.ShapeDtypeStruct((9 * 12 * 3 + 2,), np.float32)


def test_images_belong_to_the_key_of_programs() -> None:
    keys = {
        DeviceEnvironment.create(JaxFetch(), cache_key="fetch", images=(name,)).cache_key
        for name in ("auto", "none", "camera")
    }
    assert keys == {"fetch", "fetch, images none", "fetch, images camera"}


@pytest.mark.parametrize(
    ("env", "images", "message"),
    [
        (LosesItsCamera(), "auto", "the keys wanted, expected camera, wanted: every reset and"),
        (GainsParts(), "auto", "GainsParts is dict, expected one array as after a reset"),
        (ShrinksItsCamera(), "auto", r"has camera of shape \[5, 12, 3\], expected \[9, 12, 3\]"),
        (ShowsAKey(), "auto", r"ShowsAKey\['wanted'\] is key<fry>, expected an array of numbers"),
        (ShowsAList(), "auto", "is list, expected an array of numbers, or a dictionary or tuple"),
        (JaxFetch(), "camra", "--images camra is not a part .* out of camera, wanted"),
        (JaxFetch(), "wanted", "--images wanted names vector .*, expected a Box or MultiBinary"),
    ],
)
def test_what_does_not_fit_is_refused(env: Any, images: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _ = DeviceEnvironment.create(env, images=(images,)).spec


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"learner": "replay", "normalize_observations": "running", "frame_stack": 2},
        {"learner": "parallel", "num_envs": 4, "minibatches": 2},
        {"learner": "replay", "images": ("none",)},
    ],
    ids=str,
)
@pytest.mark.parametrize("env", [JaxFetch(), TupleFetch()], ids=["dict", "tuple"])
def test_runs_and_policies_take_parts(env: Any, options: Any, tmp_path: Path) -> None:
    result = noisydqn.train(env=env, **tiny(steps=300, **options), out=tmp_path / "run")
    assert result.seeds[0].summary["updates"] > 0
    policy = load_policy(tmp_path / "run")
    seen, _ = env.reset_env(jax.random.key(0), None)
    mask = np.ones(2, bool) if policy.spec.masked else None
    action, _ = policy.predict(jax.tree.map(np.asarray, seen), action_mask=mask)
    assert int(action) in (0, 1)
    assert isinstance(policy.spec.observation, Mixed) == ("images" not in options)
