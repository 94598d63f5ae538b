"""Small checkpoints and weights, and what may become of their files: damage of every kind.

`python -m benchmarks.fuzz` tries the same ten thousand times.
"""

import json
import shutil
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import msgspec
from hypothesis import strategies as st

from noisydqn import Config
from noisydqn.checkpoint import rows as ring
from noisydqn.checkpoint.format import Manifest, encode
from noisydqn.checkpoint.reader import newest_whole, read_manifest
from noisydqn.checkpoint.snapshot import Snapshot
from noisydqn.checkpoint.writer import CheckpointWriter
from noisydqn.envs.encoding import numbered
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.errors import UserError
from noisydqn.folders import File, Folder
from noisydqn.runners import build
from noisydqn.runs.weights import load_policy, save_policy
from noisydqn.types import Row

SLOTS, ENVS = 24, 2
ROW = Row(
    observation=jnp.zeros((SLOTS, ENVS, 4), jnp.uint8),
    action=jnp.zeros((SLOTS, ENVS), jnp.int32),
    reward=jnp.zeros((SLOTS, ENVS)),
    terminated=jnp.zeros((SLOTS, ENVS), jnp.bool_),
    last=jnp.zeros((SLOTS, ENVS), jnp.bool_),
)
SLOT_BYTES = ENVS * (4 + 4 + 4 + 1 + 1)
LIKE: dict[str, Any] = {"weights": jnp.zeros((3, 5)), "key": jax.random.key(0)}
MOST_MEMORY = 2**24
"""Bytes that reading these files may take: the pieces in which they are read, and little more."""


