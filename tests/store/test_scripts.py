"""Each Lua script on a real Redis: what it promises, and what it must leave alone."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from models.errors import StoreUnavailable
from models.store import attendance, chatlog, counters, inbox, keys, outbox, presence, sessions, tickets
from models.store.connection import SCRIPTS, Client, Command, Script, run
from models.store.counters import Rate

_SHARD = 3
_PEER = 900_000
_INBOX_MAX, _LOG_MAX = 10, 5

_shards = itertools.count(100)


def _call(client: Client, command: Command) -> Any:
    return run(client, [command])[0]


def _open(
    client: Client,
    user_id: int,
    positions: Mapping[int, int] | None = None,
    devices: Mapping[str, inbox.DeviceState] | None = None,
    entries: Sequence[inbox.Entry] = (),
) -> str:
    """Open an inbox and return its epoch."""
    assert _call(client, inbox.open_command(user_id, positions or {}, devices or {}, entries)) == 1
    epoch: bytes = _call(client, inbox.newest_command(user_id))[0]
    return epoch.decode()


def _append_command(
    user_id: int,
    positions: Sequence[int],
    *,
    shard: int = _SHARD,
    peer: int | None = _PEER,
    inbox_max: int = _INBOX_MAX,
    log_max: int = _LOG_MAX,
) -> Command:
    entries = [inbox.LogEntry(inbox.Entry(shard, p, None, b'{"id":"m%d"}' % p), peer) for p in positions]
    return inbox.append_command(user_id, shard, entries, inbox_max=inbox_max, log_max=log_max)


def _append(
    client: Client, user_id: int, *positions: int, shard: int = _SHARD, inbox_max: int = _INBOX_MAX
) -> inbox.Appended:
    command = _append_command(user_id, positions, shard=shard, inbox_max=inbox_max)
    return inbox.Appended.parse(_call(client, command))


def _read(client: Client, user_id: int, after: int = 0, most: int = 100) -> inbox.Page:
    return inbox.parse_page(_call(client, inbox.read_command(user_id, after, most)), after)


def _entries(client: Client, user_id: int) -> list[inbox.Entry]:
    return _readable(_read(client, user_id))


def _readable(page: inbox.Page) -> list[inbox.Entry]:
    """Return the entries of a page, all of which can be read."""
    entries = [entry for entry in page.entries if entry is not None]
    assert len(entries) == len(page.entries)
    return entries


def _positions(client: Client, user_id: int) -> list[int]:
    return [entry.position for entry in _entries(client, user_id)]


def _log(client: Client, user_id: int) -> list[bytes]:
    entries: list[bytes] = _call(client, ("LRANGE", keys.single_log(user_id, _PEER), 0, -1))
    return entries


_SESSION = "the session"


def _connect(
    client: Client,
    user_id: int,
    device: str,
    name: str = "p:1:2",
    *,
    session_id: str = _SESSION,
    most: int = presence.NO_LIMIT,
) -> presence.Connected:
    """Connect in a session that stands, on a device that counts."""
    _call(client, inbox.register_command(user_id, device))
    _call(client, sessions.replace_command(user_id, device, _SESSION))
    return _try_connect(client, user_id, device, name, session_id=session_id, most=most)


def _try_connect(
    client: Client, user_id: int, device: str, name: str, *, session_id: str = _SESSION, most: int = presence.NO_LIMIT
) -> presence.Connected:
    command = presence.connect_command(user_id, device, name, session_id, most=most)
    return presence.Connected.parse(_call(client, command))


def _acknowledge(client: Client, user_id: int, device: str, epoch: str, cursor: int) -> int:
    rose: int = _call(client, inbox.acknowledge_command(user_id, device, epoch, cursor))
    return rose


def _devices(client: Client, user_id: int) -> dict[str, inbox.DeviceState]:
    return inbox.parse_state(_call(client, inbox.state_command(user_id)))[1]


def _base(client: Client, user_id: int) -> int:
    return _read(client, user_id).base


# append


def test_an_append_gives_consecutive_cursors(client: Client, user_id: int) -> None:
    """Entries get the next cursors in order, and stand in inbox and log."""
    epoch = _open(client, user_id)

    first = _append(client, user_id, 5, 7)
    second = _append(client, user_id, 9)

    assert (first.epoch, first.cursors, first.newest) == (epoch, [1, 2], 2)
    assert (second.cursors, second.newest) == ([3], 3)
    page = _read(client, user_id)
    assert (page.base, page.first, [entry.position for entry in _readable(page)]) == (0, 1, [5, 7, 9])
    assert _log(client, user_id) == [b'{"id":"m5"}', b'{"id":"m7"}', b'{"id":"m9"}']


def test_an_append_is_ignored_by_position(client: Client, user_id: int) -> None:
    """A redo adds nothing, however much was trimmed since, and says which entries are new."""
    epoch = _open(client, user_id)
    _append(client, user_id, 5, 7)
    _connect(client, user_id, "a")
    _acknowledge(client, user_id, "a", epoch, 2)

    again = _append(client, user_id, 5, 7, 8)

    assert (again.cursors, again.newest) == ([0, 0, 3], 3)
    assert _positions(client, user_id) == [8]
    assert len(_log(client, user_id)) == 3


def test_positions_count_per_shard(client: Client, user_id: int) -> None:
    """A position of one shard says nothing about another's."""
    _open(client, user_id)
    _append(client, user_id, 100, shard=1)

    assert _append(client, user_id, 1, shard=2).cursors == [2]
    assert _append(client, user_id, 99, shard=1).cursors == [0]


