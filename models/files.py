"""Files that users have uploaded: a folder in which a file stands whole and durable under its name, or not at all.

It comes as a partial file with another name and is renamed once it is on the disk, so that nobody reads half of one. All that
knows of a folder is here: another kind of store would offer the same operations. What a file may be is the callers' matter.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from models.errors import FilesUnavailable, NoRoom

# The folders of the original's path `Diy/<folder>/<day>/<ms>_<random><extension>`. Its client knows the first.
FOLDERS = ("chatImgs", "chatAudios", "chatVideos", "chatFiles", "avatars")

_PARTIAL = "partial"
_LOOK_BYTES = 1_048_576  # between two looks at how much room the disk has
_RANDOM_BYTES = 16  # 128 bits: a file is served to whoever knows its name
_NAME = re.compile(rf"Diy/(?:{'|'.join(FOLDERS)})/\d{{8}}/\d{{13}}_[0-9a-f]{{{2 * _RANDOM_BYTES}}}\.[0-9a-z]{{1,8}}")


def new_name(folder: str, extension: str, now_ms: int) -> str:
    """Return a name that nobody can guess. folder: one of `FOLDERS`; now_ms: UTC, which gives the day"""
    day = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y%m%d")
    return f"Diy/{folder}/{day}/{now_ms}_{secrets.token_hex(_RANDOM_BYTES)}.{extension}"


class Files:
    """The files below a folder. Every operation waits for the disk, and raises FilesUnavailable where that fails.

    keep_free_bytes: of the disk that are left to others, such as the database beside it
    """

    def __init__(self, root: Path, keep_free_bytes: int) -> None:
        self._root = root
        self._keep_free_bytes = keep_free_bytes

    def begin(self) -> PartialFile:
        """Begin a file that has no name yet."""
        with _translated():
            if not (self._root / _PARTIAL).exists():
                _make_folder(self._root / _PARTIAL)
            return PartialFile(self._root, self._keep_free_bytes)

    def open(self, name: str) -> tuple[FileIO, int, float] | None:
        """Return a file to read, its size, and when it was written in seconds; None: there is none of this name."""
        if not _NAME.fullmatch(name):
            return None  # whatever else lies there, and whatever leads elsewhere
        with _translated():
            try:
                file = FileIO(self._root / name)
            except FileNotFoundError:
                return None
            found = os.fstat(file.fileno())
            return file, found.st_size, found.st_mtime

    def remove_partials(self, unwritten_seconds: float) -> int:
        """Remove what nobody has written to for so long, and return how many: those who wrote it were killed."""
        count = 0
        with _translated():
            for path in (self._root / _PARTIAL).glob("*"):
                try:
                    if path.stat().st_mtime < time.time() - unwritten_seconds:
                        path.unlink()
                        count += 1
                except FileNotFoundError:
                    pass  # it was kept or discarded meanwhile
        return count


class PartialFile:
    """A file on its way, to be kept or discarded. Its operations raise as those of `Files`."""

    def __init__(self, root: Path, keep_free_bytes: int) -> None:
        self._root = root
        self._keep_free_bytes = keep_free_bytes
        self._path = root / _PARTIAL / secrets.token_hex(_RANDOM_BYTES)
        self._file = FileIO(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w")
        self._is_kept = False
        self._look_at_size = 0
        self.size = 0

    def write(self, data: bytes) -> None:
        with _translated():
            if self.size >= self._look_at_size:
                self._look_at_size = self.size + _LOOK_BYTES
                free = os.fstatvfs(self._file.fileno())
                if free.f_bavail * free.f_frsize < self._keep_free_bytes + _LOOK_BYTES:
                    raise NoRoom("no more room than is kept free")
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
            self.size += len(data)

    def sync(self) -> None:
        """Return when the content is on the disk."""
        with _translated():
            os.fsync(self._file.fileno())

    def keep(self, name: str) -> None:
        """Give the file, which was synced, its name. When this returns the name is on the disk too."""
        with _translated():
            self._file.close()
            target = self._root / name
            _make_folder(target.parent)
            os.rename(self._path, target)
            self._is_kept = True
            _sync_folder(target.parent)

    def discard(self) -> None:
        """Leave nothing of a file that was not kept; one that was stays. Raises nothing."""
        try:
            self._file.close()
            if not self._is_kept:
                self._path.unlink()
        except OSError:
            pass  # `remove_partials` will find it


def _make_folder(folder: Path) -> None:
    """Make a folder that is there after a loss of power too, whoever has made how much of it already."""
    missing = [folder]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)
        _sync_folder(each.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FilesUnavailable(error.strerror or type(error).__name__) from error
