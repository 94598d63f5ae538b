"""What observations become: their encoding, and its description in JSON."""

import json
from typing import Any

import gymnasium
import jax
import msgspec
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from tests.host_envs import ShowingEnv
from tests.spaces import ACTIONS, BITS, IMAGE, MIXED, encoding, samples

from noisydqn import Config, UserError
from noisydqn.envs.backends import NativeBackend
from noisydqn.envs.encoding import Encoding
from noisydqn.envs.host import HostEnvironment
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.envs.vectors import HostVector

NESTED = spaces.Dict(
    {
        "z": spaces.Tuple([spaces.Discrete(3, start=-1), spaces.MultiBinary([2, 2])]),
        "a": spaces.MultiDiscrete(np.array([[2, 3], [4, 2]]), start=np.array([[0, 1], [-2, 0]])),
        "m": spaces.Dict(
            {"x": spaces.Box(-5, 5, (), np.float64), "i": spaces.Box(0, 9, (2,), np.int64)}
        ),
    }
)


def flat(space: spaces.Space[Any], value: Any) -> np.ndarray:
    """The slow twin: Gymnasium's own flattening, part by part, with bytes from 0 to 1."""
    if isinstance(space, spaces.Dict):
        return np.concatenate([flat(space[key], value[key]) for key in space.spaces])
    if isinstance(space, spaces.Tuple):
        return np.concatenate([flat(s, x) for s, x in zip(space.spaces, value, strict=True)])
    scale = np.float32(1 / 255 if space.dtype == np.uint8 else 1)
    return np.asarray(spaces.flatten(space, value), np.float32) * scale


@pytest.mark.parametrize(
    "space", [MIXED, NESTED, spaces.Discrete(4, start=2), spaces.MultiDiscrete([2, 3])], ids=str
)
def test_parts_are_joined_as_gymnasium_flattens_them(space: spaces.Space[Any]) -> None:
    of = encoding(space)
    one_by_one, shown = samples(space, 5)
    expected = np.stack([flat(space, x) for x in one_by_one])
    for got in (of.encode(shown), of.read(shown)[0]):
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == of.dtype == np.float32
    assert of.read(shown)[1] is False
    single, is_single = of.read(one_by_one[2])
    assert is_single
    np.testing.assert_array_equal(single, expected[2:3])


@pytest.mark.parametrize("space", [IMAGE, BITS, MIXED, NESTED, spaces.Box(0, np.inf, ())], ids=str)
def test_a_description_survives_json(space: spaces.Space[Any]) -> None:
    of = encoding(space)
    again = Encoding.from_json(of.to_json())
    assert again == of
    assert hash(again) == hash(of)
    assert (again.shape, again.dtype, again.axes) == (of.shape, of.dtype, of.axes)
    _, shown = samples(space, 3)
    np.testing.assert_array_equal(again.encode(shown), of.encode(shown))


@pytest.mark.parametrize(
    ("shape", "dtype", "stored", "turned"),
    [
        ((84, 84, 3), np.uint8, (84, 84, 3), False),
        ((3, 84, 84), np.uint8, (84, 84, 3), True),
        ((4, 84, 84), np.uint8, (84, 84, 4), True),  # stacked by the environment
        ((12, 60, 80), np.uint8, (60, 80, 12), True),
        ((4, 84, 84, 3), np.uint8, (84, 84, 12), True),
        ((4, 3, 84, 84), np.uint8, (84, 84, 12), True),
        ((4, 84, 84), np.float32, (84, 84, 4), True),  # no board is so large
        ((7, 7, 20), np.float32, (7, 7, 20), False),
        ((9, 9, 17), np.uint8, (9, 9, 17), False),
        ((7, 7, 20), np.int8, (7, 7, 20), False),
        ((3, 8, 8), np.float32, (3, 8, 8), False),
        ((10, 10, 12), bool, (10, 10, 12), False),
        ((17, 9, 9), np.uint8, (17, 9, 9), False),
        ((5, 40, 50), np.float32, (40, 50, 5), True),
        ((37, 40, 50), np.float32, (37, 40, 50), False),
    ],
)
def test_only_unmistakable_images_have_their_channels_moved(
    shape: tuple[int, ...], dtype: Any, stored: tuple[int, ...], turned: bool
) -> None:
    space = spaces.Box(0, 255 if dtype == np.uint8 else 1, shape, dtype)
    of = encoding(space)
    assert of.shape == stored
    assert bool(of.axes) == turned
    value = space.sample()
    got = of.encode(value[None])[0]
    expected = value
    if turned:  # the picture at some channel of some frame
        expected = np.moveaxis(value, int(np.argmin(value.shape[-3:])) + value.ndim - 3, -1)
        expected = np.moveaxis(expected, 0, 2).reshape(stored) if value.ndim == 4 else expected
    np.testing.assert_array_equal(got, expected)


