from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from http_site import Clock, Site
from tabellion_server.app import make_app
from tabellion_server.keys.master import MasterKey
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.settings import Settings
from tabellion_server.storage.sqlite import SqliteStore


@pytest.fixture
def settings() -> Settings:
    return Settings(max_body_bytes=1_500_000, timestamp_life=timedelta(days=1))


@pytest.fixture
async def site(tmp_path: Path, settings: Settings) -> AsyncIterator[Site]:
    store = await SqliteStore.open(tmp_path / "tabellion.db")
    clock = Clock()
    app = make_app(
        settings, store=store, online_keys=OnlineKeys(store, MasterKey.generate()), clock=clock
    )
    # As our own client asks; what Notary's clients get is tested apart.
    headers = {"Accept": "application/problem+json"}
    async with TestClient(TestServer(app), headers=headers) as client:
        yield Site(client, store, clock)
    await store.close()
