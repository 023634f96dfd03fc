"""Parameters and answers of the administrators' routes about webhooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import orjson
from marshmallow import ValidationError, fields, missing, validate

from schemas.answers import Exact, many, number, one_of, text
from schemas.params import Fault, IntParam, InvalidParams, Params, TextParam, as_text
from schemas.profile import is_address

EVENT_TYPES = ("message.stored", "message.recalled", "message.refused")
_DEFAULT_EVENTS = EVENT_TYPES[:2]
_CHAT_TYPES = ("all", "single", "group")
MAX_EVENTS = 100  # of one POST
_MAX_SHARDS = 64  # OUTBOX_SHARDS cannot be more
_OLD_HOURS = 24
_MAX_OLD_HOURS = 168


class UrlParam(TextParam):
    """An http(s) URL of ASCII characters, without credentials, which would be shown, and without a fragment."""

    def _fault(self, text: str) -> Fault | None:
        return super()._fault(text) or (
            None
            if is_target(text)
            else Fault(
                f"{self.label} 不是合法的地址",
                f"`{self.name}` is no http or https URL of ASCII characters without user, password and fragment",
            )
        )


class EventsParam(fields.List[str]):
    """Some of the event types: a JSON array, or its text."""

    label = "事件类型"

    def __init__(self, default: tuple[str, ...] | None) -> None:
        shown = fields.String(validate=validate.OneOf(EVENT_TYPES))
        super().__init__(shown, load_default=missing if default is None else list(default))

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> Any:
        given = _parsed(value)
        if not isinstance(given, list) or not given or not all(each in EVENT_TYPES for each in given):
            raise ValidationError(
                Fault(
                    f"{self.label} 必须是由 {'、'.join(EVENT_TYPES)} 组成的数组",
                    f"`{self.name}` must be a list of some of {', '.join(EVENT_TYPES)}",
                )
            )
        return [each for each in EVENT_TYPES if each in given]


class PositionsParam(fields.Dict):
    """Positions by shard: a JSON object, or its text."""

    label = "各分片的位置"

    def __init__(self) -> None:
        super().__init__(keys=fields.String(), values=fields.Integer())

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> Any:
        given = _parsed(value)
        if isinstance(given, dict) and 0 < len(given) <= _MAX_SHARDS:
            pairs = [(as_text(shard), as_text(position)) for shard, position in given.items()]
            if all(each.isascii() and each.isdigit() and len(each) < 17 for pair in pairs for each in pair):
                return {int(shard): int(position) for shard, position in pairs}
        raise ValidationError(
            Fault(f"{self.label} 的值不是合法的对象", f"`{self.name}` must be an object of positions by shard")
        )


class WebhookIdParams(Params):
    id = IntParam("webhook id", min=1)


class CreateWebhookParams(Params):
    url = UrlParam("目标地址", min=1, max=2000)
    events = EventsParam(_DEFAULT_EVENTS)
    chatType = TextParam("聊天类型", choices=_CHAT_TYPES, default="all", is_strict=True)
    max_events = IntParam("每次最多事件数", min=1, max=MAX_EVENTS, default=MAX_EVENTS, is_strict=True)


class ChangeWebhookParams(Params):
    id = IntParam("webhook id", min=1)
    url = UrlParam("目标地址", min=1, max=2000, default="", is_strict=True)
    events = EventsParam(None)
    chatType = TextParam("聊天类型", choices=_CHAT_TYPES, default="", is_strict=True)
    max_events = IntParam("每次最多事件数", min=1, max=MAX_EVENTS, default=0, is_strict=True)


class PauseWebhookParams(Params):
    id = IntParam("webhook id", min=1)
    paused = IntParam("是否暂停", min=0, max=1)


class RotateSecretParams(Params):
    id = IntParam("webhook id", min=1)
    keep_hours = IntParam("旧密钥保留小时数", min=0, max=_MAX_OLD_HOURS, default=_OLD_HOURS, is_strict=True)


class ReplayParams(Params):
    """One of the two: a time, or positions."""

    id = IntParam("webhook id", min=1)
    since = IntParam("起始时间", min=0, default=-1, is_strict=True)
    positions = PositionsParam()

    def read(self, *sources: Mapping[str, Any]) -> dict[str, Any]:
        values = super().read(*sources)
        if (values["since"] < 0) == ("positions" not in values):
            raise InvalidParams(
                "since", Fault("since 和 positions 必须且只能填一个", "Give either `since` or `positions`")
            )
        return values


class WebhookState(Exact):
    """A webhook and how it fares."""

    id = number()
    url = text()
    events = fields.List(fields.String(validate=validate.OneOf(EVENT_TYPES)), required=True)
    chatType = one_of(*_CHAT_TYPES)
    max_events = number(description="events of one POST at most")
    paused = text(null=True, description="null: at work; `administrator`, `failing` (for too long), `gone` (410)")
    lag = number(description="decisions that lie behind, those that it has not asked for too")
    positions = fields.Dict(keys=fields.String(), values=fields.Integer(), required=True)
    failures = number(description="attempts that failed since the last that did not")
    next_try_at = number(null=True, description="milliseconds, UTC; null: it waits for nothing")
    delivered = number(description="events, ever")
    failed = number(description="attempts, ever")
    last_success_at = number(null=True, description="milliseconds, UTC")
    last_error = text(null=True)
    last_error_at = number(null=True, description="milliseconds, UTC")
    old_secret_until = number(null=True, description="milliseconds, UTC; until then the secret before signs too")
    created_at = number(description="milliseconds, UTC")


class NewWebhook(WebhookState):
    """A webhook as it was made, with the secret that is not shown again."""

    secret = text()


class Webhooks(Exact):
    """All webhooks, by id."""

    webhooks = many(WebhookState)


class NewSecret(Exact):
    """The secret of a webhook from now on; it is not shown again."""

    secret = text()
    old_secret_until = number(description="milliseconds, UTC; until then the secret before signs too")


class WebhookTested(Exact):
    """What became of a test."""

    delivered = fields.Boolean(required=True)
    status = number(null=True, description="HTTP status; null where no answer came")
    duration_ms = number()
    error = text(null=True)


class WebhookAttemptShown(Exact):
    """One POST, and what became of it."""

    attempt = number(description="its number, from 1")
    at = number(description="milliseconds, UTC")
    webhook_id = text(description="header of that name")
    events = number(description="how many it carried")
    first_event_id = text()
    status = number(null=True, description="HTTP status; null where no answer came")
    duration_ms = number()
    error = text(null=True, description="null: delivered")


class WebhookAttempts(Exact):
    """The last attempts, newest first."""

    attempts = many(WebhookAttemptShown)


WEBHOOK_ID_PARAMS = WebhookIdParams()
CREATE_WEBHOOK_PARAMS = CreateWebhookParams()
CHANGE_WEBHOOK_PARAMS = ChangeWebhookParams()
PAUSE_WEBHOOK_PARAMS = PauseWebhookParams()
ROTATE_SECRET_PARAMS = RotateSecretParams()
REPLAY_PARAMS = ReplayParams()


def is_target(given: str) -> bool:
    """Return whether a text is a URL to which a webhook could be posted, as far as its spelling goes."""
    if not given.isascii() or not is_address(given):
        return False
    try:
        parts = urlsplit(given)
        return "@" not in parts.netloc and "#" not in given and parts.port != 0
    except ValueError:
        return False


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
