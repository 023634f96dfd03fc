"""What is written to stderr has no secrets in it, whoever wrote it."""

from __future__ import annotations

import io

import pytest

from logs import _RedactedStream, redacted

_TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJpZCI6MX0.c2lnbmF0dXJlX29mLWl0"


@pytest.mark.parametrize(
    "text",
    [
        f"Error handling request /ws?token={_TOKEN}",
        f"Error handling request /ws?v=2&ticket={_TOKEN}&x=1",
        f"<Greenlet at 0x7f: check(<Connection>, '{_TOKEN}')> failed with KeyError",
        f"Authorization: Bearer {_TOKEN}",
        f"{{'Authorization': 'Bearer {_TOKEN}', 'token': '{_TOKEN}'}}",
        f'{{"event": "x", "url": "/ws?token={_TOKEN}"}}',
    ],
)
def test_a_token_is_hidden(text: str) -> None:
    """Wherever it stands: in an address, a header, an argument."""
    shown = redacted(text)

    assert not any(part in shown for part in _TOKEN.split("."))
    assert "[hidden]" in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET /ws?ticket=abc_1-2 HTTP/1.1", "GET /ws?ticket=[hidden] HTTP/1.1"),
        ("/ws?v=2&Token=x.y&z=1", "/ws?v=2&Token=[hidden]&z=1"),
        ('{"password":"geheim", "n": 1}', '{"password":[hidden]", "n": 1}'),
        ("Bearer k-1", "Bearer [hidden]"),
        ('{"event": "token_invalid", "user_id": 1}', '{"event": "token_invalid", "user_id": 1}'),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_what_is_hidden_and_what_is_not(text: str, shown: str) -> None:
    """The name stays, so that one can see what it was."""
    assert redacted(text) == shown


def test_a_stream_hides_what_is_written_to_it() -> None:
    """Line by line or at once."""
    inner = io.StringIO()
    stream = _RedactedStream(inner)

    stream.write("token=abc\n")
    stream.writelines(["ticket=abc\n", "plain\n"])
    stream.flush()

    assert inner.getvalue() == "token=[hidden]\nticket=[hidden]\nplain\n"
