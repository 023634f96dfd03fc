"""Memberships: how a group comes to be, who comes in, who leaves, and what its owner changes (ORIG 6.4).

Each change is one operation: it locks the group, checks, writes and raises the facts version, and returns what there is to
tell, or the code of the refusal, in which case it has written nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, and_, delete, exists, insert, or_, select, update
from sqlalchemy.orm import aliased

from models import groups
from models.blocks import Block
from models.database import insert_missing
from models.friendships import Friendship
from models.groups import ACTIVE, DISSOLVED, MAX_ID, PENDING, RECEIVING, Group, GroupMember, Summary
from models.users import ACTIVE as ACTIVE_USER
from models.users import User

# Who may come in, `invite_confirm`: everybody, whom the owner agrees to, everybody who has logged in.
OPEN, APPROVAL, REGISTERED = 0, 1, 2

_NAME_MAX = 50
_AVATAR_MAX = 4_000
_AVATAR_FACES = 9
_MAX_APPLICANTS_TOLD = 100  # of a group that changes hands or is dissolved

Refusal = str  # a code of the catalogue of failures


@dataclass(frozen=True, slots=True)
class Rules:
    """max_members: of a group. default_avatar: stands in a group's avatar for members who have none."""

    max_members: int
    default_avatar: str


@dataclass(frozen=True, slots=True)
class Person:
    """A user as a group sees him: under his group nickname and avatar where he has them.

    status: of the account. membership: status of his membership, None where he has none.
    """

    id: int
    uuid: str
    username: str
    name: str
    avatar: str
    role: str
    status: int
    membership: int | None

    @property
    def is_member(self) -> bool:
        return self.membership in RECEIVING


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a group, after it. actor: who changed it. subject: whom it was about.

    applicants: people whose wish to join stands, or stood until now.
    """

    group: Summary
    actor: Person
    subject: Person | None = None
    applicants: Sequence[Person] = ()


@dataclass(frozen=True, slots=True)
class Joining:
    """Somebody came in, or waits for the owner. inviter: None where he came by himself."""

    group: Summary
    owner: Person
    joiner: Person
    inviter: Person | None
    is_pending: bool


@dataclass(frozen=True, slots=True)
class Leaving:
    how: Literal["withdrawn", "quit", "dissolved"]
    change: Change


# Coming in


def create(connection: Connection, creator_id: int, friend_row_ids: Sequence[int], rules: Rules) -> Change | Refusal:
    """Make a group of a user and those of his friends whose friend rows these are. Rows of others count for nothing (F7)."""
    wanted = [row_id for row_id in dict.fromkeys(friend_row_ids) if 0 < row_id <= MAX_ID]
    if len(wanted) >= rules.max_members:
        return "group_full"
    friend_ids = _usable_friends(connection, creator_id, Friendship.id.in_(wanted)) if wanted else []
    if not friend_ids:
        return "no_members_chosen"
    people = _load_people(connection, None, [creator_id, *friend_ids])
    if len(people) < 2:
        return "members_unavailable"
    row = {
        "uuid": str(uuid.uuid4()),
        "user_id": creator_id,
        "name": "、".join(person.name for person in people)[:_NAME_MAX],
    }
    group_id = int(connection.execute(insert(Group).returning(Group.id), row).scalar_one())
    groups.add_members(connection, group_id, [person.id for person in people])
    _renew_avatar(connection, group_id, rules)
    return Change(groups.load_summary(connection, group_id), people[0])


def bring_in(
    connection: Connection,
    group_id: int,
    caller_id: int,
    caller_role: str,
    user_id: int,
    rules: Rules,
) -> Joining | Refusal:
    """Let the caller join, or invite a friend of his. The inviter is always the caller, whoever he names (F9)."""
    group = groups.lock(connection, group_id)
    if group is None or group.status != ACTIVE:
        return "group_not_joinable"
    is_invited = user_id != caller_id
    inviter = load_person(connection, group_id, caller_id) if is_invited else None
    if is_invited and (inviter is None or not inviter.is_member):
        return "not_in_group"
    joiner = load_person(connection, group_id, user_id)
    if joiner is None or joiner.status != ACTIVE_USER:
        return "joiner_unavailable"
    if joiner.membership is not None:
        return "application_pending" if joiner.membership == PENDING else "already_member"
    if is_invited and not _usable_friends(connection, caller_id, Friendship.friend_id == user_id):
        return "not_friend_of_inviter"
    is_by_owner = group.user_id == caller_id
    is_visitor = (joiner.role if is_invited else caller_role) == "visitor"
    if group.invite_confirm == REGISTERED and not is_by_owner and is_visitor:
        return "login_to_join"
    is_pending = group.invite_confirm == APPROVAL and not is_by_owner
    if _is_full(connection, group_id, rules, is_pending=is_pending):
        return "group_full"
    owner = load_person(connection, group_id, group.user_id)
    if owner is None:
        return "group_not_joinable"
    row = {"group_id": group_id, "user_id": user_id, "status": PENDING if is_pending else ACTIVE}
    insert_missing(connection, GroupMember, [row], key=("group_id", "user_id"))
    _changed(connection, group_id, rules)
    return Joining(groups.load_summary(connection, group_id), owner, joiner, inviter, is_pending)


def answer_applicant(
    connection: Connection, group_id: int, owner_id: int, user_id: int, rules: Rules, *, is_agreed: bool
) -> Change | Refusal:
    """Let an applicant in, or refuse him."""
    owner = _load_owner(connection, group_id, owner_id, missing="group_not_yours")
    if isinstance(owner, Refusal):
        return owner
    applicant = load_person(connection, group_id, user_id)
    if applicant is None or applicant.membership != PENDING:
        return "no_application"
    if not is_agreed:
        _remove(connection, group_id, user_id)
    elif applicant.status != ACTIVE_USER:
        return "applicant_unavailable"
    elif _is_full(connection, group_id, rules):
        return "group_full"
    else:
        _set_member(connection, group_id, user_id, status=ACTIVE)
    _changed(connection, group_id, rules)
    return Change(groups.load_summary(connection, group_id), owner, applicant)


# Leaving


def remove_member(connection: Connection, group_id: int, owner_id: int, user_id: int, rules: Rules) -> Change | Refusal:
    """Put a member out, or an applicant."""
    owner = _load_owner(connection, group_id, owner_id, missing="not_owner")
    if isinstance(owner, Refusal):
        return owner
    if user_id == owner_id:
        return "owner_not_removable"
    member = load_person(connection, group_id, user_id)
    if member is None or member.membership is None:
        return "member_not_found"
    _remove(connection, group_id, user_id)
    _changed(connection, group_id, rules)
    return Change(groups.load_summary(connection, group_id), owner, member)


def leave(connection: Connection, group_id: int, user_id: int, rules: Rules) -> Leaving | Refusal:
    """Take a member out, an applicant's wish back (F16), or, where it is the owner who leaves, the group apart."""
    group = groups.lock(connection, group_id)
    if group is None or group.status != ACTIVE:
        return "group_not_found"
    member = load_person(connection, group_id, user_id)
    if member is None or member.membership is None:
        return "not_in_group"
    applicants: Sequence[Person] = ()
    if group.user_id == user_id:
        applicants = _load_applicants(connection, group_id)
        waiting = (GroupMember.group_id == group_id, GroupMember.status == PENDING)
        connection.execute(delete(GroupMember).where(*waiting))
        connection.execute(update(Group).where(Group.id == group_id).values(status=DISSOLVED))
    else:
        _remove(connection, group_id, user_id)
    _changed(connection, group_id, rules)
    change = Change(groups.load_summary(connection, group_id), member, applicants=applicants)
    if group.user_id == user_id:
        return Leaving("dissolved", change)
    return Leaving("quit" if member.is_member else "withdrawn", change)


