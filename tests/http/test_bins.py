"""A GUN of hash bins costs the server what is published, not what there is."""

from __future__ import annotations

import pytest

from forge import Forge, target
from http_site import Site, new_signer
from tabellion_server.services.cache import SizedCache
from tabellion_server.storage.interface import StoredFile
from tabellion_server.web.context import CONTEXT

PATHS = [f"1.{number}" for number in range(40)]


async def binned(site: Site) -> Forge:
    forge = await site.forge()
    forge.spread(7, "bin1", *PATHS, holder=new_signer())
    await site.publish(forge, "root", "targets", *forge.delegated)
    return forge


async def test_publishing_to_one_bin_reads_no_other(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge = await binned(site)
    app = site.client.app
    assert app is not None
    files = app[CONTEXT].files
    files._stored, files._parsed = SizedCache(10**7), SizedCache(10**7)  # as after a restart
    read: list[str] = []
    whole = site.store.read

    async def counted(gun: str, role: str, version: int | None = None) -> StoredFile | None:
        read.append(role)
        return await whole(gun, role, version)

    monkeypatch.setattr(site.store, "read", counted)
    name = forge.bin_of("1.2")
    forge.delegated[name].targets["1.2"] = target(b"new", "1.2")
    forge.delegated[name].version += 1
    answer = await site.publish(forge, name)
    assert set(read) == {"root", "targets", "snapshot", "timestamp", name}
    assert answer["versions"] == {"root": 1, "targets": 1, "snapshot": 2, "timestamp": 2, name: 2}
    events = await site.store.events(site.gun, target="1.2")
    assert [(event.kind, event.role, event.version) for event in events] == [
        ("signed", name, 2),
        ("signed", name, 1),
    ]


async def test_other_bins_are_published_whole_and_tell_no_history(site: Site) -> None:
    forge = await binned(site)
    before = await site.store.events(site.gun, limit=1000)
    forge.targets.version += 1
    forge.spread(8, "bin2", *PATHS, holder=new_signer())
    await site.publish(forge, "targets", *forge.delegated)
    assert await site.store.events(site.gun, limit=1000) == before
    assert await site.body(f"1.{forge.bin_of('1.2')}.json") == forge.files[forge.bin_of("1.2")]


async def test_bins_that_lost_a_target_are_refused_and_change_nothing(site: Site) -> None:
    forge = await binned(site)
    before = await site.everything()
    forge.targets.version += 1
    forge.spread(8, "bin2", *PATHS[1:], holder=new_signer())
    response = await site.post(
        {
            "targets": forge.sign("targets", forge.targets),
            **{name: forge.sign(name, payload) for name, payload in forge.delegated.items()},
        }
    )
    assert response.status == 409
    assert await site.everything() == before


async def test_a_guns_state_tells_its_bins_by_the_first_to_end(site: Site) -> None:
    await binned(site)
    response = await site.client.get(f"/v1/guns/{site.gun}")
    roles = (await response.json())["roles"]
    assert roles.keys() == {"root", "targets", "snapshot", "timestamp", "bin1-00"}
    assert roles["bin1-00"]["of_bins"] == 128
    assert roles["targets"]["bins"] == {"prefix": "bin1", "count": 128}
