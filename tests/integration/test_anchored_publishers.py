"""Publishers whose home goes by anchors, over a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from person import Person
from tabellion.cli.embedded import EmbeddedServer
from tabellion.core.anchors import Anchor
from tabellion.core.gun_patterns import GunPattern
from tabellion.core.names import Digest, parse_gun
from tabellion.errors import UntrustedRootError
from tabellion.verify.decisions import Decisions
from tabellion.verify.trust_store import EVERYTHING


async def allow(person: Person, collection: str, gun: str, *keys: str) -> None:
    made = Anchor(GunPattern.parse(gun), frozenset(keys), is_revoked=not keys)
    data = made.to_bytes()
    await person.publisher.sign(
        collection,
        made.pattern.path,
        Digest.of(data),
        len(data),
        custom={"anchor": made.content()},
    )


async def test_a_publisher_builds_only_on_what_the_anchors_allow(
    server: EmbeddedServer, tmp_path: Path, gun: str
) -> None:
    collection = f"{gun}/anchors"
    async with Person(server.url, tmp_path / "org") as org:
        root = (await org.publisher.init(collection)).root
        home = tmp_path / "owner"
        mine = Decisions(home, org.publisher._clock)
        mine.add_collection(parse_gun(collection), server.url, root, EVERYTHING)
        async with Person(server.url, home) as owner:
            made = await owner.publisher.init(gun)
            with pytest.raises(UntrustedRootError, match="allow no root"):
                await owner.sign(gun, "1.0")
        await allow(org, collection, gun, made.root_keys[0].fingerprint)
        # A lost root key: the owner rotates, and goes on once the anchors allow the new one.
        async with Person(server.url, home) as owner:
            await owner.sign(gun, "1.0")
            await owner.publisher.rotate(gun, "root")
            new = next(
                info.fingerprint
                for info in owner.keys.list(role="root")
                if info.fingerprint != made.root_keys[0].fingerprint
            )
            with pytest.raises(UntrustedRootError, match="root version 2 has 0 of 1"):
                await owner.sign(gun, "2.0")
        await allow(org, collection, gun, new)
        async with Person(server.url, home) as owner:
            await owner.sign(gun, "2.0")
            assert set(await owner.signed(gun)) == {"1.0", "2.0"}
            await allow(org, collection, gun)
        async with Person(server.url, home) as owner:
            for refused in (owner.sign(gun, "3.0"), owner.signed(gun), owner.version(gun)):
                with pytest.raises(UntrustedRootError, match="is revoked"):
                    await refused
        async with Person(server.url, tmp_path / "other", root=made.root) as other:
            assert set(await other.signed(gun)) == {"1.0", "2.0"}
