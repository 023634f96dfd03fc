"""Types of files: each is known by how its content begins, and none is taken for another."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from schemas.filetypes import FILE_TYPES, extension_for, extension_of


def _ftyp(brand: bytes) -> bytes:
    return b"\0\0\0\x18ftyp" + brand + b"\0\0\2\0" + brand + b"mp41" + bytes(40)


_JPEG = b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(20)
_FILM = tuple(
    _ftyp(brand) for brand in (b"isom", b"mp42", b"iso5", b"avc1", b"dash", b"MSNV", b"M4V ", b"3gp4", b"qt  ", b"M4A ")
)
_STILL = tuple(_ftyp(brand) for brand in (b"heic", b"heix", b"mif1", b"msf1", b"avif"))
_OGG = b"OggS\0\2" + bytes(20) + b"\1\x13OpusHead"
_ZIP = b"PK\3\4\x14\0\6\0[Content_Types].xml"
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(40)
_TEXTS = (b"", b"plain", "微信,1\r\n".encode(), "微信".encode("gbk"))

_SAMPLES: dict[str, tuple[bytes, ...]] = {
    **dict.fromkeys(("jpg", "jpeg", "jfif"), (_JPEG, b"\xff\xd8\xff\xe1\0\x10Exif", b"\xff\xd8\xff\xdb\0\x43")),
    "png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",),
    "gif": (b"GIF87a", b"GIF89a"),
    "webp": (b"RIFF\x24\n\0\0WEBPVP8 ",),
    "bmp": (b"BM\x96\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0",),
    **dict.fromkeys(("heic", "heif", "avif"), _STILL),
    "mp3": (b"ID3\4\0", b"\xff\xfb\x90d", b"\xff\xf3\x40\xc4", b"\xff\xe3\x18\xc4"),
    "aac": (b"\xff\xf1P\x80", b"\xff\xf9P\x80", b"ADIF"),
    "amr": (b"#!AMR\n", b"#!AMR-WB\n"),
    "wav": (b"RIFF\x24\n\0\0WAVEfmt ",),
    **dict.fromkeys(("ogg", "oga", "opus"), (_OGG,)),
    "flac": (b"fLaC\0\0\0\x22",),
    **dict.fromkeys(("mp4", "m4v", "m4a", "3gp"), _FILM),
    "mov": (*_FILM, b"\0\0\0\x08wide\0\0\1\0mdat", b"\0\0\1\0moov"),
    "webm": (b"\x1a\x45\xdf\xa3\x9fB\x86\x81\1B\xf7\x81\1B\xf2\x81\4B\xf3\x81\x08B\x82\x84webm",),
    "pdf": (b"%PDF-1.7\n",),
    **dict.fromkeys(("doc", "xls", "ppt"), (_OLE,)),
    **dict.fromkeys(("docx", "xlsx", "pptx"), (_ZIP,)),
    "zip": (_ZIP, b"PK\5\6" + bytes(18)),
    "rar": (b"Rar!\x1a\7\0", b"Rar!\x1a\7\1\0"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4",),
    **dict.fromkeys(("txt", "csv", "md"), _TEXTS),
}
_FOREIGN = [b"MZ\x90\0", b"\x7fELF\2\1\1\0", b"\xca\xfe\xba\xbe\0\0\0\x34", bytes(100), b"\0asm\1\0\0\0"]


@pytest.mark.parametrize("extension", list(FILE_TYPES))
def test_a_file_of_a_type_fits_it_and_others_do_not(extension: str) -> None:
    mine = _SAMPLES[extension]
    others = [sample for name, samples in _SAMPLES.items() if samples is not mine for sample in samples]
    is_text = FILE_TYPES[extension].media_type.startswith("text/")
    is_film = extension in ("mov", "mp4", "m4v", "m4a", "3gp")

    assert all(FILE_TYPES[extension].fits(sample) for sample in mine)
    if not is_text:
        # Without a NUL a short sample is text, and a film is one whatever its extension says of who plays it.
        others = [sample for sample in others if not (is_film and sample in _FILM)]
        assert [sample for sample in others if sample not in mine and FILE_TYPES[extension].fits(sample)] == []
    assert [sample for sample in _FOREIGN if FILE_TYPES[extension].fits(sample)] == []


@pytest.mark.parametrize("page", [b"<html><script>", b"<?xml version='1.0'?><svg>", b"<!DOCTYPE html>"])
def test_a_page_is_text_at_most(page: bytes) -> None:
    """It is served as such and as a download."""
    assert {FILE_TYPES[name].media_type.split("/")[0] for name in FILE_TYPES if FILE_TYPES[name].fits(page)} == {"text"}


def test_no_type_is_a_page() -> None:
    shown = [each.media_type for each in FILE_TYPES.values()]

    assert [
        media_type for media_type in shown if any(word in media_type for word in ("html", "svg", "xml;", "script"))
    ] == []


@pytest.mark.parametrize(
    ("name", "extension"),
    [
        ("a.png", "png"),
        ("A.B.JPG", "jpg"),
        ("blob", ""),
        ("", ""),
        ("x.y/blob", ""),
        ("C:\\a.b\\c", ""),
        (".png", "png"),
        ("a.", ""),
    ],
)
def test_the_extension_stands_behind_the_last_dot(name: str, extension: str) -> None:
    assert extension_of(name) == extension


def test_the_page_says_which_are_known() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text()
    (listed,) = re.findall(r"^  Known are (.*)\.$", page, re.MULTILINE)

    assert re.findall(r"`(\w+)`", listed) == list(FILE_TYPES)


def test_a_file_without_an_extension_is_known_by_its_content() -> None:
    assert extension_for(_JPEG) == "jpg"
    assert extension_for(_ftyp(b"isom")) == "mp4"
    assert extension_for(b"\x1a\x45\xdf\xa3") == "webm"
    assert extension_for(b"just text") is None
    assert extension_for(b"") is None
