"""A node stopped while it commits, for longer than PostgreSQL bears with it: it says what is so."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Literal

import pytest

import paused_writer
from postgres_proxy import PostgresProxy
from postgres_server import Database
from storage.test_contract import GUN, commit, made, whole_set
from tabellion_server.storage.postgres import PostgresStore


async def line(process: Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()


async def ask(process: Process, on: int) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{on}\n".encode())
    await process.stdin.drain()


@pytest.mark.parametrize("fault", ["held-commit", "held-answer"])
@pytest.mark.parametrize("is_cut", [False, True])
async def test_a_node_that_wakes_after_another_published_tells_what_is_there_and_does_it_once(
    database: Database,
    tmp_path: Path,
    fault: Literal["held-commit", "held-answer"],
    is_cut: bool,  # noqa: FBT001  (a parameter)
) -> None:
    other = await PostgresStore.open(database.place, high_water=tmp_path / "other" / "mark")
    await commit(other, whole_set(1), on=None)
    async with PostgresProxy.running(database.server.port) as proxy:
        url = database.url.replace(f":{database.server.port}/", f":{proxy.port}/")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, paused_writer.__file__, url, str(tmp_path / "paused")),
            stdin=PIPE,
            stdout=PIPE,
        )
        try:
            assert await line(process) == "ready"
            proxy.fault = fault
            await ask(process, 1)
            await asyncio.wait_for(proxy.is_held.wait(), 10)
            process.send_signal(signal.SIGSTOP)
            was_done = fault == "held-answer"
            begun = time.monotonic()
            theirs = made("targets", 2 + was_done, "the other's")
            head = await commit(other, [theirs], on=1 + was_done)
            assert time.monotonic() - begun < paused_writer.IDLE_SECONDS + 3
            assert head.revision == 2 + was_done
            await asyncio.sleep(paused_writer.COMMIT_SECONDS)
            if is_cut:
                proxy.cut()
            proxy.release.set()
            process.send_signal(signal.SIGCONT)
            said = await line(process)
            assert said == "done 2" if was_done else said.startswith("refused: "), said
            assert "isn't known" not in said
            assert await other.head(GUN) == head
            assert await other.read(GUN, "targets") == theirs
            found = await other.files(GUN)
            assert sorted(file.version for file in found if file.role == "targets") == list(
                range(1, head.revision + 1)
            )
            # It goes on, and misses nothing.
            await ask(process, head.revision)
            assert await line(process) == f"done {head.revision + 1}"
            assert process.stdin is not None
            process.stdin.close()
            assert await line(process) == "missing 0"
            assert await asyncio.wait_for(process.wait(), 20) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    await other.close()
