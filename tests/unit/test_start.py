"""Runs that start from another run: weights, statistics, replay buffers, and what is refused."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from tests.commands import refused
from tests.runs import flags, results, tiny, train_until

import noisydqn
from noisydqn import UserError
from noisydqn.checkpoint import rows as ring
from noisydqn.cli import main
from noisydqn.envs.encoding import Encoding
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.learner.replay import Replay
from noisydqn.preprocessing import normalize
from noisydqn.runners import host
from noisydqn.runs import api
from noisydqn.runs.folder import RunFolder
from noisydqn.runs.source import Interface, differences, lacking
from noisydqn.runs.start import read_record
from noisydqn.trees import named
from noisydqn.types import Row

HOST: dict[str, Any] = {"env": "CartPole-v1", "normalize_observations": "running"}
DEVICE: dict[str, Any] = {
    "env": "noisydqn/DeepSea-v0",
    "env_kwargs": '{"size": 4}',
    "torso": "flat",
    "normalize_rewards": True,
}
KINDS: dict[str, dict[str, Any]] = {
    "host": HOST,
    "device": DEVICE,
    "parallel on the host": HOST | {"learner": "parallel"},
    "parallel on the device": DEVICE | {"learner": "parallel"},
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of two seeds of each kind, made when it is first asked for."""
    root = tmp_path_factory.mktemp("sources")

    class Sources(dict[str, Path]):
        def __missing__(self, name: str) -> Path:
            noisydqn.train(**tiny(**KINDS[name], num_seeds=2), out=root / name)
            self[name] = root / name
            return self[name]

    return Sources()


def first_weights(**options: Any) -> list[dict[str, np.ndarray]]:
    """Start a run with a learning rate of nearly nothing; return each seed's weights."""
    result = noisydqn.train(**options, learning_rate=1e-30, steps=40)
    folders = [RunFolder.at(seed.folder) for seed in result.seeds]
    return [_arrays(folder.path, "final") for folder in folders]


def _arrays(folder: Path, which: str) -> dict[str, np.ndarray]:
    policy = noisydqn.load_policy(folder, which)
    return {name: np.asarray(x) for name, x in named(policy.policy.network).items()}


# What a run starts from


@pytest.mark.slow
def test_every_seed_starts_from_its_weights(
    kind: str, sources: dict[str, Path], tmp_path: Path
) -> None:
    source = sources[kind]
    for which in ("best", "final"):
        found = first_weights(
            start_from=source,
            from_weights=which,
            out=tmp_path / which,
            quiet=True,
        )
        for seed, arrays in enumerate(found):
            expected = _arrays(source / f"seed{seed}", which)
            for name, x in expected.items():
                np.testing.assert_allclose(arrays[name], x, rtol=1e-6, err_msg=name)


