"""Matching: which of a user's questions and answers answers a text (ORIG 6.6). Pure: never raises, reads no clock.

Scores are the original's, but for two things. What a text and an entry do not have in common at all counts for nothing: a
similar length and a recent date alone were enough there, so that any text of one word had an answer. And of an entry whose
whole question stands in the text, as in "请问几点开门？", the question was asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

CONTAINED = 100.0
LOOSE = 5.0  # what the looser ways count for, all of them
_ACCEPTED_PER_WORD = 5
_MAX_CHARACTERS, _MAX_WORDS = 500, 20  # looked at of a text: what is beyond costs time and is no question any more
_DAY_MS = 86_400_000
_LONG_WORD = 3  # characters
_LEAST_CONTAINED = 2  # characters, of a question that is looked for in the text
_SYNONYMS = (("为什么", "为何"), ("怎么办", "如何处理"), ("怎么", "如何"), ("哪里", "何处"), ("什么", "啥"))


class Entry(Protocol):
    """A question and its answer, as `models/askanswers.py` gives it."""

    @property
    def ask(self) -> str: ...
    @property
    def answer(self) -> str: ...
    @property
    def like_count(self) -> int: ...
    @property
    def updated_at_ms(self) -> int: ...


AnEntry = TypeVar("AnEntry", bound=Entry)


def find_match(entries: Sequence[AnEntry], text: str, now_ms: int) -> tuple[AnEntry, float] | None:
    """Return the entry that answers a text best, of equals the first, and its score; None where none does."""
    sought = text[:_MAX_CHARACTERS].strip().lower()
    words = sought.split()[:_MAX_WORDS]
    if not words:
        return None
    scored = [(entry, score(entry, sought, words, now_ms)) for entry in entries]
    best = max(scored, key=lambda match: match[1], default=None)
    if best is not None and best[1] >= _ACCEPTED_PER_WORD * len(words):
        return best
    loose = _find_loosely(entries, sought, words)
    return (loose, LOOSE) if loose is not None else None


def score(entry: Entry, sought: str, words: Iterable[str], now_ms: int) -> float:
    """Return how well an entry answers a text in lower case, whose words are these; 0 where they share nothing."""
    ask, answer = entry.ask.lower(), entry.answer.lower()
    shared = CONTAINED if sought in ask or sought in answer else 0.0
    for word in words:
        in_ask, in_answer = ask.count(word), answer.count(word)
        shared += 10 * (in_ask > 0) + 5 * (in_answer > 0) + 2 * in_ask + in_answer
    if not shared:
        return 0.0
    days = max(0, now_ms - entry.updated_at_ms) / _DAY_MS
    likeness = max(0.0, 10 - abs(len(ask) - len(sought)) / 5)
    return shared + likeness + max(0.0, 5 - days / 10) + min(10, max(0, entry.like_count))


def _find_loosely(entries: Sequence[AnEntry], sought: str, words: Iterable[str]) -> AnEntry | None:
    """Return the first entry that any of the looser ways finds, tried one after the other."""
    long_words = [word for word in words if len(word) >= _LONG_WORD]
    reworded = sought
    for word, same in _SYNONYMS:
        reworded = reworded.replace(word, same)
    bare = _bare(sought)
    texts = [(entry, f"{entry.ask} {entry.answer}".lower()) for entry in entries]
    for entry, held in texts:
        if long_words and 2 * sum(word in held for word in long_words) >= len(long_words):
            return entry
    for entry, held in texts:
        if reworded != sought and reworded in held:
            return entry
    for entry in entries:
        asked = _bare(entry.ask.lower())
        if (bare and bare in asked) or (len(asked) >= _LEAST_CONTAINED and asked in bare):
            return entry
    return None


def _bare(text: str) -> str:
    """Return a text without blanks and punctuation."""
    return "".join(filter(str.isalnum, text))
