"""Parameters of the routes about blocks, follows, message requests, mutes and the policy's explanation."""

from __future__ import annotations

from schemas.params import IntParam, Params, TextParam


class BlockParams(Params):
    block = IntParam("是否拉黑", min=0, max=1)


class FollowParams(Params):
    follow = IntParam("是否关注", min=0, max=1)


class AnswerParams(Params):
    accept = IntParam("是否接受", min=0, max=1)


class ExplainParams(Params):
    sendto_id = IntParam("接收人/群的id值", min=1)
    chatType = TextParam("接收类型", choices=("single", "group"))


class GroupMuteParams(Params):
    group_id = IntParam("群id", min=1)
    user_id = IntParam("群成员id", min=0)
    until = IntParam("禁言截止时间", min=0, default=-1)


BLOCK_PARAMS = BlockParams()
FOLLOW_PARAMS = FollowParams()
ANSWER_PARAMS = AnswerParams()
EXPLAIN_PARAMS = ExplainParams()
GROUP_MUTE_PARAMS = GroupMuteParams()
