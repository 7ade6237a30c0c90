"""Several nodes come to rotate the same keys at once: it's done once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from securesystemslib.signer import Key

from forge import Forge
from http_site import Clock, signed
from tabellion.core.publication import UploadedFile
from tabellion_server.app import make_app
from tabellion_server.keys.master import MasterKey
from tabellion_server.keys.online import ONLINE_ROLES, OnlineKeys
from tabellion_server.services.key_schedule import KeySchedule
from tabellion_server.settings import Settings
from tabellion_server.storage.interface import Store
from tabellion_server.web.context import CONTEXT, Context

OpenStore = Callable[[], Awaitable[Store]]

YEAR = timedelta(days=365)


def node(store: Store, master: MasterKey, clock: Clock) -> tuple[Context, KeySchedule]:
    keys = OnlineKeys(store, master, clock=clock)
    context = make_app(Settings(), store=store, online_keys=keys, clock=clock)[CONTEXT]
    schedule = KeySchedule(
        store, context.files, context.online, context.pendings, clock=clock, after=YEAR
    )
    return context, schedule


async def found(context: Context, gun: str) -> None:
    forge = Forge()
    for role in sorted(ONLINE_ROLES):
        key: Key = await context.online.public_key(gun, role)
        forge.root.revoke_key(forge.root.roles[role].keyids[0], role)
        forge.root.add_key(key, role)
    files = signed(forge, "root", "targets")
    await context.publisher.publish(gun, [UploadedFile(role, files[role]) for role in files])


@pytest.mark.parametrize("skew", [timedelta(0), timedelta(hours=30)])
async def test_keys_are_rotated_once_however_many_nodes_come_to_it(
    open_store: OpenStore, skew: timedelta
) -> None:
    master, clocks = MasterKey.generate(), [Clock() for _ in range(3)]
    nodes = [node(await open_store(), master, clock) for clock in clocks]
    store = await open_store()
    guns = [f"registry.example/app{number}" for number in range(4)]
    for gun in guns:
        await found(nodes[0][0], gun)
    for number, clock in enumerate(clocks):
        clock.now += YEAR + timedelta(days=2) + number * skew - skew
    for gun in guns:
        head = await store.head(gun)
        assert head is not None
        made = await asyncio.gather(*(schedule.propose(head) for _, schedule in nodes))
        assert sum(made) == 1
        assert len(await store.pending(gun)) == 1
        assert [entry.action for entry in await store.audit(gun, limit=9)] == ["opened"]
        for role in ONLINE_ROLES:
            assert len(await store.online_keys(gun, role)) == 2
