"""The wire format against wsproto, which knows RFC 6455: what one writes the other reads, however it is cut."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection as WsprotoConnection
from wsproto.connection import ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Message, Ping, Pong, TextMessage
from wsproto.frame_protocol import Opcode as WsprotoOpcode

from webapp.sockets.wire import (
    FrameReader,
    Opcode,
    ProtocolError,
    Received,
    accept_key,
    close_code,
    encode_close,
    encode_frame,
)

_MAX_BYTES = 70_000


def _masked(payload: bytes, opcode: int, *, is_final: bool = True, mask: bytes = b"", bits: int = 0) -> bytes:
    """Encode a frame as a client does."""
    mask = mask or os.urandom(4)
    head = bytes([(0x80 if is_final else 0) | bits | opcode])
    length = len(payload)
    if length < 126:
        head += bytes([0x80 | length])
    elif length < 65_536:
        head += struct.pack("!BH", 0x80 | 126, length)
    else:
        head += struct.pack("!BQ", 0x80 | 127, length)
    return head + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))


@dataclass(frozen=True)
class _Sent:
    """A message in its fragments, with control frames before each of them."""

    opcode: int
    fragments: list[bytes]
    controls: list[tuple[int, bytes]]

    def encode(self, mask: bytes) -> bytes:
        stream = b""
        for number, fragment in enumerate(self.fragments):
            for opcode, payload in self.controls[number : number + 1]:
                stream += _masked(payload, opcode, mask=mask)
            is_final = number == len(self.fragments) - 1
            stream += _masked(fragment, self.opcode if number == 0 else 0, is_final=is_final, mask=mask)
        return stream

    def expected(self) -> list[Received]:
        controls = [Received(opcode, payload) for opcode, payload in self.controls[: len(self.fragments)]]
        return [*controls, Received(self.opcode, b"".join(self.fragments))]


def _cut(payload: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(payload), *(place % (len(payload) + 1) for place in places)})
    return [payload[start:stop] for start, stop in pairwise(edges)] or [b""]


_controls = st.lists(st.tuples(st.sampled_from([Opcode.PING, Opcode.PONG]), st.binary(max_size=125)), max_size=3)
_payloads = st.one_of(
    st.tuples(st.just(Opcode.TEXT), st.text(max_size=300).map(str.encode)),
    st.tuples(st.just(Opcode.BINARY), st.binary(max_size=300)),
    st.tuples(st.just(Opcode.BINARY), st.sampled_from([125, 126, 127, 65_535, 65_536]).map(lambda size: b"x" * size)),
)
_messages = st.builds(
    lambda what, places, controls: _Sent(what[0], _cut(what[1], places), controls),
    _payloads,
    st.lists(st.integers(min_value=0, max_value=400), max_size=4),
    _controls,
)
_masks = st.binary(min_size=4, max_size=4)


def _feed(stream: bytes, cuts: list[int], max_bytes: int = _MAX_BYTES) -> list[Received]:
    reader = FrameReader(max_bytes)
    received: list[Received] = []
    for piece in _cut(stream, cuts):
        received += reader.feed(piece)
    return received


@given(messages=st.lists(_messages, max_size=4), mask=_masks, cuts=st.lists(st.integers(min_value=0), max_size=8))
def test_messages_arrive_however_they_are_cut(messages: list[_Sent], mask: bytes, cuts: list[int]) -> None:
    """Messages in fragments, with control frames between, come out whole and in order, wherever the bytes are cut."""
    stream = b"".join(message.encode(mask) for message in messages)

    assert _feed(stream, cuts) == [received for message in messages for received in message.expected()]


def test_messages_arrive_cut_at_every_byte() -> None:
    """A stream that comes in two pieces reads the same for every place between them, and byte by byte."""
    sent = _Sent(
        Opcode.TEXT, ["鸿".encode()[:2], "鸿".encode()[2:], b"", b"x" * 130], [(Opcode.PING, b"p"), (Opcode.PONG, b"")]
    )
    stream = sent.encode(b"\x01\x02\x03\x04") + _masked(b"", Opcode.BINARY) + _masked(b"y" * 200, Opcode.TEXT)
    expected = [*sent.expected(), Received(Opcode.BINARY, b""), Received(Opcode.TEXT, b"y" * 200)]

    for place in range(len(stream) + 1):
        assert _feed(stream, [place]) == expected
    assert _feed(stream, [*range(len(stream))]) == expected


def _wsproto_events(side: ConnectionType, stream: bytes) -> list[object]:
    connection = WsprotoConnection(side)
    connection.receive_data(stream)
    return list(connection.events())


@given(payload=st.binary(max_size=300) | st.sampled_from([125, 126, 65_535, 65_536]).map(lambda size: b"z" * size))
def test_what_we_write_wsproto_reads(payload: bytes) -> None:
    """Binary, ping and pong frames of every length arrive at a client as they were."""
    events = _wsproto_events(ConnectionType.CLIENT, encode_frame(payload, Opcode.BINARY))
    assert b"".join(bytes(event.data) for event in events if isinstance(event, BytesMessage)) == payload
    short = payload[:125]
    events = _wsproto_events(ConnectionType.CLIENT, encode_frame(short, Opcode.PING) + encode_frame(short, Opcode.PONG))
    assert [(type(event), bytes(getattr(event, "payload"))) for event in events] == [(Ping, short), (Pong, short)]  # noqa: B009


@given(text=st.text(max_size=300))
def test_the_text_we_write_wsproto_reads(text: str) -> None:
    """A text frame arrives at a client as its text."""
    events = _wsproto_events(ConnectionType.CLIENT, encode_frame(text.encode()))

    assert "".join(event.data for event in events if isinstance(event, TextMessage)) == text


@given(
    messages=st.lists(st.tuples(st.text(max_size=200) | st.binary(max_size=200), st.booleans()), min_size=1, max_size=4)
)
def test_what_wsproto_writes_we_read(messages: list[tuple[str | bytes, bool]]) -> None:
    """A client's messages, fragmented or whole, arrive as they were sent."""
    client = WsprotoConnection(ConnectionType.CLIENT)
    stream, expected = b"", []
    for data, is_split in messages:
        half = len(data) // 2 if is_split else 0
        parts = [data[:half], data[half:]] if is_split else [data]
        for number, part in enumerate(parts):
            is_last = number == len(parts) - 1
            event: Message[Any] = (
                TextMessage(data=part, message_finished=is_last)
                if isinstance(part, str)
                else BytesMessage(data=part, message_finished=is_last)
            )
            stream += client.send(event)
        is_text = isinstance(data, str)
        payload = data.encode() if isinstance(data, str) else data
        expected.append(Received(Opcode.TEXT if is_text else Opcode.BINARY, payload))

    assert _feed(stream, []) == expected


