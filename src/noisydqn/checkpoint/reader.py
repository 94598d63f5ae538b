"""Reading of checkpoints: find the newest intact one and read exactly the expected arrays."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from noisydqn.checkpoint import rows as ring
from noisydqn.checkpoint.arrays import from_host, host_struct
from noisydqn.checkpoint.format import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    File,
    Manifest,
    decode,
    manifest_name,
)
from noisydqn.errors import DamagedError, UnfitError, UserError
from noisydqn.folders import File as OnDisk
from noisydqn.folders import Folder
from noisydqn.trees import named, size_of
from noisydqn.types import Row

Tree = TypeVar("Tree")
PIECE_BYTES = 2**22


@contextmanager
def _reading(file: OnDisk) -> Generator[BufferedReader]:
    """Open a file; every error in reading it means that it is damaged."""
    try:
        with file.reading() as opened:
            yield opened
    except OSError as error:
        raise DamagedError(f"{file.name} cannot be read ({error.strerror})") from error


def read_manifest(file: OnDisk) -> Manifest:
    """Read a manifest.

    Raises:
        DamagedError: the manifest is damaged.
        UserError: a newer version of noisydqn wrote it.
    """
    with _reading(file) as opened:
        size = os.fstat(opened.fileno()).st_size
        if size > MAX_MANIFEST_BYTES:
            raise DamagedError(f"{file.name} is larger than any manifest")
        return decode(opened.read(size), file.path)


def _manifests(folder: Folder) -> list[OnDisk]:
    """List a folder's manifests, the newest first; the folder need not exist."""
    if not folder.exists():
        return []
    names = [name for name in folder.names() if MANIFEST.fullmatch(name)]
    return [folder.file(name) for name in sorted(names, reverse=True)]


def is_empty(folder: Folder) -> bool:
    """Tell whether a folder holds no checkpoint, not even a damaged one; it need not exist."""
    return not _manifests(folder)


def read_manifests(folder: Folder) -> tuple[list[Manifest], list[OnDisk]]:
    """Read the manifests of a folder, the newest first; also list the damaged ones.

    The folder need not exist.
    """
    manifests: list[Manifest] = []
    damaged: list[OnDisk] = []
    for file in _manifests(folder):
        try:
            manifests.append(read_manifest(file))
        except DamagedError:
            damaged.append(file)
    return manifests, damaged


def _verify(folder: Folder, file: File) -> None:
    """Verify a file's size and checksum, piece by piece."""
    digest = hashlib.sha256()
    with _reading(folder.file(file.name)) as opened:
        size = os.fstat(opened.fileno()).st_size
        if size != file.size:
            raise DamagedError(f"{file.name} has {size} bytes, expected {file.size}")
        while piece := opened.read(PIECE_BYTES):
            digest.update(piece)
    if digest.hexdigest() != file.sha256:
        raise DamagedError(f"{file.name} has the wrong checksum")


