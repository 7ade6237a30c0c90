"""Histories of many clients and nodes under kills and pauses keep promises 1 to 4."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

import aiohttp
import pytest

from history import Operation, Read, Write, judge
from nodes import Ground, Life, Link, Nodes, nodes
from postgres_server import USER, Database
from server_process import write_master_key
from valkey_servers import ValkeyServer

# Longer ones: TABELLION_TEST_HISTORY=120 pytest tests/integration/test_histories.py
SECONDS = float(os.environ.get("TABELLION_TEST_HISTORY", "10"))
MUTATED = Path(__file__).parents[1] / "mutated_node.py"
CONFIG = """
[server]
listen = "127.0.0.1:0"
[storage]
url = "{url}"
serve_known = "0s"
[keys]
master_key_file = "{key}"
[expiry]
timestamp = "3s"
"""


def on_one_machine(folder: Path, count: int) -> list[Ground]:
    config = folder / "server.toml"
    config.write_text(CONFIG.format(url="sqlite:///store/tabellion.db", key="master.key"))
    return [Ground(config)] * count


async def on_machines(
    folder: Path, count: int, port: int, url: Callable[[int], str]
) -> list[Ground]:
    """Give nodes with a folder each, whose store is somewhere else."""
    key = write_master_key(folder)
    grounds = []
    for number in range(count):
        link = Link(port)
        await link.start()
        config = folder / str(number) / "server.toml"
        config.parent.mkdir()
        config.write_text(CONFIG.format(url=url(link.port), key=key))
        grounds.append(Ground(config, link))
    return grounds


@pytest.fixture(params=["sqlite", "postgres", "valkey"])
async def grounds(request: pytest.FixtureRequest, tmp_path: Path) -> list[Ground]:
    """Give where three nodes on one store of an engine stand."""
    if request.param == "sqlite":
        return on_one_machine(tmp_path, 3)
    if request.param == "postgres":
        database: Database = request.getfixturevalue("database")
        return await on_machines(
            tmp_path,
            3,
            database.server.port,
            lambda port: f"postgresql://{USER}@127.0.0.1:{port}/{database.name}",
        )
    valkey: ValkeyServer = request.getfixturevalue("valkey_server")
    prefix = secrets.token_hex(6)
    return await on_machines(
        tmp_path, 3, valkey.port, lambda port: f"redis://127.0.0.1:{port}/0?prefix={prefix}"
    )


async def live(
    place: Nodes, seconds: float, *, is_troubled: bool, name: str = "app"
) -> list[Operation]:
    """Have two publishers, two readers and a root's holder at work on each of two GUNs."""
    async with aiohttp.ClientSession() as session:
        lives = [Life(f"{name}/{number}", place, session) for number in range(2)]
        for one in lives:
            await one.found()
        until = asyncio.get_running_loop().time() + seconds

        async def again(step: Callable[[], Awaitable[None]], pause: float) -> None:
            while asyncio.get_running_loop().time() < until:
                await step()
                await asyncio.sleep(place.rng.uniform(0, pause))

        trouble = asyncio.create_task(place.trouble()) if is_troubled else None
        async with asyncio.TaskGroup() as group:
            for one in lives:
                for step, pause in (
                    *[(one.publish, 0.02)] * 2,
                    *[(one.read, 0.01)] * 2,
                    (one.rotate, 0.8),
                ):
                    group.create_task(again(step, pause))
        if trouble is not None:
            place.is_over = True
            await trouble
        for one in lives:
            await one.read()  # what is left at the end has all of it
        return [item for one in lives for item in one.log]


def counts(log: list[Operation]) -> Counter[str]:
    return Counter(
        ("read" if not item.torn else "torn") if isinstance(item, Read) else item.outcome
        for item in log
    )


async def test_histories_under_kills_pauses_and_partitions_keep_the_promises(
    grounds: list[Ground],
) -> None:
    rng = Random(5)  # noqa: S311  (a seed, not a secret)
    async with nodes(grounds, rng=rng) as place:
        log = await live(place, SECONDS, is_troubled=True)
        assert judge(log) == []
        assert place.kills >= 2
        assert place.kills + place.pauses + place.cuts >= 5
    seen = counts(log)
    assert seen["accepted"] >= 20
    assert seen["read"] >= 50
    assert {
        item.role for item in log if isinstance(item, Write) and item.outcome == "accepted"
    } == {
        "root",
        "targets",
    }


@pytest.mark.parametrize(
    ("mutation", "promise"),
    [("two_steps", 1), ("last_wins", 2), ("signed_twice", 3), ("old_head", 4)],
)
async def test_the_judge_sees_a_node_that_breaks_a_promise(
    tmp_path: Path, mutation: str, promise: int
) -> None:
    rng = Random(5)  # noqa: S311  (as above)
    program = (str(MUTATED), mutation)
    async with nodes(on_one_machine(tmp_path, 2), rng=rng, program=program) as place:
        # What is to be seen depends on who comes when.
        seen: set[int] = set()
        for number in range(4):
            log = await live(place, 3, is_troubled=False, name=f"app{number}")
            seen |= {found.promise for found in judge(log)}
            if promise in seen:
                break
    assert promise in seen, counts(log)
