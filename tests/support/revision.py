"""Which commit is checked out: measurements and verdicts say what they are about."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.instance import InstanceFailed

_ROOT = Path(__file__).resolve().parents[2]


class GitFailed(InstanceFailed):
    """git does not know that, or is not there: a commit that is asked for cannot be started."""


def git(*arguments: str) -> str:
    """Return git's output. Raises GitFailed."""
    try:
        done = subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True)
    except OSError as error:
        raise GitFailed(f"git: {error}") from error
    if done.returncode != 0:
        raise GitFailed(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def this_revision() -> str:
    """Return what is checked out; a `+` behind it means uncommitted changes. Raises GitFailed."""
    return revision_of("HEAD") + ("+" if git("status", "--porcelain") else "")


def revision_of(name: str) -> str:
    """Return the commit that git knows by this name. Raises GitFailed: there is none."""
    return git("rev-parse", "--short=12", "--verify", f"{name}^{{commit}}")
