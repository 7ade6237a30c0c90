"""Many GUNs in one store: what a publication, a page of the list and a restart cost, and memory.

Run: .venv/bin/python tests/perf/bench_scale.py [GUNS] [ENGINE] [TARGETS]. A real server process on
an engine of its own: sqlite, postgres or valkey. Each GUN has ten targets. Prints medians, spread
at a hundredth of the GUNs and at all of them: they should be alike. Then one GUN of
very many targets, in 1024 hash bins.
"""

from __future__ import annotations

import asyncio
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import aiohttp
from securesystemslib.signer import Key

from forge import Forge, target
from http_site import signed
from person import Person
from postgres_server import PostgresServer
from tabellion.core.names import Digest, parse_gun
from tabellion.publish.changes import SignTarget
from valkey_servers import valkey

ROUNDS = 40
WRITERS = 8
CONFIG = """
[server]
listen = "127.0.0.1:0"
log_level = "warning"
max_body_bytes = 67108864
[storage]
url = "{url}"
[expiry]
timestamp = "7d"
"""


@asynccontextmanager
async def served(config: Path) -> AsyncIterator[tuple[str, int, float]]:
    """Give a server's address, its process and the seconds that its start took."""
    begin = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tabellion_server", "serve", "--config", str(config)),
        env={"TABELLION_SERVER__LOG_LEVEL": "info", "PATH": "/usr/bin:/bin"},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    found = None
    while found is None:
        found = re.search(rb"listening\s+url=(\S+)", await process.stderr.readline())
    seconds = time.perf_counter() - begin
    draining = asyncio.create_task(process.stderr.read())
    try:
        yield found[1].decode(), process.pid, seconds
    finally:
        process.terminate()
        await process.wait()
        await draining


def memory(pid: int) -> float:
    """Give resident megabytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+([0-9]+) kB", text)
    assert found is not None
    return int(found[1]) / 1024


def show(what: str, figures: list[float], unit: str = "ms") -> None:
    factor = 1000 if unit == "ms" else 1
    low, median, high = (
        factor * value for value in (min(figures), statistics.median(figures), max(figures))
    )
    print(f"{what:44} {median:9.1f} {unit} ({low:.1f} to {high:.1f}, n={len(figures)})", flush=True)


class Site:
    """A publisher of very many GUNs, who has one key for all."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url
        self.forge = Forge()
        self.versions: dict[int, int] = {}

    def base(self, number: int) -> str:
        return f"{self.url}/v2/bench.example/team{number % 97}/app{number}/_trust/tuf/"

    async def found(self, number: int) -> None:
        base, forge = self.base(number), Forge(dict(self.forge.signers))
        for role in ("snapshot", "timestamp"):
            async with self.session.get(f"{base}{role}.key?dialect=tuf") as answer:
                fields = await answer.json()
            forge.root.revoke_key(forge.root.roles[role].keyids[0], role)
            forge.root.add_key(Key.from_dict(fields.pop("keyid"), fields), role)
        for name in map(str, range(10)):
            forge.targets.targets[name] = target(b"x", name)
        await self.post(base, signed(forge, "root", "targets"))

    async def publish(self, number: int) -> None:
        version = self.versions[number] = self.versions.get(number, 1) + 1
        self.forge.targets.version = version
        self.forge.targets.targets = {
            name: target(b"%d" % version, name) for name in map(str, range(10))
        }
        await self.post(self.base(number), signed(self.forge, "targets"))

    async def post(self, base: str, files: dict[str, bytes]) -> None:
        form = aiohttp.FormData(quote_fields=False)
        for role, data in files.items():
            form.add_field("files", data, filename=role)
        async with self.session.post(base, data=form) as answer:
            assert answer.status == 200, await answer.text()

    async def get(self, url: str) -> None:
        async with self.session.get(url) as answer:
            assert answer.status == 200, await answer.text()
            await answer.read()


async def fill(site: Site, first: int, last: int) -> None:
    waiting = iter(range(first, last))

    async def work() -> None:
        for number in waiting:
            await site.found(number)

    begin = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(WRITERS)))
    seconds = time.perf_counter() - begin
    print(f"founded GUNs {first} to {last}: {(last - first) / seconds:.0f} a second", flush=True)


