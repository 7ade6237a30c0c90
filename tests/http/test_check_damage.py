"""What ``tabellion-server check`` finds in old files and in sealed keys, each file read once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from securesystemslib.signer import Key, SSlibKey

from forge import target
from http_site import Site
from notary_conversion import published
from tabellion_server.keys.master import MasterKey
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.services.absences import Absent
from tabellion_server.services.checking import Finding, check_gun
from tabellion_server.services.row_checks import check_rows
from tabellion_server.storage.interface import StoredFile

OTHER = "registry.example/team/other"
Place = tuple[str, str, int]


@pytest.fixture
async def lived(site: Site) -> Site:
    """Give a site of two GUNs of four releases; one's timestamp key was rotated in between."""
    for gun in (site.gun, OTHER):
        here = Site(site.client, site.store, site.clock, gun)
        forge = await here.forge()
        forge.delegate("releases", ["*"])
        await here.publish(forge, "root", "targets", "releases")
        for version in (2, 3, 4):
            forge.targets.version = version
            forge.targets.targets[f"v{version}"] = target(b"x", f"v{version}")
            await here.publish(forge, "targets")
        if gun == site.gun:
            answer = await here.client.session.post(here.url("timestamp.key"))
            fields = await answer.json()
            forge.root.version = 2
            forge.root.revoke_key(forge.root.roles["timestamp"].keyids[0], "timestamp")
            forge.root.add_key(Key.from_dict(fields.pop("keyid"), fields), "timestamp")
            await here.publish(forge, "root")
    assert await found(site) == []
    return site


async def found(site: Site) -> list[tuple[str, str]]:
    return [
        (finding.gun, finding.problem)
        for head in await site.store.guns()
        for finding in (await check_gun(site.store, head, now=site.clock())).findings
    ]


