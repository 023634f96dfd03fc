"""Which files may be uploaded: by extension what they are served as, and how their content must begin.

Two libraries were tried in place of this table: `filetype` knows no 3GP of phones and no fragmented MP4, `puremagic` neither
that nor MPEG-2 audio, which is what browsers and phones record. What a page could run (SVG, HTML) has no row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["image", "audio", "video", "file"]

HEAD_BYTES = 1_024  # of a file that say what it is

# ISO base media (ISO/IEC 14496-12): the brand behind `ftyp` says for whom. Players go by what is inside, so any that is no
# image's will do.
_STILL = rb"(?:hei[cmsx]|hev[cmsx]|mi[af]f|mif[12]|msf1|avi[fs])"
_FILM = rb".{4}ftyp(?!" + _STILL + rb")"
_ZIP = rb"PK\x03\x04"
_EMPTY_ZIP = rb"PK\x05\x06"
_OLE = rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_TEXT = rb"[^\0]*\Z"


@dataclass(frozen=True, slots=True)
class FileType:
    kind: Kind
    media_type: str
    begins: re.Pattern[bytes]

    def fits(self, head: bytes) -> bool:
        """Return whether a file that begins so can be of this type. head: `HEAD_BYTES` of it, or all where it is shorter"""
        return self.begins.match(head) is not None


def _type(kind: Kind, media_type: str, begins: bytes) -> FileType:
    return FileType(kind, media_type, re.compile(begins, re.DOTALL))


_JPEG = _type("image", "image/jpeg", rb"\xff\xd8\xff")
_TEXT_FILE = _type("file", "text/plain; charset=utf-8", _TEXT)
_OFFICE = "application/vnd.openxmlformats-officedocument"

FILE_TYPES = {
    "jpg": _JPEG,
    "jpeg": _JPEG,
    "jfif": _JPEG,
    "png": _type("image", "image/png", rb"\x89PNG\r\n\x1a\n"),
    "gif": _type("image", "image/gif", rb"GIF8[79]a"),
    "webp": _type("image", "image/webp", rb"RIFF.{4}WEBP"),
    "bmp": _type("image", "image/bmp", rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0{3}"),
    "heic": _type("image", "image/heic", rb".{4}ftyp" + _STILL),
    "heif": _type("image", "image/heif", rb".{4}ftyp" + _STILL),
    "avif": _type("image", "image/avif", rb".{4}ftyp" + _STILL),
    "mp3": _type("audio", "audio/mpeg", rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]"),
    "aac": _type("audio", "audio/aac", rb"ADIF|\xff[\xf0\xf1\xf8\xf9]"),
    "amr": _type("audio", "audio/amr", rb"#!AMR"),
    "wav": _type("audio", "audio/wav", rb"RIFF.{4}WAVE"),
    "ogg": _type("audio", "audio/ogg", rb"OggS"),
    "oga": _type("audio", "audio/ogg", rb"OggS"),
    "opus": _type("audio", "audio/ogg", rb"OggS"),
    "flac": _type("audio", "audio/flac", rb"fLaC"),
    "mp4": _type("video", "video/mp4", _FILM),
    "m4v": _type("video", "video/mp4", _FILM),
    "m4a": _type("audio", "audio/mp4", _FILM),
    "3gp": _type("video", "video/3gpp", _FILM),
    "mov": _type("video", "video/quicktime", _FILM + rb"|.{4}(?:moov|mdat|wide|free|skip)"),
    "webm": _type("video", "video/webm", rb"\x1a\x45\xdf\xa3"),
    "pdf": _type("file", "application/pdf", rb"%PDF-"),
    "doc": _type("file", "application/msword", _OLE),
    "xls": _type("file", "application/vnd.ms-excel", _OLE),
    "ppt": _type("file", "application/vnd.ms-powerpoint", _OLE),
    "zip": _type("file", "application/zip", _ZIP + rb"|" + _EMPTY_ZIP),
    "docx": _type("file", f"{_OFFICE}.wordprocessingml.document", _ZIP),
    "xlsx": _type("file", f"{_OFFICE}.spreadsheetml.sheet", _ZIP),
    "pptx": _type("file", f"{_OFFICE}.presentationml.presentation", _ZIP),
    "rar": _type("file", "application/vnd.rar", rb"Rar!\x1a\x07"),
    "7z": _type("file", "application/x-7z-compressed", rb"7z\xbc\xaf\x27\x1c"),
    "txt": _TEXT_FILE,
    "csv": _type("file", "text/csv; charset=utf-8", _TEXT),
    "md": _TEXT_FILE,
}


def extension_of(filename: str) -> str:
    """Return what stands behind the last dot of a file's name, in lower case; empty where there is none.

    A browser calls a recording that has no name `blob`.
    """
    _, dot, extension = re.split(r"[/\\]", filename)[-1].rpartition(".")
    return extension.lower() if dot else ""


def extension_for(head: bytes) -> str | None:
    """Return the extension of a file by how it begins; None where that says nothing, as with text."""
    found = (name for name, each in FILE_TYPES.items() if each.begins.pattern != _TEXT and each.fits(head))
    return next(found, None)
