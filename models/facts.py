"""Facts: the questions a drain asks about a whole batch of sends, answered from memory or in a handful of queries.

Rows are cached in the process, each with the facts version of the user or group that owns it. A batch is decided on what is
cached (`recall`); the transaction that commits it compares the versions (`still_hold`), and where one has changed the facts
are read anew (`load`) and the batch is decided again. So a change that was answered before is always seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select, tuple_

from models.blocks import Block
from models.database import among
from models.follows import Follow
from models.friendships import Friendship
from models.groups import ACTIVE, MUTED, Group, GroupMember
from models.prepared import Prepared
from models.users import MAX_ID, User

_MAX_CACHED = 50_000  # entries per kind, about 20 MB; beyond it the cache starts anew

_VERSIONS = {table: select(table.id, table.facts_version).where(among(table.id, "ids")) for table in (User, Group)}
# Shared locks, in the order in which changes take theirs. SQLite needs none: the transaction holds its only one.
_LOCKED_VERSIONS = {
    table: Prepared(versions.order_by(table.id).with_for_update(read=True)) for table, versions in _VERSIONS.items()
}


@dataclass(frozen=True, slots=True)
class UserFacts:
    id: int
    uuid: str
    username: str
    nickname: str
    avatar: str
    role: str
    status: int
    userset: str
    facts_version: int

    @property
    def public_name(self) -> str:
        return self.nickname or self.username


@dataclass(frozen=True, slots=True)
class RelationFacts:
    """What one user (the owner) holds about another."""

    is_friend: bool  # the owner lists the other as friend
    remark: str  # the owner's private name for the other
    is_enabled: bool  # the administrator's switch on that row
    is_blocked: bool  # the owner has blocked the other, on his friend row or apart from it
    is_following: bool  # the owner follows the other


NO_RELATION = RelationFacts(is_friend=False, remark="", is_enabled=True, is_blocked=False, is_following=False)


@dataclass(frozen=True, slots=True)
class MemberFacts:
    nickname: str
    avatar: str
    status: int
    muted_until_ms: int


@dataclass(frozen=True, slots=True)
class GroupFacts:
    id: int
    uuid: str
    owner_id: int
    name: str
    avatar: str
    remark: str
    invite_confirm: int
    status: int
    muted_until_ms: int
    facts_version: int
    members: Mapping[int, MemberFacts]
    active_member_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts of one batch. What is absent from `users` or `groups` does not exist."""

    users: Mapping[int, UserFacts]
    relations: Mapping[tuple[int, int], RelationFacts]  # (owner, other); absent = NO_RELATION
    groups: Mapping[int, GroupFacts]


