"""SIGHUP: the end of the terminal, for a server that was started on one; for others nothing.

There's nothing to read anew for it: logs go to stderr, a changed certificate is taken by itself,
and the rest of the configuration needs a start.
"""

from __future__ import annotations

import signal
import sys


def ends_at_hangup() -> bool:
    """Tell whether this process has a terminal, and wasn't told to outlive it, as by nohup."""
    return sys.stderr.isatty() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN


def ignore_hangup() -> None:
    """Have this process, and those it forks, go on."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
