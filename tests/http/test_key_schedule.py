"""The server proposes new keys of its own on schedule; its root holders put them in force."""

from __future__ import annotations

from datetime import timedelta

import pytest

from forge import Forge
from http_site import Site
from tabellion.core.dialect import TUF
from tabellion_server.services.key_schedule import BY, KeySchedule
from tabellion_server.web.context import CONTEXT

YEAR = timedelta(days=365)


@pytest.fixture
def schedule(site: Site) -> KeySchedule:
    context = site.client.app[CONTEXT]
    return KeySchedule(
        context.store,
        context.files,
        context.online,
        context.pendings,
        clock=site.clock,
        after=YEAR,
    )


async def founded(site: Site) -> Forge:
    forge = await site.forge()
    await site.publish(forge, "root", "targets")
    return forge


async def test_young_keys_and_keys_of_others_stay(site: Site, schedule: KeySchedule) -> None:
    await founded(site)
    site.clock.now += YEAR - timedelta(days=1)
    before = await site.everything()
    assert await schedule.sweep() == 0
    assert await site.everything() == before


async def test_new_keys_wait_for_the_roots_holders(site: Site, schedule: KeySchedule) -> None:
    forge = await founded(site)
    old = {role: forge.root.roles[role].keyids[0] for role in ("snapshot", "timestamp")}
    site.clock.now += YEAR + timedelta(hours=1)
    assert await schedule.sweep() == 1
    # Nothing is in force yet, and nothing is proposed twice.
    head = await site.store.head(site.gun)
    assert head is not None
    assert head.files["root"].version == 1
    assert await schedule.sweep() == 0
    (row,) = await site.store.pending(site.gun)
    assert row.by == BY
    proposed = TUF.parse("root", row.files["root"], max_bytes=100_000)
    assert proposed.signatures == {}
    signed = TUF.add_signature(row.files["root"], forge.signers["root"])
    response = await site.post({"root": signed})
    assert response.status == 200, await response.text()
    head = await site.store.head(site.gun)
    assert head is not None
    for role in ("snapshot", "timestamp"):
        file = await site.store.read(site.gun, role)
        assert file is not None
        now_signed_by = set(TUF.parse(role, file.data, max_bytes=100_000).signatures)
        assert now_signed_by
        assert old[role] not in now_signed_by
    assert await site.store.pending(site.gun) == []
    assert await schedule.sweep() == 0


async def test_what_was_withdrawn_is_proposed_again_only_later(
    site: Site, schedule: KeySchedule
) -> None:
    await founded(site)
    site.clock.now += YEAR + timedelta(hours=1)
    await schedule.sweep()
    (row,) = await site.store.pending(site.gun)
    await site.client.app[CONTEXT].pendings.withdraw(site.gun, row.id)
    site.clock.now += timedelta(days=20)
    assert await schedule.sweep() == 0
    site.clock.now += timedelta(days=9)
    assert await schedule.sweep() == 1


async def test_a_snapshot_key_of_the_publisher_stays(site: Site, schedule: KeySchedule) -> None:
    forge = Forge()
    forge.root.revoke_key(forge.root.roles["timestamp"].keyids[0], "timestamp")
    forge.root.add_key(await site.key("timestamp"), "timestamp")
    forge.signers["timestamp"] = []
    files = forge.release()
    response = await site.post({role: files[role] for role in ("root", "targets", "snapshot")})
    assert response.status == 200, await response.text()
    site.clock.now += YEAR + timedelta(hours=1)
    assert await schedule.sweep() == 1
    (row,) = await site.store.pending(site.gun)
    proposed = TUF.parse("root", row.files["root"], max_bytes=100_000).signed
    assert proposed.roles["snapshot"].keyids == forge.root.roles["snapshot"].keyids
    assert proposed.roles["timestamp"].keyids != forge.root.roles["timestamp"].keyids
