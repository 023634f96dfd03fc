"""`make demo`: fill a running system with people who talk, through the HTTP API alone, as any program could.

Read it as an example of the API: accounts, friends, a group, sending, history. Repeating it makes only what is missing.
"""

from __future__ import annotations

import http.client
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from settings import SettingsError, load_settings

PASSWORD = "hongyan-demo"
PEOPLE = {"demo-lina": "李娜", "demo-wang": "王伟", "demo-zhang": "张敏", "demo-alice": "Alice"}
LINA, WANG, ZHANG, ALICE = PEOPLE
# The first of each pair asks the second, who takes friends without asking back; Alice is asked and has to agree.
FRIENDSHIPS = ((LINA, WANG), (LINA, ZHANG), (WANG, ZHANG), (LINA, ALICE))
APPROVES = ALICE
CHATS = {
    (LINA, WANG): (
        (LINA, "王伟，周末去爬山吗？"),
        (WANG, "好啊！几点出发？"),
        (LINA, "早上七点，老地方见。"),
    ),
    (LINA, ALICE): (
        (ALICE, "Hi Lina, nice to meet you!"),
        (LINA, "Nice to meet you too, Alice. Welcome to Hongyan 🎉"),
    ),
}
GROUP = "鸿雁读书会"
GROUP_CHAT = ((LINA, "这周我们读《边城》，周五晚上聊。"), (WANG, "收到！"), (ZHANG, "我已经读完一半了，很喜欢。"))


class DemoFailed(Exception):
    """The demo cannot go on. The text says what the server answered, or that there is none, and what to do."""


class Refused(DemoFailed):
    """The server said no: `code` says why to a program, the text to a person."""

    def __init__(self, method: str, path: str, status: int, answer: Mapping[str, Any]) -> None:
        super().__init__(f"{method} {path} was refused with {status}: {answer.get('data')} ({answer.get('code')})")
        self.code = answer.get("code")


