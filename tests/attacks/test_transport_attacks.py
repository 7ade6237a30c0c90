"""Servers that stall, truncate, lie and hang up: one of our errors, soon, and nothing changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

import simulator
from simulator import GUN, Answer, Simulator
from tabellion.errors import (
    AccessDeniedError,
    ServerAnswerError,
    TransferError,
    TransportError,
    UnreachableError,
)
from tabellion.verify.client import TrustClient

Puller = Callable[..., TrustClient]
IMAGE = f"{GUN}:1.2"
ANSWERS: dict[str, tuple[Answer, type[TransportError]]] = {
    "stall": (simulator.stall, TransferError),
    "trickle": (simulator.trickle, TransferError),
    "truncate": (simulator.truncate, TransferError),
    "endless": (simulator.endless, TransferError),
    "announce": (simulator.announce_too_much, TransferError),
    "compressed": (simulator.compressed, TransferError),
    "garbage": (simulator.garbage, ServerAnswerError),
    "hang-up": (simulator.hang_up, TransferError),
    "500": (simulator.status(500), ServerAnswerError),
    "401": (simulator.status(401), AccessDeniedError),
    "loop": (simulator.status(302, "Location: timestamp.json"), ServerAnswerError),
    "away": (simulator.status(302, "Location: http://127.0.0.2:9/x"), ServerAnswerError),
    "odd": (simulator.status(302, "Location: http://[bad"), TransportError),
}


@pytest.mark.parametrize("warm", ["", "warm"], ids=["cold", "warm"])
@pytest.mark.parametrize("name", ANSWERS)
async def test_a_lying_server_gives_our_error_soon(
    puller: Puller, server: Simulator, tmp_path: Path, name: str, warm: str
) -> None:
    if warm:
        await puller().verify(IMAGE)
    answer, kind = ANSWERS[name]
    server.answers["timestamp.json"] = answer
    before = {path: path.read_bytes() for path in tmp_path.rglob("timestamp.json")}
    started = time.monotonic()
    with pytest.raises(kind):
        await puller().verify(IMAGE)
    assert time.monotonic() - started < 5
    assert {path: path.read_bytes() for path in tmp_path.rglob("timestamp.json")} == before
    server.answers.clear()
    await puller().verify(IMAGE)


async def test_no_server_is_unreachable(puller: Puller, server: Simulator) -> None:
    await server.stop()
    with pytest.raises(UnreachableError):
        await puller().verify(IMAGE)


async def test_a_missing_or_forbidden_next_root_means_there_is_none(
    puller: Puller, server: Simulator
) -> None:
    server.answers["2.root.json"] = simulator.status(403)
    await puller().verify(IMAGE)
    assert server.requests.count("2.root.json") == 1
