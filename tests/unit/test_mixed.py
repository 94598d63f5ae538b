"""Observations of images and vectors: what is an image, how parts are stored, who reads them."""

import json
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import FilterObservation
from tests.exports import export
from tests.host_envs import Fetch, Mission, ShowingEnv, Symbols
from tests.hosts import SMALL, make
from tests.probes import run_host
from tests.runs import tiny
from tests.spaces import ACTIONS, samples

import noisydqn
from noisydqn import Config, UserError, load_policy
from noisydqn.envs.encoding import Encoding
from noisydqn.envs.images import find_images
from noisydqn.envs.spaces import describe_space
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.errors import ConfigError
from noisydqn.export import example_observations
from noisydqn.learner.agent import values
from noisydqn.learner.replay import Replay
from noisydqn.nets.torsos import MixedTorso
from noisydqn.play.policy import GreedyPolicy
from noisydqn.preprocessing import frames, moments
from noisydqn.runners import build
from noisydqn.runs.folder import RunFolder, check_spaces, with_stored_spaces
from noisydqn.runs.messages import describe
from noisydqn.types import Mixed, Row

RGB = spaces.Box(0, 255, (6, 5, 3), np.uint8)
ROBOT = spaces.Dict(
    {
        "arm": spaces.Dict(
            {"camera": spaces.Box(0, 255, (3, 8, 9), np.uint8), "angles": spaces.Box(-1, 1, (4,))}
        ),
        "mission": spaces.Text(9),
        "mode": spaces.Tuple([spaces.Discrete(3, start=1), spaces.MultiDiscrete([2, 3])]),
        "keys": spaces.MultiBinary(2),
        "bytes": spaces.Box(0, 255, (2,), np.uint8),
    }
)
SMALL_NETWORK = Config(env="python:tests", hidden=(8,))


def encoding(space: spaces.Space[Any], *images: str) -> Encoding:
    return Encoding.of(space, ACTIONS, None, images or ("auto",))


def spec(space: spaces.Space[Any], *images: str) -> EnvironmentSpec:
    return EnvironmentSpec.of(encoding(space, *images))


def slow_twin(shown: dict[str, Any]) -> Mixed:
    """One observation of `ROBOT`, as it is stored, written out by hand."""
    mode, pair = shown["mode"]
    one_hot = np.concatenate([np.eye(2)[pair[0]], np.eye(3)[pair[1]]])
    return Mixed(
        {"arm.camera": shown["arm"]["camera"].transpose(1, 2, 0)},
        {
            "arm.angles": shown["arm"]["angles"],
            "mode.0": np.eye(3)[mode - 1],
            "mode.1": one_hot,
            "keys": shown["keys"],
            "bytes": shown["bytes"] / np.float32(255),
        },
    )


def test_parts_are_stored_by_path_images_as_bytes_and_vectors_as_floats() -> None:
    of = encoding(ROBOT)
    one_by_one, shown = samples(ROBOT, 4)
    expected = [slow_twin(x) for x in one_by_one]
    for got in (of.encode(shown), of.read(shown)[0]):
        assert got.images.keys() == {"arm.camera"}
        for i, twin in enumerate(expected):
            jax.tree.map(np.testing.assert_allclose, jax.tree.map(lambda x, i=i: x[i], got), twin)
        stored = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), got)
        assert stored == of.stored
    assert of.stored.images["arm.camera"].dtype == np.uint8
    assert {str(x.dtype) for x in of.stored.vectors.values()} == {"float32"}
    single, is_single = of.read(one_by_one[1])
    assert is_single
    jax.tree.map(lambda x, twin: np.testing.assert_allclose(x[0], twin), single, expected[1])


def test_a_description_survives_json_and_older_ones_join_all_parts() -> None:
    of = encoding(ROBOT)
    again = Encoding.from_json(of.to_json())
    assert again == of
    assert again.stored == of.stored
    assert hash(EnvironmentSpec.of(again)) == hash(EnvironmentSpec.of(of))
    stored = json.loads(of.to_json())
    assert stored.pop("images") == [{"path": "arm.camera", "axes": [1, 2, 0]}]
    old = Encoding.from_json(json.dumps(stored).encode())
    assert old.stored == jax.ShapeDtypeStruct((216 + 4 + 3 + 5 + 2 + 2,), np.float32)


BYTES = partial(spaces.Box, 0, 255, dtype=np.uint8)