def test_an_append_without_an_epoch_is_refused(client: Client, user_id: int) -> None:
    """While a user's inbox is lost nothing is appended anywhere: it has to be rebuilt first."""
    answer = _append(client, user_id, 1)

    assert answer == inbox.Appended("")
    assert _call(client, ("EXISTS", keys.inbox(user_id), keys.cursor(user_id), keys.single_log(user_id, _PEER))) == 0


def test_an_overflow_drops_the_oldest(client: Client, user_id: int) -> None:
    """Beyond the bound the oldest entries go and the base moves: cursors stay what they were."""
    _open(client, user_id)
    _append(client, user_id, *range(1, 9))

    answer = _append(client, user_id, *range(9, 16))

    assert answer.cursors == [*range(9, 16)]
    page = _read(client, user_id)
    assert (page.newest, page.base, page.first) == (15, 5, 6)
    assert [entry.position for entry in _readable(page)] == [*range(6, 16)]
    assert len(_log(client, user_id)) == _LOG_MAX


def test_one_append_may_be_larger_than_the_bound(client: Client, user_id: int) -> None:
    """A batch that alone overflows the inbox leaves its newest entries, with the right cursors."""
    _open(client, user_id)

    assert _append(client, user_id, *range(1, 26)).newest == 25

    page = _read(client, user_id)
    assert (page.base, len(page.entries), _readable(page)[-1].position) == (15, 10, 25)


def test_an_append_tells_where_the_user_is(client: Client, user_id: int) -> None:
    """The answer has the connections of each device that is online."""
    _open(client, user_id)
    _connect(client, user_id, "a", "p:1:1")
    _connect(client, user_id, "a", "q:2:1")
    _connect(client, user_id, "b", "r:3:2")

    online = _append(client, user_id, 1).online

    assert sorted(online) == ["p:1:1 q:2:1", "r:3:2"]
    assert presence.live_processes(online) == {"q", "r"}


def test_an_entry_without_a_log_is_only_in_the_inbox(client: Client, user_id: int) -> None:
    """A group's message or a recall has no place in the owner's one-to-one log."""
    _open(client, user_id)

    _call(client, _append_command(user_id, [1], peer=None, inbox_max=10, log_max=10))

    assert _positions(client, user_id) == [1]
    assert _log(client, user_id) == []


# read_inbox


@pytest.mark.parametrize(
    ("after", "most", "expected"), [(0, 100, [4, 5, 6]), (4, 100, [5, 6]), (2, 2, [4, 5]), (6, 5, []), (99, 5, [])]
)
def test_a_page_begins_after_its_cursor(
    client: Client, user_id: int, after: int, most: int, expected: list[int]
) -> None:
    """A page holds at most what was asked for, from the first entry after the cursor that is still there."""
    _open(client, user_id)
    _append(client, user_id, *range(1, 7), inbox_max=3)

    page = _read(client, user_id, after, most)

    assert [entry.position for entry in _readable(page)] == expected
    assert (page.newest, page.base, page.first) == (6, 3, max(after, 3) + 1)


def test_reading_takes_nothing_away(client: Client, user_id: int) -> None:
    """What was read stands there still, and what came meanwhile stands behind it (ORIG B1)."""
    _open(client, user_id)
    _append(client, user_id, 1, 2, 3)
    assert _positions(client, user_id) == [1, 2, 3]

    _append(client, user_id, 4)

    assert _positions(client, user_id) == [1, 2, 3, 4]


def test_a_page_of_nothing_has_no_epoch(client: Client, user_id: int) -> None:
    """An inbox that is not open reads as lost."""
    page = _read(client, user_id)

    assert (page.epoch, page.entries) == (None, [])


# acknowledge


@pytest.fixture
def epoch(client: Client, user_id: int) -> str:
    """The epoch of an inbox with cursors 1 to 6, and two devices that start at 0."""
    opened = _open(client, user_id)
    _connect(client, user_id, "a")
    _connect(client, user_id, "b")
    _append(client, user_id, *range(11, 17))
    return opened


def test_an_acknowledgement_trims_to_the_slowest(client: Client, user_id: int, epoch: str) -> None:
    """What every device has is dropped, and nothing else."""
    assert _acknowledge(client, user_id, "a", epoch, 4) == 1
    assert _base(client, user_id) == 0

    assert _acknowledge(client, user_id, "b", epoch, 2) == 1
    assert _base(client, user_id) == 2
    assert _positions(client, user_id) == [13, 14, 15, 16]

    assert _acknowledge(client, user_id, "b", epoch, 6) == 1
    assert _base(client, user_id) == 4
    assert _positions(client, user_id) == [15, 16]


@pytest.mark.parametrize("cursor", [7, 1_000, 3, 2, 0, -1])
def test_an_acknowledgement_never_goes_too_far_or_back(client: Client, user_id: int, epoch: str, cursor: int) -> None:
    """Beyond the newest entry, and not above what is recorded, nothing changes."""
    _acknowledge(client, user_id, "a", epoch, 3)

    assert _acknowledge(client, user_id, "a", epoch, cursor) == 0

    assert _devices(client, user_id)["a"].acknowledged == 3


@pytest.mark.parametrize(("device", "has_epoch"), [("a", False), ("unknown", True)])
def test_an_acknowledgement_of_nobody_is_ignored(
    client: Client, user_id: int, epoch: str, device: str, has_epoch: bool
) -> None:
    """Another epoch's cursor means nothing, and a device that never connected has none."""
    before = _devices(client, user_id)

    assert _acknowledge(client, user_id, device, epoch if has_epoch else "0000", 3) == 0

    assert _devices(client, user_id) == before


