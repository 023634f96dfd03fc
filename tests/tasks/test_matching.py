"""Which question and answer answers a text: the original's scores as a table, and what must hold of any text."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.matching import CONTAINED, LOOSE, find_match, score

_NOW_MS = 1_800_000_000_000
_DAY_MS = 86_400_000
_LONG_AGO_MS = _NOW_MS - 100 * _DAY_MS  # old enough for its date to count for nothing


@dataclass(frozen=True)
class _Entry:
    ask: str
    answer: str = ""
    like_count: int = 0
    updated_at_ms: int = _LONG_AGO_MS


_HOURS = _Entry("几点开门", "每天九点")
_PRICE = _Entry("price of the ticket", "The ticket is 5 euro, children enter free")
_RETURNS = _Entry("如何退货", "七天之内可以退货")
_SHIPPING = _Entry("Do you ship abroad?", "To all of Europe")
_SHOP = (_HOURS, _PRICE, _RETURNS, _SHIPPING)


@pytest.mark.parametrize(
    ("entry", "text", "worth"),
    [
        (_Entry("几点开门", "九点"), "几点开门", CONTAINED + 10 + 2 + 10),
        (_Entry("x", "几点开门"), "几点开门", CONTAINED + 5 + 1 + 10 - 3 / 5),
        (_Entry("PRICE"), "price", CONTAINED + 10 + 2 + 10),
        (_Entry("aa b aa", "aa"), "aa c", 10 + 5 + 2 * 2 + 1 + 10 - 3 / 5),
        (_Entry("a" * 100), "a b", 10 + 2 * 100),
        (_Entry("ask", updated_at_ms=_NOW_MS), "ask", CONTAINED + 10 + 2 + 10 + 5),
        (_Entry("ask", updated_at_ms=_NOW_MS - 20 * _DAY_MS), "ask", CONTAINED + 10 + 2 + 10 + 3),
        (_Entry("ask", updated_at_ms=_NOW_MS + _DAY_MS), "ask", CONTAINED + 10 + 2 + 10 + 5),
        (_Entry("ask", like_count=3), "ask", CONTAINED + 10 + 2 + 10 + 3),
        (_Entry("ask", like_count=99), "ask", CONTAINED + 10 + 2 + 10 + 10),
        (_Entry("four", "word", 99, _NOW_MS), "none", 0),
        (_Entry("(", "a+"), "(", CONTAINED + 10 + 2 + 10),
    ],
    ids=[
        "question",
        "answer",
        "case",
        "words",
        "not the text",
        "today",
        "older",
        "of tomorrow",
        "likes",
        "many likes",
        "nothing in common",
        "no pattern",
    ],
)
def test_an_entry_is_worth(entry: _Entry, text: str, worth: float) -> None:
    """As ORIG 6.6 counts, but nothing where there is nothing in common."""
    assert score(entry, text, text.split(), _NOW_MS) == pytest.approx(worth)


@pytest.mark.parametrize(
    ("text", "entry", "is_loose"),
    [
        ("几点开门", _HOURS, False),
        ("Ticket", _PRICE, False),
        ("what is the price", _PRICE, False),
        ("退货", _RETURNS, False),
        ("怎么退货", _RETURNS, True),  # a synonym
        ("几点，开门？", _HOURS, True),  # punctuation
        ("请问，你们几点开门呀？", _HOURS, True),  # the whole question stands in it
        ("so if i am at my to be or is it: europe", _SHIPPING, True),  # half of its longer words
        ("天气怎么样", None, False),
        ("??", None, False),
        ("   ", None, False),
        ("", None, False),
        ("(", None, False),
    ],
)
def test_a_text_is_answered_by(text: str, entry: _Entry | None, is_loose: bool) -> None:
    """The best entry, the looser ways only where no entry is worth enough, and none where none fits."""
    found = find_match(_SHOP, text, _NOW_MS)

    assert (found[0] if found else None) == entry
    assert found is None or (found[1] == LOOSE) is is_loose


def test_any_text_of_one_word_is_not_answered_by_what_is_new() -> None:
    """In the original a similar length and a recent date were enough."""
    new = _Entry("几点开门", "九点", like_count=10, updated_at_ms=_NOW_MS)

    assert find_match([new], "天气好吗", _NOW_MS) is None


def test_of_equals_the_first_is_taken() -> None:
    first, second = _Entry("hours", "nine"), _Entry("hours", "none")

    assert find_match([first, second], "hours", _NOW_MS) == find_match([first], "hours", _NOW_MS)


# What must hold of any text

_TEXTS = st.text(alphabet=st.sampled_from(" abcABC(+*[?\\。，天怎么为什退货\0İß\U0001f600"), max_size=40) | st.text(
    max_size=60
)
_ENTRIES = st.builds(
    _Entry,
    ask=_TEXTS,
    answer=_TEXTS,
    like_count=st.integers(-5, 20),
    updated_at_ms=st.integers(0, 2 * _NOW_MS),
)


@given(entries=st.lists(_ENTRIES, max_size=6), text=_TEXTS)
def test_matching_never_raises_and_always_says_the_same(entries: list[_Entry], text: str) -> None:
    """Whatever people write: what is found is one of the entries, and worth what is said."""
    found = find_match(entries, text, _NOW_MS)

    assert found == find_match(list(entries), text, _NOW_MS)
    assert found is None or (found[0] in entries and found[1] > 0)


@given(entry=_ENTRIES, text=_TEXTS.filter(str.strip), more=st.integers(0, 30), later_ms=st.integers(0, _NOW_MS))
def test_more_likes_and_a_newer_date_are_never_worth_less(entry: _Entry, text: str, more: int, later_ms: int) -> None:
    sought = text.strip().lower()
    liked = replace(entry, like_count=entry.like_count + more, updated_at_ms=entry.updated_at_ms + later_ms)

    assert score(liked, sought, sought.split(), _NOW_MS) >= score(entry, sought, sought.split(), _NOW_MS)


@given(entry=_ENTRIES, text=_TEXTS.filter(str.strip), others=st.lists(_ENTRIES, max_size=4))
def test_an_entry_that_holds_the_text_answers_it_whatever_else_there_is(
    entry: _Entry, text: str, others: list[_Entry]
) -> None:
    """Further entries can only be better, never take the answer away."""
    holding = replace(entry, answer=text.strip())

    found = find_match([*others, holding], text, _NOW_MS)

    assert found is not None
    sought = text.strip().lower()
    assert found[1] >= score(holding, sought, sought.split(), _NOW_MS) > 0
