"""Every failure a client can meet: its code, HTTP status, texts, and whether a retry can help. One catalogue, one place.

Texts are ORIG's, in Chinese and English. `docs/protocol.md` holds the same table; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Retry = Literal["no", "later", "same_id"]  # same_id: repeat with the same clientMsgId


@dataclass(frozen=True, slots=True)
class Failure:
    code: str
    status: int
    zh: str
    en: str
    retry: Retry = "no"
    zh_user: str = ""  # where ORIG words it differently for a registered sender

    def text(self, language: str, *, role: str = "visitor") -> str:
        if language == "en":
            return self.en
        return self.zh_user if self.zh_user and role != "visitor" else self.zh


_FAILURES = [
    # Who calls (ORIG 1.5)
    Failure("token_missing", 400, "您没有权限访问即时通讯接口", "You may not use the chat API without a token"),
    Failure("token_expired", 400, "Token已过期！请重新获取令牌", "The token has expired, please log in again"),
    Failure("token_invalid", 400, "Token 令牌不合法！", "The token is not valid"),
    Failure("user_disabled", 400, "当前用户不存在或者已被禁用", "This user does not exist or is disabled"),
    Failure("visitors_excluded", 400, "您没有权限访问，请先注册或登录", "Visitors may not do this: register or log in"),
    # What is asked (ORIG 1.2)
    Failure("not_found", 404, "404 错误", "Not found"),
    Failure("method_not_allowed", 405, "请求方法不被允许", "This method is not allowed here"),
    Failure("too_large", 413, "请求内容过大", "The request is too large"),
    Failure("message_too_large", 413, "消息内容过大", "The message is too large"),
    Failure("invalid", 422, "参数错误", "A parameter is not valid"),
    Failure("bad_request", 400, "请求格式错误", "The request is malformed"),
    # What became of a send (contract section 4)
    Failure(
        "recipient_unavailable", 400, "对方不存在或者被禁用，不能发消息", "The recipient does not exist or is disabled"
    ),
    Failure("self", 400, "不能给自己发消息", "You cannot write to yourself"),
    Failure(
        "blocked_by_recipient",
        400,
        "对方把你拉黑了，不能发消息",
        "The recipient has blocked you",
        zh_user="对方把你拉黑了，不能发送消息",
    ),
    Failure(
        "relation_disabled",
        400,
        "系统把你们拉黑了，不能发消息",
        "An administrator has disabled this relation",
        zh_user="系统把你们拉黑了，不能发送消息",
    ),
    Failure(
        "blocked_by_sender",
        400,
        "您已把对方拉黑，请先解除拉黑再发消息",
        "You have blocked the recipient: unblock first",
    ),
    Failure("follow_required", 400, "需要先关注对方才能发送消息", "You have to follow the recipient first"),
    Failure(
        "stranger_limit",
        400,
        "在成为好友之前，对方只允许向他发一条消息",
        "The recipient takes one message from strangers",
    ),
    Failure(
        "friends_only",
        400,
        "你们不是好友关系，对方设置成：先登录才能发消息",
        "The recipient takes messages from friends only",
        zh_user="对方设置成：需要您先成为他的好友才能发消息",
    ),
    Failure(
        "group_unavailable", 400, "群不存在或者已解散或者被封禁，无法发消息", "The group does not exist or is closed"
    ),
    Failure(
        "membership_pending",
        400,
        "您的入群申请正在等待群主同意，暂时无法发消息",
        "Your request to join waits for the owner's approval",
    ),
    Failure("muted", 400, "您已被禁言，无法发消息", "You are muted in this group"),
    Failure("group_muted", 400, "群主已开启全员禁言，无法发消息", "The owner has muted the whole group"),
    Failure("not_owner", 400, "只有群主才能操作", "Only the owner of the group may do this"),
    Failure("not_member", 400, "您不在群里，无法发消息", "You are not a member of this group"),
    Failure("message_not_found", 400, "消息不存在，无法撤回", "There is no such message of yours to recall"),
    Failure("already_recalled", 400, "消息已经撤回", "The message is recalled already"),
    Failure("recall_too_late", 400, "消息超过5分钟，不能撤回", "A message can be recalled for five minutes only"),
    Failure(
        "idempotency_conflict", 409, "相同的消息编号已用于其它内容", "This clientMsgId was used for another content"
    ),
    Failure("too_many_sends", 429, "发送过于频繁，请稍后再试", "Too many sends are under way on this socket", "later"),
    # What we could not do
    Failure(
        "unavailable", 503, "服务暂时不可用，请稍后再试", "The service is not available, please try again", "later"
    ),
    Failure(
        "outcome_unknown",
        503,
        "系统异常，请稍后再试",
        "Whether this was accepted is unknown, please repeat it",
        "same_id",
    ),
    Failure("internal_error", 400, "系统异常，请稍后再试", "This could not be processed", "no"),
]

FAILURES = {failure.code: failure for failure in _FAILURES}


class ApiError(Exception):
    """Ends a request with a failure of the catalogue. `text` replaces the catalogue's, for validation texts."""

    def __init__(self, code: str, text: str | None = None) -> None:
        super().__init__(code)
        self.failure = FAILURES[code]
        self.text = text
