from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer

from http_site import GUN, Clock, Site
from tabellion_server.app import make_app
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.services import feed
from tabellion_server.storage.sqlite import SqliteStore
from tabellion_server.web import changes
from tabellion_server.web.context import CONTEXT
from tabellion_server.web.requests import IN_FLIGHT

OTHER = "registry.example/other"


async def ask(site: Site, query: str = "") -> dict[str, Any]:
    answer = await site.client.session.get(site.at(f"/v1/changes{query}"))
    assert answer.status == 200, await answer.text()
    assert answer.headers["Cache-Control"] == "no-store"
    return dict(await answer.json())


async def refused(site: Site, query: str, status: int = 400) -> dict[str, Any]:
    answer = await site.client.session.get(site.at(f"/v1/changes{query}"))
    assert answer.status == status
    return dict(await answer.json())


async def publish_next(site: Site, forge: Any) -> None:
    forge.targets.version += 1
    await site.publish(forge, "targets")


@dataclass
class Stream:
    """A reader of server-sent events."""

    answer: ClientResponse

    async def event(self) -> dict[str, str]:
        """Give the fields of the next event, comments passed over."""
        async with asyncio.timeout(10):
            while True:
                block = (await self.answer.content.readuntil(b"\n\n")).decode()
                fields = dict(line.split(": ", 1) for line in block.strip().split("\n"))
                if "data" in fields:
                    return fields


async def stream(site: Site, query: str = "", **headers: str) -> Stream:
    answer = await site.client.session.get(
        site.at(f"/v1/changes{query}"), headers={"Accept": "text/event-stream", **headers}
    )
    assert answer.status == 200, await answer.text()
    assert answer.content_type == "text/event-stream"
    return Stream(answer)


async def test_changes_come_in_order_and_a_reader_goes_on_where_it_stopped(site: Site) -> None:
    forge = await site.forge()
    await site.publish(forge, "root", "targets")
    await publish_next(site, forge)
    other = replace(site, gun=OTHER)
    await other.publish(await other.forge(), "root", "targets")
    whole = await ask(site)
    assert [(item["gun"], item["version"]) for item in whole["changes"]] == [
        (GUN, 1),
        (GUN, 2),
        (OTHER, 1),
    ]
    first = await ask(site, "?limit=2")
    assert first["changes"] == whole["changes"][:2]
    rest = await ask(site, f"?since={first['next']}")
    assert rest["changes"] == whole["changes"][2:]
    assert await ask(site, f"?since={rest['next']}") == {"changes": [], "next": rest["next"]}
    assert (await ask(site, f"?gun={OTHER}"))["changes"] == whole["changes"][2:]
    assert (await ask(site, "?since=newest"))["next"] == rest["next"]


async def test_a_deletion_is_told_without_a_version(site: Site) -> None:
    await site.publish(await site.forge(), "root", "targets")
    await site.client.session.delete(site.url(""))
    dropped = (await ask(site))["changes"][-1]
    assert dropped.keys() == {"id", "gun", "category", "at"}
    assert (dropped["gun"], dropped["category"]) == (GUN, "deletion")


async def test_who_waits_is_answered_by_the_next_change_and_not_by_another_gun_s(
    site: Site,
) -> None:
    forge = await site.forge()
    await site.publish(forge, "root", "targets")
    waiting = asyncio.create_task(ask(site, f"?gun={GUN}&since=newest&wait=30"))
    for_other = asyncio.create_task(ask(site, f"?gun={OTHER}&wait=1"))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await publish_next(site, forge)
    (change,) = (await asyncio.wait_for(waiting, 5))["changes"]
    assert (change["gun"], change["version"]) == (GUN, 2)
    assert (await asyncio.wait_for(for_other, 5))["changes"] == []


async def test_what_another_node_writes_is_told_too(site: Site, tmp_path: Path) -> None:
    forge = await site.forge()
    await site.publish(forge, "root", "targets")
    waiting = asyncio.create_task(ask(site, "?since=newest&wait=30"))
    await asyncio.sleep(0.1)
    async with SecondNode(site, tmp_path) as node:
        await publish_next(node, forge)
        (change,) = (await asyncio.wait_for(waiting, 5))["changes"]
    assert change["version"] == 2


