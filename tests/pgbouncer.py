"""A real PgBouncer before a test's PostgreSQL, on loopback."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from integration.engines import free_port, is_listening, need, wait_until
from postgres_server import USER, Database, as_user
from tabellion_server.storage.postgres_link import Place

Mode = Literal["session", "transaction", "statement"]
_CONFIG = """\
[databases]
* = host=127.0.0.1 port={upstream}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = {mode}
max_client_conn = {clients}
server_round_robin = 1
"""


class PgBouncer:
    """One pooler, which a test may kill and start again.

    Its connections are handed round in turn, so that one who isn't tied to any gets another each
    time.
    """

    def __init__(self, folder: Path, upstream: int, mode: Mode, clients: int) -> None:
        self.port = free_port()
        self.log = folder / "log"
        self._config = folder / "pgbouncer.ini"
        users = folder / "users"
        users.write_text(f'"{USER}" ""\n')
        self._config.write_text(
            _CONFIG.format(
                upstream=upstream, port=self.port, users=users, mode=mode, clients=clients
            )
        )
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextlib.contextmanager
    def running(cls, upstream: int, mode: Mode, *, clients: int = 100) -> Iterator[PgBouncer]:
        """Run one before the server at a port for as long as the block lasts."""
        need("pgbouncer")
        with tempfile.TemporaryDirectory(prefix="pgb", dir="/tmp") as name:
            pooler = cls(Path(name), upstream, mode, clients)
            if as_user():
                for path in (Path(name), *Path(name).iterdir()):
                    shutil.chown(path, "postgres", "postgres")
            try:
                pooler.start()
                yield pooler
            finally:
                pooler.kill()

    def start(self) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                ["pgbouncer", self._config],  # noqa: S607  (wherever it is)
                stdout=output,
                stderr=output,
                **as_user(),
            )
        wait_until(lambda: is_listening(self.port), self._process, self.log)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=20)
            self._process = None

    def place(self, database: Database, *, prepares: bool = False) -> Place:
        url = f"postgresql://{USER}@127.0.0.1:{self.port}/{database.name}"
        return Place(url, url, prepares=prepares)
