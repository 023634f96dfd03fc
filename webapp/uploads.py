"""Uploads: the file of a multipart body on its way to the disk, piece by piece, so that it is never in memory as a whole.

How large it may be, how much of a day's quota it takes and how many come at once is checked here; what it may be says
`schemas/filetypes.py`, where it lies `models/files.py`. What waits for the disk waits in native threads.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import FileIO
from typing import Any, TypeVar

import structlog
from flask import Request
from gevent.threadpool import ThreadPool
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from models.errors import FilesUnavailable, NoRoom
from models.files import Files, PartialFile, new_name
from schemas.filetypes import FILE_TYPES, HEAD_BYTES, Kind, extension_for, extension_of
from schemas.params import Fault, InvalidParams
from settings import Settings, SettingsError
from webapp.arriving import expect_upload
from webapp.auth import Caller
from webapp.counts import counts
from webapp.errors import ApiError
from webapp.limiting import Limits
from webapp.services import call_in

log = structlog.get_logger()

Result = TypeVar("Result")

PIECE_BYTES = 65_536
_FORM_BYTES = 16_384  # of a body that are not its file: boundaries, heads, other fields
_PER_USER = 16  # of UPLOADS_AT_ONCE, so that nobody takes all of them
_MAX_PARTS = 20
_THREADS = 8  # more than a disk does at once
_DISK_RETRY_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Arrived:
    """A file that is whole on the disk and has no name yet, and the other fields of its form."""

    extension: str
    kind: Kind
    partial: PartialFile
    fields: dict[str, str]


class Uploads:
    """Takes files and gives them out. Raises SettingsError: UPLOAD_EXTENSIONS names one of which nothing is known."""

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self._files = Files(settings.upload_dir, settings.upload_keep_free_bytes)
        self._limits = limits
        self._max_bytes = settings.upload_max_bytes
        self._min_rate = settings.upload_min_rate
        # Whoever keeps up the rate must have sent a piece before his time is over.
        slowest = int(settings.upload_min_rate * settings.request_max_seconds / 2)
        self._piece_bytes = max(1, min(PIECE_BYTES, slowest))
        self._at_once = settings.uploads_at_once
        self._under_way: Counter[int] = Counter()  # by user
        self._extensions = {name.strip().lower() for name in settings.upload_extensions} or set(FILE_TYPES)
        unknown = self._extensions - set(FILE_TYPES)
        if unknown:
            raise SettingsError(f"UPLOAD_EXTENSIONS names {sorted(unknown)}; known are {', '.join(FILE_TYPES)}")

    def expect(self, request: Request) -> None:
        """Let a request have the body of an upload. To be called first: so much is read of a refused one, too."""
        # A piece more, so that of a file of unannounced length it is told that it is too large, and not its body.
        expect_upload(request.environ, self._max_bytes + _FORM_BYTES + PIECE_BYTES, self._min_rate)

    @contextmanager
    def receive(self, request: Request, caller: Caller, field: str) -> Iterator[Arrived]:
        """Take the file out of a field of a request's form. After the block it is gone, unless it was kept.

        Raises ApiError; InvalidParams: there is no file, or more than one; StoreUnavailable.
        """
        most = min(self._max_bytes, self._limits.upload_quota(caller.role))
        announced = request.content_length or 0
        if announced > most + _FORM_BYTES:
            raise _too_large()
        self._limits.count_upload(caller.user_id, caller.role, announced - _FORM_BYTES, is_over=False)
        with self._place(caller.user_id):
            form = _Form(request, field, self._piece_bytes)
            pieces = form.pieces()
            head = _head(pieces)
            extension = self._recognise(form.filename, head[:HEAD_BYTES])
            partial = self._on_disk(self._writers, self._files.begin)
            try:
                self._write(partial, head, most)
                for piece in pieces:
                    self._write(partial, piece, most)
                self._on_disk(self._writers, partial.sync)
                yield Arrived(extension, FILE_TYPES[extension].kind, partial, form.fields)
            finally:
                self._on_disk(self._writers, partial.discard)

    def keep(self, arrived: Arrived, caller: Caller, folder: str) -> str:
        """Count a file against its user's quota and keep it in a folder; return its name. Raises as `receive`."""
        name = new_name(folder, arrived.extension, time.time_ns() // 1_000_000)
        size = arrived.partial.size
        # At the end, so that of parallel uploads as many come through as there is room for, and broken ones cost nothing.
        self._limits.count_upload(caller.user_id, caller.role, size, is_over=True)
        self._on_disk(self._writers, arrived.partial.keep, name)
        counts.uploads[arrived.kind] += 1
        counts.upload_bytes[arrived.kind] += size
        log.info("upload_kept", user_id=caller.user_id, kind=arrived.kind, bytes=size)  # not its name, which opens it
        return name

    def open(self, name: str) -> tuple[FileIO, int, float] | None:
        """As `Files.open`. Raises ApiError."""
        return self._on_disk(self._readers, self._files.open, name)

    def read(self, file: FileIO, size: int) -> bytes:
        """Read on in a file. Raises OSError."""
        return self._on_disk(self._readers, file.read, size)

    def _on_disk(self, threads: ThreadPool, function: Callable[..., Result], *args: Any) -> Result:
        """Call what waits for the disk. Raises ApiError with uploads_unavailable."""
        try:
            return call_in(threads, function, *args)
        except FilesUnavailable as error:
            if isinstance(error, NoRoom):
                counts.bounds["UPLOAD_KEEP_FREE_BYTES"] += 1
            log.warning("uploads_unavailable", error=str(error))
            raise ApiError("uploads_unavailable", retry_after=_DISK_RETRY_SECONDS) from error

    @contextmanager
    def _place(self, user_id: int) -> Iterator[None]:
        if self._under_way[user_id] >= _PER_USER or self._under_way.total() >= self._at_once:
            counts.bounds["UPLOADS_AT_ONCE"] += 1
            raise ApiError("too_many_uploads")
        self._under_way[user_id] += 1
        try:
            yield
        finally:
            self._under_way[user_id] -= 1
            self._under_way += Counter()  # forgets who has none

    def _recognise(self, filename: str, head: bytes) -> str:
        """Return the extension of a file: its name's, which its content must agree with, else what its content says."""
        extension = extension_of(filename) or extension_for(head)
        if extension is None or extension not in self._extensions:
            raise ApiError("upload_type_refused")
        if not FILE_TYPES[extension].fits(head):
            raise ApiError("upload_content_differs")
        return extension

    def _write(self, partial: PartialFile, piece: bytes, most: int) -> None:
        if partial.size + len(piece) > most:
            raise _too_large()
        self._on_disk(self._writers, partial.write, piece)

    @cached_property
    def _writers(self) -> ThreadPool:
        return ThreadPool(_THREADS)

    @cached_property
    def _readers(self) -> ThreadPool:
        return ThreadPool(_THREADS)  # which do not wait behind whoever waits for large files to be synced


class _Form:
    """A multipart form that holds one file. filename, fields: what was read of it so far"""

    def __init__(self, request: Request, field: str, piece_bytes: int) -> None:
        self._request = request
        self._field = field
        self._piece_bytes = piece_bytes
        self._has_file = False
        self._part: Event | None = None
        self._text = b""  # of the part, where it is no file
        self._text_bytes = 0  # of all parts
        self.filename = ""
        self.fields: dict[str, str] = {}

    def pieces(self) -> Iterator[bytes]:
        """Give the content of the file, then read the form to its end. Raises ApiError, InvalidParams."""
        try:
            for event in self._events():
                if isinstance(event, Field | File):
                    self._begin_part(event)
                elif isinstance(event, Data) and isinstance(self._part, File):
                    yield event.data
                elif isinstance(event, Data):
                    self._take_text(event)
        except RequestEntityTooLarge as error:
            raise ApiError("too_large") from error
        except ValueError as error:
            raise ApiError("bad_request") from error
        if not self._has_file:
            raise self._missing()

    def _events(self) -> Iterator[Event]:
        asked = self._request
        if asked.mimetype != "multipart/form-data":
            raise self._missing()
        boundary = asked.mimetype_params.get("boundary", "").encode("ascii")
        if not boundary:
            raise ValueError("no boundary")
        decoder = MultipartDecoder(boundary, 2 * PIECE_BYTES, max_parts=_MAX_PARTS)
        while True:
            decoder.receive_data(asked.stream.read(self._piece_bytes) or None)
            while not isinstance(event := decoder.next_event(), NeedData):
                yield event
                if isinstance(event, Epilogue):
                    return

    def _begin_part(self, part: Field | File) -> None:
        self._part, self._text = part, b""
        if isinstance(part, File):
            if part.name != self._field or self._has_file:
                raise InvalidParams(
                    self._field,
                    Fault(
                        f"只能上传一个文件，且字段名必须是 `{self._field}`",
                        f"The form must hold one file, in the field `{self._field}`",
                    ),
                )
            self._has_file, self.filename = True, part.filename

    def _take_text(self, event: Data) -> None:
        self._text_bytes += len(event.data)
        if self._text_bytes > _FORM_BYTES:
            raise ApiError("too_large")
        self._text += event.data
        if not event.more_data and isinstance(self._part, Field) and self._part.name:
            self.fields[self._part.name] = self._text.decode()

    def _missing(self) -> InvalidParams:
        return InvalidParams(self._field, Fault("文件不能为空", f"`{self._field}` is missing"))


def _head(pieces: Iterator[bytes]) -> bytes:
    """Return the beginning of a file: enough to tell what it is, or all of it."""
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= HEAD_BYTES:
            break
    return head


def _too_large() -> ApiError:
    counts.bounds["UPLOAD_MAX_BYTES"] += 1
    return ApiError("upload_too_large")
