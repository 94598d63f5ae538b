"""What a stranger may do to the files of a run: links and the like, damage, and forgeries."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from noisydqn.config.config import VARIANTS, owners
from noisydqn.runs.exported import card_checksum
from noisydqn.runs.weights import checksum
from tests.strangers.victim import EVERY, Victim, remove

DEPTH = 100_000
SPARSE = 10 * 2**30

Spoil = Callable[[Victim], None]
Change = Callable[[bytes], bytes]


@dataclasses.dataclass(frozen=True)
class Attack:
    """A way to spoil a run, the commands that are tried on it, and those that must refuse it."""

    name: str
    spoil: Spoil
    tried: Set[str] = frozenset(EVERY)
    refused: Set[str] = frozenset()

    def __str__(self) -> str:
        return self.name


# What has the path of a file

Put = Callable[[Victim, Path], None]


def _link(target: Callable[[Victim, Path], str]) -> Put:
    def put(victim: Victim, path: Path) -> None:
        remove(path)
        os.symlink(target(victim, path), path)  # noqa: PTH211 - a text, which may lead nowhere

    return put


def _chain(victim: Victim, path: Path) -> None:
    between = path.with_name("between")
    _link(lambda victim, _: str(victim.outside / "secret"))(victim, between)
    _link(lambda *_: "between")(victim, path)


def _loop(victim: Victim, path: Path) -> None:
    other = path.with_name("other")
    _link(lambda *_: path.name)(victim, other)
    _link(lambda *_: "other")(victim, path)


def _hard(victim: Victim, path: Path) -> None:
    remove(path)
    os.link(victim.outside / "secret", path)


def _pipe(victim: Victim, path: Path) -> None:
    del victim
    remove(path)
    os.mkfifo(path)


def _folder(victim: Victim, path: Path) -> None:
    del victim
    remove(path)
    (path / "full").mkdir(parents=True)


def _sparse(victim: Victim, path: Path) -> None:
    del victim
    if path.is_dir():
        remove(path)
    with path.open("ab") as file:
        file.truncate(SPARSE)


LINKS: dict[str, Put] = {
    "link": _link(lambda victim, _: str(victim.outside / "secret")),
    "relative link": _link(
        lambda victim, path: os.path.relpath(victim.outside / "secret", path.parent)
    ),
    "dangling link": _link(lambda victim, _: str(victim.outside / "new")),
    "link to a folder": _link(lambda victim, _: str(victim.outside / "folder")),
    "chain of links": _chain,
    "loop of links": _loop,
}
OTHERS: dict[str, Put] = {
    "hard link": _hard,
    "pipe": _pipe,
    "folder": _folder,
    "sparse file": _sparse,
}


def at(name: str, put: Put) -> Spoil:
    """Put something at a path of the run."""
    return lambda victim: put(victim, victim.run / name)


# Contents


def edit(victim: Victim, name: str, **changes: Any) -> None:
    """Change entries of a file of JSON in the run."""
    path = victim.run / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def options(**changes: Any) -> Spoil:
    """Change options of the run's config, without those of variants that are no longer chosen."""
    dropped = [x for section in VARIANTS if section in changes for x in owners(section)]

    def spoil(victim: Victim) -> None:
        path = victim.run / "config.json"
        kept = {k: v for k, v in json.loads(path.read_text()).items() if k not in dropped}
        path.write_text(json.dumps({**kept, **changes}))

    return spoil


def write(name: str, data: Change) -> Spoil:
    """Change the bytes of a file of the run."""

    def spoil(victim: Victim) -> None:
        path = victim.run / name
        path.write_bytes(data(path.read_bytes()))

    return spoil


NESTED = {
    "open lists": b"[" * DEPTH,
    "open objects": b'{"a":' * DEPTH,
    "lists": b"[" * DEPTH + b"]" * DEPTH,
    "objects": b'{"a":' * DEPTH + b"1" + b"}" * DEPTH,
}
DAMAGED: dict[str, Change] = {
    **{f"nested {name}": lambda _, data=data: data for name, data in NESTED.items()},
    "a byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "invalid UTF-8": lambda data: data.replace(b'"', b'"\xff', 1),
    "zeros": lambda data: b"\0" * len(data),
    "nothing": lambda _: b"",
    "null": lambda _: b"null",
    "a list": lambda data: b"[" + data + b"]",
    "a number": lambda _: b"9" * 10_000,
    "a text": lambda _: b'"' + b"x" * 100_000 + b'"',
    "half of it": lambda data: data[: len(data) // 2],
    "spaces": lambda data: data + b" " * 2**25,
}


def inserted(text: str) -> Change:
    """Insert a text after the first brace of JSON."""
    return lambda data: data.replace(b"{", b"{" + text.encode() + b",", 1)


def numbers(key: str) -> dict[str, Change]:
    """Give a key numbers that JSON or a program cannot hold."""
    values = ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5_000, "1e-999", "-1", "0.5", "1e18"]
    return {f"{key} {value[:9]}": inserted(f'"{key}": {value}') for value in values}


