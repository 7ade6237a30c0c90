"""After a loss or a theft: what each drill ends in, for old readers and new ones."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import aiohttp
import pytest
from tuf.api.metadata import TargetFile, Targets

from person import Person
from tabellion.cli.embedded import EmbeddedServer
from tabellion.core.dialect import NOTARY, TUF, Dialect
from tabellion.core.names import Digest, parse_gun
from tabellion.core.roles import key_material
from tabellion.errors import (
    ConflictError,
    KeyStoreError,
    MixAndMatchError,
    NotDelegatedError,
    NotSignedError,
    RollbackError,
    ServerAnswerError,
    ThresholdError,
    UsageError,
)
from tabellion.publish.converting import Wish
from tabellion.publish.lost import BroughtBack
from tabellion.publish.server_api import HistoryEntry
from tabellion.verify.cache import MetadataCache

PASSPHRASE = "signer passphrase"

DIALECTS = pytest.mark.parametrize("dialect", [TUF, NOTARY], ids=["tuf", "notary"])


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    folder = tmp_path / "server"
    folder.mkdir()
    with EmbeddedServer(folder) as server:
        yield server


def copy_store(folder: Path, *, to: Path) -> None:
    """Copy a stopped server's store."""
    shutil.copy(folder / "tabellion.db", to)


def restore(server: EmbeddedServer, backup: Path) -> None:
    server.stop()
    for name in ("-wal", "-shm"):
        (server.folder / f"tabellion.db{name}").unlink(missing_ok=True)
    shutil.copy(backup, server.folder / "tabellion.db")
    server.start()


def accept(server: EmbeddedServer) -> str:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tabellion_server", "accept-restore"),
            *("--config", str(server.folder / "server.toml")),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