def newest_whole(folder: Folder, warn: Callable[[str], None]) -> "Checkpoint | None":
    """Find the newest intact checkpoint in a folder, or None if there are no checkpoints.

    Args:
        folder: the folder of checkpoints; it need not exist.
        warn: called with a line for each damaged checkpoint that is skipped.

    Raises:
        UserError: all checkpoints are damaged, or a newer version wrote one.
    """
    found = _manifests(folder)
    for each in found:
        try:
            manifest = read_manifest(each)
            for file in manifest.files:
                _verify(folder, file)
        except DamagedError as error:
            warn(f"checkpoint {each} is damaged and skipped: {error}")
            continue
        return Checkpoint(folder, manifest)
    if found:
        raise UserError(
            f"{folder} holds no whole checkpoint: copy the folder again while nothing trains in "
            "it, or train in a new folder"
        )
    return None


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """An intact checkpoint."""

    folder: Folder
    manifest: Manifest

    @property
    def path(self) -> Path:
        """The path of the manifest."""
        return self.folder.path / manifest_name(self.manifest.number)

    def read(self, name: str, like: Tree) -> Tree:
        """Read the tree that was saved under a name.

        Args:
            name: its name in the snapshot.
            like: a tree of the expected shapes and dtypes, or of arrays that have them. Nothing
                is read unless everything fits.

        Raises:
            UserError: the stored arrays do not fit.
        """
        expected = named({name: like})
        structs = {path: host_struct(leaf) for path, leaf in expected.items()}
        for path, struct in structs.items():
            self._check(path, struct)
        state, leaves = self.folder.file(self.manifest.state.name), list[Any]()
        with _reading(state) as file:
            for path, struct in structs.items():
                file.seek(self.manifest.arrays[path].offset)
                array = np.empty(struct.shape, struct.dtype)
                if file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
                    raise UserError(f"{state} was changed while it was read: resume again")
                leaves.append(from_host(array, expected[path]))
        return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(like), leaves)

    def _check(self, path: str, struct: jax.ShapeDtypeStruct) -> None:
        entry = self.manifest.arrays.get(path)
        wanted = f"{path} is expected as {struct.dtype} {list(struct.shape)}"
        if entry is None:
            raise self.unfit(f"{wanted}, and is not there")
        if entry.dtype != np.dtype(struct.dtype).str or entry.shape != struct.shape:
            raise self.unfit(f"{wanted}, and is {entry.dtype!r} {list(entry.shape)}")
        if not 0 <= entry.offset <= self.manifest.state.size - size_of(struct):
            raise self.unfit(f"{path} lies outside its file")

    def unfit(self, what: str) -> UnfitError:
        """Return the error of a checkpoint that does not fit."""
        return UnfitError(
            f"{self.path} does not fit the config beside it: {what}; use the config and the "
            "checkpoints of the same run, and the version of noisydqn that wrote them"
        )

    def inherited(self, own: int) -> int:
        """Return the rows of each environment that the run began with, beside its `own`.

        Raises:
            UserError: there are fewer rows than its own.
        """
        rows = self.manifest.written - own if self.manifest.rows else 0
        if rows < 0:
            raise self.unfit("its counts are impossible")
        return rows

    def check_rows(self, like: Row | None, axis: int) -> None:
        """Check that the stored rows fit a replay buffer, if there is one, before it is allocated.

        Raises:
            UserError: they do not fit.
        """
        manifest, layout = self.manifest, ring.Layout.of(like, axis)
        if manifest.slots != layout.slots:
            raise self.unfit(
                f"its replay buffer has {manifest.slots} slots, expected {layout.slots}"
            )
        stored = ring.Layout(manifest.slots, manifest.block_slots)
        if sorted(manifest.rows) != stored.changed(0, manifest.written):
            raise self.unfit("blocks of its replay buffer are missing")
        for block, file in manifest.rows.items() if like is not None else ():
            _, size = stored.span(block)
            expected = sum(size_of(x) for x in ring.block_structs(like, axis, size))
            if file.size != expected:
                raise self.unfit(f"{file.name} has {file.size} bytes, expected {expected}")

    def read_rows(self, rows: Row | None, axis: int) -> Row | None:
        """Fill the rows of a new replay buffer; the arrays of `rows` are donated."""
        if rows is None:
            return None
        for start, fields in self.blocks(rows, axis):
            rows = ring.paste(rows, axis, start, fields)
        return rows

    def blocks(self, like: Row, axis: int) -> Iterator[tuple[int, list[np.ndarray]]]:
        """Yield the first slot and the fields of each stored block of rows, after `check_rows`."""
        stored = ring.Layout(self.manifest.slots, self.manifest.block_slots)
        for block, file in sorted(self.manifest.rows.items()):
            start, size = stored.span(block)
            with _reading(self.folder.file(file.name)) as opened:
                data = np.frombuffer(opened.read(file.size), np.uint8)
            fields: list[np.ndarray] = []
            for struct in ring.block_structs(like, axis, size):
                part, data = np.split(data, [size_of(struct)])
                fields.append(part.view(struct.dtype).reshape(struct.shape))
            yield start, fields
