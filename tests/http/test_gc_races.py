"""``gc`` beside a server at work, as processes: no client under way misses a file."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
import time
from pathlib import Path
from random import Random

import aiohttp
import pytest
from securesystemslib.signer import Key

from forge import Forge, target
from http_site import signed
from postgres_server import Database
from server_process import CONFIG, Server, forge_for, post, server, verified, write_master_key
from tabellion.errors import ExpiredMetadataError

SECONDS = 4.0
MARGIN = 3  # longer than any client here takes
LIVES = '[expiry]\ntimestamp = "1s"\nsnapshot = "1s"\n'


@pytest.fixture(params=["sqlite", "postgres"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return CONFIG + LIVES
    database: Database = request.getfixturevalue("database")
    write_master_key(tmp_path)
    return CONFIG.replace("sqlite:///store/tabellion.db", database.url) + LIVES


async def run(folder: Path, *words: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tabellion_server", *words),
        *("--config", str(folder / "server.toml")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, output.decode()


async def publish(session: aiohttp.ClientSession, base: str, forge: Forge, number: int) -> None:
    """Publish a release; now and then take a signer, take it away, or rotate an online key."""
    forge.targets.version += 1
    name = f"v{forge.targets.version}"
    forge.targets.targets[name] = target(b"x", name)
    files = ["targets"]
    if number % 6 == 1:
        forge.delegate(f"signer{number}", ["*"])
        files.append(f"signer{number}")
    elif number % 6 == 4:
        signer = f"signer{number - 3}"
        assert forge.targets.delegations is not None
        assert forge.targets.delegations.roles is not None
        forge.targets.revoke_key(forge.signers[signer][0].public_key.keyid, signer)
        del forge.targets.delegations.roles[signer]
    elif number % 6 == 5:
        role = ("snapshot", "timestamp")[number % 4 // 2]
        async with session.post(f"{base}{role}.key?dialect=tuf") as answer:
            fields = await answer.json()
        forge.root.version += 1
        forge.root.revoke_key(forge.root.roles[role].keyids[0], role)
        forge.root.add_key(Key.from_dict(fields.pop("keyid"), fields), role)
        files.append("root")
    assert await post(session, base, signed(forge, *files)) == 200


async def refresh(session: aiohttp.ClientSession, base: str, rng: Random) -> None:
    """Read as a client that takes its time; every root is there, all that is named, too."""

    async def get(name: str, *, expected: int = 200) -> bytes:
        async with session.get(base + name) as answer:
            assert answer.status == expected, name
            return await answer.read()

    newest = json.loads(await get("root.json"))["signed"]["version"]
    for version in range(1, newest + 1):
        await get(f"{version}.root.json")
    meta = json.loads(await get("timestamp.json"))["signed"]["meta"]
    await asyncio.sleep(rng.uniform(0, 1))
    snapshot = await get(f"{meta['snapshot.json']['version']}.snapshot.json")
    for name, item in json.loads(snapshot)["signed"]["meta"].items():
        await asyncio.sleep(rng.uniform(0, 0.1))
        await get(f"{item['version']}.{name}")


async def collect_again_and_again(folder: Path, until: float) -> int:
    """Run ``gc`` as an operator's timer would, though all the time; give how many files went."""
    gone = 0
    words = ("gc", "--margin", f"{MARGIN}s", "--signed-margin", f"{MARGIN}s")
    while time.monotonic() < until:
        status, told = await run(folder, *words)
        assert status == 0, told
        found = re.search(r"let go: ([0-9]+) files", told)
        assert found is not None, told
        gone += int(found[1])
    return gone


async def test_no_client_under_way_misses_a_file_that_gc_let_go(
    tmp_path: Path, config: str
) -> None:
    rng = Random(3)  # noqa: S311  (no secret)
    async with server(tmp_path, config) as running, aiohttp.ClientSession() as session:
        forge = await forge_for(session, running.base)
        assert await post(session, running.base, signed(forge, "root", "targets")) == 200
        until = time.monotonic() + SECONDS + MARGIN
        reads = 0

        async def read() -> None:
            nonlocal reads
            while time.monotonic() < until:
                await refresh(session, running.base, rng)
                reads += 1

        async def write() -> None:
            number = 0
            while time.monotonic() < until:
                await publish(session, running.base, forge, number)
                number += 1
                await asyncio.sleep(0.15)

        async with asyncio.TaskGroup() as group:
            collecting = group.create_task(collect_again_and_again(tmp_path, until))
            group.create_task(write())
            for _ in range(3):
                group.create_task(read())
        assert collecting.result() > 20
        assert reads > 10
        async with asyncio.timeout(20):
            seen = None
            while seen is None:
                with contextlib.suppress(ExpiredMetadataError):  # it lives for a second
                    seen = await verified(session, running.base, forge)
        assert len(seen) == forge.targets.version - 1
        await end(running)
    status, told = await run(tmp_path, "check")
    assert (status, "none damaged" in told) == (0, True), told


async def end(running: Server) -> None:
    with contextlib.suppress(ProcessLookupError):
        running.process.terminate()
    await running.process.wait()
