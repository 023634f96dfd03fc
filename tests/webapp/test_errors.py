"""The catalogue of failures and its table in docs/protocol.md. `python -m tests.webapp.test_errors` writes the table."""

from __future__ import annotations

import re
from pathlib import Path

from webapp.errors import FAILURES, REWORDED

PAGE = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"
_BETWEEN = re.compile(r"(<!-- failures:.*?-->\n).*?(<!-- end of failures -->)", re.DOTALL)
_REWORDED_BETWEEN = re.compile(r"(<!-- reworded:.*?-->\n).*?(<!-- end of reworded -->)", re.DOTALL)


def table() -> str:
    rows = ["| code | status | text | in English | retry |", "|---|---|---|---|---|"]
    for failure in sorted(FAILURES.values(), key=lambda failure: (failure.status, failure.code)):
        zh = f"{failure.zh}；{failure.zh_user}" if failure.zh_user else failure.zh
        rows.append(f"| `{failure.code}` | {failure.status} | {zh} | {failure.en} | {failure.retry} |")
    return "\n".join(rows) + "\n"


def reworded_table() -> str:
    rows = ["| at | code | text |", "|---|---|---|"]
    rows += [f"| `…/{at}` | `{code}` | {text} |" for at, texts in REWORDED.items() for code, text in texts.items()]
    return "\n".join(rows) + "\n"


def test_every_failure_has_its_row() -> None:
    """docs/protocol.md lists exactly the failures of the catalogue, with both texts."""
    written = _BETWEEN.search(PAGE.read_text())

    assert written is not None
    assert written.group(0) == f"{written.group(1)}{table()}{written.group(2)}"


def test_every_other_wording_has_its_row() -> None:
    """docs/protocol.md lists where a failure of the catalogue has another text, and which."""
    written = _REWORDED_BETWEEN.search(PAGE.read_text())

    assert written is not None
    assert written.group(0) == f"{written.group(1)}{reworded_table()}{written.group(2)}"
    assert all(code in FAILURES for texts in REWORDED.values() for code in texts)


def test_every_failure_is_complete() -> None:
    """A failure has both texts and a status of the contract."""
    for failure in FAILURES.values():
        assert failure.zh
        assert failure.en
        assert failure.status in {400, 401, 403, 404, 405, 408, 409, 413, 416, 422, 426, 429, 503}, failure.code


if __name__ == "__main__":
    page = _BETWEEN.sub(lambda match: f"{match.group(1)}{table()}{match.group(2)}", PAGE.read_text())
    PAGE.write_text(_REWORDED_BETWEEN.sub(lambda match: f"{match.group(1)}{reworded_table()}{match.group(2)}", page))
