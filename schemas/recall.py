"""What a recall carries (ORIG 6.5). Names, avatar and time that the legacy client sends too are not believed (D2, D4)."""

from __future__ import annotations

from schemas.params import Fault, IntParam, InvalidParams, Params, TextParam

_TIME_LABEL, _OLDEST_MS = "消息发送时间", 1_000_000_000_000
_CLOCKS_MS = 5_000  # by which the clock of the host that has taken the message may be ahead


class RecallParams(Params):
    to_id = IntParam("接收者id或者群id", min=1)
    id = TextParam("消息uuid", min=1, max=36)
    chatType = TextParam("聊天类型", choices=("single", "group"))
    create_time = IntParam(_TIME_LABEL, min=_OLDEST_MS, default=0, is_strict=True)


RECALL_PARAMS = RecallParams()


def check_not_ahead(create_time: int, now_ms: int) -> None:
    """Raises InvalidParams: the message would have been sent in the future (D2)."""
    if create_time > now_ms + _CLOCKS_MS:
        raise InvalidParams(
            "create_time",
            Fault(
                f"{_TIME_LABEL} 的数值 必须 在 {_OLDEST_MS} 和 {now_ms} 之间",
                f"`create_time` must be a number from {_OLDEST_MS} to {now_ms}",
            ),
        )
