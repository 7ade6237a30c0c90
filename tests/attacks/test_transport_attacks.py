"""Servers that stall, truncate, lie and hang up: one of our errors, soon, and nothing changes."""

from __future__ import annotations

import time
import tracemalloc
from itertools import pairwise
from urllib.parse import quote

import pytest

import simulator
from puller import Puller
from simulator import GUN, Answer, Simulator
from tabellion.core.names import Digest
from tabellion.errors import (
    AccessDeniedError,
    MalformedMetadataError,
    ServerAnswerError,
    TabellionError,
    TransferError,
    UnknownGunError,
    UnreachableError,
)

ANSWERS: dict[str, tuple[Answer, type[TabellionError]]] = {
    "stall": (simulator.stall, TransferError),
    "silence": (simulator.silence, UnreachableError),
    "trickle": (simulator.trickle, TransferError),
    "truncate": (simulator.truncate, TransferError),
    "endless": (simulator.endless, TransferError),
    "announce": (simulator.announce_too_much, TransferError),
    "compressed": (simulator.compressed, TransferError),
    "bomb": (simulator.bomb, TransferError),
    "flood": (simulator.header_flood, ServerAnswerError),
    "hints": (simulator.early_hints, UnreachableError),
    "garbage": (simulator.garbage, ServerAnswerError),
    "hang-up": (simulator.hang_up, TransferError),
    "html": (simulator.html, MalformedMetadataError),
    "401": (simulator.status(401), AccessDeniedError),
    "403": (simulator.status(403), AccessDeniedError),
    "404": (simulator.status(404), UnknownGunError),
    "410": (simulator.status(410), UnknownGunError),
    "loop": (simulator.redirect("timestamp.json"), ServerAnswerError),
    "away": (simulator.redirect("http://127.0.0.2:9/x"), ServerAnswerError),
    "file": (simulator.redirect("file:///etc/passwd"), ServerAnswerError),
    "scheme": (simulator.redirect("gopher://127.0.0.1/x"), ServerAnswerError),
    "nowhere": (simulator.status(302), ServerAnswerError),
    "odd": (simulator.redirect("http://[bad"), ServerAnswerError),
    **{
        str(code): (simulator.status(code), ServerAnswerError)
        for code in (201, 202, 203, 204, 206, 300, 304, 305, 400, 408, 418, 429, 500, 503, 599)
    },
}


@pytest.mark.parametrize("warm", ["", "warm"], ids=["cold", "warm"])
@pytest.mark.parametrize("name", ANSWERS)
async def test_a_lying_server_gives_our_error_soon(
    puller: Puller, server: Simulator, name: str, warm: str
) -> None:
    if warm:
        await puller.verify()
    answer, kind = ANSWERS[name]
    if not warm and name in {"html", "404", "410"}:
        kind = ServerAnswerError  # it never answered as a trust server
    server.answers["timestamp.json"] = answer
    started = time.monotonic()
    await puller.refused(kind)
    assert time.monotonic() - started < 5
    if not warm:
        assert puller.kept().keys() <= {f"trust/{quote(GUN, safe='')}/pinned"}
    server.answers.clear()
    await puller.verify()


@pytest.mark.parametrize("role", ["root", "snapshot", "targets"])
@pytest.mark.parametrize("name", ["stall", "truncate", "bomb", "flood", "206", "500", "away"])
async def test_a_liar_about_one_file_changes_nothing_but_what_came_before(
    puller: Puller, server: Simulator, name: str, role: str
) -> None:
    await puller.verify()
    server.publish_root()
    server.publish_target(b"new image")
    answer, kind = ANSWERS[name]
    server.answers[f"2.{role}.json"] = answer
    before = ("root.json", "2.root.json", "timestamp.json", "snapshot.json")
    advanced = {"root": 0, "snapshot": 3, "targets": 4}[role]
    await puller.refused(kind, advanced=before[:advanced])
    server.answers.clear()
    assert (await puller.verify()).digest == Digest.of(b"new image")


async def test_a_redirect_on_the_same_server_is_followed_a_few_times(
    puller: Puller, server: Simulator
) -> None:
    names = [f"hop{number}" for number in range(4)]
    for name, following in pairwise([*names, "timestamp.json"]):
        server.answers[name] = simulator.redirect(following)
    server.answers["1.snapshot.json"] = simulator.redirect("copy")
    server.files["copy"] = server.files["1.snapshot.json"]
    assert (await puller.verify()).digest == Digest.of(b"image")
    with pytest.raises(ServerAnswerError, match="redirects"):
        await puller.fetcher.fetch(f"{server.url}/hop0", max_bytes=99999)
    assert await puller.fetcher.fetch(f"{server.url}/hop1", max_bytes=99999)


async def test_a_body_is_never_unfolded(puller: Puller, server: Simulator) -> None:
    server.answers["x"] = simulator.bomb
    tracemalloc.start()
    try:
        with pytest.raises(TransferError, match="compressed"):
            await puller.fetcher.fetch(f"{server.url}/x", max_bytes=1 << 30)
        assert tracemalloc.get_traced_memory()[1] < 1 << 28
    finally:
        tracemalloc.stop()


async def test_a_body_of_unannounced_length_is_read_up_to_the_limit(
    puller: Puller, server: Simulator
) -> None:
    server.answers["x"] = simulator.unannounced
    server.files["x"] = b"x" * 70_000
    url = f"{server.url}/x"
    assert await puller.fetcher.fetch(url, max_bytes=70_000) == server.files["x"]
    with pytest.raises(TransferError, match="longer than the limit of 69999"):
        await puller.fetcher.fetch(url, max_bytes=69_999)


async def test_no_server_is_unreachable(puller: Puller, server: Simulator) -> None:
    await server.stop()
    with pytest.raises(UnreachableError):
        await puller.verify()


async def test_a_missing_or_forbidden_next_root_means_there_is_none(
    puller: Puller, server: Simulator
) -> None:
    server.answers["2.root.json"] = simulator.status(403)
    await puller.verify()
    assert server.requests.count("2.root.json") == 1
