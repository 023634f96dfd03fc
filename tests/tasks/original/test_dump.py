"""Dumps are read as MySQL would read them: a table of spellings, and whatever a writer of our own writes."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.original import dump
from tasks.original.dump import Dump, DumpError, Row, Value

_ESCAPES = {"\0": "\\0", "'": "\\'", '"': '\\"', "\b": "\\b", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\x1a": "\\Z"}
_ESCAPES["\\"] = "\\\\"


def _read(path: Path, text: str | bytes) -> list[Row]:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return list(Dump(path))


def _values(path: Path, literals: str) -> Sequence[Value]:
    (row,) = _read(path, f"INSERT INTO t VALUES ({literals});")
    return row.values


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        ("NULL", None),
        ("null", None),
        ("0", 0),
        ("-7", -7),
        ("+7", 7),
        ("1.50", "1.50"),
        ("-1e3", "-1e3"),
        ("TRUE", 1),
        ("''", ""),
        ("'a''b'", "a'b"),
        ("'a\\'b'", "a'b"),
        ("'\\''''", "''"),
        ("'\\\\'", "\\"),
        ("'\\\\'''", "\\'"),
        ("'\\0\\b\\n\\r\\t\\Z\\x'", "\0\b\n\r\t\x1ax"),
        ("'100\\% \\_'", "100\\% \\_"),
        ("'a),(b'", "a),(b"),
        ("'-- no comment /* nor this */'", "-- no comment /* nor this */"),
        ('"say \\"x\\" ""y"" \'z\'"', 'say "x" "y" \'z\''),
        ("'鸿雁 🕊'", "鸿雁 🕊"),
        ("'a' 'b'\n'c'", "abc"),
        ("0x4142", b"AB"),
        ("0x", None),
        ("x'4142'", b"AB"),
        ("X''", b""),
        ("b'101'", 5),
        ("0b11", 3),
        ("_binary 'a\\0'", b"a\0"),
        ("_binary 0x00ff", b"\0\xff"),
        ("_utf8mb4'é'", "é"),
        ("N'x'", "x"),
        ("/* here */ 1 -- there\n", 1),
        ("9" * 50, "9" * 50),
    ],
)
def test_a_literal_is_read_as_mysql_reads_it(tmp_path: Path, literal: str, value: Value) -> None:
    if literal == "0x":
        with pytest.raises(DumpError):
            _values(tmp_path / "d.sql", literal)
        return
    assert _values(tmp_path / "d.sql", literal) == [value]
    # Beside others, as the first and the last.
    assert _values(tmp_path / "d.sql", f"{literal},1,{literal}") == [value, 1, value]


_WHOLE = r"""-- MySQL dump 10.13  Distrib 8.0.36, for Linux (x86_64)
/*M!999999\- enable the sandbox mode */
/*!40101 SET NAMES utf8mb4 */;
/*!40014 SET @OLD_FOREIGN_KEY_CHECKS=@@FOREIGN_KEY_CHECKS, FOREIGN_KEY_CHECKS=0 */;
DROP TABLE IF EXISTS `a``b`;
CREATE TABLE `a``b` (
  `id` int unsigned NOT NULL AUTO_INCREMENT COMMENT 'the key; (really), `id`',
  `order` int DEFAULT '50',
  kind enum('a','b') DEFAULT NULL,
  `hidden` int /*!80023 INVISIBLE */ DEFAULT NULL,
  PRIMARY KEY (`id`),
  UNIQUE KEY `u` (`order`,`kind`),
  KEY k (kind),
  CONSTRAINT `c` FOREIGN KEY (`order`) REFERENCES `x` (`y`) ON DELETE CASCADE
) ENGINE=InnoDB AUTO_INCREMENT=3 DEFAULT CHARSET=utf8mb4 COMMENT='t';
LOCK TABLES `a``b` WRITE;
/*!40000 ALTER TABLE `a``b` DISABLE KEYS */;
INSERT INTO `a``b` VALUES (1,50,'a',NULL),(2,51,NULL,7);
INSERT INTO `a``b` (`kind`, `id`) VALUES ('b',3);
REPLACE INTO `a``b` (`id`) VALUES (4);
INSERT IGNORE INTO `a``b` (`id`) VALUES (5) ON DUPLICATE KEY UPDATE `id` = VALUES(`id`);
UNLOCK TABLES;
DELIMITER ;;
/*!50003 CREATE*/ /*!50017 DEFINER=`root`@`%`*/ /*!50003 TRIGGER `tr` AFTER INSERT ON `a``b` FOR EACH ROW BEGIN
  INSERT INTO `log` VALUES (NEW.id);
END */;;
DELIMITER ;
INSERT INTO `other`.`t` VALUES ();
# Another kind of comment
-- Dump completed on 2025-10-01  3:00:00
"""
_WHOLE_ROWS = [
    Row("", "a`b", ["id", "order", "kind", "hidden"], [1, 50, "a", None]),
    Row("", "a`b", ["id", "order", "kind", "hidden"], [2, 51, None, 7]),
    Row("", "a`b", ["kind", "id"], ["b", 3]),
    Row("", "a`b", ["id"], [4]),
    Row("", "a`b", ["id"], [5]),
    Row("other", "t", None, []),
]


@pytest.mark.parametrize("chunk_bytes", [1, 3, 64, 1 << 20])
@pytest.mark.parametrize("is_packed", [False, True])
def test_a_whole_dump_is_read_row_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int, is_packed: bool
) -> None:
    """Wherever the pieces end that it is read in, packed or not; both have one checksum."""
    monkeypatch.setattr(dump, "_CHUNK_BYTES", chunk_bytes)
    path, plain = tmp_path / "d.sql", tmp_path / "plain.sql"
    path.write_bytes(gzip.compress(_WHOLE.encode()) if is_packed else _WHOLE.encode())
    plain.write_text(_WHOLE)
    read, same = Dump(path), Dump(plain)

    assert list(read) == _WHOLE_ROWS
    assert read.is_complete
    assert list(same) == _WHOLE_ROWS
    assert read.sha256 == same.sha256


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("INSERT INTO t VALUES (1", "cut off"),
        ("INSERT INTO t VALUES ('a", "cut off"),
        ("INSERT INTO t VALUES ('a\\'", "cut off"),
        ("INSERT INTO t VALUES (1)", "cut off"),
        ("/* a comment", "cut off"),
        ("INSERT INTO t (a,b) VALUES (1);", "1 values for 2 columns"),
        ("INSERT INTO t SET a = 1;", "no VALUES"),
        ("INSERT INTO t VALUES (NOW());", "no literal"),
        ("INSERT INTO t VALUES (1 2);", "comma is due"),
        ("SET NAMES gbk;", "utf8mb4"),
        pytest.param(f"INSERT INTO t VALUES ({'1.0,' * 4_096}1);", "4,096 columns", id="wide row"),
        pytest.param(f"INSERT INTO t ({'a,' * 4_096}a) VALUES (1);", "4,096 columns", id="wide list"),
        pytest.param(f"CREATE TABLE t ({'a,' * 4_096}a int);", "4,096 columns", id="wide table"),
        pytest.param(f"INSERT INTO t VALUES (b'{'1' * 65}');", "64 bits", id="long bits"),
        pytest.param(f"INSERT INTO `{'t' * 2_000}` VALUES (1);", "1,024 bytes", id="long name"),
        ("SET sql_mode='NO_BACKSLASH_ESCAPES';", "NO_BACKSLASH_ESCAPES"),
        pytest.param(gzip.compress(b"INSERT INTO t VALUES (1);" * 50, mtime=0)[:-12], "unpacked", id="half a gzip"),
        pytest.param(b"\x1f\x8bnonsense", "unpacked", id="no gzip"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_says_where(tmp_path: Path, text: str | bytes, told: str) -> None:
    with pytest.raises(DumpError, match=told) as failed:
        _read(tmp_path / "d.sql", text)

    assert "at byte" in str(failed.value)


def test_a_value_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that never ends does not fill the memory."""
    monkeypatch.setattr(dump, "_MAX_TOKEN_BYTES", 1 << 16)
    monkeypatch.setattr(dump, "_CHUNK_BYTES", 1 << 12)

    with pytest.raises(DumpError, match="longer than"):
        _read(tmp_path / "d.sql", "INSERT INTO t VALUES ('" + "a" * (1 << 18) + "');")
    with pytest.raises(DumpError, match="longer than"):
        _read(tmp_path / "d.sql", "INSERT INTO t VALUES (" + f"'{'a' * 100}' " * 1_000 + ");")


