"""The files of a run: every one is opened, created, renamed and removed here.

A `Folder` holds its directory open. Files and folders in it are reached by plain names, relative
to that handle and never through a link, so what lies in a folder cannot lead out of it, and a
folder that is renamed while a run writes to it keeps its files. Only the path that a user types
may itself be a link.

This relies on POSIX: `openat`, `renameat` and `O_NOFOLLOW`.
"""

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import stat
import weakref
from collections.abc import Generator
from io import BufferedRandom, BufferedReader, BufferedWriter
from pathlib import Path

MAX_BYTES = 2**28
"""Bytes of the largest file that is read whole, unless the reader knows better."""
PART = ".part"
"""Suffix of files that are being written."""

_PLAIN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe must not block
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_LINKS = {errno.ELOOP, errno.EMLINK}  # what opening a link gives, by system


class Folder:
    """A folder, by a handle that is opened when it is first needed.

    Every method raises `OSError` if the operation fails, with the full path.

    Args:
        path: as users name it. With a parent it serves for messages alone.
        parent: the folder that this one is in, under the last part of `path`.
    """

    def __init__(self, path: Path | str, parent: "Folder | None" = None) -> None:
        self._given, self._parent = Path(path), parent
        self._handle: int | None = None

    def __repr__(self) -> str:
        return f"Folder({str(self.path)!r})"

    def __str__(self) -> str:
        return str(self.path)

    @property
    def path(self) -> Path:
        """The path, for messages: where the folder is now, if it was renamed after it was opened.

        Without `/proc`, it is the path that users gave.
        """
        if self._parent is not None:
            return self._parent.path / self._given.name
        return self._given if self._handle is None else _path_of(self._handle, self._given)

    def folder(self, name: str) -> "Folder":
        """Return the folder of that name in this one, which need not exist."""
        return Folder(self.path / plain(name), self)

    def file(self, name: str) -> "File":
        """Return the file of that name in this folder, which need not exist."""
        return File(self, plain(name))

    @property
    def handle(self) -> int:
        """The descriptor of the open directory."""
        if self._handle is None:
            if self._parent is None:
                self._handle = os.open(self._given, _FOLDER)
            else:
                name, parent = self._given.name, self._parent
                parent.refuse_link(name)
                with _naming(self.path):
                    self._handle = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent.handle)
            weakref.finalize(self, os.close, self._handle)
        return self._handle

    def exists(self) -> bool:
        """Tell whether it is there, as a folder and not as a link to one."""
        try:
            return os.fstat(self.handle).st_nlink > 0  # not removed since
        except OSError:
            return False

    def make(self) -> bool:
        """Create the folder if it is missing, even if it was removed after it was opened.

        A folder that was removed and has no parent is made under a free name if another process
        has taken its own.

        Returns whether it was missing.
        """
        if self.exists():
            return False
        removed, self._handle = self._handle is not None, None
        if self._parent is not None:
            self._parent.make()
            with contextlib.suppress(FileExistsError), _naming(self.path):  # made by another now
                os.mkdir(self._given.name, dir_fd=self._parent.handle)
        elif removed:
            self._given = _made_free(self._given)
        else:
            self._given.mkdir(parents=True, exist_ok=True)
        os.fstat(self.handle)  # raises if it is a link, say
        return True

    def remove(self) -> None:
        """Remove the folder, which must be empty and in another one."""
        assert self._parent is not None  # noqa: S101 - folders of users are never removed
        with _naming(self.path):
            os.rmdir(self._given.name, dir_fd=self._parent.handle)

    def names(self) -> list[str]:
        """List what is in it, by name."""
        with _naming(self.path):
            # A handle of its own: threads that list one together each get a part.
            handle = os.open(".", _FOLDER, dir_fd=self.handle)
            try:
                return sorted(os.listdir(handle))  # noqa: PTH208 - of a handle
            finally:
                os.close(handle)

    def kind(self, name: str) -> int | None:
        """Return the type of what has that name, as in `stat.S_IFMT`; None if there is nothing."""
        try:
            with _naming(self.path / name):
                found = os.stat(name, dir_fd=self.handle, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return stat.S_IFMT(found.st_mode)

    def refuse_link(self, name: str) -> None:
        """Raise `OSError` if what has that name is a link."""
        if self.kind(name) == stat.S_IFLNK:
            raise _link(self.path / name)

    def sync(self) -> None:
        """Wait until names that were made or removed are on the disk."""
        with _naming(self.path):
            os.fsync(self.handle)


@dataclasses.dataclass(frozen=True)
class File:
    """A file in a folder, which need not exist. Links and what is not a regular file are refused.

    Every method raises `OSError` if the operation fails, with the full path.
    """

    folder: Folder
    name: str

    @staticmethod
    def at(path: Path | str) -> "File":
        """Return the file that a user names, by a path that may be a link."""
        path = Path(path)
        path = Path(os.path.realpath(path)) if path.is_symlink() else path  # also of a loop
        return File(Folder(path.parent), path.name)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def path(self) -> Path:
        """The path, for messages and for tools that read it."""
        return self.folder.path / self.name

    def exists(self) -> bool:
        """Tell whether there is a regular file of that name."""
        try:
            return self.folder.kind(self.name) == stat.S_IFREG
        except OSError:
            return False

    def free(self, beside: str = "") -> "File":
        """Return this file or, if its name is taken, the first of `name-2`, `name-3` and so on.

        Args:
            beside: suffix of a second file, whose name must also be free.
        """
        number, free = 2, self
        while free.taken() or free.folder.file(free.name + beside).taken():
            name = Path(self.name)
            free = self.folder.file(f"{name.stem}-{number}{name.suffix}")
            number += 1
        return free

    def taken(self) -> bool:
        """Tell whether there is anything of that name."""
        try:
            return self.folder.kind(self.name) is not None
        except OSError:
            return False

    def size(self) -> int:
        """Return the size in bytes; 0 if there is no such file."""
        try:
            with self.reading() as file:
                return os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            return 0

    def has_other_name(self) -> bool:
        """Tell whether the file has a second name, anywhere on its disk (a hard link)."""
        with self.reading() as file:
            return os.fstat(file.fileno()).st_nlink > 1

    def reading(self) -> BufferedReader:
        """Open the file to read it."""
        return os.fdopen(self._open(os.O_RDONLY), "rb")

    def read(self, limit: int = MAX_BYTES) -> bytes:
        """Read the whole file, of at most `limit` bytes."""
        with self.reading() as file, _naming(self.path):
            large = os.fstat(file.fileno()).st_size > limit
            data = b"" if large else file.read(limit + 1)
            if large or len(data) > limit:  # it may grow meanwhile
                raise OSError(errno.EFBIG, f"it has more than {limit:,} bytes", str(self.path))
            return data

    @contextlib.contextmanager
    def opened(self) -> Generator[str]:
        """Open the file for a library that reads paths; gives one that leads to the open file."""
        with self.reading() as file:
            yield f"/dev/fd/{file.fileno()}"

    def appending(self, *, copy: bool = True) -> BufferedRandom:
        """Open the file to write at its end, creating it if necessary.

        Args:
            copy: first replace a file that has a second name (a hard link) by a copy, so that the
                other name keeps its contents. A lock must stay the same file; it may then not be
                written to.
        """
        flags = os.O_RDWR | os.O_APPEND
        file = os.fdopen(self._open(flags | os.O_CREAT), "r+b")
        if os.fstat(file.fileno()).st_nlink == 1 or not copy:
            return file
        with file, self.replacing() as single:
            shutil.copyfileobj(file, single)
        return os.fdopen(self._open(flags), "r+b")

    @contextlib.contextmanager
    def replacing(self, *, new: bool = False) -> Generator[BufferedRandom]:
        """Write the file beside the old one; once complete and on the disk it takes its place.

        Args:
            new: never replace anything: raise `FileExistsError` if the name is taken.
        """
        part, folder = self.name + PART, self.folder.handle
        with _naming(path := self.folder.path / part):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part, dir_fd=folder)  # of a link, the link
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _PLAIN
            descriptor = os.open(part, flags, 0o666, dir_fd=folder)
        with _naming(self.path), os.fdopen(descriptor, "w+b") as file:
            try:
                yield file
                file.flush()
                os.fsync(descriptor)
                with _naming(path, self.path):
                    if not _holds(folder, part, descriptor):
                        raise OSError(errno.EBUSY, "another process writes it", str(self.path))
                    if not new or not _linked(part, self.name, folder, folder):
                        os.rename(part, self.name, src_dir_fd=folder, dst_dir_fd=folder)
            finally:
                with contextlib.suppress(OSError):  # it would hide what went wrong before
                    if _holds(folder, part, descriptor):
                        os.unlink(part, dir_fd=folder)

    def write(self, data: bytes, *, new: bool = False) -> None:
        """Write the whole file, as `replacing` does."""
        with self.replacing(new=new) as file:
            file.write(data)

    def write_json(self, value: object) -> None:
        """Write the whole file as JSON."""
        self.write(json_bytes(value))

    def take(self, path: Path, *, new: bool = False) -> None:
        """Write the whole file as a copy of one outside, which a program made."""
        with path.open("rb") as source, self.replacing(new=new) as file:
            shutil.copyfileobj(source, file)

    def move(self, to: "File") -> None:
        """Give the file another place on the same disk; raises `FileExistsError` if it is taken."""
        source, target = self.folder.handle, to.folder.handle
        with self.reading(), _naming(self.path, to.path):
            if _linked(self.name, to.name, source, target):
                os.unlink(self.name, dir_fd=source)
            else:
                os.rename(self.name, to.name, src_dir_fd=source, dst_dir_fd=target)

    def create(self) -> BufferedWriter:
        """Create the file and open it to write; raises `FileExistsError` if the name is taken."""
        return os.fdopen(self._open(os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb")

    def remove(self) -> None:
        """Remove the file, or a link of that name, if there is one."""
        with _naming(self.path), contextlib.suppress(FileNotFoundError):
            os.unlink(self.name, dir_fd=self.folder.handle)

    def _open(self, flags: int) -> int:
        with _naming(self.path):
            descriptor = os.open(self.name, flags | _PLAIN, 0o666, dir_fd=self.folder.handle)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise OSError(errno.EINVAL, "it is not a regular file", str(self.path))
            return descriptor


def _holds(folder: int, name: str, descriptor: int) -> bool:
    """Tell whether a name in a folder is that of an open file."""
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    return os.path.samestat(found, os.fstat(descriptor))


def _linked(name: str, other: str, source: int, target: int) -> bool:
    """Give a file a second name, which fails if the name is taken; False where links cannot be."""
    try:
        os.link(name, other, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        with contextlib.suppress(FileNotFoundError):
            os.stat(other, dir_fd=target, follow_symlinks=False)
            taken = errno.EEXIST, os.strerror(errno.EEXIST), name, None, other
            raise FileExistsError(*taken) from error
        return False
    return True


def json_bytes(value: object) -> bytes:
    """Return a value as JSON, as files of runs hold it."""
    return (json.dumps(value, indent=2) + "\n").encode()


def _path_of(handle: int, given: Path) -> Path:
    """Return where an open folder is: the given path, or where it was moved to."""
    with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(handle), given.stat()):
            return given
    with contextlib.suppress(OSError):
        if os.fstat(handle).st_nlink > 0:  # not removed
            return Path(f"/proc/self/fd/{handle}").readlink()
    return given


def _made_free(path: Path) -> Path:
    """Make a new folder at a path or, if that is taken, at `path-2`, `path-3` and so on."""
    number, free = 2, path
    while True:
        try:
            free.mkdir(parents=True)
        except FileExistsError:
            number, free = number + 1, path.with_name(f"{path.name}-{number}")
            continue
        return free


def plain(name: str) -> str:
    """Return a name that leads nowhere else.

    Raises:
        ValueError: it is a path.
    """
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} is not a plain name")
    return name


def _link(path: Path) -> OSError:
    what = "it is a link, which a run is not read or written through"
    return OSError(errno.ELOOP, what, str(path))


@contextlib.contextmanager
def _naming(path: Path, to: Path | None = None) -> Generator[None]:
    """Give errors full paths instead of names alone, and say that a link is one."""
    try:
        yield
    except OSError as error:
        if error.errno in _LINKS:
            raise _link(path) from error
        if not isinstance(error.filename, str) or "/" not in error.filename:  # a name alone
            error.filename = str(path)
        if to is not None and error.filename2 is not None:
            error.filename2 = str(to)
        raise