def test_an_acknowledgement_keeps_positions_per_shard(client: Client, user_id: int, epoch: str) -> None:
    """For each shard, the newest position a device has seen is kept with its time."""
    _append(client, user_id, 500, shard=9)

    _acknowledge(client, user_id, "a", epoch, 4)
    first = _devices(client, user_id)["a"]
    _acknowledge(client, user_id, "a", epoch, 7)
    second = _devices(client, user_id)["a"]

    assert first.seen == {_SHARD: 14}
    assert second.seen == {_SHARD: 16, 9: 500}
    assert set(second.seen_at_ms) == {_SHARD, 9}
    assert second.seen_at_ms[_SHARD] >= first.seen_at_ms[_SHARD]
    assert _devices(client, user_id)["b"].seen == {}


@pytest.mark.parametrize("cursor", [1, 3, 4])
def test_an_acknowledgement_behind_an_overflow_has_seen_nothing_more(client: Client, user_id: int, cursor: int) -> None:
    """A cursor that the overflow has passed acknowledges none of the entries that are left."""
    opened = _open(client, user_id)
    _connect(client, user_id, "a")
    _append(client, user_id, *range(11, 19), inbox_max=4)
    assert _base(client, user_id) == 4

    assert _acknowledge(client, user_id, "a", opened, cursor) == 1

    assert _devices(client, user_id)["a"].seen == {}
    assert _positions(client, user_id) == [15, 16, 17, 18]
    assert _acknowledge(client, user_id, "a", opened, 6) == 1
    assert _devices(client, user_id)["a"].seen == {_SHARD: 16}
    assert _positions(client, user_id) == [17, 18]


# open_inbox


def test_an_inbox_is_opened_once(client: Client, user_id: int) -> None:
    """Whoever comes first has opened it; a second opening changes nothing."""
    first = _open(client, user_id, {_SHARD: 8}, entries=[inbox.Entry(_SHARD, 7, None, b"{}")])

    second = inbox.open_command(user_id, {_SHARD: 99}, {}, [])

    assert _call(client, second) == 0
    page = _read(client, user_id)
    assert (page.epoch, page.newest, [entry.position for entry in _readable(page)]) == (first, 1, [7])
    assert _append(client, user_id, 8).cursors == [0]
    assert _append(client, user_id, 9).cursors == [2]


def test_an_inbox_is_opened_with_its_devices(client: Client, user_id: int) -> None:
    """Where each device stood is restored, so that it is shown what it lacks and no more."""
    entries = [inbox.Entry(_SHARD, position, None, b"{}") for position in (4, 5, 6)]
    devices = {"a": inbox.DeviceState(1, {_SHARD: 4}), "b:c": inbox.DeviceState(0, {})}
    _open(client, user_id, {_SHARD: 6}, devices, entries)

    assert _devices(client, user_id) == devices
    assert _connect(client, user_id, "a").acknowledged == 1
    assert _connect(client, user_id, "b:c").acknowledged == 0


def test_each_opening_has_an_epoch_of_its_own(client: Client, user_id: int) -> None:
    """An inbox that was lost and opened again is told from the one before."""
    first = _open(client, user_id)
    _call(client, ("DEL", keys.cursor(user_id)))

    assert _open(client, user_id) != first


# connect and disconnect


def test_a_first_device_starts_at_the_oldest_entry(client: Client, user_id: int) -> None:
    """The first device of a user gets everything that waits, a later one only what comes."""
    _open(client, user_id)
    _append(client, user_id, *range(1, 13))

    first, second = _connect(client, user_id, "a"), _connect(client, user_id, "b")

    assert (first.newest, first.base, first.acknowledged) == (12, 2, 2)
    assert (second.newest, second.base, second.acknowledged) == (12, 2, 12)
    assert _connect(client, user_id, "a").acknowledged == 2


def test_connecting_without_an_inbox_registers_nothing(client: Client, user_id: int) -> None:
    """The inbox is opened and the device registered first; until then presence knows nothing."""
    assert _call(client, inbox.register_command(user_id, "a")) == -1
    assert _connect(client, user_id, "a").outcome == "new"
    assert _call(client, ("EXISTS", keys.online(user_id), keys.cursor(user_id))) == 0

    _open(client, user_id)
    assert _try_connect(client, user_id, "a", "p:1:2").outcome == "new"
    assert _call(client, ("EXISTS", keys.online(user_id))) == 0


@pytest.mark.parametrize("held", [None, "another session"])
def test_a_connection_whose_session_does_not_stand_is_not_registered(
    client: Client, user_id: int, held: str | None
) -> None:
    """A session that ended while its socket was being opened leaves no connection behind (ORIG A13)."""
    _open(client, user_id)
    _call(client, inbox.register_command(user_id, "a"))
    if held is not None:
        _call(client, sessions.replace_command(user_id, "a", held))

    assert _try_connect(client, user_id, "a", "p:1:2").outcome == "session"
    assert _call(client, ("EXISTS", keys.online(user_id))) == 0


def test_connections_of_a_user_are_counted_over_all_devices(client: Client, user_id: int) -> None:
    """Beyond the limit nothing is registered; a newcomer in place of a protocol 2 connection counts once."""
    _open(client, user_id)
    outcomes = [
        _connect(client, user_id, device, name, most=3).outcome
        for device, name in (("a", "p:1:1"), ("a", "p:2:1"), ("b", "q:3:2"), ("c", "q:4:2"), ("b", "q:5:2"))
    ]

    assert outcomes == ["live", "live", "live", "full", "live"]
    assert _call(client, presence.find_connections_command(user_id)) == {b"a": b"p:1:1 p:2:1", b"b": b"q:5:2"}
    assert _connect(client, user_id, "a", "p:1:1", most=3).outcome == "live"  # it is known already


