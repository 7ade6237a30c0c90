from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from forge import target
from http_site import Site
from tabellion.verify.client import TrustClient
from tabellion_server.services.retention import SIGNED_MARGIN, Margins, old_of
from tabellion_server.settings import Settings

DAY = timedelta(days=1)


@pytest.fixture
def settings() -> Settings:
    return Settings(timestamp_life=DAY, snapshot_life=30 * DAY)


async def release(site: Site, forge: object, name: str) -> None:
    forge.targets.version += 1  # type: ignore[attr-defined]
    forge.targets.targets[name] = target(name.encode(), name)  # type: ignore[attr-defined]
    await site.publish(forge, "targets")  # type: ignore[arg-type]


SHORT = Margins(signed=timedelta(0))


async def old(site: Site, margins: Margins = SHORT) -> set[tuple[str, int]]:
    head = await site.store.head(site.gun)
    assert head is not None
    found = await old_of(site.store, head, now=site.clock(), margins=margins)
    return {(info.role, info.version) for info in found.files}


async def test_a_file_stays_while_an_unexpired_snapshot_names_it_and_a_margin_longer(
    site: Site,
) -> None:
    forge = await site.forge()
    await site.publish(forge, "root", "targets")
    await release(site, forge, "a")
    assert await old(site) == set()
    site.clock.now += 20 * DAY
    await site.body("timestamp.json")  # renewed, with its snapshot
    assert await old(site) == {("timestamp", 1), ("timestamp", 2)}
    site.clock.now += 16 * DAY  # the first snapshots expired 6 days ago
    await site.body("timestamp.json")
    assert ("targets", 1) not in await old(site)
    site.clock.now += 2 * DAY
    await site.body("timestamp.json")
    found = await old(site)
    assert {("targets", 1), ("snapshot", 1), ("snapshot", 2)} <= found
    assert ("targets", 2) not in found  # it's current
    assert not any(role == "root" for role, _ in found)
    assert ("targets", 1) not in await old(site, Margins(40 * DAY, 40 * DAY))


async def test_what_stays_is_enough_for_every_client(site: Site, tmp_path: Path) -> None:
    forge = await site.forge()
    await site.publish(forge, "root", "targets")
    first_root = await site.body("1.root.json")
    url = str(site.client.make_url("/"))[:-1]
    homes = [tmp_path / "warm", tmp_path / "cold"]
    async with TrustClient(url, home=homes[0], root=first_root, clock=site.clock) as warm:
        await warm.targets(site.gun)
    for number in range(6):
        site.clock.now += 20 * DAY
        if number == 3:
            forge.root.version = 2
            await site.publish(forge, "root")
        await release(site, forge, f"v{number}")
        files = await old(site)
        await site.store.collect(site.gun, files)
    assert ("targets", 1) not in {
        (info.role, info.version) for info in await site.store.files(site.gun)
    }
    for home in homes:
        async with TrustClient(url, home=home, root=first_root, clock=site.clock) as client:
            assert len(await client.targets(site.gun)) == 6


async def test_the_newest_file_of_a_role_stays_though_nothing_names_it(site: Site) -> None:
    forge = await site.forge()
    await site.publish(forge, "root", "targets")
    await site.store.commit(
        site.gun,
        dialect="tuf",
        expected_revision=1,
        added=(),
        removed_heads=["targets"],
        at=site.clock(),
    )
    site.clock.now += 400 * DAY
    assert not any(role == "targets" for role, _ in await old(site))


async def test_what_people_signed_stays_longer(site: Site) -> None:
    forge = await site.forge()
    await site.publish(forge, "root", "targets")
    await release(site, forge, "a")
    site.clock.now += SIGNED_MARGIN - DAY
    assert {role for role, _ in await old(site, Margins())} == {"timestamp", "snapshot"}
    site.clock.now += 2 * DAY
    assert ("targets", 1) in await old(site, Margins())
