"""``tabellion-server backup``, ``restore``, ``check`` and ``gc``, as an operator runs them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import sqlite3
import stat
import sys
from pathlib import Path

import aiohttp
import pytest
import redis

from forge import Forge, target
from http_site import dump, signed
from server_process import CONFIG, GUN, forge_for, post, server, verified
from tabellion.verify.client import TrustClient
from valkey_servers import ValkeyServer


async def run(folder: Path, *words: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tabellion_server", *words),
        *("--config", str(folder / "server.toml")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert b"Traceback" not in output, output.decode()
    return process.returncode or 0, output.decode()


async def publish(url: str, forge: Forge | None = None, *, count: int = 3) -> Forge:
    base = f"{url}/v2/{GUN}/_trust/tuf/"
    async with aiohttp.ClientSession() as session:
        if forge is None:
            forge = await forge_for(session, base)
            assert await post(session, base, signed(forge, "root", "targets")) == 200
        for _ in range(count):
            forge.targets.version += 1
            name = f"v{forge.targets.version}"
            forge.targets.targets[name] = target(b"x", name)
            assert await post(session, base, signed(forge, "targets")) == 200
    return forge


def alter(path: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TRIGGER IF EXISTS metadata_is_immutable")
        connection.execute(statement)
        connection.commit()


@pytest.fixture
async def home(tmp_path: Path) -> Path:
    """Give a server's folder with a GUN of four versions; the server has ended."""
    folder = tmp_path / "home"
    folder.mkdir()
    async with server(folder, CONFIG) as running:
        await publish(running.url)
        running.process.terminate()
        await running.process.wait()
    return folder


