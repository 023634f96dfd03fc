"""What the contract promises, in plain Python: what was accepted, who may have what, and what each client has been shown.

Small enough to be obviously right: it knows nothing of leases, fences, scripts or threads. Where the product may choose,
because a change raced with a decision or Redis lost its data, the reference allows both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from models.requests import Request

Key = tuple[str, Literal["message", "recall"]]  # a recall is shown under the id of what it recalls
Row = Mapping[str, Any]


def key_of(row: Row) -> Key:
    return (row["target_id"], "recall") if row["kind"] == "recall" else (row["id"], "message")


def is_entitled(row: Row, user_id: int, device: str, protocol: int, members: Sequence[int]) -> bool:
    """Return whether a stored row is to be shown on a device: a legacy client shows its own messages by itself."""
    is_mine = row["sender_id"] == user_id
    is_own = is_mine and row["device"] == device and (row["kind"] == "send" or row["group_id"] is None)
    audience = members if row["group_id"] is not None else (row["sender_id"], row["recipient_id"])
    return user_id in audience and not (is_own and protocol == 1)


@dataclass(slots=True)
class Client:
    """One device, over all its connections."""

    user_id: int
    device: str
    protocol: int
    is_known: bool = False  # it has connected once
    epoch: str = ""
    cursor: int = 0
    by_cursor: dict[int, Key] = field(default_factory=dict)  # of this epoch
    seen: set[Key] = field(default_factory=set)
    acknowledged: set[Key] = field(default_factory=set)
    forgotten: set[Key] = field(default_factory=set)  # acknowledged before Redis was emptied: may come again
    excused: set[Key] = field(default_factory=set)  # announced as gone, or older than the device
    last_seqs: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def see(self, key: Key, message: Mapping[str, Any], shown: set[Key]) -> None:
        """Take a sighting on a connection that has `shown` these before."""
        assert key not in shown, f"{self}: {key} twice on one connection"
        assert key not in self.acknowledged, f"{self}: {key} was acknowledged and is sent again"
        if key not in self.seen and key not in self.excused and key[1] == "message":
            conversation = f"{message['chatType']}:{message['to_id'] if message['chatType'] == 'group' else ''}"
            if message["chatType"] == "single":
                conversation += str(sorted((message["from_id"], message["to_id"])))
            assert message["seq"] > self.last_seqs[conversation], f"{self}: {key} comes after a higher seq"
            self.last_seqs[conversation] = message["seq"]
            assert (key[0], "recall") not in self.seen | shown, f"{self}: {key} comes after its recall"
        self.seen.add(key)
        shown.add(key)

    def place(self, cursor: int, key: Key) -> None:
        """Take the cursor of a sighting: consecutive, and the same for the same entry."""
        assert cursor == self.cursor + 1, f"{self}: cursor {cursor} after {self.cursor} without a reset"
        assert self.by_cursor.setdefault(cursor, key) == key, f"{self}: another entry has cursor {cursor} now"
        self.cursor = cursor

    def __str__(self) -> str:
        return f"user {self.user_id} device {self.device} (protocol {self.protocol})"


class Reference:
    """What was accepted, and which verdicts it may get."""

    def __init__(self) -> None:
        self.accepted: list[Request] = []
        self.may_be_lost: set[str] = set()  # undecided when Redis was emptied
        self.is_blocked: set[tuple[int, int]] = set()  # (owner, other)
        self._may_be_allowed: dict[tuple[str, int], set[bool]] = {}  # by id and recipient

    def accept(self, request: Request, decided: set[str]) -> None:
        self.accepted.append(request)
        if request.kind == "send" and request.id not in decided and request.chat_type == "single":
            allowed = (request.to_id, request.sender_id) not in self.is_blocked
            self._may_be_allowed.setdefault((request.id, request.to_id), set()).add(allowed)

    def change(self, owner_id: int, other_id: int, *, is_blocked: bool, decided: set[str], is_racing: bool) -> None:
        """Take a change that is answered: what is undecided follows it, unless a drain is just deciding."""
        (self.is_blocked.add if is_blocked else self.is_blocked.discard)((owner_id, other_id))
        for request in self.accepted:
            key = (request.id, request.to_id)
            is_concerned = request.sender_id == other_id and request.to_id == owner_id and key in self._may_be_allowed
            if is_concerned and request.id not in decided:
                self._may_be_allowed[key] = {not is_blocked, *(self._may_be_allowed[key] if is_racing else ())}

    def lose_redis(self, decided: set[str]) -> None:
        self.may_be_lost |= {request.id for request in self.accepted} - decided

    def check_rows(self, rows: Sequence[Row], *, is_final: bool) -> None:
        """Check verdicts, and that each conversation is numbered without gaps in the order of acceptance."""
        by_id = {row["id"]: row for row in rows}
        assert set(by_id) <= {request.id for request in self.accepted}
        if is_final:
            assert {request.id for request in self.accepted} - self.may_be_lost <= set(by_id), "accepted, never decided"
        for row in rows:
            stored = row["verdict"] == "stored"
            if row["kind"] == "recall":
                target = by_id.get(row["target_id"])
                may_be = target is not None and target["conversation"] == row["conversation"]
                is_due = bool(may_be and target and target["verdict"] == "stored")
                assert stored == is_due or row["target_id"] in self.may_be_lost, f"recall {row}, of {target}"
            elif row["group_id"] is None:
                assert stored in self._may_be_allowed[row["id"], row["recipient_id"]], f"wrong verdict: {row}"
            else:
                assert stored, row
        conversations: dict[str, list[Row]] = defaultdict(list)
        for row in sorted((row for row in rows if row["seq"] is not None), key=lambda row: int(row["seq"])):
            conversations[row["conversation"]].append(row)
        for conversation, members in conversations.items():
            assert [row["seq"] for row in members] == list(range(1, len(members) + 1)), f"gaps in {conversation}"
            accepted = iter(request.id for request in self.accepted if request.conversation == conversation)
            for row in members:  # a subsequence: repeats of an id may stand anywhere after it
                assert row["id"] in accepted, f"{conversation} is not in the order of acceptance"