def test_the_newest_connection_is_live(client: Client, user_id: int) -> None:
    """Connections of a device stand behind each other; each newcomer learns who was live."""
    _open(client, user_id)
    formers = [_connect(client, user_id, "a", name).former for name in ("p:1:1", "q:2:1", "r:3:1")]

    assert formers == [None, "p:1:1", "q:2:1"]
    assert presence.live_connection(_call(client, presence.find_command(user_id, "a"))) == "r:3:1"
    assert _connect(client, user_id, "a", "p:1:1").former == "r:3:1"  # it comes to the front again
    assert _call(client, presence.find_command(user_id, "a")) == b"q:2:1 r:3:1 p:1:1"


def test_presence_is_a_lease(client: Client, user_id: int) -> None:
    """Presence runs out by itself, and each connecting and renewing extends it."""
    _open(client, user_id)
    _connect(client, user_id, "a")
    _call(client, ("PEXPIRE", keys.online(user_id), 1_000))

    _connect(client, user_id, "b")
    assert 80_000 < _call(client, ("PTTL", keys.online(user_id))) <= presence.LEASE_MS
    _call(client, ("PEXPIRE", keys.online(user_id), 1_000))
    run(client, presence.renew_commands([user_id]))
    assert 80_000 < _call(client, ("PTTL", keys.online(user_id))) <= presence.LEASE_MS


def test_leases_are_of_ninety_seconds_at_most() -> None:
    """What a process that died has left behind is believed for so long (ORIG A1)."""
    assert presence.LEASE_MS <= 90_000
    assert attendance.LEASE_MS <= 90_000


@pytest.mark.parametrize(
    ("leaving", "answer", "left"),
    [
        ("r:3:1", b"q:2:1", b"p:1:1 q:2:1"),
        ("q:2:1", b"", b"p:1:1 r:3:1"),
        ("p:1:1", b"", b"q:2:1 r:3:1"),
        ("x:9:1", b"", b"p:1:1 q:2:1 r:3:1"),
    ],
)
def test_a_connection_that_leaves_takes_only_itself_away(
    client: Client, user_id: int, leaving: str, answer: bytes, left: bytes
) -> None:
    """The answer names who is live now, if that has changed; others of the device stay (ORIG A4, A5)."""
    _open(client, user_id)
    for name in ("p:1:1", "q:2:1", "r:3:1"):
        _connect(client, user_id, "a", name)

    assert _call(client, presence.disconnect_command(user_id, "a", leaving)) == answer
    assert _call(client, presence.find_command(user_id, "a")) == left


def test_the_last_connection_takes_its_device_offline(client: Client, user_id: int) -> None:
    """A device without connections is not online; leaving twice changes nothing."""
    _open(client, user_id)
    _connect(client, user_id, "a", "p:1:1")

    for _ in range(2):
        assert _call(client, presence.disconnect_command(user_id, "a", "p:1:1")) == b""

    assert _call(client, ("EXISTS", keys.online(user_id))) == 0


# The outbox


@pytest.fixture
def shard() -> int:
    """A shard of one's own."""
    return next(_shards)


def test_a_lease_has_one_holder(client: Client, shard: int) -> None:
    """A lease is taken once, renewed by its holder, and given back by him only."""
    assert outbox.take_leases(client, [shard], "mine", 5_000) == [shard]
    assert outbox.take_leases(client, [shard], "other", 5_000) == []
    assert outbox.renew_leases(client, [shard], "other", 60_000) == []
    assert outbox.renew_leases(client, [shard], "mine", 60_000) == [shard]
    assert _call(client, ("PTTL", keys.lease(shard))) > 5_000

    outbox.release_leases(client, [shard], "other")
    assert outbox.take_leases(client, [shard], "other", 5_000) == []
    outbox.release_leases(client, [shard], "mine")
    assert outbox.take_leases(client, [shard], "other", 5_000) == [shard]


def test_a_lease_that_ran_out_is_not_renewed(client: Client, shard: int) -> None:
    """Somebody else may have held it meanwhile and popped what we have read, so it has to be taken anew."""
    outbox.take_leases(client, [shard], "mine", 5_000)
    _call(client, ("DEL", keys.lease(shard)))

    assert outbox.renew_leases(client, [shard], "mine", 5_000) == []
    assert outbox.take_leases(client, [shard], "mine", 5_000) == [shard]


def test_what_is_offered_is_appended_in_order(client: Client, shard: int) -> None:
    """Without terms everything is; the drain that holds the shard hears of it, and only he."""
    entries = [b"%d" % number for number in range(600)]
    offers = [outbox.Offer(entry) for entry in entries]

    appended = outbox.accept(client, {shard: offers})
    doorbell = outbox.Doorbell(client)
    doorbell.hold([shard])
    heard = outbox.accept(client, {shard: [outbox.Offer(b"last")]})

    assert appended == outbox.Appended(False, {shard: 600}, {shard: [outbox.APPENDED] * 600})
    assert heard == outbox.Appended(True, {shard: 601}, {shard: [outbox.APPENDED]})
    assert doorbell.wait(1.0)
    assert _call(client, ("LRANGE", keys.outbox(shard), 0, -1)) == [*entries, b"last"]