@pytest.fixture
def small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ring, "BLOCK_BYTES", 200)
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("small_blocks")
def test_a_stopped_run_ends_like_one_that_was_not(
    kind: str, sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its first checkpoint or after it, and without the folder that it started from.

    Its replay buffer is stored in many blocks, of which most hold only what it started with.
    """
    source = Path(shutil.copytree(sources[kind], tmp_path / "source"))
    options: dict[str, Any] = {
        "start_from": source,
        "checkpoint_seconds": 1e-6,
        "quiet": True,
        "steps": 240,
    }
    if "parallel" not in kind:
        options |= {"from_replay": True, "replay_capacity": 400}
    for name in ("whole", "early", "late"):
        if name == "whole":
            noisydqn.train(**options, out=tmp_path / name)
        else:
            chunks = 1 if name == "early" else 3
            train_until(chunks, monkeypatch, **options, out=tmp_path / name)
    shutil.rmtree(source)
    (tmp_path / "early").rename(tmp_path / "moved")  # nothing in it depends on its path
    for name in ("moved", "late"):
        noisydqn.resume(tmp_path / name, quiet=True)
        for seed in ("seed0", "seed1"):
            assert results(tmp_path / name / seed) == results(tmp_path / "whole" / seed)
    noisydqn.resume(tmp_path / "late", restart=True, quiet=True)
    assert results(tmp_path / "late" / "seed0") == results(tmp_path / "whole" / "seed0")


@pytest.mark.slow
def test_the_folder_and_the_summary_say_where_a_run_started(
    sources: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = sources["host"], tmp_path / "new"
    config = json.loads((source / "seed1" / "config.json").read_text())
    argv = ["train", "--from", str(source / "seed1"), "--from-replay", "--out", str(out)]
    assert main([*argv, "--learning-rate", "1e-4", "--steps", "80"]) == 0
    told = "the best weights of host/seed1 (480 steps) and 50 rows of its replay buffer"
    assert f"starts from {told}; the optimizer starts anew" in capsys.readouterr().out
    now = json.loads((out / "config.json").read_text())
    assert now == config | {"learning_rate": 1e-4, "steps": 80}  # its options, but for the given
    summary = json.loads((out / "summary.json").read_text())
    assert summary["started_from"] == told
    record = read_record(RunFolder.at(out))
    assert record is not None
    assert summary["started_from_sha256"] == record.sha256
    assert str(source) not in "".join(
        path.read_text(errors="replace") for path in out.rglob("*") if path.is_file()
    )
    (line,) = [x for x in (out / "report.html").read_text().splitlines() if "started from" in x]
    assert "host/seed1" in line


def test_statistics_continue() -> None:
    values = jax.random.normal(jax.random.key(0), (100, 3)) * 5 + 100
    before = normalize.update(normalize.init((3,)), values[:60])
    whole = normalize.update(before, values[60:]).rounded
    continued = normalize.update(normalize.resumed(before.rounded), values[60:]).rounded
    for one, other in zip(whole, continued, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    many = normalize.Moments(jnp.float32(2.0**40), jnp.ones(3), jnp.full(3, 2.0**41))
    resumed = normalize.resumed(many)
    assert int(resumed.seen) == normalize.MAX_RESUMED
    np.testing.assert_allclose(resumed.rounded.variance, many.variance)
    nothing = normalize.resumed(normalize.init((3,)).rounded)
    np.testing.assert_array_equal(nothing.rounded.squares, 0)


def test_rows_that_are_added_together_are_those_added_one_by_one() -> None:
    replay = Replay(12, 2, n_step=2, discount=0.9, prioritized=True, priority_offset=1e-4)
    rng = np.random.default_rng(0)
    rows = Row(
        observation=jnp.asarray(rng.normal(size=(9, 2, 3)), jnp.float32),
        action=jnp.asarray(rng.integers(0, 2, (9, 2)), jnp.int32),
        reward=jnp.asarray(rng.normal(size=(9, 2)), jnp.float32),
        terminated=jnp.zeros((9, 2), jnp.bool_),
        last=jnp.asarray(rng.random((9, 2)) < 0.3),
    )
    start = replay.init(jax.tree.map(lambda x: x[0, 0], rows))
    slow = start
    for i in range(9):
        slow = replay.add(slow, jax.tree.map(lambda x, i=i: x[i], rows), jnp.float32(1))
    fast = replay.extend(start, rows)
    jax.tree.map(np.testing.assert_array_equal, fast, slow)


@pytest.mark.slow
def test_a_replay_buffer_keeps_its_rows_and_its_newest_episode_ends(
    sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a smaller buffer, which keeps the newest."""
    source, begun = sources["host"] / "seed0", list[Any]()
    run = host.run

    def watched(*args: Any, begin: Any, **kwargs: Any) -> Any:
        def watch(state: Any) -> Any:
            state = begin.change(state)
            begun.append(jax.tree.map(np.array, state.replay))  # before it is donated
            return state

        return run(*args, begin=begin._replace(change=watch), **kwargs)

    monkeypatch.setattr(host, "run", watched)
    for capacity in (100, 60, 400):
        noisydqn.train(
            start_from=source,
            from_replay=True,
            replay_capacity=capacity,
            out=tmp_path / str(capacity),
            steps=2,
            quiet=True,
        )
    whole, small, large = begun
    assert int(large.position) == 50  # all rows of the source's buffer
    assert large.rows.last[49].all()
    np.testing.assert_array_equal(whole.rows.observation, large.rows.observation[:50])
    slots = small.rows.last.shape[0]
    order = (int(small.position) + np.arange(slots)) % slots
    np.testing.assert_array_equal(
        small.rows.observation[order], large.rows.observation[50 - slots : 50]
    )


# What is refused


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden": (16,)}, "hidden layer 1: 8x4 there, 16x4 here"),
        ({"hidden": (8, 8)}, "hidden layer 2: only here"),
        ({"dueling": False}, "--dueling on there, off here"),
        ({"dueling_hidden": (8,)}, "hidden layer 1 of the advantage stream: only here"),
        ({"layer_norm": True}, "normalization 1: only here"),
        ({"torso": "mlp"}, "torso flat there, mlp here"),
        ({"noise_in": "head"}, "hidden layer 1: noisy there, plain here"),
        ({"exploration": "epsilon-greedy"}, "hidden layer 1: noisy there, plain here"),
        ({"distribution": "quantile"}, "--distribution expected there, quantile here"),
        ({"frame_stack": 2}, "--frame-stack 1 there, 2 here"),
        ({"normalize_observations": "scale"}, "normalization of observations on there, off here"),
        (
            {"env": "Acrobot-v1"},
            "[4] of float32 there, [6] of float32 here; actions 2 there, 3",
        ),
        ({"num_envs": 4, "from_replay": True}, "--num-envs 2 there, 4 here, and a replay buffer"),
        (
            {
                "from_replay": True,
                "noise": "indexed",
                "noise_in": "all",
                "target_perturbation": 0.1,
            },
            "--target-perturbation 0 there",
        ),
        ({"num_seeds": 3}, "holds 2 runs, and --num-seeds is 3"),
        ({"start_from": "nowhere"}, "nowhere"),
        ({"from_weights": "worst"}, "--from-weights must be one of best, final"),
    ],
)
def test_what_does_not_fit_is_named(
    changes: dict[str, Any], words: str, sources: dict[str, Path], tmp_path: Path
) -> None:
    given: dict[str, Any] = {"start_from": sources["host"]} | changes
    with pytest.raises(UserError) as error:
        noisydqn.train(**given, out=tmp_path / "new", quiet=True)
    assert words in str(error.value)
    assert not (tmp_path / "new").exists()


