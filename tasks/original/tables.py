"""Tables: the original's rows made rows of ours, one rule after the other. Every rule that changes anything is counted.

Everything is read from the scratch file and written back to it: nothing here touches a database of ours.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

import orjson

from models.applications import FriendApplication
from models.friendships import Friendship
from models.groups import ACTIVE as MEMBER
from models.groups import MUTED, PENDING, RECEIVING, Group, GroupMember
from models.profiles import UserInfo
from models.users import MAX_ID, User
from schemas.params import InvalidParams
from schemas.profile import GENDERS, SETTINGS_MAX, is_address, read_settings
from tasks.original.columns import derived_uuid, digest, flag, is_uuid, moment, number
from tasks.original.report import Report
from tasks.original.scratch import TEXT_MAX, Scratch

_STATUSES = (0, 1, 2)
_DISABLED = 2
_ASKED = 1
_TRAITS = ("uniplatform", "devicemodel", "deviceos", "devicebrand")
_TIMES = ("create_time", "update_time")
_APPLICATION_STATUSES = ("pending", "refuse", "agree", "ignore")


@dataclass(frozen=True, slots=True)
class Terms:
    """What the rules go by. ahead: of UTC, the clock that the original wrote its times by. now: UTC, without a zone."""

    media_url: str
    group_max_members: int
    ahead: timedelta
    now: datetime


class Cleaner:
    def __init__(self, scratch: Scratch, report: Report, terms: Terms) -> None:
        self._scratch = scratch
        self._report = report
        self._terms = terms

    def clean(self) -> None:
        """Clean every table, those first that others refer to."""
        self._users()
        self._profiles()
        self._groups()
        self._members()
        self._friends()
        self._applications()

    # Users

    def _users(self) -> None:
        fingerprints = self._shared_fingerprints()
        for raw in self._scratch.raw("user", "id"):
            user_id = number(raw["id"])
            if user_id is None or not 1 <= user_id <= MAX_ID:
                self._report.note("user_id_unusable", raw["id"])
            elif not self._scratch.take("user", user_id):
                self._report.note("user_doubled", user_id)
            else:
                row = self._user(user_id, raw, fingerprints)
                self._scratch.add_clean("user", user_id, row)
                name = row["nickname"] or row["username"]
                self._scratch.execute("INSERT INTO person VALUES (?, ?, ?)", user_id, row["uuid"], name)

    def _user(self, user_id: int, raw: sqlite3.Row, fingerprints: dict[int, str]) -> dict[str, Any]:
        role = raw["role"] if raw["role"] in ("user", "visitor") else "user"
        if role != (raw["role"] or "user"):
            self._report.note("role_unknown", user_id)
        hashed = digest(raw["password"])
        if role == "user" and hashed is None:
            self._report.note("password_unusable", user_id)
        if flag(raw["is_deleted"]):
            self._report.note("flag_deleted", user_id)
        return {
            "id": user_id,
            "uuid": self._uuid("user", user_id, raw["uuid"]),
            "username": self._username(user_id, raw),
            # A visitor's is six digits that nobody knows: nobody logs in with it here.
            "digest": hashed if role == "user" else None,
            "nickname": self._fitting(User, "nickname", raw, user_id),
            "avatar": self._avatar(User, raw, user_id, self._terms.media_url + "user.jpg"),
            "devicefingeruuid": self._fingerprint(user_id, raw, fingerprints),
            **{name: self._fitting(User, name, raw, user_id) for name in _TRAITS},
            "userset": self._settings(user_id, raw),
            "invite_confirm": self._mode(raw, (0, 1), f"user {user_id}"),
            "mobile": self._contact("mobile", raw, user_id),
            "email": self._contact("email", raw, user_id),
            "status": self._status(raw, f"user {user_id}"),
            "role": role,
            "last_login": moment(raw["last_login"], self._terms.ahead),
            "last_login_ip": self._fitting(User, "last_login_ip", raw, user_id) or None,
            "register_ip": self._fitting(User, "register_ip", raw, user_id) or None,
            "register_time": moment(raw["register_time"], self._terms.ahead) or self._terms.now,
            **self._tail(raw),
        }

    def _shared_fingerprints(self) -> dict[int, str]:
        """Give the fingerprints of rows that share one, which carry a number as `models/accounts.py` numbers them.

        The registered ones come first, then the newest visitor, who is the one that the device finds.
        """
        shared = self._scratch.select(
            "SELECT CAST(id AS INTEGER) AS id, devicefingeruuid AS device FROM raw_user WHERE devicefingeruuid IN ("
            "SELECT devicefingeruuid FROM raw_user WHERE devicefingeruuid != '' GROUP BY 1 HAVING count(DISTINCT id) > 1)"
            " GROUP BY 1, 2 ORDER BY 2, role = 'visitor', 1 DESC"
        )
        numbered: dict[int, str] = {}
        for device, rows in groupby(shared, key=lambda row: str(row["device"])):
            for place, row in enumerate(rows):
                self._report.note("fingerprint_shared", row["id"])
                end = f"#{place}" if place else ""
                numbered[row["id"]] = device[: 200 - len(end)] + end
        return numbered

    def _fingerprint(self, user_id: int, raw: sqlite3.Row, shared: dict[int, str]) -> str | None:
        """Give a fingerprint that no other row has: some are alike only once they are cut or numbered."""
        found = shared.get(user_id) or self._fitting(User, "devicefingeruuid", raw, user_id)
        if not found or self._scratch.take("fingerprint", found):
            return found or None
        if user_id not in shared:  # else it is noted
            self._report.note("fingerprint_shared", user_id)
        return None

    def _username(self, user_id: int, raw: sqlite3.Row) -> str:
        name = self._fitting(User, "username", raw, user_id)
        # MySQL compares names without case, we do not, so what was one there is one here.
        if name and self._scratch.take("username", name):
            return name
        self._report.note("username_replaced", user_id)
        replaced = f"{name[:38]}_{user_id}" if name else f"user_{user_id}"
        while not self._scratch.take("username", replaced):
            replaced = f"user_{derived_uuid(replaced)[:8]}_{user_id}"
        return replaced

    def _settings(self, user_id: int, raw: sqlite3.Row) -> str:
        """Give settings that can be read: ORIG's bare numbers can (C10)."""
        given = raw["userset"]
        if given in (None, ""):
            return ""
        try:
            if isinstance(given, str) and len(given) <= SETTINGS_MAX:
                read_settings(given)
                return given
        except InvalidParams:
            pass
        self._report.note("settings_unreadable", user_id)
        return ""

    def _contact(self, name: str, raw: sqlite3.Row, user_id: int) -> str | None:
        value = self._fitting(User, name, raw, user_id)
        if not value or self._scratch.take(name, value):
            return value or None
        self._report.note("contact_shared", f"{name} of user {user_id}")
        return None

    def _profiles(self) -> None:
        for raw in self._scratch.raw("user_info", "id"):
            user_id = number(raw["user_id"])
            if not self._is_there(user_id):
                self._report.note("profile_of_nobody", raw["id"])
            elif not self._scratch.take("profile", user_id):
                self._report.note("profile_doubled", raw["id"])
            else:
                row = {
                    "user_id": user_id,
                    "gender": raw["gender"] if raw["gender"] in GENDERS else "unknown",
                    "birthday": moment(raw["birthday"], self._terms.ahead),
                    **{name: self._optional(name, raw) for name in ("bio", "location", "website")},
                    **self._tail(raw),
                }
                self._scratch.add_clean("user_info", raw["n"], row)
        without = "SELECT id FROM person WHERE CAST(id AS TEXT) NOT IN (SELECT value FROM taken WHERE kind = 'profile')"
        for person in self._scratch.select(without):
            self._report.note("profile_made", person["id"])
            row = {"user_id": person["id"], "gender": "unknown", "birthday": None}
            row |= {"bio": None, "location": None, "website": None, "order": 50}
            row |= dict.fromkeys(_TIMES, self._terms.now)
            self._scratch.add_clean("user_info", -person["id"], row)

    def _optional(self, name: str, raw: sqlite3.Row) -> str | None:
        return None if raw[name] is None else self._fitting(UserInfo, name, raw, raw["user_id"])

    # Groups

    def _groups(self) -> None:
        for raw in self._scratch.raw("group", "id"):
            group_id, owner_id = number(raw["id"]), number(raw["user_id"])
            if group_id is None or not 1 <= group_id <= MAX_ID or not self._scratch.take("group", group_id):
                self._report.note("group_id_unusable", raw["id"])
            elif not self._is_there(owner_id):
                self._report.note("group_of_nobody", group_id)
            else:
                row = {
                    "id": group_id,
                    "uuid": self._uuid("group", group_id, raw["uuid"]),
                    "user_id": owner_id,
                    "name": self._fitting(Group, "name", raw, group_id),
                    "avatar": self._avatar(Group, raw, group_id, self._terms.media_url + "group.png"),
                    "remark": self._fitting(Group, "remark", raw, group_id),
                    "invite_confirm": self._mode(raw, (0, 1, 2), f"group {group_id}"),
                    "status": self._status(raw, f"group {group_id}"),
                    **self._tail(raw),
                }
                self._scratch.add_clean("group", group_id, row)
                shown = {name: row[name] for name in ("id", "uuid", "user_id", "name", "avatar", "remark")}
                shown["invite_confirm"] = row["invite_confirm"]
                summary = orjson.dumps(shown).decode()
                self._scratch.execute("INSERT INTO room VALUES (?, ?, ?)", group_id, summary, owner_id)

    def _members(self) -> None:
        raws = self._scratch.raw("group_user", "group_id", "user_id")
        for (group_id, user_id), some in groupby(
            raws, key=lambda raw: (number(raw["group_id"]), number(raw["user_id"]))
        ):
            rows = list(some)
            owner_id = self._scratch.first("SELECT owner_id FROM room WHERE id = ?", group_id)
            if owner_id is None or not self._is_there(user_id):
                self._report.note("member_of_nothing", rows[0]["id"], len(rows))
                continue
            status = min((self._membership(raw) for raw in rows), key=(MUTED, MEMBER, PENDING).index)
            if len(rows) > 1:
                self._report.note("member_doubled", f"user {user_id} in group {group_id}")
            if user_id == owner_id and status != MEMBER:
                self._report.note("owner_made_member", group_id)
                status = MEMBER
            row = {
                "group_id": group_id,
                "user_id": user_id,
                "nickname": self._newest("nickname", GroupMember, rows),
                "avatar": self._member_avatar(rows),
                "status": status,
                **self._tail(rows[0]),
            }
            self._add_member(rows[0]["n"], row)
        absent = (
            "SELECT id, owner_id FROM room WHERE NOT EXISTS (SELECT 1 FROM membership"
            " WHERE group_id = room.id AND user_id = room.owner_id)"
        )
        for room in list(self._scratch.select(absent)):
            self._report.note("owner_made_member", room["id"])
            row = {"group_id": room["id"], "user_id": room["owner_id"], "nickname": "", "avatar": "", "status": MEMBER}
            self._add_member(-room["id"], {**row, "order": 50, **dict.fromkeys(_TIMES, self._terms.now)})
        counted = "SELECT group_id, count(*) AS many FROM membership WHERE status IN (?, ?) GROUP BY 1 HAVING many > ?"
        for each in self._scratch.select(counted, *RECEIVING, self._terms.group_max_members):
            self._report.note("group_over_limit", each["group_id"])

    def _add_member(self, place: int, row: dict[str, Any]) -> None:
        self._scratch.add_clean("group_user", place, row)
        place_in = (row["group_id"], row["user_id"], row["status"])
        self._scratch.execute("INSERT INTO membership VALUES (?, ?, ?)", *place_in)

    def _membership(self, raw: sqlite3.Row) -> int:
        status = number(raw["status"])
        if status in (MEMBER, MUTED, PENDING):
            return status
        if status is None:
            return MEMBER
        self._report.note("status_unknown", f"group_user {raw['id']}")
        return MUTED  # receives, and may not send: the least that is certainly not too much

    def _member_avatar(self, rows: list[sqlite3.Row]) -> str:
        found = self._newest("avatar", GroupMember, rows)
        if not found or is_address(found, is_path_allowed=True):
            return found
        self._report.note("avatar_unsafe", f"group_user {rows[0]['id']}")
        return ""

    # Friends

    def _friends(self) -> None:
        raws = self._scratch.raw("goodfriend", "user_id", "friend_id")
        for pair, some in groupby(raws, key=lambda raw: (number(raw["user_id"]), number(raw["friend_id"]))):
            rows = list(some)
            if not self._is_there(pair[0]) or not self._is_there(pair[1]):
                self._report.note("friend_of_nobody", rows[0]["id"], len(rows))
                continue
            if pair[0] == pair[1]:
                self._report.note("friend_of_himself", rows[0]["id"], len(rows))
                continue
            if len(rows) > 1:
                self._report.note("friend_doubled", f"users {pair[0]} and {pair[1]}")
            statuses = [self._status(raw, f"goodfriend {raw['id']}") for raw in rows]
            row = {
                "user_id": pair[0],
                "friend_id": pair[1],
                "nickname": self._newest("nickname", Friendship, rows),
                "friendlookme": min(flag(raw["friendlookme"], 1) for raw in rows),
                "melookfriend": min(flag(raw["melookfriend"], 1) for raw in rows),
                "ismystarfriend": max(flag(raw["ismystarfriend"]) for raw in rows),
                "isblack": max(flag(raw["isblack"]) for raw in rows),
                "status": next((status for status in statuses if status != 1), 1),
                **self._tail(rows[0]),
            }
            self._scratch.add_clean("goodfriend", rows[0]["n"], row)
            self._scratch.execute("INSERT INTO friend VALUES (?, ?)", *pair)
        lonely = (
            "SELECT owner_id, friend_id FROM friend AS mine WHERE NOT EXISTS (SELECT 1 FROM friend"
            " WHERE owner_id = mine.friend_id AND friend_id = mine.owner_id)"
        )
        for each in self._scratch.select(lonely):
            self._report.note("friend_one_sided", f"user {each['owner_id']} about {each['friend_id']}")

    def _applications(self) -> None:
        raws = self._scratch.raw("goodfriendapply", "user_id", "friend_id")
        for pair, some in groupby(raws, key=lambda raw: (number(raw["user_id"]), number(raw["friend_id"]))):
            rows = list(some)
            if not self._is_there(pair[0]) or not self._is_there(pair[1]) or pair[0] == pair[1]:
                self._report.note("application_of_nobody", rows[0]["id"], len(rows))
                continue
            waiting = [raw["n"] for raw in rows if raw["status"] == "pending"]
            for raw in rows:
                self._application(pair, raw, is_newest=not waiting or raw["n"] == waiting[-1])

    def _application(self, pair: tuple[int | None, int | None], raw: sqlite3.Row, *, is_newest: bool) -> None:
        status = raw["status"]
        if status not in _APPLICATION_STATUSES:
            self._report.note("application_unreadable", raw["id"])
            return
        if status == "pending" and not is_newest:
            self._report.note("application_doubled", raw["id"])
            return
        if status == "pending" and self._are_friends(*pair):
            self._report.note("application_settled", raw["id"])
            status = "agree"
        if status == "pending":
            self._scratch.execute("INSERT INTO waiting VALUES (?, ?)", *pair)
        row = {
            "user_id": pair[0],
            "friend_id": pair[1],
            "nickname": self._fitting(FriendApplication, "nickname", raw, raw["id"]),
            "friendlookme": flag(raw["friendlookme"], 1),
            "melookfriend": flag(raw["melookfriend"], 1),
            "ismystarfriend": flag(raw["ismystarfriend"]),
            "isblack": flag(raw["isblack"]),
            "status": status,
            **self._tail(raw),
        }
        self._scratch.add_clean("goodfriendapply", raw["n"], row)

    def _are_friends(self, user_id: int | None, other_id: int | None) -> bool:
        query = "SELECT count(*) FROM friend WHERE (owner_id, friend_id) IN (VALUES (?, ?), (?, ?))"
        return self._scratch.first(query, user_id, other_id, other_id, user_id) == 2

    # What several tables have

    def _is_there(self, user_id: int | None) -> bool:
        return self._scratch.first("SELECT 1 FROM person WHERE id = ?", user_id) is not None

    def _uuid(self, table: str, row_id: int, given: object) -> str:
        if is_uuid(given) and self._scratch.take(f"{table} uuid", given):
            return str(given)
        self._report.note("uuid_replaced", f"{table} {row_id}")
        made = derived_uuid(table, row_id)
        self._scratch.take(f"{table} uuid", made)
        return made

    def _fitting(self, model: Any, name: str, raw: sqlite3.Row, row_id: object) -> str:
        value = raw[name]
        text = "" if value is None else str(value)
        most: int = getattr(model.__table__.c[name].type, "length", None) or TEXT_MAX
        if len(text) > most:
            self._report.note("text_cut", f"{model.__tablename__} {row_id}: {name}")
            return text[:most]
        return text

    def _newest(self, name: str, model: Any, rows: list[sqlite3.Row]) -> str:
        """Give the newest text that rows of the same have."""
        texts = [self._fitting(model, name, raw, raw["id"]) for raw in rows]
        return next((text for text in reversed(texts) if text), "")

    def _avatar(self, model: Any, raw: sqlite3.Row, row_id: int, default: str) -> str:
        """Give an avatar that is an address, or several of them by comma, as those of groups are."""
        avatar = self._fitting(model, "avatar", raw, row_id)
        if not avatar:
            return default
        faces = avatar.split(",") if model is Group else [avatar]
        if not all(is_address(face, is_path_allowed=True) for face in faces):
            self._report.note("avatar_unsafe", f"{model.__tablename__} {row_id}")
            return default
        if any(face.startswith("/") for face in faces):
            self._report.note("avatar_on_the_originals_host", f"{model.__tablename__} {row_id}")
        return avatar

    def _mode(self, raw: sqlite3.Row, known: tuple[int, ...], example: str) -> int:
        mode = number(raw["invite_confirm"]) or 0
        if mode in known:
            return mode
        self._report.note("invite_mode_unknown", example)
        return _ASKED

    def _status(self, raw: sqlite3.Row, example: str) -> int:
        status = 1 if raw["status"] is None else number(raw["status"])
        if status in _STATUSES:
            return status
        self._report.note("status_unknown", example)
        return _DISABLED

    def _tail(self, raw: sqlite3.Row) -> dict[str, Any]:
        order = number(raw["order"])
        times = {name: moment(raw[name], self._terms.ahead) or self._terms.now for name in _TIMES}
        return {"order": order if order is not None and abs(order) <= MAX_ID else 50, **times}


def columns_of_time(model: Any) -> Iterator[str]:
    """Give the columns that hold times, which the scratch file holds as text."""
    return (column.name for column in model.__table__.c if column.type.python_type is datetime)
