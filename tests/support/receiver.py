"""A user's client that always comes back, as the legacy client does, and remembers everything over all its connections."""

from __future__ import annotations

import http.client
import random
import threading
from typing import Any, Literal, Protocol

from chaos.history import History, Received, group_conversation, single_conversation
from tests.support.client import ChatSocket, Frame, HttpClient, message_text
from tests.support.websocket import HandshakeRefused, StreamCorrupt


class HasBase(Protocol):
    """Anything that says where the system under test answers."""

    @property
    def base(self) -> str:
        """The web address, `http://host:port`."""


class PersistentReceiver:
    """A user's client that comes back 0.3 to 1 s after its connection ended, however it ended, and remembers everything.

    Protocol 1 asks for its offline messages at each open, as the legacy client does. Protocol 2 acknowledges what it
    recorded and returns with its cursor and epoch. Own messages and recalls are no deliveries: they are not recorded.
    connection_offset: where one user has several receivers, keeps their connection numbers apart
    """

    def __init__(
        self,
        instance: HasBase,
        user_id: int,
        token: str,
        v: Literal[1, 2] = 1,
        *,
        history: History | None = None,
        seed: int = 0,
        connection_offset: int = 0,
    ) -> None:
        self.user_id = user_id
        self.received: list[Received] = []
        self.connections: list[ChatSocket] = []
        self.resets: list[dict[str, Any]] = []
        self.last_failure: Exception | None = None  # why an attempt to connect failed
        self.cursor: int | None = None
        self.epoch: str | None = None
        self._base = instance.base
        self._token = token
        self._v: Literal[1, 2] = v
        self._history = history
        self._random = random.Random(f"{seed}:{user_id}")
        self._connection_no = connection_offset
        self._stopping = threading.Event()
        self._connected = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"receiver-{user_id}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._live()
            except (OSError, HandshakeRefused, StreamCorrupt, http.client.HTTPException) as error:
                self.last_failure = error  # nobody there yet: comes back
            self._connected.clear()
            self._stopping.wait(self._random.uniform(0.3, 1.0))

    def _live(self) -> None:
        """Hold one connection until it ends."""
        self._connection_no += 1  # also for a try that fails: numbers only tell connections apart
        number = self._connection_no
        socket = ChatSocket(
            self._base,
            self._token,
            self._v,
            self.cursor,
            self.epoch if self.cursor is not None else None,
            on_frame=lambda frame: self._take(frame, number),
        )
        self.connections.append(socket)
        try:
            if self._v == 1:
                HttpClient(self._base, self._token, timeout=5.0).post("/api/chat/chatGetmessageOffLine")
            acknowledged: int | None = None
            while socket.is_open and not self._stopping.is_set():
                # Five a second, as a client should: an ack for every message would cost more and say no more.
                socket.has_ended_within(0.2)
                if self._v == 2 and self.cursor is not None and self.cursor != acknowledged:
                    acknowledged = self.cursor
                    socket.ack(acknowledged)
        finally:
            socket.drop()

    def _take(self, frame: Frame, connection_no: int) -> None:
        kind, message = frame.data.get("type"), frame.message
        if kind == "system":
            self._connected.set()
        elif kind == "hello":
            self.epoch = frame.data["epoch"]
        elif kind == "reset":
            self.resets.append(frame.data)
            self.epoch, self.cursor = frame.data["epoch"], frame.data["to"]
        cursor = frame.data.get("cursor") if kind in ("singleChat", "sendResult") else None
        if cursor is not None:
            self.cursor = cursor
        if message is None or message.get("actionType") is not None:
            return
        is_notice = message["type"] == "systemNotice"
        is_own = message["from_id"] == self.user_id
        if is_own and not is_notice:
            return
        if message["chatType"] == "group":
            conversation = group_conversation(message["to_id"])
        else:
            conversation = single_conversation(self.user_id, message["to_id" if is_own else "from_id"])
        received = Received(
            user=self.user_id,
            connection_no=connection_no,
            message_id=message["id"],
            seq=message.get("seq"),
            conversation=conversation,
            text=message_text(message),
            t=frame.at,
            cursor=cursor,
            is_notice=is_notice,
        )
        self.received.append(received)
        if self._history is not None:
            self._history.append(received)

    def received_on(self, connection_no: int) -> list[Received]:
        """Return what came over one of the connections."""
        return [received for received in list(self.received) if received.connection_no == connection_no]

    def wait_connected(self, timeout: float = 10.0) -> None:
        """Wait for the welcome of the present connection. Raises TimeoutError."""
        if not self._connected.wait(timeout):
            raise TimeoutError(f"user {self.user_id} has no connection after {timeout} s: {self.last_failure!r}")

    def stop(self) -> None:
        """Drop the connection and stay away."""
        self._stopping.set()
        self._thread.join(10.0)

    def __enter__(self) -> PersistentReceiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