class SecondNode:
    """Another server on the same store."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site = site
        self.path = folder / "tabellion.db"

    async def __aenter__(self) -> Site:
        self.store = await SqliteStore.open(self.path)
        context = self.site.client.app[CONTEXT]  # type: ignore[index]
        keys = OnlineKeys(self.store, context.online._master)
        app = make_app(context.settings, store=self.store, online_keys=keys, clock=Clock())
        self.client = TestClient(TestServer(app))
        await self.client.start_server()
        return Site(self.client, self.store, Clock())

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        await self.store.close()


async def test_many_readers_through_two_nodes_miss_nothing_and_see_one_order(
    site: Site, tmp_path: Path
) -> None:
    guns = [f"registry.example/app{number}" for number in range(4)]
    count = 6
    async with SecondNode(site, tmp_path) as node:

        async def write(gun: str, nodes: list[Site]) -> None:
            forge = await replace(nodes[0], gun=gun).forge()
            await replace(nodes[0], gun=gun).publish(forge, "root", "targets")
            for number in range(1, count):
                await publish_next(replace(nodes[number % 2], gun=gun), forge)

        async def follow(place: Site, query: str, wanted: int) -> list[tuple[int, str]]:
            seen: list[tuple[int, str]] = []
            since = 0
            while len(seen) < wanted:
                found = await ask(place, f"?since={since}&wait=20&limit=3{query}")
                seen += [(item["id"], item["gun"]) for item in found["changes"]]
                since = found["next"]
            return seen

        total = len(guns) * count
        readers = [
            asyncio.create_task(follow(place, "", total)) for place in (site, node, site, node)
        ]
        of_one = asyncio.create_task(follow(node, f"&gun={guns[0]}", count))
        await asyncio.gather(*(write(gun, [site, node]) for gun in guns))
        async with asyncio.timeout(30):
            seen = await asyncio.gather(*readers)
            mine = await of_one
    assert all(one == seen[0] for one in seen)
    assert [number for number, _ in seen[0]] == sorted({number for number, _ in seen[0]})
    assert mine == [item for item in seen[0] if item[1] == guns[0]]


async def test_a_stream_tells_what_was_and_what_comes_and_resumes(site: Site) -> None:
    forge = await site.forge()
    await site.publish(forge, "root", "targets")
    reader = await stream(site)
    assert reader.answer.headers["X-Request-ID"]
    first = await reader.event()
    assert (first["event"], json.loads(first["data"])["version"]) == ("update", 1)
    assert json.loads(first["data"])["id"] == int(first["id"])
    await publish_next(site, forge)
    assert json.loads((await reader.event())["data"])["version"] == 2
    reader.answer.close()
    await publish_next(site, forge)
    # As a browser comes again: the address is as it was, the header says where it stopped.
    again = await stream(site, "?since=0", **{"Last-Event-ID": first["id"]})
    assert [json.loads((await again.event())["data"])["version"] for _ in range(2)] == [2, 3]
    again.answer.close()


async def test_an_idle_stream_says_that_it_lives(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "_BEAT_SECONDS", 0.05)
    reader = await stream(site)
    async with asyncio.timeout(5):
        blocks = [await reader.answer.content.readuntil(b"\n\n") for _ in range(3)]
    assert blocks[1:] == [b": nothing new\n\n"] * 2
    reader.answer.close()


async def test_a_stream_ends_so_that_its_token_is_judged_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "_BEAT_SECONDS", 0.05)
    monkeypatch.setattr(changes, "_STREAM_SECONDS", 0.2)
    reader = await stream(site)
    assert b"nothing new" in await asyncio.wait_for(reader.answer.read(), 5)


async def test_the_server_s_end_ends_all_waiting(site: Site) -> None:
    waiting = asyncio.create_task(ask(site, "?wait=60"))
    reader = await stream(site)
    await asyncio.sleep(0.1)
    site.client.app[CONTEXT].feed.end()  # type: ignore[index]
    assert (await asyncio.wait_for(waiting, 5))["changes"] == []
    await asyncio.wait_for(reader.answer.read(), 5)


async def test_too_many_waiters_are_told_to_come_later(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MAX_WAITERS", 2)
    waiting = [asyncio.create_task(ask(site, "?wait=2")) for _ in range(2)]
    await asyncio.sleep(0.2)
    await ask(site)  # who doesn't wait is answered
    answer = await site.client.session.get(site.at("/v1/changes?wait=1"))
    assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
    assert [found["changes"] for found in await asyncio.gather(*waiting)] == [[], []]
    assert await ask(site, "?wait=1") == {"changes": [], "next": 0}


@pytest.mark.parametrize(
    "query",
    [
        "?since=-1",
        "?since=oldest",
        "?since=%C2%B2",
        "?since=1&since=2",
        "?since=99999999999999999999",
        "?wait=61",
        "?wait=-1",
        "?wait=1.5",
        "?limit=0",
        "?limit=1001",
        "?gun=../x",
        "?gun=a&gun=b",
    ],
)
async def test_a_senseless_question_is_refused(site: Site, query: str) -> None:
    problem = await refused(site, query)
    assert problem["code"] in {"usage", "invalid-name"}


async def test_a_node_reads_ahead_what_is_asked_for_and_forgets_what_is_dropped(
    site: Site,
) -> None:
    forge = await site.forge()
    await site.publish(forge, "root", "targets")
    context = site.client.app[CONTEXT]  # type: ignore[index]
    await site.body("timestamp.json")
    await publish_next(site, forge)
    newest = (await site.store.changes(None, limit=1))[0]
    await context.feed._look()
    await context.files.follow([newest], context.heads)
    held = {key[1:] for key in context.files._stored._held}
    assert ("timestamp", newest.sha256) in held
    await site.client.session.delete(site.url(""))
    await context.files.follow(await site.store.changes(None, limit=1), context.heads)
    assert not context.files._stored._held
    assert context.files._stored._size == 0


async def connect(site: Site, path: str, *, accept: str = "*/*") -> asyncio.StreamWriter:
    """Ask over a connection of one's own, of whose answer nothing is read."""
    url = site.client.make_url("/")
    _, writer = await asyncio.open_connection(url.host, url.port, limit=1)
    request = f"GET {site.at(path)} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n"
    writer.write(request.encode())
    await writer.drain()
    return writer


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(500):
        if holds():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it didn't come to that")


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
async def test_who_has_gone_takes_no_place_of_those_who_wait(
    site: Site, monkeypatch: pytest.MonkeyPatch, accept: str
) -> None:
    monkeypatch.setattr(feed, "MAX_WAITERS", 2)
    site.client.server.handler.handler_cancellation = False  # as where it's really served
    context = site.client.app[CONTEXT]  # type: ignore[index]
    gone = [await connect(site, "/v1/changes?wait=60", accept=accept) for _ in range(2)]
    await until(lambda: context.feed._count == 2)
    for writer in gone:
        writer.close()
    await until(lambda: context.feed._count == 0)
    assert await ask(site, "?wait=1") == {"changes": [], "next": 0}


async def test_a_stream_that_nobody_reads_is_cut(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.publish(await site.forge(), "root", "targets")
    monkeypatch.setattr(changes, "_WRITE_SECONDS", 0.5)
    monkeypatch.setattr(changes, "_event", lambda _: b"data: " + b"x" * 20_000_000 + b"\n\n")
    in_flight = site.client.app[IN_FLIGHT]  # type: ignore[index]
    writer = await connect(site, "/v1/changes", accept="text/event-stream")
    await until(lambda: in_flight._count == 1)
    await until(lambda: in_flight._count == 0)
    writer.close()


async def test_no_wait_is_a_wait_of_zero(site: Site) -> None:
    assert await ask(site, "?wait=0") == {"changes": [], "next": 0}
