"""A body is read whole, within its bound, or not at all."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest

from webapp.arriving import BodyBounds
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
