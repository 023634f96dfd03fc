"""`options` as the seed decodes them: percent-decoded, then JSON; null where either fails."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.sending import SEND_PARAMS, decode_options


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("%7B%7D", {}),
        ("{}", {}),
        ('{"a":1}', {"a": 1}),
        (quote('{"名":"鸿雁 100%"}'), {"名": "鸿雁 100%"}),
        (quote("[1,null]"), [1, None]),
        ("%22x%22", "x"),
        ("17", 17),
        ("null", None),
        ('{"a":"50%25"}', {"a": "50%"}),
        ("+1", None),
    ],
)
def test_options_are_percent_decoded_json(text: str, options: Any) -> None:
    """What a client encodes with encodeURIComponent is decoded; plain JSON is too."""
    assert decode_options(text) == options


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "x",
        "{",
        "%7B",
        "%E4%BD",
        "%FF",
        "%22%00%22",
        "%",
        "%zz",
        '{"a":"100%"}',
        '{"a":"%zz"}',
        '{"a":"%f"}',
        '{"a":"%雁%31"}',
        '{"a":"%ED%A0%80"}',
        "{'a':1}",
        "NaN",
        "undefined",
        '"\ud800"',
        quote('"\\ud800"'),
        "[" * 2_000 + "]" * 2_000,
        "[" * 300 + "]" * 300,
        '{"a":' * 254 + "1" + "}" * 254,
    ],
)
def test_what_cannot_be_decoded_is_null(text: str) -> None:
    """Malformed options are null, as in the seed; also such as could be read but not written again."""
    assert decode_options(text) is None


@pytest.mark.parametrize("value", [{"a": "100%"}, {"a": "%41", "b": "+ %zz"}, ["%7B"], {"名": {"a": None}}, 17, {}])
def test_a_json_value_is_what_it_is(value: Any) -> None:
    """In a JSON body options need no encoding, and a `%` in them is no escape. A text is encoded all the same."""
    sent = {"sendto_id": 1, "chatType": "single", "type": "text", "data": "x", "options": value}

    assert decode_options(SEND_PARAMS.read(sent)["options"]) == value


@given(text=st.text() | st.text(alphabet='%0123456789ABCDEF[]{}",:'))
def test_anything_is_decoded_to_what_can_be_written(text: str) -> None:
    """Whatever stands in options, what comes of it can stand in a Message."""
    options = decode_options(text)

    assert orjson.loads(orjson.dumps({"message": {"options": options}}))["message"]["options"] == options
