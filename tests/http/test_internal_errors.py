"""What breaks inside is told in the log; outside it's a problem without paths, SQL or texts."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse

from http_site import Site, signed

INSIDE = ("tabellion.db", "sqlite", "select ", "no such table", "traceback", ".py", "error(")
DAMAGES = {
    "metadata": (
        "DROP TRIGGER metadata_is_immutable",
        "UPDATE metadata SET data = CAST('x' AS BLOB)",
    ),
    "sealed key": ("UPDATE online_keys SET sealed = CAST('x' AS BLOB)",),
    "public key": ("UPDATE online_keys SET public = 'x'",),
    "no heads": ("DROP TABLE heads",),
    "no keys": ("DROP TABLE online_keys",),
    "no events": ("DROP TABLE events",),
}


async def ask_all(site: Site, files: dict[str, bytes]) -> list[ClientResponse]:
    """Send every kind of request that there is."""
    session, gun = site.client.session, site.gun
    paths = ["/readyz", "/v1/guns", f"/v1/guns/{gun}", f"/v1/history/{gun}"]
    names = ["1.targets.json", "targets.json", "timestamp.json", "timestamp.key"]
    return [
        *[await session.get(site.at(path)) for path in paths],
        *[await site.get(name) for name in names],
        await site.post(files),
        await session.post(site.url("timestamp.key")),
    ]


async def assert_nothing_told(
    answers: list[ClientResponse], folder: Path, told: Callable[[], str]
) -> set[tuple[int, str]]:
    """Check every answer of 500 and above; give their statuses and codes."""
    found: set[tuple[int, str]] = set()
    log = told()
    for answer in answers:
        if answer.status < 500:
            continue
        problem: dict[str, Any] = await answer.json()
        assert answer.content_type == "application/problem+json"
        shown = f"{problem} {dict(answer.headers)}"
        for text in (*INSIDE, str(folder)):
            assert text.lower() not in shown.lower()
        assert problem["request_id"] == answer.headers["X-Request-ID"]
        assert problem["request_id"] in log
        assert problem["hint"]
        assert ("Retry-After" in answer.headers) == (answer.status == 503)
        found.add((answer.status, problem["code"]))
    return found


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("metadata", (500, "store-corruption")),
        ("sealed key", (500, "key-store")),
        ("public key", (500, "key-store")),
        ("no heads", (503, "storage")),
        ("no keys", (503, "storage")),
        ("no events", (503, "storage")),
    ],
)
async def test_a_damaged_store_is_told_without_what_is_inside(
    site: Site,
    tmp_path: Path,
    damage: str,
    expected: tuple[int, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    forge = await site.forge()
    await site.publish(forge, "root", "targets")
    forge.targets.version = 2
    with contextlib.closing(sqlite3.connect(tmp_path / "tabellion.db")) as connection, connection:
        for statement in DAMAGES[damage]:
            connection.execute(statement)
    answers = await ask_all(site, signed(forge, "targets"))
    found = await assert_nothing_told(answers, tmp_path, lambda: capsys.readouterr().out)
    assert expected in found


async def test_an_unreachable_store_is_told_without_what_is_inside(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forge = await site.forge()
    await site.publish(forge, "root", "targets")
    await site.store.close()
    answers = await ask_all(site, signed(forge, "targets"))
    assert {answer.status for answer in answers} == {503}
    found = await assert_nothing_told(answers, tmp_path, lambda: capsys.readouterr().out)
    assert found == {(503, "storage")}


async def test_a_defect_is_told_without_what_is_inside(
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    forge = await site.forge()
    await site.publish(forge, "root", "targets")
    before = await site.everything()

    async def defect(*_: object, **__: object) -> None:
        await asyncio.sleep(0)
        raise RuntimeError(f"select failed in {tmp_path}/tabellion.db")

    for name in ("head", "online_keys", "guns", "check"):
        monkeypatch.setattr(site.store, name, defect)
    forge.targets.version = 2
    answers = await ask_all(site, signed(forge, "targets"))
    assert {answer.status for answer in answers} == {500}
    found = await assert_nothing_told(answers, tmp_path, lambda: capsys.readouterr().out)
    assert found == {(500, "internal")}
    assert await site.everything() == before
