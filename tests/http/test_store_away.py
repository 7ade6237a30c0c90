"""A store that doesn't answer: readers get what is known and valid, writers are told to wait."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp.test_utils import TestClient, TestServer

from faulty_store import FaultyStore
from forge import Forge, target
from http_site import Clock, Site
from tabellion.verify.client import TrustClient
from tabellion_server.app import make_app
from tabellion_server.keys.master import MasterKey
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.services import heads
from tabellion_server.settings import Settings
from tabellion_server.storage.interface import StorageError
from tabellion_server.storage.sqlite import SqliteStore
from tabellion_server.web.context import CONTEXT

HEADERS = {"Accept": "application/problem+json"}


class Away(Site):
    """A site whose store may go away."""

    faults: FaultyStore


@pytest.fixture
def settings() -> Settings:
    return Settings(serve_known=timedelta(seconds=30))


@pytest.fixture
async def site(tmp_path: Path, settings: Settings) -> AsyncIterator[Away]:
    store = await SqliteStore.open(tmp_path / "tabellion.db")
    clock, faults = Clock(), FaultyStore(store)
    keys = OnlineKeys(cast("Any", faults), MasterKey.generate())
    app = make_app(settings, store=cast("Any", faults), online_keys=keys, clock=clock)
    async with TestClient(TestServer(app), headers=HEADERS) as client:
        away = Away(client, store, clock)
        away.faults = faults
        yield away
    await store.close()


async def published(site: Away) -> Forge:
    forge = await site.forge()
    forge.targets.targets["1.0"] = target(b"x")
    await site.publish(forge, "root", "targets")
    return forge


async def read(site: Away, home: Path) -> set[str]:
    root = await site.body("1.root.json") if not home.exists() else None
    url = str(site.client.make_url("/"))[:-1]
    async with TrustClient(url, home=home, root=root, clock=site.clock) as client:
        return {match.path for match in await client.targets(site.gun)}


async def refused(site: Away, name: str = "timestamp.json") -> dict[str, Any]:
    answer = await site.get(name)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
    return dict(await answer.json())


async def test_readers_get_what_is_known_and_writers_are_told_to_wait(
    site: Away, tmp_path: Path
) -> None:
    forge = await published(site)
    assert await read(site, tmp_path / "warm") == {"1.0"}
    before = await site.everything()
    site.faults.break_down()
    assert await read(site, tmp_path / "warm") == {"1.0"}
    forge.targets.version += 1
    answer = await site.post({"targets": forge.sign("targets", forge.targets)})
    assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
    assert (await answer.json())["code"] == "storage"
    assert (await site.client.session.get(site.at("/readyz"))).status == 503
    assert (await site.client.session.get(site.at("/healthz"))).status == 200
    assert await site.everything() == before
    site.faults.heal()
    await asyncio.sleep(heads._PAUSE_SECONDS)
    forge.targets.version -= 1
    forge.targets.targets["1.1"] = target(b"y")
    forge.targets.version += 1
    await site.publish(forge, "targets")
    assert await read(site, tmp_path / "warm") == {"1.0", "1.1"}


async def test_a_store_that_hangs_is_not_waited_for(
    site: Away, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "_PATIENCE_SECONDS", 0.2)
    await published(site)
    assert await read(site, tmp_path / "warm") == {"1.0"}
    site.faults.hangs = True
    started = time.monotonic()
    for _ in range(5):
        assert await read(site, tmp_path / "warm") == {"1.0"}
    assert time.monotonic() - started < 5
    site.faults.heal()


async def test_a_process_that_stood_still_itself_asks_again(
    site: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "_PATIENCE_SECONDS", 0.3)
    await published(site)
    await site.body("timestamp.json")
    known = site.client.app[CONTEXT].heads  # type: ignore[index]
    old = known._known.get(site.gun)
    newer = dataclasses.replace(old, revision=old.revision + 1)
    answers = [0.6, 0.0]

    async def slow(_: str) -> Any:
        time.sleep(answers.pop(0))  # noqa: ASYNC251  (the process stands still)
        await asyncio.sleep(0)
        return newer

    monkeypatch.setattr(known._store, "head", slow, raising=False)
    assert await known.head(site.gun) == newer


async def test_what_was_asked_earlier_and_answered_later_is_not_known(
    site: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    await published(site)
    await site.body("timestamp.json")
    known = site.client.app[CONTEXT].heads  # type: ignore[index]
    old = known._known.get(site.gun)
    newer = dataclasses.replace(old, revision=old.revision + 1)
    answers = [(0.2, old), (0.0, newer)]

    async def late(_: str) -> Any:
        seconds, head = answers.pop(0)
        await asyncio.sleep(seconds)
        return head

    monkeypatch.setattr(known._store, "head", late, raising=False)
    await asyncio.gather(known.head(site.gun), known.head(site.gun))
    assert known._known.get(site.gun) == newer


async def test_what_nobody_asked_for_is_not_known(site: Away) -> None:
    await published(site)
    site.client.app[CONTEXT].heads.forget(site.gun)  # type: ignore[index]
    site.faults.break_down()
    problem = await refused(site)
    assert problem["detail"] == "the server can't do that now"
    assert problem["hint"].startswith("try again in 2 s; if that lasts, its log has more")


async def test_what_is_known_is_given_no_longer_than_the_setting(
    site: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    await published(site)
    await site.body("timestamp.json")
    site.faults.break_down()
    await site.body("timestamp.json")
    known = site.client.app[CONTEXT].heads  # type: ignore[index]
    monkeypatch.setattr(known, "_monotonic", lambda: time.monotonic() + 31)
    await refused(site)
    monkeypatch.undo()
    site.faults.heal()
    await asyncio.sleep(heads._PAUSE_SECONDS)
    await site.body("timestamp.json")


@pytest.mark.parametrize("settings", [Settings(serve_known=timedelta(0))])
async def test_with_zero_nothing_is_given_that_the_store_does_not_confirm(site: Away) -> None:
    await published(site)
    await site.body("timestamp.json")
    site.faults.break_down()
    await refused(site)


async def test_what_another_node_published_before_the_outage_is_known(
    site: Away, tmp_path: Path
) -> None:
    forge = await published(site)
    await site.body("timestamp.json")
    context = site.client.app[CONTEXT]  # type: ignore[index]
    other = await SqliteStore.open(tmp_path / "tabellion.db")
    keys = OnlineKeys(other, context.online._master)
    app = make_app(context.settings, store=other, online_keys=keys, clock=site.clock)
    async with TestClient(TestServer(app), headers=HEADERS) as client:
        forge.targets.version += 1
        await Site(client, other, site.clock).publish(forge, "targets")
    await other.close()
    await context.feed._look()
    site.faults.break_down()
    assert json.loads(await site.body("timestamp.json"))["signed"]["version"] == 2


async def test_what_another_node_published_is_learned_at_once_though_the_store_was_away_just_now(
    site: Away, tmp_path: Path
) -> None:
    forge = await published(site)
    await site.body("timestamp.json")
    context = site.client.app[CONTEXT]  # type: ignore[index]
    await context.feed._look()
    other = await SqliteStore.open(tmp_path / "tabellion.db")
    keys = OnlineKeys(other, context.online._master)
    app = make_app(context.settings, store=other, online_keys=keys, clock=site.clock)
    async with TestClient(TestServer(app), headers=HEADERS) as client:
        forge.targets.version += 1
        await Site(client, other, site.clock).publish(forge, "targets")
    await other.close()
    site.faults.break_down()
    await site.body("timestamp.json")
    # A change that is seen while its GUN's head can't be had isn't passed over,
    site.faults.judge = lambda _, name, when: StorageError("no") if name == "head" else None
    with pytest.raises(StorageError):
        await context.feed._look()
    # and one that is seen is known.
    site.faults.heal()
    await context.feed._look()
    site.faults.break_down()
    assert json.loads(await site.body("timestamp.json"))["signed"]["version"] == 2


async def test_a_gun_that_was_dropped_is_not_known(site: Away) -> None:
    await published(site)
    await site.body("timestamp.json")
    await site.client.session.delete(site.url(""))
    await site.client.app[CONTEXT].feed._look()  # type: ignore[index]
    site.faults.break_down()
    await refused(site)


async def test_a_timestamp_past_half_its_life_is_still_given(site: Away, tmp_path: Path) -> None:
    await published(site)
    assert await read(site, tmp_path / "warm") == {"1.0"}
    site.clock.now += timedelta(hours=20)
    site.faults.break_down()
    assert await read(site, tmp_path / "warm") == {"1.0"}


async def test_a_store_that_only_reads_serves_readers(site: Away, tmp_path: Path) -> None:
    forge = await published(site)
    before = await site.everything()
    site.faults.judge = lambda _, name, when: (
        StorageError("read-only") if (name, when) == ("commit", "before") else None
    )
    site.clock.now += timedelta(hours=20)  # its timestamp is due, and can't be renewed
    assert await read(site, tmp_path / "warm") == {"1.0"}
    forge.targets.version += 1
    answer = await site.post({"targets": forge.sign("targets", forge.targets)})
    assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
    assert await site.everything() == before
    site.clock.now += timedelta(hours=1)
    site.faults.heal()
    assert await read(site, tmp_path / "warm") == {"1.0"}
    assert json.loads(await site.body("timestamp.json"))["signed"]["version"] == 2


async def test_the_server_ends_though_a_driver_swallows_a_cancellation(
    site: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = site.client.app[CONTEXT]  # type: ignore[index]
    swallowed = asyncio.Event()

    async def look() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            swallowed.set()

    monkeypatch.setattr(context.feed, "_look", look)
    await asyncio.sleep(1.2)  # until it looks
    async with asyncio.timeout(10):
        await site.client.close()
    assert swallowed.is_set()
