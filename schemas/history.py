"""Parameters of the routes that read history again, and of the read marker."""

from __future__ import annotations

from schemas.params import MAX_INT, IntParam, Params, TextParam

MAX_PAGE = 200


class HistoryParams(Params):
    chatType = TextParam("接收类型", choices=("single", "group"))
    peer_id = IntParam("接收人/群的id值", min=1)
    # Strict: a page that begins elsewhere than it was asked to would show messages twice.
    before = IntParam("起始序号", min=1, default=MAX_INT, is_strict=True)
    limit = IntParam("每页多少条", min=1, max=MAX_PAGE, default=50)


class ReadParams(Params):
    chatType = TextParam("接收类型", choices=("single", "group"))
    peer_id = IntParam("接收人/群的id值", min=1)
    # Any, since it is bounded by the newest message: 0 is what a client has read of an empty conversation.
    seq = IntParam("已读序号")


HISTORY_PARAMS = HistoryParams()
READ_PARAMS = ReadParams()