async def test_a_backup_whose_mark_is_lost_as_well_is_told_by_the_way_on(
    own_server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    server, backup = own_server, tmp_path / "backup"
    async with Person(server.url, tmp_path / "owner") as owner:
        await owner.publisher.init(gun)
        server.stop()
        copy_store(server.folder, to=backup)
        server.start()
    async with Person(server.url, tmp_path / "owner") as owner:
        for target in ("1", "2", "3"):
            await owner.sign(gun, target)
    server.stop()
    (server.folder / "high-water.json").unlink()
    restore(server, backup)
    async with Person(server.url, tmp_path / "owner") as owner:
        with pytest.raises(ConflictError, match="was built on") as caught:
            await owner.publisher.bring_back(gun)
        assert "accept-restore --skip N" in caught.value.hint


@DIALECTS
@pytest.mark.parametrize("snapshot", ["server", "local"])
async def test_what_an_old_backup_lost_comes_back_and_old_readers_go_on(
    own_server: EmbeddedServer,
    gun: str,
    tmp_path: Path,
    dialect: Dialect,
    snapshot: Literal["server", "local"],
) -> None:
    server, backup = own_server, tmp_path / "backup"
    async with Person(server.url, tmp_path / "owner") as owner:
        made = await owner.publisher.init(gun, dialect=dialect, snapshot=snapshot)
        await owner.sign(gun, "1")
    server.stop()
    copy_store(server.folder, to=backup)
    server.start()
    async with (
        Person(server.url, tmp_path / "owner") as owner,
        Person(server.url, tmp_path / "reader", made.root) as reader,
    ):
        await owner.publisher.rotate(gun, "targets")
        for target in ("2", "3"):
            await owner.sign(gun, target)
        await owner.sign(gun, "1", "changed")
        signed = await reader.signed(gun)
        assert set(signed) == {"1", "2", "3"}
    restore(server, backup)
    async with (
        Person(server.url, tmp_path / "owner") as owner,
        Person(server.url, tmp_path / "reader", made.root) as reader,
    ):
        # Who saw the newer ones takes nothing older, and nothing can be published.
        with pytest.raises(RollbackError):
            await reader.signed(gun)
        with pytest.raises(ServerAnswerError, match="went back to a backup"):
            await owner.publisher.bring_back(gun)
        assert accept(server).startswith("passed over ")
        brought = await owner.publisher.bring_back(gun)
        assert brought.versions["root"] == 2
        assert brought.versions["targets"] > 2
        assert brought == BroughtBack(brought.versions)
        assert await reader.signed(gun) == signed
        assert (await owner.publisher.bring_back(gun)).versions == {}
        await owner.sign(gun, "4")
        assert set(await reader.signed(gun)) == {"1", "2", "3", "4"}
        async with Person(server.url, tmp_path / "new", made.root) as new:
            assert await new.signed(gun) == await reader.signed(gun)
    assert accept(server).startswith("the store lacks nothing")


async def test_a_home_that_knows_nothing_brings_nothing_back(
    own_server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(own_server.url, tmp_path / "stranger") as stranger:
        with pytest.raises(UsageError, match="never read"):
            await stranger.publisher.bring_back(gun)


class House:
    """A server whose disk goes back to a backup, and the homes of who publishes and who reads."""

    def __init__(self, server: EmbeddedServer, gun: str, folder: Path) -> None:
        self.server, self.gun, self.folder = server, gun, folder
        self.root = b""

    async def found(self, **values: Any) -> None:
        async with self.person("owner") as owner:
            self.root = (await owner.publisher.init(self.gun, **values)).root
            await owner.sign(self.gun, "1")

    def person(self, name: str) -> Person:
        home = self.folder / name
        is_owner = name == "owner"
        return Person(self.server.url, home, None if is_owner else self.root)

    def back_up(self) -> None:
        self.server.stop()
        copy_store(self.server.folder, to=self.folder / "backup")
        self.server.start()

    def go_back(self) -> None:
        restore(self.server, self.folder / "backup")
        assert accept(self.server).startswith("passed over ")

    async def read(self, name: str = "reader") -> set[str]:
        async with self.person(name) as reader:
            return set(await reader.signed(self.gun))

    async def check(self, wanted: set[str]) -> None:
        """Ask who had seen what was lost, and somebody new."""
        assert await self.read() == wanted
        assert await self.read("somebody new") == wanted


@pytest.fixture
def house(own_server: EmbeddedServer, gun: str, tmp_path: Path) -> House:
    return House(own_server, gun, tmp_path)


@pytest.mark.parametrize("snapshot", ["server", "local"])
async def test_readers_who_know_a_signer_that_the_backup_never_had_are_led_out(
    house: House, snapshot: str
) -> None:
    gun = house.gun
    await house.found(snapshot=snapshot)
    house.back_up()
    async with house.person("owner") as owner:
        key = owner.keys.generate("signer", passphrase=PASSPHRASE)
        await owner.publisher.add_signer(gun, "bob", [key.key], paths=["b*"])
        await owner.publisher.sign(gun, "b1", Digest.of(b"b1"), 1, role="bob")
        assert await house.read() == {"1", "b1"}
        await owner.publisher.remove_signer(gun, "bob")
        await owner.sign(gun, "2")
        assert await owner.signed(gun)
        assert await house.read() == {"1", "2"}
    house.go_back()
    async with house.person("owner") as owner:
        if snapshot == "local":
            with pytest.raises(UsageError, match="lists bob") as error:
                await owner.publisher.bring_back(gun)
            assert f"tabellion rotate {gun} snapshot timestamp --server-managed" in error.value.hint
        else:
            brought = await owner.publisher.bring_back(gun)
            assert brought.removed == {"bob": 1}
            assert not brought.behind
        with pytest.raises(RollbackError):
            await house.read()
        told = await owner.publisher.rotate(gun, "snapshot", "timestamp", server=True)
        assert told.overruled
        if snapshot == "local":
            assert not (await owner.publisher.bring_back(gun)).removed
            await owner.publisher.rotate(gun, "snapshot")
        await house.check({"1", "2"})
        assert not (await owner.publisher.bring_back(gun)).removed
        # The name isn't burnt: bob comes back, and is read.
        await owner.publisher.add_signer(gun, "bob", [key.key], paths=["b*"])
        await owner.publisher.sign(gun, "b2", Digest.of(b"b2"), 1, role="bob")
    await house.check({"1", "2", "b2"})


async def test_what_another_home_has_to_bring_back_is_told(house: House) -> None:
    gun = house.gun
    await house.found()
    async with house.person("owner") as owner, house.person("alice") as alice:
        key = alice.keys.generate("signer", passphrase=PASSPHRASE)
        await owner.publisher.add_signer(gun, "alice", [key.key], paths=["a*"])
        await alice.sign(gun, "a1")
    house.back_up()
    async with house.person("owner") as owner, house.person("alice") as alice:
        await alice.sign(gun, "a2")
        await owner.sign(gun, "2")
        await owner.publisher.status(gun)
        assert await house.read() == {"1", "2", "a1", "a2"}
        MetadataCache.of(owner.home, gun).drop("alice")
    house.go_back()
    async with house.person("owner") as owner, house.person("alice") as alice:
        brought = await owner.publisher.bring_back(gun)
        assert brought.behind == {"alice": 2}
        assert not brought.removed
        with pytest.raises(RollbackError):
            await house.read()
        assert (await alice.publisher.bring_back(gun)).behind == {}
    await house.check({"1", "2", "a1", "a2"})


@pytest.mark.parametrize("snapshot", ["server", "local"])
async def test_server_keys_that_the_backup_never_had_are_replaced(
    house: House, snapshot: str
) -> None:
    """They may have been rotated because they were stolen: those in the backup aren't used."""
    gun = house.gun
    await house.found(snapshot=snapshot)
    house.back_up()
    async with house.person("owner") as owner:
        roles = ["timestamp"] if snapshot == "local" else ["snapshot", "timestamp"]
        before = (await owner.trust.refresh(gun)).root.signed
        await owner.publisher.rotate(gun, *roles, server=snapshot == "server")
        await owner.publisher.rotate(gun, "root")
        await owner.sign(gun, "2")
        lost = (await owner.trust.refresh(gun)).root.signed
        assert await house.read() == {"1", "2"}
    house.go_back()
    async with house.person("stranger") as stranger:
        # Somebody who has read it, but holds no root key, changes nothing.
        shutil.copytree(house.folder / "reader", stranger.home)
        with pytest.raises(UsageError, match="are lost with what came after its backup"):
            await stranger.publisher.bring_back(gun)
    async with house.person("owner") as owner:
        brought = await owner.publisher.bring_back(gun)
        assert brought.rekeyed
        assert brought.versions["root"] == lost.version + 1
        now = (await owner.trust.refresh(gun)).root.signed
        for role in roles:
            used = {*before.roles[role].keyids, *lost.roles[role].keyids}
            assert not used & set(now.roles[role].keyids)
        await house.check({"1", "2"})
        await owner.sign(gun, "3")
    await house.check({"1", "2", "3"})


async def test_only_a_root_that_replaces_both_server_keys_is_built_on_an_older_state(
    house: House,
) -> None:
    gun = house.gun
    await house.found()
    house.back_up()
    async with house.person("owner") as owner:
        await owner.sign(gun, "2")
        await owner.signed(gun)
    house.go_back()
    cache = MetadataCache.of(house.folder / "owner", gun)
    kept = {role: cache.load(role) for role in ("root", "snapshot", "timestamp", "targets")}
    async with house.person("owner") as owner:
        for refused in (
            owner.sign(gun, "3"),
            owner.publisher.rotate(gun, "timestamp"),
            owner.publisher.rotate(gun, "snapshot", server=True),
            owner.publisher.rotate(gun, "root", "targets"),
            owner.publisher.witness(gun, ["root"]),
            owner.publisher.proposals.prepare_root(gun, thresholds={"root": 1}),
        ):
            with pytest.raises(RollbackError):
                await refused
        assert {role: cache.load(role) for role in kept} == kept
        told = await owner.publisher.rotate(gun, "snapshot", "timestamp", server=True)
        assert told.versions == {"root": 2}
        assert "was seen before" in told.overruled
        assert set(await owner.signed(gun)) == {"1"}


async def test_what_was_published_to_an_earlier_gun_of_that_name_is_not_brought_back(
    house: House,
) -> None:
    gun = house.gun
    await house.found()
    async with house.person("owner") as owner:
        await owner.publisher.rotate(gun, "root")
        await owner.sign(gun, "2")
        await owner.sign(gun, "3")
        assert await house.read() == {"1", "2", "3"}
        with pytest.raises(UsageError, match="exists on the server already") as known:
            await owner.publisher.init(gun)
        assert "Dropping a GUN" in known.value.hint
        async with aiohttp.ClientSession() as session:
            await session.delete(f"{house.server.url}/v2/{gun}/_trust/tuf/")
        shutil.rmtree(owner.home / "keys")
    async with house.person("owner") as owner:
        made = await owner.publisher.init(gun)
        assert await owner.publisher.bring_back(gun) == BroughtBack({})
    with pytest.raises(ThresholdError, match="timestamp") as refused:
        await house.read()
    assert "tabellion trust replace" in refused.value.hint
    shutil.rmtree(house.folder / "reader")
    house.root = made.root
    await house.check(set())


@pytest.mark.parametrize("is_converted", [False, True], ids=["rotated", "converted"])
async def test_a_notary_gun_whose_new_keys_are_lost_goes_on_by_two_more_roots(
    house: House, *, is_converted: bool
) -> None:
    """As server/README.md tells: begin again from the root that is there, and make two roots."""
    gun = house.gun
    await house.found(dialect=NOTARY)
    house.back_up()
    async with house.person("owner") as owner:
        first = MetadataCache.of(owner.home, gun).load("root")
        assert first is not None
        await change(owner, gun, is_converted=is_converted)
        await owner.sign(gun, "2")
        assert await house.read() == {"1", "2"}
    house.go_back()
    async with house.person("owner") as owner:
        matched = "before .* was converted" if is_converted else "keys .* are lost"
        with pytest.raises(UsageError, match=matched) as error:
            await owner.publisher.bring_back(gun)
        assert "server/README.md" in error.value.hint
        cache = MetadataCache.of(owner.home, gun)
        cache.forget()
        cache.save_root(1, first)
        await change(owner, gun, is_converted=is_converted)
        await owner.publisher.rotate(gun, "snapshot", "timestamp", server=True)
        if is_converted:
            await owner.sign(gun, "2")
        else:
            assert "targets" in (await owner.publisher.bring_back(gun)).versions
        await house.check({"1", "2"})
        await owner.sign(gun, "3")
    await house.check({"1", "2", "3"})


async def change(owner: Person, gun: str, *, is_converted: bool) -> None:
    if is_converted:
        await owner.publisher.convert(Wish(parse_gun(gun)), lambda _: None)
    else:
        await owner.publisher.rotate(gun, "snapshot", "timestamp", server=True)


async def test_files_of_before_a_conversion_follow_nothing_and_that_is_told(
    house: House,
) -> None:
    gun = house.gun
    await house.found(dialect=NOTARY)
    assert await house.read() == {"1"}
    async with house.person("owner") as owner:
        await change(owner, gun, is_converted=True)
        before = await owner.version(gun)
        async with house.person("reader") as reader:
            with pytest.raises(UsageError, match="was converted to TUF"):
                await reader.publisher.bring_back(gun)
        assert await owner.version(gun) == before
        # Who converted it knows what is right.
        assert (await owner.publisher.bring_back(gun)).versions == {}


@DIALECTS
async def test_a_stolen_signer_key_has_no_say_and_what_is_vouched_for_stays(
    server: EmbeddedServer, gun: str, tmp_path: Path, dialect: Dialect
) -> None:
    role = "targets/alice" if dialect is NOTARY else "alice"
    async with Person(server.url, tmp_path / "owner") as owner:
        made = await owner.publisher.init(gun, dialect=dialect)
    async with (
        Person(server.url, tmp_path / "owner") as owner,
        Person(server.url, tmp_path / "alice", made.root) as alice,
        Person(server.url, tmp_path / "reader", made.root) as reader,
    ):
        key = alice.keys.generate("signer", passphrase=PASSPHRASE, keytype="ecdsa")
        await owner.publisher.add_signer(gun, role, [key.key])
        for target in ("1", "2", "3"):
            await alice.sign(gun, target)
        since = datetime.now(UTC)
        await asyncio.sleep(0.01)
        # The thief has alice's home; what alice signs meanwhile looks just the same.
        await alice.sign(gun, "2", "evil")
        await alice.sign(gun, "4")
        await alice.sign(gun, "5")
        await alice.publisher.revoke(gun, "3")
        evil = await reader.digest(gun, "2")
        found = await owner.publisher.signed_since(gun, role, since)
        assert {doubt.target: doubt.since for doubt in found} == {
            "1": "kept",
            "2": "changed",
            "3": "removed",
            "4": "added",
            "5": "added",
        }
        with pytest.raises(UsageError, match="still to come"):
            await owner.publisher.signed_since(gun, role, datetime.now(UTC) + timedelta(hours=1))
        with pytest.raises(UsageError, match="doesn't sign 6"):
            await owner.publisher.take_over(gun, role, found, ["6"])
        await owner.publisher.take_over(gun, role, found, ["4"])
        after = {path: await reader.digest(gun, path) for path in "12345"}
        assert after["2"] not in {None, evil}
        assert after["1"] is not None
        assert after["4"] is not None
        assert (after["3"], after["5"]) == (None, None)
        with pytest.raises((KeyStoreError, NotDelegatedError, UsageError)):
            await alice.sign(gun, "1", "evil")
        assert await reader.digest(gun, "1") == after["1"]


@pytest.mark.parametrize("is_late", [True, False], ids=["replaced-before", "replaced-since"])
@DIALECTS
async def test_what_a_signer_signed_by_an_earlier_key_is_known(
    server: EmbeddedServer, gun: str, tmp_path: Path, dialect: Dialect, *, is_late: bool
) -> None:
    """Her key was replaced, targets rotated, before the theft or after it."""
    role = "targets/alice" if dialect is NOTARY else "alice"
    async with Person(server.url, tmp_path / "owner") as owner:
        made = await owner.publisher.init(gun, dialect=dialect)
    async with (
        Person(server.url, tmp_path / "owner") as owner,
        Person(server.url, tmp_path / "alice", made.root) as alice,
        Person(server.url, tmp_path / "reader", made.root) as reader,
    ):
        first = alice.keys.generate("signer", passphrase=PASSPHRASE, keytype="ecdsa")
        second = alice.keys.generate("signer", passphrase=PASSPHRASE, keytype="ecdsa")
        await owner.publisher.add_signer(gun, role, [first.key])
        await alice.sign(gun, "1")
        since = datetime.now(UTC)
        await asyncio.sleep(0.01)
        await owner.publisher.rotate(gun, "targets")
        await owner.publisher.add_signer(gun, role, [second.key])
        await alice.publisher.proposals.cosign(gun)
        trusted = await owner.publisher.signers(gun)
        keys = {key_material(key) for signer in trusted for key in signer.keys}
        assert key_material(first.key) not in keys
        assert key_material(second.key) in keys
        assert await reader.digest(gun, "1") == Digest.of(b"1").hex
        if is_late:
            since = datetime.now(UTC)
            await asyncio.sleep(0.01)
        await alice.sign(gun, "2", "evil")
        found = await owner.publisher.signed_since(gun, role, since)
        assert {doubt.target: doubt.since for doubt in found} == {"1": "kept", "2": "added"}
        await owner.publisher.take_over(gun, role, found, [])
        assert await reader.digest(gun, "1") == Digest.of(b"1").hex
        assert await reader.digest(gun, "2") is None


async def test_what_a_signer_never_had_a_key_for_is_no_word_of_hers(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    """A server cites a file that bob signed as alice's."""
    async with Person(server.url, tmp_path / "owner") as owner:
        await owner.publisher.init(gun)
        keys = [owner.keys.generate("signer", passphrase=PASSPHRASE) for _ in range(2)]
        await owner.publisher.add_signer(gun, "alice", [keys[0].key])
        await owner.publisher.sign(gun, "1", Digest.of(b"1"), 1, role="alice")
        api, version = owner.publisher._api, await owner.version(gun)
        metadata, history = api.metadata, api.history
        forged = Targets(version=1)
        forged.targets["1"] = TargetFile(1, {"sha256": Digest.of(b"evil").hex}, "1")
        signer = owner.keys.signer(keys[1].keyid, PASSPHRASE)
        data = TUF.sign(forged, [signer])

        async def serve(gun: str, file_name: str, **values: Any) -> bytes:
            return data if file_name == "1.alice.json" else await metadata(gun, file_name, **values)

        async def tell(*args: Any, **values: Any) -> list[HistoryEntry]:
            digest = hashlib.sha256(data).hexdigest()
            return [
                replace(entry, metadata_sha256=digest) for entry in await history(*args, **values)
            ]

        api.metadata, api.history = serve, tell  # type: ignore[method-assign]
        with pytest.raises(UsageError, match="isn't signed by keys that alice") as error:
            await owner.publisher.signed_since(gun, "alice", datetime.now(UTC))
        assert "--since" not in error.value.hint
        assert await owner.version(gun) == version


@DIALECTS
async def test_other_roles_that_trust_a_removed_signer_s_key_are_told(
    server: EmbeddedServer, gun: str, tmp_path: Path, dialect: Dialect
) -> None:
    async with Person(server.url, tmp_path / "owner") as owner:
        made = await owner.publisher.init(gun, dialect=dialect)
        (targets,) = made.targets_keys
        other = owner.keys.generate("signer", passphrase=PASSPHRASE, keytype="ecdsa")
        for name, key in (("alice", targets.key), ("bob", other.key), ("carol", other.key)):
            await owner.publisher.add_signer(gun, name, [key])
        prefix = "targets/" if dialect is NOTARY else ""
        told = await owner.publisher.also_trusts(gun, f"{prefix}bob")
        assert [each.role for each in told] == [f"{prefix}carol"]
        assert told[0].remedy(gun) == f"tabellion recover signer {gun} {prefix}carol --since DATE"
        told = await owner.publisher.also_trusts(gun, f"{prefix}alice")
        assert [each.role for each in told] == ["targets"]
        assert told[0].remedy(gun) == f"tabellion rotate {gun} targets"
        gone = await owner.publisher.remove_signer(gun, "bob")
        assert [each.role for each in gone.still_trusted] == [f"{prefix}carol"]
        gone = await owner.publisher.remove_signer(gun, "carol")
        assert not gone.still_trusted


async def test_the_owner_s_key_that_stood_in_for_a_replaced_one_is_not_the_signer_s(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path / "owner") as owner:
        made = await owner.publisher.init(gun, dialect=NOTARY)
        async with Person(server.url, tmp_path / "alice", made.root) as alice:
            old, new = (
                alice.keys.generate("signer", passphrase="signer passphrase", keytype="ecdsa")
                for _ in range(2)
            )
            await owner.publisher.add_signer(gun, "alice", [old.key])
            await alice.sign(gun, "1")
            assert (await owner.publisher.add_signer(gun, "alice", [new.key])).pending
            assert (await alice.publisher.proposals.cosign(gun)).versions
        keys = {signer.name: signer.keys for signer in await owner.publisher.signers(gun)}
        materials = {key_material(key) for key in keys["targets/releases"]}
        assert key_material(made.targets_keys[0].key) in materials
        assert not await owner.publisher.also_trusts(gun, "alice")
        gone = await owner.publisher.remove_signer(gun, "alice")
        assert not await owner.publisher.signers(gun)
        assert not gone.still_trusted


async def released(reader: Person, gun: str) -> dict[str, str]:
    """Give docker's answers."""
    found: dict[str, str] = {}
    for path in ("1", "2", "3", "5", "b", "b2", "late"):
        with contextlib.suppress(NotSignedError):
            image = await reader.trust.verify(f"{gun}:{path}")
            found[path] = image.digest.hex
    return found


async def test_what_a_thief_released_goes_where_other_signers_still_release(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    """A signer's key signs the release of all signers in a Notary GUN."""
    async with Person(server.url, tmp_path / "owner") as owner:
        made = await owner.publisher.init(gun, dialect=NOTARY)
    async with (
        Person(server.url, tmp_path / "owner") as owner,
        Person(server.url, tmp_path / "alice", made.root) as alice,
        Person(server.url, tmp_path / "reader", made.root) as reader,
    ):
        key = alice.keys.generate("signer", passphrase=PASSPHRASE, keytype="ecdsa")
        bobs = owner.keys.generate("signer", passphrase=PASSPHRASE, keytype="ecdsa")
        await owner.publisher.add_signer(gun, "alice", [key.key])
        await owner.publisher.add_signer(gun, "bob", [bobs.key])
        for target in ("1", "2", "3"):
            await alice.sign(gun, target)
        await owner.sign(gun, "b")
        before = await released(reader, gun)
        since = datetime.now(UTC)
        await asyncio.sleep(0.01)
        for target in ("2", "5"):
            await alice.sign(gun, target, "evil")
        # Bob's tag by the release alone, and a tag of bob's own.
        evil = Digest.of(b"evil")
        await alice.publisher.sign(gun, "b", evil, 1, role="targets/releases")
        await alice.publisher.revoke(gun, "3", role="targets/releases")
        await owner.sign(gun, "b2")
        now = await released(reader, gun)
        assert [path for path in now if now[path] == evil.hex] == ["2", "5", "b"]
        found = await owner.publisher.signed_since(gun, "alice", since)
        assert {doubt.target: doubt.since for doubt in found} == {
            "1": "kept",
            "2": "changed",
            "3": "removed",
            "5": "added",
            "b": "changed",
            "b2": "added",
        }
        await alice.sign(gun, "late", "evil")
        with pytest.raises(UsageError, match="signed again"):
            await owner.publisher.take_over(gun, "alice", found, ["b2"])
        found = await owner.publisher.signed_since(gun, "alice", since)
        await owner.publisher.take_over(gun, "alice", found, ["b2"])
        del before["3"]
        assert await released(reader, gun) == before | {"b2": now["b2"]}
        with pytest.raises((KeyStoreError, NotDelegatedError, UsageError)):
            await alice.sign(gun, "1", "evil")
        signers = {signer.name for signer in await owner.publisher.signers(gun)}
        assert signers == {"targets/releases", "targets/bob"}


async def test_a_history_that_cites_another_file_is_refused(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path / "owner") as owner:
        await owner.publisher.init(gun)
        key = owner.keys.generate("signer", passphrase=PASSPHRASE)
        await owner.publisher.add_signer(gun, "alice", [key.key])
        await owner.publisher.sign(gun, "1", Digest.of(b"1"), 1, role="alice")
        api = owner.publisher._api
        history = api.history

        async def lie(*args: Any, **values: Any) -> list[HistoryEntry]:
            return [
                replace(entry, metadata_sha256="0" * 64) for entry in await history(*args, **values)
            ]

        api.history = lie  # type: ignore[method-assign]
        with pytest.raises(MixAndMatchError):
            await owner.publisher.signed_since(gun, "alice", datetime.now(UTC))
        with pytest.raises(UsageError, match="no signer"):
            await owner.publisher.signed_since(gun, "targets", datetime.now(UTC))
