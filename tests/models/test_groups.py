"""Operations on groups and memberships, on a database of their own: bounds of what is composed, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select, update

from models import blocks, friendships, groups, memberships, tables
from models.database import Database, open_database
from models.friendships import Friendship
from models.groups import Group, GroupMember
from models.memberships import Change, Joining, Rules
from models.users import User

_RULES = Rules(max_members=5, default_avatar="/user.jpg")
_ALL_TABLES = tables.User.metadata


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path / 'groups.db'}")
    _ALL_TABLES.create_all(database.engine)
    yield database
    database.engine.dispose()


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    with database.writing() as connection:
        yield connection


def _add_users(connection: Connection, count: int, *, nickname: str = "", avatar: str = "") -> None:
    rows = [
        {
            "id": user_id,
            "uuid": f"{user_id:036d}",
            "username": f"user{user_id}",
            "password": "",
            "nickname": nickname,
            "avatar": avatar,
        }
        for user_id in range(1, count + 1)
    ]
    connection.execute(insert(User), rows)
    friendships.befriend(connection, [(1, other) for other in range(2, count + 1)])


def _rows_of_1(connection: Connection) -> list[int]:
    return list(connection.execute(select(Friendship.id).where(Friendship.user_id == 1)).scalars())


def _created(connection: Connection, row_ids: list[int], rules: Rules = _RULES) -> Change:
    change = memberships.create(connection, 1, row_ids, rules)
    assert isinstance(change, Change)
    return change


@pytest.mark.parametrize(
    ("faces", "expected"),
    [
        (["/a.png", "/b.png"], "/a.png,/b.png"),
        ([f"/{number}" for number in range(12)], ",".join(f"/{number}" for number in range(9))),
        (["/a,b.png"], "/a%2Cb.png"),
        (["a" * 1_000] * 5, ",".join(["a" * 1_000] * 3)),
        (["a" * 1_000] * 3 + ["b" * 1_000, "c" * 900], ",".join([*["a" * 1_000] * 3, "c" * 900])),
        ([], ""),
    ],
)
def test_a_composed_avatar_fits_its_column(faces: list[str], expected: str) -> None:
    """At most nine avatars and 4,000 characters; commas only separate."""
    assert memberships.compose_avatar(faces) == expected


def test_a_group_is_named_after_its_first_members(connection: Connection) -> None:
    """The creator comes first; the name is cut to 50 characters; whoever has no avatar shows the default one."""
    _add_users(connection, 4, nickname="二十个字的名字二十个字的名字二十个字的名")
    connection.execute(update(User).where(User.id == 1).values(nickname="creator", avatar="/me.png"))

    change = _created(connection, _rows_of_1(connection))

    assert len(change.group.name) == 50
    assert change.group.name.startswith("creator、二十个字")
    assert change.group.avatar == "/me.png,/user.jpg,/user.jpg,/user.jpg"
    assert change.group.member_count == 4


def test_a_group_is_capped_when_it_is_made(connection: Connection) -> None:
    """One more friend than fits is refused, however often one of them is named; a repeated id counts once (F8)."""
    _add_users(connection, 6)
    row_ids = _rows_of_1(connection)

    assert memberships.create(connection, 1, row_ids, _RULES) == "group_full"
    assert _created(connection, [*row_ids[:4], *row_ids[:4]]).group.member_count == 5


def test_only_usable_friends_are_put_in_a_group(connection: Connection) -> None:
    """Friends who are disabled, black, or blocked on either side, are left out; foreign rows count for nothing (F7)."""
    _add_users(connection, 8)
    friendships.befriend(connection, [(7, 8)])
    by_friend = {
        row.friend_id: row.id
        for row in connection.execute(
            select(Friendship).where(Friendship.user_id == 1).with_only_columns(Friendship.id, Friendship.friend_id)
        )
    }
    connection.execute(update(Friendship).where(Friendship.user_id == 1, Friendship.friend_id == 3).values(isblack=1))
    connection.execute(update(Friendship).where(Friendship.user_id == 4, Friendship.friend_id == 1).values(isblack=1))
    blocks.block(connection, 5, 1, 0)
    connection.execute(update(User).where(User.id == 6).values(status=0))
    foreign = list(connection.execute(select(Friendship.id).where(Friendship.user_id == 7)).scalars())

    assert memberships.create(connection, 1, [by_friend[3], by_friend[4], by_friend[5]], _RULES) == "no_members_chosen"
    assert memberships.create(connection, 1, [by_friend[6]], _RULES) == "members_unavailable"
    assert memberships.create(connection, 1, foreign, _RULES) == "no_members_chosen"
    change = _created(connection, [*list(by_friend.values())[:5], *foreign], Rules(20, "/user.jpg"))
    members = connection.execute(select(GroupMember.user_id).where(GroupMember.group_id == change.group.id)).scalars()
    assert set(members) == {1, 2}


def test_a_refusal_writes_nothing(connection: Connection) -> None:
    """A full group refuses the next who joins, and stays as it was, its facts version too."""
    _add_users(connection, 6)
    group_id = _created(connection, _rows_of_1(connection)[:4]).group.id

    def state() -> tuple[int, int]:
        version = connection.execute(select(Group.facts_version).where(Group.id == group_id)).scalar_one()
        return version, groups.count_members(connection, group_id, groups.RECEIVING)

    before = state()

    assert memberships.bring_in(connection, group_id, 6, "user", 6, _RULES) == "group_full"
    assert state() == before


def test_each_change_raises_the_facts_version(connection: Connection) -> None:
    """Workers read anew whatever a change touches (contract G5)."""
    _add_users(connection, 4)
    group_id = _created(connection, _rows_of_1(connection)[:1]).group.id
    versions: list[int] = []

    def note() -> None:
        versions.append(connection.execute(select(Group.facts_version).where(Group.id == group_id)).scalar_one())

    note()
    assert isinstance(memberships.bring_in(connection, group_id, 3, "user", 3, _RULES), Joining)
    note()
    changes: list[Callable[[], object]] = [
        lambda: memberships.rename(connection, group_id, 1, "another"),
        lambda: memberships.announce(connection, group_id, 1, "hear"),
        lambda: memberships.set_nickname(connection, group_id, 3, "three"),
        lambda: memberships.mute(connection, group_id, 1, 3, -1),
        lambda: memberships.set_joining(connection, group_id, 1, 1),
        lambda: memberships.transfer(connection, group_id, 1, 3),
        lambda: memberships.remove_member(connection, group_id, 3, 2, _RULES),
        lambda: memberships.leave(connection, group_id, 1, _RULES),
        lambda: memberships.leave(connection, group_id, 3, _RULES),
    ]
    for change in changes:
        done = change()
        assert not isinstance(done, str), done
        note()

    assert versions == sorted(set(versions))
    assert memberships.leave(connection, group_id, 3, _RULES) == "group_not_found"


def test_a_new_owner_is_not_muted(connection: Connection) -> None:
    """Whoever gets a group may speak in it."""
    _add_users(connection, 3)
    group_id = _created(connection, _rows_of_1(connection)).group.id
    assert memberships.mute(connection, group_id, 1, 2, -1) is None

    memberships.transfer(connection, group_id, 1, 2)

    query = select(GroupMember.muted_until_ms).where(GroupMember.group_id == group_id, GroupMember.user_id == 2)
    assert connection.execute(query).scalar_one() == 0
