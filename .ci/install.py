"""Create `.venv` and install one lock file into it, unless that was done already. Called by the Makefile.

The digest of the lock file is kept in `.venv`, so that an install is repeated when its content changed, whatever a
checkout did to its time. Two calls at once, such as two `make run` in a fresh clone, take turns.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_VENV = _ROOT / ".venv"
_PYTHON = _VENV / "bin" / "python"


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
            venv.create(_VENV, symlinks=True, with_pip=True)
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