@contextlib.contextmanager
def rows(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TRIGGER IF EXISTS metadata_is_immutable")
        yield connection
        connection.commit()


def get(connection: sqlite3.Connection, place: Place) -> bytes:
    (data,) = connection.execute(
        "SELECT data FROM metadata WHERE gun = ? AND role = ? AND version = ?", place
    ).fetchone()
    return bytes(data)


def put(connection: sqlite3.Connection, place: Place, data: bytes) -> None:
    """Write other bytes, with all that tells of them."""
    connection.execute(
        "UPDATE metadata SET data = ?, sha256 = ?, length = ?"
        " WHERE gun = ? AND role = ? AND version = ?",
        (data, hashlib.sha256(data).hexdigest(), len(data), *place),
    )


def swap(connection: sqlite3.Connection, one: Place, other: Place) -> None:
    first, second = get(connection, one), get(connection, other)
    put(connection, one, second)
    put(connection, other, first)


def altered(data: bytes) -> bytes:
    """Change what is signed, and nothing of its form."""
    document = json.loads(data)
    document["signed"]["expires"] = "2031-01-01T00:00:00Z"
    return json.dumps(document).encode()


A = Site.gun
OLD: dict[str, tuple[Callable[[sqlite3.Connection], object], set[tuple[str, str]]]] = {
    "a byte of an old snapshot flipped": (
        lambda rows: rows.execute(
            "UPDATE metadata SET data = CAST(replace(CAST(data AS TEXT), 'snapshot', 'snapshoT')"
            " AS BLOB) WHERE gun = ? AND role = 'snapshot' AND version = 2",
            (A,),
        ),
        {(A, "snapshot version 2 doesn't have its SHA-256")},
    ),
    "an old snapshot cut short": (
        lambda rows: put(rows, (A, "snapshot", 2), get(rows, (A, "snapshot", 2))[:-9]),
        {(A, "snapshot version 2 can't be read")},
    ),
    "its length told wrong": (
        lambda rows: rows.execute("UPDATE metadata SET length = 7 WHERE role = 'snapshot'"
                                  " AND version = 2 AND gun = ?", (A,)),
        {(A, "snapshot version 2 has")},
    ),
    "an old targets file altered": (
        lambda rows: put(rows, (A, "targets", 2), altered(get(rows, (A, "targets", 2)))),
        {(A, "targets version 2 isn't signed by the keys of any root")},
    ),
    "an old timestamp altered": (
        lambda rows: put(rows, (A, "timestamp", 2), altered(get(rows, (A, "timestamp", 2)))),
        {(A, "timestamp version 2 isn't signed by the keys of any root")},
    ),
    "two versions swapped": (
        lambda rows: swap(rows, (A, "targets", 1), (A, "targets", 2)),
        {
            (A, "targets version 1 says that it's version 2"),
            (A, "targets version 2 says that it's version 1"),
        },
    ),
    "two roles swapped": (
        lambda rows: swap(rows, (A, "targets", 2), (A, "snapshot", 2)),
        {(A, "targets version 2 can't be read"), (A, "snapshot version 2 can't be read")},
    ),
    "two GUNs swapped": (
        lambda rows: swap(rows, (A, "snapshot", 2), (OTHER, "snapshot", 2)),
        {
            (A, "snapshot version 2 isn't signed by the keys of any root"),
            (OTHER, "snapshot version 2 isn't signed by the keys of any root"),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", OLD)
async def test_damage_of_an_old_file_is_found_and_the_rest_goes_on_being_read(
    lived: Site, tmp_path: Path, damage: str
) -> None:
    do, expected = OLD[damage]
    with rows(tmp_path / "tabellion.db") as connection:
        do(connection)
    told = await found(lived)
    assert len(told) == len(expected), told
    for gun, words in expected:
        assert any(at == gun and words in problem for at, problem in told), told


async def test_each_file_is_read_once_and_rows_without_their_bytes(
    lived: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: Counter[Place] = Counter()
    whole = lived.store.read

    async def counted(gun: str, role: str, version: int | None = None) -> StoredFile | None:
        read[gun, role, version or 0] += 1
        return await whole(gun, role, version)

    monkeypatch.setattr(lived.store, "read", counted)
    files = 0
    for head in await lived.store.guns():
        files += (await check_gun(lived.store, head, now=lived.clock())).files
    assert await check_rows(lived.store, None)
    assert set(read.values()) == {1}
    assert len(read) == files == 30


async def test_a_key_sealed_by_another_master_key_is_damage_of_its_gun(lived: Site) -> None:
    app_keys = OnlineKeys(lived.store, MasterKey.generate())
    row = (await lived.store.online_keys(OTHER, "snapshot"))[0]
    findings = await check_rows(lived.store, app_keys)
    assert len([finding for finding in findings if finding.is_damage]) == 5
    assert {finding.gun for finding in findings} == {A, OTHER}
    (told,) = [finding.problem for finding in findings if row.keyid in finding.problem]
    assert "doesn't open with this master key" in told


async def test_a_sealed_key_that_is_not_its_public_keys_is_damage(lived: Site) -> None:
    keys = OnlineKeys(lived.store, MasterKey.generate())
    made = ed25519.Ed25519PrivateKey.generate()
    key = SSlibKey.from_crypto(made.public_key())
    await keys.import_key("new", "snapshot", key, made, created_at=lived.clock())
    other = ed25519.Ed25519PrivateKey.generate()
    second = SSlibKey.from_crypto(other.public_key())
    await keys.import_key("new", "snapshot", second, made, created_at=lived.clock())
    told = {finding.problem for finding in await check_rows(lived.store, keys)}
    assert not any(key.keyid in problem for problem in told)
    assert any(second.keyid in problem for problem in told)


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE heads SET dialect = 'xyz'", "there is no dialect 'xyz'"),
        ("UPDATE heads SET revision = 'x'", "HeadRecord.revision is 'x'"),
        ("UPDATE metadata SET stored_at = 'x'", "a value isn't of its kind"),
        ("UPDATE metadata SET data = 'x'", "targets version 1 isn't stored as bytes"),
        ("UPDATE metadata SET version = 'x'", "info.version is 'x'"),
        ("UPDATE metadata SET role = x'ff'", "info.role is b"),
    ],
)
async def test_a_value_that_no_store_gives_is_damage_of_its_gun_and_the_rest_goes_on(
    lived: Site, statement: str, problem: str
) -> None:
    of_old = " AND role = 'targets' AND version = 1" if "metadata" in statement else ""
    with rows(lived.store._path) as connection:  # type: ignore[attr-defined]
        connection.execute("PRAGMA ignore_check_constraints = 1")
        connection.execute(f"{statement} WHERE gun = ?{of_old}", (lived.gun,))
    seen = await found(lived)
    seen += [(finding.gun, finding.problem) for finding in await check_rows(lived.store, None)]
    damage = [(gun, told) for gun, told in seen if "weren't tried" not in told]
    assert any(gun == lived.gun and problem in told for gun, told in damage), damage
    assert OTHER not in {gun for gun, _ in damage}


async def told_of_all(site: Site) -> list[tuple[str, str, bool]]:
    """Check the store whole, as the command does; its master key apart."""
    findings: list[Finding] = []
    absent: dict[str, Collection[Absent]] = {}
    for head in await site.store.guns():
        checked = await check_gun(site.store, head, now=site.clock())
        findings += checked.findings
        absent[head.gun] = checked.absent
    findings += await check_rows(site.store, None, absent)
    return [
        (finding.gun, finding.problem, finding.is_damage)
        for finding in findings
        if "weren't tried" not in finding.problem
    ]


@pytest.mark.parametrize(
    ("role", "by"), [("snapshot", "timestamp version 2"), ("targets", "snapshot version 2")]
)
async def test_an_old_file_that_is_gone_is_damage(lived: Site, role: str, by: str) -> None:
    with rows(lived.store._path) as connection:  # type: ignore[attr-defined]
        connection.execute(
            "DELETE FROM metadata WHERE gun = ? AND role = ? AND version = 2", (A, role)
        )
    ((gun, problem, is_damage),) = await told_of_all(lived)
    assert (gun, is_damage) == (A, True)
    assert problem.startswith(f"{by} names {role} version 2 (SHA-256 ")
    assert problem.endswith("), which isn't there")


async def test_what_gc_let_go_is_no_damage_though_a_file_names_it(lived: Site) -> None:
    assert await lived.store.collect(A, [("snapshot", 2), ("targets", 2), ("targets", 1)])
    head = await lived.store.head(A)
    assert head is not None
    assert len((await check_gun(lived.store, head, now=lived.clock())).absent) > 1
    assert await told_of_all(lived) == []


async def test_what_a_gun_lacked_that_was_made_anew_meanwhile_is_no_damage(lived: Site) -> None:
    with rows(lived.store._path) as connection:  # type: ignore[attr-defined]
        connection.execute(
            "DELETE FROM metadata WHERE gun = ? AND role = 'snapshot' AND version = 2", (A,)
        )
    head = await lived.store.head(A)
    assert head is not None
    absent = (await check_gun(lived.store, head, now=lived.clock())).absent
    assert await lived.store.delete(A)
    site = Site(lived.client, lived.store, lived.clock, A)
    await site.publish(await site.forge(), "root", "targets")
    told = await check_rows(lived.store, None, {A: absent})
    assert not [finding for finding in told if finding.is_damage]


async def test_what_a_notary_file_names_in_vain_is_told_but_may_never_have_come(
    site: Site,
) -> None:
    gun = await published(site)
    payload = gun.targets["targets"]
    payload.version = 2
    assert (await site.post({"targets": gun.sign("targets")})).status == 200
    await site.body("timestamp.json")
    assert await told_of_all(site) == []
    with rows(site.store._path) as connection:  # type: ignore[attr-defined]
        connection.execute("DELETE FROM metadata WHERE role = 'targets' AND version = 1")
    ((gun_name, problem, is_damage),) = await told_of_all(site)
    assert (gun_name, is_damage) == (site.gun, False)
    assert "snapshot version 1 names targets (SHA-256 " in problem