async def test_a_backup_of_a_server_at_work_is_restored_elsewhere_and_goes_on(
    tmp_path: Path,
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        (folder / "server.toml").write_text(CONFIG)
    file = tmp_path / "backup.db"
    async with server(first, CONFIG) as running:
        forge = await publish(running.url)
        status, told = await run(first, "backup", str(file))
        assert (status, "1 GUN, 13 files" in told) == (0, True), told
        await publish(running.url, forge)
        running.process.terminate()
        await running.process.wait()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(item.name for item in tmp_path.iterdir()) == ["backup.db", "first", "second"]
    held = dump(file)

    # On the machine it came from, the mark knows of what is lost.
    shutil.rmtree(first / "store")
    status, told = await run(first, "restore", str(file))
    assert status == 0
    assert "accept-restore" in told
    # On a new one it's whole.
    shutil.copy(first / "master.key", second)
    status, told = await run(second, "restore", str(file))
    assert (status, "accept-restore" in told) == (0, False), told
    assert dump(file) == held
    status, told = await run(second, "check")
    assert (status, "none damaged" in told) == (0, True), told
    async with server(second, CONFIG) as running, aiohttp.ClientSession() as session:
        base = f"{running.url}/v2/{GUN}/_trust/tuf/"
        assert await verified(session, base, forge) == {"v2", "v3", "v4"}
        forge.targets.version = 4
        await publish(running.url, forge)
        assert len(await verified(session, base, forge)) == 6


async def test_a_backup_never_takes_the_place_of_a_file(home: Path) -> None:
    file = home / "notes.txt"
    file.write_text("mine")
    status, told = await run(home, "backup", str(file))
    assert (status, "is there already" in told) == (2, True), told
    assert file.read_text() == "mine"


async def test_of_two_backups_to_one_name_one_is_whole_and_one_is_told(
    home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "backups" / "backup.db"
    file.parent.mkdir()
    found = await asyncio.gather(*(run(home, "backup", str(file)) for _ in range(2)))
    assert sorted(status for status, _ in found) in ([0, 2], [0, 3]), found
    assert sorted(dump(file)) == sorted(dump(home / "store/tabellion.db"))
    assert [item.name for item in file.parent.iterdir()] == ["backup.db"]


async def test_only_an_empty_store_is_restored_into(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "backup.db"
    assert (await run(home, "backup", str(file)))[0] == 0
    before = dump(home / "store/tabellion.db")
    status, told = await run(home, "restore", str(file))
    assert (status, "isn't empty" in told) == (3, True), told
    assert dump(home / "store/tabellion.db") == before


@pytest.mark.parametrize("content", [b"", b"no store", b"SQLite format 3\0" + b"x" * 100])
async def test_what_is_no_backup_is_refused(home: Path, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "backup.db"
    file.write_bytes(content)
    shutil.rmtree(home / "store")
    status, told = await run(home, "restore", str(file))
    assert status == 2, told
    assert str(file) in told
    assert not (home / "store").exists()
    assert file.read_bytes() == content


@pytest.mark.parametrize("verb", ["backup x.db", "check", "gc"])
async def test_a_store_that_is_not_there_is_not_made(tmp_path: Path, verb: str) -> None:
    (tmp_path / "server.toml").write_text(CONFIG)
    status, told = await run(tmp_path, *verb.split())
    assert (status, "there is no store" in told) == (2, True), told
    assert not (tmp_path / "store").exists()


DAMAGES = {
    "bytes": ("UPDATE metadata SET data = x'00' WHERE role = 'targets' AND version = 2", "SHA-256"),
    "missing": (
        "UPDATE current SET version = 99 WHERE role = 'targets'",
        "",
    ),
    "root gone": ("DELETE FROM metadata WHERE role = 'root'", "root"),
    "older": ("UPDATE current SET version = 1 WHERE role = 'targets'", "targets"),
    "no head": ("DELETE FROM heads", "isn't listed"),
    "all older": ("UPDATE current SET version = version - 1 WHERE version > 1", "is current, but"),
    "feed": ("UPDATE changes SET version = 99", "changefeed"),
    "mixed": ("UPDATE current SET version = 2 WHERE role = 'snapshot'", "snapshot"),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_damage_is_found_and_named(home: Path, damage: str) -> None:
    statement, named = DAMAGES[damage]
    status, told = await run(home, "check")
    assert (status, told.endswith("none damaged\n")) == (0, True), told
    alter(home / "store/tabellion.db", statement)
    status, told = await run(home, "check")
    assert status == 1, told
    assert re.search(rf"DAMAGED ({GUN}|the store): .*{named}", told), told
    assert "1 damaged" in told
    assert not re.search(rf"DAMAGED {GUN}: {GUN}", told), told


async def test_each_key_that_does_not_open_is_named(home: Path) -> None:
    store, key = home / "store/tabellion.db", home / "master.key"
    kept = key.read_bytes()
    # A key told as another one: it opens, and signs what nobody can verify.
    with contextlib.closing(sqlite3.connect(store)) as connection:
        rows = connection.execute("SELECT role, keyid, public FROM online_keys").fetchall()
        held = {role: (keyid, public) for role, keyid, public in rows}
        keyid, public = held["timestamp"]
        told_as = json.dumps({**json.loads(held["snapshot"][1]), "keyid": keyid})
    change = "UPDATE online_keys SET public = '{}' WHERE role = 'timestamp'"
    alter(store, change.format(told_as))
    status, told = await run(home, "check")
    assert (status, f"DAMAGED {GUN}: online timestamp key {keyid}: " in told) == (1, True), told
    alter(store, change.format(public))
    key.write_text("A" * 43 + "=\n")
    status, told = await run(home, "check")
    assert (status, told.count("doesn't open with this master key")) == (1, 2), told
    key.unlink()
    status, told = await run(home, "check")
    assert (status, "note the store: master key file" in told) == (0, True), told
    assert "2 online keys weren't tried" in told
    key.write_bytes(kept)
    key.chmod(0o600)
    assert (await run(home, "check"))[0] == 0


async def test_a_damaged_store_gives_no_backup(home: Path, tmp_path: Path) -> None:
    alter(home / "store/tabellion.db", DAMAGES["bytes"][0])
    status, told = await run(home, "backup", str(tmp_path / "backup.db"))
    assert (status, "doesn't have its SHA-256" in told) == (3, True), told
    assert not list(tmp_path.glob("backup*"))


async def test_a_backup_makes_no_folder(home: Path, tmp_path: Path) -> None:
    status, told = await run(home, "backup", str(tmp_path / "mistyped/backup.db"))
    assert (status, "there is no folder" in told) == (2, True), told
    assert not (tmp_path / "mistyped").exists()


async def test_migrate_makes_no_store(tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text(CONFIG)
    status, told = await run(tmp_path, "migrate")
    assert (status, "there is no store" in told) == (0, True), told
    assert not (tmp_path / "store").exists()


async def test_gc_tells_first_and_then_does(tmp_path: Path) -> None:
    text = CONFIG + '[expiry]\ntimestamp = "1s"\nsnapshot = "1s"\n'
    store = tmp_path / "store/tabellion.db"
    async with server(tmp_path, text) as running:
        forge = await publish(running.url, count=5)
        root = forge.sign("root", forge.root)
        await asyncio.sleep(2.5)
        async with TrustClient(running.url, home=tmp_path / "cold", root=root) as client:
            assert len(await client.targets(GUN)) == 5  # renews what expired
        running.process.terminate()
        await running.process.wait()
    held = dump(store)
    status, told = await run(tmp_path, "gc")
    assert (status, "let go: 0 files" in told) == (0, True), told
    await asyncio.sleep(2.5)
    status, told = await run(tmp_path, "gc", "--dry-run", "--margin", "1s", "--signed-margin", "1s")
    would = re.search(r"would go: ([0-9]+) files", told)
    assert status == 0
    assert would is not None
    assert int(would[1]) >= 10
    assert dump(store) == held
    status, told = await run(tmp_path, "gc", "--margin", "1s", "--signed-margin", "1s")
    assert (status, f"let go: {would[1]} files" in told) == (0, True), told
    assert (await run(tmp_path, "check"))[0] == 0
    async with (
        server(tmp_path, text) as running,
        TrustClient(running.url, home=tmp_path / "cold2", root=root) as client,
    ):
        assert len(await client.targets(GUN)) == 5
    status, told = await run(tmp_path, "gc", "--margin", "soon")
    assert (status, "--margin" in told) == (2, True), told


async def test_a_store_whose_server_was_killed_is_restored_with_all_that_was_acknowledged(
    tmp_path: Path,
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        (folder / "server.toml").write_text(CONFIG)
    async with server(first, CONFIG) as running:
        await publish(running.url)
        # Of one that runs, too.
        status, told = await run(second, "restore", str(first / "store/tabellion.db"))
        assert (status, "13 files" in told) == (0, True), told
        shutil.rmtree(second / "store")
        (second / "high-water.json").unlink(missing_ok=True)
        running.process.kill()
        await running.process.wait()
    assert (first / "store/tabellion.db-wal").stat().st_size
    status, told = await run(second, "restore", str(first / "store/tabellion.db"))
    assert (status, "13 files" in told) == (0, True), told


async def test_a_store_that_a_server_has_open_is_not_restored_into(
    home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "backup.db"
    assert (await run(home, "backup", str(file)))[0] == 0
    busy = tmp_path / "busy"
    busy.mkdir()
    async with server(busy, CONFIG) as running:
        status, told = await run(busy, "restore", str(file))
        assert (status, "is open" in told) == (3, True), told
        await publish(running.url)
        running.process.terminate()
        await running.process.wait()
    status, told = await run(busy, "check")
    assert (status, "1 GUN, 13 files" in told) == (0, True), told


async def test_a_damaged_backup_is_refused_in_words(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "backup.db"
    assert (await run(home, "backup", str(file)))[0] == 0
    alter(file, "UPDATE metadata SET stored_at = 'soon'")
    shutil.rmtree(home / "store")
    status, told = await run(home, "restore", str(file))
    assert (status, "is damaged" in told) == (3, True), told


async def test_a_copy_that_a_killed_restore_left_goes_with_the_next(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, temporary = tmp_path / "backup", tmp_path / "tmp"
    assert (await run(home, "backup", str(file)))[0] == 0
    for name in ("left", "used"):
        (temporary / f"tabellion-restore-{name}").mkdir(parents=True)
        (temporary / f"tabellion-restore-{name}" / "store.db").write_bytes(b"keys")
    monkeypatch.setenv("TMPDIR", str(temporary))
    used = os.open(temporary / "tabellion-restore-used", os.O_RDONLY)
    fcntl.flock(used, fcntl.LOCK_EX)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "server.toml").write_text(CONFIG)
    assert (await run(elsewhere, "restore", str(file)))[0] == 0
    assert [path.name for path in temporary.iterdir()] == ["tabellion-restore-used"]
    os.close(used)


@pytest.mark.parametrize("which", ["old", "current"])
async def test_a_file_that_redis_lost_is_damage_and_a_backup_points_to_check(
    valkey_server: ValkeyServer, tmp_path: Path, which: str
) -> None:
    prefix = secrets.token_hex(6)
    url = f"{valkey_server.url}?prefix={prefix}"
    (tmp_path / "master.key").write_text("A" * 43 + "=")
    (tmp_path / "master.key").chmod(0o600)
    async with server(tmp_path, CONFIG.replace("sqlite:///store/tabellion.db", url)) as running:
        await publish(running.url)
    version = {"old": 2, "current": 4}[which]
    with redis.Redis(port=valkey_server.port) as client:
        (blob,) = client.keys(f"{prefix}*:file:{version}:targets")
        assert client.delete(blob)
    status, told = await run(tmp_path, "check")
    problem = f"targets version {version} is listed, but has no bytes"
    assert (status, told.count("DAMAGED"), problem in told) == (1, 1, True), told
    status, told = await run(tmp_path, "backup", str(tmp_path / "backup.db"))
    assert (status, problem in told, "tabellion-server check" in told) == (3, True, True), told
