"""The original's front end, as far as a server can see it: ORIG section 8 rule by rule, on a real socket.

It keeps what that client keeps (a list of chats, a local history per chat) and makes the mistakes that client makes: it
knows no message by its id, so what the server shows twice stands in its history twice; and every clean close logs a
registered user out. The numbers in comments are the rules of ORIG section 8.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote, urlencode, urlsplit

from tests.support.client import ChatSocket, Frame
from tests.support.websocket import HandshakeRefused, StreamCorrupt

ChatType = Literal["single", "group"]
Peer = int | str  # a user, a group, or the `redirect-…` text of a notice

SESSION_LOST = "Token 令牌不合法！"  # compared with the whole text of the answer
LOGGED_IN_ELSEWHERE = "您的账号在异地登录，本设备将会退出"
OWN_RECALL = "您撤回了一条信息"
NOT_CONNECTED = "网络连接已断开，请重新连接"
ONE_MESSAGE_HINT = "您和对方不是好友关系，对方只允许您给他发一条消息"
_RECONNECT_SECONDS = 1.0
_ABNORMAL = 1006  # what a browser reports where no close frame came
_Answer = tuple[int, dict[str, Any]]


@dataclass(slots=True)
class ChatItem:
    """One line of the list of chats."""

    id: Peer
    chat_type: ChatType
    name: str
    avatar: str
    datadesc: str  # what the line shows of the newest message
    update_time: int
    noreadnum: int = 0
    isremove: int = 0
    redirect: dict[str, Any] | None = None
    group: dict[str, Any] = field(default_factory=dict)  # user_id, remark, invite_confirm of a group


class OriginalClient:
    """One device of a user, protocol 1, from `start` to `stop` or its logout.

    role: the session role, which decides what a close means. become_visitor: gives (user id, token) of the visitor the
    client turns into after a local logout (rule 6); without it the client stays logged out.
    retries_twice: error and close each start a reconnect (ORIG A24), so there are two sockets after a failure.
    """

    def __init__(
        self,
        base: str,
        user_id: int,
        token: str,
        *,
        role: Literal["user", "visitor"] = "user",
        become_visitor: Callable[[], tuple[int, str]] | None = None,
        retries_twice: bool = False,
    ) -> None:
        self.user_id = user_id
        self.role = role
        self.chatlist: list[ChatItem] = []  # top first
        self.local: dict[tuple[ChatType, Peer], dict[str, dict[str, Any]]] = {}  # history by `k<index>`
        self.shown: list[dict[str, Any]] = []  # every message that a socket brought, in order, greetings included
        self.ignored: list[dict[str, Any]] = []  # frames that rule 3 ignores
        self.connections: list[ChatSocket] = []
        self.fetches: list[_Answer] = []  # answers to chatGetmessageOffLine
        self.logouts: list[str] = []  # why the client logged itself out
        self._base = base
        self._token = token
        self._become_visitor = become_visitor
        self._retries_twice = retries_twice
        self._open_chat: tuple[ChatType, Peer] | None = None
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._running = 0  # threads that hold a socket or try to

    # 1, 2: connecting

    def start(self) -> None:
        """Connect, and come back as rule 2.8 says until stopped or logged out."""
        with self._changed:
            self._running += 1
            thread = threading.Thread(target=self._run, name=f"original-client-{self.user_id}", daemon=True)
            self._threads.append(thread)
        thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            code = self._hold_connection()
            if self._stopping.is_set():
                break
            if self.role == "user" and code != _ABNORMAL:
                if not self._log_out(LOGGED_IN_ELSEWHERE):
                    break
                continue
            if self._retries_twice and self._running == 1:
                self.start()
            self._stopping.wait(_RECONNECT_SECONDS)
        with self._changed:
            self._running -= 1
            self._changed.notify_all()

    def _hold_connection(self) -> int:
        """Hold one connection until it ends; return the close code as a browser tells it."""
        is_held = threading.Event()

        def take(frame: Frame) -> None:
            # What it shows may make somebody drop it: by then it must stand among the connections.
            is_held.wait()
            self._take(frame)

        try:
            socket = ChatSocket(self._base, self._token, on_frame=take)
        except (OSError, HandshakeRefused, StreamCorrupt):
            return _ABNORMAL  # nobody there: an error, and a close without a frame
        try:
            with self._changed:
                self.connections.append(socket)
                logouts_before = len(self.logouts)
                self._changed.notify_all()
            is_held.set()
            self._fetch_offline()
            while not socket.has_ended_within(0.1):
                if self._stopping.is_set() or len(self.logouts) > logouts_before:
                    break
            if len(self.logouts) > logouts_before:
                return _ABNORMAL  # it was logged out already, and comes back as a visitor or not at all
        finally:
            socket.drop()
            with self._changed:
                self._changed.notify_all()
        return _ABNORMAL if socket.close_code is None else socket.close_code

    def _fetch_offline(self) -> None:
        try:
            answer = self.post("/api/chat/chatGetmessageOffLine")
        except (OSError, http.client.HTTPException):
            return  # the client shows nothing of it
        with self._changed:
            self.fetches.append(answer)
            self._changed.notify_all()
        if answer[0] >= 400 and answer[1]["data"] == SESSION_LOST:  # 6
            self._log_out(SESSION_LOST)

    def _log_out(self, reason: str) -> bool:
        """Forget the account and become a visitor. False: there is no visitor to become."""
        with self._changed:
            self.logouts.append(reason)
            if self._become_visitor is None:
                self._stopping.set()
            else:
                self.user_id, self._token = self._become_visitor()
                self.role = "visitor"
                self.chatlist, self.local, self._open_chat = [], {}, None
            self._changed.notify_all()
        return self._become_visitor is not None

    @property
    def is_online(self) -> bool:
        """Whether a socket is open and was greeted."""
        return any(socket.is_open and socket.frames for socket in list(self.connections))

    def drop(self) -> None:
        """Lose the connection without a close frame, as a phone in a tunnel does; the client comes back."""
        for socket in list(self.connections):
            socket.drop()

    def stop(self) -> None:
        """Go away and stay away."""
        self._stopping.set()
        for socket in list(self.connections):
            socket.close(timeout=1.0) if socket.is_open else None
        for thread in list(self._threads):
            thread.join(15.0)

    def __enter__(self) -> OriginalClient:
        self.start()
        self.wait_for(lambda: self.is_online)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # 3, 4, 7, 8, 9: receiving

    def _take(self, frame: Frame) -> None:
        with self._changed:
            if frame.data.get("type") == "singleChat":
                self.shown.append(frame.data["data"])
                self._show(frame.data["data"])
            elif frame.data.get("type") not in ("system", "ping"):
                self.ignored.append(frame.data)
            self._changed.notify_all()

    def _show(self, message: dict[str, Any]) -> None:
        chat = self._chat_of(message)
        item = self._item(chat)
        redirect = message.get("redirect") or {}
        if message.get("actionType") == "revoke":
            self._show_recall(chat, message)
            return
        if item is not None and redirect.get("url"):  # 7: the only dedupe there is
            if redirect.get("doaction") == "avatar":
                item.avatar, item.datadesc = message["from_avatar"], describe(message)
            return
        history = self.local.setdefault(chat, {})
        history[f"k{len(history)}"] = dict(message)
        self._raise_item(chat, message, is_own=message["from_id"] == self.user_id)

    def _show_recall(self, chat: tuple[ChatType, Peer], recall: dict[str, Any]) -> None:
        """Hide what was recalled. Where it is not in the local history, nothing happens (8)."""
        history = self.local.get(chat, {})
        for position, message in enumerate(history.values(), 1):
            if message["id"] == recall["id"]:
                message["isremove"] = 1
                item = self._item(chat)
                if item is not None and position == len(history):
                    item.datadesc, item.isremove = describe(recall), 1

    def _chat_of(self, message: Mapping[str, Any]) -> tuple[ChatType, Peer]:
        if message["chatType"] == "group":
            return ("group", message["to_id"])
        is_own = message["from_id"] == self.user_id
        return ("single", message["to_id"] if is_own else message["from_id"])

    def _raise_item(self, chat: tuple[ChatType, Peer], message: Mapping[str, Any], *, is_own: bool) -> None:
        """Put the chat's line on top, as it looks after this message."""
        item = self._item(chat)
        # Of a group, and where I wrote it myself, the other side is the `to` of the message.
        side = "to" if chat[0] == "group" or is_own else "from"
        unread = item.noreadnum if item is not None else 0
        if item is not None:
            self.chatlist.remove(item)
        group = message.get("group") or {}
        kept = {name: group[name] for name in ("user_id", "remark", "invite_confirm") if name in group}
        new = ChatItem(
            id=chat[1],
            chat_type=chat[0],
            name=_shown_name(message[f"{side}_name"]),
            avatar=self._full_url(message[f"{side}_avatar"]),
            datadesc=describe(message),
            update_time=message["create_time"],
            noreadnum=unread if is_own or chat == self._open_chat else unread + 1,
            isremove=message["isremove"],
            redirect=message.get("redirect"),
            group=kept or (item.group if item is not None else {}),
        )
        self.chatlist.insert(0, new)

    def _full_url(self, avatar: str) -> str:
        return self._base + avatar if avatar.startswith("/") else avatar  # 10

    def _item(self, chat: tuple[ChatType, Peer]) -> ChatItem | None:
        return next((item for item in self.chatlist if (item.chat_type, item.id) == chat), None)

    def _must_item(self, chat: tuple[ChatType, Peer]) -> ChatItem:
        item = self._item(chat)
        assert item is not None, f"no line for {chat}"
        return item

    # 4, 5, 8, 10, 12: what the person in front of it does

    def open_chat(self, peer: Peer, chat_type: ChatType = "single") -> None:
        """Look at a chat: its unread count becomes 0 and stays there."""
        with self._changed:
            self._open_chat = (chat_type, peer)
            item = self._item(self._open_chat)
            if item is not None:
                item.noreadnum = 0

    def close_chat(self) -> None:
        """Go back to the list."""
        with self._changed:
            self._open_chat = None

    def send(
        self, to: int, text: str, chat_type: ChatType = "single", *, options: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Write a message and return it as it stands in the local history in the end: sent, or failed with a reason."""
        return self._send(to, "text", {"data": text, "dataType": False, "otherData": None}, chat_type, options)

    def send_image(
        self, to: int, name: str, content: bytes, chat_type: ChatType = "single", *, to_cloud: bool = False
    ) -> dict[str, Any]:
        """Upload a picture by one of the two routes, then send it by the URL that was answered (11)."""
        if to_cloud:
            answer = self.upload("/api/chat/uploadAliyun", "img", name, content)
            url = answer[1]["data"][0]["url"]
        else:
            answer = self.upload("/api/chat/uploadStreamSingleToServerDiy/chatImgs", "file", name, content)
            url = answer[1]["data"]["url"]
        data = {"data": url, "dataType": "image", "otherData": {"type": "image", "typedata": {}}}
        return self._send(to, "image", data, chat_type, None)

    def _send(
        self, to: int, kind: str, data: Mapping[str, Any], chat_type: ChatType, options: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        message = {
            "id": 0,
            "from_id": self.user_id,
            "to_id": to,
            "to_name": "",
            "to_avatar": "",
            "chatType": chat_type,
            "type": kind,
            "data": json.dumps(data, ensure_ascii=False),
            "options": dict(options or {}),
            "create_time": time.time_ns() // 1_000_000,
            "isremove": 0,
            "sendStatus": "pending",
        }
        if not self.is_online:  # 6
            return message | {"sendStatus": "fail", "reason": NOT_CONNECTED}
        chat = (chat_type, to)
        with self._changed:
            history = self.local.setdefault(chat, {})
            history[f"k{len(history)}"] = message
            self._raise_item(chat, message, is_own=True)
            self._changed.notify_all()
        fields = {
            "sendto_id": to,
            "chatType": chat_type,
            "type": kind,
            "data": message["data"],
            "options": encode_uri_component(json.dumps(dict(options or {}), ensure_ascii=False)),
        }
        try:
            status, body = self.post("/api/chat/socket/sendmessage", fields)
            reason = "" if status < 400 else str(body["data"])
        except (OSError, http.client.HTTPException) as error:
            body, reason = {}, repr(error)
        with self._changed:
            if reason:
                message |= {"sendStatus": "fail", "reason": reason}
            else:
                # What the server says of the message replaces what the client guessed.
                message |= {**body["data"], "sendStatus": "success"}
                self._raise_item(chat, message, is_own=True)
            self._changed.notify_all()
        return message

    def recall(self, message: dict[str, Any]) -> _Answer:
        """Take an own message back; on success the own copy is hidden."""
        fields = {name: message[name] for name in ("to_id", "to_name", "to_avatar", "id", "chatType", "create_time")}
        answer = self.post("/api/chat/revokeMessage", fields)
        if answer[0] < 400:
            with self._changed:
                message["isremove"] = 1
                item = self._item((message["chatType"], message["to_id"]))
                if item is not None:
                    item.datadesc, item.isremove = OWN_RECALL, 1
        return answer

    def enter_chat_page(self, peer: int) -> str:
        """Open a one-to-one chat as the page does: become friends where that is automatic; return the hint it shows."""
        self.open_chat(peer)
        status, body = self.post("/api/chat/getUserSetInfo", {"userid": peer})
        if status >= 400 or body["data"]["isgoodfriend"]:
            return ""
        if body["data"]["invite_confirm"] == 0:
            self.post("/api/chat/autoAddFriendAndAgree", {"friend_id": peer})
            return ""
        chatset = json.loads(body["data"]["userset"] or "{}").get("chatset", {})
        rule = chatset.get(self.role, {"sendCount": 1})
        return ONE_MESSAGE_HINT if rule["sendCount"] == 1 else ""

    def answer_application(self, item: ChatItem, group_id: int, user_id: int, *, agrees: bool) -> _Answer:
        """Answer a request to join a group: afterwards its line is gone (12)."""
        fields = {"group_id": group_id, "user_id": user_id, "type": "agree" if agrees else "no"}
        answer = self.post("/api/chat/groupAgreeOrNo", fields)
        if answer[0] < 400:
            with self._changed:
                self.chatlist.remove(item)
        return answer

    # What tests look at

    def history(self, peer: Peer, chat_type: ChatType = "single") -> list[dict[str, Any]]:
        """Return the local history of a chat, oldest first, copies of it."""
        with self._changed:
            return [dict(message) for message in self.local.get((chat_type, peer), {}).values()]

    def texts(self, peer: Peer, chat_type: ChatType = "single") -> list[str]:
        """Return what a chat shows, oldest first, without what failed or was recalled."""
        messages = self.history(peer, chat_type)
        return [text_of(m) for m in messages if not m["isremove"] and m.get("sendStatus") != "fail"]

    def item(self, peer: Peer, chat_type: ChatType = "single") -> ChatItem:
        """Return a line of the list."""
        with self._changed:
            return self._must_item((chat_type, peer))

    @property
    def unread_total(self) -> int:
        """What the badge says."""
        with self._changed:
            return sum(item.noreadnum for item in self.chatlist)

    def wait_for(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        """Wait until something holds of what the client has seen. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(condition, timeout):
                tail = [text_of(message) for message in self.shown[-5:]]
                raise TimeoutError(
                    f"not so after {timeout} s; user {self.user_id}, {len(self.connections)} connections, online: "
                    f"{self.is_online}, logouts: {self.logouts}, {len(self.shown)} shown, last: {tail}"
                )

    def wait_for_text(self, peer: Peer, text: str, chat_type: ChatType = "single", timeout: float = 10.0) -> None:
        """Wait until a chat shows a text. Raises TimeoutError."""
        self.wait_for(lambda: text in self.texts(peer, chat_type), timeout)

    def post(self, path: str, fields: Mapping[str, Any] | None = None) -> _Answer:
        """Post a form with the token in its header, as uni.request does. Raises OSError, http.client.HTTPException."""
        return self._post(path, urlencode(fields or {}).encode(), "application/x-www-form-urlencoded")

    def upload(self, path: str, field: str, name: str, content: bytes) -> _Answer:
        """Post a file, as uni.uploadFile does. Raises as `post`."""
        boundary = "----WebKitFormBoundaryhongyan"
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
        return self._post(path, body, f"multipart/form-data; boundary={boundary}")

    def _post(self, path: str, body: bytes, content_type: str) -> _Answer:
        address = urlsplit(self._base)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=15.0)
        headers = {
            "Content-Type": content_type,
            "Connection": "close",
            "token": self._token,
        }
        try:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


def encode_uri_component(text: str) -> str:
    """Percent-encode as JavaScript's function of that name."""
    return quote(text, safe="!~*'()")


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of a body, which is JSON text from users and an object from the server (ORIG 7.2)."""
    data = message["data"]
    body = json.loads(data) if isinstance(data, str) else data
    return str(body["data"])


def describe(message: Mapping[str, Any]) -> str:
    """Return what the list of chats shows of a message."""
    labels = {"image": "[图片]", "iconMenus": "[表情]", "audio": "[语音]", "video": "[视频]"}
    return labels.get(message["type"]) or text_of(message)


def _shown_name(name: str) -> str:
    return f"[游客]{name}" if name.startswith("VIS") else name  # 10
