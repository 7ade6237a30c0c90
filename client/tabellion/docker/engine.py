"""Starting the engine: as a child, or in place of this process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import BinaryIO, Final, NoReturn

from tabellion.errors import EngineError

ENGINES: Final = frozenset({"docker", "podman", "nerdctl"})
_IGNORED_BY_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)
_PASSED_ON: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def engine_name(engine: str) -> str:
    """Tell which engine's flags apply; a path such as ``/opt/bin/podman`` counts by its name.

    Raises:
        EngineError: Not an engine that is known here.
    """
    name = Path(engine).name
    if name not in ENGINES:
        raise EngineError(
            f"engine {engine!r} isn't known", hint="use docker, podman or nerdctl: --engine NAME"
        )
    return name


def replace_process(engine: str, words: Sequence[str]) -> NoReturn:
    """Become the engine: its exit status, signals and terminal are then its own.

    Raises:
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


def run_child(
    engine: str, words: Sequence[str], *, stdin: BinaryIO | None = None, quiet: bool = False
) -> int:
    """Run the engine and wait, passing signals on; give its status as a shell would.

    Args:
        engine: Program.
        words: Its arguments.
        stdin: What it reads instead of this process's input.
        quiet: Its standard output goes to standard error, as ``docker run`` does with progress.

    Raises:
        EngineError: It can't be started.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    target = sys.stderr.fileno() if quiet else None
    try:
        process = subprocess.Popen(  # noqa: S603  # the user's own command
            [engine, *words], stdin=stdin, stdout=target
        )
    except OSError as error:
        raise _not_started(engine, error) from error
    with _signals_passed_to(process):
        status = process.wait()
    return status if status >= 0 else 128 - status


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
def _signals_passed_to(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Hand signals to the child; the terminal's own interrupt reaches it anyway."""

    def pass_on(number: int, _: FrameType | None) -> None:
        if process.returncode is None:
            process.send_signal(number)

    try:
        former = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
        former[signal.SIGINT] = signal.signal(
            signal.SIGINT, pass_on if not sys.stdin or not sys.stdin.isatty() else signal.SIG_IGN
        )
    except ValueError:  # not the main thread, which gets the signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _not_started(engine: str, error: OSError) -> EngineError:
    return EngineError(
        f"{engine} can't be started: {error.strerror}",
        hint="install it (Debian: docker.io or podman), or choose another with --engine NAME",
    )
