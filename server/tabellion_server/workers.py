"""Several serving processes on one machine, which share the sockets they accept from.

The first starts alone: it makes what a first start makes, and finds what is wrong with the
configuration. One that dies is started again. This process has no threads, so it may fork.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

import structlog

from tabellion_server.counter_files import WORKER, counter_files
from tabellion_server.hangup import ends_at_hangup, ignore_hangup
from tabellion_server.logs import log

Work = Callable[["Worker"], int]

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP)
_STARTING_SECONDS: Final = 0.1  # from one look to the next while the first one starts
_PAUSE_SECONDS: Final = 0.5  # before one that died is started again; doubled each time
_MAX_PAUSE_SECONDS: Final = 30.0
_LONG_SECONDS: Final = 60.0  # who lived so long, died of something else than its start
_KILL_AFTER_SECONDS: Final = 10.0  # beyond the time that requests may take to finish


@dataclass(frozen=True)
class Worker:
    """What a started process knows of its place.

    Attributes:
        number: From 0 on; the one that takes its place after it died has the same.
        parent: A pipe's end that closes when the process ends that started it; None if it's
            that process.
        tell_ready: To be called once requests are answered.
    """

    number: int
    parent: int | None
    tell_ready: Callable[[], None]


@dataclass
class _Child:
    number: int
    started: float
    ready: int  # a pipe's end: a byte once it's ready


class Supervisor:
    """Keeps so many workers running until told to end."""

    def __init__(
        self, count: int, work: Work, *, tell_ready: Callable[[], None], shutdown_seconds: float
    ) -> None:
        """Take how many, what each does, for an exit status, and what to do once one is ready."""
        self._count = count
        self._work = work
        self._tell_ready = tell_ready
        self._shutdown_seconds = shutdown_seconds
        self._children: dict[int, _Child] = {}
        self._due: dict[int, float] = {}  # number to when it's to be started again
        self._pauses: dict[int, float] = {}
        self._ends_at_hangup = ends_at_hangup()
        self._parent, self._life = os.pipe()

    def run(self) -> int:
        """Start them, and keep them running; gives the exit status of all."""
        with counter_files():
            before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            try:
                return self._run()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _run(self) -> int:
        first = self._start(0)
        while first in self._children and not self._is_ready(first):
            if self._is_told_to_end(_STARTING_SECONDS):
                return self._end()
            for number, status in self._reap().items():
                if number == 0:
                    return status  # it said why
        self._tell_ready()
        for number in range(1, self._count):
            self._start(number)
        while not self._is_told_to_end(self._seconds_to_next()):
            for number, status in self._reap().items():
                self._plan(number, status)
            for number in [one for one, due in self._due.items() if due <= time.monotonic()]:
                del self._due[number]
                self._start(number)
        return self._end()

    def _start(self, number: int) -> int:
        ready, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._be_worker(number, ready, told)
        os.close(told)
        self._children[pid] = _Child(number, time.monotonic(), ready)
        return pid

    def _be_worker(self, number: int, ready: int, told: int) -> NoReturn:
        """Do the work in the new process, which leaves nothing of this one's to clean up."""
        os.close(self._life)
        os.close(ready)
        for child in self._children.values():
            os.close(child.ready)
        ignore_hangup()  # the first process ends them, if it ends
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os.environ[WORKER] = str(number)
        structlog.contextvars.bind_contextvars(worker=number)

        def tell_ready() -> None:
            os.write(told, b"1")
            os.close(told)

        status = 1
        try:
            status = self._work(Worker(number, self._parent, tell_ready))
        except BaseException:  # noqa: BLE001  (a defect: this process has no caller to raise to)
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(status)

    def _is_ready(self, pid: int) -> bool:
        ready = self._children[pid].ready
        return bool(select.select([ready], [], [], 0)[0]) and bool(os.read(ready, 1))

    def _is_told_to_end(self, seconds: float | None) -> bool:
        """Wait for a signal so long, and tell whether it's one to end."""
        found = (
            signal.sigwaitinfo(_SIGNALS)
            if seconds is None
            else signal.sigtimedwait(_SIGNALS, max(seconds, 0.0))
        )
        if found is not None and found.si_signo == signal.SIGHUP:
            return self._ends_at_hangup  # blocked, it comes even where it's ignored
        return found is not None and found.si_signo != signal.SIGCHLD

    def _seconds_to_next(self) -> float | None:
        return min(self._due.values()) - time.monotonic() if self._due else None

    def _reap(self) -> Mapping[int, int]:
        """Give number to exit status of those that ended; that of a signal is negative."""
        ended: dict[int, int] = {}
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            child = self._children.pop(pid, None)
            if child is not None:
                os.close(child.ready)
                ended[child.number] = os.waitstatus_to_exitcode(status)
                if time.monotonic() - child.started > _LONG_SECONDS:
                    self._pauses.pop(child.number, None)
        return ended

    def _plan(self, number: int, status: int) -> None:
        """Have one that died started again, later each time."""
        pause = self._pauses.get(number, _PAUSE_SECONDS)
        self._pauses[number] = min(pause * 2, _MAX_PAUSE_SECONDS)
        self._due[number] = time.monotonic() + pause
        log().error("worker.died", worker=number, status=status, again_in_seconds=pause)

    def _end(self) -> int:
        for pid in self._children:
            os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + self._shutdown_seconds + _KILL_AFTER_SECONDS
        statuses = dict(self._reap())
        while self._children and (left := until - time.monotonic()) > 0:
            signal.sigtimedwait([signal.SIGCHLD], left)
            statuses |= self._reap()
        for pid in self._children:
            log().error("worker.killed", pid=pid, problem="it didn't end in time")
            os.kill(pid, signal.SIGKILL)
        log().info("stopped")
        return 0
