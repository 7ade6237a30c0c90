from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from notary_database import ALIAS, BEGIN, PASSPHRASE, NotaryRows
from notary_gun import GUN, NOW, NotaryGun, target
from tabellion.core.dialect import NOTARY
from tabellion.errors import ConfigurationError, PassphraseError
from tabellion_server.keys.master import MasterKey
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.migration.importing import Importer, Outcome, Status, Target
from tabellion_server.migration.sources import open_source, shown
from tabellion_server.storage.interface import StoredFile
from tabellion_server.storage.sqlite import SqliteStore

TABLES = ("tuf_files", "changefeed", "private_keys")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "store.db")
    yield store
    await store.close()


def copy_text(value: Any) -> str:
    if value is None:
        return "\\N"
    if isinstance(value, bytes):
        return "\\\\x" + value.hex()
    return value.isoformat(" ") if isinstance(value, datetime) else str(value)


def dump(rows: NotaryRows, path: Path) -> Path:
    lines: list[str] = []
    for table, items in rows.tables():
        names = ["id", "deleted_at", *dict.fromkeys(name for item in items for name in item)]
        lines.append(f"COPY public.{table} ({', '.join(names)}) FROM stdin;")
        for number, item in enumerate(items, 1):
            full = {"id": number, **item}
            lines.append("\t".join(copy_text(full.get(name)) for name in names))
        lines += ["\\.", ""]
    path.write_text("\n".join(lines))
    return path


async def run(
    rows: NotaryRows, store: SqliteStore, folder: Path, *, passphrase: str = PASSPHRASE
) -> list[Outcome]:
    source = open_source(str(dump(rows, folder / "dump.sql")), TABLES)
    try:
        importer = Importer(
            source,
            Target(store, OnlineKeys(store, MasterKey(bytes(range(32))))),
            signer_keys=source.signer_keys(),
            passphrases={ALIAS: passphrase},
            clock=lambda: NOW,
        )
        return [outcome async for outcome in importer.run(source.guns())]
    finally:
        source.close()


def one_gun() -> tuple[NotaryRows, NotaryGun]:
    rows, made = NotaryRows(), NotaryGun()
    rows.add_release(GUN, made.release(), 1)
    rows.add_key(made, GUN, "timestamp")
    return rows, made


def publish(rows: NotaryRows, made: NotaryGun, version: int, *, name: str = "1") -> None:
    made.targets["targets"].version = version
    made.targets["targets"].targets[name] = target(name.encode())
    rows.add_release(GUN, made.release("targets"), version)


async def test_what_the_old_server_got_since_comes_with_the_next_run(
    store: SqliteStore, tmp_path: Path
) -> None:
    rows, made = one_gun()
    await run(rows, store, tmp_path)
    publish(rows, made, 2)
    (outcome,) = await run(rows, store, tmp_path)
    assert (outcome.status, outcome.files, outcome.keys) == (Status.IMPORTED, 3, 0)
    changes = await store.changes(GUN, after=0, limit=10)
    assert [(item.version, item.at) for item in changes] == [
        (row["version"], row["created_at"]) for row in rows.changefeed
    ]
    assert [event.target for event in await store.events(GUN)] == ["1"]


async def test_gun_published_to_on_both_servers_is_refused_and_stays_as_it_is_here(
    store: SqliteStore, tmp_path: Path
) -> None:
    rows, made = one_gun()
    await run(rows, store, tmp_path)
    here = NotaryRows()
    publish(here, made, 2, name="here")
    await store.commit(
        GUN,
        dialect=NOTARY.name,
        expected_revision=1,
        added=[
            StoredFile.of(r["role"], 2, r["data"], stored_at=NOW)
            for r in here.tuf_files
            if r["version"] == 2
        ],
        at=NOW,
    )
    before = (await store.head(GUN), await store.changes(GUN, after=0, limit=10))
    (unchanged,) = await run(rows, store, tmp_path)
    assert unchanged.status is Status.UNCHANGED
    made.files = {row["role"]: row["data"] for row in rows.tuf_files}
    made.targets["targets"].targets.clear()
    publish(rows, made, 2, name="there")
    (refused,) = await run(rows, store, tmp_path)
    assert refused.status is Status.REFUSED
    assert "targets version 2" in refused.remarks[0]
    assert (await store.head(GUN), await store.changes(GUN, after=0, limit=10)) == before


