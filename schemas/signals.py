"""Parameters of protocol 2 frames that are no sends: `typing`. `read` takes those of its route (schemas/history.py)."""

from __future__ import annotations

from schemas.params import IntParam, Params, TextParam


class TypingParams(Params):
    chatType = TextParam("接收类型", choices=("single", "group"))
    to_id = IntParam("接收人/群的id值", min=1, max=2_147_483_647)


TYPING_PARAMS = TypingParams()
