"""Operations at which a node may end, on a store of any engine, and what must hold afterwards."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, cast

from aiohttp.test_utils import TestClient, TestServer

from faulty_store import FaultyStore
from forge import Forge, target
from http_site import GUN, Clock, Site, new_signer, signed
from storage.writer_process import open_place
from tabellion.core.dialect import TUF
from tabellion.core.trusted_set import TrustedSet
from tabellion_server.app import make_app
from tabellion_server.keys.master import MasterKey
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.settings import Settings
from tabellion_server.storage.redis import RedisStore

Outcome = Literal["old", "new"]


@dataclass
class Stage:
    """A store that is ready for an operation, and what was told of it before."""

    master: MasterKey = field(default_factory=MasterKey.generate)
    forge: Forge = field(default_factory=Forge)
    clock: Clock = field(default_factory=Clock)
    files: dict[str, bytes] = field(default_factory=dict)
    revision: int = 0


@asynccontextmanager
async def node(stage: Stage, place: str, mark: Path) -> AsyncIterator[tuple[Site, FaultyStore]]:
    """Run a node on a store, with a high-water mark of its own or of its machine."""
    store = await open_place(place, mark)
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
            yield Site(client, cast("Any", store), stage.clock), faults
            faults.heal()
    finally:
        await store.close()


Prepare = Callable[[Site, Forge], Awaitable[dict[str, bytes]]]
Operate = Callable[[Site, Stage], Awaitable[int]]


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


async def publish(site: Site, stage: Stage) -> int:
    return (await site.post(stage.files)).status


async def offer(site: Site, stage: Stage) -> int:
    return (await site.offer(stage.files)).status


async def renew(site: Site, _: Stage) -> int:
    return (await site.get("timestamp.json")).status


DONE = {200, 201}
OPERATIONS: dict[str, tuple[Prepare, Operate]] = {
    "publish": (to_publish, publish),
    "rotate": (to_rotate, publish),
    "delegate": (to_delegate, publish),
    "complete": (to_complete, offer),
    "renew": (to_renew, renew),
}


async def prepare(place: str, mark: Path, to_do: Prepare) -> Stage:
    """Make a store in which an operation may begin."""
    stage = Stage()
    async with node(stage, place, mark) as (site, _):
        stage.forge = await site.forge()
        stage.forge.targets.targets["old"] = target(b"old", "old")
        await site.publish(stage.forge, "root", "targets")
        stage.files = await to_do(site, stage.forge)
        stage.revision = (await site.store.guns())[0].revision
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


class Watcher:
    """A reader who remembers the content of each version."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], str] = {}

    async def look(self, site: Site) -> set[str]:
        """Read all, of which no version may have had another content; give the targets."""
        hashes, targets = await seen(site)
        assert all(self._known.setdefault(key, item) == item for key, item in hashes.items())
        return targets


async def go_on(site: Site, stage: Stage, operate: Operate, whole: set[str]) -> Outcome:
    """See the old or the new set, do the operation again, and go on. Gives which was found."""
    watcher = Watcher()
    revision = (await site.store.guns())[0].revision
    await watcher.look(site)
    await assert_told_once(site)
    # Whoever had no answer asks again; both outcomes let that succeed.
    assert await operate(site, stage) in DONE
    assert await watcher.look(site) == whole
    await publish_on(site, stage)
    assert await watcher.look(site) == {*whole, "later"}
    await assert_told_once(site)
    return "old" if revision == stage.revision else "new"


async def publish_on(site: Site, stage: Stage) -> None:
    """Publish one more target on what is there."""
    forge = copy.deepcopy(stage.forge)
    current = json.loads(await site.body("targets.json"))["signed"]
    forge.targets.version = current["version"] + 1
    forge.targets.targets["later"] = target(b"later", "later")
    await site.publish(forge, "targets")


async def assert_told_once(site: Site) -> None:
    """See that the changefeed tells each version once, in order, and what became of each tag."""
    store: Any = site.store
    if isinstance(store, RedisStore):
        await store.sweep(age_seconds=-1)  # what was left is told by whoever finds it
    told = await store.changes(GUN, after=0, limit=1000)
    assert [change.id for change in told] == sorted({change.id for change in told})
    made = {file.version for file in await store.files(GUN) if file.role == "timestamp"}
    assert [change.version for change in told] == sorted(made)
    events = await store.events(GUN)
    assert len({(event.target, event.version) for event in events}) == len(events)
