"""A whole delivery in one process: the real Redis, database, drains and web process, with time and death in our hands.

Drains run on wrappers of the Redis client and the database that count their steps (one round trip, one use of the database
each) and can end the drain there as `kill -9` would, or stop it there until it is woken. Web processes are the real office,
registry, listener and connections on sockets that only remember what was written. What drains publish is kept, for the test
to deliver or to lose.
"""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast
from unittest.mock import patch

import gevent
import orjson
import redis
from celery import Celery
from flask import Flask
from flask_migrate import Migrate, upgrade
from sqlalchemy import Connection as SqlConnection
from sqlalchemy import delete, event, insert, select

from embedded_redis import redis_server_binary, write_config
from models import friendships, groups, messages, tables, users
from models.database import Database, db, open_database, prepare_engine
from models.errors import ModelError, StoreUnavailable
from models.requests import ChatType, Request, conversation_key, mint_id, recall_id, shard_of
from models.store import bus, inbox, keys, outbox, sessions
from models.store.connection import SCRIPTS, Client, Command, Ear, connect, run
from settings import Settings, load_settings
from tasks.drain import Drain
from tests.support.instance import wait_until
from webapp.auth import Caller, Gatekeeper
from webapp.devices import Devices
from webapp.services import NO_TERMS, Acceptor, Failure, Redis, Terms
from webapp.sockets.connection import Connection
from webapp.sockets.inbound import Inbound
from webapp.sockets.listener import Listener
from webapp.sockets.office import Resume, SocketOffice
from webapp.sockets.registry import Registry
from webapp.sockets.transport import Transport
from webapp.sockets.wire import Opcode

PROCESS_ID = "web"
_NEVER = 1 << 40  # when the rig's tokens expire, in seconds since 1970
GROUP_ID = 1
_FRIENDS_ONLY = '{"chatset":{"visitor":{"sendCount":0},"user":{"sendCount":0}}}'  # unfriending is a block then
STRANGER_ID = 9  # a user whom nobody has as a friend, and who is in no group

Moment = Literal["before", "part", "after"]
_PATIENCE_SECONDS = 30.0
_SCRIPT_NAMES = {script.sha: name for name, script in SCRIPTS.items()}


# Steps of a drain


class Crash(BaseException):
    """The process dies here. Not an Exception: nothing in the product may handle it."""


