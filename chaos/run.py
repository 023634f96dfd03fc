"""One run from the first process to the verdict: a private copy of the system, clients, faults, quiet, judgement."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psutil
import redis
import sqlalchemy

from chaos.checker import Verdict, check
from chaos.clients import Device, Flooder, Prober, Sender, World
from chaos.faults import Injector
from chaos.history import DEVICE, History, Phase, Received, Sent, State
from chaos.plan import Step, draw_plan, kinds_for
from chaos.proxy import Proxy, ProxyFailed, Route
from chaos.wire import Address, Http
from tests.support.acting import start_session
from tests.support.instance import Instance, wait_until

_PAIRS_USERS = 40  # friends in pairs: 1 and 2, 3 and 4 …
_PROBE_USERS = (41, 42)
_FLOOD_USERS = (43, 44)
_MEMBERS = tuple(range(1, 13))  # of group 1
_GROUP_SHARE = 0.05  # of all sends
_HEARTBEAT_SECONDS = 5  # of 30: so that half-open connections end within a short run
_CONNECT_SECONDS = 30.0
_REPEAT_AFTER_SECONDS = 20.0  # after the load's end, until which senders repeat what is unknown
_QUIET_SECONDS = 60.0
_DECIDED_SECONDS = 30.0  # after that, until which everything accepted must have its verdict
_ANSWER_SECONDS = 10.0  # for the question about one send
_LOOK_SECONDS = 1.0  # at what else the machine does
_SAMPLE_OF_DECIDED = 200  # of sends that were, how many are asked for in the end all the same, of each outcome


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is asked to be. Empty URLs mean the embedded default; kinds: empty = all that can be injected."""

    duration: float
    seed: int
    rate: float
    fault_every: float
    database_url: str = ""
    broker_url: str = ""
    redis_url: str = ""
    kinds: tuple[str, ...] = ()

    @property
    def setup(self) -> str:
        """Which servers the system uses, in words."""
        database = self.database_url.partition(":")[0].partition("+")[0] or "SQLite"
        broker = self.broker_url.partition(":")[0] or "Redis"
        return f"{database}, {'Redis at REDIS_URL' if self.redis_url else 'embedded Redis'}, broker {broker}"

    @property
    def provided(self) -> frozenset[str]:
        """What of plan.FaultKind.needs is there."""
        found = {"redis proxy"} | (set() if self.redis_url else {"redis"})
        if not self.database_url:
            found.add("sqlite")
        elif not self.database_url.startswith("sqlite"):
            found.add("sql proxy")
        if self.broker_url:
            found.add("broker proxy")
        return frozenset(found)

    def plan(self) -> list[Step]:
        """Return the faults of this run."""
        possible = kinds_for(self.provided)
        kinds = [kind for kind in possible if not self.kinds or kind in self.kinds]
        return draw_plan(self.seed, self.duration, self.fault_every, kinds) if kinds else []


class NotEmpty(Exception):
    """A server that was given for a run holds data already, or does not answer. The text says which."""


def refuse_used(options: Options) -> None:
    """Raise NotEmpty unless the database and the Redis that were given are there and hold nothing.

    A run fills them with made-up users, and an earlier run's messages would answer this one's.
    """
    if options.database_url:
        engine = sqlalchemy.create_engine(options.database_url)
        try:
            tables = sqlalchemy.inspect(engine).get_table_names()
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise NotEmpty(f"the database does not answer: {str(error).splitlines()[0]}") from error
        finally:
            engine.dispose()
        if tables:
            raise NotEmpty(f"the database holds {len(tables)} tables already: a run wants an empty one of its own")
    if options.redis_url:
        try:
            with redis.Redis.from_url(options.redis_url, socket_timeout=5.0) as client:
                count = client.dbsize()
        except redis.RedisError as error:
            raise NotEmpty(f"the Redis does not answer: {error}") from error
        if count:
            raise NotEmpty(f"the Redis holds {count} keys already: a run wants an empty one of its own")


