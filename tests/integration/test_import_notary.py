"""The importer's command line against real databases and the dumps that their programs make."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Delegations, Targets

from integration import engines
from notary_database import (
    BEGIN,
    PASSPHRASE,
    PASSWORD,
    NotaryRows,
    RunningDatabase,
    mariadb,
    postgresql,
)
from notary_gun import GUN, LATER, NotaryGun, new_signer, target
from tabellion.core.dialect import NOTARY
from tabellion_server.keys.master import MasterKey
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.storage.interface import Change, Head, StoredFile, TagEvent
from tabellion_server.storage.sqlite import SqliteStore

NAME = 'it\'s \\ a <1.0> \N{SNOWMAN} "name"'
VECTOR_GUNS = ("probe/b09ee482", "probe/ff2e7033")
KINDS = ("postgresql", "postgresql copy", "postgresql inserts", "mysql", "mysql text", "mysql hex")


@dataclass(frozen=True)
class Sources:
    """One content in every form: kind to what ``--server-db`` takes."""

    places: dict[str, str]
    rows: NotaryRows
    last: dict[str, bytes]


def _content() -> tuple[NotaryRows, dict[str, bytes]]:
    rows = NotaryRows()
    rows.add_vectors()
    made = NotaryGun()
    made.targets["targets"].targets[NAME] = target(b"one")
    rows.add_change(GUN, 7, "ab" * 32, "update", BEGIN - timedelta(days=9))
    rows.add_change(GUN, 0, " " * 64, "deletion", BEGIN - timedelta(days=8))
    rows.add_release(GUN, made.release(), 1)
    rows.add_key(made, GUN, "timestamp")
    rows.add_key(made, GUN, "snapshot", told=False)
    made.delegate("targets/releases")
    made.targets["targets/releases"].targets["2.0"] = target(b"two")
    made.targets["targets"].version = 2
    rows.add_release(GUN, made.release("targets", "targets/releases"), 2)
    made.targets["targets"] = Targets(3, expires=LATER, delegations=Delegations({}, {}))
    last = made.release("targets")
    rows.add_release(GUN, last, 3)
    unreachable = Targets(4, expires=LATER, delegations=Delegations({}, {}))
    rows.add_file(GUN, "targets", 4, NOTARY.sign(unreachable, made.signers["targets"]), BEGIN)
    made.signers["timestamp"].append(new_signer())
    rows.add_key(made, GUN, "timestamp", used=False)
    return rows, last


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sources]:
    rows, last = _content()
    folder = tmp_path_factory.mktemp("dumps")
    places: dict[str, str] = {}

    def dump(database: RunningDatabase, kind: str, variant: str) -> None:
        places[kind] = database.url
        for name, words in zip(variant.split(), (database.dump, database.variant), strict=True):
            places[f"{kind} {name}"] = str(database.dumped(words, folder / f"{kind}-{name}.sql"))

    with ExitStack() as stack:
        dump(stack.enter_context(postgresql(rows)), "postgresql", "copy inserts")
        dump(stack.enter_context(mariadb(rows)), "mysql", "text hex")
        yield Sources(places, rows, last)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "server.toml"
    path.write_text('[storage]\nurl = "sqlite:///store.db"\n')
    return path


def run_import(config: Path, place: str, *more: str) -> subprocess.CompletedProcess[str]:
    secrets = {"PGPASSWORD": PASSWORD, "MYSQL_PWD": PASSWORD}
    words = [sys.executable, "-m", "tabellion_server", "import-notary", "--config", str(config)]
    ran = subprocess.run(
        [*words, "--server-db", place, *more],
        env=os.environ | secrets | {"NOTARY_SIGNER_PASSALIAS1": PASSPHRASE},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    for secret in (PASSWORD, PASSPHRASE):
        assert secret not in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr
    return ran


@dataclass(frozen=True)
class Held:
    """What a store holds of a GUN."""

    head: Head | None
    files: list[StoredFile | None]
    changes: list[Change]
    events: list[TagEvent]
    keyids: dict[str, list[str]]


def held(config: Path, rows: NotaryRows, gun: str) -> Held:
    async def read() -> Held:
        store = await SqliteStore.open(config.parent / "store.db")
        try:
            wanted = [(row["role"], row["version"]) for row in rows.tuf_files if row["gun"] == gun]
            keyids = {
                role: [row.keyid for row in await store.online_keys(gun, role)]
                for role in ("timestamp", "snapshot")
            }
            return Held(
                await store.head(gun),
                [await store.read(gun, *place) for place in wanted],
                await store.changes(gun, after=0, limit=100),
                await store.events(gun),
                keyids,
            )
        finally:
            await store.close()

    return asyncio.run(read())


@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_imported_byte_for_byte(sources: Sources, config: Path, kind: str) -> None:
    place = sources.places[kind]
    ran = run_import(config, place, "--signer-db", place)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 imported, 1 repaired" in ran.stdout
    assert "targets version 4 left out: above version 3" in ran.stdout
    for gun in VECTOR_GUNS:
        found = held(config, sources.rows, gun)
        expected = [row["data"] for row in sources.rows.tuf_files if row["gun"] == gun]
        assert [file.data if file else None for file in found.files] == expected
    found = held(config, sources.rows, GUN)
    rows = [row for row in sources.rows.tuf_files if row["gun"] == GUN]
    assert [file and (file.data, file.stored_at) for file in found.files[:-1]] == [
        (row["data"], row["created_at"]) for row in rows[:-1]
    ]
    assert found.files[-1] is None
    assert found.head is not None
    # Notary's own snapshots go on naming a delegation that was removed.
    versions = {role: ref.version for role, ref in found.head.files.items()}
    assert versions == {
        "root": 1,
        "targets": 3,
        "targets/releases": 1,
        "snapshot": 3,
        "timestamp": 3,
    }
    feed = [row for row in sources.rows.changefeed if row["gun"] == GUN]
    assert [(item.version, item.sha256, item.category, item.at) for item in found.changes] == [
        (row["version"], row["sha256"].strip(), row["category"], row["created_at"]) for row in feed
    ]
    assert [(event.kind, event.target) for event in reversed(found.events)] == [
        *(("signed", NAME), ("signed", "2.0"), ("revoked", NAME), ("revoked", "2.0"))
    ]
    keys = [row for row in sources.rows.private_keys if row["last_used"] is None]
    assert found.keyids["timestamp"][0] == keys[-1]["key_id"]
    assert [len(found.keyids[role]) for role in ("timestamp", "snapshot")] == [2, 1]


def test_imported_keys_sign_what_clients_of_the_old_root_accept(
    sources: Sources, config: Path
) -> None:
    place = sources.places["postgresql copy"]
    assert run_import(config, place, "--signer-db", place, "--gun", GUN).returncode == 0

    async def sign() -> bytes:
        store = await SqliteStore.open(config.parent / "store.db")
        try:
            master = MasterKey.load_or_create(config.parent / "master.key", create=False)
            timestamp = NOTARY.parse("timestamp", sources.last["timestamp"], max_bytes=10_000)
            timestamp.signed.version += 1
            root = NOTARY.parse("root", sources.last["root"], max_bytes=100_000).signed
            keyids = root.roles["timestamp"].keyids  # type: ignore[attr-defined]
            keys = OnlineKeys(store, master)
            return await keys.sign(GUN, "timestamp", keyids, timestamp.signed, NOTARY)
        finally:
            await store.close()

    trusted = NotaryGun()
    trusted.files = dict(sources.last)
    assert trusted.trusted().update_timestamp(asyncio.run(sign()))


def test_second_run_changes_nothing(sources: Sources, config: Path) -> None:
    place = sources.places["mysql"]
    assert run_import(config, place, "--signer-db", place).returncode == 0
    before = held(config, sources.rows, GUN)
    ran = run_import(config, sources.places["postgresql"], "--signer-db", place)
    assert ran.returncode == 0
    assert "3 unchanged" in ran.stdout
    assert held(config, sources.rows, GUN) == before


def test_dry_run_says_the_same_and_writes_nothing(sources: Sources, config: Path) -> None:
    place = sources.places["mysql hex"]
    ran = run_import(config, place, "--signer-db", place, "--dry-run")
    assert ran.returncode == 0
    assert "nothing was written: 2 imported, 1 repaired" in ran.stdout
    assert [item.name for item in config.parent.iterdir()] == ["server.toml"]


def test_only_guns_like_the_pattern_are_imported(sources: Sources, config: Path) -> None:
    ran = run_import(config, sources.places["mysql text"], "--gun", "probe/b*")
    assert ran.returncode == 0
    assert "no timestamp key" in re.sub(r"\s+", " ", ran.stdout)
    assert held(config, sources.rows, VECTOR_GUNS[0]).head is not None
    assert held(config, sources.rows, GUN).head is None


def test_wrong_password_is_told_without_the_address_secret(sources: Sources, config: Path) -> None:
    for kind in ("postgresql", "mysql"):
        place = sources.places[kind].replace("notary@", "notary:hidden-4711@")
        ran = run_import(config, place)
        assert ran.returncode == 2
        assert "can't connect to" in ran.stderr
        assert "hidden-4711" not in ran.stdout + ran.stderr
        assert re.search("password|Access denied", ran.stderr.replace("MYSQL_PWD", "")), ran.stderr
        assert not (config.parent / "store.db").exists()


def test_why_there_is_no_connection_is_told(sources: Sources, config: Path) -> None:
    for kind, wanted in (("postgresql", "does not exist"), ("mysql", "Unknown database|denied")):
        address, _, _ = sources.places[kind].partition("?")
        absent = run_import(config, address.rpartition("/")[0] + "/absent")
        assert absent.returncode == 2
        assert re.search(wanted, re.sub(r"\s+", " ", absent.stderr)), absent.stderr
    refused = run_import(config, f"postgresql://reader@127.0.0.1:{engines.free_port()}/server")
    assert "refused" in refused.stderr


def test_missing_passphrase_stops_before_anything_is_written(
    sources: Sources, config: Path
) -> None:
    place = sources.places["postgresql copy"]
    more = ("--signer-db", place, "--passphrase-env", "passalias1=NO_SUCH_VARIABLE")
    ran = run_import(config, place, *more)
    assert ran.returncode == 2
    assert "no passphrase for signer keys of alias passalias1" in ran.stderr
    assert "NOTARY_SIGNER_PASSALIAS1" in ran.stderr


def test_dump_cut_within_a_table_is_refused(sources: Sources, config: Path) -> None:
    for kind in ("postgresql copy", "mysql hex", "mysql text", "postgresql inserts"):
        text = Path(sources.places[kind]).read_bytes()
        mark = b'"signatures' if kind == "mysql text" else b"7B227369676E6564"
        (config.parent / "cut.sql").write_bytes(text[: text.upper().rindex(mark.upper()) + 200])
        ran = run_import(config, str(config.parent / "cut.sql"))
        assert ran.returncode == 2, (kind, ran.stderr)
        assert "cut.sql: line" in ran.stderr
        assert not (config.parent / "store.db").exists()