def test_only_a_session_that_stands_may_send(client: Client, shard: int, user_id: int) -> None:
    """Of the very device, in the very moment: what was ended since is not appended, nor does it count, nor ring."""
    _call(client, sessions.replace_command(user_id, "phone", "s-1"))
    stands, other, unknown = [(user_id, device, "s-1") for device in ("phone", "tablet", "")]
    offers = [outbox.Offer(b"1", stands, user_id), outbox.Offer(b"2", other, user_id), outbox.Offer(b"3", unknown)]
    rate = Rate("test", 60_000, 2)

    assert outbox.accept(client, {shard: offers}, rate).refusals[shard] == [outbox.APPENDED, *[outbox.NO_SESSION] * 2]
    _call(client, sessions.end_command(user_id, "phone"))
    doorbell = outbox.Doorbell(client)
    doorbell.hold([shard])
    assert outbox.accept(client, {shard: offers[:1]}, rate) == outbox.Appended(True, {}, {shard: [outbox.NO_SESSION]})

    assert not doorbell.wait(0.1)
    assert _call(client, ("LRANGE", keys.outbox(shard), 0, -1)) == [b"1"]
    assert _call(client, ("GET", rate.key("sends", str(user_id)))) == b"1"


def test_what_exceeds_the_rate_is_not_appended(client: Client, shard: int, user_id: int) -> None:
    """Counted one by one, by user, and with what is counted elsewhere; the refused count as well."""
    rate = Rate("test", 60_000, 2)
    offers = [outbox.Offer(b"%d" % number, None, user_id) for number in range(4)]
    other = outbox.Offer(b"other", None, user_id + 1)

    refusals = outbox.accept(client, {shard: [*offers, other]}, rate).refusals[shard]

    assert refusals[:2] == [outbox.APPENDED] * 2
    assert all(0 < left <= 60_000 for left in refusals[2:4])
    assert refusals[4] == outbox.APPENDED
    assert _call(client, ("LRANGE", keys.outbox(shard), 0, -1)) == [b"0", b"1", b"other"]
    assert 0 < _call(client, counters.count_command(rate, "sends", str(user_id))) <= 60_000
    assert _call(client, ("GET", rate.key("sends", str(user_id)))) == b"5"
    assert 0 < _call(client, ("PTTL", rate.key("sends", str(user_id)))) <= 60_000


def test_a_send_that_is_refused_is_written_nowhere(keeping: Client) -> None:
    """Nor is the count of one that is appended: what stands in the append-only file waits for the disk."""
    rate = Rate("test", 1_000, 1)
    sizes = []
    for shard in (1, 1, 2, 3):
        outbox.accept(keeping, {shard: [outbox.Offer(b"1", None, 5 if shard < 3 else None)]}, rate)
        sizes.append(keeping.info("persistence")["aof_current_size"])

    assert sizes[1] == sizes[2] == sizes[0]  # refused, after what was appended first
    assert sizes[3] > sizes[2]
    assert sorted(keeping.keys("outbox:*")) == [keys.outbox(1).encode(), keys.outbox(3).encode()]
    assert keeping.get(rate.key("sends", "5")) == b"3"


def test_only_the_holder_of_the_lease_pops(client: Client, shard: int) -> None:
    """The head of an outbox is removed by whoever holds the lease, and by nobody else."""
    outbox.accept(client, {shard: [outbox.Offer(entry) for entry in (b"1", b"2", b"3")]})
    outbox.take_leases(client, [shard], "mine", 5_000)

    assert _call(client, outbox.pop_command(shard, "other", 2)) == 0
    assert _call(client, ("LLEN", keys.outbox(shard))) == 3
    assert _call(client, outbox.pop_command(shard, "mine", 2)) == 1
    assert _call(client, ("LRANGE", keys.outbox(shard), 0, -1)) == [b"3"]
    assert _call(client, outbox.pop_command(shard, "mine", 5)) == 1
    assert _call(client, ("EXISTS", keys.outbox(shard))) == 0


def test_nobody_pops_without_a_lease(client: Client, shard: int) -> None:
    """A lease that has run out is nobody's."""
    outbox.accept(client, {shard: [outbox.Offer(b"1")]})

    assert _call(client, outbox.pop_command(shard, "mine", 1)) == 0
    assert _call(client, ("LLEN", keys.outbox(shard))) == 1


def test_a_waiting_request_is_found_by_its_id(client: Client, shard: int) -> None:
    """A request is found wherever it stands, by its whole id, and not where it does not."""
    entries = [b'["id-%d","send"]' % number for number in range(1_201)]
    outbox.accept(client, {shard: [outbox.Offer(entry) for entry in entries]})

    for number in (0, 499, 500, 1_000, 1_200):
        assert outbox.holds(client, [shard + 1, shard], f"id-{number}") == entries[number]
    for absent in ("id-1201", "id-", "id", "", "send"):
        assert outbox.holds(client, [shard], absent) is None
    for most in (50, 100, 150):
        assert outbox.holds(client, [shard], f"id-{most - 1}", most) == entries[most - 1]
        assert outbox.holds(client, [shard], f"id-{most}", most) is None