@pytest.mark.parametrize(("code", "reason"), [(None, ""), (1000, ""), (4409, "replaced"), (1009, "太大" * 60)])
def test_our_close_frame_is_read_by_wsproto(code: int | None, reason: str) -> None:
    """A close frame carries its code and a reason that is valid text, or nothing at all."""
    (event,) = _wsproto_events(ConnectionType.CLIENT, encode_close(code, reason))

    assert isinstance(event, CloseConnection)
    assert event.code == (1005 if code is None else code)
    assert reason.startswith(event.reason or "")


_ERRORS = {
    "unmasked": (b"\x81\x01x", 1002),
    "first reserved bit": (_masked(b"x", Opcode.TEXT, bits=0x40), 1002),
    "second reserved bit": (_masked(b"x", Opcode.TEXT, bits=0x20), 1002),
    "third reserved bit": (_masked(b"x", Opcode.TEXT, bits=0x10), 1002),
    "unknown data opcode": (_masked(b"x", 0x3), 1002),
    "unknown control opcode": (_masked(b"x", 0xB), 1002),
    "fragmented control": (_masked(b"x", Opcode.PING, is_final=False), 1002),
    "long control": (_masked(b"x" * 126, Opcode.PING), 1002),
    "long close": (_masked(b"\x03\xe8" + b"x" * 124, Opcode.CLOSE), 1002),
    "continuation of nothing": (_masked(b"x", Opcode.CONTINUATION), 1002),
    "message inside a message": (_masked(b"x", Opcode.TEXT, is_final=False) + _masked(b"y", Opcode.TEXT), 1002),
    "close of one byte": (_masked(b"\x03", Opcode.CLOSE), 1002),
    "close with a code that is never sent": (_masked(b"\x03\xed", Opcode.CLOSE), 1002),
    "close with no code": (_masked(b"\x00\x01", Opcode.CLOSE), 1002),
    "close with bad text": (_masked(b"\x03\xe8\xff", Opcode.CLOSE), 1007),
    "text that is not UTF-8": (_masked(b"\xff", Opcode.TEXT), 1007),
    "text that ends in the middle": (_masked("鸿".encode()[:2], Opcode.TEXT), 1007),
    "text with a surrogate": (_masked(b"\xed\xa0\x80", Opcode.TEXT), 1007),
    "bad text in fragments": (_masked(b"a", Opcode.TEXT, is_final=False) + _masked(b"\xfe", 0), 1007),
}


