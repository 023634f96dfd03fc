"""Dumps: what mysqldump and mariadb-dump write, read row by row, whatever their size. It knows no table by name.

Only what such a dump consists of is understood: values are literals. Everything that is no INSERT, REPLACE, CREATE TABLE, USE
or SET is passed over. What cannot be understood raises DumpError with its place; nothing is guessed. Of the libraries that
read dumps none is kept up, and none reads MySQL's literals exactly.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

Value = str | int | bytes | None

_CHUNK_BYTES = 1 << 20
_MAX_TOKEN_BYTES = 64 << 20  # one value; MySQL's own bound of a statement is 1 GB, of a text column 64 KB
_MAX_DIGITS = 40  # of a whole number; MySQL has no longer one than 65, and the columns that count none than 20
_MAX_BITS = 64  # MySQL's own bound of a BIT
_MAX_COLUMNS = 4_096  # MySQL's own bound of a table
_MAX_NAME_BYTES = 1_024  # MySQL's own bound is 64 characters
_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"

# latin1 is what MySQL calls Windows-1252. Others may hold a quote or a backslash within a character.
_CHARSETS = {
    "utf8mb4": "utf-8",
    "utf8mb3": "utf-8",
    "utf8": "utf-8",
    "binary": "utf-8",
    "ascii": "utf-8",
    "latin1": "cp1252",
}
_ESCAPES = {b"0": b"\0", b"b": b"\b", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"Z": b"\x1a", b"%": b"\\%", b"_": b"\\_"}
_ESCAPE_OR_DOUBLED = {quote: re.compile(rb"\\(.)|" + quote * 2, re.DOTALL) for quote in (b"'", b'"')}

# A quoted text ends at the first quote that is neither escaped nor doubled. Not with possessive groups, which find too little
# in Python before 3.11.5; behind the last quote stands none, so that what is not all in memory is never taken for less.
_COMMENT = rb"/\*(?:M!|!999999|(?!M?!))[^*]*(?:\*(?!/)[^*]*)*\*/"
_SINGLE = rb"'[^'\\]*(?:(?:\\.|'')[^'\\]*)*'(?!')"
_DOUBLE = rb'"[^"\\]*(?:(?:\\.|"")[^"\\]*)*"(?!")'
_TOKEN = re.compile(
    rb"(?P<space>[\s\0]+)"
    rb"|(?P<comment>--(?=\s|\Z)[^\n]*|#[^\n]*|" + _COMMENT + rb")"
    rb"|(?P<conditional>/\*!\d*|\*/)"  # what stands within is done by MySQL, so it is read
    rb"|(?P<string>" + _SINGLE + rb"|" + _DOUBLE + rb")"
    rb"|(?P<name>`[^`]*(?:``[^`]*)*`(?!`))"
    rb"|(?P<bytes>[xX]'[0-9a-fA-F]*'|0x[0-9a-fA-F]+)"
    rb"|(?P<bits>[bB]'[01]*'|0b[01]+)"
    rb"|(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
    rb"|(?P<word>[A-Za-z_$@\x80-\xff][\w$@\x80-\xff]*)"
    rb"|(?P<sign>.)",
    re.DOTALL,
)
# A value as nearly all are, with what ends it: a row of such is read at a fifth of what its tokens would cost.
_PLAIN = re.compile(rb"\s*(?:(" + _SINGLE + rb")|(-?\d{1,40})|NULL)\s*([,)])", re.DOTALL)
_NO_COLUMNS = frozenset(
    b"PRIMARY KEY UNIQUE INDEX CONSTRAINT FULLTEXT SPATIAL CHECK FOREIGN PERIOD LIKE".split()
)  # words that begin what is no column


class DumpError(Exception):
    """The file is not a dump that can be read, or ends in the middle. offset: where that is, in the text unpacked."""

    def __init__(self, text: str, offset: int | None = None) -> None:
        super().__init__(text if offset is None else f"{text} (at byte {offset:,})")


@dataclass(frozen=True, slots=True)
class Row:
    """One row. database: what the dump says it is of, empty where it says nothing. columns: None where it names none."""

    database: str
    table: str
    columns: Sequence[str] | None
    values: Sequence[Value]


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    raw: bytes
    offset: int


class Dump:
    """One dump file. Iterating gives its rows, once; afterwards `sha256` and `is_complete` hold.

    sha256: of the text, so that packing a dump makes no other one of it. is_complete: whether its last line says that it is
    whole, which one written without comments does not. Texts keep bytes that are no characters as lone surrogates.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sha256 = ""
        self.is_complete = False
        self._hash = hashlib.sha256()
        self._raw: IO[bytes] | None = None
        self._file: IO[bytes]
        self._buffer = b""
        self._at = 0  # in the buffer
        self._before = 0  # bytes of the text before the buffer
        self._is_over = False
        self._delimiter = b";"
        self._encoding = "utf-8"
        self._database = ""
        self._columns: dict[tuple[str, str], list[str]] = {}

    @property
    def bytes_read(self) -> int:
        """How much of the file has been read, packed as it is."""
        return 0 if self._raw is None or self._raw.closed else self._raw.tell()

    def __iter__(self) -> Iterator[Row]:
        """Raises DumpError, OSError."""
        with self.path.open("rb") as raw:
            self._open(raw)
            yield from self._statements()
        self.sha256 = self._hash.hexdigest()

    def checksum(self) -> str:
        """Give `sha256` without reading rows. Raises DumpError, OSError."""
        with self.path.open("rb") as raw:
            self._open(raw)
            while self._read_more():
                self._at = len(self._buffer)
        return self._hash.hexdigest()

    def _open(self, raw: IO[bytes]) -> None:
        self._raw = raw
        is_packed = raw.read(2) == _GZIP
        raw.seek(0)
        self._file = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if is_packed else raw

    # Statements

    def _statements(self) -> Iterator[Row]:
        while (token := self._next()) is not None:
            word = token.raw.upper() if token.kind == "word" else b""
            if word in (b"INSERT", b"REPLACE"):
                yield from self._insert()
            elif word == b"CREATE":
                self._create()
            elif word == b"USE":
                self._database = self._name(self._must())
                self._skip()
            elif word == b"SET":
                self._set()
            elif word == b"DELIMITER":
                self._delimiter = self._rest_of_line() or b";"
            elif token.raw != b";":
                self._skip(token)

    def _insert(self) -> Iterator[Row]:
        token = self._must()
        while token.raw.upper() in (b"LOW_PRIORITY", b"DELAYED", b"HIGH_PRIORITY", b"IGNORE", b"INTO"):
            token = self._must()
        (database, table), token = self._table(token)
        columns = self._columns.get((database, table))
        if token.raw == b"(":
            columns = []
            while token.raw != b")":
                _check_count(columns, token)
                columns.append(self._name(self._must()))
                token = self._expect(b",", b")")
            token = self._must()
        if token.raw.upper() not in (b"VALUES", b"VALUE"):
            raise DumpError(f"INSERT INTO {table} has no VALUES", token.offset)
        while True:
            self._expect(b"(")
            values = self._values()
            if columns is not None and len(values) != len(columns):
                raise DumpError(f"a row of {table} has {len(values)} values for {len(columns)} columns", self._offset)
            yield Row(database, table, columns, values)
            token = self._must()
            if token.raw != b",":
                break
        self._skip(token)

    def _values(self) -> list[Value]:
        """Give the values of a row up to its closing bracket; the opening one is read."""
        return self._plain_values() or self._any_values()

    def _plain_values(self) -> list[Value]:
        """Give the values of a row that stands in memory and holds nothing special; else none, and nothing is read."""
        values: list[Value] = []
        buffer, at, encoding = self._buffer, self._at, self._encoding
        while (match := _PLAIN.match(buffer, at)) is not None:
            text, number, end = match.groups()
            if text is not None:
                values.append(_unescaped(text).decode(encoding, "surrogateescape"))
            else:
                values.append(None if number is None else int(number))
            at = match.end()
            if end == b")":
                self._at = at
                return values
        return []

    def _any_values(self) -> list[Value]:
        values: list[Value] = []
        token = self._must()
        if token.raw == b")":
            return values
        while True:
            value = self._value(token)
            token = self._must()
            if token.kind == "string" and isinstance(value, str):
                value, token = self._joined(value, token)
            _check_count(values, token)
            values.append(value)
            if token.raw == b")":
                return values
            if token.raw != b",":
                raise DumpError(f"{_shown(token.raw)} stands where a comma is due", token.offset)
            token = self._must()

    def _joined(self, text: str, token: _Token) -> tuple[str, _Token]:
        """Give a text with those that follow it, `'a' 'b'` being `'ab'`, and what comes behind them."""
        texts, size = [text], len(text)
        while token.kind == "string":
            texts.append(self._text(token))
            size += len(texts[-1])
            if size > _MAX_TOKEN_BYTES:
                raise _too_long(token.offset)
            token = self._must()
        return "".join(texts), token

    def _value(self, token: _Token) -> Value:
        raw = token.raw
        if token.kind == "string":
            return self._text(token)
        if token.kind == "number":
            return int(raw) if raw.lstrip(b"+-").isdigit() and len(raw) <= _MAX_DIGITS else raw.decode()
        if token.kind == "bytes":
            digits = raw[2:-1] if raw[1:2] == b"'" else raw[2:]
            return bytes.fromhex(("0" if len(digits) % 2 else "") + digits.decode())
        if token.kind == "bits":
            digits = raw[2:-1] if raw[1:2] == b"'" else raw[2:]
            if len(digits) > _MAX_BITS:
                raise DumpError(f"a value has more than {_MAX_BITS} bits", token.offset)
            return int(digits or b"0", 2)
        word = raw.upper()
        if word == b"NULL":
            return None
        if word in (b"TRUE", b"FALSE"):
            return int(word == b"TRUE")
        if word == b"N" or raw.startswith(b"_"):  # of which character set it is
            follows = self._must()
            if follows.kind in ("string", "bytes"):
                value = self._value(follows) if follows.kind == "bytes" else _unescaped(follows.raw)
                assert isinstance(value, bytes)
                return value if word == b"_BINARY" else self._decoded(value, raw[1:].decode().lower(), token)
        raise DumpError(f"{_shown(raw)} is no literal", token.offset)

    def _text(self, token: _Token) -> str:
        return _unescaped(token.raw).decode(self._encoding, "surrogateescape")

    def _decoded(self, value: bytes, charset: str, token: _Token) -> str:
        return value.decode(self._codec(charset, token.offset) if charset else self._encoding, "surrogateescape")

    def _create(self) -> None:
        """Remember the columns of a table, which INSERT need not name."""
        token = self._must()
        if token.raw.upper() != b"TABLE":
            self._skip(token)
            return
        token = self._must()
        if token.raw.upper() == b"IF":
            self._expect(b"NOT")
            self._expect(b"EXISTS")
            token = self._must()
        place, token = self._table(token)
        if token.raw != b"(":
            self._skip(token)
            return
        columns: list[str] = []
        depth, is_first = 1, True
        while depth:
            token = self._must()
            if is_first and depth == 1 and (token.kind == "name" or token.raw.upper() not in _NO_COLUMNS):
                _check_count(columns, token)
                columns.append(self._name(token))
            is_first = token.raw == b","
            depth += (token.raw == b"(") - (token.raw == b")")
        self._columns[place] = columns
        self._skip()

    def _set(self) -> None:
        token = self._must()
        if token.raw.upper() == b"NAMES":
            charset = self._must()
            self._encoding = self._codec(charset.raw.strip(b"'\"").decode("latin-1").lower(), charset.offset)
            token = self._must()
        for each in self._until_delimiter(token):
            if b"NO_BACKSLASH_ESCAPES" in each.raw.upper():
                raise DumpError(
                    "it was written with NO_BACKSLASH_ESCAPES, where a backslash escapes nothing", each.offset
                )

    def _codec(self, charset: str, offset: int) -> str:
        if charset not in _CHARSETS:
            raise DumpError(
                f"its character set is {charset!r}; write it anew with --default-character-set=utf8mb4", offset
            )
        return _CHARSETS[charset]

    def _table(self, token: _Token) -> tuple[tuple[str, str], _Token]:
        name, token = self._name(token), self._must()
        if token.raw != b".":
            return (self._database, name), token
        return (name, self._name(self._must())), self._must()

    def _name(self, token: _Token) -> str:
        if len(token.raw) > _MAX_NAME_BYTES:
            raise DumpError(f"a name is longer than {_MAX_NAME_BYTES:,} bytes", token.offset)
        if token.kind == "name":
            return token.raw[1:-1].replace(b"``", b"`").decode(self._encoding, "replace")
        if token.kind == "word":
            return token.raw.decode(self._encoding, "replace")
        if token.kind == "string" and token.raw.startswith(b'"'):  # ANSI_QUOTES
            return self._text(token)
        raise DumpError(f"{_shown(token.raw)} stands where a name is due", token.offset)

    def _skip(self, token: _Token | None = None) -> None:
        for _ in self._until_delimiter(token):
            pass

    def _until_delimiter(self, token: _Token | None) -> Iterator[_Token]:
        """Give the rest of a statement, which begins with `token` where it is set."""
        seen = b""
        if token is None:
            token = self._must()
        while True:
            # A delimiter such as `;;` comes sign by sign.
            seen = (seen + token.raw)[-len(self._delimiter) :]
            if seen == self._delimiter:
                return
            yield token
            token = self._must()

    # Tokens

    def _expect(self, *wanted: bytes) -> _Token:
        token = self._must()
        if token.raw.upper() not in wanted:
            raise DumpError(f"{_shown(token.raw)} stands where {_shown(wanted[0])} is due", token.offset)
        return token

    def _must(self) -> _Token:
        token = self._next()
        if token is None:
            raise DumpError("it ends in the middle of a statement: it was cut off", self._offset)
        return token

    def _next(self) -> _Token | None:
        """Give the next token that is neither space nor comment, None at the end."""
        while True:
            match = _TOKEN.match(self._buffer, self._at)
            if match is None or (match.end() + 16 > len(self._buffer) and not self._is_over) or _is_open(match):
                # It may go on behind what is in memory.
                if self._read_more():
                    continue
                if match is None:
                    return None
                if _is_open(match):
                    raise DumpError("it ends in the middle of a literal or a comment: it was cut off", self._offset)
            offset, self._at = self._offset, match.end()
            kind = str(match.lastgroup)
            if kind == "comment":
                self.is_complete = self.is_complete or match[0].startswith(b"-- Dump completed")
            elif kind not in ("space", "conditional"):
                return _Token(kind, match[0], offset)

    def _read_more(self) -> bool:
        """Forget what is read, and take more into memory. False: there is no more."""
        if self._is_over:
            return False
        left = len(self._buffer) - self._at
        if left > _MAX_TOKEN_BYTES:
            raise _too_long(self._offset)
        # As much again as there is: a long value is not looked at from its beginning once for each chunk.
        try:
            chunk = self._file.read(max(_CHUNK_BYTES, left))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DumpError(f"it cannot be unpacked: {error}", self._offset + left) from error
        self._hash.update(chunk)
        if self._before == 0 and self._at == 0 and not self._buffer:
            chunk = chunk.removeprefix(_BOM)
        self._before += self._at
        self._buffer, self._at = self._buffer[self._at :] + chunk, 0
        self._is_over = not chunk
        return True

    def _rest_of_line(self) -> bytes:
        while b"\n" not in self._buffer[self._at :] and self._read_more():
            pass
        line, self._at = self._buffer[self._at :].partition(b"\n")[0], self._at
        self._at += len(line)
        return line.strip()

    @property
    def _offset(self) -> int:
        return self._before + self._at