# What the owner changes


def rename(connection: Connection, group_id: int, owner_id: int, name: str) -> Change | Refusal:
    """Give a group another name."""
    return _set_group(connection, group_id, owner_id, missing="not_owner", name=name)


def announce(connection: Connection, group_id: int, owner_id: int, remark: str) -> Change | Refusal:
    """Give a group another announcement."""
    return _set_group(connection, group_id, owner_id, missing="not_owner", remark=remark)


def set_joining(connection: Connection, group_id: int, owner_id: int, mode: int) -> Refusal | None:
    """Say who may come in: OPEN, APPROVAL or REGISTERED."""
    done = _set_group(connection, group_id, owner_id, missing="group_not_yours", invite_confirm=mode)
    return done if isinstance(done, Refusal) else None


def transfer(connection: Connection, group_id: int, owner_id: int, user_id: int) -> Change | Refusal:
    """Give a group to another member; its owner stays in it. To himself: nothing changes, there is no subject."""
    owner = _load_owner(connection, group_id, owner_id, missing="not_found")
    if isinstance(owner, Refusal):
        return owner
    if user_id == owner_id:
        return Change(groups.load_summary(connection, group_id), owner)
    member = load_person(connection, group_id, user_id)
    if member is None or not member.is_member or member.status != ACTIVE_USER:
        return "not_found"
    if member.role == "visitor":
        return "visitor_owner"  # he could do nothing with it: all that owners do wants a login
    connection.execute(update(Group).where(Group.id == group_id).values(user_id=user_id))
    _set_member(connection, group_id, user_id, status=ACTIVE, muted_until_ms=0)
    groups.touch_facts(connection, group_id)
    applicants = _load_applicants(connection, group_id)
    return Change(groups.load_summary(connection, group_id), owner, member, applicants)


