"""The rules of tasks/policy.py against the declarative table, in full."""

from __future__ import annotations

import json
from collections import Counter

from models.facts import GroupFacts, MemberFacts, RelationFacts, UserFacts
from models.groups import ACTIVE, MUTED, PENDING, UNTIL_LIFTED
from tasks.policy import Allowed, Refused, SingleFacts, SpeakerFacts, Verdict, decide_group, decide_single
from tests.tasks.policy_table import (
    GROUP,
    GROUP_DIMENSIONS,
    PAGE,
    SINGLE,
    SINGLE_DIMENSIONS,
    Case,
    Row,
    cases,
    expected,
    page,
)

_NOW_MS = 1_000_000
_MUTES = {"none": 0, "past": _NOW_MS - 1, "until later": _NOW_MS + 1, "until lifted": UNTIL_LIFTED}


def _userset(settings: str, role: str) -> str:
    """Write the recipient's settings: what the case says for the sender's role, the opposite for the other."""
    if settings == "missing":
        return ""
    if settings == "malformed":
        return '{"chatset":'
    rule: object
    if settings.startswith("bare"):
        rule = int(settings[5:])
    elif settings.startswith("text"):
        rule = {"sendCount": settings[5:], "needFollow": False}
    else:
        rule = {"sendCount": int(settings[0]), "needFollow": settings.endswith("follow")}
    opposite = {"sendCount": 2 if settings[0] in "01b" else 0, "needFollow": False}
    other = "visitor" if role == "user" else "user"
    return json.dumps({"chatset": {role: rule, other: opposite}})


def _relation(row: str, blocks: str, follows: str = "no") -> RelationFacts:
    return RelationFacts(
        is_friend=row != "none",
        remark="",
        is_enabled=row != "disabled",
        is_blocked=blocks == "yes",
        is_following=follows == "yes",
    )


def _single(case: Case) -> Verdict:
    status = {"active": 1, "disabled": 0, "locked": 2}.get(case["recipient"])
    userset = _userset(case["settings"], case["role"])
    recipient = None if status is None else UserFacts(2, "", "bob", "", "", "user", status, userset, 1)
    facts = SingleFacts(
        role=case["role"],
        is_self=case["to"] == "self",
        recipient=recipient,
        theirs=_relation(case["their row"], case["they block"]),
        mine=_relation(case["my row"], case["I block"], case["I follow"]),
        contact=None if case["first contact"] == "none" else case["first contact"],
    )
    return decide_single(facts)


def _group(case: Case) -> Verdict:
    status = {"active": 1, "dissolved": 0, "banned": 2}.get(case["group"])
    group = GroupFacts(5, "", 1, "", "", "", 0, status or 0, _MUTES[case["group mute"]], 1, {}, [])
    statuses = {"active": ACTIVE, "pending": PENDING, "muted by status": MUTED, "unknown status": 7}
    member = MemberFacts("", "", statuses.get(case["membership"], 0), _MUTES[case["member mute"]])
    return decide_group(
        SpeakerFacts(
            group=None if status is None else group,
            member=None if case["membership"] == "none" else member,
            is_owner=case["sender"] == "owner",
            now_ms=_NOW_MS,
        )
    )


def _agrees(verdict: Verdict, row: Row) -> bool:
    code = verdict.code if isinstance(verdict, Refused) else None
    return verdict.rule == row.rule and code == row.code


def test_every_one_to_one_case_is_decided_as_the_table_says() -> None:
    """Each combination of role, relation, settings, blocks, follow and first contact gets the table's rule and code."""
    seen: Counter[str] = Counter()
    for case in cases(SINGLE_DIMENSIONS):
        row, verdict = expected(SINGLE, case), _single(case)
        seen[row.says] += 1
        assert _agrees(verdict, row), (case, verdict, row)
        if isinstance(verdict, Allowed):
            assert verdict.is_first_contact == (row.rule in ("P9", "P10") and case["first contact"] == "none"), case

    assert set(seen) == {row.says for row in SINGLE}


def test_every_group_case_is_decided_as_the_table_says() -> None:
    """Each combination of group, membership and mutes gets the table's rule and code."""
    seen: Counter[str] = Counter()
    for case in cases(GROUP_DIMENSIONS):
        row, verdict = expected(GROUP, case), _group(case)
        seen[row.says] += 1
        assert _agrees(verdict, row), (case, verdict, row)

    assert set(seen) == {row.says for row in GROUP}


def test_the_documentation_is_the_table() -> None:
    """docs/policy.md says what the tests run."""
    assert PAGE.read_text() == page()
