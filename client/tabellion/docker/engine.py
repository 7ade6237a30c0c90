"""Starting the engine: as a child, or in place of this process."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import BinaryIO, Final, NoReturn

from tabellion.errors import ConfigurationError, EngineError, TabellionError

_Process = subprocess.Popen[bytes]
ENGINES: Final = frozenset({"docker", "podman", "nerdctl"})
_IGNORED_BY_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)
_MISSING: Final = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENOEXEC)
_TAIL_BYTES: Final = 4096
_SHOWN_CHARACTERS: Final = 200
_PASSED_ON: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def engine_name(engine: str) -> str:
    """Tell which engine's flags apply; a path such as ``/opt/bin/podman`` counts by its name.

    Raises:
        ConfigurationError: Not an engine that is known here.
    """
    name = Path(engine).name
    if name not in ENGINES:
        raise ConfigurationError(
            f"engine {engine!r} isn't known", hint="use docker, podman or nerdctl: --engine NAME"
        )
    return name


def replace_process(engine: str, words: Sequence[str]) -> NoReturn:
    """Become the engine: its exit status, signals and terminal are then its own.

    Raises:
        ConfigurationError: There is no such program.
        EngineError: It can't be started.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    for number in _IGNORED_BY_PYTHON:  # else the engine would inherit that
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(engine, [engine, *words])  # noqa: S606  # no shell: that's the point
    except OSError as error:
        for number in _IGNORED_BY_PYTHON:
            signal.signal(number, signal.SIG_IGN)
        raise _not_started(engine, error) from error


def run_child(engine: str, words: Sequence[str], *, stdin: BinaryIO | None = None) -> int:
    """Run the user's command and wait, passing signals on; give its status as a shell would.

    Args:
        engine: Program.
        words: Its arguments.
        stdin: What it reads instead of this process's input.

    Raises:
        ConfigurationError: There is no such program.
        EngineError: It can't be started.
    """
    with _signals_passed_on() as attach:
        process = attach(_start(engine, words, stdin=stdin))
        status = process.wait()
    return status if status >= 0 else 128 - status


def run_step(engine: str, words: Sequence[str], what: str, *, quiet: bool = True) -> None:
    """Run a step of our own and wait, passing signals on.

    It reads nothing: standard input belongs to the user's command.

    Args:
        engine: Program.
        words: Its arguments.
        what: The step, for the error: ``pull of IMAGE``.
        quiet: Its standard output goes to standard error, as ``docker run`` does with progress.

    Raises:
        ConfigurationError: There is no such program.
        EngineError: It can't be started, or it failed; the hint holds its last words.
        SystemExit: A signal ended it; the status is a shell's.
    """
    target = sys.stderr.fileno() if quiet else None
    tail = bytearray()
    with _signals_passed_on() as attach:
        process = attach(
            _start(engine, words, stdin=subprocess.DEVNULL, stdout=target, stderr=subprocess.PIPE)
        )
        reader = threading.Thread(target=_copy_stderr, args=(process, tail), daemon=True)
        reader.start()
        status = process.wait()
        reader.join(timeout=2)  # a grandchild may hold the pipe open
    if status < 0:
        raise SystemExit(128 - status)
    if status != 0:
        last = _last_line(bytes(tail))
        raise EngineError(
            f"{what} by {engine} failed with status {status}",
            hint=f"{Path(engine).name} said: {last}" if last else "",
        )


def _start(
    engine: str,
    words: Sequence[str],
    *,
    stdin: BinaryIO | int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
) -> _Process:
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        return subprocess.Popen(  # noqa: S603  # the user's own command
            [engine, *words], stdin=stdin, stdout=stdout, stderr=stderr
        )
    except OSError as error:
        raise _not_started(engine, error) from error


def _copy_stderr(process: _Process, tail: bytearray) -> None:
    """Show what the engine says while it says it, and keep its end."""
    if process.stderr is None:
        return
    with process.stderr as pipe:
        while data := os.read(pipe.fileno(), _TAIL_BYTES):
            with suppress(OSError):  # nobody listens: go on reading, or the engine would stall
                sys.stderr.buffer.write(data)
                sys.stderr.flush()
            tail += data
            del tail[:-_TAIL_BYTES]


def _last_line(data: bytes) -> str:
    lines = data.decode("utf-8", "replace").replace("\r", "\n").splitlines()
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    shown = "".join(c if c.isprintable() else "?" for c in last)
    return shown if len(shown) <= _SHOWN_CHARACTERS else shown[:_SHOWN_CHARACTERS] + "..."


def is_present(engine: str, words: Sequence[str]) -> bool:
    """Run a question whose status is the answer.

    Raises:
        EngineError: The engine can't be started.
    """
    try:
        done = subprocess.run(  # noqa: S603  # the user's own engine
            [engine, *words],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except OSError as error:
        raise _not_started(engine, error) from error
    return done.returncode == 0


@contextmanager
def _signals_passed_on() -> Iterator[Callable[[_Process], _Process]]:
    """Hand signals to the child that is attached, also those that came while it was started.

    The terminal's own interrupt reaches it anyway. Handlers in Python aren't inherited: the child
    starts with the defaults.
    """
    children: list[_Process] = []
    missed: list[int] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        if not children:
            missed.append(number)
        elif children[0].returncode is None:
            children[0].send_signal(number)

    def leave(_: int, __: FrameType | None) -> None:
        """Do nothing; SIG_IGN would be inherited."""

    def attach(process: _Process) -> _Process:
        children.append(process)
        for number in missed:
            process.send_signal(number)
        return process

    try:
        former = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
        former[signal.SIGINT] = signal.signal(
            signal.SIGINT, pass_on if not sys.stdin or not sys.stdin.isatty() else leave
        )
    except ValueError:  # not the main thread, which gets the signals
        yield attach
        return
    try:
        yield attach
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _not_started(engine: str, error: OSError) -> TabellionError:
    kind = ConfigurationError if error.errno in _MISSING else EngineError
    return kind(
        f"{engine} can't be started: {error.strerror}",
        hint="install it (Debian: docker.io or podman), or choose another with --engine NAME",
    )
