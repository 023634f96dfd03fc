"""Where a connection begins to read, and which gaps it is told of, from what its client says it has (contract section 5)."""

from __future__ import annotations

import pytest

from models.store.presence import Connected
from webapp.sockets.office import Resume, _starting_point

_STANDS = Connected("live", "e1", newest=100, base=80, acknowledged=50)
_WHOLE = Connected("live", "e1", newest=100, base=50, acknowledged=50)


@pytest.mark.parametrize(
    ("connected", "resume", "start", "gaps"),
    [
        (_WHOLE, None, 50, []),
        (_STANDS, None, 80, [(51, 80)]),
        (_WHOLE, Resume(70, "e1"), 70, []),
        (_WHOLE, Resume(100, "e1"), 100, []),
        (_STANDS, Resume(60, "e1"), 80, [(61, 80)]),
        (_STANDS, Resume(80, "e1"), 80, []),
        (_WHOLE, Resume(101, "e1"), 50, [(101, 101)]),
        (_STANDS, Resume(500, "e1"), 80, [(101, 500), (51, 80)]),
        (_WHOLE, Resume(70, "e0"), 50, [(1, 50)]),
        (_STANDS, Resume(70, ""), 80, [(1, 80)]),
        (Connected("live", "e1"), Resume(3, "e0"), 0, [(1, 0)]),
    ],
)
def test_each_gap_is_told(connected: Connected, resume: Resume | None, start: int, gaps: list[tuple[int, int]]) -> None:
    """What is neither replayed nor had by the client is named."""
    assert _starting_point(connected, resume) == (start, gaps)
