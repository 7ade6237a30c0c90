"""A database migrated by the next release while a node of this one serves."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import aiohttp

import newer_release
from forge import target
from http_site import signed
from postgres_nodes import command, config_of
from postgres_server import PostgresServer
from server_process import forge_for, ground_of, post, server, verified


async def migrate_newer(folder: Path, text: str) -> tuple[int | None, str]:
    config = folder / "newer.toml"
    config.write_text(text)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, newer_release.__file__, "migrate", "--config", str(config)),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    return process.returncode, said.decode()


async def test_nodes_of_the_older_release_refuse_to_write_once_two_machines_have_migrated(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    ground_of(tmp_path)
    mine = postgres_server.migrated_database()
    text = config_of(mine.url)
    async with aiohttp.ClientSession() as session, server(tmp_path / "one", text) as node:
        forge = await forge_for(session, node.base)
        assert await post(session, node.base, signed(forge, "root", "targets")) == 200
        told = {1: forge.files.get("targets", b"")}

        async def publish() -> int:
            while True:
                forge.targets.version = len(told) + 1
                forge.targets.targets[str(len(told) + 1)] = target(b"x", "1")
                files = signed(forge, "targets")
                if (status := await post(session, node.base, files)) != 200:
                    return status
                told[len(told) + 1] = files["targets"]

        publishing = asyncio.create_task(publish())
        done = await asyncio.gather(
            *[migrate_newer(tmp_path / name, text) for name in ("one", "two")]
        )
        assert [code for code, _ in done] == [0, 0], done
        assert sorted("nothing to do" in said for _, said in done) == [False, True]
        assert await asyncio.wait_for(publishing, 30) == 503
        assert any("was migrated" in line for line in node.log)
        # What was told is there, nothing else came after it, and readers still get it.
        before = mine.dump()
        assert await post(session, node.base, signed(forge, "targets")) == 503
        async with session.get(f"{node.url}/readyz") as response:
            assert response.status == 503
        await verified(session, node.base, forge)
        assert forge.files["targets"] == told[len(told)]
        assert mine.dump() == before
    for verb in ("serve", "migrate"):
        older = await asyncio.to_thread(command, verb, tmp_path / "two", text)
        assert (older.returncode, "has schema 2" in older.stderr) == (3, True), older
        assert "or a newer one" in older.stderr
    assert mine.dump() == before