@dataclass(frozen=True, slots=True)
class Api:
    """The HTTP API of one instance, with the token of one user; before he has logged in, without."""

    base: str
    token: str = ""

    def get(self, path: str) -> Any:
        """Return the `data` of the answer. Raises Refused, DemoFailed."""
        return self._call("GET", path, None)

    def post(self, path: str, **params: Any) -> Any:
        """Return the `data` of the answer. Raises Refused, DemoFailed."""
        return self._call("POST", path, json.dumps(params).encode())

    def _call(self, method: str, path: str, body: bytes | None) -> Any:
        headers = {"Content-Type": "application/json"} | ({"token": self.token} if self.token else {})
        request = urllib.request.Request(f"{self.base}/api/{path}", body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            try:
                answer = json.load(error)
            except ValueError:
                answer = None
            if not isinstance(answer, dict):
                raise DemoFailed(f"what answers at {self.base} is no Hongyan: {error}") from error
            raise Refused(method, path, error.code, answer) from error
        except (OSError, http.client.HTTPException) as error:
            raise DemoFailed(
                f"nothing answers at {self.base} ({getattr(error, 'reason', error)}): start it with `make run`, "
                "with the same PORT and DATA_DIR"
            ) from error
        except (ValueError, KeyError) as error:
            raise DemoFailed(f"what answers at {self.base} is no Hongyan") from error


@dataclass(frozen=True, slots=True)
class Person:
    """A demo user who is logged in."""

    username: str
    id: int
    api: Api


def enter(base: str, username: str) -> Person:
    """Register a user, or log in the one who is there from an earlier run."""
    account = {"username": username, "password": PASSWORD, "device": "demo"}
    try:
        row, is_new = Api(base).post("regChat", **account), True
    except Refused as refusal:
        # An account that exists is entered with its password; any other refusal is met again there.
        try:
            row, is_new = Api(base).post("loginChat", **account), False
        except Refused:
            raise refusal from None
    person = Person(username, row["id"], Api(base, row["token"]))
    if is_new:
        person.api.post("chat/updateUserinfo", fieldname="nickname", fieldValue=PEOPLE[username])
    if is_new and username == APPROVES:
        person.api.post("chat/updateUserinfo", fieldname="invite_confirm", fieldValue="1")
    say("user", f"{username} ({PEOPLE[username]}), id {person.id}", is_new=is_new)
    return person


def friend_row(one: Person, other: Person) -> int | None:
    """Return the id of the row in which one lists the other as friend, None where he does not."""
    try:
        return int(one.api.post(f"chat/ismygoodfriend/{other.id}")["id"])
    except Refused:
        return None


def befriend(asking: Person, asked: Person) -> None:
    """Make two users friends: at once where the asked one allows it, else he is asked and agrees."""
    is_new = friend_row(asking, asked) is None
    if is_new and asked.username != APPROVES:
        asking.api.post("chat/autoAddFriendAndAgree", friend_id=asked.id)
    elif is_new:
        waiting = pending_application(asked, asking)
        if waiting is None:
            asking.api.post("chat/applyfriend", friend_id=asked.id, nickname=f"我是{PEOPLE[asking.username]}")
            waiting = pending_application(asked, asking)
        asked.api.post(f"chat/handleapply/{waiting}", status="agree")
    say("friends", f"{asking.username} and {asked.username}", is_new=is_new)


def pending_application(asked: Person, asking: Person) -> int | None:
    """Return the id of the application that one user has made to another and that waits for an answer."""
    for each in asked.api.get("chat/listapplyfriend/1?limit=100")["alldata"]:
        if each["status"] == "pending" and each["user_id"] == asking.id:
            return int(each["id"])
    return None


def found_group(owner: Person, friends: list[Person]) -> int:
    """Return the id of the demo's group, made by its owner out of his friends where it is not there yet."""

    def my_group(name: str | None) -> int | None:
        """Return my newest group, of this name where one is given."""
        rows = owner.api.get("chat/grouplist/1?limit=100")
        mine = [row for row in rows if row["user_id"] == owner.id and name in (None, row["name"])]
        return int(mine[0]["id"]) if mine else None

    group_id = my_group(GROUP)
    is_new = group_id is None
    if is_new:
        # Members are named by the rows of my own friend list, so that nobody can put strangers into a group.
        owner.api.post("chat/group/create", userIds=[friend_row(owner, friend) for friend in friends])
        group_id = my_group(None)
        owner.api.post("chat/groupUpdateName", id=group_id, name=GROUP)
        owner.api.post("chat/groupremark", id=group_id, remark="每周五晚上八点聊书，欢迎大家！")
    assert group_id is not None
    say("group", f"{GROUP}, id {group_id}", is_new=is_new)
    return group_id


def said_already(reader: Person, chat_type: str, peer_id: int) -> bool:
    """Return whether somebody has said something in a conversation; the server's own notices do not count."""
    page = reader.api.get(f"chat/history?chatType={chat_type}&peer_id={peer_id}&limit=50")
    return any(message["type"] == "text" and isinstance(message["from_id"], int) for message in page["messages"])


def send(sender: Person, chat_type: str, to_id: int, text: str) -> None:
    """Send a text; the answer comes when it is stored."""
    body = json.dumps({"data": text, "dataType": False, "otherData": None}, ensure_ascii=False)
    sender.api.post("chat/socket/sendmessage", sendto_id=to_id, chatType=chat_type, type="text", data=body)


def say(what: str, text: str, *, is_new: bool) -> None:
    """Tell what there is now, and whether this run has made it."""
    print(f"  {'made' if is_new else 'there already':<14}{what:<9}{text}", flush=True)


def fill(base: str) -> None:
    """Make whatever of the demo is not there yet. Raises DemoFailed."""
    people = {username: enter(base, username) for username in PEOPLE}
    for asking, asked in FRIENDSHIPS:
        befriend(people[asking], people[asked])
    for (one, other), lines in CHATS.items():
        is_new = not said_already(people[one], "single", people[other].id)
        for speaker, text in lines if is_new else ():
            send(people[speaker], "single", people[other if speaker == one else one].id, text)
        say("chat", f"{one} with {other}", is_new=is_new)
    group_id = found_group(people[LINA], [people[WANG], people[ZHANG], people[ALICE]])
    is_new = not said_already(people[LINA], "group", group_id)
    for speaker, text in GROUP_CHAT if is_new else ():
        send(people[speaker], "group", group_id, text)
    say("chat", f"in {GROUP}", is_new=is_new)


def main() -> int:
    try:
        settings = load_settings()
        if settings.production:
            raise DemoFailed("the demo's passwords are known to everybody: refused with HONGYAN_ENV=production")
        base = f"http://{settings.call_address}"
        print(f"Filling {base}")
        fill(base)
    except (DemoFailed, SettingsError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    print(f"\nTry it at {base}/docs: log in as one of {', '.join(PEOPLE)}, password {PASSWORD}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
