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
    # Accounts (ORIG 1.7 and 6.2)
    Failure("username_taken", 400, "该账号已存在，请换一个账号注册", "This username is taken, please choose another"),
    Failure("wrong_password", 400, "账户或密码错误", "Wrong username or password"),
    Failure("account_disabled", 400, "账号不存在或者被禁用", "This account does not exist or is disabled"),
    Failure("signature_missing", 400, "非法访问", "The header X-Security-Sign is missing"),
    Failure("signature_invalid", 400, "非法签名", "The signature is not valid"),
    Failure("timestamp_invalid", 400, "请求已过期", "The timestamp is more than five minutes off"),
    Failure("device_invalid", 400, "无效标识", "The device id must have 36 letters, digits, underscores or hyphens"),
    Failure("passwords_differ", 400, "新密码与确认新密码不一致", "The two new passwords differ"),
    Failure("password_of_visitor", 400, "您未登录，无法修改密码", "Visitors have no password to change"),
    Failure("password_of_nobody", 400, "用户不存在，无法修改密码", "There is no such user whose password could change"),
    Failure("old_password_wrong", 400, "原始密码错误，无法修改密码", "The old password is wrong"),
    Failure("server_key_invalid", 401, "服务密钥无效", "The server key is missing or wrong"),
    Failure(
        "login_locked", 429, "登录失败次数过多，请稍后再试", "Too many failed logins, please try again later", "later"
    ),
    Failure(
        "too_many_registrations",
        429,
        "请求过于频繁，请1个小时后再试",
        "Too many requests of this device, please try again in an hour",
        "later",
    ),
    Failure("rate_limited", 429, "操作过于频繁，请稍后再试", "Too many requests, please try again later", "later"),
    # Friends, settings and profiles (ORIG 6.2 and 6.3)
    Failure("add_self", 400, "不能添加自己为好友", "You cannot add yourself as a friend"),
    Failure("target_unavailable", 400, "添加的好友不存在", "There is no such user to add"),
    Failure("already_applied", 400, "您已经申请过了，请勿重复申请", "You have applied already"),
    Failure("already_friends", 400, "你们已经是好友了", "You are friends already"),
    Failure("application_blocked", 400, "对方把您拉黑了，不能添加好友", "This user has blocked you"),
    Failure(
        "target_blocked", 400, "您已把对方拉黑，请先解除拉黑再添加好友", "You have blocked this user: unblock first"
    ),
    Failure("application_cooldown", 400, "申请过于频繁，请一天后再试", "You may apply again after a day", "later"),
    Failure("approval_required", 400, "需要对方审核，不能自动加对方为好友", "This user wants to be asked first"),
    Failure(
        "too_many_friends",
        429,
        "自动添加好友过于频繁，请稍后再试",
        "Too many friends were added in an hour, please try again later",
        "later",
    ),
    Failure("application_closed", 400, "申请不存在或已处理", "There is no such application, or it is answered"),
    Failure("application_not_found", 400, "用户申请信息不存在", "This user has not applied"),
    Failure("user_not_found", 400, "用户不存在", "There is no such user"),
    Failure("friend_not_found", 400, "好友不存在", "There is no such friend of yours"),
    Failure(
        "friend_unavailable",
        400,
        "好友不存在或者被拉黑，无法操作",
        "There is no such friend of yours, or you block him",
    ),
    Failure("not_friend", 400, "不是好友", "This is no friend of yours"),
    Failure("not_friends", 400, "不是好友关系，无权操作", "You are not friends"),
    Failure(
        "user_not_addable",
        400,
        "用户不存在或者为游客，无法加为好友",
        "This user does not exist or is a visitor, who can have no friends",
    ),
    Failure("username_fixed", 400, "账号不可修改", "A username cannot be changed"),
    Failure("nickname_too_long", 400, "昵称长度不能超过30个字符", "A nickname has 30 characters at most"),
    Failure(
        "avatar_too_long", 400, "头像地址过长不能超过1000个字符", "An avatar's address has 1000 characters at most"
    ),
    Failure("invite_confirm_invalid", 400, "添加我为好友设置值错误", "This setting is 0 or 1"),
    Failure("profile_missing", 400, "用户不存在，无法修改信息", "There is no such user to change"),
    # Complaints, questions and answers (ORIG 6.6)
    Failure("complaint_incomplete", 400, "缺少必要参数", "A complaint needs target_id, target_type and reason"),
    Failure("complaint_self", 400, "不能投诉自己", "You cannot complain about yourself"),
    Failure(
        "complaint_target_unknown",
        400,
        "投诉对象不存在",
        "There is no such user or group that you could complain about",
    ),
    Failure("complaint_not_found", 400, "投诉记录不存在", "There is no such complaint of yours"),
    Failure("complaint_closed", 400, "该投诉已开始处理，无法修改", "This complaint is being handled and cannot change"),
    Failure(
        "too_many_complaints",
        429,
        "您有过多投诉尚未处理，请稍后再试",
        "Too many complaints of yours are open, please wait for one to be settled",
        "later",
    ),
    Failure("askanswer_incomplete", 400, "参数不完整", "A parameter is missing"),
    Failure("askanswer_not_found", 400, "问答不存在", "There is no such question of yours"),
    Failure("askanswer_doubled", 400, "该问题已存在", "You have another entry with this question"),
    Failure("askanswer_full", 400, "问答数量已达上限", "There are as many questions as there may be"),
    Failure("askanswer_none", 400, "暂无问答数据", "There are no questions to search"),
    Failure("askanswer_no_match", 400, "未找到相关问答", "No question matches"),
    Failure("origin_refused", 403, "该来源不被允许连接", "Pages of this origin may not connect"),
    Failure("too_many_connections", 429, "连接数过多，请稍后再试", "This user has too many connections", "later"),
    # What is asked (ORIG 1.2)
    Failure("not_found", 404, "404 错误", "Not found"),
    Failure("metrics_unauthorized", 401, "没有权限读取监控指标", "The metrics need their token"),
    Failure("method_not_allowed", 405, "请求方法不被允许", "This method is not allowed here"),
    Failure("upgrade_required", 426, "不支持的 WebSocket 版本", "Only version 13 of the websocket protocol is spoken"),
    Failure("request_too_slow", 408, "请求接收超时", "The request took too long to arrive", "later"),
    Failure("too_large", 413, "请求内容过大", "The request is too large"),
    Failure("message_too_large", 413, "消息内容过大", "The message is too large"),
    Failure("invalid", 422, "参数错误", "A parameter is not valid"),
    Failure("bad_request", 400, "请求格式错误", "The request is malformed"),
    # What became of a send (contract section 4)
    Failure(
        "recipient_unavailable", 400, "对方不存在或者被禁用，不能发消息", "The recipient does not exist or is disabled"
    ),
    Failure("self", 400, "不能给自己发消息", "You cannot write to, block or follow yourself"),
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
    Failure("cannot_disable_self", 400, "不能禁用自己", "Administrators cannot disable themselves"),
    Failure("not_owner", 400, "只有群主才能操作", "Only the owner of the group may do this"),
    Failure("not_member", 400, "您不在群里，无法发消息", "You are not a member of this group"),
    # Groups (ORIG 6.4)
    Failure("no_members_chosen", 400, "请选择加入群聊的用户", "Choose friends of yours to be in the group"),
    Failure("members_unavailable", 400, "用户不存在，无法加入群聊", "These users do not exist or are disabled"),
    Failure("group_full", 400, "群成员已达上限", "The group has as many members as a group may have"),
    Failure("group_not_found", 400, "群不存在", "There is no such group"),
    Failure("group_not_open", 400, "群不存在或被封禁", "The group does not exist or is closed"),
    Failure("group_not_joinable", 400, "群不存在或者被封禁", "The group does not exist or is closed"),
    Failure(
        "group_not_yours",
        400,
        "群不存在或者被封禁或者你无权操作",
        "The group does not exist, is closed, or is not yours",
    ),
    Failure(
        "group_not_shown",
        400,
        "群不存在或被封禁或者您不在该群聊中",
        "The group does not exist, is closed, or you are not in it",
    ),
    Failure("user_not_shown", 400, "用户不存在或被封禁", "The user does not exist or is disabled"),
    Failure("not_in_group", 400, "你不在该群聊中，操作失败", "You are not in this group"),
    Failure("owner_not_member", 400, "无法通知群成员", "The owner is not in the group, so nobody can be told"),
    Failure("owner_not_removable", 400, "群主不能删除自己", "The owner cannot remove himself"),
    Failure("member_not_found", 400, "该用户不在群聊中", "This user is not in the group"),
    Failure("no_application", 400, "非法操作", "This user has not asked to join"),
    Failure("applicant_unavailable", 400, "用户不存在或者被封禁", "This user does not exist or is disabled"),
    Failure(
        "application_pending",
        400,
        "已申请加入群聊，正在等待群主同意",
        "The request to join waits for the owner's approval",
    ),
    Failure("already_member", 400, "用户已经在群里", "This user is in the group already"),
    Failure(
        "joiner_unavailable",
        400,
        "加群的用户不存在或已被封禁，无法加入群聊",
        "The user who is to join does not exist or is disabled",
    ),
    Failure("login_to_join", 400, "请先登录再申请进群", "Log in before you join this group"),
    Failure("not_friend_of_inviter", 400, "只能邀请自己的好友进群", "You can invite friends of yours only"),
    Failure("visitor_owner", 400, "不能把群转让给访客", "A visitor cannot own a group"),
    Failure("message_not_found", 400, "消息不存在，无法撤回", "There is no such message of yours to recall"),
    Failure("already_recalled", 400, "消息已经撤回", "The message is recalled already"),
    Failure("recall_too_late", 400, "消息超过5分钟，不能撤回", "A message can be recalled for five minutes only"),
    Failure(
        "idempotency_conflict", 409, "相同的消息编号已用于其它内容", "This clientMsgId was used for another content"
    ),
    Failure("too_many_sends", 429, "发送过于频繁，请稍后再试", "Too many sends are under way on this socket", "later"),
    # Uploads (ORIG 6.5)
    Failure("upload_folder_unknown", 400, "上传失败: 上传目录不存在", "There is no such folder to upload to"),
    Failure("upload_type_refused", 400, "上传失败: 不支持该类型的文件", "Files of this type are not taken"),
    Failure(
        "upload_content_differs",
        400,
        "上传失败: 文件内容与扩展名不符",
        "The content of the file is not what its extension says",
    ),
    Failure("upload_too_large", 413, "上传失败: 文件过大", "The file is too large"),
    Failure("range_invalid", 416, "请求的范围不在文件内", "The file has no such range"),
    Failure(
        "upload_quota",
        429,
        "上传失败: 今天的上传额度已用完，请稍后再试",
        "This user has uploaded as much as he may in a day",
        "later",
    ),
    Failure(
        "too_many_uploads",
        429,
        "上传失败: 同时上传的文件过多，请稍后再试",
        "Too many uploads are under way, please try again later",
        "later",
    ),
    Failure(
        "uploads_unavailable",
        503,
        "上传失败: 文件存储暂时不可用，请稍后再试",
        "Files cannot be kept or read at the moment",
        "later",
    ),
    # Webhooks
    Failure(
        "webhook_target_refused",
        400,
        "目标地址属于内部网络，不被允许",
        "This host is at an address that webhooks may not be posted to",
    ),
    Failure(
        "webhook_host_unknown", 400, "无法解析目标地址的主机名", "The host of this URL cannot be resolved", "later"
    ),
    Failure("too_many_webhooks", 400, "webhook 数量已达上限", "There are as many webhooks as there may be"),
    # What we could not do
    Failure(
        "unavailable", 503, "服务暂时不可用，请稍后再试", "The service is not available, please try again", "later"
    ),
    Failure("not_ready", 503, "服务尚未就绪", "Not ready", "later"),
    Failure(
        "overloaded",
        503,
        "系统繁忙，请稍后再试",
        "Too many sends wait for their verdict; nothing was accepted, please try again",
        "later",
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

# Where a failure has another text, mostly ORIG's: by a part of the path, then by code. In English it is as everywhere.
REWORDED = {
    "groupUpdateName": {"not_owner": "只有群主才能修改群名称"},
    "groupremark": {"not_owner": "只有群主才能修改群公告"},
    "groupAddUserSet": {"not_owner": "群不存在或者被封禁或者你无权操作"},
    "groupAgreeOrNo": {"not_owner": "群不存在或者被封禁或者你无权操作"},
    "groupnickname": {"not_in_group": "你不在该群聊中，无法修改昵称"},
    "block": {"self": "不能拉黑自己"},
    "follow": {"self": "不能关注自己"},
    # Of who was a visitor and has registered. Everybody else reads the catalogue's text there, in every language.
    "chatGetmessageOffLine": {"token_invalid": "您已注册，游客身份已失效"},
    "ws": {
        "token_missing": "缺少 token 参数",
        "token_expired": "token 已过期",
        "token_invalid": "Token 不合法",
        "user_disabled": "你已被管理员禁用",
    },
}

# How the policy may refuse a send (contract section 4, rules P1 to Q5).
POLICY_REFUSALS = (
    "self",
    "recipient_unavailable",
    "blocked_by_recipient",
    "relation_disabled",
    "blocked_by_sender",
    "follow_required",
    "friends_only",
    "stranger_limit",
    "group_unavailable",
    "not_member",
    "membership_pending",
    "muted",
    "group_muted",
)


class ApiError(Exception):
    """Ends a request with a failure of the catalogue. `text` replaces the catalogue's, for validation texts.

    retry_after: seconds, told where the status is 429 or 503
    """

    def __init__(self, code: str, text: str | None = None, *, retry_after: int = 1) -> None:
        super().__init__(code)
        self.failure = FAILURES[code]
        self.text = text
        self.retry_after = max(1, retry_after)
