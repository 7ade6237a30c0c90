"""What a person is told whose address or token is wrong."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tabellion.errors import AccessDeniedError, TransferError
from tabellion.transport.fetcher import HttpFetcher


async def test_a_port_that_hangs_up_on_http_may_speak_tls() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with HttpFetcher() as fetcher:
            with pytest.raises(TransferError) as caught:
                await fetcher.fetch(f"http://127.0.0.1:{port}/v2/", max_bytes=10)
    assert "https://" in caught.value.hint


async def test_a_wrong_token_is_told_from_none_and_neither_shows_a_query() -> None:
    async def deny(_: web.Request) -> web.Response:
        return web.Response(status=401)

    app = web.Application()
    app.router.add_get("/{rest:.*}", deny)
    async with TestServer(app) as server:
        url = str(server.make_url("/v2/gun/_trust/tuf/timestamp.key")) + "?dialect=tuf"
        for token, told in ((None, "access denied"), ("wrong", "isn't accepted")):
            async with HttpFetcher(token=token) as fetcher:
                with pytest.raises(AccessDeniedError, match=told) as caught:
                    await fetcher.fetch(url, max_bytes=10)
            assert "?" not in caught.value.message
            assert "NOTARY_AUTH" in caught.value.hint
            assert "TABELLION_TOKEN" in caught.value.hint
