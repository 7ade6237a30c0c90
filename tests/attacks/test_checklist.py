"""The rules of tuf-checklist section B that need a whole client; the rest are in unit/core."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

import mirror as mirrors
from forge import LATER, NOW, Forge, target
from mirror import Mirror, serving
from tabellion import TrustClient
from tabellion.core.dialect import TUF
from tabellion.core.limits import Limits
from tabellion.core.names import Digest
from tabellion.errors import ExpiredMetadataError, TransportError, UnreachableError

IMAGE = "registry.example/app:1.2"
DIGEST = Digest.of(b"image")


@pytest.fixture
def forge() -> Forge:
    made = Forge()
    made.targets.targets["1.2"] = target(b"image")
    return made


@pytest.fixture
async def mirror(forge: Forge) -> AsyncIterator[Mirror]:
    async with serving(Mirror()) as served:
        served.publish(forge)
        yield served


def add_roots(mirror: Mirror, forge: Forge, count: int) -> None:
    for _ in range(count):
        forge.root.version += 1
        mirror.files[f"{forge.root.version}.root.json"] = TUF.sign(
            forge.root, forge.signers["root"]
        )


async def test_b20_a_failed_update_leaves_a_client_that_can_update_later(
    mirror: Mirror, tmp_path: Path
) -> None:
    root = mirror.files["1.root.json"]
    async with TrustClient(mirror.url, home=tmp_path, root=root, clock=lambda: NOW) as trust:
        mirror.faults["1.targets.json"] = mirrors.html
        with pytest.raises(Exception, match="targets"):
            await trust.verify(IMAGE)
        mirror.faults.clear()
        assert (await trust.verify(IMAGE)).digest == DIGEST


async def test_b21_the_time_is_taken_once_for_a_whole_update(
    mirror: Mirror, tmp_path: Path
) -> None:
    moments = iter([NOW, LATER + timedelta(days=1), LATER + timedelta(days=2)])

    def clock() -> datetime:
        return next(moments)

    root = mirror.files["1.root.json"]
    async with TrustClient(mirror.url, home=tmp_path, root=root, clock=clock) as trust:
        assert (await trust.verify(IMAGE)).digest == DIGEST
        with pytest.raises(ExpiredMetadataError):
            await trust.verify(IMAGE)


async def test_b23_the_walk_to_the_newest_root_is_bounded(
    mirror: Mirror, forge: Forge, tmp_path: Path
) -> None:
    root = mirror.files["1.root.json"]
    add_roots(mirror, forge, 5)
    limits = Limits(root_rotations=2)
    async with TrustClient(
        mirror.url, home=tmp_path, root=root, clock=lambda: NOW, limits=limits
    ) as trust:
        assert (await trust.verify(IMAGE)).versions["root"] == 3
    assert [name for name in mirror.requests if "root" in name] == ["2.root.json", "3.root.json"]


async def test_b27_every_accepted_root_is_kept(
    mirror: Mirror, forge: Forge, tmp_path: Path
) -> None:
    root = mirror.files["1.root.json"]
    add_roots(mirror, forge, 2)
    async with TrustClient(mirror.url, home=tmp_path, root=root, clock=lambda: NOW) as trust:
        await trust.verify(IMAGE)
        kept = trust.cache("registry.example/app")
    assert kept.root_versions() == [1, 2, 3]
    for version in (1, 2, 3):
        assert kept.load_root(version) == mirror.files[f"{version}.root.json"]


async def test_b28_an_expired_newest_root_is_refused(mirror: Mirror, tmp_path: Path) -> None:
    late = LATER + timedelta(seconds=1)
    root = mirror.files["1.root.json"]
    async with TrustClient(mirror.url, home=tmp_path, root=root, clock=lambda: late) as trust:
        with pytest.raises(ExpiredMetadataError) as caught:
            await trust.verify(IMAGE)
    assert caught.value.role == "root"
    assert "timestamp.json" not in mirror.requests


async def test_b30_file_names_follow_the_newest_root(
    mirror: Mirror, forge: Forge, tmp_path: Path
) -> None:
    root = mirror.files["1.root.json"]
    forge.root.consistent_snapshot = False
    add_roots(mirror, forge, 1)
    for role in ("snapshot", "targets"):
        mirror.files[f"{role}.json"] = mirror.files.pop(f"1.{role}.json")
    async with TrustClient(mirror.url, home=tmp_path, root=root, clock=lambda: NOW) as trust:
        assert (await trust.verify(IMAGE)).digest == DIGEST
    assert mirror.requests[-2:] == ["snapshot.json", "targets.json"]


async def test_b47_offline_says_expired_apart_from_unreachable(
    mirror: Mirror, tmp_path: Path
) -> None:
    root = mirror.files["1.root.json"]
    async with TrustClient(mirror.url, home=tmp_path, root=root, clock=lambda: NOW) as trust:
        await trust.verify(IMAGE)
    nowhere = "http://127.0.0.1:9"
    late = LATER + timedelta(seconds=1)
    async with TrustClient(nowhere, home=tmp_path, clock=lambda: NOW) as trust:
        with pytest.raises(UnreachableError):
            await trust.verify(IMAGE)
    async with TrustClient(
        nowhere, home=tmp_path, clock=lambda: late, offline="last-known"
    ) as trust:
        with pytest.raises(ExpiredMetadataError, match="expired at"):
            await trust.verify(IMAGE)


async def test_b48_mirrors_are_asked_in_turn_and_can_only_withhold(
    mirror: Mirror, tmp_path: Path
) -> None:
    root = mirror.files["1.root.json"]
    async with serving(Mirror(files=mirror.files)) as second:
        for name in ("2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"):
            mirror.faults[name] = mirrors.broken
        options = {"home": tmp_path, "root": root, "clock": lambda: NOW}
        async with TrustClient(mirror.url, mirrors=[second.url], **options) as trust:  # type: ignore[arg-type]
            assert (await trust.verify(IMAGE)).digest == DIGEST
        second.faults["timestamp.json"] = mirrors.broken
        async with TrustClient(mirror.url, mirrors=[second.url], **options) as trust:  # type: ignore[arg-type]
            with pytest.raises(TransportError):
                await trust.verify(IMAGE)
