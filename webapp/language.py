"""Which language the texts of an answer are in: what the request accepts, else the setting."""

from __future__ import annotations

from flask import request


def language_of_request(default: str) -> str:
    return request.accept_languages.best_match(["zh", "en"], default=default) or default