def test_images_beside_vectors_are_compared() -> None:
    """Part by part, and with what the replay buffer would lack."""
    config = noisydqn.Config(env="CartPole-v1", hidden=(8,), replay_capacity=100, num_envs=2)

    def interface(width: int, **changes: Any) -> Interface:
        eye = spaces.Box(0, 255, (16, 16, 3), np.uint8)
        seen = spaces.Dict({"eye": eye, "speed": spaces.Box(-1, 1, (width,))})
        encoding = Encoding.of(seen, spaces.Discrete(2), images=("auto",))
        spec = EnvironmentSpec.of(encoding)
        return Interface(config.replace(**changes), dataclasses.replace(spec, masked=width == 5))

    there = interface(4)
    assert list(differences(there, interface(4))) == []
    (told,) = differences(there, interface(5))
    assert "vectors.speed [4] of float32" in told
    assert "vectors.speed [5] of float32 here" in told
    wide = differences(there, interface(4, vector_widths=(7,)))
    assert any("speed" in line and line.endswith("only here") for line in wide)
    assert list(lacking(there, interface(5))) == ["action masks only here"]
    assert list(lacking(interface(5), there)) == []


@pytest.mark.slow
def test_a_parallel_learner_has_no_replay_buffer(sources: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no replay buffer there: --learner parallel"):
        noisydqn.train(
            start_from=sources["parallel on the host"], from_replay=True, out=tmp_path / "new"
        )


def test_flags_without_a_run_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--from-replay needs --from" in refused(capsys, "train", "cartpole", "--from-replay")
    line = refused(capsys, "train", "cartpole", "--from-weights", "final")
    assert "--from-weights final needs --from" in line
    assert "--from needs a value" in refused(capsys, "train", "--from")


@pytest.mark.slow
def test_what_is_missing_or_spoiled_is_refused(sources: dict[str, Path], tmp_path: Path) -> None:
    source = Path(shutil.copytree(sources["host"] / "seed0", tmp_path / "source"))

    def start(**options: Any) -> str:
        with pytest.raises(UserError) as error:
            noisydqn.train(start_from=source, out=tmp_path / "new", quiet=True, **options)
        assert not (tmp_path / "new").exists()
        return str(error.value)

    weights = (source / "best.safetensors").read_bytes()
    (source / "best.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert "damaged" in start()
    (source / "best.safetensors").unlink()
    assert "holds no best.safetensors" in start()
    (source / "best.safetensors").write_bytes(weights)
    shutil.rmtree(source / "checkpoints")
    assert "holds no checkpoint, so no replay buffer" in start(from_replay=True)
    shutil.copytree(sources["host"] / "seed0" / "checkpoints", source / "checkpoints")
    for path in (source / "checkpoints").glob("rows*"):
        path.write_bytes(b"x" + path.read_bytes()[1:])
    assert "holds no whole checkpoint" in start(from_replay=True)


@pytest.mark.slow
def test_weights_that_are_not_finite_are_refused(
    sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("noisydqn.runs.source.problem_of", lambda _: "x is not finite")
    with pytest.raises(UserError, match="x is not finite; start from other weights"):
        noisydqn.train(start_from=sources["host"], out=tmp_path / "new", quiet=True)


@pytest.mark.slow
def test_a_run_is_only_resumed_from_its_own_start(
    sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = sources["host"] / "seed0", tmp_path / "new"
    options: dict[str, Any] = {
        "start_from": source,
        "out": out,
        "quiet": True,
        "resume": True,
        "steps": 40,
    }
    noisydqn.train(**options)
    monkeypatch.setattr(api, "launch", lambda *_, **__: None)
    noisydqn.train(**options)
    with pytest.raises(UserError, match="did not start from the final weights of host"):
        noisydqn.train(**options, from_weights="final")
    options["resume"] = False
    with pytest.raises(UserError, match="already holds a run"):
        noisydqn.train(**options)


@pytest.mark.slow
def test_a_start_that_is_lost_or_damaged_is_said(
    sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new"
    options: dict[str, Any] = {
        "start_from": sources["host"] / "seed0",
        "out": out,
        "quiet": True,
        "steps": 80,
    }
    train_until(1, monkeypatch, **options)  # killed before its first checkpoint
    state = next((out / "start").glob("state*"))
    state.write_bytes(b"x" + state.read_bytes()[1:])
    with pytest.raises(UserError, match="no whole checkpoint"):
        noisydqn.resume(out, quiet=True)
    for path in (out / "start").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="holds nothing to start from"):
        noisydqn.resume(out, quiet=True)


def test_the_command_line_spells_the_options() -> None:
    """`from` is not a name in Python, so its field has another."""
    from noisydqn.cli.train import parse_train

    args, options = parse_train(["--from", "x", *flags({"steps": 10}), "--from-weights=final"])
    assert (args.from_, args.from_weights, args.from_replay) == (Path("x"), "final", False)
    assert options == {"steps": 10}
