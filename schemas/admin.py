"""Parameters of the administrators' routes."""

from __future__ import annotations

from schemas.params import IntParam, Params


class UserStatusParams(Params):
    id = IntParam("用户id", min=1)
    status = IntParam("状态", min=0, max=2)


class RelationStatusParams(Params):
    user_id = IntParam("用户id", min=1)
    friend_id = IntParam("好友id", min=1)
    status = IntParam("状态", min=0, max=2)


class GroupStatusParams(Params):
    id = IntParam("群id", min=1)
    status = IntParam("状态", min=0, max=2)


USER_STATUS_PARAMS = UserStatusParams()
RELATION_STATUS_PARAMS = RelationStatusParams()
GROUP_STATUS_PARAMS = GroupStatusParams()
