"""Lost answers, lost races and kills: what was acknowledged is there, once, and nothing blocks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer

import publisher_process
from cutting_proxy import CuttingProxy, cutting_proxy
from person import Person, twin
from tabellion.cli.embedded import EmbeddedServer
from tabellion.core.names import Digest
from tabellion.errors import AccessDeniedError, TransferError, UsageError
from tabellion.publish.lost import PublishedFiles
from tabellion_server.app import make_app
from tabellion_server.keys.master import MasterKey
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.settings import Settings
from tabellion_server.storage.sqlite import SqliteStore

PASSPHRASE = "signer passphrase"
TOKEN = "0123456789abcdef0123456789abcdef"
SCRIPT = Path(publisher_process.__file__)


@pytest.fixture
async def proxy(server: EmbeddedServer) -> AsyncIterator[CuttingProxy]:
    async with cutting_proxy(server.url) as running:
        yield running


def hashed(text: str) -> str:
    return Digest.of(text.encode()).hex


async def test_lost_answer_of_a_publication_publishes_it_once(
    server: EmbeddedServer, proxy: CuttingProxy, gun: str, tmp_path: Path
) -> None:
    async with (
        Person(proxy.url, tmp_path / "a") as owner,
        Person(server.url, tmp_path / "a") as eye,
    ):
        await owner.publisher.init(gun)
        key = owner.keys.generate("signer", passphrase=PASSPHRASE, name="alice").key
        proxy.cuts = 1
        assert await owner.sign(gun, "1") == {"targets": 2}
        proxy.cuts = 2
        assert await owner.sign(gun, "2") == {"targets": 3}
        # What this home published is kept, should the server lose it.
        kept = PublishedFiles(tmp_path / "a", gun).load("targets")
        assert kept is not None
        assert json.loads(kept)["signed"]["version"] == 3
        proxy.cuts = 1
        assert (await owner.publisher.revoke(gun, "2")).versions == {"targets": 4}
        proxy.cuts = 1
        added = await owner.publisher.add_signer(gun, "alice", [key])
        assert added.versions == {"targets": 5}
        proxy.cuts = 1
        assert (await owner.publisher.remove_signer(gun, "alice")).versions == {"targets": 6}
        assert proxy.cuts == 0
        assert await eye.signed(gun) == {"1": hashed("1")}
        assert await eye.version(gun) == 6


async def test_lost_answer_is_recognised_after_somebody_else_built_on_it(
    server: EmbeddedServer, proxy: CuttingProxy, gun: str, tmp_path: Path
) -> None:
    async with Person(proxy.url, tmp_path / "a") as owner:
        await owner.publisher.init(gun)
        async with twin(owner, tmp_path / "b", server.url) as other:
            proxy.cuts = 1
            proxy.after = lambda: other.sign(gun, "latest", "theirs")
            assert await owner.sign(gun, "latest", "ours") == {"targets": 2}
            assert await other.version(gun) == 3
            assert await owner.signed(gun) == {"latest": hashed("theirs")}


async def test_staged_changes_published_by_a_run_cut_off_are_not_published_twice(
    proxy: CuttingProxy, gun: str, tmp_path: Path
) -> None:
    async with Person(proxy.url, tmp_path) as owner:
        await owner.publisher.init(gun)
        await owner.sign(gun, "old")
        for target in ("1", "2"):
            digest = Digest.of(target.encode())
            await owner.publisher.sign(gun, target, digest, 1, publish=False)
        await owner.publisher.revoke(gun, "1", publish=False)
        await owner.publisher.revoke(gun, "old", publish=False)
        proxy.cuts = 99
        with pytest.raises(TransferError):
            # Answers are lost, and so is whatever asks for them.
            await asyncio.wait_for(_publish_deaf(owner, proxy, gun), 60)
        assert len((await owner.publisher.status(gun, online=False)).staged) == 4
        assert await owner.signed(gun) == {"2": hashed("2")}
        assert (await owner.publisher.publish(gun)).versions == {}
        assert await owner.version(gun) == 3
        assert (await owner.publisher.status(gun)).staged == ()


async def _publish_deaf(owner: Person, proxy: CuttingProxy, gun: str) -> None:
    """Publish, and be gone before anything can be asked again, as a killed process is."""

    async def vanish() -> None:
        raise_later.set()

    raise_later = asyncio.Event()
    proxy.after = vanish
    task = asyncio.create_task(owner.publisher.publish(gun))
    await raise_later.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    proxy.cuts = 0
    raise TransferError("gone")


async def test_lost_answer_of_init_founds_the_gun_once(
    proxy: CuttingProxy, gun: str, tmp_path: Path
) -> None:
    async with Person(proxy.url, tmp_path) as owner:
        proxy.cuts = 2
        made = await owner.publisher.init(gun)
        assert [info.role for info in made.made] == ["root", "targets"]
        assert len(owner.keys.list()) == 2
        assert await owner.sign(gun, "1") == {"targets": 2}
        assert await owner.version(gun, "root") == 1
        assert not list((tmp_path / "staged").glob("*.init"))


async def test_init_goes_on_after_all_answers_were_lost_even_if_it_was_built_upon(
    server: EmbeddedServer, proxy: CuttingProxy, gun: str, tmp_path: Path
) -> None:
    async with Person(proxy.url, tmp_path / "a") as owner:
        proxy.cuts = 99
        with pytest.raises(TransferError):
            await owner.publisher.init(gun)
        proxy.cuts = 0
        keys = owner.keys.list()
        assert len(keys) == 2
        async with twin(owner, tmp_path / "b", server.url) as other:
            await other.publisher.init(gun)
            await other.sign(gun, "1")
        founded = await owner.publisher.init(gun)
        assert founded.root_keys == (keys[0],) or founded.root_keys == (keys[1],)
        assert owner.keys.list() == keys
        assert await owner.sign(gun, "2") == {"targets": 3}
        with pytest.raises(UsageError, match="exists"):
            await owner.publisher.init(gun)
        assert owner.keys.list() == keys


async def test_init_cut_off_survives_a_wrong_token(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "tabellion.db")
    app = make_app(
        Settings(write_token=TOKEN),
        store=store,
        online_keys=OnlineKeys(store, MasterKey.generate()),
    )
    home, gun = tmp_path / "home", "faults.example/token"
    async with (
        TestServer(app) as site,
        cutting_proxy(str(site.make_url("/"))) as proxy,
        Person(proxy.url, home, token=TOKEN) as owner,
    ):
        proxy.cuts = 99
        with pytest.raises(TransferError):
            await owner.publisher.init(gun)
        proxy.cuts = 0
        before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
        async with Person(proxy.url, home, token=TOKEN[::-1]) as wrong:
            with pytest.raises(AccessDeniedError) as refused:
                await wrong.publisher.init(gun)
        assert refused.value.exit_status == 2
        after = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
        assert after == before
        await owner.publisher.init(gun)
        assert await owner.sign(gun, "1") == {"targets": 2}
    await store.close()


async def test_init_that_lost_the_race_for_a_name_leaves_nothing(
    server: EmbeddedServer, proxy: CuttingProxy, gun: str, tmp_path: Path
) -> None:
    async with Person(proxy.url, tmp_path / "a") as late, Person(server.url, tmp_path / "b") as one:
        proxy.before = lambda: one.publisher.init(gun)
        with pytest.raises(UsageError, match="exists"):
            await late.publisher.init(gun)
        assert late.keys.list() == []
        assert [path for path in late.home.rglob("*") if path.is_file()] == []
        assert await one.sign(gun, "1") == {"targets": 2}


@pytest.mark.parametrize("threshold", [1, 2])
async def test_publisher_held_snapshot_survives_lost_races_and_answers(
    server: EmbeddedServer, proxy: CuttingProxy, gun: str, tmp_path: Path, threshold: int
) -> None:
    gun = gun.replace("[", "-").replace("]", "")
    async with Person(proxy.url, tmp_path / "a") as owner:
        made = await owner.publisher.init(gun, snapshot="local")
        mine = owner.keys.generate("signer", passphrase=PASSPHRASE, name="qa").key
        async with Person(server.url, tmp_path / "b", made.root) as ann:
            hers = ann.keys.generate("signer", passphrase=PASSPHRASE, name="ann").key
            await owner.publisher.add_signer(gun, "qa", [mine, hers], threshold=threshold)
            digest = Digest.of(b"x")
            half = (
                await ann.publisher.sign(gun, "x", digest, 1, role="qa") if threshold > 1 else None
            )
        async with twin(owner, tmp_path / "c", server.url) as other:
            proxy.before = lambda: other.sign(gun, "theirs")
            proxy.cuts = 2  # that of the refusal, then that of the second attempt
            if half is None:
                done = await owner.publisher.sign(gun, "x", digest, 1, role="qa")
            else:
                assert half.incomplete is not None
                done = await owner.publisher.cosign(half.incomplete)
                assert not half.incomplete.exists()
            assert done.versions["qa"] == 1
            assert set(await other.signed(gun)) == {"theirs", "x"}
            assert await other.version(gun, "qa") == 1


async def test_cosigned_publication_that_arrived_before_is_recognised(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path / "a") as owner:
        made = await owner.publisher.init(gun)
        async with Person(server.url, tmp_path / "b", made.root) as ann:
            keys = [
                person.keys.generate("signer", passphrase=PASSPHRASE, name="qa").key
                for person in (owner, ann)
            ]
            await owner.publisher.add_signer(gun, "qa", keys, threshold=2)
            half = await ann.publisher.sign(gun, "x", Digest.of(b"x"), 1, role="qa")
            assert half.incomplete is not None
            copy = tmp_path / "copy.json"
            shutil.copy(half.incomplete, copy)
            assert (await owner.publisher.cosign(half.incomplete)).versions == {"qa": 1}
            assert (await owner.publisher.cosign(copy)).versions == {"qa": 1}
            assert not copy.exists()
            assert await owner.version(gun, "qa") == 1
            late = await ann.publisher.sign(gun, "y", Digest.of(b"y"), 1, role="qa")
            fresh = await ann.publisher.sign(gun, "z", Digest.of(b"z"), 1, role="qa")
            assert late.incomplete is not None
            assert fresh.incomplete is not None
            await owner.publisher.cosign(fresh.incomplete)
            stale = late.incomplete  # the second one didn't take its place
            with pytest.raises(UsageError, match="follow"):
                await owner.publisher.cosign(stale)
            assert stale.exists()
            assert set(await owner.signed(gun)) == {"x", "z"}


@contextlib.asynccontextmanager
async def process(*words: object) -> AsyncIterator[asyncio.subprocess.Process]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(SCRIPT), *map(str, words), stdout=asyncio.subprocess.PIPE
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


async def lines(child: asyncio.subprocess.Process) -> list[str]:
    assert child.stdout is not None
    said = (await child.stdout.read()).decode().split()
    # Killed between its end and asyncio's notice of that, a process seems to have failed.
    await child.wait()
    return said


def kill_unanswered(proxy: CuttingProxy, child: asyncio.subprocess.Process) -> None:
    """Kill it when the server has published and it doesn't know yet."""

    async def kill() -> None:
        child.kill()

    proxy.cuts, proxy.after = 1, kill


