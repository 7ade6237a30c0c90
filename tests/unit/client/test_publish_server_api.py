"""Whatever a server answers a publisher: only errors of our tree come out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner

from tabellion.core.dialect import TUF
from tabellion.core.publication import UploadedFile
from tabellion.errors import (
    AccessDeniedError,
    ConflictError,
    NotFoundError,
    RefusedPublicationError,
    ServerAnswerError,
    TabellionError,
    TransferError,
    UnreachableError,
)
from tabellion.publish.server_api import ServerApi

GUN = "registry.example/app"
KEY = CryptoSigner.generate_ed25519().public_key
NAMES = [
    *("keyid", "keytype", "scheme", "keyval", "public", "versions", "targets", "events", "kind"),
    *("target", "role", "version", "metadata_sha256", "digests", "length", "at", "id"),
    *("code", "detail", "hint", "rule", "status"),
]
EVENT = {
    "kind": "signed",
    "target": "1.0",
    "role": "targets",
    "version": 2,
    "metadata_sha256": "0" * 64,
    "digests": {"sha256": "1" * 64},
    "length": 3,
    "at": "2026-01-02T03:04:05+00:00",
    "id": 7,
}
GOOD: list[dict[str, Any]] = [
    {"events": [EVENT]},
    {"keyid": KEY.keyid, **KEY.to_dict()},
    {"versions": {"root": 1, "targets": 2}},
    {"code": "version-conflict", "detail": "late", "versions": {"targets": 3}, "status": 409},
    {"code": "publication-refused", "rule": "x", "role": "y", "keyid": "z", "detail": "no"},
]
MOMENTS = ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "2026-01-02T03:04:05"]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([*NAMES, *MOMENTS, "version-conflict", "ed25519", KEY.keyid])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=12,
)


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    """Give a good answer with a member somewhere replaced, any JSON, or any bytes."""
    document: Any = json.loads(json.dumps(draw(st.sampled_from(GOOD))))
    place: Any = document
    while True:
        names = list(place) if isinstance(place, dict) else list(range(len(place)))
        name = draw(st.sampled_from(names))
        if isinstance(place[name], dict | list) and place[name] and draw(st.booleans()):
            place = place[name]
            continue
        place[name] = draw(VALUES)
        break
    data = json.dumps(draw(st.just(document) | VALUES)).encode()
    return draw(st.just(data) | st.just(data[: len(data) // 2]) | st.binary(max_size=200))


STATUSES = st.sampled_from([200, 201, 204, 301, 400, 401, 403, 404, 409, 413, 422, 429, 500, 503])


async def ask_all(raw: bytes) -> list[Any]:
    """Ask everything of a server that answers each request with these bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"POST"):
            await reader.readuntil(b"--\r\n")
        writer.write(raw)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, ServerApi(f"http://127.0.0.1:{port}", token="t") as api:
        return [
            await outcome(asking)
            for asking in (
                api.exists(GUN),
                api.metadata(GUN, "1.root.json", max_bytes=100),
                api.online_key(GUN, "timestamp", TUF),
                api.upload(GUN, [UploadedFile("targets", b"{}")]),
                api.history(GUN, target=None, before=None, limit=5),
            )
        ]


async def outcome(asking: Awaitable[Any]) -> Any:
    try:
        return await asyncio.wait_for(asking, 20)
    except TabellionError as error:
        return error


def answer(status: int, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


@given(STATUSES, documents())
@settings(deadline=timedelta(seconds=20), max_examples=150)
def test_no_answer_lets_a_foreign_error_out(status: int, body: bytes) -> None:
    exists, metadata, key, versions, history = asyncio.run(ask_all(answer(status, body)))
    assert exists in {True, False} or isinstance(exists, TabellionError)
    assert isinstance(metadata, bytes | TabellionError)
    if not isinstance(key, TabellionError):
        assert key.keyid
    if not isinstance(versions, TabellionError):
        assert all(type(number) is int for number in versions.values())
        assert status in range(200, 300)
    if not isinstance(history, TabellionError):
        for entry in history:
            assert entry.at.tzinfo is not None
            assert entry.kind.isprintable()


@given(st.binary(max_size=300), st.sampled_from([b"", b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\n"]))
@settings(deadline=timedelta(seconds=20), max_examples=60)
def test_no_bytes_let_a_foreign_error_out(noise: bytes, before: bytes) -> None:
    for result in asyncio.run(ask_all(before + noise)):
        assert not isinstance(result, TabellionError) or (result.message and result.hint)
        assert isinstance(result, TabellionError | bool | bytes) or result == {}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (409, GOOD[3], ConflictError),
        (422, GOOD[4], RefusedPublicationError),
        (401, {}, AccessDeniedError),
        (403, {"detail": "no"}, AccessDeniedError),
        (404, {}, NotFoundError),
        (429, {}, ServerAnswerError),
        (500, {"code": "internal"}, ServerAnswerError),
        (400, {}, ServerAnswerError),
        (302, {}, ServerAnswerError),
    ],
)
def test_each_refusal_has_its_error_and_a_hint(
    status: int, body: dict[str, Any], kind: type[TabellionError]
) -> None:
    error = asyncio.run(ask_all(answer(status, json.dumps(body).encode())))[3]
    assert type(error) is kind
    if kind is AccessDeniedError:
        assert "TABELLION_TOKEN" in error.hint


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"detail": ' * 50_000, b"\xff\xfe", b"9" * 10_000, b"null"]
)
def test_refusal_that_is_no_json_is_told_by_its_status(body: bytes) -> None:
    for status, kind in ((422, ServerAnswerError), (401, AccessDeniedError)):
        error = asyncio.run(ask_all(answer(status, body)))[3]
        assert type(error) is kind
        assert str(status) in error.message


@pytest.mark.parametrize("moment", [*MOMENTS, "yesterday", None, 5])
def test_history_with_a_moment_that_is_none_is_refused(moment: object) -> None:
    body = json.dumps({"events": [EVENT | {"at": moment}]}).encode()
    assert type(asyncio.run(ask_all(answer(200, body)))[4]) is ServerAnswerError


def test_cut_and_missing_answers_are_told_apart_from_refusals() -> None:
    cut = answer(200, b'{"versions": {}}')[:-5]
    assert isinstance(asyncio.run(ask_all(cut))[3], TransferError)
    assert isinstance(asyncio.run(ask_all(b""))[3], TransferError | UnreachableError)
