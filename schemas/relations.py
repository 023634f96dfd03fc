"""Parameters of the routes about blocks, follows, message requests, mutes and the policy's explanation."""

from __future__ import annotations

from schemas.params import IntParam, Params, TextParam


class BlockParams(Params):
    user_id = IntParam("用户id", min=1)
    block = IntParam("是否拉黑", min=0, max=1)


class FollowParams(Params):
    user_id = IntParam("用户id", min=1)
    follow = IntParam("是否关注", min=0, max=1)


class AnswerParams(Params):
    user_id = IntParam("用户id", min=1)
    accept = IntParam("是否接受", min=0, max=1)


class ExplainParams(Params):
    sendto_id = IntParam("接收人/群的id值", min=1)
    chatType = TextParam("接收类型", choices=("single", "group"))


BLOCK_PARAMS = BlockParams()
FOLLOW_PARAMS = FollowParams()
ANSWER_PARAMS = AnswerParams()
EXPLAIN_PARAMS = ExplainParams()
