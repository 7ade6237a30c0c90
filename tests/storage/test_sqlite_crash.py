"""The SQLite store among processes: they race, and they die by ``kill -9``."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import pytest

from storage.writer_process import GUN, ROLES, publish_next, whole_set
from tabellion_server.storage.sqlite import SqliteStore

SCRIPT = Path(__file__).with_name("writer_process.py")


async def start(mode: str, path: Path, *arguments: object) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, SCRIPT, mode, path, *map(str, arguments), stdin=PIPE, stdout=PIPE
    )


async def line(process: Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()


async def kill(process: Process) -> list[str]:
    """Kill -9; give what it still said."""
    process.send_signal(signal.SIGKILL)
    output, _ = await process.communicate()
    assert process.returncode == -signal.SIGKILL
    return output.decode().split("\n")[:-1]


async def assert_whole(store: SqliteStore, *, revision: int) -> None:
    """Every file, event and pointer of one revision is there, and nothing of the next."""
    head = await store.head(GUN)
    assert head is not None
    assert head.revision == revision
    assert {role: ref.version for role, ref in head.files.items()} == dict.fromkeys(ROLES, revision)
    for file in whole_set(revision):
        assert await store.read(GUN, file.role) == file
    for role in ROLES:
        assert await store.read(GUN, role, revision + 1) is None
    assert [event.version for event in await store.events(GUN, limit=1)] == [revision]


@pytest.mark.parametrize("seed", range(6))
async def test_a_killed_writer_leaves_the_old_or_the_new_set(path: Path, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311  (a moment to kill at)
    acknowledged = 0
    for _ in range(3):
        process = await start("publish", path)
        assert await line(process) == "ready"
        acknowledged = int(await line(process))
        await asyncio.sleep(chance.uniform(0, 0.05))
        said = await kill(process)
        acknowledged = int(said[-1]) if said else acknowledged
        store = await SqliteStore.open(path)
        head = await store.head(GUN)
        assert head is not None
        assert head.revision in {acknowledged, acknowledged + 1}
        await assert_whole(store, revision=head.revision)
        await store.close()


async def test_a_writer_killed_inside_a_commit_leaves_the_old_set(path: Path) -> None:
    store = await SqliteStore.open(path)
    await publish_next(store)
    process = await start("stop-in-a-commit", path)
    assert await line(process) == "in a commit"
    await assert_whole(store, revision=1)
    rival = asyncio.create_task(publish_next(store))
    await asyncio.sleep(0.3)
    assert not rival.done()
    await kill(process)
    assert (await rival).revision == 2
    await assert_whole(store, revision=2)
    await store.close()


async def test_a_disk_that_is_full_keeps_all_that_was_acknowledged(path: Path) -> None:
    process = await start("fill-the-disk", path)
    assert "store" in await line(process)
    acknowledged = int(await line(process))
    assert 1 < acknowledged < 100
    store = await SqliteStore.open(path)
    await assert_whole(store, revision=acknowledged)
    output, _ = await process.communicate(b"more space\n")
    assert (process.returncode, int(output)) == (0, acknowledged + 1)
    await assert_whole(store, revision=acknowledged + 1)
    await store.close()


async def test_four_processes_lose_no_update(path: Path) -> None:
    processes = [await start("publish", path, 15) for _ in range(4)]
    outputs = [(await process.communicate())[0].decode().split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0, 0]
    revisions = [int(text) for output in outputs for text in output[1:]]
    assert sorted(revisions) == list(range(1, 61))
    store = await SqliteStore.open(path)
    await assert_whole(store, revision=60)
    assert len(await store.events(GUN, limit=1000)) == 60
    await store.close()
