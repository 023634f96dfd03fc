"""Uploads and what is served of them: through real processes, on a real disk, with clients that behave and that do not."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from celery import Celery

from models.files import FOLDERS
from schemas.filetypes import FILE_TYPES
from tests.support.instance import Instance, wait_until
from tests.support.relations import add_users

_MAX_BYTES = (
    4_200_000  # 105 pieces of those that are read of a body at once: more, and the form around it, is the next one
)
_VISITOR_QUOTA = 200_000
_PAUSE_SECONDS = 2.0
_MIN_RATE = 40_000
_PATH = "/api/chat/uploadStreamSingleToServerDiy/"
_BOUNDARY = "the-boundary"
_PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 16
_FILM = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"
_URL = re.compile(r"/public/uploads/Diy/(\w+)/(\d{8})/(\d{13})_([0-9a-f]{32})\.(\w+)")


@pytest.fixture(scope="module")
def here() -> Iterator[Instance]:
    """An instance with small bounds, behind a proxy on 127.0.0.2."""
    with Instance(
        {
            "UPLOAD_EXTENSIONS": ",".join(name for name in FILE_TYPES if name != "rar"),
            "UPLOAD_MAX_BYTES": str(_MAX_BYTES),
            "UPLOAD_QUOTA_VISITOR_BYTES": str(_VISITOR_QUOTA),
            "UPLOAD_MIN_RATE": str(_MIN_RATE),
            "REQUEST_MAX_SECONDS": str(_PAUSE_SECONDS),
            "TRUSTED_PROXIES": "127.0.0.2",
        }
    ) as instance:
        instance.seed(2, 0)
        yield instance


def _upload(
    instance: Instance, user_id: int, name: str, content: bytes, folder: str = "chatImgs", **options: Any
) -> requests.Response:
    return requests.post(
        f"{instance.base}{_PATH}{folder}",
        headers={"token": instance.tokens[user_id]},
        files={"file": (name, content)},
        timeout=60,
        **options,
    )


def _url(response: requests.Response) -> str:
    assert response.status_code == 200, response.text
    url = response.json()["data"]["url"]
    assert isinstance(url, str)
    return url


def _refusal(response: requests.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def _partials(instance: Instance) -> list[Path]:
    return list((instance.data_dir / "uploads" / "partial").glob("*"))


def _kept(instance: Instance) -> set[Path]:
    return set((instance.data_dir / "uploads" / "Diy").rglob("*.*"))


def _form(content: bytes, name: str = "a.mp4", field: str = "file") -> bytes:
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
    return head.encode() + content + f"\r\n--{_BOUNDARY}--\r\n".encode()


class _Raw:
    """An upload that a test sends as slowly, and as far, as it likes. length: what the head announces; None: chunks"""

    def __init__(self, instance: Instance, user_id: int, length: int | None, path: str = f"{_PATH}chatVideos") -> None:
        self.socket = socket.create_connection(("127.0.0.1", instance.port), timeout=15.0)
        how = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        self.socket.sendall(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\ntoken: {instance.tokens[user_id]}\r\n"
            f"Content-Type: multipart/form-data; boundary={_BOUNDARY}\r\n{how}\r\n\r\n".encode()
        )
        self._is_chunked = length is None

    def send(self, data: bytes) -> None:
        if self._is_chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self.socket.sendall(data)

    def answer(self) -> tuple[int, str]:
        """Return status and code; the code is empty where there is none."""
        response = http.client.HTTPResponse(self.socket)
        response.begin()
        body = json.loads(response.read())
        self.socket.close()
        return response.status, body.get("code", "")


# Served


@pytest.mark.parametrize("role", ["user", "visitor"])
def test_a_file_is_served_to_whoever_was_told_of_it(here: Instance, role: str) -> None:
    """Without a session, as it was uploaded, under a name that nobody guesses; it is kept by caches for ever."""
    (user_id,) = add_users(here, role=role)

    url = _url(_upload(here, user_id, "Photo.PNG", _PNG))

    match = _URL.fullmatch(url)
    assert match is not None
    assert (match[1], match[2], match[5]) == (
        "chatImgs",
        time.strftime("%Y%m%d", time.gmtime(int(match[3]) / 1000)),
        "png",
    )
    served = requests.get(here.base + url, timeout=10)
    assert (served.status_code, served.content) == (200, _PNG)
    headers = served.headers
    assert headers["Content-Type"] == "image/png"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert {"sandbox", "default-src 'none'"} <= set(re.split(r"; ?", headers["Content-Security-Policy"]))
    assert "Content-Disposition" not in headers
    again = requests.get(here.base + url, headers={"If-None-Match": headers["ETag"]}, timeout=10)
    assert (again.status_code, again.content) == (304, b"")
    head = requests.head(here.base + url, timeout=10)
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(_PNG)))


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=0-0", 206, slice(0, 1)),
        ("bytes=100-1099", 206, slice(100, 1_100)),
        ("bytes=4000-999999", 206, slice(4_000, None)),
        ("bytes=-5", 206, slice(-5, None)),
        ("bytes=0-1,5-6", 200, slice(None)),  # which nobody needs to understand
        ("lines=1-2", 200, slice(None)),
        ("bytes=2-1", 416, None),
        ("bytes=999999-", 416, None),
    ],
)
def test_a_part_of_a_file_is_served(here: Instance, asked: str, status: int, part: slice | None) -> None:
    """Players seek in it (RFC 9110 section 14)."""
    content = _FILM + os.urandom(4_096)
    url = _url(_upload(here, 1, "a.mp4", content, "chatVideos"))

    served = requests.get(here.base + url, headers={"Range": asked}, timeout=10)

    assert served.status_code == status
    if part is None:
        assert served.headers["Content-Range"] == f"bytes */{len(content)}"
        assert served.json()["code"] == "range_invalid"
    else:
        assert served.content == content[part]
        assert ("Content-Range" in served.headers) is (status == 206)


@pytest.mark.parametrize(
    ("name", "content", "media_type", "is_shown"),
    [
        ("a.gif", b"GIF89a" + bytes(20), "image/gif", True),
        ("a.mp3", b"ID3\4" + bytes(20), "audio/mpeg", True),
        ("a.webm", b"\x1a\x45\xdf\xa3" + bytes(20), "video/webm", True),
        ("a.pdf", b"%PDF-1.7\n", "application/pdf", False),
        ("a.txt", b"<script>alert(1)</script>", "text/plain; charset=utf-8", False),
        ("blob", _PNG, "image/png", True),  # what a browser calls a recording
    ],
)
def test_what_is_no_picture_sound_or_film_is_a_download(
    here: Instance, name: str, content: bytes, media_type: str, is_shown: bool
) -> None:
    served = requests.get(here.base + _url(_upload(here, 1, name, content)), timeout=10)

    assert (served.status_code, served.content) == (200, content)
    assert served.headers["Content-Type"] == media_type
    assert served.headers["X-Content-Type-Options"] == "nosniff"
    assert served.headers.get("Content-Disposition") == (None if is_shown else "attachment")


def test_the_cloud_s_route_answers_with_a_whole_url(here: Instance) -> None:
    """ORIG's `uploadAliyun`: as the client has called us, which a proxy knows if it is one of ours."""

    def upload(host: str, **headers: str) -> dict[str, Any]:
        response = requests.post(
            f"http://{host}:{here.port}/api/chat/uploadAliyun",
            headers={"token": here.tokens[1], **headers},
            data={"imageClassId": "7"},
            files={"img": ("a.mp3", b"ID3\4" + bytes(20))},
            timeout=10,
        )
        assert response.status_code == 200, response.text
        (image,) = response.json()["data"]
        assert isinstance(image, dict)
        return image

    began = int(time.time())
    image = upload("127.0.0.1")

    assert sorted(image) == ["create_time", "image_class_id", "path", "url"]
    assert image["url"] == here.base + image["path"]
    assert image["path"].startswith("/public/uploads/Diy/chatAudios/")
    assert image["image_class_id"] == 7
    assert began <= image["create_time"] <= time.time()
    assert requests.get(image["url"], timeout=10).status_code == 200
    forged = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example"}
    assert upload("127.0.0.1", **forged)["url"].startswith(here.base)


