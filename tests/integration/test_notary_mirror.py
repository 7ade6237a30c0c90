"""Mirroring over HTTP: from a server of files that may be busy, broken or lying, and a real one."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from integration import engines
from notary_database import NotaryRows
from notary_gun import GUN, NotaryGun, certified, target
from notary_script import Script
from notary_servers import RealNotary, our_config, our_notary
from tabellion.core.dialect import NOTARY
from tabellion.transport.fetcher import HttpFetcher
from tabellion_server.keys.master import MasterKey
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.migration.importing import Outcome, Status, Target
from tabellion_server.migration.mirror import Mirror
from tabellion_server.migration.mirror_site import NotarySite
from tabellion_server.storage.interface import StoredFile
from tabellion_server.storage.sqlite import SqliteStore

HELLO = hashlib.sha256(b"hello").hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()
_TUF = re.compile(r"/v2/(.+)/_trust/tuf/(.+)\.json")
Fault = Callable[[web.Request], web.Response | None]


@dataclass
class Source:
    """A server of Notary's files.

    Attributes:
        files: GUN to role, version and bytes.
        asked: Paths, as they came.
        fault: What it answers instead, if anything.
    """

    files: dict[str, dict[tuple[str, int], bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    fault: Fault = lambda _: None
    url: str = ""

    def add_release(self, gun: str, release: dict[str, bytes]) -> None:
        for role, data in release.items():
            version = NOTARY.parse(role, data, max_bytes=len(data)).signed.version
            self.files.setdefault(gun, {}).setdefault((role, version), data)

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        if found := self.fault(request):
            return found
        if request.path == "/v2/_trust/changefeed":
            after = int(request.query["change_id"])
            feed = [
                {"ID": str(n), "GUN": g, "Category": "update"} for n, g in enumerate(self.files, 1)
            ]
            return web.json_response({"records": feed[after:][:2]})
        match = _TUF.fullmatch(request.path)
        files = self.files.get(match[1], {}) if match else {}
        name = match[2] if match else ""
        for (role, version), data in files.items():
            current = version == max(number for held, number in files if held == role)
            names = {f"{version}.{role}", f"{role}.{hashlib.sha256(data).hexdigest()}"}
            if name in names or (current and name == role):
                return web.Response(body=data)
        return web.json_response({"errors": [{"code": "METADATA_NOT_FOUND"}]}, status=404)


@pytest.fixture
async def source() -> AsyncIterator[Source]:
    made = Source()
    app = web.Application()
    app.router.add_get("/{rest:.*}", made.answer)
    async with TestServer(app) as server:
        made.url = str(server.make_url("")).rstrip("/")
        yield made


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Target]:
    master = await asyncio.to_thread(MasterKey.load_or_create, folder / "master.key", create=True)
    store = await SqliteStore.open(folder / "store.db")
    try:
        yield Target(store, OnlineKeys(store, master))
    finally:
        await store.close()


@pytest.fixture
async def target_store(tmp_path: Path) -> AsyncIterator[Target]:
    async with opened(tmp_path) as made:
        yield made


async def mirrored(source: Source, target: Target, *guns: str) -> tuple[list[Outcome], int]:
    source.asked.clear()
    async with HttpFetcher() as fetcher:
        site = NotarySite(source.url, fetcher, rate=10_000, concurrency=4)
        mirror = Mirror(site, target, clock=lambda: datetime.now(UTC))
        return await mirror.run(guns, concurrency=4, tell=lambda _: None)


async def one(source: Source, target: Target, gun: str = GUN) -> Outcome:
    (outcome,), _ = await mirrored(source, target, gun)
    return outcome


async def content(source: Source, target: Target, gun: str = GUN) -> dict[tuple[str, int], bytes]:
    found: dict[tuple[str, int], bytes] = {}
    for place in source.files[gun]:
        file: StoredFile | None = await target.store.read(gun, *place)
        if file is not None:
            found[place] = file.data
    return found


def released(source: Source, releases: int = 1) -> NotaryGun:
    made = NotaryGun()
    source.add_release(GUN, made.release())
    for number in range(2, releases + 1):
        release(source, made, number)
    return made


def release(source: Source, made: NotaryGun, number: int) -> None:
    made.targets["targets"].targets[f"v{number}"] = target(str(number).encode())
    made.targets["targets"].version = number
    source.add_release(GUN, made.release("targets"))


async def test_what_the_real_server_wrote_is_mirrored_byte_for_byte(
    source: Source, target_store: Target
) -> None:
    rows = NotaryRows()
    rows.add_vectors()
    for row in rows.tuf_files:
        files = source.files.setdefault(row["gun"], {})
        files[row["role"], row["version"]] = row["data"]
    outcomes, status = await mirrored(source, target_store, *source.files)
    assert [outcome.status for outcome in outcomes] == [Status.IMPORTED] * 2, outcomes
    assert status == 0
    for gun, files in source.files.items():
        assert await content(source, target_store, gun) == files


async def test_only_what_is_missing_is_fetched_again(source: Source, target_store: Target) -> None:
    made = released(source, 3)
    assert (await one(source, target_store)).files == 10
    assert await content(source, target_store) == source.files[GUN]
    assert (await one(source, target_store)).status is Status.UNCHANGED
    assert source.asked == [f"/v2/{GUN}/_trust/tuf/timestamp.json"]
    release(source, made, 4)
    assert (await one(source, target_store)).files == 3
    names = [path.rpartition("/")[2].split(".")[0:2] for path in source.asked]
    assert [name for name in names if "targets" in name or "snapshot" in name] != []
    assert len(names) == 5  # timestamp twice, no new root, snapshot, targets
    assert await content(source, target_store) == source.files[GUN]
    told = await target_store.store.changes(GUN, after=0, limit=100)
    assert [item.version for item in told] == [1, 2, 3, 4]
    events = await target_store.store.events(GUN)
    assert [event.target for event in reversed(events)] == ["v2", "v3", "v4"]


async def test_a_busy_server_is_waited_for(source: Source, target_store: Target) -> None:
    released(source)
    moments: list[float] = []

    def busy(_: web.Request) -> web.Response | None:
        moments.append(asyncio.get_running_loop().time())
        if len(moments) > 2:
            return None
        return web.Response(status=(429, 503)[len(moments) - 1], headers={"Retry-After": "1"})

    source.fault = busy
    assert (await one(source, target_store)).status is Status.IMPORTED
    assert moments[1] - moments[0] >= 1
    assert moments[2] - moments[1] >= 1


async def test_a_cut_answer_is_asked_for_again(source: Source, target_store: Target) -> None:
    released(source)
    cuts: list[str] = []

    def cut(request: web.Request) -> web.Response | None:
        if request.path not in cuts:
            cuts.append(request.path)
            assert request.transport is not None
            request.transport.close()
        return None

    source.fault = cut
    assert (await one(source, target_store)).status is Status.IMPORTED
    assert await content(source, target_store) == source.files[GUN]


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "root"])
async def test_changed_bytes_are_refused_and_change_nothing(
    source: Source, target_store: Target, role: str
) -> None:
    made = released(source)
    assert (await one(source, target_store)).status is Status.IMPORTED
    head = await target_store.store.head(GUN)
    if role == "root":
        made.root.version = 2
        source.add_release(GUN, made.release("root"))
    release(source, made, 2)

    def lie(request: web.Request) -> web.Response | None:
        name = request.path.rpartition("/")[2]
        if name.startswith(f"{role}.") or name == f"2.{role}.json":
            match = _TUF.fullmatch(request.path)
            assert match is not None
            last = max(version for held, version in source.files[GUN] if held == role)
            body = source.files[GUN][role, last]
            return web.Response(body=body.replace(b'"expires":"20', b'"expires":"21'))
        return None

    source.fault = lie
    outcome = await one(source, target_store)
    assert outcome.status is Status.REFUSED, outcome
    by_hash = role in {"snapshot", "targets"}
    assert ("other bytes" in outcome.remarks[0]) == by_hash, outcome
    assert await target_store.store.head(GUN) == head


async def test_a_gun_made_anew_never_replaces_the_pinned_root(
    source: Source, target_store: Target
) -> None:
    released(source, 2)
    await one(source, target_store)
    head = await target_store.store.head(GUN)
    del source.files[GUN]
    made = released(source, 2)
    outcome = await one(source, target_store)
    assert outcome.status is Status.DIVERGED
    release(source, made, 3)
    assert (await one(source, target_store)).status is Status.DIVERGED
    # The server hides that: it serves the old timestamp under its number.
    old = await target_store.store.read(GUN, "timestamp", 2)
    assert old is not None
    source.files[GUN]["timestamp", 2] = old.data
    outcome = await one(source, target_store)
    assert outcome.status is Status.REFUSED
    assert "root" in outcome.remarks[0]
    assert await target_store.store.head(GUN) == head


async def test_a_gun_that_is_ahead_here_is_left_alone(source: Source, target_store: Target) -> None:
    released(source, 3)
    await one(source, target_store)
    head = await target_store.store.head(GUN)
    for role, version in list(source.files[GUN]):
        if version == 3:
            del source.files[GUN][role, version]
    (outcome,), status = await mirrored(source, target_store, GUN)
    assert (outcome.status, status) == (Status.DIVERGED, 1)
    assert "timestamp version 3 is here, the server has 2" in outcome.remarks[0]
    assert await target_store.store.head(GUN) == head


async def test_an_endless_answer_is_refused(source: Source, target_store: Target) -> None:
    released(source)
    source.fault = lambda request: (
        web.Response(body=b"{" * 20_000) if request.path.endswith("/timestamp.json") else None
    )
    (outcome,), status = await mirrored(source, target_store, GUN)
    assert (outcome.status, status) == (Status.REFUSED, 3)
    assert await target_store.store.head(GUN) is None


async def test_a_server_that_asks_for_a_password_gets_it(
    source: Source, target_store: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    released(source)
    pair = base64.b64encode(b"reader:secret").decode()

    def ask(request: web.Request) -> web.Response | None:
        if request.headers.get("Authorization") == f"Basic {pair}":
            return None
        return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})

    source.fault = ask
    (outcome,), status = await mirrored(source, target_store, GUN)
    assert (outcome.status, status) == (Status.REFUSED, 1)
    monkeypatch.setenv("NOTARY_AUTH", pair)
    assert (await one(source, target_store)).status is Status.IMPORTED


def command(config: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "tabellion_server", "mirror", *words, "--config", str(config)]


async def ran(config: Path, *words: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command(config, *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"COLUMNS": "200"},
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert b"Traceback" not in out, out.decode()
    assert process.returncode is not None
    return process.returncode, out.decode()


async def test_a_killed_run_goes_on_where_it_was(source: Source, tmp_path: Path) -> None:
    names = [f"reg.example/team/{number}" for number in range(3)]
    for name in names:
        source.add_release(name, NotaryGun(certified(name=name)).release())
    config = tmp_path / "server.toml"
    config.write_text('[storage]\nurl = "sqlite:///store.db"\n')
    listed = tmp_path / "guns.txt"
    listed.write_text("\n".join(names))
    words = command(config, source.url, "--guns-file", str(listed), "--concurrency", "1")
    process = await asyncio.create_subprocess_exec(
        *words, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    while b"imported" not in (line := await asyncio.wait_for(process.stderr.readline(), 30)):
        assert line, "it ended"
    process.kill()
    await process.communicate()
    status, said = await ran(config, source.url, "--guns-file", str(listed))
    assert status == 0, said
    assert re.search(r"\b[12] imported, [12] unchanged", said), said


async def test_patterns_come_from_the_changefeed(source: Source, tmp_path: Path) -> None:
    for name in ("a/1", "b/1", "a/2"):
        source.add_release(name, NotaryGun(certified(name=name)).release())
    config = tmp_path / "server.toml"
    config.write_text('[storage]\nurl = "sqlite:///store.db"\n')
    status, said = await ran(config, source.url, "--gun", "a/*")
    assert (status, "2 imported" in said, "b/1" in said) == (0, True, False), said
    status, said = await ran(config, source.url, "--gun", "a/1", "--gun", "a/none")
    assert (status, "1 unchanged, 1 not imported" in said) == (1, True), said
    source.fault = lambda _: web.Response(status=404)
    status, said = await ran(config, source.url, "--gun", "a/*")
    assert status == 3
    assert "--guns-file" in said


async def test_it_comes_again_every_so_often(source: Source, tmp_path: Path) -> None:
    made = released(source)
    config = tmp_path / "server.toml"
    config.write_text('[storage]\nurl = "sqlite:///store.db"\n')
    process = await asyncio.create_subprocess_exec(
        *command(config, source.url, "--gun", GUN, "--every", "1s"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    said = b""
    while said.count(b" imported") < 4:  # as it comes and in the summary, twice
        line = await asyncio.wait_for(process.stdout.readline(), 30)
        assert line, said.decode()
        said += line
        if line.startswith(b"1 imported") and len(source.files[GUN]) == 4:
            release(source, made, 2)
    process.kill()
    await process.communicate()
    async with opened(tmp_path) as found:
        assert await content(source, found) == source.files[GUN]


@pytest.mark.system
@pytest.mark.timeout(170)
def test_clients_of_a_real_server_read_on_from_the_mirror(
    real_notary: RealNotary, tmp_path: Path
) -> None:
    engines.need("notary")
    script = Script(real_notary, tmp_path / "people")
    script.folder.mkdir()
    gun = script.gun
    script.notary("init", gun)
    script.notary("key", "rotate", gun, "snapshot", "-r")
    script.notary("addhash", gun, "v1", "5", "--sha256", HELLO, "-p")
    script.notary("key", "rotate", gun, "timestamp", "-r")
    script.notary("list", gun, user="warm")
    (tmp_path / "ours").mkdir()
    config = our_config(tmp_path / "ours")

    def mirror(named: str) -> str:
        words = command(config, real_notary.url, "--ca", str(real_notary.ca), "--gun", named)
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "1 imported" in mirror(gun[:-2] + "*")
    with our_notary(config) as ours:
        there = {"server": ours.url, "ca": ours.ca}
        for user in ("warm", "cold"):
            assert HELLO in script.notary("list", gun, user=user, **there)
        script.notary("addhash", gun, "v2", "5", "--sha256", OTHER, "-p")
        assert "1 imported" in mirror(gun)
        assert "1 unchanged" in mirror(gun)
        for user in ("warm", "cold", "new"):
            assert OTHER in script.notary("list", gun, user=user, **there)
        feed = f"/v2/{gun}/_trust/changefeed?records=100"
        told = [
            [
                (item["Version"], item["SHA256"])
                for item in json.loads(server.get(feed)[1])["records"]
            ]
            for server in (real_notary, ours)
        ]
        assert told[0] == told[1]
        # Its timestamps aren't ours to sign: nothing can be published here.
        script.notary("addhash", gun, "v3", "5", "--sha256", OTHER, "-p", status=1, **there)
        assert "v3" not in script.notary("list", gun, user="new", **there)
        # Until their owner gives both roles keys of ours; the command that failed goes on then.
        script.tabellion("key", "import", "--notary", str(script.folder / "owner" / "trust"))
        place = ("--server", ours.url, "--ca", str(ours.ca), "--trust-on-first-use")
        said = script.tabellion(*place, "rotate", gun, "timestamp", status=3)
        assert "it is a mirror of the GUN" in said
        script.tabellion(*place, "rotate", gun, "snapshot", "timestamp", "--server-managed")
        script.notary("publish", gun, **there)
        for user in ("warm", "cold", "brand-new"):
            assert "v3" in script.notary("list", gun, user=user, **there)