def mute(connection: Connection, group_id: int, owner_id: int, user_id: int, until_ms: int) -> Refusal | None:
    """Mute a member, or everybody where `user_id` is 0."""
    owner = _load_owner(connection, group_id, owner_id, missing="not_found")
    if isinstance(owner, Refusal):
        return owner
    if user_id == 0:
        groups.mute_all(connection, group_id, until_ms)
        return None
    return None if groups.mute_member(connection, group_id, user_id, until_ms) else "not_found"


def set_nickname(connection: Connection, group_id: int, user_id: int, nickname: str) -> Refusal | None:
    """Let a member choose his name in a group."""
    group = groups.lock(connection, group_id)
    if group is None or group.status != ACTIVE or not groups.is_member(connection, group_id, user_id):
        return "not_in_group"
    _set_member(connection, group_id, user_id, nickname=nickname)
    groups.touch_facts(connection, group_id)
    return None


# Reading


def load_person(connection: Connection, group_id: int | None, user_id: int) -> Person | None:
    """Return a user as a group sees him, None where there is no such user. group_id: None = as everybody sees him."""
    if user_id > MAX_ID:
        return None
    return next(iter(_select_people(connection, group_id, User.id == user_id)), None)


def load_open_group(connection: Connection, group_id: int) -> Any:
    """Return the row of a group that is neither dissolved nor banned, None where there is none."""
    if group_id > MAX_ID:
        return None
    query = select(Group.__table__).where(Group.id == group_id, Group.status == ACTIVE)
    return connection.execute(query).one_or_none()


def load_owner(connection: Connection, user_id: int) -> Any:
    """Return what everybody may know of a group's owner, None where there is no such user."""
    columns = (User.id, User.username, User.avatar, User.nickname, User.uuid, User.role)
    return connection.execute(select(*columns).where(User.id == user_id)).one_or_none()


def load_members(connection: Connection, group_id: int) -> list[Any]:
    """Return the rows of a group's members, first come first, with the account's names and avatar beside them."""
    return list(
        connection.execute(
            select(GroupMember.__table__, *_ACCOUNT)
            .join(User, User.id == GroupMember.user_id)
            .where(GroupMember.group_id == group_id, GroupMember.status.in_(RECEIVING))
            .order_by(GroupMember.id)
        )
    )


def load_groups_of(connection: Connection, user_id: int, offset: int, limit: int) -> list[tuple[Any, Any]]:
    """Return a page of the groups a user is in, newest first, each with his membership as `load_members` gives it."""
    in_mine = (GroupMember.user_id == user_id, GroupMember.status.in_(RECEIVING), Group.status == ACTIVE)
    query = select(Group.__table__).join(GroupMember, GroupMember.group_id == Group.id).where(*in_mine)
    rows = list(connection.execute(query.order_by(Group.id.desc()).offset(offset).limit(limit)))
    memberships = (
        select(GroupMember.__table__, *_ACCOUNT)
        .join(User, User.id == GroupMember.user_id)
        .where(GroupMember.user_id == user_id, GroupMember.group_id.in_([row.id for row in rows]))
    )
    mine = {member.group_id: member for member in connection.execute(memberships)} if rows else {}
    return [(row, mine[row.id]) for row in rows if row.id in mine]


_ACCOUNT = (
    User.username,
    User.uuid,
    User.role,
    User.nickname.label("account_nickname"),
    User.avatar.label("account_avatar"),
)


def _load_applicants(connection: Connection, group_id: int) -> list[Person]:
    waiting = select(GroupMember.user_id).where(GroupMember.group_id == group_id, GroupMember.status == PENDING)
    some = waiting.order_by(GroupMember.id).limit(_MAX_APPLICANTS_TOLD)
    return _load_people(connection, group_id, list(connection.execute(some).scalars()))


def _load_people(connection: Connection, group_id: int | None, user_ids: Sequence[int]) -> list[Person]:
    """Return the active ones of these users, in this order."""
    is_one = and_(User.id.in_(user_ids), User.status == ACTIVE_USER)
    found = {person.id: person for person in _select_people(connection, group_id, is_one)} if user_ids else {}
    return [found[user_id] for user_id in user_ids if user_id in found]