@pytest.mark.parametrize("work", ["stage", "sign"])
async def test_publisher_killed_at_any_moment_loses_nothing_acknowledged(
    proxy: CuttingProxy, gun: str, tmp_path: Path, work: str
) -> None:
    gun = gun.replace("[", "-").replace("]", "")
    home = tmp_path / "home"
    proxy.delay_seconds = 0.03
    moments = random.SystemRandom()
    async with Person(proxy.url, home) as owner:
        await owner.publisher.init(gun)
    acknowledged: set[str] = set()
    for number in range(6):
        async with process(proxy.url, home, gun, work, f"r{number}", 500) as child:
            assert child.stdout is not None
            assert await child.stdout.readline() == b"ready\n"
            if number:
                await asyncio.sleep(moments.uniform(0.02, 0.8))
                child.kill()
            else:
                kill_unanswered(proxy, child)
            acknowledged |= {word for word in await lines(child) if word != "published"}
        async with Person(proxy.url, home) as owner:
            if await owner.publisher.staged_guns():
                await owner.publisher.publish(gun)
            assert await owner.publisher.staged_guns() == []
            found = await owner.signed(gun)
            assert acknowledged <= set(found)
            assert all(value == hashed(path) for path, value in found.items())
            await owner.sign(gun, f"after-{number}")
    assert acknowledged