@dataclass(frozen=True, slots=True)
class Result:
    """What a run leaves: everything that happened, and its judgement.

    foreign_load: the share of this machine's processors that was busy with other work just before and just after, in percent
    """

    history: History
    verdict: Verdict
    foreign_load: float


def run(options: Options, logs_to: Path | None = None) -> Result:
    """Run and judge. logs_to: where the logs are copied to if a promise was broken. Raises InstanceFailed, ProxyFailed."""
    history = History()
    before = psutil.cpu_percent(_LOOK_SECONDS)
    with ExitStack() as stack:
        instance = stack.enter_context(_instance(options))
        proxy = stack.enter_context(Proxy(_routes(options, instance)))
        instance.start()
        real_redis = None
        if not options.redis_url:
            real_redis = _real_socket(instance)
            if not wait_until(lambda: bool(proxy.tell("redis", "taken")), 10.0):
                raise ProxyFailed("the proxy could not take the place of Redis's socket")
        instance.seed(max(_FLOOD_USERS), len(_MEMBERS) - 1)
        asyncio.run(_drive(options, instance, proxy, history, real_redis))
        verdict = check(history)
        if not verdict.ok and logs_to is not None:
            logs_to.mkdir(parents=True, exist_ok=True)
            for log in instance.log_dir.glob("*.log*"):
                (logs_to / log.name).write_bytes(log.read_bytes())
    return Result(history, verdict, max(before, psutil.cpu_percent(_LOOK_SECONDS)))


# The private copy, and the proxy around it


@contextlib.contextmanager
def _instance(options: Options) -> Iterator[Instance]:
    environment = {
        "HEARTBEAT_SECONDS": str(_HEARTBEAT_SECONDS),
        # By default /metrics answers loopback only, and a login is limited by address: neither concerns a run.
        "DATABASE_URL": options.database_url,
        "CELERY_BROKER_URL": options.broker_url,
        "REDIS_URL": options.redis_url,
    }
    instance = Instance(environment)
    for name in ("DATABASE_URL", "CELERY_BROKER_URL", "REDIS_URL"):
        url = instance.environment[name]
        if url and not url.startswith("sqlite"):
            instance.environment[name] = _with_port(url, _free_port())
    instance.environment["CHAOS_CLIENTS_PORT"] = str(_free_port())
    try:
        yield instance
    finally:
        instance.stop()
        instance.delete()


def _routes(options: Options, instance: Instance) -> list[Route]:
    clients = ("127.0.0.1", int(instance.environment["CHAOS_CLIENTS_PORT"]))
    routes = [Route("clients", clients, ("127.0.0.1", instance.port))]
    for name, route, given in (
        ("DATABASE_URL", "sql", options.database_url),
        ("CELERY_BROKER_URL", "broker", options.broker_url),
        ("REDIS_URL", "redis", options.redis_url),
    ):
        if given and not given.startswith("sqlite"):
            parts = urlsplit(given)
            default = {"postgresql": 5432, "amqp": 5672, "redis": 6379}[parts.scheme.partition("+")[0]]
            port = urlsplit(instance.environment[name]).port
            assert port is not None
            routes.append(Route(route, ("127.0.0.1", port), (parts.hostname or "127.0.0.1", parts.port or default)))
    if not options.redis_url:
        routes.append(Route("redis", str(instance.redis_socket), str(_real_socket(instance))))
    return routes


def _real_socket(instance: Instance) -> Path:
    return instance.redis_socket.with_suffix(".real")


def _with_port(url: str, port: int) -> str:
    parts = urlsplit(url)
    login = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    return urlunsplit(parts._replace(netloc=f"{login}127.0.0.1:{port}"))


def _free_port() -> int:
    chance = random.SystemRandom()
    while True:
        port = chance.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


# The load