def test_the_cloud_s_route_believes_our_proxy(here: Instance) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", here.port, timeout=10, source_address=("127.0.0.2", 0))
    headers = {
        "token": here.tokens[1],
        "Content-Type": f"multipart/form-data; boundary={_BOUNDARY}",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "chat.example:8443",
    }
    for host, status in (("chat.example:8443", 200), ('chat.example/"><b>', 400), ("a b", 400)):
        connection.request(
            "POST", "/api/chat/uploadAliyun", _form(_PNG, "a.png", "img"), {**headers, "X-Forwarded-Host": host}
        )
        response = connection.getresponse()
        answer = json.loads(response.read())
        assert response.status == status
        if status == 200:
            assert answer["data"][0]["url"] == f"https://{host}{answer['data'][0]['path']}"
        else:
            assert answer["code"] == "bad_request"
    connection.close()


# Where they lie


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_folder_takes_files(here: Instance, folder: str) -> None:
    assert f"/Diy/{folder}/" in _url(_upload(here, 1, "a.png", _PNG, folder))


@pytest.mark.parametrize(
    ("folder", "status", "code"),
    [
        ("..", 400, "upload_folder_unknown"),
        ("%2e%2e", 400, "upload_folder_unknown"),
        ("chatImgs_.._.._x", 400, "upload_folder_unknown"),  # ORIG: an underscore begins a folder in it
        ("chatImgs_2026", 400, "upload_folder_unknown"),
        ("chatimgs", 400, "upload_folder_unknown"),
        ("chatImgs.", 400, "upload_folder_unknown"),
        ("partial", 400, "upload_folder_unknown"),
        ("..%5c..", 400, "upload_folder_unknown"),
        ("..%2f..%2fetc", 404, "not_found"),
        ("chatImgs/..", 404, "not_found"),
        ("a%00b", 422, "invalid"),
    ],
)
def test_no_other_folder_does(here: Instance, folder: str, status: int, code: str) -> None:
    """The folders are a fixed set (ORIG G1), and what is refused leaves nothing."""
    before = set(here.data_dir.rglob("*.png"))
    connection = http.client.HTTPConnection("127.0.0.1", here.port, timeout=10)
    headers = {"token": here.tokens[1], "Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}

    connection.request("POST", _PATH + folder, _form(_PNG, "a.png"), headers)
    response = connection.getresponse()

    assert (response.status, json.loads(response.read())["code"]) == (status, code)
    assert set(here.data_dir.rglob("*.png")) == before


def test_nothing_else_is_served(here: Instance) -> None:
    """No path leads out of the folder, no folder is listed, no partial file is shown."""
    url = _url(_upload(here, 1, "a.png", _PNG))
    partial = here.data_dir / "uploads" / "partial" / ("a" * 32)
    partial.write_bytes(b"half")
    stranger = here.data_dir / "uploads" / "Diy" / "chatImgs" / "index.html"
    stranger.write_bytes(b"<html>")
    folder = url.rpartition("/")[0]
    day = url.split("/")[-2]
    paths = [
        "/public/uploads/../jwt_secret",
        "/public/uploads/%2e%2e/jwt_secret",
        "/public/uploads/..%2fjwt_secret",
        f"{folder}/../../../../jwt_secret",
        f"/public/uploads/Diy/chatImgs/{day}/..%2f..%2f..%2f..%2fjwt_secret",
        f"/public/uploads/{here.data_dir}/jwt_secret",
        f"/public/uploads//{here.data_dir}/jwt_secret",
        "/public/uploads",
        "/public/uploads/",
        "/public/uploads/Diy",
        folder,
        f"{folder}/",
        f"{url}%00",
        f"{url}/",
        f"{url}.html",
        url.replace("Diy", "diy"),
        "/public/uploads/Diy/chatImgs/index.html",
        f"/public/uploads/partial/{partial.name}",
    ]
    connection = http.client.HTTPConnection("127.0.0.1", here.port, timeout=10)
    found = {}
    for path in paths:
        connection.request("GET", path)  # as it is: other clients tidy it up
        response = connection.getresponse()
        response.read()
        found[path] = response.status
    connection.close()
    partial.unlink()
    stranger.unlink()

    assert found == dict.fromkeys(paths, 404)


# What they may be


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.png", b"<html><script>alert(1)</script>", "upload_content_differs"),
        ("a.jpg", b"MZ\x90\0" + bytes(100), "upload_content_differs"),
        ("a.jpg", _PNG, "upload_content_differs"),
        ("a.mp4", b"\0\0\0\x18ftypheic\0\0\0\0", "upload_content_differs"),
        ("a.txt", b"\x7fELF\2\1\1\0" + bytes(50), "upload_content_differs"),
        ("a.docx", b"<?xml version='1.0'?>", "upload_content_differs"),
        ("a.png", b"", "upload_content_differs"),
        ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "upload_type_refused"),
        ("a.html", b"<html>", "upload_type_refused"),
        ("a.png.php", _PNG, "upload_type_refused"),
        ("a.rar", b"Rar!\x1a\7\0", "upload_type_refused"),  # which this instance does not take
        ("a.exe", b"MZ\x90\0" + bytes(100), "upload_type_refused"),
        ("a.", _PNG, None),
        ("../../a.png", _PNG, None),  # of a name nothing but the extension is used
        ("noname", b"just text", "upload_type_refused"),
        ("..", _PNG, None),
    ],
)
def test_extension_and_content_agree(here: Instance, name: str, content: bytes, code: str | None) -> None:
    """What a page could run is not taken, nor what is not what it calls itself (ORIG G3)."""
    before = _kept(here)

    response = _upload(here, 1, name, content)

    if code is None:
        assert _url(response).endswith(".png")
        return
    assert _refusal(response) == (400, code)
    assert response.json()["data"].startswith("上传失败: ")
    assert (_kept(here), _partials(here)) == (before, [])


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"{}", "application/json", 422, "invalid"),
        (b"file=x", "application/x-www-form-urlencoded", 422, "invalid"),
        (_form(_PNG, "a.png", "other"), f"multipart/form-data; boundary={_BOUNDARY}", 422, "invalid"),
        (
            _form(_PNG, "a.png").removesuffix(b"--\r\n") + b"\r\n" + _form(_PNG, "b.png").partition(b"\r\n")[2],
            f"multipart/form-data; boundary={_BOUNDARY}",
            422,
            "invalid",
        ),
        (f"--{_BOUNDARY}--\r\n".encode(), f"multipart/form-data; boundary={_BOUNDARY}", 422, "invalid"),
        (_form(_PNG, "a.png")[:-10], f"multipart/form-data; boundary={_BOUNDARY}", 400, "bad_request"),
        (_form(_PNG, "a.png"), "multipart/form-data; boundary=another", 400, "bad_request"),
        (_form(_PNG, "a.png"), "multipart/form-data", 400, "bad_request"),
        (b"", "multipart/form-data; boundary=x", 400, "bad_request"),
        (b"\xff" * 5_000, f"multipart/form-data; boundary={_BOUNDARY}", 400, "bad_request"),
        (
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="a"\r\n\r\n'.encode() + b"x" * 20_000,
            f"multipart/form-data; boundary={_BOUNDARY}",
            413,
            "too_large",
        ),
        (
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n'.encode() * 30,
            f"multipart/form-data; boundary={_BOUNDARY}",
            413,
            "too_large",
        ),
        (
            f"--{_BOUNDARY}\r\nA: ".encode() + b"x" * 200_000,
            f"multipart/form-data; boundary={_BOUNDARY}",
            413,
            "too_large",
        ),
    ],
)
def test_a_malformed_form_changes_nothing(
    here: Instance, body: bytes, content_type: str, status: int, code: str
) -> None:
    before = _kept(here)
    headers = {"token": here.tokens[1], "Content-Type": content_type}

    response = requests.post(f"{here.base}{_PATH}chatImgs", body, headers=headers, timeout=10)

    assert _refusal(response) == (status, code)
    assert (_kept(here), _partials(here)) == (before, [])


