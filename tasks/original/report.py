"""The report of a takeover: how much was taken over, and by which rule anything was changed or left out, with examples.

Every rule has its code and its sentence here; `docs/migrating.md` has the same codes (a test compares them).
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

Kind = Literal["left_out", "changed", "noted"]

_MAX_EXAMPLES = 20
_EXAMPLE_MAX = 100  # characters

RULES: dict[str, tuple[Kind, str]] = {
    # Tables
    "table_unknown": ("left_out", "rows of tables that no one of ours stands for"),
    "column_unknown": ("left_out", "values of columns that ours have not"),
    "text_not_utf8": ("changed", "texts with bytes that are no characters: each such byte became U+FFFD"),
    "text_with_nul": ("changed", "texts with NUL characters: these were taken out"),
    "text_cut": ("changed", "texts longer than their column: cut"),
    # Users
    "user_id_unusable": ("left_out", "users whose id is no number from 1 to 2147483647"),
    "user_doubled": ("left_out", "second rows of a user's id"),
    "uuid_replaced": ("changed", "users and groups whose public id was none, or another's: given a new one"),
    "username_replaced": (
        "changed",
        "users without a name, or with another's: named after their id, and log in with that",
    ),
    "username_taken_meanwhile": ("changed", "users whose name somebody registered while the import ran: `_<id>` added"),
    "password_unusable": ("changed", "registered users whose hash is no SHA-256: an administrator must help them in"),
    "fingerprint_shared": ("changed", "rows of one device: the first visitor among them stays the device's"),
    "fingerprint_taken_meanwhile": ("changed", "visitors whose device came while the import ran: it has a new visitor"),
    "settings_unreadable": ("changed", "settings that are no JSON object, or too long: the defaults hold"),
    "invite_mode_unknown": ("changed", "an `invite_confirm` that is unknown: the user is asked, a group's owner too"),
    "contact_shared": ("changed", "a mobile number or address that another user has: taken out"),
    "status_unknown": ("changed", "a status that is unknown: taken as disabled"),
    "role_unknown": ("changed", "a role that is neither user nor visitor: user; `admin grant` makes administrators"),
    "avatar_unsafe": ("changed", "avatars that are no web address: the default one"),
    "avatar_on_the_originals_host": (
        "noted",
        "avatars that are paths: serve `/public/` of the original at this address",
    ),
    "flag_deleted": ("noted", "users flagged `is_deleted`, which the original never looked at: taken over as they are"),
    "profile_made": ("changed", "users without a row in user_info: given an empty one"),
    "profile_doubled": ("left_out", "second rows in user_info of one user"),
    "profile_of_nobody": ("left_out", "rows in user_info of users who are not there"),
    # Friends
    "friend_of_nobody": ("left_out", "friend rows of or about users who are not there"),
    "friend_of_himself": ("left_out", "friend rows of a user about himself"),
    "friend_doubled": (
        "changed",
        "friend rows that stood there more than once: merged, a block or a disabled row wins",
    ),
    "friend_one_sided": ("noted", "friend rows without one in the other direction: taken over as they are"),
    "application_of_nobody": ("left_out", "applications of or to users who are not there, or to oneself"),
    "application_doubled": ("left_out", "older applications that waited beside a newer one of the same user"),
    "application_settled": ("changed", "applications that waited between friends: agreed"),
    "application_unreadable": ("left_out", "applications whose status is unknown"),
    # Groups
    "group_id_unusable": ("left_out", "groups whose id is no number from 1 to 2147483647, or stood there already"),
    "group_of_nobody": ("left_out", "groups whose owner is not there"),
    "member_of_nothing": ("left_out", "memberships of groups or users that are not there"),
    "member_doubled": ("changed", "memberships that stood there more than once: merged, a mute wins"),
    "owner_made_member": ("changed", "groups whose owner was no active member of it: made one"),
    "group_over_limit": ("noted", "groups with more members than GROUP_MAX_MEMBERS: all stay, nobody else can join"),
    # Waiting messages
    "queue_unreadable": ("left_out", "keys like a queue's that are none"),
    "queue_of_nobody": ("left_out", "entries for users who are not there; kept in the file of what was left"),
    "queue_longer_than_inbox": (
        "noted",
        "users for whom more waits than INBOX_MAX_ENTRIES: the oldest are in history only",
    ),
    "entry_unreadable": ("left_out", "entries that are no Message; kept in the file of what was left"),
    "entry_too_large": ("left_out", "entries larger than MESSAGE_MAX_BYTES allows; kept in the file of what was left"),
    "entry_doubled": ("left_out", "entries that stood in a queue more than once"),
    "greeting_dropped": ("left_out", "`redirect-…` notices, which are made anew where they are still true"),
    "application_notice_dropped": ("left_out", "notices of applications that have been answered since"),
    "message_id_replaced": ("changed", "messages whose id is no UUID, or another message's: given a new one"),
    "message_time_replaced": (
        "changed",
        "messages whose time cannot be: given that of the one before, or of the import",
    ),
    "message_without_group": (
        "changed",
        "messages of groups that the reader is not in any more: shown to him once, as notices",
    ),
    "recall_of_another": ("left_out", "recalls by somebody who had not sent the message"),
    "recall_applied": ("changed", "waiting messages that were recalled: what they said is gone"),
    "sender_unknown": ("noted", "messages from users who are not there any more"),
    "history_left": ("left_out", "entries of the original's chat logs in Redis: clients have their own history"),
}


class Report:
    """Counts by rule, with a bounded number of examples, and what was taken over."""

    def __init__(self) -> None:
        self.taken: Counter[str] = Counter()
        self.tables_left: Counter[str] = Counter()
        self.source: dict[str, Any] = {}
        self.warnings: list[str] = []
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def note(self, code: str, example: object, count: int = 1) -> None:
        """Count a rule that was applied. example: ids and names of columns, never what people wrote."""
        assert code in RULES, code
        self._counts[code] += count
        examples = self._examples.setdefault(code, [])
        if len(examples) < _MAX_EXAMPLES and (shown := _shown(example)) not in examples:
            examples.append(shown)

    def count(self, code: str) -> int:
        return self._counts[code]

    def as_json(self) -> dict[str, Any]:
        """Give the report as it is written to a file."""
        told: dict[str, Any] = {"source": self.source, "warnings": self.warnings, "taken_over": dict(self.taken)}
        told["tables_left"] = dict(self.tables_left)
        for kind in ("left_out", "changed", "noted"):
            told[kind] = {
                code: {"count": self._counts[code], "what": what, "examples": self._examples[code]}
                for code, (of_kind, what) in RULES.items()
                if of_kind == kind and self._counts[code]
            }
        return told

    def as_text(self) -> str:
        """Give the report as people read it."""
        told = self.as_json()
        lines = [f"warning: {warning}" for warning in self.warnings]
        lines += ["taken over:", *(f"  {count:>10,}  {name}" for name, count in self.taken.items())]
        for kind, heading in (("left_out", "left out"), ("changed", "changed"), ("noted", "to be known")):
            if told[kind]:
                lines.append(f"{heading}:")
            for code, rule in told[kind].items():
                some = ", ".join(rule["examples"][:5]) + (", …" if len(rule["examples"]) > 5 else "")
                lines.append(f"  {rule['count']:>10,}  {code}: {rule['what']} ({some})")
        return "\n".join(lines)


def _shown(example: object) -> str:
    """Give an example as a terminal may be given it: a dump can say anything where an id is due."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in str(example)[:_EXAMPLE_MAX])
