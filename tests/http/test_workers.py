"""Several workers on one machine, as processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tuf.api.metadata import Targets

from forge import target
from http_site import signed
from server_process import CONFIG, GUN, Server, forge_for, post, server, verified

WORKERS = CONFIG.replace("[server]", "[server]\nworkers = 3")


def children(pid: int) -> set[int]:
    return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


async def until(condition: Any, seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  (another process changes it)
            await asyncio.sleep(0.05)


async def started(running: Server) -> set[int]:
    await until(lambda: len(children(running.process.pid)) == 3)
    return children(running.process.pid)


def is_running(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


async def test_forty_publishers_through_three_workers_lose_nothing(tmp_path: Path) -> None:
    async with server(tmp_path, WORKERS) as running:
        await started(running)
        base = f"{running.url}/v2/{GUN}/_trust/tuf/"
        async with aiohttp.ClientSession() as session:
            forge = await forge_for(session, base)
            assert await post(session, base, signed(forge, "root", "targets")) == 200

        async def publish(name: str) -> None:
            # A connection of its own each time: whichever worker takes it.
            status = 409
            while status == 409:
                async with aiohttp.ClientSession() as session:
                    async with session.get(f"{base}targets.json") as answer:
                        current = json.loads(await answer.read())["signed"]
                    payload = Targets.from_dict(current)
                    payload.version += 1
                    payload.targets[name] = target(b"x", name)
                    data = forge.sign("targets", payload)
                    status = await post(session, base, {"targets": data})
            assert status == 200

        await asyncio.gather(*(publish(f"app-{number}") for number in range(40)))
        async with aiohttp.ClientSession() as session:
            assert len(await verified(session, base, forge)) == 40


async def test_one_that_dies_is_replaced_and_the_others_go_on(tmp_path: Path) -> None:
    async with server(tmp_path, WORKERS) as running, aiohttp.ClientSession() as session:
        before = await started(running)
        os.kill(min(before), signal.SIGKILL)
        for _ in range(20):
            async with session.get(f"{running.url}/readyz") as answer:
                assert answer.status == 200
        await until(lambda: len(children(running.process.pid)) == 3)
        assert children(running.process.pid) > before - {min(before)}
        assert any("worker.died" in line and "status=-9" in line for line in running.log)


async def test_the_end_of_all_leaves_no_request_unanswered(tmp_path: Path) -> None:
    async with server(tmp_path, WORKERS) as running, aiohttp.ClientSession() as session:
        workers = await started(running)
        waiting = [
            asyncio.create_task(session.get(f"{running.url}/v1/changes?wait=60")) for _ in range(6)
        ]
        await asyncio.sleep(0.3)
        running.process.send_signal(signal.SIGINT)
        for answer in await asyncio.gather(*waiting):
            assert answer.status == 200
        assert await asyncio.wait_for(running.process.wait(), 15) == 0
        assert not any(map(is_running, workers))


async def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    async with server(tmp_path, WORKERS) as running:
        workers = await started(running)
        running.process.kill()
        await until(lambda: not any(map(is_running, workers)))


async def ask_for_changes(running: Server, times: int) -> None:
    for _ in range(times):
        async with aiohttp.ClientSession() as session:
            await session.get(f"{running.url}/v2/{GUN}/_trust/changefeed?records=1")


async def counted(running: Server) -> tuple[float, str]:
    """Give how many requests for changes were counted, and all that is told."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{running.url}/metrics") as answer,
    ):
        text = await answer.text()
    found = re.findall(r'requests_total\{.*operation="Changefeed"\} ([0-9.]+)', text)
    return sum(map(float, found)), text


async def test_counters_are_those_of_all_workers(tmp_path: Path) -> None:
    async with server(tmp_path, WORKERS) as running:
        await started(running)
        await ask_for_changes(running, 12)
        number, text = await counted(running)
    assert number == 12
    assert 'soonest_timestamp_seconds{role="root"} +Inf' in text


async def test_who_takes_a_dead_workers_place_counts_on_in_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    async with server(tmp_path, WORKERS) as running:
        for deaths in range(3):
            workers = await started(running)
            await ask_for_changes(running, 12)
            assert (await counted(running))[0] == 12 * (deaths + 1)
            for pid in workers:
                os.kill(pid, signal.SIGKILL)
            await until(lambda: not any(map(is_running, workers)))  # noqa: B023  (done by then)
        await started(running)
        await ask_for_changes(running, 12)
        assert (await counted(running))[0] == 48
        (folder,) = temporary.glob("tabellion-metrics-*")
        kinds = {file.name.rpartition("_")[0] for file in folder.iterdir()}
        assert len(list(folder.iterdir())) <= 3 * len(kinds)
        running.process.terminate()
        await running.process.wait()
        assert not folder.exists()


