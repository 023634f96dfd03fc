"""The catalogue of failures and its table in docs/protocol.md. `python -m tests.webapp.test_errors` writes the table."""

from __future__ import annotations

import re
from pathlib import Path

from webapp.errors import FAILURES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"
_BETWEEN = re.compile(r"(<!-- failures:.*?-->\n).*?(<!-- end of failures -->)", re.DOTALL)


def table() -> str:
    rows = ["| code | status | text | in English | retry |", "|---|---|---|---|---|"]
    for failure in sorted(FAILURES.values(), key=lambda failure: (failure.status, failure.code)):
        zh = f"{failure.zh}；{failure.zh_user}" if failure.zh_user else failure.zh
        rows.append(f"| `{failure.code}` | {failure.status} | {zh} | {failure.en} | {failure.retry} |")
    return "\n".join(rows) + "\n"


def test_every_failure_has_its_row() -> None:
    """docs/protocol.md lists exactly the failures of the catalogue, with both texts."""
    written = _BETWEEN.search(PAGE.read_text())

    assert written is not None
    assert written.group(0) == f"{written.group(1)}{table()}{written.group(2)}"


def test_every_failure_is_complete() -> None:
    """A failure has both texts and a status of the contract."""
    for failure in FAILURES.values():
        assert failure.zh
        assert failure.en
        assert failure.status in {400, 401, 403, 404, 405, 408, 409, 413, 422, 426, 429, 503}, failure.code


if __name__ == "__main__":
    PAGE.write_text(_BETWEEN.sub(lambda match: f"{match.group(1)}{table()}{match.group(2)}", PAGE.read_text()))