def _make_devices(
    options: Options, world: World, instance: Instance, straight: Address, through: Address
) -> dict[int, Device]:
    """Make everybody's devices and return those that send, by user. Who is which is drawn from the seed."""
    chance = random.Random(f"{options.seed}:clients")
    users = list(range(1, _PAIRS_USERS + 1))
    absent, slow, mute, two = (set(chance.sample(users, count)) for count in (6, 3, 2, 5))
    senders: dict[int, Device] = {}
    for user in users:
        names = {"absent": user in absent, "slow": user in slow, "mute": user in mute}
        traits = frozenset(name for name, is_so in names.items() if is_so)
        address = through if chance.random() < 0.4 else straight
        protocol = chance.choice((1, 2))
        senders[user] = Device(world, user, DEVICE, instance.tokens[user], protocol, address, traits=traits)
        if user in two:
            token = start_session(instance, user, "second")
            Device(world, user, "second", token, 2, through if chance.random() < 0.4 else straight)
    for user in _FLOOD_USERS:
        senders[user] = Device(world, user, DEVICE, instance.tokens[user], 2, straight, kind="flooder")
    return senders


async def _drive(options: Options, instance: Instance, proxy: Proxy, history: History, real_redis: Path | None) -> None:
    """Let everybody in, load and disturb, wait for quiet, and ask what became of what has no verdict yet."""
    world = World(history, options.seed, _HEARTBEAT_SECONDS)
    straight = ("127.0.0.1", instance.port)
    through = ("127.0.0.1", int(instance.environment["CHAOS_CLIENTS_PORT"]))
    senders = _make_devices(options, world, instance, straight, through)
    prober = Prober(
        world, instance.tokens[_PROBE_USERS[0]], _PROBE_USERS[1], instance.tokens[_PROBE_USERS[1]], straight
    )
    everything = [device for devices in world.devices.values() for device in devices]
    receiving = [asyncio.create_task(device.run()) for device in everything]
    # A device counts from its first connection: what was sent before would not be owed to it.
    async with asyncio.timeout(_CONNECT_SECONDS):
        for device in everything:
            await device.is_greeted.wait()
    begin = time.monotonic()
    until = begin + options.duration
    history.append(Phase("load", begin))
    screen = Screen(world, begin)
    injector = Injector(instance, proxy, history, real_redis, prober.is_recovered, screen.note)
    screen.injector = injector
    writing = [
        asyncio.create_task(
            Sender(
                world,
                senders[user],
                user + 1 if user % 2 else user - 1,
                _MEMBERS if user in _MEMBERS else (),
                rate=options.rate / _PAIRS_USERS,
                group_share=_GROUP_SHARE * _PAIRS_USERS / len(_MEMBERS),
            ).run()
        )
        for user in range(1, _PAIRS_USERS + 1)
    ]
    low, high = _FLOOD_USERS
    writing += [
        asyncio.create_task(Flooder(world, senders[low], high).run()),
        asyncio.create_task(Flooder(world, senders[high], low).run()),
    ]
    probing = asyncio.create_task(prober.run())
    telling = asyncio.create_task(screen.run())
    injector.start(options.plan(), begin)
    try:
        await asyncio.sleep(max(0.0, until - time.monotonic()))
        # Slow recoveries have delayed the plan: the load goes on until all of it was injected, and the last is over.
        late = until + options.duration
        while time.monotonic() < late and (injector.is_busy or not prober.is_recovered(injector.last_end)):
            await asyncio.sleep(0.2)
        world.is_loaded.set()
        world.give_up = time.monotonic() + _REPEAT_AFTER_SECONDS
        history.append(Phase("end", time.monotonic()))
        await asyncio.to_thread(injector.stop)
        if injector.failure is not None:
            raise injector.failure
        world.is_ending = True
        await asyncio.gather(*writing)
        await probing
        await _become_quiet(world, instance)
        await _ask_states(world, instance)
        history.append(Phase("quiet", time.monotonic()))
    finally:
        await asyncio.to_thread(injector.stop)
        telling.cancel()
        screen.close()
    for probe in prober.probes:
        history.append(probe)
    world.is_over = True
    for task in receiving:
        task.cancel()
    await asyncio.gather(*receiving, return_exceptions=True)