class FactsCache:
    """One for each who asks: a drain, the hearers, an explanation. Not thread-safe."""

    def __init__(self) -> None:
        self._users: dict[int, UserFacts] = {}
        self._relations: dict[tuple[int, int], tuple[int, RelationFacts]] = {}  # with the owner's facts version
        self._groups: dict[int, GroupFacts] = {}

    def recall(self, users: set[int], pairs: Iterable[tuple[int, int]], groups: set[int]) -> Facts | None:
        """Return the facts as they were read last; None where some of them were never read, or go back to several reads."""
        try:
            known_users = {user_id: self._users[user_id] for user_id in users}
            relations = {}
            for pair in pairs:
                version, relations[pair] = self._relations[pair]
                if version != known_users[pair[0]].facts_version:
                    return None
            return Facts(known_users, relations, {group_id: self._groups[group_id] for group_id in groups})
        except KeyError:
            return None

    def load(
        self, connection: Connection, users: set[int], pairs: Iterable[tuple[int, int]], groups: set[int]
    ) -> Facts:
        """Return the facts about users, (owner, other) pairs and groups as they are committed now."""
        # Whatever number a client has written: PostgreSQL answers one beyond its columns with an error.
        users, groups = ({each for each in ids if each <= MAX_ID} for ids in (users, groups))
        pairs = [pair for pair in pairs if max(pair) <= MAX_ID]
        self._forget_when_full()
        loaded_users = self._load_users(connection, users) if users else {}
        return Facts(
            users=loaded_users,
            relations=self._load_relations(connection, pairs, loaded_users),
            groups=self._load_groups(connection, groups) if groups else {},
        )

    def still_hold(self, connection: Connection, facts: Facts) -> bool:
        """Return whether nothing has changed since `load`, and keep it so until the transaction ends.

        Call it in the transaction that commits what was decided on these facts: a block that is answered while a drain is
        stopped in between must not be overtaken (G5).
        """
        return all(
            _are_current(connection, table, known)
            for table, known in ((User, facts.users), (Group, facts.groups))
            if known
        )

    def _load_users(self, connection: Connection, user_ids: set[int]) -> dict[int, UserFacts]:
        versions = connection.execute(_VERSIONS[User], {"ids": user_ids}).all()
        cached = self._users
        stale = [user_id for user_id, version in versions if not _is_current(cached.get(user_id), version)]
        if stale:
            columns = (
                User.id,
                User.uuid,
                User.username,
                User.nickname,
                User.avatar,
                User.role,
                User.status,
                User.userset,
            )
            rows = connection.execute(select(*columns, User.facts_version).where(User.id.in_(stale)))
            cached.update((row.id, UserFacts(*row)) for row in rows)
        return {user_id: cached[user_id] for user_id, _ in versions if user_id in cached}

    def _load_relations(
        self, connection: Connection, pairs: Iterable[tuple[int, int]], users: Mapping[int, UserFacts]
    ) -> dict[tuple[int, int], RelationFacts]:
        cached, found, missing = self._relations, {}, []
        for pair in pairs:
            owner = users.get(pair[0])
            if owner is None:
                continue
            entry = cached.get(pair)
            if entry is not None and entry[0] == owner.facts_version:
                found[pair] = entry[1]
            else:
                missing.append(pair)
        if missing:
            key = tuple_(Friendship.user_id, Friendship.friend_id)
            columns = (
                Friendship.user_id,
                Friendship.friend_id,
                Friendship.nickname,
                Friendship.status,
                Friendship.isblack,
            )
            rows = {(row[0], row[1]): row for row in connection.execute(select(*columns).where(key.in_(missing)))}
            blocked = _existing(connection, Block.blocker_id, Block.blocked_id, missing)
            followed = _existing(connection, Follow.follower_id, Follow.followed_id, missing)
            for pair in missing:
                row = rows.get(pair)
                relation = RelationFacts(
                    is_friend=row is not None,
                    remark=row.nickname if row else "",
                    is_enabled=row is None or row.status == ACTIVE,
                    is_blocked=pair in blocked or (row is not None and bool(row.isblack)),
                    is_following=pair in followed,
                )
                cached[pair] = (users[pair[0]].facts_version, relation)
                found[pair] = relation
        return found

    def _load_groups(self, connection: Connection, group_ids: set[int]) -> dict[int, GroupFacts]:
        versions = connection.execute(_VERSIONS[Group], {"ids": group_ids}).all()
        cached = self._groups
        stale = [group_id for group_id, version in versions if not _is_current(cached.get(group_id), version)]
        if stale:
            members: dict[int, dict[int, MemberFacts]] = {group_id: {} for group_id in stale}
            columns = (GroupMember.group_id, GroupMember.user_id, GroupMember.nickname, GroupMember.avatar)
            of_stale = select(*columns, GroupMember.status, GroupMember.muted_until_ms).where(
                GroupMember.group_id.in_(stale)
            )
            # Groups first: should a member change in between, the version we keep is the older one and is read again.
            rows = connection.execute(
                select(Group).where(Group.id.in_(stale)).with_only_columns(*Group.__table__.c)
            ).all()
            for group_id, user_id, *member in connection.execute(of_stale):
                members[group_id][user_id] = MemberFacts(*member)  # type: ignore[arg-type]  # in the order of columns
            for row in rows:
                cached[row.id] = GroupFacts(
                    id=row.id,
                    uuid=row.uuid,
                    owner_id=row.user_id,
                    name=row.name,
                    avatar=row.avatar,
                    remark=row.remark,
                    invite_confirm=row.invite_confirm,
                    status=row.status,
                    muted_until_ms=row.muted_until_ms,
                    facts_version=row.facts_version,
                    members=members[row.id],
                    active_member_ids=[i for i, member in members[row.id].items() if member.status in (ACTIVE, MUTED)],
                )
        return {group_id: cached[group_id] for group_id, _ in versions if group_id in cached}

    def _forget_when_full(self) -> None:
        for cache in (self._users, self._relations, self._groups):
            if len(cache) > _MAX_CACHED:
                cache.clear()


def _existing(connection: Connection, owner: Any, other: Any, pairs: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
    """Return those of the (owner, other) pairs that have a row."""
    return {(row[0], row[1]) for row in connection.execute(select(owner, other).where(tuple_(owner, other).in_(pairs)))}


def _are_current(connection: Connection, table: Any, known: Mapping[int, UserFacts | GroupFacts]) -> bool:
    versions = _LOCKED_VERSIONS[table].select(connection, {"ids": known.keys()})
    return len(versions) == len(known) and all(
        known[owner_id].facts_version == version for owner_id, version in versions
    )


def _is_current(entry: UserFacts | GroupFacts | None, version: int) -> bool:
    return entry is not None and entry.facts_version == version