def test_environments_in_jax_are_described_as_they_are_stored() -> None:
    seen = jax.ShapeDtypeStruct((3, 20, 20), np.uint8)
    of = EnvironmentSpec(seen, 2, ("left", "right"))
    again = EnvironmentSpec.of(Encoding.from_json(of.encoding.to_json()))
    assert again.observation == seen
    assert again.encoding.axes == ()
    assert again.action_names == ("left", "right")


def test_actions_are_the_environments_own() -> None:
    of = encoding(IMAGE)
    assert of.decode_actions(np.array([0, 2])).tolist() == [5, 7]
    assert of.action_names == ("5", "6", "7")
    assert Encoding.of(IMAGE, ACTIONS, ["a", "b", "c"]).action_names == ("a", "b", "c")


class Seeded(ShowingEnv):
    """Shows samples that follow from the seed of the episode."""

    def __init__(self) -> None:
        image = spaces.Box(0, 255, (6, 5, 3), np.uint8)  # of its own, as spaces hold a generator
        super().__init__(spaces.Dict({"a": image, "b": spaces.Tuple([spaces.Discrete(3)])}))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.observation_space.seed(seed)
        return super().reset(seed=seed, options=options)


def test_an_environment_that_shows_parts_is_played_again() -> None:
    env = HostEnvironment.create(Config(env="python:tests").environment, Seeded)
    played, restored = env.vector(2), env.vector(2)
    for vector in (played, restored):
        vector.remember()
        vector.reset(3)
    actions = np.array([0, 1])
    newest = [played.step(actions) for _ in range(6)][-1]
    assert not restored.restore(played.history, newest).any()
    jax.tree.map(
        np.testing.assert_array_equal,
        restored.step(actions).observation,
        played.step(actions).observation,
    )
    wrong: Any = newest.observation
    wrong.images["a"][1, 0, 0, 0] ^= 1
    again = env.vector(2)
    again.remember()
    again.reset(3)
    assert again.restore(played.history, newest).any()


def test_parts_of_a_native_vector_are_checked_as_they_are_stored() -> None:
    vector = HostVector(NativeBackend(SyncVectorEnv([Seeded] * 2)), images=("none",))
    vector.reset(0)
    assert vector.step(np.array([0, 1])).observation.shape == (2, 93)


class Unknown(gymnasium.Space[int]):
    pass