@pytest.mark.parametrize("kind", _ERRORS)
def test_a_broken_rule_is_told_by_its_code(kind: str) -> None:
    """What RFC 6455 forbids raises the code it asks for, and wsproto gives the same verdict."""
    stream, code = _ERRORS[kind]

    for cuts in ([], [*range(len(stream))]):
        with pytest.raises(ProtocolError) as raised:
            _feed(stream, cuts)
        assert raised.value.code == code
    assert _wsproto_verdict(stream) == code


def _wsproto_verdict(stream: bytes) -> int | None:
    server = WsprotoConnection(ConnectionType.SERVER)
    try:
        server.receive_data(stream)
        for event in server.events():
            if isinstance(event, CloseConnection):
                return int(event.code)
    except Exception as error:
        return int(getattr(error, "event_hint").code)  # noqa: B009  wsproto's types do not know it
    return None


@pytest.mark.parametrize(
    "stream",
    [
        _masked(b"x" * 101, Opcode.TEXT),
        b"\x81\xff" + (101).to_bytes(8, "big"),
        b"\x81\xff" + (2**62).to_bytes(8, "big"),
        b"\x82\xfe" + (101).to_bytes(2, "big"),
        _masked(b"x" * 100, Opcode.TEXT, is_final=False) + _masked(b"x", 0),
        b"".join([_masked(b"x" * 60, Opcode.TEXT, is_final=False), _masked(b"x" * 60, 0, is_final=False)]),
    ],
)
def test_what_is_too_large_is_refused_before_it_is_kept(stream: bytes) -> None:
    """More than the bound closes with 1009, from the length alone and over fragments."""
    with pytest.raises(ProtocolError) as raised:
        _feed(stream, [], max_bytes=100)

    assert raised.value.code == 1009


def test_the_bound_itself_is_allowed() -> None:
    """A message of exactly the bound is taken, whole or in fragments."""
    stream = _masked(b"x" * 100, Opcode.TEXT) + _masked(b"x" * 60, 1, is_final=False) + _masked(b"x" * 40, 0)

    assert [len(received.payload) for received in _feed(stream, [], max_bytes=100)] == [100, 100]


@pytest.mark.parametrize(
    ("payload", "code"),
    [(b"", None), (b"\x03\xe8", 1000), (b"\x03\xe9bye", 1001), (b"\x0f\xa0", 4000), (b"\x0b\xb8", 3000)],
)
def test_a_close_frame_is_read(payload: bytes, code: int | None) -> None:
    """The client's code is read, and None where it gave none."""
    (received,) = _feed(_masked(payload, Opcode.CLOSE), [])

    assert received.opcode == Opcode.CLOSE
    assert close_code(received.payload) == code


def test_the_handshake_is_answered_as_in_the_rfc() -> None:
    """RFC 6455 section 1.3 gives an example."""
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@given(payload=st.binary(max_size=70), mask=_masks)
def test_opcodes_are_wsprotos(payload: bytes, mask: bytes) -> None:
    """The numbers are RFC 6455's, and any mask is undone."""
    assert {opcode.name: opcode.value for opcode in Opcode} == {opcode.name: opcode.value for opcode in WsprotoOpcode}
    assert _feed(_masked(payload, Opcode.BINARY, mask=mask), []) == [Received(Opcode.BINARY, payload)]