@pytest.mark.parametrize(
    ("part", "is_image"),
    [
        (BYTES(shape=(84, 84)), True),
        (BYTES(shape=(84, 84, 3)), True),
        (BYTES(shape=(3, 84, 84)), True),
        (BYTES(shape=(4, 84, 84, 3)), True),
        (BYTES(shape=(7, 7, 3)), True),
        (BYTES(shape=(2, 9, 9)), True),  # two frames
        (BYTES(shape=(9, 2, 2)), False),
        (BYTES(shape=(9,)), False),
        (BYTES(shape=(5, 6, 7, 8)), False),
        (spaces.Box(0, 254, (84, 84), np.uint8), False),
        (spaces.Box(0, 255, (84, 84), np.int16), False),
        (spaces.Box(0, 1, (84, 84, 3)), False),
        (spaces.Box(0, 1, (10, 10, 4), cast(Any, bool)), False),  # a board
        (spaces.Box(-1, 1, (60, 40)), False),  # stacked vectors
        (spaces.MultiBinary([8, 8]), False),
    ],
    ids=str,
)
def test_only_bytes_of_the_full_range_are_guessed_to_be_images(
    part: spaces.Space[Any], is_image: bool
) -> None:
    space = describe_space(spaces.Dict({"part": part, "speed": spaces.Box(0, 1, (2,))}))
    assert bool(find_images(space, ["auto"])) == is_image
    assert find_images(space, ["none"]) == ()


@pytest.mark.parametrize(
    ("part", "shape", "dtype"),
    [
        (spaces.Box(0, 1, (8, 8)), (8, 8), np.float32),
        (spaces.Box(0, 1, (3, 8, 8)), (8, 8, 3), np.float32),
        (spaces.Box(0, 10, (7, 7, 3), np.uint8), (7, 7, 3), np.float32),
        (spaces.Box(0, 1, (10, 10, 4), cast(Any, bool)), (10, 10, 4), np.bool_),
        (spaces.MultiBinary([8, 8, 2]), (8, 8, 2), np.float32),
    ],
    ids=str,
)
def test_users_declare_other_images(part: Any, shape: tuple[int, ...], dtype: Any) -> None:
    space = spaces.Tuple([part, spaces.Discrete(2)])
    of = spec(space, "0")
    assert of.observation.images == {"0": jax.ShapeDtypeStruct(shape, dtype)}
    (value, _), shown = samples(space, 2)
    stored = of.encoding.encode(shown).images["0"][0]
    turned = np.moveaxis(value[0], 0, -1) if shape == (8, 8, 3) else value[0]
    np.testing.assert_array_equal(stored, turned)
    policy = build.make_policy(SMALL_NETWORK.program, of, jax.random.key(0))
    assert isinstance(policy.network.torso, MixedTorso)
    assert "0 " in describe(SMALL_NETWORK.program, of)
    assert "torso minatar" in describe(SMALL_NETWORK.program, of)