class Steps:
    """Counts what a drain asks of the world, and ends or stops the drain at one of these steps."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.is_dead = False
        self.paused, self.woken = threading.Event(), threading.Event()
        self._crash_at: tuple[int, Moment] | None = None
        self._pause_at: tuple[int, Moment] | None = None
        self._pause_name: tuple[str, int] | None = None

    def crash_at(self, number: int, moment: Moment) -> None:
        """End the drain at its step `number` (from 1): before it, after it, or when half of it has taken place."""
        self.names, self._crash_at = [], (number, moment)

    def pause_at(self, number: int, moment: Moment) -> None:
        """Stop the drain at its step `number` (from 1) until `woken` is set."""
        self.paused.clear()
        self.woken.clear()
        self.names, self._pause_at = [], (number, moment)

    def pause_at_name(self, name: str, which: int, moment: Moment) -> None:
        """Stop the drain at the step of that name, the `which`-th one."""
        self.pause_at(0, moment)
        self._pause_name = (name, which)

    def run_on(self) -> None:
        """Disturb nothing, and count from 1 again."""
        self.names, self._crash_at, self._pause_at, self._pause_name = [], None, None, None

    def begin(self, name: str) -> int:
        if self.is_dead:
            raise Crash  # `finally` blocks run on our side of the process's death: they must not reach anything
        self.names.append(name)
        if self._pause_at is not None and self._pause_name == (name, self.names.count(name)):
            self._pause_at = (len(self.names), self._pause_at[1])
        self._disturb(len(self.names), "before")
        return len(self.names)

    def end(self, number: int) -> None:
        self._disturb(number, "after")

    def is_cut(self, number: int) -> bool:
        """Return whether the drain is to die when half of this step has taken place."""
        return self._crash_at == (number, "part")

    def die(self) -> None:
        self.is_dead = True
        raise Crash

    def _disturb(self, number: int, moment: Moment) -> None:
        if self._crash_at == (number, moment):
            self.die()
        if self._pause_at == (number, moment):
            self._pause_at = None
            self.paused.set()
            if not self.woken.wait(_PATIENCE_SECONDS):
                raise AssertionError("a paused drain was never woken")


class SteppedDatabase(Database):
    def __init__(self, database: Database, steps: Steps) -> None:
        super().__init__(database.engine)
        self._steps = steps

    @contextmanager
    def reading(self) -> Iterator[SqlConnection]:
        number = self._steps.begin("sql: read")
        with super().reading() as connection:
            yield connection
        self._steps.end(number)

    @contextmanager
    def writing(self, *, sync: bool = True) -> Iterator[SqlConnection]:
        number = self._steps.begin("sql: write")
        with super().writing(sync=sync) as connection:
            yield connection
            if self._steps.is_cut(number):
                self._steps.die()
        self._steps.end(number)

    def sync(self) -> None:
        number = self._steps.begin("sql: sync")
        super().sync()
        self._steps.end(number)


class SteppedClient:
    """The part of a Redis client that the store uses."""

    def __init__(self, client: Client, steps: Steps, published: list[bytes]) -> None:
        self._client = client
        self._steps = steps
        self._published = published

    def exchange(self, commands: Sequence[Command], meanwhile: Callable[[], None] | None = None) -> list[Any]:
        number = self._steps.begin("redis: " + ", ".join(dict.fromkeys(map(_command_name, commands))))
        is_cut = self._steps.is_cut(number)
        sent = commands[: len(commands) // 2] if is_cut else commands
        answers = self._client.exchange(sent, meanwhile) if sent else []
        channel = keys.process_channel(PROCESS_ID)
        tuples = [command for command in sent if isinstance(command, tuple)]
        self._published += [command[2] for command in tuples if command[:2] == ("PUBLISH", channel)]
        if is_cut:
            self._steps.die()
        self._steps.end(number)
        return answers

    def listen(self) -> Ear:
        return self._client.listen()


def _command_name(command: Command) -> str:
    if isinstance(command, bytes):  # packed: of its lines the third is the name, the fifth a script's digest
        lines = command.split(b"\r\n", 5)
        command = (lines[2].decode(), lines[4].decode())
    return _SCRIPT_NAMES[command[1]] if command[0] == "EVALSHA" else str(command[0])


# Drains


class Worker:
    """A worker process: its drain keeps what it has cached from one run to the next."""

    def __init__(self, settings: Settings, database: Database, client: Client, published: list[bytes]) -> None:
        self.steps = Steps()
        stepped = SteppedClient(client, self.steps, published)
        self._drain = Drain(settings, SteppedDatabase(database, self.steps), cast(Client, stepped))
        # The rig's settings renew leases whenever the drain thinks of it. None runs out by itself: tests delete the key.
        self._drain._lease_ms = 600_000
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.is_content = True  # False: the last run was cut short

    def run(self) -> bool:
        """Serve the outbox until it is empty. False: the worker died, or gave up because a dependency was away."""
        try:
            self._drain.run()
        except (Crash, ModelError):
            self.is_content = False
        else:
            self.is_content = True
        return self.is_content

    def start(self) -> None:
        """Run in a thread of its own."""

        def body() -> None:
            try:
                self.run()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=body, daemon=True)
        self._thread.start()

    def start_until_paused(self, number: int, moment: Moment) -> bool:
        """Start, and return when the drain has stopped at that step. False: it was through before."""
        self.steps.pause_at(number, moment)
        return self._start_until_paused()

    def start_until_paused_at(self, name: str, moment: Moment, *, which: int = 1) -> bool:
        """Start, and return when the drain has stopped at the `which`-th step of that name. False: it was through before."""
        self.steps.pause_at_name(name, which, moment)
        return self._start_until_paused()

    def _start_until_paused(self) -> bool:
        self.start()
        assert self._thread is not None
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self._thread.is_alive():
            if self.steps.paused.wait(0.002):
                return True
            assert time.monotonic() < deadline, "the drain neither pauses nor ends"
        self.join()
        return False

    def wake_and_join(self) -> None:
        self.steps.woken.set()
        self.join()
        self.steps.run_on()

    def join(self) -> None:
        assert self._thread is not None
        self._thread.join(_PATIENCE_SECONDS)
        assert not self._thread.is_alive(), "a drain does not end"
        if self._error is not None:
            raise self._error


# Sockets


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame the server sent: a JSON text, a ping's payload or a close code."""

    kind: Literal["text", "ping", "close"]
    json: dict[str, Any] = field(default_factory=dict)
    payload: bytes = b""
    code: int | None = None


