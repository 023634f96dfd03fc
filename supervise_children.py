"""supervisord, changed in four points its options do not cover. Started by `supervise.py`, never by hand.

A death is noticed within a tenth of a second; a process that dies again and again is tried once a second for ever; what
a dead process leaves behind in its process group is killed; and no child outlives supervisord.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

import supervisor.process
from supervisor.options import ServerOptions
from supervisor.states import ProcessStates
from supervisor.supervisord import go

# supervisord's loop wakes for output of its children, else each second, and needs up to two rounds for a restart.
_POLL_SECONDS = 0.1

_PR_SET_PDEATHSIG = 1
# Loaded before any fork: the child between fork and exec should call, not load.
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _die_with_parent(signal_number: int) -> None:
    """Have the kernel send us a signal when our parent dies. Linux only; elsewhere the next start cleans up."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)


class _Process(supervisor.process.Subprocess):  # type: ignore[misc]  # supervisor has no types
    def change_state(self, new_state: int, expected: bool = True) -> object:
        # supervisord waits one second longer after each failure and gives up in the end. A dependency that was away
        # for an hour must not cost more than a second once it is back.
        if new_state == ProcessStates.BACKOFF:
            self.backoff = 0
        return super().change_state(new_state, expected)


class _Options(ServerOptions):  # type: ignore[misc]  # supervisor has no types
    def __init__(self) -> None:
        super().__init__()
        poll = self.poller.poll
        self.poller.poll = lambda timeout: poll(min(timeout, _POLL_SECONDS))
        self._pid = os.getpid()

    def setpgrp(self) -> None:
        """Called by supervisord in the new child, before exec."""
        super().setpgrp()
        _die_with_parent(signal.SIGKILL)
        if os.getppid() != self._pid:  # it died in between
            os._exit(1)

    def waitpid(self) -> tuple[int | None, int | None]:
        pid, status = super().waitpid()
        if pid in self.pidhistory:
            # The workers of a killed gunicorn master keep the port until they notice, and its successor needs it.
            try:
                os.killpg(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
        return pid, status


def main() -> None:
    """Run with two arguments: the configuration file and the process id of our parent."""
    config, parent_pid = sys.argv[1], int(sys.argv[2])
    _die_with_parent(signal.SIGTERM)
    if os.getppid() != parent_pid:
        sys.exit(1)
    supervisor.process.Subprocess = _Process
    options = _Options()
    options.realize(["--nodaemon", "--silent", "--configuration", config])
    options.first = True
    options.test = False
    go(options)
    options.close_logger()


if __name__ == "__main__":
    main()
