"""The rules of tuf-checklist section B that need a whole client; the rest are in unit/core."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

import simulator
from forge import LATER, NOW, Forge
from puller import Puller
from simulator import GUN, IMAGE, Simulator
from tabellion.core.limits import Limits
from tabellion.core.names import Digest
from tabellion.errors import (
    ExpiredMetadataError,
    MixAndMatchError,
    TransportError,
    UnreachableError,
)

DIGEST = Digest.of(b"image")
LATE = LATER + timedelta(seconds=1)


async def test_b20_a_failed_update_leaves_a_client_that_can_update_later(
    puller: Puller, server: Simulator
) -> None:
    trust = puller.client()
    server.answers["1.targets.json"] = simulator.html
    for _ in range(2):
        with pytest.raises(MixAndMatchError, match="targets"):
            await trust.verify(IMAGE)
    server.answers.clear()
    assert (await trust.verify(IMAGE)).digest == DIGEST


async def test_b21_the_time_is_taken_once_for_a_whole_update(puller: Puller) -> None:
    moments = iter([NOW, LATE, LATE + timedelta(days=1)])

    def clock() -> datetime:
        return next(moments)

    trust = puller.client(clock=clock)
    assert (await trust.verify(IMAGE)).digest == DIGEST
    with pytest.raises(ExpiredMetadataError):
        await trust.verify(IMAGE)


async def test_b23_the_walk_to_the_newest_root_is_bounded(
    puller: Puller, server: Simulator
) -> None:
    for _ in range(5):
        server.publish_root()
    assert (await puller.verify(limits=Limits(root_rotations=2))).versions["root"] == 3
    assert [name for name in server.requests if "root" in name] == ["2.root.json", "3.root.json"]


async def test_b27_every_accepted_root_is_kept(puller: Puller, server: Simulator) -> None:
    for _ in range(2):
        server.publish_root()
    await puller.verify()
    kept = puller.client().cache(GUN)
    assert kept.root_versions() == [1, 2, 3]
    for version in (1, 2, 3):
        assert kept.load_root(version) == server.files[f"{version}.root.json"]


async def test_b28_an_expired_newest_root_is_refused(puller: Puller, server: Simulator) -> None:
    with pytest.raises(ExpiredMetadataError) as caught:
        await puller.verify(now=LATE)
    assert caught.value.role == "root"
    assert "timestamp.json" not in server.requests


async def test_b30_file_names_follow_the_newest_root(
    puller: Puller, server: Simulator, forge: Forge
) -> None:
    forge.root.consistent_snapshot = False
    server.publish_root()
    for role in ("snapshot", "targets"):
        server.files[f"{role}.json"] = server.files.pop(f"1.{role}.json")
    assert (await puller.verify()).digest == DIGEST
    assert server.requests[-2:] == ["snapshot.json", "targets.json"]


async def test_b47_offline_says_expired_apart_from_unreachable(
    puller: Puller, server: Simulator
) -> None:
    await puller.verify()
    await server.stop()
    await puller.refused(UnreachableError, root=None)
    with pytest.raises(ExpiredMetadataError, match="expired at"):
        await puller.verify(root=None, now=LATE, offline="last-known")


async def test_b48_mirrors_are_asked_in_turn_and_can_only_withhold(
    puller: Puller, server: Simulator
) -> None:
    async with Simulator() as second:
        second.files = server.files
        for name in ("2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"):
            server.answers[name] = simulator.status(500)
        assert (await puller.verify(mirrors=[second.url])).digest == DIGEST
        second.answers["timestamp.json"] = simulator.status(500)
        await puller.refused(TransportError, mirrors=[second.url])
