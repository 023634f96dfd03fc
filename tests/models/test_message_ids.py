"""Ids of messages are UUIDs as the standard library makes them."""

from __future__ import annotations

import time
import uuid

from hypothesis import given
from hypothesis import strategies as st

from models.requests import _CLIENT_MESSAGE_NAMESPACE, _uuid_text, mint_id


@given(st.binary(min_size=16, max_size=20), st.integers(1, 5))
def test_bytes_become_a_uuid(data: bytes, version: int) -> None:
    """Whatever the version: the standard library knows version 7 from Python 3.14 on."""
    assert _uuid_text(data, version) == str(uuid.UUID(bytes=data[:16], version=version))


@given(st.integers(0, 2**31), st.text(min_size=1, max_size=64).filter(lambda text: text.isprintable()))
def test_what_the_client_names_has_one_id(sender_id: int, client_msg_id: str) -> None:
    """Kept for ever: an id that changed with a new version would make a repeat a second message."""
    expected = str(uuid.uuid5(_CLIENT_MESSAGE_NAMESPACE, f"{sender_id}:{client_msg_id}"))

    assert mint_id(sender_id, client_msg_id) == expected


def test_what_nobody_names_has_an_id_of_its_own() -> None:
    earliest_ms = time.time_ns() // 1_000_000
    ids = {mint_id(1, None) for _ in range(1_000)}
    latest_ms = time.time_ns() // 1_000_000

    assert len(ids) == 1_000
    assert {uuid.UUID(each).version for each in ids} == {7}
    assert {uuid.UUID(each).variant for each in ids} == {uuid.RFC_4122}
    # RFC 9562 section 5.7: milliseconds since 1970 first, so that what comes later stands behind.
    assert all(earliest_ms <= uuid.UUID(each).int >> 80 <= latest_ms for each in ids)