def test_a_token_is_not_looked_for_in_an_upload(here: Instance) -> None:
    """Who has none is told at once, however large his file is."""
    response = requests.post(
        f"{here.base}{_PATH}chatImgs",
        data={"token": here.tokens[1]},
        files={"file": _FILM + bytes(2_000_000)},
        timeout=10,
    )

    assert _refusal(response) == (400, "token_missing")
    query = requests.post(
        f"{here.base}{_PATH}chatImgs?token={here.tokens[1]}", files={"file": ("a.png", _PNG)}, timeout=10
    )
    assert query.status_code == 200


# How much


@pytest.mark.parametrize("is_announced", [True, False])
def test_a_file_that_is_too_large_leaves_nothing(here: Instance, is_announced: bool) -> None:
    """One byte more than the setting allows, or many; its client comes to read why. One byte less is taken."""
    before = _kept(here)
    content = _FILM + bytes(_MAX_BYTES - len(_FILM))
    assert len(content) == _MAX_BYTES

    answers = []
    for more in (b"", b"\0", bytes(1_000_000)):
        form = _form(content + more)
        raw = _Raw(here, 1, len(form) if is_announced else None)
        for start in range(0, len(form), 500_000):
            raw.send(form[start : start + 500_000])
        if not is_announced:
            raw.send(b"")
        answers.append(raw.answer())

    assert answers == [(200, ""), (413, "upload_too_large"), (413, "upload_too_large")]
    assert wait_until(lambda: _partials(here) == [], 5.0)
    (kept,) = _kept(here) - before
    assert kept.stat().st_size == _MAX_BYTES
    kept.unlink()


