"""A real PostgreSQL for tests, on loopback, with databases made from a migrated template."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from integration.engines import free_port, wait_until
from tabellion_server.storage.postgres_link import Place
from tabellion_server.storage.postgres_schema import migrate_store

USER = "tabellion"
_TABLES = """SELECT relname FROM pg_class WHERE relnamespace = 'tabellion'::regnamespace
    AND relkind = 'r' AND relname NOT IN ('schema_version', 'counter')"""
_HBA = """\
local all all trust
host all guarded 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
host replication all 127.0.0.1/32 trust
"""


def programs() -> Path:
    """Give the folder of PostgreSQL's programs, or skip the test."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("postgres is missing: apt-get install postgresql")
    return found[-1]


def as_user() -> dict[str, Any]:
    """Say who runs them: they refuse to run as root."""
    return {"user": "postgres", "group": "postgres", "extra_groups": []} if not os.geteuid() else {}


class PostgresServer:
    """One server of its own, which a test may stop, kill and start again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.log = folder / "log"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0

    @classmethod
    @contextlib.contextmanager
    def running(cls, *settings: str) -> Iterator[PostgresServer]:
        """Make one and run it for as long as the block lasts."""
        with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as name:
            server = cls(Path(name))
            if as_user():
                shutil.chown(name, "postgres", "postgres")
            server.run("initdb", "-D", server.data, "-U", USER, "-A", "trust", "-E", "UTF8", "-N")
            (server.data / "pg_hba.conf").write_text(_HBA)
            try:
                server.start(*settings)
                yield server
            finally:
                server.stop(signal.SIGQUIT)

    @contextlib.contextmanager
    def standby(self) -> Iterator[PostgresServer]:
        """Run one that follows this one, which from now on waits for it with each commit."""
        with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as name:
            other = PostgresServer(Path(name))
            if as_user():
                shutil.chown(name, "postgres", "postgres")
            words = ["-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "-c", "fast", "-R"]
            other.run("pg_basebackup", *words, "-D", other.data)
            try:
                other.start()
                self.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
                self.sql("SELECT pg_reload_conf()")
                yield other
            finally:
                other.stop(signal.SIGQUIT)

    def url(self, database: str, user: str = USER) -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def run(self, program: str, *words: str | Path) -> None:
        subprocess.run(
            [programs() / program, *words],
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
            check=True,
            **as_user(),
        )

    def start(self, *settings: str) -> None:
        words: list[str | Path] = ["-D", self.data, "-k", self.folder, "-h", "127.0.0.1"]
        words += ["-p", str(self.port)]
        for setting in ("max_connections=100", *settings):
            words += ["-c", setting]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [programs() / "postgres", *words],
                stdout=output,
                stderr=output,
                cwd=self.folder,
                **as_user(),
            )
        wait_until(self.answers, self._process, self.log)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT cuts connections in order, SIGQUIT is a crash."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=20)
            self._process = None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Have it and its children do nothing for as long as the block lasts."""
        assert self._process is not None
        pids = [self._process.pid]
        for each in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(each.read_text().rpartition(")")[2].split()[1]) == self._process.pid:
                    pids.append(int(each.parent.name))
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def answers(self) -> bool:
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def sql(self, text: str, database: str = "postgres") -> list[Any]:
        """Run a statement as its owner; give its rows."""
        options = "-c default_transaction_read_only=off"
        with psycopg.connect(self.url(database), autocommit=True, options=options) as connection:
            found = connection.execute(text.encode())
            return found.fetchall() if found.description else []

    def new_database(self, template: str = "template0") -> Database:
        self._databases += 1
        database = Database(self, f"db{self._databases}")
        self.sql(f"CREATE DATABASE {database.name} TEMPLATE {template}")
        return database

    def migrated_database(self) -> Database:
        database = self.new_database()
        with ThreadPoolExecutor(1) as thread:  # there may be a loop already in this one
            thread.submit(lambda: asyncio.run(migrate_store(database.place))).result()
        return database


@dataclass(frozen=True)
class Database:
    """A database of such a server."""

    server: PostgresServer
    name: str

    @property
    def url(self) -> str:
        return self.server.url(self.name)

    @property
    def place(self) -> Place:
        return Place(self.url, self.url)

    def sql(self, text: str) -> list[Any]:
        return self.server.sql(text, self.name)

    def empty(self) -> None:
        """Have no rows but those of a store just made."""
        tables = [name for (name,) in self.sql(_TABLES)]
        statements = [f"DELETE FROM tabellion.{name}" for name in sorted(tables)]  # noqa: S608  (ours)
        self.sql(
            ";".join(
                [
                    *statements,
                    "UPDATE tabellion.counter SET last = 0, known = 0, is_loading = false",
                ]
            )
        )

    def rows(self) -> dict[str, bytes]:
        """Give all rows, as a backup holds them."""
        tables = sorted(name for (name,) in self.sql(_TABLES))
        with psycopg.connect(self.url) as connection:
            found = {}
            for name in [*reversed(tables), "counter"]:  # metadata before current
                with connection.cursor().copy(f"COPY tabellion.{name} TO STDOUT".encode()) as copy:
                    found[name] = b"".join(bytes(part) for part in copy)
            return found

    def replace(self, rows: Mapping[str, bytes]) -> None:
        """Put a backup's rows in the place of what is there."""
        with psycopg.connect(self.url) as connection:
            for name in reversed(list(rows)):
                connection.execute(f"DELETE FROM tabellion.{name}".encode())  # noqa: S608  (same)
            for name, data in rows.items():
                with connection.cursor().copy(f"COPY tabellion.{name} FROM STDIN".encode()) as copy:
                    copy.write(data)

    def dump(self) -> list[str]:
        """Give every row of the store but of what comes and goes by itself."""
        tables = sorted(name for (name,) in self.sql(_TABLES) if name != "receipts")
        return [
            f"{name} {row}"
            for name in [*tables, "counter"]
            for row in self.sql(f"SELECT * FROM tabellion.{name} t ORDER BY t::text")  # noqa: S608  (same)
        ]
