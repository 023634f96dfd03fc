"""What describes this API: `/openapi.json`, `/asyncapi.json`, and `/docs`, a page to read and try it that loads nothing from elsewhere."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import orjson
from flask import Blueprint, Response, current_app, send_from_directory
from swagger_ui_bundle import swagger_ui_path

from schemas.documents import FILE_PARAMS, VIEWER_FILES
from settings import Settings
from webapp.asyncapi import build_document as build_asyncapi
from webapp.errors import ApiError
from webapp.openapi import build_document
from webapp.routes import describe

_PAGE = Path(__file__).resolve().parents[1] / "static" / "docs" / "index.html"
# style-src: the viewer sets style attributes. data: its stylesheet holds its icons.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}


def make_blueprint(settings: Settings) -> Blueprint:
    blueprint = Blueprint("documents", __name__)

    # Made at the first question: every route is registered by then.
    @cache
    def openapi(version: str) -> bytes:
        return orjson.dumps(build_document(current_app, version=version))

    @cache
    def asyncapi() -> bytes:
        return orjson.dumps(build_asyncapi(settings))

    @blueprint.get("/openapi.json")
    @describe("This document", access="anyone", answer=None)
    def get_openapi() -> Response:
        return _json(openapi("3.1.0"))

    @blueprint.get("/asyncapi.json")
    @describe("The frames of the websocket, as AsyncAPI 3.0", access="anyone", answer=None)
    def get_asyncapi() -> Response:
        return _json(asyncapi())

    @blueprint.get("/docs")
    @describe("A page to read and try this API", access="anyone", answer=None, media="text/html")
    def get_page() -> Response:
        return Response(_PAGE.read_bytes(), mimetype="text/html", headers=_HEADERS)

    @blueprint.get("/docs/openapi.json")
    @describe("This document as OpenAPI 3.0, for the page", access="anyone", answer=None)
    def get_page_document() -> Response:
        return _json(openapi("3.0.3"))

    @blueprint.get("/docs/viewer/<name>")
    @describe("A file of the page's viewer", access="anyone", params=FILE_PARAMS, answer=None, media="*/*")
    def get_viewer_file(name: str) -> Response:
        if name not in VIEWER_FILES:
            raise ApiError("not_found")
        return send_from_directory(str(swagger_ui_path), name, max_age=86_400)

    return blueprint


def _json(document: bytes) -> Response:
    headers: dict[str, Any] = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
    return Response(document, mimetype="application/json", headers=headers)
