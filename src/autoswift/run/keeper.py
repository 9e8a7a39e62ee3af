"""Keeps one child on a lifeline: when the owner dies, however it dies, the child ends too.

Run as a file: `python -I -S keeper.py FD -- argv…`. FD is the read end of a pipe whose write end only the owner
holds; the kernel closes it when the owner is gone. The keeper leads the process group, so that ending the group ends
whatever the child has started. It exits with the child's code (128 + signal number when a signal ended it).
A pipe rather than Linux's PR_SET_PDEATHSIG: it also works on macOS and cannot be lost by a thread ending.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time

GRACE_SECONDS = 5.0
"""Between SIGTERM and SIGKILL: enough for a server to close its sockets; a trainer has nothing to finish."""


def main(arguments: list[str]) -> int:
    """Starts the child, waits for it or for the owner's end."""
    lifeline, argv = int(arguments[0]), arguments[2:]
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a group-wide SIGTERM is for the child; we report its code
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    child = subprocess.Popen(argv, close_fds=True, preexec_fn=_default_signals)
    while child.poll() is None:
        ready, _, _ = select.select([lifeline, wake_read], [], [])
        if wake_read in ready:
            os.read(wake_read, 512)
        if lifeline in ready and not os.read(lifeline, 1):
            _end_group(child)
    code = child.returncode
    return 128 - code if code < 0 else code


def _default_signals() -> None:
    """The child gets the ordinary reactions back (ignored signals are inherited across exec)."""
    for one in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(one, signal.SIG_DFL)


def _end_group(child: subprocess.Popen[bytes]) -> None:
    os.killpg(0, signal.SIGTERM)
    end = time.monotonic() + GRACE_SECONDS
    while child.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    os.killpg(0, signal.SIGKILL)  # ourselves included: the owner is gone, nobody reads our code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
