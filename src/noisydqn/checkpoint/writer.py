"""Writing of checkpoints in a background thread, beside the old ones; the oldest are removed."""

import errno
import hashlib
from collections.abc import Callable
from queue import Queue
from threading import Thread
from typing import Any

import numpy as np

from noisydqn.checkpoint import rows as ring
from noisydqn.checkpoint.arrays import to_host
from noisydqn.checkpoint.format import FILE, MANIFEST, Entry, File, Manifest, encode, manifest_name
from noisydqn.checkpoint.reader import read_manifests
from noisydqn.checkpoint.snapshot import Snapshot
from noisydqn.folders import PART, Folder
from noisydqn.folders import File as OnDisk
from noisydqn.trees import named

NONE_YET = "none-yet"
"""The name of a file that is there until the first checkpoint is whole.

It tells a run that was ended before from one whose checkpoints were removed.
"""
QUEUED_BLOCKS = 64
"""Largest number of blocks that wait to be written: a gibibyte of memory."""


class CheckpointWriter:
    """A writer of a run's checkpoints.

    `save` copies the changed blocks and returns; the files are written while training continues.

    Args:
        folder: the folder of checkpoints.
        keep: how many checkpoints to keep.
        before: the checkpoint that the run was resumed from, whose blocks are reused.
        warn: called with a line if a checkpoint cannot be written. Training continues, and the
            last intact checkpoint stays.
    """

    def __init__(
        self, folder: Folder, keep: int, before: Manifest | None, warn: Callable[[str], None]
    ) -> None:
        self.folder, self.keep, self.warn = folder, keep, warn
        self._last = before
        folder.make()
        if before is None:
            folder.file(NONE_YET).write(b"Nothing is saved yet: to resume is to begin again.\n")
        numbers = [int(match[1]) for match in map(_number, folder.names()) if match]
        self._next = max(numbers, default=0) + 1
        # Newer than the one that the run was resumed from, so these are damaged.
        self._damaged = range(0 if before is None else before.number + 1, self._next)
        self._thread: Thread | None = None

    @property
    def busy(self) -> bool:
        """True while a checkpoint is being written."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> None:
        """Wait until the last checkpoint is written or has failed."""
        if self._thread is not None:
            self._thread.join()

    def save(self, snapshot: Snapshot, run: dict[str, Any]) -> None:
        """Save a snapshot, and the record `run` in the manifest."""
        self.wait()
        layout = ring.Layout.of(snapshot.rows, snapshot.slot_axis)
        written = 0 if snapshot.rows is None else snapshot.written
        try:
            last = self._reusable(layout, written)
        except OSError as error:
            self._failed(error)
            return
        arrays = {name: to_host(leaf) for name, leaf in named(snapshot.arrays).items()}
        queue: Queue[tuple[int, list[np.ndarray]] | None] = Queue(QUEUED_BLOCKS)
        work = _Work(self.folder, self._next, queue, arrays)
        self._next += 1

        def write() -> None:
            try:
                blocks = {} if last is None else last.rows
                self._last = work.write(written, layout, blocks, run)
                self.folder.file(NONE_YET).remove()
                clear(self.folder, self.keep, self._damaged)
            except OSError as error:
                self._failed(error)
            finally:
                work.end()

        self._thread = Thread(target=write, name="checkpoint")
        self._thread.start()
        before = 0 if last is None else last.written
        try:
            if (rows := snapshot.rows) is not None:
                for block in layout.changed(before, written):
                    span = layout.span(block)
                    queue.put((block, ring.cut(rows, snapshot.slot_axis, *span)))
        except BaseException:
            work.abandoned = True
            raise
        finally:
            queue.put(None)

    def _reusable(self, layout: ring.Layout, written: int) -> Manifest | None:
        """Return the last checkpoint if its blocks can be reused; make the folder if it is gone."""
        self.folder.make()
        last, there = self._last, set(self.folder.names())
        if last is None or (last.slots, last.block_slots) != layout or last.written > written:
            return None
        return last if there.issuperset(file.name for file in last.rows.values()) else None

    def _failed(self, error: OSError) -> None:
        self.warn(
            f"no checkpoint could be written to {self.folder}: {error.strerror}; training "
            "continues, and the previous one is kept"
        )


class _Work:
    """A job of the background thread: the writing of one checkpoint."""

    def __init__(
        self,
        folder: Folder,
        number: int,
        queue: "Queue[tuple[int, list[np.ndarray]] | None]",
        arrays: dict[str, np.ndarray],
    ) -> None:
        self.folder, self.number, self.queue, self.arrays = folder, number, queue, arrays
        self.files: list[OnDisk] = []
        self.whole = self.drained = self.abandoned = False

    def write(
        self, written: int, layout: ring.Layout, blocks: dict[int, File], run: dict[str, Any]
    ) -> Manifest:
        """Write all files; the manifest, which makes them a checkpoint, comes last."""
        state = self._file(f"state-{self.number:08d}.bin", list(self.arrays.values()))
        blocks = dict(blocks)
        while (item := self._next_block()) is not None:
            block, fields = item
            blocks[block] = self._file(f"rows-{self.number:08d}-{block:06d}.bin", fields)
        if self.abandoned:
            raise InterruptedError(errno.EINTR, "it was interrupted")
        offset, entries = 0, dict[str, Entry]()
        for name, array in self.arrays.items():
            entries[name] = Entry(array.dtype.str, array.shape, offset)
            offset += array.nbytes
        manifest = Manifest(self.number, written, *layout, state, entries, blocks, run)
        self.folder.sync()  # the files must be durable before the manifest that needs them
        self._put(manifest_name(self.number), [np.frombuffer(encode(manifest), np.uint8)])
        self.whole = True
        self.folder.sync()
        return manifest

    def _next_block(self) -> tuple[int, list[np.ndarray]] | None:
        item = self.queue.get()
        self.drained = item is None
        return item

    def _file(self, name: str, arrays: list[np.ndarray]) -> File:
        digest = self._put(name, arrays)
        return File(name, sum(array.nbytes for array in arrays), digest)

    def _put(self, name: str, arrays: list[np.ndarray]) -> str:
        """Write a file as a whole, and return its checksum."""
        digest, file = hashlib.sha256(), self.folder.file(name)
        self.files.append(file)
        with file.replacing() as opened:
            for array in arrays:
                data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
                digest.update(data)
                opened.write(data)
        return digest.hexdigest()

    def end(self) -> None:
        """Drain the queue, so that its producer does not block; remove an incomplete checkpoint."""
        while not self.drained:
            self._next_block()
        if not self.whole:
            for file in self.files:
                file.remove()


def _number(name: str) -> Any:
    return MANIFEST.fullmatch(name) or FILE.fullmatch(name)


def clear(folder: Folder, keep: int, damaged: range) -> None:
    """Remove all but the newest `keep` checkpoints, and files that belong to none.

    Checkpoints whose numbers are in `damaged` do not count.
    """
    manifests, unwanted = read_manifests(folder)
    whole = [manifest for manifest in manifests if manifest.number not in damaged]
    kept = {manifest.number for manifest in whole[:keep]}
    names = [manifest_name(m.number) for m in manifests if m.number not in kept]
    for file in (*unwanted, *map(folder.file, names)):
        file.remove()
    folder.sync()
    wanted = {file.name for manifest in whole[:keep] for file in manifest.files}
    for name in folder.names():
        whole = name.removesuffix(PART)
        if (FILE.fullmatch(whole) and name not in wanted) or (
            MANIFEST.fullmatch(whole) and whole != name
        ):
            folder.file(name).remove()
