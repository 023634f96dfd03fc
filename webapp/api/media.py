"""The icons that notices name (`MEDIA_URL`, the original's `<B>`), drawn by `tools/draw_icons.py`."""

from __future__ import annotations

from pathlib import Path

from flask import Blueprint, Response, send_from_directory

from webapp.routes import describe

_FOLDER = Path(__file__).resolve().parent.parent / "static" / "media"
_MAX_AGE_SECONDS = 30 * 24 * 3_600  # clients show them in every list; after it an ETag still saves the bytes


def make_blueprint() -> Blueprint:
    blueprint = Blueprint("media", __name__)

    @blueprint.get("/static/media/<path:name>")
    @describe(
        "An icon that notices and avatars name", access="anyone", answer=None, media="image/*", failures=("not_found",)
    )
    def get_icon(name: str) -> Response:
        response = send_from_directory(_FOLDER, name, max_age=_MAX_AGE_SECONDS)
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    return blueprint
