"""Create `.venv` and install one lock file into it, unless that was done already. Called by the Makefile.

The digest of the lock file is kept in `.venv`, so that an install is repeated when its content changed, whatever a
checkout did to its time. Two calls at once, such as two `make run` in a fresh clone, take turns.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_VENV = _ROOT / ".venv"
_PYTHON = _VENV / "bin" / "python"
_MACHINES_OWN = "/usr/bin/python3"
_CLEARLY = 0.92  # of the time the other takes
_TRIALS = 10  # in turn: the least of each counts, whatever else the machine is doing
# Prints whether the interpreter will do, and how many seconds it takes for a loop of what all Python code does.
_TRIAL = """
import ensurepip, sys, time, venv
def loop():
    started, texts, total = time.perf_counter(), {}, 0
    for number in range(30_000):
        texts[number % 97] = (number, total)
        total += len(str(number))
    return time.perf_counter() - started
print((3, 11) <= sys.version_info[:2] <= (3, 12), min(loop() for _ in range(9)))
"""


def main(lock_name: str) -> int:
    lock_file = _ROOT / lock_name
    stamp = _VENV / f"{lock_name}.sha256"
    digest = hashlib.sha256(lock_file.read_bytes()).hexdigest()
    _VENV.mkdir(exist_ok=True)
    guard_path = _VENV / "install.lock"
    with guard_path.open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not _venv_works():
            print("creating .venv", flush=True)
            for old in _VENV.iterdir():
                if old != guard_path:
                    shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
            subprocess.run([_interpreter(), "-m", "venv", _VENV], check=True)
        if stamp.exists() and stamp.read_text() == digest:
            return 0
        print(f"installing {lock_name} into .venv", flush=True)
        install = subprocess.run(
            [
                _PYTHON,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--require-hashes",
                "-r",
                lock_file,
            ],
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
        )
        if install.returncode == 0:
            stamp.write_text(digest)
        return install.returncode


def _interpreter() -> str:
    """Return what to make `.venv` with: this interpreter, or the machine's own where that runs clearly faster.

    pyenv and others compile Python without the optimisations that distributions use: a fifth more CPU. Who says which
    one he wants (PYTHON=...) gets it.
    """
    if os.environ.get("PYTHON") or Path(sys.executable).resolve() == Path(_MACHINES_OWN).resolve():
        return sys.executable
    trials = [(_seconds(sys.executable), _seconds(_MACHINES_OWN)) for _ in range(_TRIALS)]
    this, other = (min(seconds) for seconds in zip(*trials, strict=True))
    if math.isinf(this) or other > this * _CLEARLY:  # one newer than those we compare is what make has found
        return sys.executable
    print(f"taking {_MACHINES_OWN}, which needs {other / this:.0%} of the time of {sys.executable}", flush=True)
    return _MACHINES_OWN


def _seconds(interpreter: str) -> float:
    """Return how long an interpreter takes for a trial; infinite: it will not do, or is not there."""
    try:
        trial = subprocess.run([interpreter, "-I", "-c", _TRIAL], capture_output=True, text=True)
    except OSError:
        return math.inf
    will_do, _, seconds = trial.stdout.partition(" ")
    return float(seconds) if trial.returncode == 0 and will_do == "True" else math.inf


def _venv_works() -> bool:
    """Whether `.venv` can be used: it may be half made, or its interpreter gone or older than we need."""
    if not (_VENV / "pyvenv.cfg").exists():
        return False
    check = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
    try:
        return subprocess.run([_PYTHON, "-c", check], capture_output=True).returncode == 0
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
