"""Parameters and answers of the routes about groups (ORIG 6.4, contract section 6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from marshmallow import ValidationError, fields

from schemas.answers import Exact, many, number, one_of, text
from schemas.params import Fault, IntParam, Params, TextParam, as_text

_MAX_ROW_IDS = 10_000  # of one request; groups are smaller, and each id is looked at


class RowIdsParam(fields.List[int]):
    """A list of ids: a JSON array, or its text, or a form field given several times."""

    def __init__(self, label: str) -> None:
        super().__init__(fields.Integer(), required=True)
        self.label = label

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> Any:
        given = _parsed(value)
        shown = as_text(value)[:100]
        fault = Fault(
            f"{self.label} 的值 `{shown}` 的类型不是 `array`", f"`{self.name}` is `{shown}`, which is no list of ids"
        )
        if not isinstance(given, list) or len(given) > _MAX_ROW_IDS:
            raise ValidationError(fault)
        texts = [as_text(each).strip() for each in given]
        if not all(text.isascii() and text.isdigit() and len(text) < 18 for text in texts):
            raise ValidationError(fault)
        return [int(text) for text in texts]


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return None


class CreateParams(Params):
    userIds = RowIdsParam("userIds")


class PageParams(Params):
    page = IntParam("页码", min=1)
    limit = IntParam("每页多少条", min=1, max=100, default=30)


class GroupIdParams(Params):
    id = IntParam("群id", min=1)


class NameParams(Params):
    id = IntParam("群id", min=1)
    name = TextParam("群名称", min=1, max=20)


class RemarkParams(Params):
    id = IntParam("群id", min=1)
    remark = TextParam("群公告", min=1, max=500)


class NicknameParams(Params):
    id = IntParam("群id", min=1)
    nickname = TextParam("群昵称", min=1, max=20)


class MemberParams(Params):
    group_id = IntParam("群id", min=1)
    user_id = IntParam("群成员id", min=1)


class JoiningModeParams(Params):
    group_id = IntParam("群id", min=1)
    addGroupSet = IntParam("进群设置属性值", min=0, max=2)


class InviteParams(Params):
    group_id = IntParam("群id", min=1)
    user_id = IntParam("用户id", min=1)
    inviteuser_id = IntParam("邀请人的用户id", default=0)  # read for form's sake: the inviter is who asks (F9)
    addGroupDesc = TextParam("加群说明或者邀请说明", max=500, default="", is_strict=True)


class AnswerApplicantParams(Params):
    group_id = IntParam("群id", min=1)
    user_id = IntParam("进群的用户id", min=1)
    type = TextParam("同意或者拒绝", choices=("agree", "no"))


class QrcodeParams(Params):
    id = IntParam("群id或者个人id", min=1)
    chatType = TextParam("聊天类型", choices=("single", "group"), default="group", is_strict=True)
    type = TextParam("二维码类型", max=20, default="", is_strict=True)  # H5: a link below `http`, else JSON text
    http = TextParam("页面地址", max=300, default="", is_strict=True)


class GroupMuteParams(Params):
    group_id = IntParam("群id", min=1)
    user_id = IntParam("群成员id", min=0)
    # Strict: who mistypes a time must not have muted for ever.
    until = IntParam("禁言截止时间", min=0, default=-1, is_strict=True)


CREATE_PARAMS = CreateParams()
PAGE_PARAMS = PageParams()
GROUP_ID_PARAMS = GroupIdParams()
NAME_PARAMS = NameParams()
REMARK_PARAMS = RemarkParams()
NICKNAME_PARAMS = NicknameParams()
MEMBER_PARAMS = MemberParams()
JOINING_MODE_PARAMS = JoiningModeParams()
INVITE_PARAMS = InviteParams()
ANSWER_APPLICANT_PARAMS = AnswerApplicantParams()
QRCODE_PARAMS = QrcodeParams()
GROUP_MUTE_PARAMS = GroupMuteParams()


class MyMembership(Exact):
    group_id = number()
    user_id = number()
    nickname = text()
    avatar = text()


class AccountAnswer(Exact):
    """The account behind a member or owner, whatever he is called in the group."""

    id = number()
    username = text()
    avatar = text()
    nickname = text()
    uuid = text()
    role = text()


class MemberAnswer(MyMembership):
    id = number()
    status = number()
    order = number()
    user = fields.Nested(AccountAnswer, required=True)


class _Group(Exact):
    id = number()
    uuid = text()
    user_id = number()
    name = text()
    avatar = text()
    remark = text()
    invite_confirm = number()


class SummaryAnswer(_Group):
    """A group as those see it who are not in it (F17)."""

    member_count = number()


class GroupAnswer(_Group):
    """A group's row. Times: `create_time` is the server's local time, `update_time` ISO 8601 in UTC (ORIG 1.1)."""

    status = number()
    order = number()
    create_time = text()
    update_time = text()


class ListedGroup(GroupAnswer):
    group_users = many(MyMembership)


class GroupInfo(SummaryAnswer):
    """A group. What only its members see is absent for others."""

    user = fields.Nested(AccountAnswer, required=True, metadata={"description": "the owner"})
    status = fields.Integer()
    order = fields.Integer()
    create_time = fields.String()
    update_time = fields.String()
    group_users = many(MemberAnswer, description="empty for others")


LISTED_GROUPS = many(ListedGroup)
GROUP_INFO = GroupInfo()
JOINED, WAITING = "加群成功", "等待群主同意"
JOINED_OR_WAITING = one_of(JOINED, WAITING)
