"""History: what a user may read again of his conversations, page by page, from SQL.

Of a group he sees what was said while he was a member: the audience of each message tells, not today's member list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, func, or_, select

from models import audiences, groups, read_markers, users
from models.friendships import Friendship
from models.groups import ACTIVE, MUTED, Group, GroupMember
from models.messages import STORED, Message, load_last_seqs
from models.requests import ChatType
from models.users import User

_MAX_CONVERSATIONS = 500
_MAX_ID = 2**31 - 1  # PostgreSQL's integer: there is nobody beyond


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation of a user, as his list of conversations shows it."""

    chat_type: str
    peer_id: int
    name: str
    avatar: str
    last: str | None  # newest Message as JSON, as he sees it
    seq: int
    read_seq: int
    unread_count: int
    at_ms: int


def is_open_to(connection: Connection, user_id: int, chat_type: ChatType, peer_id: int) -> bool:
    """Return whether there is somebody to talk to there: a user who exists, a group that this one is in."""
    if peer_id > _MAX_ID:
        return False
    if chat_type == "group":
        return groups.is_member(connection, peer_id, user_id)
    return users.load_status(connection, peer_id) is not None


def load_page(
    connection: Connection, user_id: int, conversation: str, before_seq: int | None, limit: int
) -> tuple[list[str], bool]:
    """Return up to `limit` Messages as JSON, oldest first, and whether there are older ones.

    before_seq: exclusive; None = the newest page. Ask `is_open_to` first; of a group he is shown it back to when he came.
    """
    found: list[Any] = []
    while len(found) <= limit:
        query = select(Message.__table__).where(Message.conversation == conversation, Message.verdict == STORED)
        query = query.where(Message.seq.is_not(None) if before_seq is None else Message.seq < before_seq)
        rows = list(connection.execute(query.order_by(Message.seq.desc()).limit(limit + 1)))
        heard = _heard(connection, rows, user_id)
        found += heard
        if len(rows) <= limit or not heard:
            break
        before_seq = rows[-1].seq
    page = found[:limit]
    return [body_for(row, user_id) for row in reversed(page)], len(found) > limit


def load_conversations(connection: Connection, user_id: int) -> list[Conversation]:
    """Return the user's conversations, newest first."""
    markers = read_markers.load(connection, user_id)
    mine = or_(Message.recipient_id == user_id, and_(Message.sender_id == user_id, Message.is_to_sender.is_(True)))
    singles = select(Message.conversation, func.max(Message.seq).label("seq")).where(
        Message.verdict == STORED, Message.seq.is_not(None), Message.conversation.like("single:%"), mine
    )
    group_rows = connection.execute(
        select(Group.id, Group.name, Group.avatar)
        .join(GroupMember, GroupMember.group_id == Group.id)
        .where(GroupMember.user_id == user_id, GroupMember.status.in_((ACTIVE, MUTED)))
    ).all()
    newest = {name: seq or 0 for name, seq in connection.execute(singles.group_by(Message.conversation))}
    my_groups = {f"group:{row.id}": row for row in group_rows}
    newest |= {name: seq for name, seq in load_last_seqs(connection, list(my_groups)).items() if seq}
    last = _load_last(connection, newest)
    peers = {name: _peer_of(name, user_id) for name in newest if name not in my_groups}
    users = _load_users(connection, user_id, list(peers.values()))
    found = []
    for name, seq in newest.items():
        row, read_seq = last[name], markers.get(name, 0)
        heard = _heard(connection, [row], user_id)
        shown = my_groups[name] if name in my_groups else users.get(peers[name])
        found.append(
            Conversation(
                chat_type="group" if name in my_groups else "single",
                peer_id=my_groups[name].id if name in my_groups else peers[name],
                name=(shown.name if shown else ""),
                avatar=(shown.avatar if shown else ""),
                last=body_for(row, user_id) if heard else None,
                seq=seq,
                read_seq=read_seq,
                unread_count=_count_unread(connection, user_id, name, read_seq) if seq > read_seq else 0,
                at_ms=row.created_at_ms,
            )
        )
    return sorted(found, key=lambda conversation: -conversation.at_ms)[:_MAX_CONVERSATIONS]


def body_for(row: Any, user_id: int) -> str:
    """Return a stored row's Message as this user sees it."""
    own = row.sender_id == user_id and row.body_for_sender is not None
    return str(row.body_for_sender if own else row.body)


def _heard(connection: Connection, rows: Sequence[Any], user_id: int) -> list[Any]:
    """Return those rows whose audience the user was in."""
    versions = {(row.group_id, row.audience_version) for row in rows if row.group_id is not None}
    heard = {key: user_id in audiences.load(connection, *key) for key in versions}
    return [row for row in rows if row.group_id is None or heard[row.group_id, row.audience_version]]


def _load_last(connection: Connection, newest: dict[str, int]) -> dict[str, Any]:
    if not newest:
        return {}
    same = [and_(Message.conversation == name, Message.seq == seq) for name, seq in newest.items()]
    found: dict[str, Any] = {}
    for start in range(0, len(same), 100):
        rows = connection.execute(select(Message.__table__).where(or_(*same[start : start + 100])))
        found |= {row.conversation: row for row in rows}
    return found


def _load_users(connection: Connection, viewer_id: int, user_ids: list[int]) -> dict[int, Any]:
    """Return users under the private remarks that the viewer wrote, where he did (C19)."""
    names = (func.nullif(Friendship.nickname, ""), func.nullif(User.nickname, ""), User.username)
    mine = and_(Friendship.user_id == viewer_id, Friendship.friend_id == User.id)
    query = select(User.id, func.coalesce(*names).label("name"), User.avatar).outerjoin(Friendship, mine)
    rows = connection.execute(query.where(User.id.in_(user_ids)))
    return {row.id: row for row in rows}


def _count_unread(connection: Connection, user_id: int, conversation: str, read_seq: int) -> int:
    audience = (Message.group_id, Message.audience_version)
    query = select(*audience, func.count().label("count")).where(
        Message.conversation == conversation,
        Message.seq > read_seq,
        Message.verdict == STORED,
        Message.sender_id != user_id,
        Message.is_recalled.is_(False),
    )
    # Of a group, what was said before he came is not his to read.
    return sum(row.count for row in _heard(connection, list(connection.execute(query.group_by(*audience))), user_id))


def _peer_of(conversation: str, user_id: int) -> int:
    low, high = map(int, conversation.split(":")[1:])
    return high if low == user_id else low
