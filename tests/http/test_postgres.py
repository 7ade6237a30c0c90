"""Server processes on PostgreSQL: published at one, read at the other."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from forge import target
from http_site import signed
from postgres_nodes import command, config_of
from postgres_server import Database, PostgresServer
from server_process import forge_for, ground_of, post, publish_at_once, server, verified


@pytest.fixture
def config(database: Database, tmp_path: Path) -> str:
    ground_of(tmp_path)
    return config_of(database.url)


async def test_what_is_published_is_read_at_once_at_the_other_node_and_after_a_restart(
    config: str, tmp_path: Path
) -> None:
    async with aiohttp.ClientSession() as session:
        async with server(tmp_path / "one", config) as one, server(tmp_path / "two", config) as two:
            forge = await forge_for(session, one.base)
            forge.targets.targets["1"] = target(b"x", "1")
            assert await post(session, one.base, signed(forge, "root", "targets")) == 200
            assert await verified(session, two.base, forge) == {"1"}
            for version in range(2, 6):
                here, there = (one, two) if version % 2 else (two, one)
                forge.targets.version = version
                forge.targets.targets[str(version)] = target(b"x", str(version))
                assert await post(session, here.base, signed(forge, "targets")) == 200
                assert str(version) in await verified(session, there.base, forge)
            forge.targets.version = 4
            before = dict(forge.files)
            assert await post(session, one.base, signed(forge, "targets")) in {409, 422}
            for running in (one, two):
                running.process.terminate()
                assert await running.process.wait() == 0
        async with server(tmp_path / "two", config) as again:
            assert await verified(session, again.base, forge) == {"1", "2", "3", "4", "5"}
            assert forge.files["targets"] == before["targets"]


async def test_forty_publishers_at_two_nodes_lose_nothing(config: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        nodes = [
            await stack.enter_async_context(server(tmp_path / name, config))
            for name in ("one", "two")
        ]
        await publish_at_once(session, nodes)


async def test_while_the_database_is_away_clients_are_told_to_come_again_and_then_served(
    config: str, database: Database, tmp_path: Path
) -> None:
    with PostgresServer.running() as away:
        mine = away.migrated_database()
        text = config.replace(database.url, mine.url)
        async with server(tmp_path / "one", text) as node, aiohttp.ClientSession() as session:
            forge = await forge_for(session, node.base)
            assert await post(session, node.base, signed(forge, "root", "targets")) == 200
            forge.targets.version = 2
            await asyncio.to_thread(away.stop)
            for method, name in (("GET", "timestamp.json"), ("GET", "timestamp.key")):
                async with session.request(method, node.base + name) as response:
                    assert response.status == 503
                    assert int(response.headers["Retry-After"]) > 0
                    assert mine.url not in await response.text()
            assert await post(session, node.base, signed(forge, "targets")) == 503
            async with session.get(f"{node.url}/readyz") as response:
                assert response.status == 503
            await asyncio.to_thread(away.start)
            async with asyncio.timeout(30):
                while await post(session, node.base, signed(forge, "targets")) != 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            await verified(session, node.base, forge)
            assert forge.files["targets"] == signed(forge, "targets")["targets"]


async def test_a_database_is_migrated_first_and_only_then_served(
    database: Database, config: str, tmp_path: Path
) -> None:
    fresh = database.server.new_database()
    folder, text = tmp_path / "one", config.replace(database.url, fresh.url)
    refused = command("serve", folder, text)
    assert refused.returncode == 3
    assert f"store {fresh.url} is empty" in refused.stderr
    assert "tabellion-server migrate" in refused.stderr
    loop = asyncio.get_running_loop()
    two = await asyncio.gather(
        *[
            loop.run_in_executor(None, command, "migrate", tmp_path / name, text)
            for name in ("one", "two")
        ]
    )
    assert [done.returncode for done in two] == [0, 0], two
    assert sorted("nothing to do" in done.stdout for done in two) == [False, True]
    async with server(folder, text):
        pass
    fresh.sql("INSERT INTO tabellion.schema_version (version) VALUES (99)")
    before = fresh.dump()
    for verb in ("serve", "migrate"):
        newer = command(verb, folder, text)
        assert (newer.returncode, "has schema 99" in newer.stderr) == (3, True)
    fresh.sql("DELETE FROM tabellion.schema_version WHERE version > 0")
    older = command("serve", folder, text)
    assert (older.returncode, "tabellion-server migrate" in older.stderr) == (3, True)
    fresh.sql("INSERT INTO tabellion.schema_version (version) VALUES (99)")
    assert fresh.dump() == before


async def test_a_store_moves_from_sqlite_and_back_by_backup_and_restore(
    config: str, database: Database, tmp_path: Path
) -> None:
    sqlite = config.replace(database.url, "sqlite:///store.db")
    (tmp_path / "three").mkdir()
    async with aiohttp.ClientSession() as session:
        async with server(tmp_path / "one", sqlite) as first:
            forge = await forge_for(session, first.base)
            forge.targets.targets["1"] = target(b"x", "1")
            assert await post(session, first.base, signed(forge, "root", "targets")) == 200
            first.process.terminate()
            await first.process.wait()
        for verb, folder, text, file in (
            ("backup", "one", sqlite, "one.db"),
            ("restore", "two", config, "one.db"),
            ("check", "two", config, None),
        ):
            words = [str(tmp_path / file)] if file else []
            done = command(verb, tmp_path / folder, text, *words)
            assert done.returncode == 0, done.stderr
        async with server(tmp_path / "two", config) as second:
            assert await verified(session, second.base, forge) == {"1"}
            forge.targets.version = 2
            forge.targets.targets["2"] = target(b"x", "2")
            assert await post(session, second.base, signed(forge, "targets")) == 200
            backup = command("backup", tmp_path / "two", config, str(tmp_path / "two.db"))
            assert backup.returncode == 0, backup.stderr
        again = command("restore", tmp_path / "two", config, str(tmp_path / "two.db"))
        assert (again.returncode, "isn't empty" in again.stderr) == (3, True), again.stderr
        back = command("restore", tmp_path / "three", sqlite, str(tmp_path / "two.db"))
        assert back.returncode == 0, back.stderr
        async with server(tmp_path / "three", sqlite) as third:
            assert await verified(session, third.base, forge) == {"1", "2"}


async def test_no_node_makes_a_master_key_of_its_own(config: str, tmp_path: Path) -> None:
    (tmp_path / "master.key").unlink()
    refused = command("serve", tmp_path / "one", config)
    assert (refused.returncode, "all nodes of a store share one" in refused.stderr) == (2, True)
    assert not (tmp_path / "master.key").exists()


def test_sqlite_needs_no_migration(tmp_path: Path) -> None:
    done = command("migrate", tmp_path, "")
    assert (done.returncode, "makes it at its start" in done.stdout) == (0, True)
