"""The way to Redis: what the client library meets, however strange, is an error of ours."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tabellion_server.storage.interface import StorageError
from tabellion_server.storage.redis_address import parse_redis_url
from tabellion_server.storage.redis_link import RedisLink
from valkey_servers import ValkeyCluster


@pytest.fixture
async def link(valkey_cluster: ValkeyCluster) -> AsyncIterator[RedisLink]:
    made = RedisLink(parse_redis_url(valkey_cluster.url))
    yield made
    await made.close()


@pytest.mark.parametrize("times", [1, 9])
async def test_a_client_in_disorder_is_asked_again_and_then_told(
    link: RedisLink, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    execute, met = RedisLink._execute, 0

    async def disorder(self: RedisLink, command: tuple[str, ...]) -> object:
        nonlocal met
        if met < times:
            met += 1
            raise AttributeError("'NoneType' object has no attribute 'writelines'")
        return await execute(self, command)

    monkeypatch.setattr(RedisLink, "_execute", disorder)
    if times == 1:
        assert await link.read("EXISTS", "nothing") == 0
    else:
        with pytest.raises(StorageError, match="AttributeError"):
            await link.read("EXISTS", "nothing")
