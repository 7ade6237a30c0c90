"""Histories of many clients and nodes under kills and pauses keep promises 1 to 4."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

import aiohttp
import pytest

from history import Operation, Read, Write, judge
from nodes import Life, Nodes, nodes

MUTATED = Path(__file__).parents[1] / "mutated_node.py"
CONFIG = """
[server]
listen = "127.0.0.1:0"
[storage]
url = "sqlite:///store/tabellion.db"
[expiry]
timestamp = "3s"
"""


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

        trouble = asyncio.create_task(place.trouble(pauses=True)) if is_troubled else None
        async with asyncio.TaskGroup() as group:
            for one in lives:
                for step, pause in (
                    *[(one.publish, 0.02)] * 2,
                    *[(one.read, 0.01)] * 2,
                    (one.rotate, 0.8),
                ):
                    group.create_task(again(step, pause))
        if trouble is not None:
            trouble.cancel()
            await asyncio.gather(trouble, return_exceptions=True)
            if not place.running:
                await place.start()
        for one in lives:
            await one.read()  # what is left at the end has all of it
        return [item for one in lives for item in one.log]


def counts(log: list[Operation]) -> Counter[str]:
    return Counter(
        ("read" if not item.torn else "torn") if isinstance(item, Read) else item.outcome
        for item in log
    )


async def test_histories_under_kills_and_pauses_keep_the_promises(tmp_path: Path) -> None:
    rng = Random(5)  # noqa: S311  (a seed, not a secret)
    async with nodes(tmp_path, CONFIG, 3, rng=rng) as place:
        log = await live(place, 12, is_troubled=True)
        assert judge(log) == []
        assert place.kills >= 3
        assert place.pauses >= 2
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
    async with nodes(tmp_path, CONFIG, 2, rng=rng, program=program) as place:
        # What is to be seen depends on who comes when.
        seen: set[int] = set()
        for number in range(4):
            log = await live(place, 3, is_troubled=False, name=f"app{number}")
            seen |= {found.promise for found in judge(log)}
            if promise in seen:
                break
    assert promise in seen, counts(log)
