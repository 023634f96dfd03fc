"""Parameters and answers of the routes about complaints (ORIG 6.6), for those who complain and for administrators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson
from marshmallow import ValidationError, fields, missing

from schemas.answers import Exact, many, number, one_of, text
from schemas.params import Fault, IntParam, Params, TextParam
from schemas.profile import is_address

MAX_PAGE = 100
_MAX_IMAGES, _IMAGE_MAX_CHARACTERS = 9, 1_000
_MAX_EVIDENCE, _EVIDENCE_MAX_BYTES = 100, 65_536


class ListParam(fields.Field[list[Any]]):
    """An array, also as its JSON text, of some elements of one kind and of some bytes of JSON."""

    def __init__(
        self, label: str, *, most: int, most_bytes: int, item: Mapping[str, Any], fits: Callable[[Any], bool]
    ) -> None:
        # How documents show it: as the type they know.
        super().__init__(
            required=False, load_default=missing, metadata={"type": "array", "maxItems": most, "items": dict(item)}
        )
        self.label, self.most, self.most_bytes, self.fits = label, most, most_bytes, fits

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> list[Any]:
        try:
            elements = orjson.loads(value) if isinstance(value, str) else value
            encoded = orjson.dumps(elements)  # it reads deeper than it writes
        except (orjson.JSONDecodeError, orjson.JSONEncodeError):
            elements, encoded = None, b""
        if not isinstance(elements, list) or len(elements) > self.most or not all(map(self.fits, elements)):
            raise ValidationError(
                Fault(
                    f"{self.label} 必须是不超过 {self.most} 个元素的数组",
                    f"`{self.name}` is no list of {self.most} at most",
                )
            )
        if len(encoded) > self.most_bytes or _holds_nul(elements):
            raise ValidationError(
                Fault(
                    f"{self.label} 过长或包含非法字符",
                    f"`{self.name}` has more than {self.most_bytes} bytes, or a character that is not allowed",
                )
            )
        # As it is written: a number that JSON has no name for is null there.
        read: list[Any] = orjson.loads(encoded)
        return read


def _holds_nul(value: Any) -> bool:
    if isinstance(value, dict):
        return any("\0" in name or _holds_nul(each) for name, each in value.items())
    return any(map(_holds_nul, value)) if isinstance(value, list) else isinstance(value, str) and "\0" in value


def _is_image(value: Any) -> bool:
    is_short = isinstance(value, str) and len(value) <= _IMAGE_MAX_CHARACTERS
    return is_short and is_address(value, is_path_allowed=True)


def _images() -> ListParam:
    item = {"type": "string", "maxLength": _IMAGE_MAX_CHARACTERS}
    return ListParam("图片", most=_MAX_IMAGES, most_bytes=_EVIDENCE_MAX_BYTES, item=item, fits=_is_image)


def _evidence() -> ListParam:
    return ListParam(
        "聊天证据",
        most=_MAX_EVIDENCE,
        most_bytes=_EVIDENCE_MAX_BYTES,
        item={"type": "object"},
        fits=lambda value: isinstance(value, dict),
    )


class CreateComplaintParams(Params):
    # Strict, with a default that nothing is: what is missing has ORIG's text and status, what is malformed is 422.
    target_id = IntParam("投诉对象id", min=1, default=0, is_strict=True)
    target_type = TextParam("投诉对象类型", choices=("group", "single"), default="", is_strict=True)
    reason = TextParam("投诉原因", min=1, max=500, default="", is_strict=True)
    content = TextParam("投诉内容", max=5_000, default="", is_strict=True)
    images = _images()
    complaint_chatinfo = _evidence()


class UpdateComplaintParams(Params):
    id = IntParam("投诉id", min=1)
    reason = TextParam("投诉原因", min=1, max=500, default="", is_strict=True)
    content = TextParam("投诉内容", max=5_000, default="", is_strict=True)
    images = _images()
    complaint_chatinfo = _evidence()


class ComplaintParams(Params):
    id = IntParam("投诉id", min=1)


class ComplaintsParams(Params):
    page = IntParam("页码", min=1, default=1)
    limit = IntParam("每页多少条", min=1, max=MAX_PAGE, default=20)


class ComplaintQueueParams(ComplaintsParams):
    status = IntParam("状态", min=0, max=3, default=-1, is_strict=True)


class HandleComplaintParams(Params):
    id = IntParam("投诉id", min=1)
    status = IntParam("状态", min=0, max=3)
    admin_reply = TextParam("管理员回复", max=1_000, default="", is_strict=True)


class Author(Exact):
    """Who complains."""

    id = number()
    uuid = text()
    username = text()
    nickname = text()
    avatar = text()


class Complaint(Exact):
    """A complaint, without the messages it shows as evidence."""

    id = number()
    target_id = number(description="a user, or a group")
    target_type = one_of("group", "single")
    target_name = text(description="as it was when the complaint was made")
    reason = text()
    content = text()
    images = fields.List(fields.String(), required=True)
    status = number(description="0 pending, 1 in hand, 2 settled, 3 closed")
    admin_reply = text(null=True)
    create_time = text(description="`YYYY-MM-DD HH:mm:ss`, local time of the server")
    update_time = text(description="ISO 8601, UTC")
    user = fields.Nested(Author, required=True)


class WholeComplaint(Complaint):
    """A complaint."""

    complaint_chatinfo = fields.Raw(
        required=True,
        metadata={"type": "array", "items": {"type": "object"}, "description": "messages, as they were given"},
    )


class MadeComplaint(Exact):
    """A complaint that was made."""

    id = number()


class ComplaintQueue(Exact):
    """Complaints for administrators, newest first."""

    total = number(description="how many there are on all pages")
    complaints = many(Complaint)


CREATE_COMPLAINT_PARAMS = CreateComplaintParams()
UPDATE_COMPLAINT_PARAMS = UpdateComplaintParams()
COMPLAINT_PARAMS = ComplaintParams()
COMPLAINTS_PARAMS = ComplaintsParams()
COMPLAINT_QUEUE_PARAMS = ComplaintQueueParams()
HANDLE_COMPLAINT_PARAMS = HandleComplaintParams()
