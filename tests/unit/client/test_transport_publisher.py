"""What a server may answer to a publisher: one of our errors, soon, whatever it is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

import simulator
from simulator import GUN, Answer, Simulator, head
from tabellion.core.dialect import TUF
from tabellion.core.publication import UploadedFile
from tabellion.errors import PublicationError, TransportError
from tabellion.publish.server_api import ServerApi

Ask = Callable[[ServerApi], Awaitable[object]]
ASKERS: dict[str, Ask] = {
    "exists": lambda api: api.exists(GUN),
    "online key": lambda api: api.online_key(GUN, "timestamp", TUF),
    "upload": lambda api: api.upload(GUN, [UploadedFile("root", b"{}")]),
    "history": lambda api: api.history(GUN, target=None, before=None, limit=5),
}
NAMES = ("1.root.json", "timestamp.key?dialect=tuf", "", "app?limit=5")
ANSWERS: dict[str, Answer] = {
    "truncate": simulator.truncate,
    "endless": simulator.endless,
    "flood": simulator.header_flood,
    "garbage": simulator.garbage,
    "hang up": simulator.hang_up,
    "away": simulator.redirect("http://127.0.0.2:9/x"),
    **{str(code): simulator.status(code) for code in (300, 401, 403, 409, 422, 429, 500, 503)},
}
BODIES = {
    "html": b"<html>welcome</html>",
    "list": b"[]",
    "text": b'"x"',
    "bytes": b"\xff\x00\xfe",
    "huge number": b'{"code":' + b"9" * 5000 + b"}",
    "surrogate": b'{"code":"x","detail":"\\ud800","hint":"\\u001b[31m"}',
    "odd controls": b'{"code":"x","detail":"a\\nb\\u001b[31m","hint":"c\\rd\\u009be"}',
    "odd members": b'{"code":5,"detail":[],"versions":[],"rule":{},"role":1,"keyid":null}',
    "odd conflict": b'{"code":"version-conflict","versions":{"root":true,"x":"1"}}',
    "nested": b"[" * 100_000,
}


def answering(answer: Answer) -> Simulator:
    server = Simulator()
    server.answers = dict.fromkeys(NAMES, answer)
    return server


@pytest.mark.parametrize("ask", ASKERS.values(), ids=ASKERS.keys())
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
async def test_a_server_that_lies_gives_a_publisher_our_error(ask: Ask, answer: Answer) -> None:
    async with answering(answer) as server, ServerApi(server.url) as api, asyncio.timeout(5):
        with pytest.raises(TransportError) as caught:
            await ask(api)
    assert caught.value.hint


@pytest.mark.parametrize("status", [400, 409, 422, 500])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
async def test_a_refusal_of_any_shape_is_our_error_on_one_line(body: bytes, status: int) -> None:
    async def answer(writer: asyncio.StreamWriter, _: bytes) -> None:
        writer.write(head(status, f"Content-Length: {len(body)}") + body)

    async with answering(answer) as server, ServerApi(server.url) as api:
        with pytest.raises((TransportError, PublicationError)) as caught:
            await ASKERS["upload"](api)
    for text in (caught.value.message, caught.value.hint):
        assert text.isprintable()


@pytest.mark.parametrize("ask", ["online key", "upload", "history"])
@pytest.mark.parametrize("name", BODIES)
async def test_a_success_of_any_shape_is_understood_or_our_error(ask: str, name: str) -> None:
    body = BODIES[name]

    async def answer(writer: asyncio.StreamWriter, _: bytes) -> None:
        writer.write(head(200, f"Content-Length: {len(body)}") + body)

    async with answering(answer) as server, ServerApi(server.url) as api:
        if ask == "upload" and name.startswith("odd"):  # published, whatever else it says
            assert await ASKERS[ask](api) == {}
            return
        with pytest.raises(TransportError):
            await ASKERS[ask](api)
