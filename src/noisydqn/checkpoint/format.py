"""The format of checkpoints on disk.

    checkpoints/
      checkpoint-00000007.json     the manifest: the files of the checkpoint, with SHA-256 checksums
      state-00000007.bin           all arrays except the replay buffer's rows, end to end
      rows-00000007-000012.bin     block 12 of the replay buffer's rows, as checkpoint 7 wrote it

A manifest refers to blocks of older checkpoints where nothing has changed since. It is written
last, so files without a manifest are not a checkpoint, and it holds its own checksum. These files
hold no code: JSON and plain numbers, little-endian.
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
MAX_MANIFEST_BYTES, MAX_SLOTS = 2**24, 2**31
STATE = r"^(state(?:\.training)?)"
RENAMED = {
    r"\.optimiser\b": ".optimizer",
    STATE + r"\.(key|time_step|stack)\b": r"\1.actor.\2",
    STATE + r"\.noise\b": r"\1.actor.explorer",
    STATE + r"\.(moments|return_scale)\b": r"\1.statistics.\2",
}
"""Parts of array names in format 1, as regular expressions, and their names today."""

COPIED = {STATE + r"\.actor\.key$": r"\1.learner.key"}
"""Names of arrays, as regular expressions, and of arrays that format 1 lacks and that get a copy.

Format 1 has one key for acting and learning. Both start from it, but use it in different ways.
"""


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of a checkpoint."""

    name: str
    size: int  # bytes
    sha256: str


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An array in the state file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int  # bytes


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The contents of a checkpoint."""

    number: int
    written: int  # rows of each environment so far, with those that the run began with
    slots: int  # of the replay buffer
    block_slots: int  # in a block of rows; the last block may be shorter
    state: File
    arrays: dict[str, Entry]
    rows: dict[int, File]  # by block; blocks never written to are absent
    run: dict[str, Any]  # the session's part, see `runs.progress.StoredRun`

    @property
    def files(self) -> list[File]:
        """All files of the checkpoint."""
        return [self.state, *self.rows.values()]


def manifest_name(number: int) -> str:
    """Return the file name of a manifest."""
    return f"checkpoint-{number:08d}.json"


def _sum(version: int, body: bytes) -> str:
    return hashlib.sha256(f"{FORMAT} {version}\n".encode() + body).hexdigest()


def encode(manifest: Manifest) -> bytes:
    """Encode a manifest: a line with format, version and checksum, then the manifest."""
    body = msgspec.json.encode(manifest)
    head = {"format": FORMAT, "version": VERSION, "sha256": _sum(VERSION, body)}
    return json.dumps(head).encode() + b"\n" + body


def decode(data: bytes, path: Path) -> Manifest:
    """Decode a manifest.

    Raises:
        DamagedError: its checksum is wrong, or it names files that cannot belong to it.
        UserError: a newer version of noisydqn wrote it.
    """
    head, _, body = data.partition(b"\n")
    try:
        about: dict[str, Any] = msgspec.json.decode(head, type=dict[str, Any])
        version = about.get("version")
        if about.get("format") != FORMAT or not isinstance(version, int):
            raise DamagedError(f"{path.name} is not a checkpoint")
        if about.get("sha256") != _sum(version, body):
            raise DamagedError(f"{path.name} has the wrong checksum")
        if not 1 <= version <= VERSION:
            raise UserError(
                f"{path} has checkpoint format {version}, this version of noisydqn reads formats "
                f"up to {VERSION}: use the version that wrote it, or a newer one"
            )
        manifest = msgspec.json.decode(body, type=Manifest)
        if version == 1:
            manifest = _upgraded(manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedError(f"{path.name} cannot be decoded ({error})") from error
    _check(manifest, path)
    return manifest


def _upgraded(manifest: Manifest) -> Manifest:
    """Return a manifest of format 1 with today's names of arrays."""
    arrays: dict[str, Entry] = {}
    for name, entry in manifest.arrays.items():
        for old, new in RENAMED.items():
            name = re.sub(old, new, name)  # noqa: PLW2901 - one rule after the other
        arrays[name] = entry
        for old, new in COPIED.items():
            if re.search(old, name):
                arrays[re.sub(old, new, name)] = entry
    return msgspec.structs.replace(manifest, arrays=arrays)


def _check(manifest: Manifest, path: Path) -> None:
    """Refuse file names outside the folder and impossible sizes."""
    match = MANIFEST.fullmatch(path.name)
    if match is None or int(match[1]) != manifest.number:
        raise DamagedError(f"{path.name} holds checkpoint {manifest.number}")
    for file in manifest.files:
        if FILE.fullmatch(file.name) is None or file.size < 0:
            raise DamagedError(
                f"{path.name} names {file.name!r}, which is not a file of a checkpoint"
            )
    sizes = manifest.slots, manifest.block_slots, manifest.written + 1
    if min(sizes) < 1 or max(sizes) > MAX_SLOTS:
        raise DamagedError(f"{path.name} has impossible sizes")