def sign(body: bytes) -> bytes:
    """Make a manifest with a right checksum of any body."""
    digest = hashlib.sha256(b"noisydqn-checkpoint 2\n" + body).hexdigest()
    head = {"format": "noisydqn-checkpoint", "version": 2, "sha256": digest}
    return json.dumps(head).encode() + b"\n" + body


MANIFEST = "checkpoints/checkpoint-00000001.json"
STATE = "checkpoints/state-00000001.bin"
NUM_COUNTS = 7


def manifest(change: Callable[[Any], object]) -> Spoil:
    """Change the newest manifest, and sign it again."""

    def spoil(victim: Victim) -> None:
        path = victim.run / MANIFEST
        contents = json.loads(path.read_bytes().partition(b"\n")[2])
        change(contents)
        path.write_bytes(sign(json.dumps(contents).encode()))

    return spoil


def progress(**changes: Any) -> Spoil:
    """Change the progress of the only seed, or of the run, in the newest manifest."""

    def change(contents: Any) -> None:
        whole = contents["run"]["progress"]
        for name, value in changes.items():
            (whole["seeds"][0] if name in whole["seeds"][0] else whole)[name] = value

    return manifest(change)


def state(array: str, values: Any) -> Spoil:
    """Change the first numbers of an array in the newest checkpoint, and sign it again."""
    return computed(array, lambda _: values)


def count(place: int, value: int) -> Spoil:
    """Change one of the counts in the newest checkpoint, and sign it again."""
    return computed("counts", lambda x: np.where(np.arange(NUM_COUNTS) == place, value, x))


def computed(array: str, values: Callable[[np.ndarray], Any]) -> Spoil:
    """Change an array in the newest checkpoint to what is computed from it, and sign it again."""

    def spoil(victim: Victim) -> None:
        path = victim.run / STATE
        data = bytearray(path.read_bytes())

        def change(contents: Any) -> None:
            entry = contents["arrays"][array]
            size, at = int(np.prod(entry["shape"])), entry["offset"]
            old = np.frombuffer(bytes(data), entry["dtype"], size, at)
            new = np.asarray(values(old), entry["dtype"]).tobytes()
            data[at : at + len(new)] = new
            path.write_bytes(data)
            contents["state"]["sha256"] = hashlib.sha256(data).hexdigest()

        manifest(change)(victim)

    return spoil


def rows(victim: Victim) -> None:
    """Fill the replay buffer of the newest checkpoint with impossible numbers, and sign it."""

    def change(contents: Any) -> None:
        for file in contents["rows"].values():
            data = b"\xff" * file["size"]
            (victim.run / "checkpoints" / file["name"]).write_bytes(data)
            file["sha256"] = hashlib.sha256(data).hexdigest()

    manifest(change)(victim)


def infinite_weights(victim: Victim) -> None:
    """Let a weight be infinite, with a right checksum."""
    path = victim.run / "best.safetensors"
    arrays = safetensors.numpy.load(path.read_bytes())
    arrays[min(arrays)].flat[0] = np.inf
    header, _ = header_of(path.read_bytes())
    about = json.loads(header["__metadata__"]["noisydqn"]) | {"sha256": checksum(arrays)}
    path.write_bytes(safetensors.numpy.save(arrays, {"noisydqn": json.dumps(about)}))


def tensors(header: dict[str, Any], data: bytes = b"") -> bytes:
    """Make a file of safetensors with any header."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Take a file of safetensors apart."""
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def card(change: Callable[[str], str]) -> Change:
    """Change the card of an exported policy, and sum it again."""

    def changed(data: bytes) -> bytes:
        header, rest = header_of(data)
        about = header["__metadata__"]
        about["card"] = change(about["card"])
        arrays = safetensors.numpy.load(data)
        about["sha256"] = card_checksum(arrays, about["card"])
        return tensors(header, rest)

    return changed


def both(first: Change, then: Change) -> Change:
    """Make one change after the other."""
    return lambda data: then(first(data))


def with_arrays(arrays: dict[str, Any]) -> Change:
    """Replace the arrays of a file of safetensors by others, of four bytes together."""

    def change(data: bytes) -> bytes:
        header, _ = header_of(data)
        return tensors({"__metadata__": header["__metadata__"], **arrays}, bytes(4))

    return change


def in_card(*keys: str, to: Any) -> Change:
    """Change an entry of the card of an exported policy."""

    def change(text: str) -> str:
        contents = place = json.loads(text)
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = to
        return json.dumps(contents)

    return card(change)