class Socket(Transport):
    """A transport whose client reads at once and remembers everything, and can speak."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.unsent_bytes, self._max_unsent_bytes = 0, 1_048_576
        self.is_closing = False
        self._is_closed = False

    @property
    def is_open(self) -> bool:
        return not self._is_closed and not self.is_closing

    def start(self, on_bytes: Callable[[bytes], None], on_closed: Callable[[], None]) -> None:
        self._on_bytes, self._on_closed = on_bytes, on_closed
        if self._is_closed:
            on_closed()

    def write(self, data: bytes) -> bool:
        if not self.is_open:
            return False
        self.frames += decode_frames(data)
        return True

    def finish(self, last: bytes) -> None:
        if self.is_open:
            self.write(last)
            self.is_closing = True
            self.abort()  # the client answers the close at once

    def abort(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            on_closed, self._on_bytes, self._on_closed = self._on_closed, None, None
            if on_closed is not None:
                on_closed()

    def say(self, payload: bytes, opcode: int = Opcode.TEXT) -> None:
        """Have the client send one frame."""
        if self.is_open and self._on_bytes is not None:
            length = len(payload)
            head = (
                bytes((0x80 | opcode, 0x80 | length))
                if length < 126
                else struct.pack("!BBH", 0x80 | opcode, 0xFE, length)
            )
            self._on_bytes(head + b"\0\0\0\0" + payload)

    def say_json(self, frame: dict[str, Any]) -> None:
        self.say(orjson.dumps(frame))

    def texts(self, kind: str) -> list[dict[str, Any]]:
        """Return the JSON of all frames of a type, oldest first."""
        return [frame.json for frame in self.frames if frame.json.get("type") == kind]

    @property
    def close_code(self) -> int | None:
        return next((frame.code for frame in self.frames if frame.kind == "close"), None)


def decode_frames(data: bytes) -> list[Frame]:
    """Decode whole frames of a server. Raises AssertionError where the bytes are anything else."""
    frames, position = [], 0
    while position < len(data):
        opcode, length = data[position] & 0x0F, data[position + 1]
        assert data[position] & 0xF0 == 0x80, "a final frame without extensions"
        assert length < 128, "frames of a server are not masked"
        position += 2
        if length >= 126:
            size = 2 if length == 126 else 8
            length = int.from_bytes(data[position : position + size], "big")
            position += size
        payload = data[position : position + length]
        assert len(payload) == length, "a frame was cut"
        position += length
        if opcode == Opcode.TEXT:
            frames.append(Frame("text", json=orjson.loads(payload)))
        elif opcode == Opcode.PING:
            frames.append(Frame("ping", payload=payload))
        else:
            assert opcode == Opcode.CLOSE
            frames.append(Frame("close", code=int.from_bytes(payload[:2], "big") if payload else None))
    return frames


# The web process


class DirectRedis(Redis):
    """The web process's way to Redis without greenlets: every command is a round trip of its own."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def call(self, command: Command) -> Any:
        return run(self.client, [command])[0]

    def tell(
        self, command: Command, then: Callable[[Any], None] | None = None, otherwise: Callable[[], None] | None = None
    ) -> None:
        try:
            answer = self.call(command)
        except StoreUnavailable:
            if otherwise is not None:
                otherwise()
            return
        if then is not None:
            then(answer)


