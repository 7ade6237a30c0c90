"""A real trust server as a child process on loopback, for the demo and for tests.

The client never imports the server: it starts it as anybody would, and reads its address from
the ``listening`` line of its log. However this process ends, the child ends too.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tabellion.errors import ConfigurationError, UnreachableError

_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
_URL = re.compile(rb"listening.*?(https?://[0-9A-Za-z.:\[\]]+)|\"url\": ?\"(https?://[^\"]+)\"")
_ANSI = re.compile(rb"\x1b\[[0-9;]*m")
# Linux ends the child even if this process is killed with SIGKILL (PR_SET_PDEATHSIG, SIGTERM).
_LAUNCH = """
import ctypes, runpy, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 15)
sys.argv = ["tabellion_server", *sys.argv[1:]]
runpy.run_module("tabellion_server", run_name="__main__", alter_sys=True)
"""
_CONFIG = """
[server]
listen = "127.0.0.1:0"
[storage]
url = "sqlite:///{folder}/tabellion.db"
[keys]
master_key_file = "{folder}/master.key"
"""


class EmbeddedServer:
    """``python -m tabellion_server serve`` with its data in a folder.

    Attributes:
        url: Base URL, once started.
        log: Its log file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "server.log"
        self.url = ""
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it accepts connections.

        Raises:
            ConfigurationError: The server isn't installed.
            UnreachableError: It didn't come up; the message holds its last words.
        """
        for module in ("tabellion_server", "structlog"):
            if importlib.util.find_spec(module) is None:
                raise ConfigurationError(
                    f"the server isn't installed here: no module {module}",
                    hint="pip install '.[server]' in a clone of Tabellion",
                )
        config = self.folder / "server.toml"
        config.write_text(_CONFIG.format(folder=self.folder), encoding="utf-8")
        with self.log.open("wb") as log:
            self._child = subprocess.Popen(  # noqa: S603  # our own interpreter and module
                [sys.executable, "-c", _LAUNCH, "serve", "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours to handle, in order
            )
        try:
            self.url = self._wait_for_url(self._child)
        except BaseException:
            self.stop()
            raise

    def _wait_for_url(self, child: subprocess.Popen[bytes]) -> str:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            text = _ANSI.sub(b"", self.log.read_bytes())
            for line in text.splitlines():
                found = _URL.search(line) if b"listening" in line else None
                if found:
                    return (found[1] or found[2]).decode().rstrip("/")
            if child.poll() is not None:
                lines = text.decode(errors="replace").strip().splitlines() or ["no output"]
                raise UnreachableError(
                    f"the embedded server ended at once: {lines[-1]}", hint=f"see {self.log}"
                )
            time.sleep(0.03)
        raise UnreachableError(
            f"the embedded server didn't come up in {_START_SECONDS:.0f} s", hint=f"see {self.log}"
        )

    def stop(self) -> None:
        """End it gracefully, or by force after ten seconds; fine if it's ended already."""
        child, self._child = self._child, None
        if child is None or child.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
        try:
            child.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
