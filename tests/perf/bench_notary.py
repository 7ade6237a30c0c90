"""Reads and publications of Notary GUNs: our server beside the real notary-server.

Run: .venv/bin/python tests/perf/bench_notary.py [ROUNDS]. The real one has its signer and a
PostgreSQL that syncs, ours its SQLite, which does; both speak plain http on loopback, to the same
load, in turns within every round. Prints medians, spread, ratios of medians, and the
processor time of each side's processes, which a busy machine blurs less.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1]))

from notary_forge import NotaryForge, NotarySigner, multipart, target, unb64
from notary_servers import real_notary
from tabellion.cli.embedded import EmbeddedServer

CONNECTIONS = 8
REQUESTS = 50  # of timestamp.json, on each connection, in each round
COLD_SETS = 10  # on each connection, in each round
SIZES = (10, 1_000)


class Connection:
    """One kept connection that speaks as little HTTP as both servers need."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def ask(self, method: str, path: str, headers: bytes = b"", body: bytes = b"") -> bytes:
        """Ask, demand 200, and give the body."""
        line = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode()
        self._writer.write(line + headers + b"\r\n" + body)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head)
        if length is not None:
            answer = await self._reader.readexactly(int(length[1]))
        else:
            assert b"chunked" in head.lower(), head
            answer = b"".join([piece async for piece in self._chunks()])
        assert head.startswith(b"HTTP/1.1 200"), head + answer
        return answer

    async def _chunks(self) -> AsyncIterator[bytes]:
        while True:
            size = int(await self._reader.readline(), 16)
            data = await self._reader.readexactly(size + 2)
            if size == 0:
                return
            yield data[:-2]


@dataclass
class Gun:
    """A GUN on one server, whose owner publishes on and on.

    Attributes:
        port: The server's.
        size: How many targets each of its versions has.
    """

    port: int
    size: int
    version: int = 0
    forge: NotaryForge = field(init=False)

    def __post_init__(self) -> None:
        self.name = f"bench.example/of-{self.size}"
        self.path = f"/v2/{self.name}/_trust/tuf/"
        keys = [
            json.loads(
                urllib.request.urlopen(  # loopback
                    f"http://127.0.0.1:{self.port}{self.path}{role}.key", timeout=10
                ).read()
            )
            for role in ("timestamp", "snapshot")
        ]
        self.forge = NotaryForge(self.name, *keys, [NotarySigner.root(self.name)])

    def next_upload(self) -> tuple[bytes, bytes]:
        """Sign the next version: one target of it is another."""
        self.version += 1
        named = {f"t{number}": target(b"x") for number in range(self.size)}
        named["t0"] = target(str(self.version).encode())
        files = {"targets": self.forge.targets_file(self.version, targets=named)}
        if self.version == 1:
            files = {"root": self.forge.root(), **files}
        kind, body = multipart(files)
        return f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n".encode(), body

    async def publish(self) -> float:
        """Give the milliseconds of one upload, on a connection that's open."""
        head, body = self.next_upload()
        async with Connection(self.port) as connection:
            await connection.ask("GET", "/v2/")
            begin = time.perf_counter()
            await connection.ask("POST", self.path, head, body)
            return (time.perf_counter() - begin) * 1000

    async def read_timestamps(self) -> float:
        """Give reads a second of ``timestamp.json``."""

        async def one() -> None:
            async with Connection(self.port) as connection:
                for _ in range(REQUESTS):
                    await connection.ask("GET", f"{self.path}timestamp.json")

        return await _rate(one, REQUESTS)

    async def read_cold(self) -> float:
        """Give how many a second read all that a client without a cache reads."""

        async def one() -> None:
            for _ in range(COLD_SETS):
                async with Connection(self.port) as connection:
                    await self._cold(connection)

        return await _rate(one, COLD_SETS)

    async def _cold(self, connection: Connection) -> None:
        files = {}
        for role in ("root", "timestamp"):
            files[role] = await connection.ask("GET", f"{self.path}{role}.json")
        for role, by in (("snapshot", "timestamp"), ("targets", "snapshot")):
            listed = json.loads(files[by])["signed"]["meta"][role]["hashes"]["sha256"]
            sha256 = unb64(listed).hex()
            files[role] = await connection.ask("GET", f"{self.path}{role}.{sha256}.json")
            assert hashlib.sha256(files[role]).hexdigest() == sha256


def processor_seconds(ours: int) -> dict[str, float]:
    """Give the processor time that each side's processes used so far; ``ours`` is a process id."""
    used = dict.fromkeys(("real", "ours"), 0.0)
    parents: dict[int, tuple[int, float]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            ticks = sum(map(int, fields[11:15]))  # its own, and of its children that ended
            parents[int(path.parent.name)] = int(fields[1]), ticks / os.sysconf("SC_CLK_TCK")
    for pid, (_, seconds) in parents.items():
        line = [pid]
        while line[-1] in parents and line[-1] != os.getpid():
            line.append(parents[line[-1]][0])
        if os.getpid() in line[1:]:
            used["ours" if ours in line else "real"] += seconds
    return used


async def _rate(one: Callable[[], Awaitable[None]], each: int) -> float:
    begin = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
    return CONNECTIONS * each / (time.perf_counter() - begin)


async def measure(ports: dict[str, int], rounds: int, ours_pid: int) -> None:
    guns = {who: [Gun(port, size) for size in SIZES] for who, port in ports.items()}
    for mine in guns.values():
        for gun in mine:
            await gun.publish()
    figures: dict[tuple[str, str], list[float]] = {}
    spent: dict[tuple[str, str], float] = {}
    for _ in range(rounds):
        for who, (small, large) in guns.items():
            for what, act in (
                ("timestamp.json, reads/s", small.read_timestamps),
                ("cold set of 10 targets, sets/s", small.read_cold),
                ("cold set of 1,000 targets, sets/s", large.read_cold),
                ("upload of 10 targets, ms", small.publish),
                ("upload of 1,000 targets, ms", large.publish),
            ):
                before = processor_seconds(ours_pid)[who]
                figures.setdefault((what, who), []).append(await act())
                spent[what, who] = spent.get((what, who), 0) - before
                spent[what, who] += processor_seconds(ours_pid)[who]
    for what in dict.fromkeys(what for what, _ in figures):
        medians = {who: statistics.median(figures[what, who]) for who in guns}
        shown = "   ".join(
            f"{who} {medians[who]:8.1f} ({min(values):.1f} to {max(values):.1f})"
            for who in guns
            for values in [figures[what, who]]
        )
        ours, real = medians["ours"], medians["real"]
        faster = ours / real if what.endswith("/s") else real / ours
        used = "   ".join(f"{who} {spent[what, who]:.2f} s" for who in guns)
        print(f"{what:34} {shown}   ours is {faster:.2f} times as fast   processor: {used}")


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        for part in ("real", "ours"):
            (Path(name) / part).mkdir()
        with (
            real_notary(Path(name) / "real", https=False, fsync=True) as real,
            EmbeddedServer(Path(name) / "ours") as ours,
        ):
            urls = {"real": real.url, "ours": ours.url}
            ports = {who: urlsplit(url).port or 0 for who, url in urls.items()}
            print(f"{rounds} rounds, {CONNECTIONS} connections")
            assert ours._child is not None
            asyncio.run(measure(ports, rounds, ours._child.pid))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 11)
