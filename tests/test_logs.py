"""What is written to stderr has no secrets in it, whoever wrote it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from logs import _RedactedStream, redacted

_ROOT = Path(__file__).resolve().parent.parent
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
        ("{'token': 'x.y'}", "{'token':[hidden]'}"),
        (r'{"event": "got {\"token\": \"x.y\"}"}', r'{"event": "got {\"token\":[hidden]\"}"}'),
        (r"{'password': 'a\\b'}", "{'password':[hidden]'}"),
        ("PASSWORD=geheim", "PASSWORD=[hidden]"),
        ("PGPASSWORD=geheim HOME=/", "PGPASSWORD=[hidden] HOME=/"),
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


_LOGGED = """
import logging, structlog
from logs import configure_logs
configure_logs("info")
structlog.contextvars.bind_contextvars(message_id="m1")
structlog.get_logger().info("ours", sequence=3)
library = logging.getLogger("a.library")
library.warning("theirs %s", '{"password": "geheim"}')
library.info("too little to be told")
try:
    secret_of_a_local = 1 / 0
except ZeroDivisionError:
    library.exception("failed\\nin two lines")
"""


def test_what_libraries_log_is_json_too() -> None:
    """One object a line, whoever wrote it, with what is bound; tracebacks within, as ours have them."""
    done = subprocess.run([sys.executable, "-c", _LOGGED], cwd=_ROOT, capture_output=True, text=True, timeout=30)

    ours, theirs, failed = [json.loads(line) for line in done.stderr.splitlines()]
    assert (ours["event"], ours["sequence"]) == ("ours", 3)
    assert (theirs["level"], theirs["logger"]) == ("warning", "a.library")
    assert "geheim" not in theirs["event"]
    assert (failed["level"], failed["event"]) == ("error", "failed\nin two lines")
    assert failed["exception"][0]["exc_type"] == "ZeroDivisionError"
    assert {each["message_id"] for each in (ours, theirs, failed)} == {"m1"}
    assert all("timestamp" in each for each in (ours, theirs, failed))