def test_a_request_is_found_while_others_are_popped(
    client: Client, shard: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is popped between two parts of a search moves the rest of the list past it, and hides nothing."""
    outbox.accept(client, {shard: [outbox.Offer(b'["id-%d","send"]' % number) for number in range(500)]})
    outbox.take_leases(client, [shard], "mine", 60_000)
    trips = 0

    def run_then_pop(asked: Client, commands: Sequence[Command]) -> list[Any]:
        nonlocal trips
        trips += 1
        answers = run(asked, commands)
        run(asked, [outbox.pop_command(shard, "mine", 99)])
        return answers

    monkeypatch.setattr(outbox, "run", run_then_pop)

    assert outbox.holds(client, [shard], "id-150") == b'["id-150","send"]'
    assert trips == 2


# Recall


def _entry_id(position: int) -> str:
    return f"m{position}"


def test_a_tombstone_replaces_a_message_in_inbox_and_log(client: Client, user_id: int) -> None:
    """The recalled message, and no other, is replaced where it stands; repeating it changes nothing."""
    _open(client, user_id)
    _append(client, user_id, 1, 11, 111)
    command = inbox.tombstone_command(user_id, _PEER, _SHARD, 11, _entry_id(11), b'{"id":"m11","isremove":1}')

    assert _call(client, command) == 2
    once = (_entries(client, user_id), _log(client, user_id))
    assert _call(client, command) == 2

    assert (_entries(client, user_id), _log(client, user_id)) == once
    assert [entry.body for entry in once[0]] == [b'{"id":"m1"}', b'{"id":"m11","isremove":1}', b'{"id":"m111"}']
    assert once[1] == [b'{"id":"m1"}', b'{"id":"m11","isremove":1}', b'{"id":"m111"}']
    assert [entry.position for entry in once[0]] == [1, 11, 111]


def test_a_tombstone_of_what_is_gone_changes_nothing(client: Client, user_id: int) -> None:
    """A message that was acknowledged and trimmed is not looked for elsewhere."""
    _open(client, user_id)
    _append(client, user_id, 1)

    for shard, position in ((_SHARD, 2), (_SHARD + 1, 1)):
        command = inbox.tombstone_command(user_id, _PEER, shard, position, "other", b"gone")
        assert _call(client, command) == 0

    assert _positions(client, user_id) == [1]


def test_a_tombstone_finds_what_is_far_back(client: Client, user_id: int) -> None:
    """Longer lists than one page are searched to their beginning."""
    _open(client, user_id)
    _call(client, _append_command(user_id, range(1, 502), inbox_max=1_000, log_max=1_000))

    command = inbox.tombstone_command(user_id, _PEER, _SHARD, 1, _entry_id(1), b'{"gone":1}')

    assert _call(client, command) == 2
    assert _entries(client, user_id)[0].body == b'{"gone":1}'
    assert _log(client, user_id)[0] == b'{"gone":1}'


# Group logs


def _append_group(client: Client, group_id: int, *seqs: int, log_max: int = 4) -> int:
    command = chatlog.append_group_command(group_id, [(seq, b"b%d" % seq) for seq in seqs], log_max=log_max)
    newest: int = _call(client, command)
    return newest


def _read_group(client: Client, group_id: int, *seqs: int) -> list[bytes]:
    bodies: list[bytes] = _call(client, chatlog.read_group_command(group_id, seqs))
    return bodies


def test_a_group_log_is_read_by_seq(client: Client, user_id: int) -> None:
    """Bodies are found by seq, also after the log was trimmed; what is not there reads as empty."""
    group_id = user_id
    _append_group(client, group_id, 1, 2, 3)
    assert _read_group(client, group_id, 3, 1, 4, 0) == [b"b3", b"b1", b"", b""]

    assert _append_group(client, group_id, 4, 5, 6) == 6

    assert _read_group(client, group_id, 2, 3, 6, 7) == [b"", b"b3", b"b6", b""]


def test_a_group_log_is_appended_once(client: Client, user_id: int) -> None:
    """A redo of a seq adds nothing."""
    _append_group(client, user_id, 1, 2)

    assert _append_group(client, user_id, 1, 2, 3) == 3
    assert _append_group(client, user_id, 2) == 3

    assert _call(client, ("LRANGE", keys.group_log(user_id), 0, -1)) == [b"b1", b"b2", b"b3"]


@pytest.mark.parametrize("is_lost", [True, False])
def test_a_group_log_never_has_a_hole(client: Client, user_id: int, is_lost: bool) -> None:
    """After a gap the log begins anew, so that a seq never reads as another's message."""
    _append_group(client, user_id, 1, 2)
    if is_lost:
        _call(client, ("DEL", keys.group_log(user_id), keys.group_cursor(user_id)))

    _append_group(client, user_id, 7, 8)

    assert _read_group(client, user_id, 1, 2, 6, 7, 8) == [b"", b"", b"", b"b7", b"b8"]


def test_a_tombstone_in_a_group_log(client: Client, user_id: int) -> None:
    """A recalled message is replaced by its seq, and only where the log still has it."""
    _append_group(client, user_id, 1, 2, 3, 4, 5)

    answers = [_call(client, chatlog.tombstone_group_command(user_id, seq, b"gone")) for seq in (3, 3, 1, 6)]

    assert answers == [1, 1, 0, 0]
    assert _read_group(client, user_id, 1, 2, 3, 4, 5) == [b"", b"b2", b"gone", b"b4", b"b5"]


# Sessions


def _held(client: Client, user_id: int, device: str) -> tuple[str, str]:
    return sessions.parse_held(_call(client, sessions.read_command(user_id, device)))


def test_a_session_is_remembered_in_place_of_an_older_one(client: Client, user_id: int) -> None:
    """What SQL says is copied, where no session of the user has ended since."""
    for session_id in ("one", "two"):
        assert _call(client, sessions.remember_command(user_id, "a", "", session_id)) == 1
        assert _held(client, user_id, "a") == (session_id, "")


@pytest.mark.parametrize("ends", [lambda u: sessions.end_command(u, "a"), lambda u: sessions.end_all_command(u, None)])
def test_a_session_that_ended_is_not_remembered(client: Client, user_id: int, ends: Any) -> None:
    """Whoever read SQL before the end cannot put the session back, even where Redis knew nothing of it."""
    for is_known in (False, True):
        if is_known:
            _call(client, sessions.replace_command(user_id, "a", "old"))
        _, generation = _held(client, user_id, "a")

        _call(client, ends(user_id))

        assert _call(client, sessions.remember_command(user_id, "a", generation, "old")) == 0
        held, newer = _held(client, user_id, "a")
        assert held == ""
        assert newer != generation


def test_the_end_of_a_session_tells_its_connections(client: Client, user_id: int) -> None:
    """All connections of the device are told, the waiting ones too, and no other's."""
    _open(client, user_id)
    for device, name in (("a", "p:1:1"), ("a", "q:2:1"), ("b", "r:3:2"), ("c", "p:4:2")):
        _connect(client, user_id, device, name)

    ended = sessions.parse_ended(_call(client, sessions.end_command(user_id, "a")))

    assert ended == [("a", "p:1:1"), ("a", "q:2:1")]
    assert [_held(client, user_id, device)[0] for device in "abc"] == ["", _SESSION, _SESSION]
    assert sessions.parse_ended(_call(client, sessions.end_command(user_id, "unknown"))) == []
    others = sessions.parse_ended(_call(client, sessions.end_all_command(user_id, "b")))
    assert sorted(others) == [("a", "p:1:1"), ("a", "q:2:1"), ("c", "p:4:2")]
    assert [_held(client, user_id, device)[0] for device in "abc"] == ["", _SESSION, ""]
    everybody = sessions.parse_ended(_call(client, sessions.end_all_command(user_id, None)))
    assert ("b", "r:3:2") in everybody
    assert _held(client, user_id, "b")[0] == ""


# Devices


def test_a_device_counts_from_its_registration(client: Client, user_id: int) -> None:
    """What comes before it connects stays for it, and registering again keeps its position."""
    epoch = _open(client, user_id)
    _append(client, user_id, 1)
    assert _call(client, inbox.register_command(user_id, "a")) == 1
    assert _call(client, inbox.register_command(user_id, "b")) == 1
    _append(client, user_id, 2)

    _acknowledge(client, user_id, "a", epoch, 2)

    assert _call(client, inbox.register_command(user_id, "b")) == 0
    assert _positions(client, user_id) == [2]
    assert {device: state.acknowledged for device, state in _devices(client, user_id).items()} == {"a": 2, "b": 1}


def test_a_forgotten_device_holds_nothing_back(client: Client, user_id: int) -> None:
    """What only it lacked is trimmed, and only what it had is kept; a device whose name begins like it stays."""
    epoch = _open(client, user_id)
    for device in ("a", "a:3", "b"):
        _call(client, inbox.register_command(user_id, device))
    _append(client, user_id, 1, 2, 3)
    _acknowledge(client, user_id, "a", epoch, 1)
    _acknowledge(client, user_id, "a:3", epoch, 3)
    _acknowledge(client, user_id, "b", epoch, 2)

    assert _call(client, inbox.forget_command(user_id, "a")) == 1

    assert (_base(client, user_id), _positions(client, user_id)) == (2, [3])
    fields = {name for name in _call(client, inbox.state_command(user_id)) if name[1:2] == b":"}
    of_others = {b"s:3", b"d:a:3", b"n:a:3", b"v:a:3:3", b"t:a:3:3", b"d:b", b"n:b", b"v:b:3", b"t:b:3"}
    assert fields == of_others | {b"a:3"}
    assert set(_devices(client, user_id)) == {"a:3", "b"}
    assert _devices(client, user_id)["a:3"].seen == {_SHARD: 3}
    assert _call(client, inbox.forget_command(user_id, "a")) == 0


def test_what_forgotten_devices_had_acknowledged_is_kept(client: Client, user_id: int) -> None:
    """What they have acknowledged together, and not what a device was given as seen when it began."""
    epoch = _open(client, user_id)
    for device in ("a", "b"):
        _call(client, inbox.register_command(user_id, device))
    _append(client, user_id, 1, 2, 3)
    _acknowledge(client, user_id, "a", epoch, 2)
    _acknowledge(client, user_id, "b", epoch, 1)
    _call(client, inbox.register_command(user_id, "later"))

    gone = []
    for device in ("later", "a", "b", "a"):
        _call(client, inbox.forget_command(user_id, device))
        gone.append(inbox.parse_gone(_call(client, inbox.state_command(user_id))))

    assert gone == [{}, {_SHARD: [(0, 2)]}, {_SHARD: [(0, 2)]}, {_SHARD: [(0, 2)]}]


@pytest.mark.parametrize("seed", range(20))
def test_forgotten_devices_count_for_what_they_had_and_no_more(client: Client, user_id: int, seed: int) -> None:
    """A later device had nothing of what was there before, however many log out in whichever order."""
    draw = random.Random(seed)
    _open(client, user_id)
    covered: set[int] = set()

    for number in range(6):
        began = draw.choice([0, draw.randrange(30)])
        upto = began + draw.randrange(1, 8)
        covered |= set(range(began + 1, upto + 1))
        place = f"d{number}:{_SHARD}"
        state = {f"d:d{number}": 0, f"v:{place}": upto, f"t:{place}": 1} | ({f"f:{place}": began} if began else {})
        _call(client, ("HSET", keys.cursor(user_id), *(part for field in state.items() for part in field)))
        _call(client, inbox.forget_command(user_id, f"d{number}"))

    ranges = inbox.parse_gone(_call(client, inbox.state_command(user_id)))[_SHARD]
    assert {seq for after, upto in ranges for seq in range(after + 1, upto + 1)} == covered


def test_what_forgotten_devices_had_is_bounded(client: Client, user_id: int) -> None:
    """Where ever more devices come and go, the oldest of what they had is forgotten, and the newest is not."""
    _open(client, user_id)
    for number in range(200):
        place, began = f"d:{_SHARD}", 10 * number + 1
        fields = ("d:d", 0, f"f:{place}", began, f"v:{place}", began + 3, f"t:{place}", 1)
        _call(client, ("HSET", keys.cursor(user_id), *fields))
        _call(client, inbox.forget_command(user_id, "d"))

    kept = _call(client, ("HGET", keys.cursor(user_id), f"a:{_SHARD}"))

    assert 100 < len(kept) <= 200
    assert inbox.parse_gone(_call(client, inbox.state_command(user_id)))[_SHARD][-1] == (1991, 1994)


def test_the_last_device_leaves_the_inbox_for_the_next(client: Client, user_id: int) -> None:
    """Where no device is left, what none of them had waits for whoever comes."""
    epoch = _open(client, user_id)
    _call(client, inbox.register_command(user_id, "a"))
    _append(client, user_id, 1, 2)
    _acknowledge(client, user_id, "a", epoch, 1)

    _call(client, inbox.forget_command(user_id, "a"))
    _append(client, user_id, 3)

    assert _positions(client, user_id) == [2, 3]
    assert _connect(client, user_id, "b").acknowledged == 1


def test_when_a_device_was_seen_is_known(client: Client, user_id: int) -> None:
    """Registering, connecting and acknowledging say so; what is not known is set once."""
    epoch = _open(client, user_id, devices={"a": inbox.DeviceState(0, {})})
    assert inbox.parse_seen_at(_call(client, inbox.state_command(user_id))) == {"a": 0}
    for at_ms in (5, 6):
        _call(client, inbox.seen_at_command(user_id, "a", at_ms))
    assert inbox.parse_seen_at(_call(client, inbox.state_command(user_id))) == {"a": 5}

    _append(client, user_id, 1)
    _acknowledge(client, user_id, "a", epoch, 1)

    assert inbox.parse_seen_at(_call(client, inbox.state_command(user_id)))["a"] > 1_000_000


# Tickets


def test_a_ticket_is_taken_once(client: Client, user_id: int) -> None:
    """Whoever takes a ticket has it alone, and it runs out by itself."""
    name = f"ticket-of-{user_id}"
    _call(client, tickets.keep_command(name, b"claims"))
    assert 0 < _call(client, ("PTTL", keys.ticket(name))) <= tickets.TICKET_MS

    assert [_call(client, tickets.take_command(name)) for _ in range(2)] == [b"claims", None]


# Counters


def test_failures_lock_until_the_oldest_of_them_is_over(client: Client, user_id: int) -> None:
    """Asking does not count, and forgiving begins anew."""
    name = f"failures of {user_id}"
    left = [_call(client, counters.fail_command(name, window_ms=60_000, most=3)) for _ in range(3)]

    assert left[:2] == [0, 0]
    assert 0 < left[2] <= 60_000
    for _ in range(2):
        assert 0 < _call(client, counters.locked_command(name, window_ms=60_000, most=3)) <= 60_000
    _call(client, counters.forgive_command(name))
    assert _call(client, counters.locked_command(name, window_ms=60_000, most=3)) == 0


# Scripts as such


def test_a_restarted_redis_is_given_its_scripts_again(client: Client, user_id: int) -> None:
    """A Redis that has forgotten the scripts is taught them, and the commands are repeated in their places."""
    epoch = _open(client, user_id)
    _call(client, ("SCRIPT", "FLUSH"))

    answers = run(client, [("PING",), inbox.read_command(user_id, 0, 1), ("ECHO", "x")])

    assert answers[0] in (b"PONG", True)
    assert inbox.parse_page(answers[1], 0).epoch == epoch
    assert answers[2] == b"x"


def test_a_command_that_fails_is_told(client: Client) -> None:
    """An error among the answers is no answer."""
    with pytest.raises(StoreUnavailable):
        run(client, [("PING",), ("LPUSH", "key without a value")])


def test_a_script_without_its_header_is_refused(tmp_path: Path) -> None:
    """A script says in its first lines what its KEYS, ARGV and result are."""
    path = tmp_path / "bare.lua"
    path.write_text("return 1\n")

    with pytest.raises(ValueError, match=r"bare\.lua must open"):
        Script(path)


def test_each_script_is_tested_here() -> None:
    """A new script comes with its tests."""
    assert set(SCRIPTS) == {
        "accept", "acknowledge", "append", "append_group", "connect", "count", "disconnect", "end_session", "fail", "find_request",
        "forget_device", "open_inbox", "pop", "register_device",
        "read_group", "read_inbox", "release_lease", "remember_session", "spend", "take_lease", "tombstone", "tombstone_group",
    }  # fmt: skip


def test_an_entry_is_read_as_it_was_written() -> None:
    """Headers carry any device name and any body."""
    for device in (None, "default", "a:b|c %", "设备"):
        for reference in (None, (7, 9)):
            entry = inbox.Entry(1, 2, device, b'{"id":"x|y:z"}', reference)
            assert inbox.decode(entry.encode()) == entry
