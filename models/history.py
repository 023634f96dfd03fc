"""History: what a user may read again of his conversations, page by page, from SQL.

Of a group he sees what was said while he was a member: the audience of each message tells, not today's member list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, String, and_, cast, func, literal, or_, select
from sqlalchemy.orm import aliased

from models import audiences, groups, read_markers, users
from models.friendships import Friendship
from models.groups import ACTIVE, MUTED, Group, GroupMember
from models.messages import STORED, Message
from models.requests import ChatType
from models.users import User

_MAX_CONVERSATIONS = 500
_MAX_UNREAD = 1_000  # counted of one conversation: a count reads each of them
_PLACES_PER_QUERY = 100
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
    """Return the user's newest 500 conversations, newest first."""
    markers = read_markers.load(connection, user_id)
    my_groups = {f"group:{row.id}": row for row in connection.execute(_newest_groups(user_id))}
    found = [(row.at_ms, row.conversation, row.seq) for row in connection.execute(_newest_singles(user_id))]
    found += [(row.at_ms, name, row.seq) for name, row in my_groups.items()]
    # Chosen before anything else is read of them, so that what is read is bounded whatever the number of strangers written to.
    newest = {name: seq for _, name, seq in sorted(found, reverse=True)[:_MAX_CONVERSATIONS]}
    last = _load_last(connection, newest)
    heard = {row.id for row in _heard(connection, list(last.values()), user_id)}
    unread = _count_unread(connection, user_id, newest, markers)
    peers = {name: _peer_of(name, user_id) for name in newest if name not in my_groups}
    users = _load_users(connection, user_id, list(peers.values()))
    conversations = []
    for name, seq in newest.items():
        row = last[name]
        shown = my_groups[name] if name in my_groups else users.get(peers[name])
        conversations.append(
            Conversation(
                chat_type="group" if name in my_groups else "single",
                peer_id=my_groups[name].id if name in my_groups else peers[name],
                name=(shown.name if shown else ""),
                avatar=(shown.avatar if shown else ""),
                last=body_for(row, user_id) if row.id in heard else None,
                seq=seq,
                read_seq=markers.get(name, 0),
                unread_count=unread.get(name, 0),
                at_ms=row.created_at_ms,
            )
        )
    return sorted(conversations, key=lambda conversation: -conversation.at_ms)


def body_for(row: Any, user_id: int) -> str:
    """Return a stored row's Message as this user sees it."""
    own = row.sender_id == user_id and row.body_for_sender is not None
    return str(row.body_for_sender if own else row.body)


def _heard(connection: Connection, rows: Sequence[Any], user_id: int) -> list[Any]:
    """Return those rows whose audience the user was in."""
    versions = {(row.group_id, row.audience_version) for row in rows if row.group_id is not None}
    heard = audiences.find_heard(connection, user_id, versions)
    return [row for row in rows if row.group_id is None or (row.group_id, row.audience_version) in heard]


def _newest_singles(user_id: int) -> Any:
    mine = or_(Message.recipient_id == user_id, and_(Message.sender_id == user_id, Message.is_to_sender.is_(True)))
    at_ms = func.max(Message.created_at_ms).label("at_ms")
    query = select(Message.conversation, func.max(Message.seq).label("seq"), at_ms).where(
        Message.verdict == STORED, Message.seq.is_not(None), Message.conversation.like("single:%"), mine
    )
    return query.group_by(Message.conversation).order_by(at_ms.desc()).limit(_MAX_CONVERSATIONS)


def _newest_groups(user_id: int) -> Any:
    said = aliased(Message)
    name = literal("group:").concat(cast(Group.id, String))
    # Not grouped: it would read all that was said in each group, where this reads the end of an index.
    newest = select(func.max(said.seq)).where(said.conversation == name).correlate(Group).scalar_subquery()
    return (
        select(Group.id, Group.name, Group.avatar, Message.seq, Message.created_at_ms.label("at_ms"))
        .join(GroupMember, GroupMember.group_id == Group.id)
        .join(Message, and_(Message.conversation == name, Message.seq == newest))
        .where(GroupMember.user_id == user_id, GroupMember.status.in_((ACTIVE, MUTED)))
        .order_by(Message.created_at_ms.desc())
        .limit(_MAX_CONVERSATIONS)
    )


def _load_last(connection: Connection, newest: dict[str, int]) -> dict[str, Any]:
    same = [and_(Message.conversation == name, Message.seq == seq) for name, seq in newest.items()]
    found: dict[str, Any] = {}
    for start in range(0, len(same), _PLACES_PER_QUERY):
        rows = connection.execute(select(Message.__table__).where(or_(*same[start : start + _PLACES_PER_QUERY])))
        found |= {row.conversation: row for row in rows}
    return found


def _load_users(connection: Connection, viewer_id: int, user_ids: list[int]) -> dict[int, Any]:
    """Return users under the private remarks that the viewer wrote, where he did (C19)."""
    names = (func.nullif(Friendship.nickname, ""), func.nullif(User.nickname, ""), User.username)
    mine = and_(Friendship.user_id == viewer_id, Friendship.friend_id == User.id)
    query = select(User.id, func.coalesce(*names).label("name"), User.avatar).outerjoin(Friendship, mine)
    rows = connection.execute(query.where(User.id.in_(user_ids)))
    return {row.id: row for row in rows}


def _count_unread(
    connection: Connection, user_id: int, newest: dict[str, int], markers: dict[str, int]
) -> Counter[str]:
    """Count what others have written to each conversation since its marker, among its last 1,000 messages."""
    unread = [
        and_(Message.conversation == name, Message.seq > max(markers.get(name, 0), seq - _MAX_UNREAD))
        for name, seq in newest.items()
        if seq > markers.get(name, 0)
    ]
    columns = (Message.conversation, Message.group_id, Message.audience_version)
    query = select(*columns, func.count().label("unread")).where(
        Message.verdict == STORED, Message.sender_id != user_id, Message.is_recalled.is_(False)
    )
    rows: list[Any] = []
    for start in range(0, len(unread), _PLACES_PER_QUERY):
        some = or_(*unread[start : start + _PLACES_PER_QUERY])
        rows += connection.execute(query.where(some).group_by(*columns))
    counted: Counter[str] = Counter()
    # Of a group, what was said before he came is not his to read.
    for row in _heard(connection, rows, user_id):
        counted[row.conversation] += row.unread
    return counted


def _peer_of(conversation: str, user_id: int) -> int:
    low, high = map(int, conversation.split(":")[1:])
    return high if low == user_id else low