@pytest.mark.parametrize(
    ("folder", "announced", "refusal"),
    [
        ("nowhere", _MAX_BYTES, (400, "upload_folder_unknown")),
        ("chatVideos", 2 * _MAX_BYTES, (413, "upload_too_large")),
    ],
)
def test_who_is_refused_early_comes_to_read_why(
    here: Instance, folder: str, announced: int, refusal: tuple[int, str]
) -> None:
    """Clients read an answer when they have sent all, so the rest is let pass instead of resetting the connection."""
    raw = _Raw(here, 1, announced, f"{_PATH}{folder}")
    for _ in range(8):
        raw.send(bytes(announced // 8))
        time.sleep(0.05)

    assert raw.answer() == refusal


def test_a_body_of_any_length_is_not_read(here: Instance) -> None:
    """A head that announces too much is answered at once."""
    raw = _Raw(here, 1, 10**15)

    assert raw.answer() == (413, "upload_too_large")


def test_parallel_uploads_share_a_quota_exactly(here: Instance) -> None:
    """A quota of ten files gives ten of twenty that come at once, and tells the others when to come again."""
    (visitor_id,) = add_users(here, role="visitor")
    content = _PNG + bytes(_VISITOR_QUOTA // 10 - len(_PNG))
    before = _kept(here)

    with ThreadPoolExecutor(20) as pool:
        responses = list(pool.map(lambda _: _upload(here, visitor_id, "a.png", content), range(20)))

    assert Counter(response.status_code for response in responses) == {200: 10, 429: 10}
    refused = [response for response in responses if response.status_code == 429]
    assert {response.json()["code"] for response in refused} == {"upload_quota"}
    assert all(86_000 < int(response.headers["Retry-After"]) <= 86_400 for response in refused)
    assert len(_kept(here) - before) == 10
    assert _partials(here) == []
    assert _refusal(_upload(here, visitor_id, "a.png", _PNG)) == (429, "upload_quota")
    assert _upload(here, 1, "a.png", content).status_code == 200  # a user's is another


def test_what_was_refused_takes_nothing_of_a_quota(here: Instance) -> None:
    """Half of it refused for its content, twice, leaves room for all of it; a file above all of it is too large for ever."""
    (visitor_id,) = add_users(here, role="visitor")
    for _ in range(3):
        assert _refusal(_upload(here, visitor_id, "a.png", bytes(_VISITOR_QUOTA // 2)))[0] == 400

    assert _refusal(_upload(here, visitor_id, "a.png", _PNG + bytes(_VISITOR_QUOTA)))[0] == 413
    assert _upload(here, visitor_id, "a.png", _PNG + bytes(_VISITOR_QUOTA - len(_PNG))).status_code == 200
    assert _refusal(_upload(here, visitor_id, "a.png", _PNG)) == (429, "upload_quota")


def test_small_files_count_as_blocks_of_the_disk(here: Instance) -> None:
    """Else a quota would let a million files of one byte through."""
    (visitor_id,) = add_users(here, role="visitor")
    gifs = _VISITOR_QUOTA // 4_096

    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda _: _upload(here, visitor_id, "a.gif", b"GIF89a"), range(gifs + 3)))

    assert Counter(response.status_code for response in responses) == {200: gifs, 429: 3}


def test_nobody_takes_all_places(here: Instance) -> None:
    """Of a user 16 uploads may be under way in a web process; one more is told to wait, others are served."""
    here.wait_processes("web", 2)
    form = _form(_FILM + bytes(400_000))
    slow = [_Raw(here, 1, len(form)) for _ in range(33)]
    for raw in slow:
        raw.send(form[:200_000])
    assert wait_until(lambda: len(_partials(here)) >= 16, 5.0)

    assert _upload(here, 2, "a.png", _PNG).status_code == 200
    answers = []
    for raw in slow:
        raw.send(form[200_000:])
        answers.append(raw.answer())

    assert {(200, ""), (429, "too_many_uploads")} == set(answers)
    assert answers.count((200, "")) <= 32
    assert wait_until(lambda: _partials(here) == [], 5.0)


# Clients that stop, processes that die


@pytest.mark.parametrize("is_announced", [True, False])
def test_an_upload_that_is_broken_off_leaves_nothing(here: Instance, is_announced: bool) -> None:
    before = _kept(here)
    form = _form(_FILM + bytes(1_000_000))
    for is_abrupt in (False, True):
        raw = _Raw(here, 1, len(form) if is_announced else None)
        raw.send(form[:500_000])
        assert wait_until(lambda: len(_partials(here)) == 1, 5.0)
        if is_abrupt:
            raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        raw.socket.close()

        assert wait_until(lambda: _partials(here) == [], 5.0)

    assert _kept(here) == before


def test_a_slow_upload_may_take_its_time(here: Instance) -> None:
    """It is given up when it falls below UPLOAD_MIN_RATE, not after REQUEST_MAX_SECONDS; nor is haste a credit for later."""
    form = _form(_FILM + bytes(1_000_000))
    steady, idle, trickling = (_Raw(here, 1, len(form)) for _ in range(3))
    began = time.monotonic()
    idle.send(form[:900_000])
    ended: list[float] = []

    def trickle() -> None:
        try:
            for sent in range(0, len(form), _MIN_RATE // 20):
                trickling.send(form[sent : sent + _MIN_RATE // 20])
                time.sleep(0.1)
        except OSError:
            ended.append(time.monotonic() - began)

    def wait_for_idle() -> None:
        assert idle.answer() == (408, "request_too_slow")
        ended.append(time.monotonic() - began)

    threads = [threading.Thread(target=trickle), threading.Thread(target=wait_for_idle)]
    for thread in threads:
        thread.start()
    pieces = 10
    for number in range(pieces):
        steady.send(form[number * len(form) // pieces : (number + 1) * len(form) // pieces])
        time.sleep(3 * _PAUSE_SECONDS / pieces)

    assert steady.answer() == (200, "")
    assert time.monotonic() - began > 2 * _PAUSE_SECONDS
    for thread in threads:
        thread.join(10)
    assert len(ended) == 2, "an upload below the rate went on"
    assert wait_until(lambda: _partials(here) == [], 5.0)


def test_memory_does_not_grow_with_uploads(here: Instance) -> None:
    """Sixty megabytes at once pass through the web processes, each of which grows by a few."""
    processes = [psutil.Process(pid) for pid in here.wait_processes("web", 2)]
    form = _form(_FILM + os.urandom(_MAX_BYTES - len(_FILM)))
    uploads = [_Raw(here, 1, len(form)) for _ in range(15)]
    for raw in uploads:
        raw.send(form[:100_000])
    assert wait_until(lambda: len(_partials(here)) == 15, 5.0)
    before = [process.memory_info().rss for process in processes]
    peak = list(before)
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.01):
            peak[:] = [max(seen, process.memory_info().rss) for seen, process in zip(peak, processes, strict=True)]

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(15) as pool:
        list(pool.map(lambda raw: raw.send(form[100_000:]), uploads))
    answers = Counter(raw.answer() for raw in uploads)
    is_over.set()
    watcher.join()

    assert answers == {(200, ""): 15}
    grown = [(most - least) / 2**20 for most, least in zip(peak, before, strict=True)]
    print(f"grown by {grown} MiB")
    assert max(grown) < 16


def test_a_killed_process_leaves_what_housekeeping_removes(here: Instance) -> None:
    """What was answered stays; what was under way goes, once nobody has written to it for a while."""
    url = _url(_upload(here, 1, "a.png", _PNG))
    before = _kept(here)
    form = _form(_FILM + bytes(1_000_000))
    dying = _Raw(here, 1, len(form))
    dying.send(form[:500_000])
    assert wait_until(lambda: len(_partials(here)) == 1, 5.0)

    for pid in here.wait_processes("web", 2):
        os.kill(pid, signal.SIGKILL)

    here.wait_ready()
    here.wait_processes("web", 2)
    (left,) = _partials(here)
    young = left.with_name("b" * 32)
    young.write_bytes(b"somebody writes this")
    os.utime(left, (0, time.time() - 3_600))
    celery = Celery(broker=f"redis+socket://{here.redis_socket}?virtual_host=1")
    celery.send_task("remove_partial_uploads", queue="housekeeping")
    assert wait_until(lambda: not left.exists(), 10.0)
    assert young.exists()
    young.unlink()
    assert requests.get(here.base + url, timeout=10).content == _PNG
    assert _kept(here) == before
    dying.socket.close()


def test_a_disk_that_cannot_be_used_is_told(here: Instance) -> None:
    """503 and when to come again; when it is back, so are the files."""
    url = _url(_upload(here, 1, "a.png", _PNG))
    uploads, away = here.data_dir / "uploads", here.data_dir / "away"
    uploads.rename(away)
    uploads.write_bytes(b"no folder")
    try:
        response = _upload(here, 1, "a.png", _PNG)
        assert _refusal(response) == (503, "uploads_unavailable")
        assert response.headers["Retry-After"] == "60"
        assert requests.get(here.base + url, timeout=10).status_code == 503
    finally:
        uploads.unlink()
        away.rename(uploads)

    assert requests.get(here.base + url, timeout=10).content == _PNG


# Watched


def test_uploads_are_counted_and_logged_without_their_names(here: Instance) -> None:
    def count() -> float:
        text = requests.get(f"{here.base}/metrics", timeout=10).text
        found = re.search(r'^hongyan_uploads_total\{kind="audio"\} (\S+)', text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    before = count()

    url = _url(_upload(here, 1, "my secret.mp3", b"ID3\4" + bytes(20)))

    assert wait_until(lambda: count() == before + 1, 5.0)
    logged = "".join(path.read_text(errors="replace") for path in here.log_dir.glob("*.log"))
    assert '"event": "upload_kept"' in logged
    assert "my secret" not in logged
    assert url.rpartition("/")[2] not in logged
