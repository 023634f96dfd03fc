"""Uploading files, and giving them out to whoever knows their names (ORIG 6.5, contract section 6)."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from io import FileIO

from flask import Blueprint, Request, Response
from werkzeug.exceptions import RequestedRangeNotSatisfiable
from werkzeug.wsgi import FileWrapper

from models.files import FOLDERS
from schemas.filetypes import FILE_TYPES, Kind, extension_of
from schemas.uploads import FOLDER_PARAMS, IMAGE_PARAMS, UPLOADED_IMAGES, UploadedFile
from webapp.auth import Gatekeeper
from webapp.errors import ApiError
from webapp.http import ok, this_request
from webapp.origins import Origins
from webapp.routes import describe
from webapp.uploads import PIECE_BYTES, Uploads

_PATH = "/public/uploads/"
_FOLDER_OF_KIND: dict[Kind, str] = {
    "image": "chatImgs",
    "audio": "chatAudios",
    "video": "chatVideos",
    "file": "chatFiles",
}
_HOST = re.compile(r"[A-Za-z0-9._\-\[\]:]+")
_FAILURES = (
    "upload_type_refused",
    "upload_content_differs",
    "upload_too_large",
    "upload_quota",
    "too_many_uploads",
    "uploads_unavailable",
)
# A name is never given to another file. What is shown is shown alone: nothing in it runs, nothing in it loads.
_HEADERS = {
    "Cache-Control": "public, max-age=31536000, immutable",
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; sandbox",
    "X-Content-Type-Options": "nosniff",
}


def make_blueprint(gatekeeper: Gatekeeper, uploads: Uploads, origins: Origins) -> Blueprint:
    blueprint = Blueprint("uploads", __name__)

    @blueprint.post("/api/chat/uploadStreamSingleToServerDiy/<diydir>")
    @describe(
        f"Upload a file into one of the folders {', '.join(FOLDERS)}",
        access="visitor",
        params=FOLDER_PARAMS,
        file="file",
        answer=UploadedFile(),
        failures=("upload_folder_unknown", *_FAILURES),
    )
    def post_file(diydir: str) -> Response:
        asked = this_request()
        uploads.expect(asked)
        caller = gatekeeper.caller()
        folder = FOLDER_PARAMS.read({"diydir": diydir})["diydir"]
        if folder not in FOLDERS:
            raise ApiError("upload_folder_unknown")
        with uploads.receive(asked, caller, "file") as arrived:
            return ok({"url": _PATH + uploads.keep(arrived, caller, folder)})

    @blueprint.post("/api/chat/uploadAliyun")
    @describe(
        "Upload a file into the folder of its kind",
        access="visitor",
        params=IMAGE_PARAMS,
        file="img",
        answer=UPLOADED_IMAGES,
        failures=_FAILURES,
    )
    def post_image() -> Response:
        asked = this_request()
        uploads.expect(asked)
        caller = gatekeeper.caller()
        base = _base_of(asked)
        with uploads.receive(asked, caller, "img") as arrived:
            params = IMAGE_PARAMS.read(asked.args, arrived.fields)
            path = _PATH + uploads.keep(arrived, caller, _FOLDER_OF_KIND[arrived.kind])
        image = {"url": base + path, "path": path, "image_class_id": params["imageClassId"]}
        return ok([{**image, "create_time": int(time.time())}])

    def _base_of(asked: Request) -> str:
        scheme, host = origins.own(asked)
        if scheme not in ("http", "https") or not _HOST.fullmatch(host):
            raise ApiError("bad_request")  # no URL can be made of it
        return f"{scheme}://{host}"

    @blueprint.get(_PATH + "<path:name>")
    @describe(
        "A file that was uploaded: for whoever knows its name, with `Range`",
        access="anyone",
        answer=None,
        also={206: None},
        media="*/*",
        failures=("range_invalid", "uploads_unavailable"),
    )
    def get_file(name: str) -> Response:
        found = uploads.open(name)
        if found is None:
            raise ApiError("not_found")
        file, size, written_at = found
        asked = this_request()
        response = Response(FileWrapper(_Served(file, uploads), PIECE_BYTES), direct_passthrough=True)  # type: ignore[arg-type]
        known = FILE_TYPES.get(extension_of(name))
        response.content_type = known.media_type if known else "application/octet-stream"
        response.headers.update(_HEADERS)
        if known is None or known.kind == "file":
            response.headers["Content-Disposition"] = "attachment"
        response.content_length = size
        response.last_modified = datetime.fromtimestamp(written_at, UTC)
        response.set_etag(name.rpartition("_")[2])
        environ = dict(asked.environ)
        if asked.range is not None and (asked.range.units != "bytes" or len(asked.range.ranges) > 1):
            # RFC 9110 section 14.2: another unit a server must ignore, several ranges it may.
            del environ["HTTP_RANGE"]
        try:
            response.make_conditional(environ, accept_ranges=True, complete_length=size)
        except RequestedRangeNotSatisfiable:
            file.close()
            raise
        return response

    return blueprint


class _Served:
    """A file whose reads hold up nobody else."""

    def __init__(self, file: FileIO, uploads: Uploads) -> None:
        self._file = file
        self._uploads = uploads
        self.seek, self.tell, self.seekable, self.close = file.seek, file.tell, file.seekable, file.close

    def read(self, size: int) -> bytes:
        return self._uploads.read(self._file, size)