def make(written: int) -> Snapshot:
    """What a runner would give after `written` steps."""
    slot = jnp.arange(SLOTS)
    age = slot + SLOTS * ((written - 1 - slot) // SLOTS)  # the step that wrote it last
    values = jnp.where(age >= 0, age + 1, 0)

    def filled(x: jax.Array) -> jax.Array:
        return jnp.broadcast_to(values.reshape(-1, *[1] * (x.ndim - 1)), x.shape).astype(x.dtype)

    tree = {"weights": LIKE["weights"] + written, "key": jax.random.key(written)}
    return Snapshot({"state": tree}, jax.tree.map(filled, ROW), 0, written)


def write(folder: Path, *written: int, keep: int = 2) -> CheckpointWriter:
    """Checkpoints of a run, each after so many steps; blocks have five slots."""

    def fail(message: str) -> None:
        raise AssertionError(message)

    folder.mkdir(exist_ok=True)
    before = ring.BLOCK_BYTES
    ring.BLOCK_BYTES = 5 * SLOT_BYTES
    try:
        writer = CheckpointWriter(Folder(folder), keep, None, fail)
        for steps in written:
            writer.save(make(steps), {"steps": steps})
            writer.wait()
    finally:
        ring.BLOCK_BYTES = before
    return writer


def read(folder: Path, warn: Callable[[str], None]) -> int:
    """Steps of the newest whole checkpoint, all of which was read and compared."""
    checkpoint = newest_whole(Folder(folder), warn)
    assert checkpoint is not None
    checkpoint.check_rows(ROW, 0)
    state = checkpoint.read("state", LIKE)
    rows = checkpoint.read_rows(jax.tree.map(jnp.copy, ROW), 0)
    steps = checkpoint.manifest.run["steps"]
    expected = make(steps)
    assert eqx.tree_equal(rows, expected.rows)
    assert eqx.tree_equal(state, expected.arrays["state"])
    return steps


# Damage

Damage = Callable[[bytes], bytes]


def _flip(place: int, bits: int) -> Damage:
    def damage(data: bytes) -> bytes:
        i = place % max(len(data), 1)
        return data[:i] + bytes([b ^ bits for b in data[i : i + 1]]) + data[i + 1 :]

    return damage


def _splice(start: int, stop: int, new: bytes) -> Damage:
    return lambda data: data[: start % (len(data) + 1)] + new + data[stop % (len(data) + 1) :]


_PLACES = st.integers(0, 10**6)
DAMAGE: st.SearchStrategy[Damage] = st.one_of(
    st.builds(_flip, _PLACES, st.integers(1, 255)),
    st.builds(_splice, _PLACES, _PLACES, st.binary(max_size=40)),
    st.builds(lambda data: lambda _: data, st.binary(max_size=200)),
)
"""A flipped byte, a piece cut out or put in, other contents altogether."""


def check_message(error: UserError) -> None:
    """A refusal is a line with something to say."""
    assert len(str(error)) > 20
    assert "\n" not in str(error)


class Corpus:
    """Files that were written once, to be damaged again and again."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.path = Path(self._folder.name)
        write(self.path / "good", 9, 31)
        self.files = sorted(path.name for path in (self.path / "good").iterdir())
        self.config = Config(hidden=(4,))
        self.spec = EnvironmentSpec(jax.ShapeDtypeStruct((3,), jnp.float32), 2, numbered(2))
        self.policy = build.make_policy(self.config.program, self.spec, jax.random.key(3))
        save_policy(File.at(self.path / "weights"), self.policy)

    def close(self) -> None:
        """Remove them."""
        self._folder.cleanup()

    def damaged_checkpoint(self, name: str, damage: Damage) -> None:
        """Whatever happens to a file, what is loaded is a whole checkpoint, or nothing is."""
        folder = self.path / "bad"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.path / "good", folder)
        (folder / name).write_bytes(damage((folder / name).read_bytes()))
        warnings: list[str] = []
        try:
            steps = read(folder, warnings.append)
        except UserError as error:
            check_message(error)
        else:
            # The older one is read only if the newer one was named as damaged.
            assert (steps, len(warnings)) in ((31, 0), (9, 1)), (steps, warnings)

    def forged_manifest(self, path: list[str], value: Any) -> None:
        """A manifest that was changed and signed again: it leads nowhere and takes no memory."""
        folder = self.path / "bad"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.path / "good", folder)
        newest = folder / "checkpoint-00000002.json"
        contents: Any = msgspec.to_builtins(read_manifest(File.at(newest)))
        place = contents
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        body = msgspec.json.encode(contents)
        head, _, _ = encode(read_manifest(File.at(newest))).partition(b"\n")
        about = json.loads(head) | {"sha256": _signature(body)}
        newest.write_bytes(json.dumps(about).encode() + b"\n" + body)
        tracemalloc.start()
        try:
            checkpoint = newest_whole(Folder(folder), lambda _: None)
            assert checkpoint is not None
            checkpoint.check_rows(ROW, 0)
            state = checkpoint.read("state", LIKE)
            assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, LIKE)
            rows = checkpoint.read_rows(jax.tree.map(jnp.copy, ROW), 0)
            assert jax.tree.map(jnp.shape, rows) == jax.tree.map(jnp.shape, ROW)
        except UserError as error:
            check_message(error)
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < MOST_MEMORY, peak

    def damaged_weights(self, damage: Damage) -> None:
        """Weights are loaded as they were saved, or not at all."""
        bad = self.path / "bad.safetensors"
        bad.write_bytes(damage((self.path / "weights").read_bytes()))
        try:
            policy = load_policy(File.at(bad), self.config, self.spec)
        except UserError as error:
            check_message(error)
        else:
            assert eqx.tree_equal(policy, self.policy)


def _signature(body: bytes) -> str:
    from noisydqn.checkpoint import format as form

    return form._sum(form.VERSION, body)  # pyright: ignore[reportPrivateUsage]


_SIZES = st.one_of(st.integers(-3, 60), st.integers(-(2**70), 2**70), st.just(2**40))
_NAMES = st.one_of(
    st.sampled_from(["/etc/passwd", "../good/state-00000002.bin", "..", "", "rows-00000002.bin"]),
    st.text(max_size=30),
)
_ANY: st.SearchStrategy[Any] = st.one_of(st.none(), _SIZES, _NAMES, st.floats(), st.just([]))
FORGERIES: st.SearchStrategy[tuple[list[str], Any]] = st.one_of(
    st.tuples(st.sampled_from([[n] for n in Manifest.__struct_fields__]), _ANY),
    st.tuples(st.sampled_from([["state", "name"], ["state", "size"], ["state", "sha256"]]), _ANY),
    st.tuples(
        st.sampled_from(
            [["arrays", "state.weights", x] for x in ("dtype", "offset", "shape")]
            + [["arrays", "state.key", x] for x in ("dtype", "offset")]
        ),
        st.one_of(_ANY, st.lists(_SIZES, max_size=3)),
    ),
)
"""A field of a manifest, and what is put in its place."""