def _too_long(offset: int) -> DumpError:
    return DumpError(f"a value is longer than {_MAX_TOKEN_BYTES >> 20} MiB", offset)


def _check_count(found: Sequence[object], token: _Token) -> None:
    """Raises DumpError: there are as many values, or columns, as a row of MySQL can have, and one more is to come."""
    if len(found) == _MAX_COLUMNS:
        raise DumpError(f"a row has more than {_MAX_COLUMNS:,} columns", token.offset)


def _is_open(match: re.Match[bytes]) -> bool:
    """Return whether what was found is only the beginning of a literal or a comment that does not end in memory."""
    if match.lastgroup == "word":
        return match[0] in (b"x", b"X", b"b", b"B") and match.string[match.end() : match.end() + 1] == b"'"
    if match.lastgroup == "sign":
        return match[0] in (b"'", b'"', b"`") or (
            match[0] == b"/" and match.string[match.end() : match.end() + 1] == b"*"
        )
    return False


def _unescaped(raw: bytes) -> bytes:
    quote, inner = raw[:1], raw[1:-1]
    if b"\\" not in inner:
        return inner.replace(quote * 2, quote) if quote in inner else inner
    return _ESCAPE_OR_DOUBLED[quote].sub(_unescape, inner)


def _unescape(match: re.Match[bytes]) -> bytes:
    sign: bytes | None = match[1]
    return match[0][:1] if sign is None else _ESCAPES.get(sign, sign)


def _shown(raw: bytes) -> str:
    return repr(raw[:20].decode("utf-8", "replace"))
