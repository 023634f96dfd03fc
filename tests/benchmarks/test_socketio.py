"""The packets of the socket.io peer: what is spelled is what its server reads, what it says is understood without JSON."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import pytest

from benchmarks.dialect import Device, text_of
from benchmarks.load import HttpRoute, Load, Route, SocketRoute
from benchmarks.socketio import SocketIo
from benchmarks.wire import Loop


@pytest.fixture
def load(address: tuple[str, int]) -> Iterator[Load]:
    made = Load(Loop(), address, {1: "t1", 2: "t2"}, itertools.count(1), SocketIo())
    yield made
    made.close()


@pytest.fixture
def told() -> list[str]:
    """What became of user 2's connection."""
    return []


@pytest.fixture
def device(load: Load, told: list[str], monkeypatch: pytest.MonkeyPatch) -> Device:
    load.begin_connecting(2, 1, lambda: told.append("ready"))
    device = load.devices[2]
    monkeypatch.setattr(device.line, "send", lambda payload: told.append(payload.decode()))
    return device


@pytest.mark.parametrize(
    ("packets", "expected"),
    [
        ([b'0{"sid":"a","upgrades":[],"pingInterval":25000}'], ['40{"token":"t2"}']),
        ([b'40{"sid":"b"}'], ["ready"]),
        ([b'40{"sid":"b"}', b'40{"sid":"b"}'], ["ready"]),
        ([b"2"], ["3"]),
        ([b"6"], []),
        ([b""], []),
        ([b'42["other",{"data":"x"}]'], []),
        ([b'44{"message":"token"}'], ["ready"]),
        ([b'44{"message":"token"}', b"2"], ["ready", "3"]),
    ],
)
def test_a_packet_is_answered_as_the_protocol_says(
    device: Device, told: list[str], packets: list[bytes], expected: list[str]
) -> None:
    for packet in packets:
        device.take(packet)

    assert [text.replace(" ", "") for text in told] == expected


def test_a_refused_connection_is_a_problem_and_ends(load: Load, device: Device) -> None:
    device.take(b'44{"message":"token"}')

    assert load.problems == {"not connected": 1}
    assert load.refusal == '44{"message":"token"}'
    assert not device.line.is_open


class _Silent(Route):
    recipients = frozenset((2,))

    def send(self, number: int) -> None:
        pass


@pytest.mark.parametrize(
    ("packet", "delivered", "answers", "problems"),
    [
        (b'42["message",{"id":"4200","data":"%s"}]' % text_of(1).encode(), 1, 0, {}),
        (b'42["message",{"id":"4200","data":"%s"}]' % text_of(2).encode(), 0, 0, {}),
        (b'431[{"ok":true,"id":"17"}]', 0, 1, {}),
        (b'431[{"ok":false,"code":"no_friend"}]', 0, 1, {"refused": 1}),
        (b'432[{"ok":true}]', 0, 0, {}),
    ],
)
def test_messages_and_acknowledgements_count_for_the_send_they_belong_to(
    load: Load, device: Device, packet: bytes, delivered: int, answers: int, problems: dict[str, int]
) -> None:
    load.launch(_Silent())

    device.take(packet)

    assert (load.delivered, load.answers, load.problems) == (delivered, answers, problems)


@pytest.mark.parametrize("chat_type", ["single", "group"])
def test_an_event_carries_the_number_as_its_acknowledgements_id_and_in_its_text(
    load: Load, device: Device, told: list[str], chat_type: str
) -> None:
    route = SocketRoute(load, 2, 7, (), "group" if chat_type == "group" else "single")

    route.send(1_234)

    (packet,) = told
    kind, number, event = packet[:2], packet[2:12], packet[12:]
    assert (kind, int(number)) == ("42", 1_234)
    message = {"target": 7, "chatType": chat_type, "type": "text", "data": text_of(1_234)}
    assert json.loads(event) == ["send", message]


def test_a_request_carries_the_senders_token_and_the_number(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []
    monkeypatch.setattr(load.http, "ask", lambda request, on_answer: asked.append(request))

    HttpRoute(load, 1, 7, ()).send(1_234)

    head, body = asked[0].split(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /send HTTP/1.1"
    assert "token: t1" in lines
    assert f"Content-Length: {len(body)}" in lines
    assert json.loads(body) == {"target": 7, "chatType": "single", "type": "text", "data": text_of(1_234)}
