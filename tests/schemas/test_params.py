"""Parameters as ORIG 1.2 reads them, with its texts to the letter."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.groups import GROUP_MUTE_PARAMS
from schemas.history import HISTORY_PARAMS
from schemas.params import IntParam, InvalidParams, Params, TextParam
from schemas.recall import RECALL_PARAMS
from schemas.sending import SEND_PARAMS


class _Example(Params):
    number = IntParam("数", min=1, max=9)
    text = TextParam("文", min=2, max=4)
    choice = TextParam("选", choices=("a", "b"))
    page = IntParam("页码", min=1, default=1)
    note = TextParam("备注", max=3, default="无")
    strict = TextParam("编号", min=2, max=4, default="", is_strict=True)


_EXAMPLE = _Example()
_VALID = {"number": 1, "text": "ab", "choice": "a"}
_DEFAULTS = {"page": 1, "note": "无", "strict": ""}
_NESTED: list[Any] = []
for _ in range(300):
    _NESTED = [_NESTED]


@pytest.mark.parametrize("missing", [{}, {"number": ""}, {"number": None}])
def test_a_missing_parameter_is_named(missing: dict[str, Any]) -> None:
    """What is absent, null or empty is missing."""
    given_params = {name: value for name, value in _VALID.items() if name != "number"} | missing

    with pytest.raises(InvalidParams) as raised:
        _EXAMPLE.read(given_params)

    assert (raised.value.field, raised.value.text) == ("number", "数不能为空")


@pytest.mark.parametrize(
    ("value", "read"),
    [(1, 1), ("1", 1), (" 9 ", 9), ("+3", 3), ("03", 3), (1.0, 1), ("9", 9)],
)
def test_a_number_may_be_written_in_several_ways(value: Any, read: int) -> None:
    """`int` accepts numeric text and yields a number."""
    assert _EXAMPLE.read(_VALID | {"number": value})["number"] == read


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("x", "x"),
        ("1x", "1x"),
        ("1.5", "1.5"),
        (1.5, "1.5"),
        ("1e3", "1e3"),
        (True, "true"),
        (False, "false"),
        ([1], "[1]"),
        ({"a": 1}, '{"a":1}'),
        ("１", "１"),
        ("x" * 200, "x" * 100),
        ("1\0", "1\0"),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
    ],
)
def test_what_is_no_number_is_told(value: Any, shown: str) -> None:
    """The wrong type is told with the value, of which a long one is cut."""
    with pytest.raises(InvalidParams) as raised:
        _EXAMPLE.read(_VALID | {"number": value})

    assert raised.value.text == f"数 的值 `{shown}` 的类型不是 `int`"


@pytest.mark.parametrize("value", [0, -1, 10, "9" * 17, "9" * 18, "-" + "9" * 5_000, 1e30])
def test_a_number_out_of_range_is_told(value: Any) -> None:
    """The range of a number is told with both ends."""
    with pytest.raises(InvalidParams) as raised:
        _EXAMPLE.read(_VALID | {"number": value})

    assert raised.value.text == "数 的数值 必须 在 1 和 9 之间"


def test_an_absent_upper_bound_is_orig_s() -> None:
    """ORIG's own example: without an upper bound the text names 10000000000000000."""
    with pytest.raises(InvalidParams) as raised:
        SEND_PARAMS.read({"sendto_id": 0, "chatType": "single", "type": "text", "data": "x"})

    assert raised.value.text == "接收人/群的id值 的数值 必须 在 1 和 10000000000000000 之间"


@pytest.mark.parametrize("value", ["a", "abcde", "字", "字" * 5])
def test_a_length_out_of_range_is_told(value: str) -> None:
    """Lengths count characters, not bytes."""
    assert _EXAMPLE.read(_VALID | {"text": "字" * 4})["text"] == "字" * 4

    with pytest.raises(InvalidParams) as raised:
        _EXAMPLE.read(_VALID | {"text": value})

    assert raised.value.text == "文 的长度 必须 在 2 和 4 之间"


@pytest.mark.parametrize("value", ["c", "A", "a ", "ab"])
def test_what_is_no_choice_is_told(value: str) -> None:
    """The choices are told in ORIG's brackets."""
    with pytest.raises(InvalidParams) as raised:
        _EXAMPLE.read(_VALID | {"choice": value})

    assert raised.value.text == f"选 的值 `{value}` 必须在 [`a`、`b`] 中"


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ({"a": "你"}, '{"a":"你"}'),
        ([1, 2], "[1,2]"),
        (17, "17"),
        (True, "true"),
        (1.5, "1.5"),
        (2.0, "2"),
        ("  x  ", "  x  "),
    ],
)
def test_a_value_becomes_text_first(value: Any, read: str) -> None:
    """Objects and arrays become their JSON text, numbers their digits; a text stays as it is."""
    params = {"sendto_id": 1, "chatType": "single", "type": "text"}

    assert SEND_PARAMS.read(params | {"data": value})["data"] == read