def _select_people(connection: Connection, group_id: int | None, condition: Any) -> list[Person]:
    mine = and_(GroupMember.user_id == User.id, GroupMember.group_id == (group_id or 0))
    columns = (
        User.id,
        User.uuid,
        User.username,
        User.nickname,
        User.avatar,
        User.role,
        User.status,
        GroupMember.nickname.label("group_nickname"),
        GroupMember.avatar.label("group_avatar"),
        GroupMember.status.label("membership"),
    )
    rows = connection.execute(select(*columns).outerjoin(GroupMember, mine).where(condition))
    return [
        Person(
            id=row.id,
            uuid=row.uuid,
            username=row.username,
            name=row.group_nickname or row.nickname or row.username,
            avatar=row.group_avatar or row.avatar,
            role=row.role,
            status=row.status,
            membership=row.membership,
        )
        for row in rows
    ]


def _usable_friends(connection: Connection, user_id: int, condition: Any) -> list[int]:
    """Return the ids of a user's friends who may be put in a group by him: nobody of the two has blocked the other."""
    theirs = aliased(Friendship)
    is_blocked = exists().where(
        or_(
            and_(Block.blocker_id == user_id, Block.blocked_id == Friendship.friend_id),
            and_(Block.blocker_id == Friendship.friend_id, Block.blocked_id == user_id),
        )
    )
    is_disliked = exists().where(
        theirs.user_id == Friendship.friend_id,
        theirs.friend_id == user_id,
        or_(theirs.isblack != 0, theirs.status != 1),
    )
    query = select(Friendship.friend_id).where(
        Friendship.user_id == user_id,
        Friendship.status == 1,
        Friendship.isblack == 0,
        ~is_blocked,
        ~is_disliked,
        condition,
    )
    return list(connection.execute(query.order_by(Friendship.id)).scalars())


# Writing


def _load_owner(connection: Connection, group_id: int, user_id: int, *, missing: Refusal) -> Person | Refusal:
    """Lock a group for its owner and return him. missing: what those are told who are not in it."""
    group = groups.lock(connection, group_id)
    if group is None or group.status != ACTIVE:
        return missing
    person = load_person(connection, group_id, user_id)
    is_member = person is not None and person.is_member
    if group.user_id != user_id:
        return "not_owner" if is_member else missing
    return person if person is not None and is_member else "owner_not_member"


def _set_group(
    connection: Connection, group_id: int, owner_id: int, *, missing: Refusal, **columns: Any
) -> Change | Refusal:
    owner = _load_owner(connection, group_id, owner_id, missing=missing)
    if isinstance(owner, Refusal):
        return owner
    connection.execute(update(Group).where(Group.id == group_id).values(**columns))
    groups.touch_facts(connection, group_id)
    return Change(groups.load_summary(connection, group_id), owner)


def _set_member(connection: Connection, group_id: int, user_id: int, **columns: Any) -> None:
    mine = (GroupMember.group_id == group_id, GroupMember.user_id == user_id)
    connection.execute(update(GroupMember).where(*mine).values(**columns))


def _remove(connection: Connection, group_id: int, user_id: int) -> None:
    connection.execute(delete(GroupMember).where(GroupMember.group_id == group_id, GroupMember.user_id == user_id))


def _is_full(connection: Connection, group_id: int, rules: Rules, *, is_pending: bool = False) -> bool:
    # Applicants are bounded like members, each apart: a crowd at the door keeps nobody out whom the owner invites.
    statuses = (PENDING,) if is_pending else RECEIVING
    return groups.count_members(connection, group_id, statuses) >= rules.max_members


def _changed(connection: Connection, group_id: int, rules: Rules) -> None:
    """Call it after every change of who is in a group."""
    _renew_avatar(connection, group_id, rules)
    groups.touch_facts(connection, group_id)


def _renew_avatar(connection: Connection, group_id: int, rules: Rules) -> None:
    """Compose the group's avatar anew: those of its first nine members, as many as the column holds."""
    face = select(GroupMember.avatar.label("own"), User.avatar.label("account"))
    query = face.join(User, User.id == GroupMember.user_id).where(
        GroupMember.group_id == group_id, GroupMember.status.in_(RECEIVING)
    )
    rows = connection.execute(query.order_by(GroupMember.id).limit(_AVATAR_FACES))
    avatar = compose_avatar([row.own or row.account or rules.default_avatar for row in rows])
    connection.execute(update(Group).where(Group.id == group_id).values(avatar=avatar))


def compose_avatar(faces: Sequence[str]) -> str:
    """Join avatars by commas, leaving out what would not fit."""
    joined = ""
    for face in faces[:_AVATAR_FACES]:
        # A comma separates; in a URL its escape means the same.
        longer = ",".join(filter(None, (joined, face.replace(",", "%2C"))))
        if len(longer) <= _AVATAR_MAX:
            joined = longer
    return joined
