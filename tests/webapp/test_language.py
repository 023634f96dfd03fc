"""Which language a request is answered in."""

from __future__ import annotations

import pytest
from flask import Flask

from webapp.language import language_of_request


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        (None, "default"),
        ("", "default"),
        ("*", "default"),
        ("fr", "default"),
        ("en;q=0", "default"),
        ("nonsense;;;q=x", "default"),
        ("fr,*;q=0.5", "default"),
        ("en", "en"),
        ("EN", "en"),
        ("en-US,en;q=0.9", "en"),
        ("en-US,zh;q=0.5", "en"),
        ("fr,en;q=0.1", "en"),
        ("zh", "zh"),
        ("zh-Hant-TW", "zh"),
        ("zh-CN,en;q=0.8", "zh"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
    ],
)
@pytest.mark.parametrize("default", ["zh", "en"])
def test_the_language_that_is_liked_best_is_taken(accepted: str | None, language: str, default: str) -> None:
    """A dialect is its language, whatever else is accepted to the letter; `*`, as some libraries send, says nothing."""
    headers = {} if accepted is None else {"Accept-Language": accepted}

    with Flask(__name__).test_request_context(headers=headers):
        assert language_of_request(default) == (default if language == "default" else language)