async def measure(site: Site, pid: int, count: int) -> None:
    rng = random.Random(1)  # noqa: S311  (a seed, not a secret)
    chosen = rng.sample(range(count), min(ROUNDS, count))
    figures: dict[str, list[float]] = {"publish one": [], "list 100": [], "read a timestamp": []}
    for number in chosen:
        base = site.base(number)
        for what, act in (
            ("publish one", lambda number=number: site.publish(number)),
            ("list 100", lambda: site.get(f"{site.url}/v1/guns?limit=100&after=bench.example/m")),
            ("read a timestamp", lambda base=base: site.get(f"{base}timestamp.json")),
        ):
            begin = time.perf_counter()
            await act()
            figures[what].append(time.perf_counter() - begin)
    for what, seconds in figures.items():
        show(f"{count} GUNs: {what}", seconds)
    print(f"{count} GUNs: resident {memory(pid):.0f} MB", flush=True)


async def large(config: Path, folder: Path, targets: int, bins: int) -> None:
    """Measure one GUN of very many targets."""
    gun = parse_gun("bench.example/large")
    changes = [SignTarget(f"t{number}", Digest.of(b"x"), 1) for number in range(targets)]
    what = f"{targets} targets in {bins} bins"
    async with served(config) as (url, pid, _), Person(url, folder / "owner") as owner:
        made = await owner.publisher.init(gun, bins=bins)
        begin = time.perf_counter()
        await owner.publisher._applier.publish(gun, changes, again=False)
        show(f"{what}: publish all", [time.perf_counter() - begin], "s")
        figures: list[float] = []
        for number in range(5):
            begin = time.perf_counter()
            await owner.sign(gun, f"new{number}")
            figures.append(time.perf_counter() - begin)
        show(f"{what}: publish one more", figures)
        async with Person(url, folder / "reader", made.root) as reader:
            begin = time.perf_counter()
            await reader.trust.target(gun, "t7")
            show(f"{what}: verify one, new client", [time.perf_counter() - begin])
        print(f"{what}: resident {memory(pid):.0f} MB", flush=True)
    async with served(config) as (_, _, start):
        show(f"{what}: restart", [start], "s")


async def many(config: Path, count: int) -> None:
    """Measure many GUNs."""
    few = max(count // 100, 10)
    async with served(config) as (at, pid, start), aiohttp.ClientSession() as session:
        print(f"start of an empty store {start:.2f} s, resident {memory(pid):.0f} MB")
        site = Site(session, at)
        await fill(site, 0, few)
        await measure(site, pid, few)
        await fill(site, few, count)
        await measure(site, pid, count)
    starts = []
    for _ in range(5):
        async with served(config) as (_, _, start):
            starts.append(start)
    show(f"{count} GUNs: restart", starts, "s")
    async with served(config) as (at, pid, _), aiohttp.ClientSession() as session:
        site.session, site.url = session, at
        for number in range(count):
            await site.get(f"{site.base(number)}timestamp.json")
        print(f"{count} GUNs: resident after reading each {memory(pid):.0f} MB")


def place_of(engine: str, folder: Path, stack: ExitStack) -> str:
    """Start an engine; give what ``storage.url`` is to be."""
    if engine == "postgres":
        server = stack.enter_context(PostgresServer.running())
        return server.migrated_database().url
    if engine == "valkey":
        return stack.enter_context(valkey(folder / "valkey")).url
    return "sqlite:///store/tabellion.db"


def main(count: int, engine: str, targets: int) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        key = folder / "master.key"
        if engine != "sqlite":
            key.write_text("A" * 43 + "=")
            key.chmod(0o600)
        config = folder / "server.toml"
        config.write_text(CONFIG.format(url=place_of(engine, folder, stack)))
        print(f"== {engine}", flush=True)
        asyncio.run(many(config, count))
        asyncio.run(large(config, folder, targets, 1024))


if __name__ == "__main__":
    words = [*sys.argv[1:], *("1000", "sqlite", "100000")[len(sys.argv) - 1 :]]
    main(int(words[0]), words[1], int(words[2]))
