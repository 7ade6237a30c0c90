"""A real full disk, and one that can't be written: what is told, what stays, how it goes on."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from forge import target
from http_site import signed
from server_process import CONFIG, GUN, forge_for, post, server, verified
from tabellion.verify.client import TrustClient

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts disks")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Give a folder on a disk of 3 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["/usr/bin/mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    if subprocess.run(words, check=False).returncode:
        pytest.skip("this machine lets nobody mount a disk")
    yield place
    subprocess.run(["/usr/bin/umount", "--lazy", str(place)], check=True)


async def test_a_full_disk_refuses_writers_serves_readers_and_loses_nothing(disk: Path) -> None:
    async with server(disk, CONFIG) as running, aiohttp.ClientSession() as session:
        base = f"{running.url}/v2/{GUN}/_trust/tuf/"
        forge = await forge_for(session, base)
        assert await post(session, base, signed(forge, "root", "targets")) == 200
        root = forge.files["root"]
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * 1_000_000)
        accepted: set[str] = set()
        status = 200
        while status == 200:
            name = f"app-{len(accepted)}"
            forge.targets.version += 1
            forge.targets.targets[name] = target(os.urandom(16), name)
            forge.targets.unrecognized_fields["x-weight"] = os.urandom(40_000).hex()
            status = await post(session, base, signed(forge, "targets"))
            accepted |= {name} if status == 200 else set()
            assert len(accepted) < 100
        assert status == 503
        assert len(accepted) > 3
        assert await verified(session, base, forge) == accepted
        async with session.get(f"{running.url}/v1/guns") as answer:
            assert answer.status == 200
        assert any("no space left" in line for line in running.log)
        ballast.unlink()
        # The very same publication: it was refused whole.
        forge.targets.version = len(accepted) + 2
        assert await post(session, base, signed(forge, "targets")) == 200
        running.process.kill()
        await running.process.wait()
    async with (
        server(disk, CONFIG) as running,
        TrustClient(running.url, home=disk.parent / "home", root=root) as client,
    ):
        assert {match.path for match in await client.targets(GUN)} == {*accepted, name}


async def test_a_disk_that_cannot_be_written_is_told_at_the_start(disk: Path) -> None:
    async with server(disk, CONFIG) as running:
        running.process.terminate()
        await running.process.wait()
    subprocess.run(["/usr/bin/mount", "-o", "remount,ro", str(disk)], check=True)
    config = disk / "server.toml"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tabellion_server", "serve", "--config", str(config)),
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 3, told
    assert b"Traceback" not in told
    assert b"hint: " in told
