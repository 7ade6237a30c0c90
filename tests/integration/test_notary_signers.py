"""Signers of a Notary GUN that go, and come: nobody is left who can't sign, or can't read."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from aiohttp.test_utils import TestServer
from securesystemslib.signer import Key

from docker_like import DockerLike
from person import Person
from tabellion.cli.embedded import EmbeddedServer
from tabellion.core import notary_transitions
from tabellion.core.dialect import NOTARY
from tabellion.core.names import Digest
from tabellion.core.notary_search import RELEASES
from tabellion.errors import (
    ConflictError,
    PublicationError,
    RefusedPublicationError,
    ThresholdError,
)
from tabellion.publish.delivery import Delivery
from tabellion.publish.public_keys import fingerprint_of
from tabellion_server.app import make_app
from tabellion_server.keys.master import MasterKey
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.settings import Settings
from tabellion_server.storage.sqlite import SqliteStore

PASSPHRASE = "signer passphrase"
SNAPSHOTS = pytest.mark.parametrize("snapshot", ["server", "local"])


@dataclass
class World:
    """A GUN, its owner, and others."""

    url: str
    gun: str
    folder: Path
    stack: AsyncExitStack
    root: bytes = b""

    async def person(self, name: str) -> Person:
        made = Person(self.url, self.folder / name, self.root or None)
        return await self.stack.enter_async_context(made)

    async def owner(self, snapshot: Literal["server", "local"] = "server") -> Person:
        owner = await self.person("owner")
        made = await owner.publisher.init(self.gun, dialect=NOTARY, snapshot=snapshot)
        self.root = made.root
        return owner

    def docker(self, person: Person) -> DockerLike:
        return DockerLike(person, self.url, self.gun)

    async def listed(self, person: Person) -> set[str]:
        """Give what the snapshot names beside the two that it always does."""
        snapshot = (await person.trust.refresh(self.gun)).snapshot
        assert snapshot is not None
        return {name.removesuffix(".json") for name in snapshot.signed.meta} - {"root", "targets"}


@pytest.fixture
async def world(server: EmbeddedServer, gun: str, tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield World(server.url, gun, tmp_path, stack)


def new_key(person: Person, name: str) -> Key:
    return person.keys.generate("signer", passphrase=PASSPHRASE, name=name, keytype="ecdsa").key


async def sign(person: Person, gun: str, tag: str, role: str | None = None) -> dict[str, int]:
    signed = await person.publisher.sign(gun, tag, Digest.of(tag.encode()), len(tag), role=role)
    return dict(signed.versions)


async def first_signer_gone(world: World, owner: Person) -> None:
    """Let s1, whose key the owner has, sign tag 1 and be removed again."""
    await owner.publisher.add_signer(world.gun, "s1", [new_key(owner, "s1")])
    await sign(owner, world.gun, "1")
    assert await world.listed(owner) == {RELEASES, "targets/s1"}
    await owner.publisher.remove_signer(world.gun, "s1")
    assert await world.listed(owner) == set()
    owner.keys.delete(owner.keys.find("s1").keyid)


async def test_a_signer_added_by_docker_signs_above_what_a_removed_one_published(
    world: World,
) -> None:
    owner = await world.owner()
    await first_signer_gone(world, owner)
    second = await world.person("s2")
    await world.docker(owner).delegate({"s2": new_key(second, "s2")})
    with pytest.raises(ConflictError):  # as with Notary's own server
        await world.docker(second).sign("s2", "2")
    versions = await asyncio.wait_for(sign(second, world.gun, "2"), 20)
    assert versions == {RELEASES: 2, "targets/s2": 1}
    assert set(await (await world.person("reader")).signed(world.gun)) == {"2"}
    await world.docker(second).sign("s2", "3")
    assert set(await second.signed(world.gun)) == {"2", "3"}


@SNAPSHOTS
async def test_adding_a_signer_again_lets_docker_sign_where_one_was_removed(
    world: World, snapshot: Literal["server", "local"]
) -> None:
    owner = await world.owner(snapshot)
    await first_signer_gone(world, owner)
    second = await world.person("s2")
    key = new_key(second, "s2")
    await world.docker(owner).delegate({"s2": key})
    added = await owner.publisher.add_signer(world.gun, "s2", [key])
    assert added.versions.items() >= {RELEASES: 2, "targets": 5}.items()
    assert not added.missing
    if snapshot == "local":  # who signs there needs the snapshot key as well
        (info,) = owner.keys.list(role="snapshot")
        for file in owner.keys.folder.glob(f"{info.keyid}*"):
            shutil.copy(file, second.keys.folder)
    await world.docker(second).sign("s2", "2")
    assert set(await (await world.person("reader")).signed(world.gun)) == {"2"}
    with pytest.raises(Exception, match="no key here may sign"):
        await sign(owner, world.gun, "3")  # the owner's key is in the release for s2's sake
    await sign(owner, world.gun, "3", "targets")


async def test_the_owners_key_leaves_the_release_once_a_signer_has_signed(world: World) -> None:
    owner = await world.owner()
    await first_signer_gone(world, owner)
    second = await world.person("s2")
    key = new_key(second, "s2")
    await owner.publisher.add_signer(world.gun, "s2", [key])
    assert await release_keys(world, owner) == 2
    third = new_key(await world.person("s3"), "s3")
    await owner.publisher.add_signer(world.gun, "s3", [third])
    assert await release_keys(world, owner) == 3, "s2 hasn't signed yet"
    await world.docker(second).sign("s2", "2")
    await owner.publisher.add_signer(world.gun, "s3", [third])
    assert await release_keys(world, owner) == 2
    assert set(await owner.signed(world.gun)) == {"2"}


async def release_keys(world: World, person: Person) -> int:
    found = {info.name: info for info in await person.publisher.signers(world.gun)}
    return len(found[RELEASES].keys)


async def test_a_signer_goes_though_nobody_else_can_sign_the_release(world: World) -> None:
    owner, bob = await world.owner(), await world.person("bob")
    alices = new_key(owner, "alice")
    await owner.publisher.add_signer(world.gun, "alice", [alices])
    await owner.publisher.add_signer(world.gun, "bob", [new_key(bob, "bob")])
    await sign(owner, world.gun, "1")
    removed = await owner.publisher.remove_signer(world.gun, "alice")
    assert not removed.missing
    assert removed.versions[RELEASES] == 2
    assert set(await owner.signed(world.gun)) == {"1"}
    await world.docker(bob).sign("bob", "2")
    assert set(await owner.signed(world.gun)) == {"1", "2"}


async def test_removing_the_last_signer_tells_what_is_signed_no_more(world: World) -> None:
    owner = await world.owner()
    for tag in ("same", "older"):
        await owner.publisher.sign(world.gun, tag, Digest.of(b"owner's"), 7)
    await owner.publisher.add_signer(world.gun, "s1", [new_key(owner, "s1")])
    await owner.publisher.sign(world.gun, "same", Digest.of(b"owner's"), 7)
    await owner.publisher.sign(world.gun, "older", Digest.of(b"s1's"), 4)
    await sign(owner, world.gun, "only")
    removed = await owner.publisher.remove_signer(world.gun, "s1")
    assert removed.lost == {"older": "targets", "only": ""}
    assert set(await owner.signed(world.gun)) == {"same", "older"}


async def test_a_name_used_again_with_another_key_is_silent_and_said_to_be(world: World) -> None:
    owner = await world.owner()
    await first_signer_gone(world, owner)
    again = await world.person("again")
    added = await owner.publisher.add_signer(world.gun, "s1", [new_key(again, "s1")])
    assert added.silent == ("targets/s1",)
    assert await sign(again, world.gun, "2") == {RELEASES: 3, "targets/s1": 2}
    assert set(await owner.signed(world.gun)) == {"2"}


async def test_a_snapshot_that_names_what_nobody_vouches_for_is_refused_and_changes_nothing(
    world: World,
) -> None:
    owner = await world.owner("local")
    await owner.publisher.add_signer(world.gun, "s1", [new_key(owner, "s1")])
    await sign(owner, world.gun, "1")
    await world.docker(owner).delegate({})  # the entries stay in its snapshot
    before = (await owner.publisher.status(world.gun)).versions
    other = new_key(await world.person("s2"), "s2")
    with pytest.raises(RefusedPublicationError, match="which the snapshot names"):
        await world.docker(owner).delegate({"s2": other})
    assert (await owner.publisher.status(world.gun)).versions == before
    await owner.publisher.add_signer(world.gun, "s2", [other])
    assert await owner.signed(world.gun) == {}
    assert await world.listed(owner) == {RELEASES}


async def test_a_server_that_shows_another_state_than_it_judges_by_is_not_asked_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = await world.owner()
    attempts = 0

    async def conflict(*_: object) -> None:
        nonlocal attempts
        attempts += 1
        raise ConflictError("targets version 2 was built on an earlier version", versions={})

    monkeypatch.setattr(Delivery, "_upload", conflict)
    with pytest.raises(PublicationError, match="earlier version"):
        await asyncio.wait_for(sign(owner, world.gun, "1"), 60)
    assert attempts < 10


async def test_a_rotated_targets_key_has_no_say_in_the_release_any_more(world: World) -> None:
    owner = await world.owner()
    await first_signer_gone(world, owner)
    second = await world.person("s2")
    await owner.publisher.add_signer(world.gun, "s2", [new_key(second, "s2")])
    old = owner.keys.list(role="targets")[0].fingerprint
    rotated = await owner.publisher.rotate(world.gun, "targets")
    assert rotated.versions[RELEASES] == 3
    found = {info.name: info for info in await owner.publisher.signers(world.gun)}
    prints = {fingerprint_of(key) for key in found[RELEASES].keys}
    assert old not in prints
    assert len(prints) == 2
    await world.docker(second).sign("s2", "2")
    assert set(await owner.signed(world.gun)) == {"2"}


@pytest.fixture
async def inner(gun: str, tmp_path: Path) -> AsyncIterator[World]:
    """Give a world whose server runs in this process."""
    store = await SqliteStore.open(tmp_path / "tabellion.db")
    app = make_app(Settings(), store=store, online_keys=OnlineKeys(store, MasterKey.generate()))
    async with TestServer(app) as server, AsyncExitStack() as stack:
        yield World(str(server.make_url("/")), gun, tmp_path, stack)
    await store.close()


async def test_the_owner_mends_a_gun_that_came_with_a_broken_release(
    inner: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = inner
    owner = await world.owner("local")
    await owner.publisher.add_signer(world.gun, "s1", [new_key(owner, "s1")])
    await sign(owner, world.gun, "1")
    await world.docker(owner).delegate({})
    second = await world.person("s2")
    with monkeypatch.context() as lenient:  # as Notary's server, which such a GUN came from
        lenient.setattr(notary_transitions._Judgement, "was_broken", lambda *_: True)
        await world.docker(owner).delegate({"s2": new_key(second, "s2")})
    with pytest.raises(ThresholdError):
        await owner.digest(world.gun, "1")
    assert {info.version for info in await owner.publisher.signers(world.gun)} == {None}
    await sign(owner, world.gun, "2", "targets")
    assert set(await (await world.person("reader")).signed(world.gun)) == {"2"}
    await owner.publisher.remove_signer(world.gun, "s2")
    await sign(owner, world.gun, "3")
    assert set(await owner.signed(world.gun)) == {"2", "3"}
