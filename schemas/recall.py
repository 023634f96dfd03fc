"""What a recall carries (ORIG 6.5). Names, avatar and time that the legacy client sends too are not believed (D2, D4)."""

from __future__ import annotations

from schemas.params import IntParam, Params, TextParam


class RecallParams(Params):
    to_id = IntParam("接收者id或者群id", min=1)
    id = TextParam("消息uuid", min=1, max=36)
    chatType = TextParam("聊天类型", choices=("single", "group"))


RECALL_PARAMS = RecallParams()
