"""Heavy work never runs on the event loop: one publisher can't hold up the readers."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import TargetFile

from forge import Forge
from http_site import Site, signed
from tabellion.core.dialect import TUF
from tabellion_server.keys.master import MasterKey
from tabellion_server.settings import Settings

LARGE = 16 * 1024
SMALLEST_FILE = 300


@pytest.fixture
def settings() -> Settings:
    return Settings(timestamp_life=timedelta(days=1))


class Watch:
    """Counts calls in the event loop's thread, and all calls."""

    def __init__(self) -> None:
        self.loop_thread = threading.get_ident()
        self.on_loop: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.is_on = False

    def saw(self, what: str) -> None:
        if self.is_on:
            self.calls[what] += 1
            self.on_loop[what] += threading.get_ident() == self.loop_thread

    def around(
        self, what: str, call: Callable[..., Any], *, counts: Callable[..., bool] = lambda *_: True
    ) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            if counts(*args):
                self.saw(what)
            return call(*args, **kwargs)

        return watched


def is_large(data: Any, *_: Any) -> bool:
    return len(data) >= LARGE


def is_file(data: Any = b"", *_: Any) -> bool:
    return len(data) >= SMALLEST_FILE


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Watch signing, sealing, parsing, hashing and the database; made before the site is."""
    watch = Watch()

    class Connection(sqlite3.Connection):
        def execute(self, *args: Any) -> sqlite3.Cursor:
            watch.saw("database")
            return super().execute(*args)

        def executemany(self, *args: Any) -> sqlite3.Cursor:
            watch.saw("database")
            return super().executemany(*args)

    connect = sqlite3.connect

    def watched_connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        return connect(*args, **kwargs, factory=Connection)

    monkeypatch.setattr(sqlite3, "connect", watched_connect)
    monkeypatch.setattr(CryptoSigner, "sign", watch.around("sign", CryptoSigner.sign))
    monkeypatch.setattr(MasterKey, "open", watch.around("unseal", MasterKey.open))
    monkeypatch.setattr(type(TUF), "parse", watch.around("parse", type(TUF).parse))
    monkeypatch.setattr(json, "loads", watch.around("json", json.loads, counts=is_large))
    monkeypatch.setattr(hashlib, "sha256", watch.around("hash", hashlib.sha256, counts=is_file))
    return watch


def fill(forge: Forge, count: int) -> dict[str, bytes]:
    """Sign ``count`` targets, some 190 bytes each."""
    forge.targets.targets = {
        path: TargetFile(1234, {"sha256": f"{number:064x}"}, path)
        for number in range(count)
        for path in [f"release-{number:08}-" + "x" * 60]
    }
    return signed(forge, "targets")


async def test_no_heavy_work_runs_on_the_event_loop(watch: Watch, site: Site) -> None:
    forge = await site.forge()
    first = signed(forge, "root") | fill(forge, 500)
    forge.targets.version = 2
    second = fill(forge, 600)
    assert min(len(files["targets"]) for files in (first, second)) > LARGE
    watch.is_on = True
    assert (await site.post(first)).status == 200
    assert (await site.post(second)).status == 200
    assert (await site.post(first)).status == 409
    assert (await site.post(second)).status == 200
    for name in ("1.targets.json", "targets.json", "timestamp.json", "timestamp.key"):
        await site.body(name)
    for life in (13, 40 * 24):
        site.clock.now += timedelta(hours=life)
        await site.body("timestamp.json")
    for path in ("/v1/guns", f"/v1/guns/{site.gun}", f"/v1/history/{site.gun}"):
        assert (await site.client.get(path)).status == 200
    assert (await site.client.session.post(site.url("timestamp.key"))).status == 200
    watch.is_on = False
    head = await site.store.head(site.gun)
    assert head is not None
    assert head.files["timestamp"].version == 4  # both renewals took place
    assert watch.calls.keys() == {"database", "sign", "unseal", "parse", "json", "hash"}
    assert watch.on_loop == Counter(dict.fromkeys(watch.calls, 0))


async def test_the_loop_goes_on_while_five_megabytes_are_published(site: Site) -> None:
    forge = await site.forge()
    await site.publish(forge, "root", "targets")
    forge.targets.version = 2
    files = fill(forge, 27_000)
    assert 4_900_000 < len(files["targets"]) <= 5_000_000, len(files["targets"])
    lags: list[float] = []
    publication = asyncio.create_task(site.post(files))
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not publication.done():
        due = loop.time() + 0.005
        await asyncio.sleep(0.005)
        lags.append(loop.time() - due)
    response = await publication
    assert response.status == 200, await response.text()
    assert len(lags) > 20
    # The judgement alone takes longer, on a machine that is busy as well.
    assert max(lags) < max(0.4, (loop.time() - began) / 2)
