from __future__ import annotations

import asyncio
import json
import random
from typing import Any

from tuf.api.metadata import Targets

from forge import target
from http_site import Site, signed
from tabellion.core.dialect import TUF
from tabellion.core.trusted_set import TrustedSet


async def test_forty_publishers_lose_nothing_and_a_reader_never_fails(site: Site) -> None:
    forge = await site.forge()
    await site.publish(forge, "root", "targets")
    signers = forge.signers["targets"]
    rng = random.Random(1)  # noqa: S311  (a seed, not a secret)

    async def publisher(number: int) -> None:
        while True:
            served = json.loads(await site.body("targets.json"))["signed"]
            mine: Any = Targets.from_dict(served)
            mine.version += 1
            mine.targets[f"n{number}"] = target(b"x", f"n{number}")
            response = await site.post({"targets": TUF.sign(mine, signers)})
            if response.status == 200:
                return
            assert response.status == 409, await response.text()
            await asyncio.sleep(rng.uniform(0, 0.2))

    async def reader() -> int:
        seen = rounds = 0
        while not done.is_set():
            trusted = TrustedSet(forge.files["root"], now=site.clock())
            trusted.finish_root()
            trusted.update_timestamp(await site.body("timestamp.json"))
            timestamp = trusted.timestamp
            assert timestamp is not None
            assert timestamp.version >= seen
            seen = timestamp.version
            snapshot = timestamp.signed.snapshot_meta.version
            trusted.update_snapshot(await site.body(f"{snapshot}.snapshot.json"))
            version = trusted.targets_meta("targets").version
            trusted.update_targets(await site.body(f"{version}.targets.json"))
            rounds += 1
        return rounds

    done = asyncio.Event()
    reading = asyncio.create_task(reader())
    await asyncio.gather(*(publisher(number) for number in range(40)))
    done.set()
    assert await reading > 1
    targets = json.loads(await site.body("targets.json"))["signed"]
    assert targets["targets"].keys() == {f"n{number}" for number in range(40)}
    assert targets["version"] == 41


async def test_a_store_that_fails_gets_publishers_503_and_a_time_to_retry(site: Site) -> None:
    forge = await site.forge()
    await site.store.close()
    response = await site.post(signed(forge, "root", "targets"))
    assert (response.status, (await response.json())["code"]) == (503, "storage")
    assert int(response.headers["Retry-After"]) > 0
