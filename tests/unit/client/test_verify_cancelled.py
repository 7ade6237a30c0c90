"""A verification that is given up."""

from __future__ import annotations

import asyncio
import threading

import pytest

from puller import Puller
from simulator import GUN
from tabellion.verify.cache import MetadataCache


async def test_a_cancelled_update_ends_before_its_lock_does(
    puller: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    await puller.verify()
    puller.server.publish_target(b"later")
    writing, go_on = threading.Event(), threading.Event()
    save = MetadataCache.save

    def slow(cache: MetadataCache, role: str, data: bytes) -> None:
        writing.set()
        assert go_on.wait(10)
        save(cache, role, data)

    monkeypatch.setattr(MetadataCache, "save", slow)
    update = asyncio.create_task(puller.verify())
    assert await asyncio.to_thread(writing.wait, 10)
    cache = puller.client().cache(GUN)
    for _ in range(2):
        update.cancel()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), cache.locked():
                pass
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await update
    assert (await puller.verify()).versions["timestamp"] == 2
