"""Queues: what waits for each user of the original, read into the scratch file as messages, each with those who lack it.

A message of a group stands in the queue of each member who was away: here it is one, with these members as its audience. One
that its reader could not be given as the group's, since he or the group is gone, becomes a notice to him alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from models.bodies import USER_TYPES
from models.groups import RECEIVING
from models.requests import ChatType, Kind, conversation_key
from models.users import MAX_ID
from tasks.original.columns import derived_uuid, is_uuid
from tasks.original.report import Report
from tasks.original.scratch import Scratch

_OLDEST_MS = 1_000_000_000_000  # September 2001: no message is older, and ORIG takes none for one
_FUTURE_MS = 86_400_000  # clocks that are wrong by more than a day tell nothing
_MAX_NAME, _MAX_ADDRESS = 200, 4_000
_MAX_REST_BYTES = 65_536  # of what is neither data nor options
_NOTHING = {"data": "", "dataType": False, "otherData": None}
_SAID = "SELECT said FROM message WHERE id = ?"
_KEEP = (
    "INSERT INTO message VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (id) DO UPDATE SET at_ms = max(at_ms, excluded.at_ms), place = max(place, excluded.place)"
)
# What a notice may say besides who, where and when.
_NOTICE_FIELDS = ("redirect", "msgidKey", "sendUUid")
_APPLICATION, _JOINING = "redirect-applyFriend-", "redirect-applyAddGroup"

Left = Literal["entry_unreadable", "entry_too_large", "queue_of_nobody"]
Keep = Callable[[Left, int, bytes], None]


class _Unreadable(Exception):
    """It is no Message."""


class _TooLarge(Exception):
    """It is more than a client can be sent."""


@dataclass(frozen=True, slots=True)
class Item:
    """A message as the scratch file holds it. seq is given when it is written.

    to_id: the reader, or the group. body: as readers see it, but for id, seq and times. own: what its sender sees otherwise.
    target_id: of a recall, the message recalled.
    """

    id: str
    kind: Kind
    chat_type: ChatType
    sender_id: int
    to_id: int
    type: str
    body: dict[str, Any]
    own: dict[str, Any]
    created_at_ms: int
    target_id: str | None = None

    @property
    def conversation(self) -> str:
        return conversation_key(self.chat_type, self.sender_id, self.to_id)


@dataclass(frozen=True, slots=True)
class Bounds:
    message_max_bytes: int
    inbox_max_entries: int
    now_ms: int


class QueueReader:
    """Takes the queues of one user after the other. keep: where what nobody can be shown goes."""

    def __init__(self, scratch: Scratch, report: Report, bounds: Bounds, keep: Keep) -> None:
        self._scratch = scratch
        self._report = report
        self._bounds = bounds
        self._keep = keep
        self._user_id = 0
        self._place = 0
        self._at_ms = 0  # when the entry before was sent; each is later, so that their order is that of the queue
        self._known: dict[int, Any] = {}

    def begin(self, user_id: int) -> None:
        """Begin with the queue of a user. Always in the same order: who comes first decides which message keeps an id."""
        self._user_id, self._place, self._at_ms = user_id, 0, _OLDEST_MS
        self._known.clear()

    def take(self, raw: bytes) -> None:
        """Take the next entry of the queue."""
        self._place += 1
        if self._place == self._bounds.inbox_max_entries + 1:
            self._report.note("queue_longer_than_inbox", self._user_id)
        if self._person(self._user_id) is None:
            self._leave("queue_of_nobody", raw)
            return
        try:
            message = _decoded(raw)
            if isinstance(message["from_id"], str) and not message["from_id"].isdigit():
                self._take_redirect(message)
            elif message.get("actionType") == "revoke":
                self._take_recall(message)
            else:
                self._take_message(message)
        except _Unreadable:
            self._leave("entry_unreadable", raw)
        except _TooLarge:
            self._leave("entry_too_large", raw)

    def _leave(self, code: Left, raw: bytes) -> None:
        self._report.note(code, f"user {self._user_id}, entry {self._place}")
        self._keep(code, self._user_id, raw)

    # Kinds of entries

    def _take_message(self, message: dict[str, Any]) -> None:
        is_group = message["chatType"] == "group"
        sender_id, group_id = _id(message["from_id"]), _id(message["to_id"]) if is_group else 0
        is_send = message["type"] in USER_TYPES
        body = self._body(message, sender_id, is_send=is_send)
        if self._person(sender_id) is None:
            self._report.note("sender_unknown", f"user {sender_id}")
        if is_group and not self._hears(group_id):
            self._report.note("message_without_group", f"user {self._user_id}, group {group_id}")
            self._add(self._notice(message, sender_id, body), is_copy=True, keeps_id=not self._is_room(group_id))
            return
        kind: Kind = "send" if is_send else "notice"
        to_id = group_id if is_group else self._user_id
        chat_type: ChatType = "group" if is_group else "single"
        if is_group:
            body["group"] = self._summary(group_id)
        own = self._own_view(message, sender_id, body) if is_send and not is_group else {}
        item = Item(
            str(message["id"]), kind, chat_type, sender_id, to_id, message["type"], body, own, self._time(message)
        )
        self._add(item)

    def _take_recall(self, message: dict[str, Any]) -> None:
        """A recall is shown to whoever has it waiting: the message itself he may have had already."""
        is_group = message["chatType"] == "group"
        sender_id, group_id = _id(message["from_id"]), _id(message["to_id"]) if is_group else 0
        is_heard = is_group and self._hears(group_id)
        target_id = message["id"]
        if not is_uuid(target_id):
            raise _Unreadable
        body = self._body(message, sender_id, is_send=False) | {"actionType": "revoke", "group": None}
        chat_type: ChatType = "group" if is_heard else "single"
        to_id = group_id if is_heard else self._user_id
        recall_id = derived_uuid("recall", target_id, sender_id, to_id)
        item = Item(
            recall_id, "recall", chat_type, sender_id, to_id, "systemNotice", body, {}, self._time(message), target_id
        )
        self._add(item)
        self._scratch.execute("INSERT OR IGNORE INTO recalled VALUES (?, ?)", target_id, sender_id)

    def _take_redirect(self, message: dict[str, Any]) -> None:
        """Of the notices that lead somewhere only applications stay, as long as they wait: greetings are made anew."""
        key = message["from_id"]
        if key.startswith(_APPLICATION):
            applicant_id = _id(key.removeprefix(_APPLICATION))
            query = "SELECT 1 FROM waiting WHERE applicant_id = ? AND target_id = ?"
            is_waiting = self._scratch.first(query, applicant_id, self._user_id) is not None
        elif key.startswith(_JOINING):
            group, _, rest = str(key).removeprefix(_JOINING).partition("-")
            applicant_id = _id(rest.partition("-")[0])
            query = "SELECT 1 FROM membership WHERE group_id = ? AND user_id = ? AND status = 2"
            is_waiting = self._scratch.first(query, _id(group), applicant_id) is not None
        elif not key.startswith("redirect-"):
            raise _Unreadable
        else:
            self._report.note("greeting_dropped", key.rpartition("-")[0])
            return
        if not is_waiting:
            self._report.note("application_notice_dropped", key)
            return
        body = self._body(message, applicant_id, is_send=False) | {"from_id": key}
        self._add(self._notice(message, applicant_id, body))

    def _notice(self, message: dict[str, Any], about_id: int, body: dict[str, Any]) -> Item:
        """Make a notice to the reader alone."""
        to_id = self._user_id
        return Item(
            str(message["id"]), "notice", "single", about_id, to_id, message["type"], body, {}, self._time(message)
        )

    # Keeping

    def _add(self, item: Item, *, is_copy: bool = False, keeps_id: bool = True) -> None:
        """Keep an item and that the reader has it waiting.

        is_copy: others have their own of the same. keeps_id: unless another message has it, queues being read in order
        """
        said = derived_uuid(
            *(item.kind, item.chat_type, item.sender_id, item.to_id, item.type),
            orjson.dumps(item.body["data"]).decode(),
        )
        message_id = item.id
        if not keeps_id or not is_uuid(message_id) or self._scratch.first(_SAID, message_id) not in (None, said):
            message_id = derived_uuid(item.id, said, item.created_at_ms)
            if self._scratch.take("replaced", message_id) and not is_copy:
                self._report.note("message_id_replaced", f"user {self._user_id}, entry {self._place}")
        if not self._scratch.execute("INSERT OR IGNORE INTO hearer VALUES (?, ?)", message_id, self._user_id):
            self._report.note("entry_doubled", f"user {self._user_id}, entry {self._place}")
            return
        values = (message_id, said, self._at_ms, self._place, orjson.dumps(item).decode())
        self._scratch.execute(_KEEP, *values)

    # Contents

    def _body(self, message: dict[str, Any], sender_id: int, *, is_send: bool) -> dict[str, Any]:
        """Build a Message as its reader sees it, in the order of `models/bodies.py`, with what an entry may say."""
        sender, reader = self._person(sender_id), self._person(self._user_id)
        is_group = message["chatType"] == "group"
        data = message.get("data")
        if is_send and not isinstance(data, str):
            data = orjson.dumps(data if isinstance(data, dict) else _NOTHING | {"data": data}).decode()
        options = message.get("options")
        body: dict[str, Any] = {
            "id": None,
            "from_avatar": _text(message.get("from_avatar"), _MAX_ADDRESS),
            "from_name": _text(message.get("from_name"), _MAX_NAME),
            "from_id": sender_id,
            "to_id": _id(message["to_id"]) if is_group else self._user_id,
            # A remark that the sender wrote is shown to nobody else (C19).
            "to_name": _text(message.get("to_name"), _MAX_NAME) if is_group else reader["name"],
            "to_avatar": _text(message.get("to_avatar"), _MAX_ADDRESS),
            "chatType": message["chatType"],
            "type": message["type"],
            "data": data,
            "options": options if isinstance(options, dict | list) else None,
            "create_time": 0,
            "isremove": 0,
        }
        if is_send:
            body["sendUUid"] = sender["uuid"] if sender is not None else _text(message.get("sendUUid"), 36)
        else:
            body |= {name: message[name] for name in _NOTICE_FIELDS if name in message}
        most = self._bounds.message_max_bytes
        data_bytes = len(data.encode() if isinstance(data, str) else orjson.dumps(data))
        if data_bytes > most or len(orjson.dumps(body["options"])) > most // 2:
            raise _TooLarge
        if len(orjson.dumps(body)) > 2 * most + _MAX_REST_BYTES:
            raise _TooLarge
        return body

    def _own_view(self, message: dict[str, Any], sender_id: int, body: dict[str, Any]) -> dict[str, Any]:
        """Give the names as the sender sees them, where they differ: his remark, and not the reader's."""
        sender = self._person(sender_id)
        own = {
            "from_name": sender["name"] if sender is not None else body["from_name"],
            "to_name": _text(message.get("to_name"), _MAX_NAME) or body["to_name"],
        }
        return {name: value for name, value in own.items() if value != body[name]}

    def _time(self, message: dict[str, Any]) -> int:
        """Give when an entry was sent, and note it: what follows in the queue is later."""
        given = message.get("create_time")
        if isinstance(given, int) and _OLDEST_MS <= given <= self._bounds.now_ms + _FUTURE_MS:
            self._at_ms = max(given, self._at_ms + 1)
            return given
        self._report.note("message_time_replaced", f"user {self._user_id}, entry {self._place}")
        is_first = self._at_ms == _OLDEST_MS
        self._at_ms += 1
        return self._bounds.now_ms if is_first else self._at_ms

    def _hears(self, group_id: int) -> bool:
        query = "SELECT status FROM membership WHERE group_id = ? AND user_id = ?"
        return self._scratch.first(query, group_id, self._user_id) in RECEIVING

    def _is_room(self, group_id: int) -> bool:
        return self._scratch.first("SELECT 1 FROM room WHERE id = ?", group_id) is not None

    def _summary(self, group_id: int) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(
            self._scratch.first("SELECT summary FROM room WHERE id = ?", group_id) or "{}"
        )
        query = "SELECT count(*) FROM membership WHERE group_id = ? AND status IN (?, ?)"
        return found | {"member_count": self._scratch.first(query, group_id, *RECEIVING)}

    def _person(self, user_id: int) -> Any:
        """Return who this is, None where nobody is. Remembered for one queue, which is from a few people mostly."""
        if user_id not in self._known:
            rows = self._scratch.select("SELECT uuid, name FROM person WHERE id = ?", user_id)
            self._known[user_id] = next(iter(rows), None)
        return self._known[user_id]


def _decoded(raw: bytes) -> dict[str, Any]:
    try:
        message = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise _Unreadable from error
    if not isinstance(message, dict) or (b"\\u0000" in raw and "\0" in str(message)):
        raise _Unreadable
    is_whole = message.get("chatType") in ("single", "group") and {"id", "from_id", "to_id"} <= message.keys()
    if not is_whole or not isinstance(message.get("type"), str) or len(message["type"]) > 40:
        raise _Unreadable
    try:
        orjson.dumps(message)  # it reads deeper than it writes
    except orjson.JSONEncodeError as error:
        raise _Unreadable from error
    return message


def _id(value: object) -> int:
    """Read a user's or a group's id. Raises _Unreadable."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 10:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_ID:
        return value
    raise _Unreadable


def _text(value: object, most: int) -> str:
    return value[:most] if isinstance(value, str) else ""
