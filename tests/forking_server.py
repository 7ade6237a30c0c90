"""Runs ``tabellion`` for shell scripts without importing it each time.

``shell_command`` puts a ``tabellion`` in a folder for ``PATH``: a few lines that hand their
arguments, folder, environment and streams to one process that has everything imported. It forks.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_COMMAND = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as link:
    link.connect({address!r})
    asked = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(link, [len(asked).to_bytes(4, "big")], [0, 1, 2])
    link.sendall(asked)
    sys.exit(int(link.recv(8) or b"70"))
"""


@contextlib.contextmanager
def shell_command(folder: Path) -> Iterator[Path]:
    """Run the process, and give the folder that has the command."""
    address = folder / "socket"
    command = folder / "tabellion"
    command.write_text(_COMMAND.format(python=sys.executable, address=str(address)))
    command.chmod(0o700)
    with subprocess.Popen([sys.executable, __file__, str(address)], stdout=subprocess.PIPE) as own:
        assert own.stdout is not None
        own.stdout.readline()
        yield folder
        own.terminate()


def _serve(address: str) -> None:
    from forked_command import preload  # noqa: PLC0415  (this very process only)

    preload()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who answer
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            link, _ = server.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _answer(link)
                os._exit(0)
            link.close()


def _answer(link: socket.socket) -> None:
    head, streams, _, _ = socket.recv_fds(link, 4, 3)
    asked = b""
    while len(asked) < int.from_bytes(head, "big"):
        asked += link.recv(1 << 16)
    words, folder, environ = json.loads(asked)
    child = os.fork()
    if child == 0:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environ)
        from tabellion.cli import main  # noqa: PLC0415  (as above)

        status: object = 0
        try:
            main(words)
        except SystemExit as end:
            status = end.code or 0
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)
    _, ended = os.waitpid(child, 0)
    link.sendall(b"%d" % os.waitstatus_to_exitcode(ended))


if __name__ == "__main__":
    _serve(sys.argv[1])