async def test_after_a_kill_the_next_start_counts_nothing_old_and_removes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    async with server(tmp_path, WORKERS) as running:
        workers = await started(running)
        await ask_for_changes(running, 12)
        running.process.kill()
        await until(lambda: not any(map(is_running, workers)))
    (old,) = temporary.glob("tabellion-metrics-*")
    async with server(tmp_path, WORKERS) as running:
        await started(running)
        assert (await counted(running))[0] == 0
        (new,) = temporary.glob("tabellion-metrics-*")
        assert new != old
        # Another start beside it leaves it alone.
        (tmp_path / "second").mkdir()
        async with server(tmp_path / "second", WORKERS) as second:
            await started(second)
            assert len(list(temporary.glob("tabellion-metrics-*"))) == 2
        await ask_for_changes(running, 3)
        assert (await counted(running))[0] == 3


async def test_what_is_wrong_at_the_start_is_told_once_and_ends_it(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store/tabellion.db").write_bytes(b"not empty")
    config = tmp_path / "server.toml"
    config.write_text(WORKERS)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tabellion_server", "serve", "--config", str(config)),
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 2
    assert told.count(b"is gone, but the store is here") == 1
    assert b"listening" not in told


@pytest.mark.parametrize("count", ["0", "65", "-1", '"many"'])
async def test_a_senseless_number_of_workers_is_refused(tmp_path: Path, count: str) -> None:
    config = tmp_path / "server.toml"
    config.write_text(CONFIG.replace("[server]", f"[server]\nworkers = {count}"))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tabellion_server", "check-config", "--config", str(config)),
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 2
    assert b"server.workers" in told


async def test_timestamps_due_at_once_are_signed_once_whoever_is_asked(tmp_path: Path) -> None:
    text = WORKERS + '[expiry]\ntimestamp = "2s"\n'
    guns = [f"registry.example/app{number}" for number in range(12)]
    seen: dict[tuple[str, int], bytes] = {}
    async with server(tmp_path, text) as running:
        await started(running)
        for gun in guns:
            base = f"{running.url}/v2/{gun}/_trust/tuf/"
            async with aiohttp.ClientSession() as session:
                forge = await forge_for(session, base)
                assert await post(session, base, signed(forge, "root", "targets")) == 200

        async def read(gun: str) -> None:
            newest = 0
            for _ in range(8):
                async with (
                    aiohttp.ClientSession() as session,
                    session.get(f"{running.url}/v2/{gun}/_trust/tuf/timestamp.json") as answer,
                ):
                    data = await answer.read()
                version = json.loads(data)["signed"]["version"]
                assert version >= newest
                newest = version
                assert seen.setdefault((gun, version), data) == data
                await asyncio.sleep(0.5)

        await asyncio.gather(*(read(gun) for gun in guns for _ in range(3)))
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{running.url}/v1/changes?limit=1000") as answer,
        ):
            told = [(item["gun"], item["version"]) for item in (await answer.json())["changes"]]
    assert len(set(told)) == len(told)
    # Each life of 2 s asks for about one a second, not for three.
    assert max(version for _, version in told) <= 10


async def test_a_hang_up_ends_neither_the_server_nor_a_worker(tmp_path: Path) -> None:
    async with server(tmp_path, WORKERS) as running, aiohttp.ClientSession() as session:
        before = await started(running)
        for pid in (min(before), running.process.pid):
            os.kill(pid, signal.SIGHUP)
        await asyncio.sleep(0.5)
        async with session.get(f"{running.url}/readyz") as answer:
            assert answer.status == 200
        assert children(running.process.pid) == before
        assert all(map(is_running, before))


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_server_on_a_terminal_ends_with_it(tmp_path: Path, workers: int) -> None:
    config = tmp_path / "server.toml"
    config.write_text(CONFIG.replace("[server]", f"[server]\nworkers = {workers}"))
    terminal, end = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tabellion_server", "serve", "--config", str(config)), stderr=end
    )
    os.close(end)
    seen = b""
    while b"listening" not in seen:
        seen += await asyncio.wait_for(asyncio.to_thread(os.read, terminal, 4096), 30)
    process.send_signal(signal.SIGHUP)
    while process.returncode is None:  # what it says has to be read, or it waits
        with contextlib.suppress(TimeoutError, OSError):
            seen += await asyncio.wait_for(asyncio.to_thread(os.read, terminal, 4096), 5)
        await asyncio.sleep(0)
    os.close(terminal)
    assert process.returncode == 0
    assert b"stopped" in seen
