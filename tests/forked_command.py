"""Runs ``tabellion`` command lines as processes that needn't import anything first.

Each is forked from one process that has it all imported: a start costs milliseconds, not a second.
Environment, folder, descriptors and exit status are its own, and it may become another program.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PRELOADED = [
    *(f"tabellion.cli.{verb}" for verb in ("app", "docker", "history", "init", "inspect", "key")),
    *(f"tabellion.cli.{verb}" for verb in ("list", "publish", "publishing", "pull", "revoke")),
    *(f"tabellion.cli.{verb}" for verb in ("rotate", "sign", "signer", "verify")),
    *("tabellion.publish.publisher", "tabellion.publish.birth", "tabellion.verify.client"),
    *("aiohttp", "rich.table", "tabellion.docker.wrapper", "tabellion.registry.client"),
]


@dataclass(frozen=True)
class Done:
    """How a command ended; what it wrote is text."""

    returncode: int
    stdout: str
    stderr: str


def preload() -> None:
    """Import what is preloaded."""
    for name in _PRELOADED:
        importlib.import_module(name)


def run(
    words: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    stdin: str = "",
    timeout_seconds: float = 60,
) -> Done:
    """Run ``tabellion`` with these arguments and nothing but this environment.

    Raises:
        TimeoutError: It took longer; it was killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    with tempfile.TemporaryDirectory(prefix="tbl") as name:
        streams = [Path(name) / stream for stream in ("stdin", "stdout", "stderr")]
        streams[0].write_text(stdin)
        process = context.Process(
            target=_child, args=(list(words), dict(env), str(cwd), [*map(str, streams)])
        )
        process.start()
        process.join(timeout_seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"tabellion {' '.join(words)}: over {timeout_seconds} s")
        written = [stream.read_text(errors="replace") for stream in streams[1:]]
        return Done(process.exitcode, *written)


def _child(words: list[str], env: dict[str, str], cwd: str, streams: list[str]) -> None:
    for number, path in enumerate(streams):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  # until the end
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    from tabellion.cli import main  # noqa: PLC0415  # this very process only

    main(words)
