"""What a person is told whose address or token is wrong."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tabellion.errors import AccessDeniedError, ServerAnswerError, TransferError
from tabellion.publish.refusals import refusal
from tabellion.publish.server_api import ServerApi
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


@pytest.mark.parametrize(("status", "told"), [(503, "can't answer now"), (500, "failed to")])
async def test_a_server_s_own_fault_is_not_taken_for_a_wrong_address(
    status: int, told: str
) -> None:
    ids = iter(["abc-1", "no id", None])

    async def fail(_: web.Request) -> web.Response:
        found = next(ids)
        return web.Response(status=status, headers={"X-Request-ID": found} if found else {})

    app = web.Application()
    app.router.add_get("/{rest:.*}", fail)
    async with TestServer(app) as server, HttpFetcher() as fetcher:
        for named in (True, False, False):
            with pytest.raises(ServerAnswerError, match=told) as caught:
                await fetcher.fetch(str(server.make_url("/v2/")), max_bytes=10)
            assert ("log under request id abc-1" in caught.value.hint) == named
            assert "request id no" not in caught.value.hint
            assert ("try again" in caught.value.hint) == (status == 503)
            assert "address" not in caught.value.hint


def test_a_refused_publication_names_the_request() -> None:
    notary = b'{"errors": [{"code": "UNKNOWN", "message": "unknown error", "detail": null}]}'
    ours = b'{"code": "storage", "detail": "the server can\'t do that now"}'
    for body in (notary, ours):
        assert "request id abc-1" in refusal("gun", 503, body, request="abc-1").hint
        assert "request id" not in refusal("gun", 503, body).hint
        assert "try again in 7 s" in refusal("gun", 503, body, again="try again in 7 s").hint


async def test_a_server_that_cannot_now_is_tried_again_after_as_long_as_it_asks_for() -> None:
    asked = iter(["7", "7", "x" * 9, "Wed, 21 Oct 2026 07:28:00 GMT"])

    async def fail(_: web.Request) -> web.Response:
        return web.Response(status=503, headers={"Retry-After": next(asked)})

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", fail)
    async with TestServer(app) as server:
        url = str(server.make_url("/"))
        async with ServerApi(url) as api:
            for told in ("try again in 7 s", "try again in a moment"):
                with pytest.raises(ServerAnswerError) as caught:
                    await api.send("gun", "POST", url)
                assert caught.value.hint.startswith(told)
                with pytest.raises(ServerAnswerError) as caught:
                    await api.metadata("gun", "root.json", max_bytes=10)
                assert caught.value.hint.startswith(f"{told}; if that lasts")
