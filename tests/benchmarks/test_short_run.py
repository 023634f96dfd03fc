"""A short run of `make bench` on a real system: messages flow, costs are seen, a report is left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_SCENARIOS = ("ws_16", "open_100")


def test_a_short_run_measures_and_reports(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "benchmarks", "--only", ",".join(_SCENARIOS), "--seconds", "1", "--rounds", "1"),
        *("--out", str(tmp_path)),
    ]

    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=280)

    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-4_000:]
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["scenarios"]) == list(_SCENARIOS)
    for name in _SCENARIOS:
        (figures,) = results["scenarios"][name]["rounds"]["ours"]
        assert figures["problems"] == {}
        assert figures["count"] > 16
        assert {"redis", "web", "worker", "beat", "flower", "supervisor"} <= set(figures["cpu_ms"])
        for kind in ("redis", "web", "worker"):
            assert figures["cpu_ms"][kind] > 0
        measures = figures["measures"]
        assert 0 < measures["p50_ms"] <= measures["p90_ms"] <= measures["p99_ms"] <= measures["max_ms"]
        # What they used must fit into the time there was on all processors.
        assert measures["cpu_ms"] * figures["count"] / 1000 <= figures["seconds"] * results["machine"]["cores"] * 1.1
    assert 80 < results["scenarios"]["open_100"]["rounds"]["ours"][0]["measures"]["per_second"] < 120
    assert "<svg" in (tmp_path / "report.html").read_text()
