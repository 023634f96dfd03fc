"""Parameters of the routes that describe the API."""

from __future__ import annotations

from schemas.params import Params, TextParam

VIEWER_FILES = ("favicon-32x32.png", "swagger-ui-bundle.js", "swagger-ui.css")


class FileParams(Params):
    name = TextParam("文件名", choices=VIEWER_FILES)


FILE_PARAMS = FileParams()
