"""What ``tabellion-server check`` finds beyond bytes: what clients would stumble over."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from forge import target
from http_site import Site
from tabellion_server.services.checking import check_gun


async def damages(site: Site) -> list[str]:
    return [
        finding.problem
        for head in await site.store.guns()
        for finding in (await check_gun(site.store, head, now=site.clock())).findings
        if finding.is_damage
    ]


async def publish(site: Site) -> None:
    forge = await site.forge()
    forge.delegate("releases", ["*"])
    forge.delegated["releases"].targets["1.0"] = target(b"x")
    await site.publish(forge, "root", "targets", "releases")
    assert not await damages(site)


async def test_a_role_that_the_snapshot_names_and_nobody_gets_is_damage(site: Site) -> None:
    await publish(site)
    await site.store.commit(
        site.gun,
        dialect="tuf",
        expected_revision=1,
        added=(),
        removed_heads=["releases"],
        at=site.clock(),
    )
    (problem,) = await damages(site)
    assert "releases" in problem


async def test_a_file_under_another_number_than_its_own_is_damage(
    site: Site, tmp_path: Path
) -> None:
    await publish(site)
    with contextlib.closing(sqlite3.connect(tmp_path / "tabellion.db")) as connection:
        connection.executescript(
            "DROP TRIGGER metadata_is_immutable;"
            "UPDATE metadata SET version = 7 WHERE role = 'root';"
            "UPDATE current SET version = 7 WHERE role = 'root';"
        )
    (problem,) = await damages(site)
    assert "root" in problem
    assert "7" in problem
