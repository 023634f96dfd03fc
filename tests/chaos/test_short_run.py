"""A short run of `make chaos` on the embedded default: a handful of faults, one of them through the proxy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_FAULTS = ("kill web", "kill worker", "cut redis", "kill redis", "empty redis")
# Whatever a slow machine makes of it, these may not happen; how long recovery takes is for `make chaos` on a quiet one.
_TIMES = {"slow"}


@pytest.mark.timeout(280)
def test_a_short_run_keeps_every_promise(tmp_path: Path) -> None:
    """Some 22 seconds, more where recoveries are slow, at 60 sends a second, with web, worker and Redis killed, Redis cut off, and emptied."""
    command = [
        *(sys.executable, "-m", "chaos", "--duration", "22", "--rate", "60", "--seed", "20", "--fault-every", "2"),
        *("--faults", ",".join(_FAULTS), "--out", str(tmp_path / "report")),
    ]

    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=270)

    assert (tmp_path / "report" / "verdict.json").exists(), done.stdout[-3_000:] + done.stderr[-3_000:]
    verdict = json.loads((tmp_path / "report" / "verdict.json").read_text())
    broken = {kind: count for kind, count in verdict["broken"].items() if count and kind not in _TIMES}
    assert broken == {}, done.stdout[-6_000:]
    assert set(verdict["faults"]) == set(_FAULTS)
    assert verdict["figures"]["accepted200"] > 100
    assert done.returncode == (0 if verdict["ok"] else 1)
    assert (tmp_path / "report" / "timeline.svg").read_text().startswith("<svg")
    assert (tmp_path / "report" / "history.jsonl").stat().st_size > 10_000