@pytest.mark.parametrize(
    ("space", "actions", "message"),
    [
        (Unknown(), ACTIONS, "is not supported: expected Box, Discrete"),
        (
            spaces.Dict({"a": spaces.Tuple([Unknown()])}),
            ACTIONS,
            r"the space .*Unknown.* of observation\['a'\]\[0\] is not supported: .*leaves this",
        ),
        (spaces.Dict({"a": spaces.Text(3)}), ACTIONS, "holds 0 numbers beside text, which is left"),
        (spaces.Box(0, 1, (0,)), ACTIONS, "holds 0 numbers, expected 1"),
        (spaces.Discrete(10**9), ACTIONS, "holds 1,000,000,000 numbers"),
        (IMAGE, spaces.Discrete(10**6), "too many actions"),
        (IMAGE, spaces.Text(2), "is Text, expected Discrete"),
    ],
)
def test_spaces_that_are_refused(space: Any, actions: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        Encoding.of(space, actions)
    assert "\n" not in str(error.value)


def damaged(**changes: Any) -> bytes:
    stored = json.loads(encoding(spaces.Box(0, 1, (2, 3, 4))).to_json())
    return json.dumps({**stored, **changes}).encode()


BOX = {"kind": "Box", "shape": [2], "dtype": "float32"}


@pytest.mark.parametrize(
    "data",
    [
        b"nothing",
        b"[" * 100_000,
        b" " * 2**23,
        b'{"observation":' + b'{"kind":"Tuple","spaces":[' * 50_000,
        damaged(version=2),
        damaged(more=1),
        damaged(axes=[0, 1]),
        damaged(axes=[0, 1, 1]),
        damaged(action_names=["a"]),
        damaged(actions={"kind": "Discrete", "n": 0}),
        damaged(actions={"kind": "Discrete", "n": 2**20}, action_names=[]),
        damaged(observation={**BOX, "shape": [-1]}),
        damaged(observation={**BOX, "shape": [2**28, 2**28]}),
        damaged(observation={**BOX, "shape": [1] * 9}),
        damaged(observation={**BOX, "dtype": "object"}),
        damaged(observation={**BOX, "kind": "Sequence"}),
        damaged(observation={"kind": "MultiDiscrete", "nvec": [2], "start": [], "shape": [1]}),
        damaged(observation={"kind": "Dict", "keys": ["a", "a"], "spaces": [BOX, BOX]}),
    ],
    ids=lambda data: str(data[:60]),
)
def test_descriptions_from_files_are_checked(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        Encoding.from_json(data)
    assert "\n" not in str(error.value)
    assert isinstance(error.value, msgspec.ValidationError | msgspec.DecodeError | ValueError)


@pytest.mark.parametrize(
    ("space", "observation", "message"),
    [
        (
            spaces.Box(-1, 1, (8,)),
            np.zeros(7),
            r"is float64 \[7\], expected finite float32 \[8\] or",
        ),
        (spaces.Box(-1, 1, (8,)), np.zeros((1, 1, 8)), r"is float64 \[1, 1, 8\], expected"),
        (spaces.Box(-1, 1, (8,)), "left", "expected finite float32"),
        (spaces.Box(-1, 1, (2,)), [[1, 2], [1]], "cannot become an array"),
        (
            spaces.Box(-1, 1, (2,)),
            [0.0, np.nan],
            r"observation\[1\] is nan, expected finite",
        ),
        (spaces.Box(-1, 1, (2,)), [1e300, 0.0], r"observation\[0\] is 1e\+300"),
        (IMAGE, np.zeros((6, 5, 3)), r"is float64 \[6, 5, 3\], expected uint8 \[6, 5, 3\]"),
        (IMAGE, np.zeros((3, 6, 5), np.uint8), r"is uint8 \[3, 6, 5\], expected"),
        (BITS, np.zeros((10, 10, 4)), "expected bool"),
        (spaces.Discrete(4), 4, "observation is 4, expected an integer from 0 to 3"),
        (spaces.Discrete(4), -1, "observation is -1, expected an integer from 0 to 3"),
        (spaces.Discrete(4), 1.0, "is float64 .*, expected an integer from 0 to 3"),
        (spaces.MultiDiscrete([2, 3]), np.array([0, 3]), r"observation\[1\] is 3"),
        (spaces.MultiBinary(2), np.array([0, 2]), r"observation\[1\] is 2, expected zeros"),
        (MIXED, np.zeros(4), "is ndarray, expected a dictionary of image, speed"),
        (MIXED, {"image": 0}, "has the keys image, expected image, speed"),
        (
            MIXED,
            {"image": np.zeros((2, 6, 5, 3), np.uint8), "speed": np.zeros((3, 4))},
            r"batches of different sizes \(\[2\] and \[3\]\)",
        ),
        (spaces.Tuple([spaces.Discrete(3)] * 2), [0, 1], "is list, expected a tuple of 2"),
        (spaces.Tuple([spaces.Discrete(3)] * 2), (0, 3), r"observation\[1\] is 3"),
    ],
)
def test_observations_that_do_not_fit(space: Any, observation: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        encoding(space).read(observation)
    assert "\n" not in str(error.value)