class DirectAcceptor(Acceptor):
    """Accepts into the outbox without greenlets, and rings no bell: tests run the drains."""

    def __init__(self, settings: Settings, client: Client) -> None:
        super().__init__(settings, client, cast(Celery, None))
        self._count = settings.outbox_shards

    def accept(self, request: Request) -> None:
        outbox.accept(self._client, {shard_of(request.conversation, self._count): [outbox.Offer(request.encode())]})

    def submit(self, request: Request, done: Callable[[Failure | None], None], terms: Terms = NO_TERMS) -> None:
        self.accept(request)
        done(None)


class Web:
    """One web process."""

    def __init__(self, settings: Settings, database: Database, client: Client) -> None:
        store = DirectRedis(client)
        direct = Database(database.engine)
        direct.is_sqlite = False  # so that `offload` calls directly, not in gevent's threads
        self.registry = Registry()
        self.acceptor = DirectAcceptor(settings, client)
        self.inbound = Inbound(settings, PROCESS_ID, self.registry, self.acceptor, cast(Gatekeeper, None))
        self._store = store
        devices = Devices(settings, store, direct)
        self.office = SocketOffice(settings, PROCESS_ID, self.registry, store, direct, devices, self.inbound.receive)
        self.listener = Listener(
            cast(bus.Subscription, None), PROCESS_ID, self.registry, self.office, self.inbound, store.call_all
        )

    def connect(self, user_id: int, device: str, protocol: int, resume: Resume | None = None) -> Socket:
        """Open a connection and let it read what it lacks."""
        socket = Socket()
        caller = Caller(user_id, f"uuid-{user_id}", "user", device, f"session-{user_id}-{device}", _NEVER)
        self._store.call(sessions.replace_command(user_id, device, caller.session_id))
        self.office.connect(caller, socket, protocol, resume, wants_notices=False)
        self.let_run()
        return socket

    def hear(self, published: Sequence[bytes]) -> None:
        """Take publications, in order."""
        for payload in published:
            self.listener.take(bus.decode(payload))
            self.let_run()

    def compare(self) -> None:
        """Do what the process does every few seconds: see whether some connection has missed something."""
        self.listener._compare()
        self.let_run()

    def checkpoint(self) -> None:
        """Do what the process does every few seconds: keep acknowledgements in SQL."""
        for connection in list(self.office._acknowledged):
            self.office._tell_acknowledged(connection)
        self.office._checkpoint()

    def connection_of(self, socket: Socket) -> Connection | None:
        return next((connection for connection in self.registry if connection.transport is socket), None)

    def let_run(self) -> None:
        """Let the greenlets run that were spawned, and those that they spawn: none of them waits for anything."""
        for _ in range(6):
            gevent.sleep(0)


# The rig


class RedisServer:
    """A private embedded Redis that can be killed and started again on what it has on disk."""

    def __init__(self) -> None:
        # In memory where possible: the rig tests what survives a killed process, so nobody has to wait for a disk.
        self.folder = Path(tempfile.mkdtemp(prefix="hy-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp"))
        environment = {"DATA_DIR": str(self.folder), "REDIS_URL": "", "DATABASE_URL": "", "LOG_LEVEL": "error"}
        with patch.dict(os.environ, environment):
            self.settings = load_settings()
        self._config = write_config(self.settings)
        self._process: subprocess.Popen[bytes] | None = None
        self.client = connect(self.settings.redis_url)
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen([redis_server_binary(), self._config], stdout=subprocess.DEVNULL)
        assert wait_until(self._answers, 10.0), "the embedded Redis does not answer"

    def restart(self) -> None:
        """Kill it with SIGKILL and start it on its append-only file."""
        self._kill()
        self.start()

    def empty(self) -> None:
        self.client.flushall()

    def stop(self) -> None:
        self._kill()
        self.client.close()
        shutil.rmtree(self.folder)

    def _kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self.client.close()  # its connections are dead; whoever calls next is not to find that out

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False


