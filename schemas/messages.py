"""Parameters of the routes about one message."""

from __future__ import annotations

from schemas.params import Params, TextParam


class MessageParams(Params):
    # No bounds: what no message is called is a message that does not exist.
    message_id = TextParam("消息uuid")


MESSAGE_PARAMS = MessageParams()
