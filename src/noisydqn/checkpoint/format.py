"""What a checkpoint is on disk.

    checkpoints/
      checkpoint-00000007.json     the manifest: what belongs to it, with sizes and SHA-256 sums
      state-00000007.bin           all arrays but the memory's rows, end to end
      rows-00000007-000012.bin     block 12 of the memory's rows, as checkpoint 7 wrote it

A manifest names the blocks of older checkpoints where nothing has changed since. It is written
last, so what has no manifest is no checkpoint; and it carries a sum of itself. Nothing in these
files is code: JSON and plain numbers, little-endian.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import msgspec

from noisydqn.errors import DamagedError, UserError

FORMAT, VERSION = "noisydqn-checkpoint", 2
MANIFEST = re.compile(r"checkpoint-([0-9]{8})\.json")
FILE = re.compile(r"(?:state|rows)-([0-9]{8})(?:-[0-9]{6})?\.bin")
MAX_MANIFEST_BYTES = 2**26
RENAMED = {r"\.optimiser\b": ".optimizer"}
"""Parts of the names of arrays in format 1, as regular expressions, and what they are today."""


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that belongs to a checkpoint."""

    name: str
    size: int  # bytes
    sha256: str


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An array in the state file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int  # bytes


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A checkpoint: what it holds and where."""

    number: int
    written: int  # rows that each environment has stored since the start of the run
    slots: int  # of the memory
    block_slots: int  # in a block of rows; the last block may be shorter
    state: File
    arrays: dict[str, Entry]
    rows: dict[int, File]  # by block; those never written to are not there
    run: dict[str, Any]  # the session's part, see `runs.progress.StoredRun`

    @property
    def files(self) -> list[File]:
        """All that belongs to it."""
        return [self.state, *self.rows.values()]


def manifest_name(number: int) -> str:
    """The name of a manifest."""
    return f"checkpoint-{number:08d}.json"


def _sum(version: int, body: bytes) -> str:
    return hashlib.sha256(f"{FORMAT} {version}\n".encode() + body).hexdigest()


def encode(manifest: Manifest) -> bytes:
    """A manifest as bytes: a line that says what it is, then itself."""
    body = msgspec.json.encode(manifest)
    head = {"format": FORMAT, "version": VERSION, "sha256": _sum(VERSION, body)}
    return json.dumps(head).encode() + b"\n" + body


def decode(data: bytes, path: Path) -> Manifest:
    """The manifest in a file's bytes.

    Raises:
        DamagedError: it is not as it was written, or names files that cannot be its own.
        UserError: a newer version of noisydqn wrote it.
    """
    head, _, body = data.partition(b"\n")
    try:
        about: dict[str, Any] = msgspec.json.decode(head, type=dict[str, Any])
        version = about.get("version")
        if about.get("format") != FORMAT or not isinstance(version, int):
            raise DamagedError(f"{path.name} is no checkpoint")
        if about.get("sha256") != _sum(version, body):
            raise DamagedError(f"{path.name} is not as it was written")
        if not 1 <= version <= VERSION:
            raise UserError(
                f"{path} has checkpoint format {version}, this version of noisydqn reads formats "
                f"up to {VERSION}: use the version that wrote it, or a newer one"
            )
        manifest = msgspec.json.decode(body, type=Manifest)
        if version == 1:
            manifest = _upgraded(manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedError(f"{path.name} is not as it was written ({error})") from error
    _check(manifest, path)
    return manifest


def _upgraded(manifest: Manifest) -> Manifest:
    """Return a manifest of format 1 with the names that arrays have today."""
    arrays: dict[str, Entry] = {}
    for name, entry in manifest.arrays.items():
        for old, new in RENAMED.items():
            name = re.sub(old, new, name)  # noqa: PLW2901 - one rule after the other
        arrays[name] = entry
    return msgspec.structs.replace(manifest, arrays=arrays)


def _check(manifest: Manifest, path: Path) -> None:
    """Refuse names that lead elsewhere and sizes that do not add up."""
    match = MANIFEST.fullmatch(path.name)
    if match is None or int(match[1]) != manifest.number:
        raise DamagedError(f"{path.name} holds checkpoint {manifest.number}")
    for file in manifest.files:
        if FILE.fullmatch(file.name) is None or file.size < 0:
            raise DamagedError(f"{path.name} names {file.name!r}, which is no file of a checkpoint")
    if manifest.slots < 1 or manifest.block_slots < 1 or manifest.written < 0:
        raise DamagedError(f"{path.name} has impossible sizes")
