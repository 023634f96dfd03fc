"""The policy as a table: dimensions, and rows in the contract's order. The tests run it in full; docs/policy.md is made of it.

A row applies where every dimension it names has one of the values it names; the first row that applies decides.
`python -m tests.tasks.policy_table` writes the documentation.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "policy.md"

Case = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Row:
    rule: str
    says: str
    when: Mapping[str, tuple[str, ...]]
    code: str | None  # None: allowed

    def applies(self, case: Case) -> bool:
        return all(case[dimension] in values for dimension, values in self.when.items())


SINGLE_DIMENSIONS: Mapping[str, tuple[str, ...]] = {
    "role": ("user", "visitor"),
    "to": ("another", "self"),
    "recipient": ("active", "disabled", "locked", "missing"),
    "their row": ("none", "friend", "disabled"),
    "my row": ("none", "friend", "disabled"),
    "they block": ("no", "yes"),
    "I block": ("no", "yes"),
    "settings": ("0", "1", "2", "0 follow", "1 follow", "2 follow", "missing", "malformed", "bare 0", "text 2", "3"),
    "I follow": ("no", "yes"),
    "first contact": ("none", "open", "accepted", "declined"),
}

_ONE = ("1", "1 follow", "missing", "malformed", "3")
_NOT_ACTIVE = ("disabled", "locked", "missing")

SINGLE = (
    Row("P1", "to oneself", {"to": ("self",)}, "self"),
    Row("P2", "recipient missing or not active", {"recipient": _NOT_ACTIVE}, "recipient_unavailable"),
    Row("P3", "recipient has blocked the sender", {"they block": ("yes",)}, "blocked_by_recipient"),
    Row("P4", "an administrator has disabled their friend row", {"their row": ("disabled",)}, "relation_disabled"),
    Row("P4", "an administrator has disabled my friend row", {"my row": ("disabled",)}, "relation_disabled"),
    Row("P5", "sender has blocked the recipient", {"I block": ("yes",)}, "blocked_by_sender"),
    Row("P6", "recipient lists the sender as friend", {"their row": ("friend",)}, None),
    Row(
        "P7",
        "followers only, and the sender does not follow",
        {"settings": ("0 follow", "1 follow", "2 follow"), "I follow": ("no",)},
        "follow_required",
    ),
    Row("P8", "no message before friendship", {"settings": ("0", "0 follow", "bare 0")}, "friends_only"),
    Row("P9", "one message before friendship, not sent yet", {"settings": _ONE, "first contact": ("none",)}, None),
    Row("P9", "the recipient has accepted the request", {"settings": _ONE, "first contact": ("accepted",)}, None),
    Row("P9", "one message before friendship, sent already", {"settings": _ONE}, "stranger_limit"),
    Row("P10", "strangers are welcome", {}, None),
)

GROUP_DIMENSIONS: Mapping[str, tuple[str, ...]] = {
    "group": ("active", "dissolved", "banned", "missing"),
    "membership": ("active", "none", "pending", "muted by status", "unknown status"),
    "member mute": ("none", "past", "until later", "until lifted"),
    "group mute": ("none", "past", "until later", "until lifted"),
    "sender": ("member", "owner"),
}

_NOW_MUTED = ("until later", "until lifted")

GROUP = (
    Row("Q1", "group missing, dissolved or banned", {"group": ("dissolved", "banned", "missing")}, "group_unavailable"),
    Row("Q2", "sender no member", {"membership": ("none", "unknown status")}, "not_member"),
    Row("Q3", "membership waits for approval", {"membership": ("pending",)}, "membership_pending"),
    Row("Q4", "member muted by status (as ORIG did)", {"membership": ("muted by status",)}, "muted"),
    Row("Q4", "member muted, possibly until a time", {"member mute": _NOW_MUTED}, "muted"),
    Row(
        "Q5",
        "whole group muted, only the owner speaks",
        {"group mute": _NOW_MUTED, "sender": ("member",)},
        "group_muted",
    ),
    Row("Q5", "may speak", {}, None),
)


def cases(dimensions: Mapping[str, tuple[str, ...]]) -> Iterator[Case]:
    """Give every combination of the dimensions' values."""
    for values in itertools.product(*dimensions.values()):
        yield dict(zip(dimensions, values, strict=True))


def expected(rows: tuple[Row, ...], case: Case) -> Row:
    return next(row for row in rows if row.applies(case))


def page() -> str:
    """Write the documentation of the policy."""
    parts = [
        "# Policy: who may write to whom",
        "",
        "Made by `python -m tests.tasks.policy_table` from the table that the tests run in full. Rows are tried in order; the",
        "first whose conditions hold decides. `POST /api/chat/policy/explain` tells which one it is, without sending.",
    ]
    for title, rows, dimensions in (("One-to-one", SINGLE, SINGLE_DIMENSIONS), ("Groups", GROUP, GROUP_DIMENSIONS)):
        parts += ["", f"## {title}", "", "| rule | when | conditions | verdict |", "|---|---|---|---|"]
        for row in rows:
            conditions = "; ".join(f"{dimension}: {', '.join(values)}" for dimension, values in row.when.items())
            verdict = f"refused, `{row.code}`" if row.code else "allowed"
            parts.append(f"| {row.rule} | {row.says} | {conditions or 'otherwise'} | {verdict} |")
        parts += ["", "The dimensions:", ""]
        parts += [f"- {dimension}: {', '.join(values)}" for dimension, values in dimensions.items()]
    parts += [
        "",
        "`settings` is what the recipient's `chatset` says for the sender's session role: `sendCount`, and whether he asks for",
        "followers only. Missing, malformed and unknown values mean 1; numeric text and ORIG's bare numbers are read as numbers.",
        "A first contact is recorded in the transaction that stores the message, as a row whose key is (sender, recipient); where",
        "strangers are welcome too, so that a limit set later counts it.",
        "",
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
