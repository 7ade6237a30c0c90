"""A node's clock that is wrong: told, and nothing is signed or served that it makes expired."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import FormData
from aiohttp.test_utils import TestClient, TestServer
from structlog.testing import capture_logs

from forge import Forge
from http_site import GUN, Clock, signed
from tabellion.core.publication import UploadedFile
from tabellion_server.app import make_app
from tabellion_server.keys.master import MasterKey
from tabellion_server.keys.online import ONLINE_ROLES, OnlineKeys
from tabellion_server.services.clocks import ClockWatch
from tabellion_server.settings import Settings
from tabellion_server.storage.interface import Store
from tabellion_server.web.context import CONTEXT

OpenStore = Callable[[], Awaitable[Store]]
FILES = f"/v2/{GUN}/_trust/tuf/"
HEADERS = {"Accept": "application/problem+json"}


@pytest.fixture
def master() -> MasterKey:
    return MasterKey.generate()


def clock(hours: float) -> Clock:
    return Clock(datetime.now(UTC) + timedelta(hours=hours))


async def found(store: Store, master: MasterKey, at: Clock) -> Forge:
    """Publish from a node that hasn't looked at clocks yet."""
    app = make_app(Settings(), store=store, online_keys=OnlineKeys(store, master), clock=at)
    forge, context = Forge(), app[CONTEXT]
    for role in sorted(ONLINE_ROLES):
        forge.root.revoke_key(forge.root.roles[role].keyids[0], role)
        forge.root.add_key(await context.online.public_key(GUN, role), role)
    files = signed(forge, "root", "targets")
    await context.publisher.publish(GUN, [UploadedFile(role, files[role]) for role in files])
    return forge


@contextlib.asynccontextmanager
async def node(store: Store, master: MasterKey, at: Clock) -> AsyncIterator[TestClient[Any, Any]]:
    keys = OnlineKeys(store, master)
    app = make_app(Settings(), store=store, online_keys=keys, clock=at, watches=False)
    async with TestClient(TestServer(app), headers=HEADERS) as client:
        yield client


async def test_what_would_be_expired_by_the_store_s_clock_is_not_signed_or_served(
    open_store: OpenStore, master: MasterKey
) -> None:
    store = await open_store()
    forge = await found(store, master, clock(-25))  # it has expired an hour ago
    if await store.now() is None:  # SQLite: nobody knows which of the two was wrong
        async with node(store, master, clock(-30)) as client:
            assert (await client.get(f"{FILES}timestamp.json")).status == 200
            told = (await (await client.get("/readyz")).json())["clock"]
            assert f"of {GUN}, is dated 5:00:00 ahead" in told
        return
    head = await store.head(GUN)
    with capture_logs() as logs:
        async with node(store, master, clock(-30)) as client:
            forge.targets.version += 1
            form = FormData(quote_fields=False)
            form.add_field("files", signed(forge, "targets")["targets"], filename="targets")
            for answer in (
                await client.post(FILES, data=form),
                await client.get(f"{FILES}timestamp.json"),
                await client.get("/readyz"),
            ):
                problem = await answer.json()
                assert (answer.status, problem["code"]) == (503, "clock-wrong")
                assert "clock is so far behind" in problem["detail"]
                assert answer.headers["Retry-After"]
            assert (await client.get(f"{FILES}1.root.json")).status == 200
    assert await store.head(GUN) == head
    (line,) = (line for line in logs if line["event"] == "clock.wrong")
    assert "1 day, 6:00:00 behind the store's" in line["problem"]
    # One that is behind by less signs what is valid by every clock, though for a short time.
    async with node(store, master, clock(-20)) as client:
        assert (await client.get(f"{FILES}timestamp.json")).status == 200
        assert "20:00:00 behind" in (await (await client.get("/readyz")).json())["clock"]
    after = await store.head(GUN)
    assert after is not None
    assert after.files["timestamp"].version == 2
    # What is valid is served, whatever the clock of who serves it.
    async with node(store, master, clock(-30)) as client:
        assert (await client.get(f"{FILES}timestamp.json")).status == 200


@pytest.mark.parametrize(("hours", "told"), [(-2, "behind"), (2, "ahead"), (0, "")])
async def test_a_wrong_clock_is_told_once(
    open_store: OpenStore, master: MasterKey, hours: float, told: str
) -> None:
    store, mine = await open_store(), clock(hours)
    await found(store, master, clock(0))
    if await store.now() is None and told == "ahead":
        told = ""  # nothing that is seen would tell
    watch = ClockWatch(store, clock=mine)
    with capture_logs() as logs:
        for _ in range(3):
            await watch.look()
        mine.now = datetime.now(UTC)
        await watch.look()
    assert [line["event"] for line in logs] == (["clock.wrong", "clock.right"] if told else [])
    if logs:
        assert ("2:00:00" in logs[0]["problem"]) or ("1:59:59" in logs[0]["problem"])
    assert not watch.problem


async def test_between_two_looks_the_store_s_clock_is_counted_on(
    open_store: OpenStore,
) -> None:
    store, mine, seconds = await open_store(), clock(0), 5.0
    watch = ClockWatch(store, clock=mine, monotonic=lambda: seconds)
    await watch.look()
    soon = datetime.now(UTC) + timedelta(minutes=30)
    mine.now -= timedelta(days=400)  # set back by somebody
    assert not watch.is_past(soon)
    seconds += 3600
    assert watch.is_past(soon) == (await store.now() is not None)
