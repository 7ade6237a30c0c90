"""Server processes behind a PgBouncer, which gives each of their transactions another server."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp

from pgbouncer import PgBouncer
from postgres_nodes import command, config_of
from postgres_server import Database
from server_process import ground_of, publish_at_once, server


async def test_nodes_behind_a_pooler_lose_nothing_and_show_all_at_once(
    database: Database, tmp_path: Path
) -> None:
    ground_of(tmp_path)
    with PgBouncer.running(database.server.port, "transaction") as pooler:
        asked = config_of(pooler.place(database).url)
        refused = command("serve", tmp_path / "one", asked)
        assert (refused.returncode, "connection pooler" in refused.stderr) == (3, True)
        assert "storage.prepared_statements = false" in refused.stderr
        text = asked.replace("[storage]", "[storage]\nprepared_statements = false")
        async with AsyncExitStack() as stack:
            session = await stack.enter_async_context(aiohttp.ClientSession())
            nodes = [
                await stack.enter_async_context(server(tmp_path / name, text))
                for name in ("one", "two")
            ]
            await publish_at_once(session, nodes)
            for node in nodes:
                async with session.get(f"{node.url}/readyz") as response:
                    assert response.status == 200
