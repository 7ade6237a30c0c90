"""A node that ends at any of its questions to the store, before or after the store has done it.

What was told stands, readers see the old or the new set, the next node goes on, and no version
has two contents.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp.test_utils import TestClient, TestServer

from faulty_store import Fault, FaultyStore
from forge import Forge, target
from http_site import GUN, Clock, Site, new_signer, signed
from tabellion.core.dialect import TUF
from tabellion.core.trusted_set import TrustedSet
from tabellion_server.app import make_app
from tabellion_server.keys.master import MasterKey
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.settings import Settings
from tabellion_server.storage.sqlite import SqliteStore

ENDS: tuple[Fault, ...] = ("before", "after")


@dataclass
class Stage:
    """A store that is ready for an operation, and what was told of it before."""

    folder: Path
    master: MasterKey
    forge: Forge
    clock: Clock
    files: dict[str, bytes]


@asynccontextmanager
async def node(stage: Stage, folder: Path) -> AsyncIterator[tuple[Site, FaultyStore]]:
    mark = folder / "mark.json"
    store = await SqliteStore.open(folder / "tabellion.db", high_water=mark)
    faults = FaultyStore(store)
    app = make_app(
        Settings(timestamp_life=timedelta(days=1)),
        store=cast("Any", faults),
        online_keys=OnlineKeys(cast("Any", faults), stage.master),
        clock=stage.clock,
        watches=False,
    )
    try:
        async with TestClient(TestServer(app)) as client:
            yield Site(client, store, stage.clock), faults
            faults.heal()
    finally:
        await store.close()


Prepare = Callable[[Site, Forge], Awaitable[dict[str, bytes]]]
Operate = Callable[[Site, Stage], Awaitable[bool]]


async def to_publish(_: Site, forge: Forge) -> dict[str, bytes]:
    forge.targets.version += 1
    forge.targets.targets["new"] = target(b"new", "new")
    return signed(forge, "targets")


async def to_rotate(site: Site, forge: Forge) -> dict[str, bytes]:
    answer = await site.client.session.post(site.url("timestamp.key"))
    assert answer.status == 200
    fields = await answer.json()
    key = type(forge.signers["root"][0].public_key).from_dict(fields.pop("keyid"), fields)
    forge.root.version += 1
    forge.root.revoke_key(forge.root.roles["timestamp"].keyids[0], "timestamp")
    forge.root.add_key(key, "timestamp")
    return signed(forge, "root")


async def to_delegate(_: Site, forge: Forge) -> dict[str, bytes]:
    forge.delegate("alice", ["alice-*"])
    forge.targets.version += 1
    return signed(forge, "targets", "alice")


async def to_complete(site: Site, forge: Forge) -> dict[str, bytes]:
    """Offer a release with one of two signatures; what completes it is to be sent."""
    second = new_signer()
    forge.root.version += 1
    forge.root.add_key(second.public_key, "targets")
    forge.root.roles["targets"].threshold = 2
    forge.targets.version += 1
    forge.signers["targets"].append(second)
    await site.publish(forge, "root", "targets")
    forge.targets.version += 1
    forge.targets.targets["new"] = target(b"new", "new")
    half = copy.deepcopy(forge)
    half.signers["targets"] = half.signers["targets"][:1]
    assert (await site.offer(signed(half, "targets"))).status in {200, 201}
    return {"targets": TUF.sign(forge.targets, [second])}


async def to_renew(site: Site, _: Forge) -> dict[str, bytes]:
    site.clock.now += timedelta(hours=13)
    return {}


async def publish(site: Site, stage: Stage) -> bool:
    return (await site.post(stage.files)).status == 200


async def offer(site: Site, stage: Stage) -> bool:
    return (await site.offer(stage.files)).status in {200, 201}


async def renew(site: Site, _: Stage) -> bool:
    return (await site.get("timestamp.json")).status == 200


OPERATIONS: dict[str, tuple[Prepare, Operate]] = {
    "publish": (to_publish, publish),
    "rotate": (to_rotate, publish),
    "delegate": (to_delegate, publish),
    "complete": (to_complete, offer),
    "renew": (to_renew, renew),
}


async def prepare(folder: Path, to_do: Prepare) -> Stage:
    folder.mkdir()
    stage = Stage(folder, MasterKey.generate(), Forge(), Clock(), {})
    async with node(stage, folder) as (site, _):
        stage.forge = await site.forge()
        stage.forge.targets.targets["old"] = target(b"old", "old")
        await site.publish(stage.forge, "root", "targets")
        stage.files = await to_do(site, stage.forge)
    return stage


async def seen(site: Site) -> tuple[dict[tuple[str, int], str], set[str]]:
    """Update as a new client does; give the hash of each file, and the targets."""
    trusted = TrustedSet(await site.body("1.root.json"), now=site.clock(), gun=GUN)
    version = 2
    while (answer := await site.get(f"{version}.root.json")).status == 200:
        trusted.update_root(await answer.read())
        version += 1
    assert answer.status == 404
    trusted.finish_root()
    trusted.update_timestamp(await site.body("timestamp.json"))
    trusted.update_snapshot(await site.body(f"{trusted.snapshot_meta.version}.snapshot.json"))
    meta = trusted.targets_meta("targets")
    trusted.update_targets(await site.body(f"{meta.version}.targets.json"))
    files = (trusted.root, trusted.timestamp, trusted.snapshot, trusted.targets)
    hashes: dict[tuple[str, int], str] = {}
    for file in files:
        assert file is not None
        hashes[file.signed.type, file.version] = hashlib.sha256(file.data).hexdigest()
    assert trusted.targets is not None
    return hashes, set(trusted.targets.signed.targets)


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_node_may_end_at_any_of_its_questions(tmp_path: Path, name: str) -> None:
    to_do, operate = OPERATIONS[name]
    stage = await prepare(tmp_path / "stage", to_do)
    whole = tmp_path / "whole"
    shutil.copytree(stage.folder, whole)
    async with node(stage, whole) as (site, faults):
        assert await operate(site, stage)
        count = len(faults.calls)
        _, targets_after = await seen(site)
    assert count > 2
    outcomes = {
        await _end_at(stage, tmp_path, operate, (number, when), targets_after)
        for number in range(count)
        for when in ENDS
    }
    assert outcomes == {"old", "new"}


async def _end_at(
    stage: Stage, place: Path, operate: Operate, end: tuple[int, Fault], whole: set[str]
) -> str:
    """End a node there; another one goes on. Gives which set it found."""
    folder = place / f"{end[0]}-{end[1]}"
    shutil.copytree(stage.folder, folder)
    known: dict[tuple[str, int], str] = {}
    async with node(stage, folder) as (site, faults):
        faults.stop_at = end
        doing = asyncio.create_task(operate(site, stage))
        async with asyncio.timeout(20):
            await faults.has_stopped.wait()
        assert not doing.done(), "it was told before it was sure"
        async with node(stage, folder) as (other, _):
            revision = (await other.store.guns())[0].revision
            hashes, _ = await seen(other)
            known |= hashes
            # Whoever had no answer asks again; both outcomes let that succeed.
            assert await operate(other, stage)
            again, targets = await seen(other)
            assert targets == whole
            assert all(known.setdefault(key, item) == item for key, item in again.items())
            await _publish_on(other, stage)
            last, _ = await seen(other)
            assert all(known.setdefault(key, item) == item for key, item in last.items())
        doing.cancel()
    before = await _revision_of(stage)
    return "old" if revision == before else "new"


async def _publish_on(site: Site, stage: Stage) -> None:
    forge = copy.deepcopy(stage.forge)
    current = json.loads(await site.body("targets.json"))["signed"]
    forge.targets.version = current["version"] + 1
    forge.targets.targets["later"] = target(b"later", "later")
    await site.publish(forge, "targets")


async def _revision_of(stage: Stage) -> int:
    store = await SqliteStore.open(stage.folder / "tabellion.db")
    revision = (await store.guns())[0].revision
    await store.close()
    return revision
