"""A server on a restored backup: readers are served, nothing is signed until it's accepted."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from forge import Forge, target
from http_site import Clock, Site
from simulator import version_of
from tabellion_server.app import make_app
from tabellion_server.keys.master import MasterKey
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.services.expiry import ExpiryWatch
from tabellion_server.settings import Settings
from tabellion_server.storage.sqlite import SqliteStore
from tabellion_server.web.context import CONTEXT
from tabellion_server.web.metrics import METRICS

HEADERS = {"Accept": "application/problem+json"}


class House:
    """A server's disk, and the server started on it."""

    def __init__(self, folder: Path) -> None:
        self.store, self.mark = folder / "tabellion.db", folder / "high-water.json"
        self.backup = folder / "backup"
        self.master = MasterKey.generate()
        self.clock = Clock()

    @asynccontextmanager
    async def served(self) -> AsyncIterator[Site]:
        store = await SqliteStore.open(self.store, high_water=self.mark)
        keys = OnlineKeys(store, self.master)
        app = make_app(Settings(), store=store, online_keys=keys, clock=self.clock)
        async with TestClient(TestServer(app), headers=HEADERS) as client:
            yield Site(client, store, self.clock)
        await store.close()


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


async def release(site: Site, forge: Forge, text: str) -> None:
    forge.targets.targets["1.2"] = target(text.encode())
    await site.publish(forge, "targets")
    forge.targets.version += 1


async def seen(site: Site) -> dict[str, bytes]:
    return {role: await site.body(f"{role}.json") for role in ("timestamp", "snapshot", "targets")}


async def missing_told(site: Site) -> float:
    """Have all GUNs looked at, and give what /metrics says that the store lacks."""
    context, metrics = site.client.app[CONTEXT], site.client.app[METRICS]  # type: ignore[index]
    watch = ExpiryWatch(
        *(context.store, context.judge, context.renewer),
        clock=context.clock,
        report=metrics.tell_expiry,
    )
    metrics.tell_expiry(await watch.walk())
    text = await (await site.client.get("/metrics")).text()
    (found,) = re.findall(r"^tabellion_store_missing_changes (\S+)$", text, re.MULTILINE)
    return float(found)


async def test_nothing_is_signed_twice_and_what_was_lost_can_be_brought_back(house: House) -> None:
    async with house.served() as site:
        forge = await site.forge()
        await site.publish(forge, "root", "targets")
        forge.targets.version += 1
        await release(site, forge, "one")
    await asyncio.to_thread(shutil.copy, house.store, house.backup)
    async with house.served() as site:
        for text in ("two", "three", "four"):
            await release(site, forge, text)
        lost = await seen(site)
    await asyncio.to_thread(shutil.copy, house.backup, house.store)
    async with house.served() as site:
        before = await site.everything()
        old = await seen(site)
        house.clock.now += timedelta(hours=13)
        refused = await site.post({"targets": lost["targets"]})
        assert refused.status == 503
        assert "Retry-After" in refused.headers
        assert (await refused.json())["code"] == "store-restored"
        # Past half its life a timestamp would be signed anew: it's served as it is.
        assert await seen(site) == old
        assert await site.everything() == before
        assert await missing_told(site) > 0
        await site.store.accept_restore(at=datetime.now(UTC))
        assert await missing_told(site) == 0
        house.clock.now += timedelta(minutes=1)  # what failed is tried again a little later
        renewed = await site.body("timestamp.json")
        assert version_of(renewed) > version_of(lost["timestamp"])
        # The publisher has the lost file: it follows what is here, with no version between.
        answer = await site.post({"targets": lost["targets"]})
        assert answer.status == 200, await answer.text()
        now = await seen(site)
        assert now["targets"] == lost["targets"]
        for role in ("timestamp", "snapshot"):
            assert version_of(now[role]) > version_of(lost[role])
        # Only once: then versions follow one another again.
        forge.targets.version += 1
        answer = await site.post({"targets": forge.sign("targets", forge.targets)})
        assert answer.status == 409


async def test_who_has_seen_lost_changes_goes_on_from_there(house: House) -> None:
    """An id ahead of all is no fault: a restored store's next change is above what was told."""

    async def ask(site: Site, since: object) -> dict[str, Any]:
        answer = await site.client.get(f"/v1/changes?since={since}")
        assert answer.status == 200
        found: dict[str, Any] = await answer.json()
        return found

    async with house.served() as site:
        forge = await site.forge()
        await site.publish(forge, "root", "targets")
        forge.targets.version += 1
    await asyncio.to_thread(shutil.copy, house.store, house.backup)
    async with house.served() as site:
        await release(site, forge, "one")
        await release(site, forge, "two")
        seen_last = (await ask(site, "newest"))["next"]
    await asyncio.to_thread(shutil.copy, house.backup, house.store)
    async with house.served() as site:
        assert await ask(site, seen_last) == {"changes": [], "next": seen_last}
        assert (await ask(site, "newest"))["next"] < seen_last
        await site.store.accept_restore(at=datetime.now(UTC))
        forge.targets.version -= 2
        await release_next(site, forge)
        (change,) = (await ask(site, seen_last))["changes"]
        assert change["id"] > seen_last


async def test_a_gun_founded_again_passes_over_what_its_lost_founding_signed(house: House) -> None:
    """Its keys were asked for before the backup, so the same ones would sign version 1 twice."""
    async with house.served() as site:
        forge = await site.forge()
    await asyncio.to_thread(shutil.copy, house.store, house.backup)
    async with house.served() as site:
        await site.publish(forge, "root", "targets")
        forge.targets.version += 1
        await release(site, forge, "one")
        lost = await seen(site)
    await asyncio.to_thread(shutil.copy, house.backup, house.store)
    async with house.served() as site:
        await site.store.accept_restore(at=datetime.now(UTC))
        forge.targets.version = 1
        await site.publish(forge, "root", "targets")
        now = await seen(site)
        for role in ("timestamp", "snapshot"):
            assert version_of(now[role]) > version_of(lost[role])
        await release_next(site, forge)
        assert version_of(await site.body("timestamp.json")) == version_of(now["timestamp"]) + 1


async def test_a_root_alone_after_a_loss_hides_no_snapshot_version_that_was_lost(
    house: House,
) -> None:
    async with house.served() as site:
        forge = await site.forge()
        await site.publish(forge, "root", "targets")
        forge.targets.version += 1
    await asyncio.to_thread(shutil.copy, house.store, house.backup)
    async with house.served() as site:
        for text in ("one", "two"):
            await release(site, forge, text)
        lost = await seen(site)
    await asyncio.to_thread(shutil.copy, house.backup, house.store)
    async with house.served() as site:
        await site.store.accept_restore(at=datetime.now(UTC))
        forge.root.version = 2
        await site.publish(forge, "root")
        forge.targets.version = 2
        await release(site, forge, "other")
        now = await seen(site)
        for role in ("timestamp", "snapshot"):
            assert version_of(now[role]) > version_of(lost[role])


async def release_next(site: Site, forge: Forge) -> None:
    forge.targets.version += 1
    await release(site, forge, "next")


async def test_a_gun_whose_keys_are_younger_than_the_restore_begins_at_version_1(
    house: House,
) -> None:
    async with house.served() as site:
        await site.store.accept_restore(skip=1000, at=datetime.now(UTC))
        await asyncio.sleep(0.01)
        forge = await site.forge()
        await site.publish(forge, "root", "targets")
        assert version_of(await site.body("timestamp.json")) == 1
