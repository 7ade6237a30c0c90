"""A node that ends at any of its questions to the store, or whose link to it is cut there.

What was told stands, readers see the old or the new set, the next node goes on, nothing is told
twice, and no version has two contents.

On SQLite a question is a call of the store. On PostgreSQL and Valkey it is a message on the way
there, so the ends lie between the statements of a transaction and around its COMMIT, and between
the three steps of a publication, too. Who ends after a message was answered leaves just what who
ends before the next one leaves.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from counting_proxy import CountingProxy, Cut
from faulty_store import Fault
from http_site import Site
from postgres_server import Database
from risked import (
    DONE,
    OPERATIONS,
    Operate,
    Outcome,
    Stage,
    assert_told_once,
    go_on,
    node,
    prepare,
    seen,
)
from storage.conftest import PostgresWorld, SqliteWorld, ValkeyWorld, World
from tabellion_server.storage import postgres_link, postgres_water, redis_writing
from valkey_servers import ValkeyServer

AtLink = tuple[World, int]
# What lasts is written by the last so many messages. With 999 each is tried at each operation:
# TABELLION_TEST_CUTS=999 pytest tests/http/test_crash_points.py --timeout 600
LAST = int(os.environ.get("TABELLION_TEST_CUTS", "8"))


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_node_may_end_at_any_of_its_questions(tmp_path: Path, name: str) -> None:
    to_do, operate = OPERATIONS[name]
    world = SqliteWorld(tmp_path / "tabellion.db")
    stage = await prepare(world.place, tmp_path / "mark.json", to_do)
    backup = world.backup()
    async with node(stage, world.place, tmp_path / "whole.json") as (site, faults):
        assert await operate(site, stage) in DONE
        count = len(faults.calls)
        _, whole = await seen(site)
    assert count > 2
    ends: list[tuple[int, Fault]] = [(0, "before"), *((n, "after") for n in range(count))]
    outcomes: set[Outcome] = set()
    for number, when in ends:
        world.restore(backup)
        mark = tmp_path / f"{number}-{when}.json"
        async with node(stage, world.place, mark) as (site, faults):
            faults.stop_at = (number, when)
            doing = asyncio.create_task(operate(site, stage))
            async with asyncio.timeout(20):
                await faults.has_stopped.wait()
            assert not doing.done(), "it was told before it was sure"
            async with node(stage, world.place, mark) as (other, _):
                outcomes.add(await go_on(other, stage, operate, whole))
            doing.cancel()
            await asyncio.gather(doing, return_exceptions=True)
    assert outcomes == {"old", "new"}


@pytest.fixture(params=["postgres", "valkey"])
def at_link(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AtLink:
    """Give a store on a server, and the server's port."""
    # A node that has ended is still here, and is to give up on its store soon.
    monkeypatch.setattr(postgres_link, "DOUBT_SECONDS", 0.5)
    # What nodes ask by themselves now and then would count among an operation's messages.
    monkeypatch.setattr(postgres_water, "_PAUSE_SECONDS", 60)
    monkeypatch.setattr(redis_writing, "_SWEEP_SECONDS", 60, raising=False)
    if request.param == "postgres":
        database: Database = request.getfixturevalue("database")
        return PostgresWorld(database), database.server.port
    server: ValkeyServer = request.getfixturevalue("valkey_server")
    return ValkeyWorld(server), server.port


@dataclass(frozen=True)
class Ready:
    """A stage on such a store, its backup, and what the operation comes to: targets, messages."""

    world: World
    stage: Stage
    backup: Any
    whole: set[str]
    count: int
    operate: Operate


async def ready(folder: Path, world: World, proxy: CountingProxy, name: str) -> Ready:
    """Do the operation once undisturbed; count its messages."""
    to_do, operate = OPERATIONS[name]
    stage = await prepare(world.place, folder / "mark.json", to_do)
    backup = world.backup()
    async with node(stage, proxy.url(world.place), folder / "whole.json") as (site, _):
        await proxy.settle()
        proxy.arm("end", 999)
        assert await operate(site, stage) in DONE
        count = proxy.count
        _, whole = await seen(site)
        await assert_told_once(site)
    return Ready(world, stage, backup, whole, count, operate)


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_node_may_end_between_any_two_messages_to_its_store(
    tmp_path: Path, at_link: AtLink, name: str
) -> None:
    world, port = at_link
    outcomes: list[Outcome] = []
    async with CountingProxy.running(port) as proxy:
        made = await ready(tmp_path, world, proxy, name)
        for number in itertools.count(0 if name == "publish" else max(0, made.count - LAST)):
            world.restore(made.backup)
            place, mark = proxy.url(world.place), tmp_path / f"{number}.json"
            async with node(made.stage, place, mark) as (site, _):
                await proxy.settle()
                proxy.arm("end", number)
                doing = asyncio.create_task(made.operate(site, made.stage))
                ending = asyncio.create_task(proxy.has_cut.wait())
                async with asyncio.timeout(20):
                    await asyncio.wait({doing, ending}, return_when=asyncio.FIRST_COMPLETED)
                ending.cancel()
                if not proxy.has_cut.is_set():
                    assert await doing in DONE
                    break
                is_told = doing.done() and await doing in DONE and name != "renew"
                other_mark = tmp_path / f"{number}-other.json"
                async with node(made.stage, world.place, other_mark) as (other, _):
                    outcomes.append(await go_on(other, made.stage, made.operate, made.whole))
                assert outcomes[-1] == "new" or not is_told, "it was told before it was sure"
                doing.cancel()
                proxy.heal()
                await asyncio.gather(doing, return_exceptions=True)
    assert outcomes == sorted(outcomes, reverse=True), "what was new is old again"
    assert set(outcomes) == {"old", "new"}


@pytest.mark.parametrize("cut", ["lost-question", "lost-answer"])
@pytest.mark.parametrize("name", ["publish", "renew"])
async def test_a_link_may_be_cut_at_any_message(
    tmp_path: Path, at_link: AtLink, name: str, cut: Cut
) -> None:
    world, port = at_link
    statuses: list[int] = []
    async with CountingProxy.running(port) as proxy:
        made = await ready(tmp_path, world, proxy, name)
        for number in itertools.count(max(0, made.count - LAST)):
            world.restore(made.backup)
            place, mark = proxy.url(world.place), tmp_path / f"{number}.json"
            other_mark = tmp_path / f"{number}-other.json"
            async with node(made.stage, place, mark) as (site, _):
                await proxy.settle()
                proxy.arm(cut, number)
                status = await made.operate(site, made.stage)
                if not proxy.has_cut.is_set():
                    assert status in DONE
                    break
                statuses.append(status)
                assert status in {*DONE, 503}
                async with node(made.stage, world.place, other_mark) as (other, _):
                    outcome = await go_on(other, made.stage, made.operate, made.whole)
                if name == "publish":  # what is due and can't be renewed is given as it is
                    assert outcome == "new" or status not in DONE, "what was told isn't there"
                assert await made_later(site) == {*made.whole, "later"}
    assert len(statuses) > 2


async def made_later(site: Site) -> set[str]:
    """Give the targets at a node once it asks its store again, which takes a second at most."""
    async with asyncio.timeout(5):
        while "later" not in (targets := (await seen(site))[1]):  # noqa: ASYNC110  (as in the docstring)
            await asyncio.sleep(0.05)
    return targets
