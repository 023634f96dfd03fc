"""Structured logs: one JSON object per line, a static event and fields. Message text and tokens never stand in them.

Nobody logs a secret on purpose. But others quote what they were given, gunicorn the address of a request that failed,
gevent the arguments of a greenlet that did: so whatever a process writes to stderr is looked through once more.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Any, TextIO

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import Processor

_HINTS = ("eyJ", "oken", "OKEN", "icket", "ICKET", "assword", "ASSWORD", "uthorization", "earer")
# Quotes have a backslash before them where what is quoted stands in a text of JSON.
_SECRETS = re.compile(
    r"eyJ[\w-]{6,}(?:\.[\w-]*){0,2}"  # a signed token, wherever it stands
    r"|(?<=earer )[\w.~+/=-]+"
    r"|(?i:(?<=token=)|(?<=ticket=)|(?<=password=))[^\s&\"'\\]+"
    r"|(?i:(?<=token)|(?<=ticket)|(?<=password))(?P<name_ends>\\?[\"']:)\s*\\?[\"'](?:[^\"'\\]|\\(?![\"']))*"
)
_HIDDEN = r"\g<name_ends>[hidden]"


def redacted(text: str) -> str:
    """Return a text without what looks like a token, a ticket, a password or a key."""
    if not any(hint in text for hint in _HINTS):
        return text
    return _SECRETS.sub(_HIDDEN, text)


class _RedactedStream:
    """A text stream that hides secrets in what is written to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(redacted(text))

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def redact_stderr() -> None:
    """Hide secrets in all that this process writes to stderr from now on. Handlers made before keep the old stream."""
    if not isinstance(sys.stderr, _RedactedStream):
        sys.stderr = _RedactedStream(sys.stderr)


def configure_logs(level: str) -> None:
    """Send structlog and the standard library's loggers to stderr as JSON lines. Call once per process."""
    redact_stderr()
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # Without the values of variables: among them are message text and tokens.
        structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
    ]
    as_json = structlog.processors.JSONRenderer(ensure_ascii=False)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *processors],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, as_json],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    structlog.configure(
        processors=[*processors, as_json],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