@pytest.mark.parametrize("value", ["\0", "a\0b", _NESTED, {"a": _NESTED}])
def test_what_cannot_be_kept_is_invalid(value: Any) -> None:
    """A NUL, which PostgreSQL refuses, and what is nested deeper than JSON is written, are invalid."""
    for field in ("text", "choice"):
        with pytest.raises(InvalidParams):
            _EXAMPLE.read(_VALID | {field: value})


@pytest.mark.parametrize(
    ("fields", "read"),
    [
        ({}, _DEFAULTS),
        ({"page": "3", "note": "ab"}, {"page": 3, "note": "ab"}),
        ({"page": "x", "note": "abcd"}, {"page": 1, "note": "无"}),
        ({"page": 0, "note": "\0"}, {"page": 1, "note": "无"}),
        ({"page": "", "note": None}, {"page": 1, "note": "无"}),
    ],
)
def test_a_default_replaces_what_is_invalid(fields: dict[str, Any], read: dict[str, Any]) -> None:
    """An optional parameter takes its default where it is missing, and silently where it is wrong."""
    assert _EXAMPLE.read(_VALID | fields) == _VALID | _DEFAULTS | read


@pytest.mark.parametrize("value", ["a", "abcde", "ab\0"])
def test_a_strict_parameter_is_not_replaced(value: str) -> None:
    """An optional parameter that must not be dropped in silence is told as a required one is."""
    with pytest.raises(InvalidParams) as raised:
        _EXAMPLE.read(_VALID | {"strict": value})

    assert raised.value.field == "strict"


@pytest.mark.parametrize(
    ("schema", "given_params", "name"),
    [
        (GROUP_MUTE_PARAMS, {"group_id": 1, "user_id": 1}, "until"),
        (HISTORY_PARAMS, {"chatType": "single", "peer_id": 1}, "before"),
    ],
)
@pytest.mark.parametrize("value", ["x", "1.5", -1, "9" * 18])
def test_a_strict_number_is_not_replaced(schema: Params, given_params: dict[str, Any], name: str, value: Any) -> None:
    """A mute whose end cannot be read lasts for ever in no case, and a page begins nowhere else than it was asked to."""
    with pytest.raises(InvalidParams) as raised:
        schema.read(given_params | {name: value})

    assert raised.value.field == name


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"number": ""}, "`number` is missing"),
        ({"number": "x"}, "`number` is `x`, which is no whole number"),
        ({"number": 10}, "`number` must be a number from 1 to 9"),
        ({"text": "a"}, "`text` must have 2 to 4 characters"),
        ({"text": "a\0"}, "`text` holds a character that is not allowed"),
        ({"choice": "c"}, "`choice` is `c`, which is none of `a`, `b`"),
    ],
)
def test_a_fault_is_told_in_english_too(wrong: dict[str, Any], text: str) -> None:
    """By the parameter's name, as its label is Chinese."""
    with pytest.raises(InvalidParams) as raised:
        _EXAMPLE.read(_VALID | wrong)

    assert raised.value.told("en") == text
    assert raised.value.told("zh") == raised.value.text != text


def test_the_first_fault_in_order_is_told() -> None:
    """Of several faults the first in the order of the parameters is told."""
    with pytest.raises(InvalidParams) as raised:
        _EXAMPLE.read({"choice": "c", "text": "a"})
    assert raised.value.field == "number"

    with pytest.raises(InvalidParams) as raised:
        _EXAMPLE.read({"choice": "c", "text": "a", "number": 1})
    assert raised.value.field == "text"


def test_sources_are_looked_up_together() -> None:
    """A later source wins, but not with nothing; unknown fields vanish."""
    read = _EXAMPLE.read({"number": 1, "text": "query", "choice": "a"}, {"text": "body", "choice": "", "other": 1})

    assert read == _DEFAULTS | {"number": 1, "text": "body", "choice": "a"}


def test_labels_are_orig_s() -> None:
    """The labels appear in the texts, so they are ORIG's."""
    labels = {name: getattr(field, "label", "") for name, field in SEND_PARAMS.fields.items()}
    assert labels == {
        "sendto_id": "接收人/群的id值",
        "chatType": "接收类型",
        "type": "消息类型",
        "data": "消息内容",
        "options": "额外参数json字符串",
        "clientMsgId": "客户端消息编号",
    }
    assert {name: getattr(field, "label", "") for name, field in RECALL_PARAMS.fields.items()} == {
        "to_id": "接收者id或者群id",
        "id": "消息uuid",
        "chatType": "聊天类型",
        "create_time": "消息发送时间",
    }


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(params=st.dictionaries(st.sampled_from([*SEND_PARAMS.fields, "other"]), _json))
def test_anything_is_read_or_told(params: dict[str, Any]) -> None:
    """Whatever stands in a body is read or told as invalid; nothing else is raised."""
    with contextlib.suppress(InvalidParams):
        read = SEND_PARAMS.read(params)
        assert isinstance(read["sendto_id"], int)
        assert all(isinstance(read[name], str) for name in read if name != "sendto_id")