async def test_broken_gun_is_refused_and_the_others_are_imported(
    store: SqliteStore, tmp_path: Path
) -> None:
    rows, _ = one_gun()
    rows.add_vectors()
    rows.private_keys = []
    broken = next(row for row in rows.tuf_files if row["role"] == "targets" and row["gun"] == GUN)
    broken["data"] += b"\n"
    rows.add_file("bad gun", "root", 1, b"{}", BEGIN)
    outcomes = {item.gun: item for item in await run(rows, store, tmp_path)}
    assert [outcomes[gun].status for gun in (GUN, "bad gun")] == [Status.REFUSED] * 2
    assert "no stored bytes have" in " ".join(outcomes[GUN].remarks)
    assert sorted(head.gun for head in await store.guns()) == ["probe/b09ee482", "probe/ff2e7033"]


async def test_wrong_passphrase_refuses_the_gun_and_writes_nothing(
    store: SqliteStore, tmp_path: Path
) -> None:
    rows, _ = one_gun()
    (outcome,) = await run(rows, store, tmp_path, passphrase="wrong")
    assert outcome.status is Status.REFUSED
    assert "passphrase" in outcome.remarks[0]
    assert await store.head(GUN) is None
    assert await store.online_keys(GUN, "timestamp") == []


async def test_damaged_key_does_not_keep_the_gun_away(store: SqliteStore, tmp_path: Path) -> None:
    rows, _ = one_gun()
    rows.private_keys[0]["private"] = b"not.a.jwe"
    (outcome,) = await run(rows, store, tmp_path)
    assert (outcome.status, outcome.keys) == (Status.IMPORTED, 0)
    assert "is damaged" in outcome.remarks[0]
    assert "no timestamp key" in outcome.remarks[1]


async def test_key_of_another_gun_is_not_taken(store: SqliteStore, tmp_path: Path) -> None:
    rows, _ = one_gun()
    rows.private_keys[0]["gun"] = "registry.example/other"
    (outcome,) = await run(rows, store, tmp_path)
    assert outcome.keys == 0
    assert await store.online_keys(GUN, "timestamp") == []


async def test_alias_without_passphrase_stops_all(store: SqliteStore, tmp_path: Path) -> None:
    rows, _ = one_gun()
    rows.private_keys[0]["passphrase_alias"] = "older"
    with pytest.raises(PassphraseError, match="older"):
        await run(rows, store, tmp_path)
    assert await store.guns() == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"PGDMP\x01", "no dump in plain SQL"),
        (b"\x1f\x8b\x08", "no dump in plain SQL"),
        (b"SELECT 1;\n", "has no table"),
        (b"COPY public.tuf_files (id, gun) FROM stdin;\n1\ta\tb\n\\.\n", "holds no row"),
        (b"COPY public.tuf_files (id, gun) FROM stdin;\n1\ta\n", "within the rows"),
        (b"COPY public.tuf_files (id, data) FROM stdin;\n1\t\\\\xzz\n\\.\n", "holds no row"),
        (b"INSERT INTO `tuf_files` (`id`) VALUES (1),;\n", "can't be read"),
        (b"INSERT INTO `tuf_files` (`gun`) VALUES ('a\\'", "without an end"),
        (b"INSERT INTO tuf_files (gun) VALUES (now());\n", "can't be read"),
        (b"INSERT INTO tuf_files (id) VALUES ('one');\n", "holds no row"),
    ],
)
def test_file_that_is_no_sound_dump_is_refused(tmp_path: Path, text: bytes, why: str) -> None:
    path = tmp_path / "dump.sql"
    path.write_bytes(text)
    with pytest.raises(ConfigurationError, match=why):
        open_source(str(path), TABLES)


def test_address_is_shown_without_secrets() -> None:
    assert shown("mysql://u:p4ss@h:1/db?password=p4ss") == "mysql://u@h:1/db"
    assert shown("postgresql://u:p@ss@h/db") == "postgresql://u@h/db"
    assert "p4ss" not in shown("mysql://u:p4ss@[h/db")
