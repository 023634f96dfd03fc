"""An original's data as its operator has it: a dump as mysqldump writes one, and queues in a Redis. Small, with odd cases."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import redis

Rows = Sequence[Mapping[str, Any]]

ANNA, BERT, CARL, VISITOR, BANNED = 1, 2, 3, 7, 9
GROUP_ID, GONE_GROUP_ID = 5, 6
PASSWORDS = {ANNA: "anna-geheim", BERT: "bert-geheim", CARL: "carl-geheim", BANNED: "banned-1"}
DEVICE_ID = "3f2b8c1e-0d4a-4b7e-9c55-6a1f00d0beef"
SENT_AT_MS = 1_758_600_000_000

_ESCAPES = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\0": "\\0", "\x1a": "\\Z", '"': '\\"'}
_TIME = "2025-09-01 08:00:00"


def uuid_of(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def user(user_id: int, username: str, **columns: Any) -> dict[str, Any]:
    """Give a row of `user` with every column of the original."""
    password = PASSWORDS.get(user_id, f"secret-{user_id}")
    return {
        "id": user_id,
        "uuid": uuid_of(user_id),
        "username": username,
        "password": hashlib.sha256(password.encode()).hexdigest(),
        "nickname": "",
        "avatar": "https://cdn.example.org/user.jpg",
        "devicefingeruuid": f"device-of-{user_id}",
        **dict.fromkeys(("uniplatform", "devicemodel", "deviceos", "devicebrand"), ""),
        "userset": "",
        "invite_confirm": 0,
        "mobile": None,
        "email": None,
        "status": 1,
        "last_login": _TIME,
        "last_login_ip": None,
        "register_time": _TIME,
        "register_ip": None,
        "is_deleted": 0,
        **dict.fromkeys(("wechat_openid", "qq_openid", "weibo_uid")),
        "role": "user",
        "is_email_verified": 0,
        "is_mobile_verified": 0,
        "order": 50,
        "create_time": _TIME,
        "update_time": _TIME,
        **columns,
    }


def _tail(row_id: int) -> dict[str, Any]:
    return {"id": row_id, "order": 50, "create_time": _TIME, "update_time": _TIME}


def friend(row_id: int, user_id: int, friend_id: int, **columns: Any) -> dict[str, Any]:
    """Give a row of `goodfriend`."""
    flags = {"nickname": "", "friendlookme": 1, "melookfriend": 1, "ismystarfriend": 0, "isblack": 0, "status": 1}
    return {**_tail(row_id), "user_id": user_id, "friend_id": friend_id, **flags, **columns}


def application(row_id: int, user_id: int, friend_id: int, status: str) -> dict[str, Any]:
    """Give a row of `goodfriendapply`."""
    return {**friend(row_id, user_id, friend_id), "nickname": "it is me", "status": status}


def group(group_id: int, owner_id: int, name: str, **columns: Any) -> dict[str, Any]:
    """Give a row of `group`."""
    shown = {
        "uuid": uuid_of(1_000 + group_id),
        "name": name,
        "avatar": "https://cdn.example.org/group.png",
        "remark": "",
    }
    return {**_tail(group_id), "user_id": owner_id, **shown, "invite_confirm": 1, "status": 1, **columns}


def member(row_id: int, group_id: int, user_id: int, status: int = 1, **columns: Any) -> dict[str, Any]:
    """Give a row of `group_user`."""
    row = {**_tail(row_id), "group_id": group_id, "user_id": user_id, "nickname": "", "avatar": "", "status": status}
    return {**row, **columns}


def tables() -> dict[str, list[dict[str, Any]]]:
    """Give every table of a small original, in the order in which mysqldump has them."""
    return {
        "chat_complaint": [{"id": 1, "user_id": ANNA, "target_id": BERT, "reason": "spam; '); DROP TABLE"}],
        "goodfriend": [
            friend(1, ANNA, BERT, nickname="Bertie"),
            friend(2, BERT, ANNA),
            friend(3, BERT, ANNA, nickname="Annchen", isblack=0),  # F1: the same once more
            friend(4, ANNA, ANNA),
            friend(5, ANNA, 4_711),
            friend(6, CARL, ANNA, isblack=1),
        ],
        "goodfriendapply": [
            application(1, CARL, BERT, "pending"),
            application(2, CARL, BERT, "pending"),
            application(3, ANNA, BERT, "pending"),  # they are friends
            application(4, BERT, 4_711, "pending"),
            application(5, BERT, CARL, "refuse"),
        ],
        "group": [group(GROUP_ID, ANNA, '鸿雁 "group" it\'s\n'), group(8, 4_711, "nobody's")],
        "group_user": [
            member(1, GROUP_ID, BERT, nickname="B."),
            member(2, GROUP_ID, BERT),
            member(3, GROUP_ID, CARL, 2),
            member(4, 8, BERT),
        ],
        "user": [
            user(ANNA, "anna", nickname="Anna 鸿", userset='{"chatset":{"visitor":0,"user":0}}'),
            user(BERT, "bert", avatar="/public/uploads/bert.png", userset="{broken"),
            user(CARL, "carl", role="admin", invite_confirm=2),
            user(VISITOR, "VIS3f2b8c1e", role="visitor", devicefingeruuid=DEVICE_ID),
            user(8, "VIS3f2b8c1f", role="visitor", devicefingeruuid=""),
            user(BANNED, "banned", status=0, devicefingeruuid="", wechat_openid="wx"),
        ],
        "user_info": [
            {
                **_tail(1),
                "user_id": ANNA,
                "gender": "female",
                "birthday": None,
                "bio": "hello",
                "location": None,
                "website": None,
            }
        ],
    }


def write_dump(path: Path, of: Mapping[str, Rows] | None = None) -> Path:
    """Write tables as mysqldump does: one CREATE TABLE and one INSERT each, without the names of columns."""
    lines = ["-- MySQL dump 10.13", "/*!50503 SET NAMES utf8mb4 */;"]
    for table, rows in (tables() if of is None else of).items():
        columns = ",\n".join(f"  `{name}` text" for name in rows[0])
        lines.append(f"DROP TABLE IF EXISTS `{table}`;\nCREATE TABLE `{table}` (\n{columns},\n  PRIMARY KEY (`id`)\n);")
        values = ",".join("(" + ",".join(_literal(value) for value in row.values()) + ")" for row in rows)
        lines.append(f"LOCK TABLES `{table}` WRITE;\nINSERT INTO `{table}` VALUES {values};\nUNLOCK TABLES;")
    lines.append("-- Dump completed on 2025-10-01  3:00:00")
    path.write_text("\n".join(lines) + "\n")
    return path


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, int):
        return str(value)
    return "'" + "".join(_ESCAPES.get(sign, sign) for sign in str(value)) + "'"


# Queues


def message(number: int, from_id: int | str, to_id: int, text: str, **fields: Any) -> dict[str, Any]:
    """Give a Message as the original queues it: a user's to one other, unless the fields say otherwise."""
    return {
        "id": str(uuid_of(100_000 + number)),
        "from_avatar": "https://cdn.example.org/user.jpg",
        "from_name": f"name of {from_id}",
        "from_id": from_id,
        "to_id": to_id,
        "to_name": f"remark for {to_id}",
        "to_avatar": "https://cdn.example.org/user.jpg",
        "chatType": "single",
        "type": "text",
        "data": json.dumps({"data": text, "dataType": False, "otherData": None}, ensure_ascii=False),
        "options": {},
        "create_time": SENT_AT_MS + number * 1_000,
        "isremove": 0,
        **fields,
    }


