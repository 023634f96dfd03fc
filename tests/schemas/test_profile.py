"""The pure rules about settings and profile values."""

from __future__ import annotations

import json
from typing import Any

import pytest

from schemas.params import InvalidParams
from schemas.profile import is_address, merge_settings, read_birthday, read_settings


@pytest.mark.parametrize(
    ("stored", "given", "merged"),
    [
        ("", {"a": 1}, {"a": 1}),
        ('{"a":1}', {"b": 2}, {"a": 1, "b": 2}),
        ('{"a":{"x":1,"y":2}}', {"a": {"x": 3}}, {"a": {"x": 3, "y": 2}}),
        ('{"a":{"x":1}}', {"a": 5}, {"a": 5}),  # ORIG's older settings hold bare numbers
        ('{"a":5}', {"a": {"x": 1}}, {"a": {"x": 1}}),
        ('{"a":[1,2]}', {"a": [3]}, {"a": [3]}),
        ('{"a":1,"b":2}', {"a": None}, {"b": 2}),
        ("", {"a": {"x": None, "y": 1}}, {"a": {"y": 1}}),
        ("{broken", {"a": 1}, {"a": 1}),
        ("[1]", {"a": 1}, {"a": 1}),
        ('{"a":1}', {}, {"a": 1}),
    ],
)
def test_settings_are_merged(stored: str, given: dict[str, Any], merged: dict[str, Any]) -> None:
    """Objects are merged key by key, everything else is replaced, null removes."""
    assert json.loads(merge_settings(stored, given)) == merged


@pytest.mark.parametrize(
    "given", ["", "x", "[]", "1", "null", '"{}"', "{}x", "[" * 5_000, '{"a":' * 900 + "1" + "}" * 900]
)
def test_settings_are_an_object(given: str) -> None:
    """Everything else is refused, however deep it goes."""
    with pytest.raises(InvalidParams):
        read_settings(given)


@pytest.mark.parametrize(
    ("given", "is_url", "is_url_or_path"),
    [
        ("https://example.com/a.png", True, True),
        ("HTTP://example.com", True, True),
        ("http://127.0.0.1:8000/a?b=c#d", True, True),
        ("https://例子.cn/头像.png", True, True),
        ("/static/media/user.jpg", False, True),
        ("/", False, True),
        ("//example.com/a.png", False, False),
        ("/\\example.com", False, False),
        ("user.jpg", False, False),
        ("javascript:alert(1)", False, False),
        (" javascript:alert(1)", False, False),
        ("java\tscript:alert(1)", False, False),
        ("data:image/png;base64,AA", False, False),
        ("ftp://example.com/a.png", False, False),
        ("https://", False, False),
        ("https://[::1", False, False),
        ("https://example.com/'x", False, False),
        ("https://example.com/\x85", False, False),
    ],
)
def test_an_address_runs_nothing(given: str, is_url: bool, is_url_or_path: bool) -> None:
    """Only http(s) URLs are addresses, and paths of this server where they are allowed."""
    assert is_address(given) is is_url
    assert is_address(given, is_path_allowed=True) is is_url_or_path


@pytest.mark.parametrize("given", ["2001-13-01", "2001-02-29", "01.02.2001", "2001", "0000-01-01", "٢٠٠١-٠١-٠١x"])
def test_a_birthday_is_a_day(given: str) -> None:
    """What is no day of the calendar is none."""
    assert read_birthday(given) is None