@pytest.mark.parametrize(
    ("space", "images", "message"),
    [
        (ROBOT, ["camera"], r"--images camera is not a part .* auto, none, .*out of arm.angles"),
        (ROBOT, ["keys"], r"--images keys names MultiBinary \[2\], expected a Box or MultiBinary"),
        (ROBOT, ["arm.camera", "mission"], "--images mission names text, expected a Box"),
        (spaces.Tuple([BYTES(shape=(2, 9))]), ["0"], r"names image \(2, 9\), .* 3 x 3 or more"),
        (RGB, ["camera"], "--images camera names parts, but the observation is one array: leave"),
        (
            spaces.Dict({"a.b": RGB, "a": spaces.Dict({"b": RGB})}),
            ["auto"],
            "two parts of the observation have the path a.b: rename their keys, or .*--images none",
        ),
    ],
)
def test_images_that_are_refused(space: Any, images: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        encoding(space, *images)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("images", [(), ("auto", "camera"), ("none", "auto")])
def test_words_and_keys_exclude_each_other(images: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="--images must be auto, none, or the keys of all images"):
        Config(images=images)


@pytest.mark.parametrize(
    "images",
    [
        [{"path": "speed"}],
        [{"path": "other"}],
        [{"path": "arm.camera", "axes": [0, 1]}],
        [{"path": "arm.camera", "axes": [0, 1, 1]}],
        [{"path": "arm.angles", "axes": [0]}],
        [{"path": "mission"}],
        [{"path": "arm.camera", "more": 1}],
    ],
    ids=str,
)
def test_images_from_files_are_checked(images: list[dict[str, Any]]) -> None:
    stored = json.loads(encoding(ROBOT).to_json())
    with pytest.raises(ValueError, match=r"."):
        Encoding.from_json(json.dumps({**stored, "images": images}).encode())


# Frames, statistics and torsos


def test_frames_are_stacked_of_images_alone() -> None:
    rng = np.random.default_rng(0)
    shown = [
        Mixed(
            {"a": jnp.asarray(rng.integers(0, 256, (2, 4, 5), np.uint8))},
            {"b": jnp.asarray(rng.normal(size=(2, 3)), jnp.float32)},
        )
        for _ in range(4)
    ]
    stack = frames.start(shown[0], 3)
    never, second = jnp.zeros(2, bool), jnp.array([False, True])
    for newest, started in zip(shown[1:], (never, never, second), strict=True):
        stack = frames.push(stack, newest, started, 3)
    assert isinstance(stack, Mixed)
    np.testing.assert_array_equal(stack.vectors["b"], shown[3].vectors["b"])
    of_first = [x.images["a"][0] for x in shown[1:]]
    np.testing.assert_array_equal(stack.images["a"][0], np.stack(of_first))
    np.testing.assert_array_equal(stack.images["a"][1], np.stack([shown[3].images["a"][1]] * 3))


def test_the_replay_buffer_assembles_what_acting_sees() -> None:
    """The twin is the stack that was acted on, step by step."""
    replay = Replay(40, 1, 1, 0.9, prioritized=False, priority_offset=0.0, frames=3)
    rng = np.random.default_rng(0)

    def row(last: bool) -> Row:
        image = jnp.asarray(rng.integers(0, 256, (1, 4, 5), np.uint8))
        seen = Mixed({"a": image}, {"b": jnp.asarray(rng.normal(size=(1, 2)), jnp.float32)})
        false = jnp.zeros(1, bool)
        return Row(seen, jnp.zeros(1, jnp.int32), jnp.zeros(1), false, jnp.full(1, last))

    rows = [row(last=i in (4, 5, 11)) for i in range(15)]
    state = replay.init(jax.tree.map(lambda x: x[0], rows[0]))
    assert state.rows.observation.images["a"].dtype == jnp.uint8
    stack, started = frames.start(rows[0].observation, 3), jnp.ones(1, bool)
    expected: list[Any] = []
    for each in rows:
        stack = frames.push(stack, each.observation, started, 3)
        expected.append(stack)
        started = each.last
        state = replay.add(state, each, jnp.float32(1))
    slots = jnp.arange(len(rows), dtype=jnp.int32)
    got = replay.seen(state.rows, slots, jnp.zeros_like(slots))
    twin = jax.tree.map(lambda *x: jnp.concatenate(x), *expected)
    jax.tree.map(np.testing.assert_array_equal, got, twin)


def test_statistics_are_of_vectors_and_images_are_divided_by_255() -> None:
    of = spec(ROBOT)
    config = SMALL_NETWORK.replace(normalize_observations="running", observation_clip=None)
    policy = build.make_policy(config.program, of, jax.random.key(0))
    _, shown = samples(ROBOT, 50)
    seen = jax.tree.map(jnp.asarray, of.encoding.encode(shown))
    running = moments.update(moments.init(of.observation), seen)
    assert isinstance(running, dict)
    assert running.keys() == of.observation.vectors.keys()
    policy = policy.__class__(policy.network, moments.rounded(running), None, 1)
    out = policy.preprocess(seen)
    np.testing.assert_allclose(out.images["arm.camera"], seen.images["arm.camera"] / 255, rtol=1e-6)
    angles = np.asarray(seen.vectors["arm.angles"])
    expected = (angles - angles.mean(0)) / angles.std(0)
    np.testing.assert_allclose(out.vectors["arm.angles"], expected, atol=1e-4)


def test_each_part_has_a_torso_and_their_features_are_joined() -> None:
    config = SMALL_NETWORK.replace(vector_widths=(7, 5), layer_norm=True, frame_stack=2)
    of = spec(ROBOT)
    network = build.make_policy(config.program, of, jax.random.key(0)).network
    torso: Any = network.torso
    assert {path: type(x).__name__ for path, x in torso.vectors.items()} == dict.fromkeys(
        of.observation.vectors, "MLPTorso"
    )
    assert torso.images["arm.camera"].convs[0].kernel.shape[2] == 6  # two frames of three colors
    conv = torso.images["arm.camera"].out_features
    assert torso.out_features == conv + 5 * 5
    image = jax.random.uniform(jax.random.key(1), (3, 8, 9, 6))
    vectors = {path: jnp.ones((3, *x.shape)) for path, x in of.observation.vectors.items()}
    seen = Mixed({"arm.camera": image}, vectors)
    slow = [
        jnp.concatenate(
            [
                torso.images["arm.camera"](image[i]),
                *(torso.vectors[path](vectors[path][i]) for path in sorted(vectors)),
            ]
        )
        for i in range(3)
    ]
    q = values(network, seen, None)
    expected = [network.values(x, None) for x in slow]
    np.testing.assert_allclose(q, np.stack(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "space", "message"),
    [
        ({"torso": "nature"}, ROBOT, r"needs images of 36 x 36 or more, but image arm.camera is"),
        ({"vector_widths": (8,)}, RGB, "--vector-widths 8 belongs to observations of images and"),
    ],
)
def test_networks_that_do_not_fit(options: dict[str, Any], space: Any, message: str) -> None:
    config = SMALL_NETWORK.replace(**options)
    with pytest.raises(UserError, match=message):
        build.make_policy(config.program, spec(space), jax.random.key(0))


def test_a_line_says_what_goes_where() -> None:
    config = SMALL_NETWORK.replace(frame_stack=2, normalize_observations="running")
    assert describe(config.program, spec(ROBOT)) == (
        "observations: arm.camera [8, 9, 3], divided by 255, 2 frames together, torso minatar; "
        "arm.angles vector (4,), normalized, flat; bytes vector (2,), divided by 255, normalized, "
        "flat; keys MultiBinary [2], normalized, flat; mode.0 Discrete(3), one-hot, normalized, "
        "flat; mode.1 MultiDiscrete [2, 3], one-hot, normalized, flat; all joined; mission left "
        "out, as text is not encoded"
    )
    config = SMALL_NETWORK.replace(vector_widths=(16, 8), torso="impala")
    assert describe(config.program, EnvironmentSpec.of(make(Symbols).spec.encoding)) == (
        "observations: image [7, 7, 3], divided by 255, torso impala; direction Discrete(4), "
        "one-hot, mlp 16 8; all joined; mission left out, as text is not encoded"
    )
    plain = spec(spaces.Dict({"a": spaces.Box(0, 1, (3,)), "mission": Mission()}))
    assert describe(SMALL_NETWORK.program, plain) == (
        "observations: vector (3,) -> flattened to 3 numbers; torso flat; mission left out, as "
        "text is not encoded"
    )


# Runs


def test_text_is_left_out_in_every_vector() -> None:
    env = make(Symbols)
    assert env.spec.encoding.ignored == ("mission",)
    shown, _ = Symbols().reset(seed=0)
    policy = GreedyPolicy(build.make_policy(SMALL.program, env.spec, jax.random.key(0)), env.spec)
    assert policy(shown) in (0, 1, 2)
    with pytest.raises(UserError, match="has the keys direction, image, expected direction, image"):
        policy({key: shown[key] for key in ("direction", "image")})
    fixed, workers = env.vector(2), make(Symbols, vectorization="subprocess")
    vector = workers.vector(2, processes=True)
    try:
        assert jax.tree.map(np.shape, vector.reset(1).observation) == jax.tree.map(
            np.shape, fixed.reset(1).observation
        )
        one, other = (x.step(np.array([0, 1])).observation for x in (vector, fixed))
        jax.tree.map(np.testing.assert_array_equal, one, other)
    finally:
        vector.close()


def test_the_image_is_the_video_where_nothing_is_rendered() -> None:
    env = make(Fetch)
    assert env.video_problem is None
    vector = env.vector(1)
    time_step = vector.reset(0)
    seen: Any = time_step.observation
    np.testing.assert_array_equal(vector.picture(time_step), seen.images["camera"][0])
    assert make(Fetch, images=("none",)).frame_rate is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"normalize_observations": "running", "frame_stack": 2},
        {"vector_widths": (6,), "distribution": "quantile", "quantiles": 4},
        {"noise": "indexed", "index_dim": 3, "prior_scale": 1.0},
    ],
    ids=str,
)
def test_options_that_read_observations_take_both_parts(options: dict[str, Any]) -> None:
    config = SMALL.replace(steps=60, hidden=(8,), **options)
    (*_, chunk) = run_host(config, make(Fetch), jax.random.key(0))
    assert chunk.seeds[0].updates > 0
    torso: Any = chunk.policy(0).network.torso
    assert (torso.images.keys(), torso.vectors.keys()) == ({"camera"}, {"wanted"})


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["onnx", "torch", "safetensors"])
def test_exports_have_an_input_for_each_part(file_format: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime" if file_format == "onnx" else "numpy")
    config = SMALL_NETWORK.replace(
        frame_stack=2, normalize_observations="running", vector_widths=(5,), layer_norm=True
    )
    of = spec(ROBOT)
    file, policy = export(tmp_path, (config, of), file_format)
    seen = example_observations(policy, of, 30)
    expected = values(policy.network, policy.preprocess(jax.tree.map(jnp.asarray, seen)), None)
    if file_format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        names = {x.name for x in session.get_inputs()}
        assert names == {f"observation.{path}" for path in of.encoding.paths}
        by_name = {f"observation.{k}": x for k, x in {**seen.images, **seen.vectors}.items()}
        ours, action = map(np.asarray, session.run(["values", "action"], by_name))
        np.testing.assert_array_equal(action, ours.argmax(-1) + 5)
    elif file_format == "torch":
        torch = pytest.importorskip("torch")
        given = {k: torch.from_numpy(x) for k, x in {**seen.images, **seen.vectors}.items()}
        ours = torch.export.load(file).module()(given).detach().numpy()
    else:
        one_by_one, shown = samples(ROBOT, 3)
        loaded, ours = load_policy(file), expected
        q = GreedyPolicy(policy, of).values(shown)
        np.testing.assert_allclose(loaded.values(shown), q, atol=1e-5)
        np.testing.assert_allclose(loaded.values(one_by_one[1]), q[1], atol=1e-5)
        action, state = loaded.predict(shown)
        again, state = loaded.predict(shown, state, np.zeros(3, bool))
        np.testing.assert_array_equal(action, again)
        with pytest.raises(UserError, match=r"state has shape .*: give what the last call"):
            loaded.predict(one_by_one[0], state)
        with pytest.raises(UserError, match="state is ndarray, which the policy did not return"):
            loaded.predict(shown, np.zeros(3))
    np.testing.assert_allclose(np.asarray(ours), expected, atol=1e-4)


def test_without_its_images_the_environment_is_one_vector() -> None:
    env = make(lambda: FilterObservation(Fetch(), ["wanted"]))
    assert env.spec.observation == jax.ShapeDtypeStruct((2,), np.float32)
    showing = make(lambda: ShowingEnv(ROBOT))
    assert showing.spec.observation == encoding(ROBOT).stored


@pytest.mark.slow
def test_minigrid_needs_no_wrapper() -> None:
    pytest.importorskip("minigrid")
    env = make("MiniGrid-Empty-5x5-v0")
    assert describe(SMALL.program, env.spec) == (
        "observations: image [7, 7, 3], divided by 255, torso minatar; direction Discrete(4), "
        "one-hot, flat; all joined; mission left out, as text is not encoded"
    )
    (*_, chunk) = run_host(SMALL.replace(steps=60, hidden=(8,)), env, jax.random.key(0))
    assert chunk.seeds[0].updates > 0


@pytest.mark.slow
def test_a_run_older_than_images_keeps_its_one_vector(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = tiny(steps=80, images=("none",), evaluation_every=0)
    noisydqn.train(env="tests.host_envs:noisydqn-tests/Fetch-v0", out=out, **options)
    for name, changes in {"config": {"images": ["auto"]}, "spaces": {"images": []}}.items():
        file = out / f"{name}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    noisydqn.evaluate(out, trust=True)
    shown, _ = Fetch().reset(seed=0)
    assert noisydqn.load_policy(out)(shown) in (0, 1)
    folder = RunFolder.at(out)
    as_before = with_stored_spaces(folder, make(Fetch))
    check_spaces(folder, as_before.spec)
    assert as_before.spec.observation == jax.ShapeDtypeStruct((9 * 12 * 3 + 2,), np.float32)
    other = make(lambda: ShowingEnv(ROBOT))
    assert with_stored_spaces(folder, other) is other