@pytest.mark.parametrize("quote", ["'", '"', "`"])
def test_a_doubled_quote_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quote: str) -> None:
    """Nor where what is in memory ends long behind it, and before the text does."""
    monkeypatch.setattr(dump, "_CHUNK_BYTES", 64)
    long = quote + "a" + quote * 2 + "b" * 500 + quote
    text = f"INSERT INTO {long} VALUES (1);" if quote == "`" else f"INSERT INTO t VALUES (1.0,{long});"

    (row,) = _read(tmp_path / "d.sql", text)

    assert (row.table if quote == "`" else row.values[1]) == "a" + quote + "b" * 500


def test_what_is_no_character_is_kept_visible(tmp_path: Path) -> None:
    (row,) = _read(tmp_path / "d.sql", b"INSERT INTO t VALUES ('a\xff');")

    assert row.values == ["a\udcff"]


def test_latin1_is_what_mysql_calls_so(tmp_path: Path) -> None:
    (row,) = _read(tmp_path / "d.sql", b"SET NAMES latin1; INSERT INTO t VALUES ('\x80\xe9');")

    assert row.values == ["€é"]


def _spell(value: Value, style: int) -> bytes:
    """Write a value as MySQL's tools would, or as it may also be written."""
    if value is None:
        return b"NULL"
    if isinstance(value, int):
        return str(value).encode()
    if isinstance(value, bytes):
        return [b"0x" + value.hex().encode() if value else b"''", b"x'" + value.hex().encode() + b"'"][style % 2]
    if style % 3 == 0:
        return b"'" + "".join(_ESCAPES.get(sign, sign) for sign in value).encode() + b"'"
    if style % 3 == 1:
        return b"'" + value.replace("\\", "\\\\").replace("'", "''").encode() + b"'"
    return b"_utf8mb4 '" + "".join(_ESCAPES.get(sign, sign) for sign in value).encode() + b"'"


_VALUES = st.none() | st.integers(-(2**63), 2**64) | st.text() | st.binary(min_size=1)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.lists(_VALUES, min_size=1, max_size=6), min_size=1, max_size=6),
    style=st.integers(0, 5),
    chunk_bytes=st.integers(1, 40),
    is_extended=st.booleans(),
)
def test_what_is_written_is_read_back(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows: list[list[Any]],
    style: int,
    chunk_bytes: int,
    is_extended: bool,
) -> None:
    """Any text, number and binary value, in one statement or in many, in pieces of any length."""
    monkeypatch.setattr(dump, "_CHUNK_BYTES", chunk_bytes)
    spelled = [b"(" + b",".join(_spell(value, style) for value in row) + b")" for row in rows]
    groups = [b",".join(spelled)] if is_extended else spelled
    text = b"".join(b"INSERT INTO `t` VALUES " + group + b";\n" for group in groups)

    assert [row.values for row in _read(tmp_path / "d.sql", text)] == rows