def to_group(number: int, from_id: int, group_id: int, text: str, **fields: Any) -> dict[str, Any]:
    """Give a group's Message, with all of the group in it."""
    embedded = {"id": group_id, "name": "old name", "group_users": [{"user_id": ANNA}, {"user_id": BERT}]}
    return message(number, from_id, group_id, text, chatType="group", group=embedded, **fields)


def notice(number: int, from_id: int | str, to_id: int, text: str, **fields: Any) -> dict[str, Any]:
    """Give a system's notice."""
    body = {"data": text, "dataType": False, "otherData": None}
    return message(number, from_id, to_id, text, **{"type": "systemNotice", "data": body, **fields})


def queues() -> dict[int, list[Any]]:
    """Give what waits for each user, oldest first; bytes are no JSON."""
    group_text = to_group(3, ANNA, GROUP_ID, "to all of you")
    recalled = message(4, ANNA, BERT, "a mistake")
    recall = notice(9, ANNA, BERT, "Anna撤回了一条消息", id=recalled["id"], actionType="revoke")
    greeting = notice(10, f"redirect-myQrcode-{BERT}", BERT, "展示给别人加你为好友")
    applied, answered = f"redirect-applyFriend-{CARL}", f"redirect-applyFriend-{ANNA}"
    return {
        BERT: [
            message(1, ANNA, BERT, "first"),
            message(2, VISITOR, BERT, "a stranger's"),
            group_text,
            recalled,
            b"{no json",
            message(5, ANNA, BERT, "fifth"),
            message(5, ANNA, BERT, "fifth"),  # requeued by a fetch that found no socket (B3)
            notice(6, applied, BERT, "申请添加您为好友", type="text", msgidKey=applied),
            notice(7, answered, BERT, "申请添加您为好友", type="text", msgidKey=answered),
            to_group(8, ANNA, GONE_GROUP_ID, "of a group that is gone"),
            recall,
            greeting,
            message(11, ANNA, BERT, "no uuid", id="17"),
            message(12, ANNA, BERT, "no time", create_time="yesterday"),
        ],
        # Offline since before the group's message, and muted: the same message, for one more.
        CARL: [message(13, ANNA, CARL, "x" * 20_000), message(14, ANNA, CARL, "short")],
        4_711: [message(15, ANNA, 4_711, "for nobody")],
    }


def fill_redis(client: redis.Redis, of: Mapping[int, Sequence[Any]] | None = None) -> None:
    """Put queues into a Redis as the original does, and what else is there."""
    for user_id, entries in (queues() if of is None else of).items():
        texts = [entry if isinstance(entry, bytes) else json.dumps(entry, ensure_ascii=False) for entry in entries]
        client.rpush(f"chat_getmessage_{user_id}", *texts)
    client.set("chat_user_1", '"a token"')
    client.rpush(f"chatlog:chatlog_{ANNA}_single_{BERT}", "{}", "{}")