async def test_init_killed_at_any_moment_can_go_on(proxy: CuttingProxy, tmp_path: Path) -> None:
    proxy.delay_seconds = 0.05
    moments = random.SystemRandom()
    for number in range(6):
        home, gun = tmp_path / str(number), f"faults.example/init/{number}"
        async with process(proxy.url, home, gun, "init", "-", 0) as child:
            assert child.stdout is not None
            assert await child.stdout.readline() == b"ready\n"
            if number:
                await asyncio.sleep(moments.uniform(0, 0.5))
                child.kill()
            else:
                kill_unanswered(proxy, child)
            words = await lines(child)
        async with Person(proxy.url, home) as owner:
            with contextlib.suppress(UsageError) if words else contextlib.nullcontext():
                await owner.publisher.init(gun)
            assert await owner.sign(gun, "1") == {"targets": 2}
            assert len(owner.keys.list()) == 2


async def test_two_processes_sharing_one_home_lose_nothing(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path) as owner:
        await owner.publisher.init(gun)
        words = [
            ("sign", "direct-a", 8),
            ("sign", "direct-b", 8),
            ("stage", "staged-a", 8),
            ("stage", "staged-b", 8),
        ]
        async with contextlib.AsyncExitStack() as stack:
            children = [
                await stack.enter_async_context(process(server.url, tmp_path, gun, *each))
                for each in words
            ]
            said = await asyncio.gather(*(lines(child) for child in children))
        if await owner.publisher.staged_guns():
            await owner.publisher.publish(gun)
        wanted = {f"{prefix}-{number}" for _, prefix, count in words for number in range(count)}
        told = {word for each in said for word in each} - {"ready", "published"}
        found = set(await owner.signed(gun))
        assert told <= found
        assert [child.returncode for child in children] == [0, 0, 0, 0], said
        assert found == wanted
