"""Parameters and answers of the routes that take and give files (ORIG 6.5)."""

from __future__ import annotations

from marshmallow import fields

from schemas.answers import Exact, number, text
from schemas.params import IntParam, Params, TextParam


class FolderParams(Params):
    diydir = TextParam("上传目录", min=1, max=100)


class ImageParams(Params):
    imageClassId = IntParam("图片分类id", default=0)


class UploadedFile(Exact):
    """A file that was uploaded."""

    url = text(description="a path of this server")


class UploadedImage(Exact):
    """A file that was uploaded, as the original's cloud has it."""

    url = text(description="with scheme and host, as the client has named them")
    path = text(description="the path in it")
    image_class_id = number(description="`imageClassId` as it was given")
    create_time = number(description="seconds, UTC")


FOLDER_PARAMS = FolderParams()
IMAGE_PARAMS = ImageParams()
UPLOADED_IMAGES = fields.List(fields.Nested(UploadedImage), required=True)
