"""After a loss or a theft: what each drill ends in, for old readers and new ones."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pytest

from person import Person
from tabellion.cli.embedded import EmbeddedServer
from tabellion.core.dialect import NOTARY, TUF, Dialect
from tabellion.core.names import Digest
from tabellion.errors import (
    KeyStoreError,
    MixAndMatchError,
    NotDelegatedError,
    NotSignedError,
    RollbackError,
    ServerAnswerError,
    UsageError,
)
from tabellion.publish.server_api import HistoryEntry

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
        with pytest.raises(ServerAnswerError, match="can't do that now"):
            await owner.publisher.bring_back(gun)
        assert accept(server).startswith("passed over ")
        brought = await owner.publisher.bring_back(gun)
        assert brought["root"] == 2
        assert brought["targets"] > 2
        assert await reader.signed(gun) == signed
        assert await owner.publisher.bring_back(gun) == {}
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