async def _become_quiet(world: World, instance: Instance) -> None:
    """Wait until everything accepted has come, or for so long that it will not. What Redis's loss excuses is not waited for."""
    deadline = time.monotonic() + _QUIET_SECONDS
    has_asked = False
    while world.outstanding and time.monotonic() < deadline:
        await asyncio.sleep(0.25)
        if not has_asked and time.monotonic() > deadline - _QUIET_SECONDS + 8.0:
            has_asked = True
            waiting = {
                sent.text: sent
                for sent in _sent(world.history)
                if sent.text in world.pending_texts and sent.is_accepted
            }
            for text, sent in waiting.items():
                if sent.outcome == "accepted202" and (await _ask(instance, sent)).status == "missing":
                    world.excuse(text)  # the checker knows whether it really is excused
    await asyncio.sleep(2.0)  # for what should not come any more, such as a second copy


def _sent(history: History) -> list[Sent]:
    return [event for event in history if isinstance(event, Sent)]


async def _ask(instance: Instance, sent: Sent, patience_seconds: float = 0.0) -> State:
    """Ask for the state of a send; where it is undecided, ask again for so long."""
    http = Http(("127.0.0.1", instance.port), instance.tokens[sent.sender])
    assert sent.message_id is not None
    started = time.monotonic()
    state = State(sent.message_id, started, "unasked")
    try:
        while True:
            with contextlib.suppress(OSError):
                status, body = await http.call("GET", f"/api/chat/messages/{sent.message_id}")
                if status == 200:
                    data = body["data"]
                    state = State(sent.message_id, time.monotonic(), str(data["status"]), data.get("code"))
                elif status == 404:
                    state = State(sent.message_id, time.monotonic(), "missing")
            longest = {"unasked": _ANSWER_SECONDS, "accepted": patience_seconds}.get(state.status, 0.0)
            if time.monotonic() >= started + longest:
                return state
            await asyncio.sleep(1.0)
    finally:
        http.close()


async def _ask_states(world: World, instance: Instance) -> None:
    """Ask for the state of every send of which only its acceptance is known, and of some that were decided for all to see."""
    sent = [one for one in _sent(world.history) if one.is_accepted and one.message_id is not None]
    shown = {event.text for event in world.history if isinstance(event, Received)}
    asked = [one for one in sent if one.outcome == "accepted202" and one.text not in shown]
    for outcome in ("accepted200", "accepted202"):
        decided = [one for one in sent if one.outcome == outcome and one.text in shown]
        asked += random.Random(world.seed).sample(decided, min(_SAMPLE_OF_DECIDED, len(decided)))
    once = list({one.message_id: one for one in asked}.values())
    queue = iter(once)
    deadline = time.monotonic() + _DECIDED_SECONDS

    async def work() -> None:
        for one in queue:
            world.history.append(await _ask(instance, one, max(0.0, deadline - time.monotonic())))

    await asyncio.gather(*(work() for _ in range(8)))


class Screen:
    """Says once a second how the run goes: on one line of a terminal, else in lines."""

    def __init__(self, world: World, begin: float) -> None:
        self._world = world
        self._begin = begin
        self._is_terminal = sys.stdout.isatty()
        self._notes: list[str] = []
        self.injector: Injector | None = None

    def note(self, text: str) -> None:
        """Say what is being done. Called from the thread of the faults."""
        line = f"{time.monotonic() - self._begin:6.1f} s  fault: {text}"
        print(f"\r\033[K{line}" if self._is_terminal else line, flush=True)

    def status(self) -> str:
        """Return the present figures."""
        world = self._world
        faults = ", ".join(self.injector.current) if self.injector is not None else ""
        return (
            f"{time.monotonic() - self._begin:6.1f} s  sent {world.sent}  accepted {world.accepted}"
            f"  delivered {world.delivered}  outstanding {world.outstanding}" + (f"  | {faults}" if faults else "")
        )

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await asyncio.sleep(1.0)
            print(
                f"\r\033[K{self.status()}" if self._is_terminal else self.status(),
                end="" if self._is_terminal else "\n",
            )
            sys.stdout.flush()

    def close(self) -> None:
        """Leave the line."""
        print(f"\r\033[K{self.status()}" if self._is_terminal else self.status(), flush=True)
