"""Which language the texts of an answer are in: what the request accepts, else the setting."""

from __future__ import annotations

from flask import request
from werkzeug.datastructures import LanguageAccept

LANGUAGES = ("zh", "en")


def language_of_request(default: str) -> str:
    """Return the language that the request likes best, of those that we have."""
    return best_language(request.accept_languages, default)


def best_language(accepted: LanguageAccept, default: str) -> str:
    """Return the language that is liked best, of those that we have; a dialect counts as its language.

    Werkzeug's `best_match` would prefer `en` to `zh` for `zh-CN,en;q=0.8`, as only the former matches to the letter.
    """
    best, best_quality = default, 0.0
    for tag, quality in accepted:
        language = default if tag == "*" else tag.lower().partition("-")[0].partition("_")[0]
        if language in LANGUAGES and quality > best_quality:
            best, best_quality = language, quality
    return best