def migrate(database_url: str) -> None:
    """Bring a database up to date with the real migrations."""
    app = Flask("rig")
    app.config["SQLALCHEMY_DATABASE_URI"] = database_url
    db.init_app(app)
    Migrate(app, db, directory=str(Path(__file__).resolve().parents[2] / "migrations"), render_as_batch=True)
    with app.app_context():
        prepare_engine(db.engine)
        upgrade()
        db.engine.dispose()


def open_rig_database(database_url: str) -> Database:
    """Open a database as a worker does; a SQLite one does not wait for the disk."""
    database = open_database(database_url)
    if database.is_sqlite:

        @event.listens_for(database.engine, "connect")
        def _on_connect(dbapi_connection: Any, _record: Any) -> None:
            dbapi_connection.execute("PRAGMA synchronous=OFF")

    return database


class Rig:
    """Everything of one example. Users 1 to `user_count` are friends and members of group 1, whose owner is user 1."""

    def __init__(self, server: RedisServer, database: Database, **changed_settings: Any) -> None:
        self.server = server
        self.database = database
        self.client = server.client
        chosen: dict[str, Any] = {
            "outbox_shards": 2,
            "drain_linger_seconds": 0.0,
            "drain_max_seconds": 60.0,
            "drain_lease_seconds": 0.0,  # leases are renewed whenever the drain thinks of it
            "rate_limit_sends": "off",
            "sockets_per_user": 1_000,
            "rate_limit_connects": "off",  # an example connects faster than people do
            **changed_settings,
        }
        self.settings = replace(server.settings, **chosen)
        self.published: list[bytes] = []  # what drains have published, in order, and nobody has heard yet
        self.heard: list[bytes] = []  # all that drains have ever published
        self.web = Web(self.settings, database, self.client)
        self._errors: list[BaseException] = []
        self._wait_verdicts: dict[str, list[str | None]] = {}

    def reset(self, user_count: int = 3) -> None:
        """Empty Redis and the database, and put users, friendships and the group in."""
        self.server.empty()
        everybody = range(1, user_count + 1)
        people = [(user_id, f"user{user_id}") for user_id in everybody] + [(STRANGER_ID, "stranger")]
        with self.database.writing() as connection:
            for table in reversed(tables.Message.metadata.sorted_tables):
                connection.execute(delete(table))
            rows = [
                {
                    "id": user_id,
                    "uuid": f"uuid-{user_id}",
                    "username": name,
                    "password": "",
                    "userset": _FRIENDS_ONLY,
                }
                for user_id, name in people
            ]
            connection.execute(insert(tables.User), rows)
            friendships.befriend(connection, [(a, b) for a in everybody for b in everybody if a < b])
            group = {"id": GROUP_ID, "uuid": "uuid-group", "user_id": 1, "name": "group"}
            connection.execute(insert(tables.Group), [group])
            groups.add_members(connection, GROUP_ID, everybody)

    # Drains

    def worker(self, **changed_settings: Any) -> Worker:
        return Worker(replace(self.settings, **changed_settings), self.database, self.client, self.published)

    def drain(self) -> None:
        """Let a new worker settle everything that waits."""
        assert self.worker().run()

    def expire_leases(self) -> None:
        self.client.delete(*(keys.lease(shard) for shard in range(self.settings.outbox_shards)))

    def deliver(self) -> None:
        """Let the web process hear what was published."""
        some, self.published[:] = list(self.published), []
        self.heard += some
        self.web.hear(some)

    def lose(self) -> None:
        """Let the web process miss what was published."""
        self.heard += self.published
        self.published.clear()

    def verdicts(self) -> list[bus.Verdict]:
        """Return every verdict that was ever published."""
        return [verdict for payload in [*self.heard, *self.published] for verdict in bus.decode(payload).verdicts]

    # What clients do

    def build_send(
        self,
        sender_id: int,
        to_id: int,
        text: str,
        *,
        chat_type: ChatType = "single",
        client_msg_id: str | None = None,
        device: str = "a",
        options: Any = None,
        created_at_ms: int | None = None,
    ) -> Request:
        return Request(
            id=mint_id(sender_id, client_msg_id),
            kind="send",
            chat_type=chat_type,
            sender_id=sender_id,
            role="user",
            device=device,
            to_id=to_id,
            type="text",
            data=text,
            options=options,
            created_at_ms=created_at_ms or time.time_ns() // 1_000_000,
            client_msg_id=client_msg_id,
            reply_to=(PROCESS_ID, self.web.registry.next_number()),
            conversation=conversation_key(chat_type, sender_id, to_id),
        )

    def build_recall(self, target: Request, *, by: int | None = None, device: str = "a") -> Request:
        """Build the request to recall a message: its sender's, or `by` somebody else."""
        recaller_id = by or target.sender_id
        return replace(
            target,
            id=recall_id(recaller_id, target.conversation, target.id),
            kind="recall",
            sender_id=recaller_id,
            to_id=target.to_id if target.chat_type == "group" or recaller_id == target.sender_id else target.sender_id,
            device=device,
            type="",
            data=target.id,
            client_msg_id=None,
            reply_to=(PROCESS_ID, self.web.registry.next_number()),
        )

    def accept(self, *requests: Request) -> None:
        for request in requests:
            self.web.acceptor.accept(request)

    def set_friend(self, owner_id: int, other_id: int, *, is_friend: bool) -> None:
        """Have a user list another as friend, or no longer. Returns when the change is answered."""
        friend = tables.Friendship
        with self.database.writing() as connection:
            if is_friend:
                connection.execute(insert(friend), [{"user_id": owner_id, "friend_id": other_id}])
            else:
                connection.execute(delete(friend).where(friend.user_id == owner_id, friend.friend_id == other_id))
            users.touch_facts(connection, owner_id)

    # What stands

    def rows(self) -> list[dict[str, Any]]:
        """Return the decision rows, in the order of decision within each shard."""
        query = select(tables.Message.__table__).order_by(tables.Message.shard, tables.Message.shard_seq)
        with self.database.reading() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]

    def row(self, message_id: str) -> dict[str, Any]:
        with self.database.reading() as connection:
            return dict(messages.load_decisions(connection, [message_id])[message_id]._mapping)

    def entries(self, user_id: int) -> list[inbox.Entry]:
        return [inbox.decode(raw) for raw in cast(list[bytes], self.client.lrange(keys.inbox(user_id), 0, -1))]

    def cursor_state(self, user_id: int) -> dict[str, str]:
        """Return what a user's cursor hash holds, but for when his devices were seen."""
        state = cast(dict[bytes, bytes], self.client.hgetall(keys.cursor(user_id)))
        return {name.decode(): value.decode() for name, value in state.items() if not name.startswith(b"n:")}

    def waiting(self) -> list[bytes]:
        """Return what stands in the outboxes, undecided or not yet popped."""
        lists = (self.client.lrange(keys.outbox(shard), 0, -1) for shard in range(self.settings.outbox_shards))
        return [entry for entries in lists for entry in cast(list[bytes], entries)]

    def dead(self) -> list[bytes]:
        """Return what was buried."""
        lists = (self.client.lrange(keys.dead(shard), 0, -1) for shard in range(self.settings.outbox_shards))
        return [entry for entries in lists for entry in cast(list[bytes], entries)]

    def keys_like(self, pattern: str) -> dict[str, list[bytes]]:
        """Return the lists whose names match."""
        names = sorted(name.decode() for name in cast(list[bytes], self.client.keys(pattern)))
        return {name: cast(list[bytes], self.client.lrange(name, 0, -1)) for name in names}


@contextmanager
def raising_greenlets() -> Iterator[list[BaseException]]:
    """Collect what greenlets raise: gevent only prints it."""
    hub: Any = gevent.get_hub()
    errors: list[BaseException] = []
    with ExitStack() as stack:
        stack.enter_context(
            patch.object(hub, "handle_error", lambda _context, _kind, value, _trace: errors.append(value))
        )
        yield errors
