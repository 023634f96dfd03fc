"""A body is read whole, within its bound, or not at all."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import gevent
import pytest

from webapp.arriving import BodyBounds, expect_upload
from webapp.errors import ApiError

_MOST = 10


def _read(sent: bytes, announced: str | None, sizes: tuple[int, ...] = (-1,)) -> bytes:
    """Return what a view reads of a body that arrived as far as `sent`."""

    def view(environ: Any, _start_response: Any) -> list[bytes]:
        return [environ["wsgi.input"].read(size) for size in sizes]

    environ: dict[str, Any] = {"wsgi.input": BytesIO(sent)}
    if announced is not None:
        environ["CONTENT_LENGTH"] = announced
    application: Any = BodyBounds(view, 1.0, _MOST)
    return b"".join(application(environ, None))


@pytest.mark.parametrize("sent", [b"", b"a", b"a" * _MOST])
@pytest.mark.parametrize("is_announced", [True, False])
@pytest.mark.parametrize("sizes", [(-1,), (-1, -1), (4, 4, 4, 4), (4, -1)])
def test_a_body_is_read_whole(sent: bytes, is_announced: bool, sizes: tuple[int, ...]) -> None:
    assert _read(sent, str(len(sent)) if is_announced else None, sizes) == sent


@pytest.mark.parametrize(
    ("sent", "announced", "sizes", "code"),
    [
        (b"a" * 11, "11", (-1,), "too_large"),
        (b"", "11", (-1,), "too_large"),  # before any of it has come
        (b"a" * 11, None, (-1,), "too_large"),
        (b"a" * 11, None, (4, 4, 4), "too_large"),
        # Its client has gone: what came would pass for all of it.
        (b"data=hel", "10", (-1,), "bad_request"),
        (b"", "1", (-1,), "bad_request"),
        (b"data=hel", "10", (4, 4, 4), "bad_request"),
    ],
)
def test_a_body_too_long_or_cut_off_is_refused(
    sent: bytes, announced: str | None, sizes: tuple[int, ...], code: str
) -> None:
    with pytest.raises(ApiError) as refused:
        _read(sent, announced, sizes)
    assert refused.value.failure.code == code


@pytest.mark.parametrize("error", [ConnectionResetError(), TimeoutError()])
def test_a_client_that_has_gone_is_no_fault_of_ours(error: OSError) -> None:
    """Its connection ends while its body is read: that is refused as half a body is, or as one that is late."""

    class Broken(BytesIO):
        def read(self, _size: int | None = -1, /) -> bytes:
            raise error

    application: Any = BodyBounds(lambda environ, _: [environ["wsgi.input"].read()], 1.0, _MOST)
    with pytest.raises(ApiError) as refused:
        application({"wsgi.input": Broken(), "CONTENT_LENGTH": "5"}, None)
    assert refused.value.failure.code == ("request_too_slow" if isinstance(error, TimeoutError) else "bad_request")


@pytest.mark.parametrize(("length", "is_taken"), [(30, True), (31, False)])
@pytest.mark.parametrize("is_announced", [True, False])
def test_an_upload_may_be_longer(length: int, is_announced: bool, is_taken: bool) -> None:
    def view(environ: Any, _start_response: Any) -> list[bytes]:
        expect_upload(environ, 30, 1_000)
        return [environ["wsgi.input"].read(7) for _ in range(6)]

    environ: dict[str, Any] = {"wsgi.input": BytesIO(bytes(length))}
    if is_announced:
        environ["CONTENT_LENGTH"] = str(length)
    application: Any = BodyBounds(view, 1.0, _MOST)
    if is_taken:
        assert b"".join(application(environ, None)) == bytes(length)
        return
    with pytest.raises(ApiError) as refused:
        application(environ, None)
    assert refused.value.failure.code == "too_large"


def test_the_time_we_take_is_not_the_clients() -> None:
    """An upload that waits for our disk for longer than its client may pause goes on after it."""

    class Slow(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            gevent.sleep(0.01)
            return super().read(size)

    def view(environ: Any, _start_response: Any) -> list[bytes]:
        expect_upload(environ, 30, 1_000)
        pieces = []
        for _ in range(3):
            pieces.append(environ["wsgi.input"].read(10))
            gevent.sleep(0.3)
        return pieces

    application: Any = BodyBounds(view, 0.2, _MOST)

    assert b"".join(application({"wsgi.input": Slow(bytes(30)), "CONTENT_LENGTH": "30"}, None)) == bytes(30)
