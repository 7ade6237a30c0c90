from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

import pytest
from tuf.api.metadata import Delegations, Targets

from notary_gun import GUN, LATER, NOW, NotaryGun, certified, new_signer, target
from tabellion.core.dialect import NOTARY
from tabellion.errors import MixAndMatchError, VerificationError
from tabellion_server.migration.chain import Resolved, resolve
from tabellion_server.migration.rows import FileRow


class Table:
    """A GUN's rows, as releases add to them."""

    def __init__(self) -> None:
        self.made = NotaryGun()
        self.rows: list[FileRow] = []
        self.at = NOW
        self.made.targets["targets"].targets["1"] = target(b"1")
        self.add(self.made.release())

    def add(self, files: dict[str, bytes]) -> None:
        self.at += timedelta(minutes=1)
        known = {(row.role, row.version) for row in self.rows}
        for role, data in files.items():
            version = NOTARY.parse(role, data, max_bytes=len(data)).signed.version
            if (role, version) not in known:
                self.rows.append(row_of(role, version, data, self.at))

    def release(self, version: int) -> None:
        self.made.targets["targets"].version = version
        self.made.targets["targets"].targets[str(version)] = target(str(version).encode())
        self.add(self.made.release("targets"))

    def replace(self, role: str, version: int, data: bytes) -> None:
        self.rows = [
            row_of(role, version, data, row.created_at)
            if (row.role, row.version) == (role, version)
            else row
            for row in self.rows
        ]

    def data(self, role: str, version: int) -> bytes:
        return next(row.data for row in self.rows if (row.role, row.version) == (role, version))

    def resolve(self, *, now: datetime = NOW) -> Resolved:
        return resolve(GUN, self.rows, now=now)


def row_of(role: str, version: int, data: bytes, at: datetime) -> FileRow:
    return FileRow(role, version, hashlib.sha256(data).hexdigest(), data, at)


@pytest.fixture
def table() -> Table:
    return Table()


def test_all_versions_of_a_sound_gun_are_kept_without_a_word(table: Table) -> None:
    table.release(2)
    found = table.resolve()
    assert (found.repairs, found.notes, found.removed_heads) == ([], [], [])
    assert {(file.role, file.version, file.data) for file in found.files} == {
        (row.role, row.version, row.data) for row in table.rows
    }
    assert [version for version, _ in found.history] == [1, 2]


def test_snapshot_over_other_bytes_than_stored_is_repaired_by_the_timestamp_before(
    table: Table,
) -> None:
    table.release(2)
    table.replace("targets", 2, table.data("targets", 2) + b"\n")  # trap T1
    found = table.resolve()
    assert found.heads == {"root": 1, "targets": 1, "snapshot": 1, "timestamp": 1}
    assert "snapshot version 2 names targets with SHA-256" in found.repairs[0]
    assert {file.version for file in found.files} == {1}
    assert [version for version, _ in found.history] == [1]


def test_gun_broken_from_its_first_release_is_refused_with_why(table: Table) -> None:
    table.replace("targets", 1, table.data("targets", 1) + b"\n")
    with pytest.raises(MixAndMatchError, match=r"names targets .* no stored bytes have"):
        table.resolve()


def test_rows_above_what_is_reachable_are_left_out(table: Table) -> None:
    stray = Targets(9, expires=LATER, delegations=Delegations({}, {}))
    table.add({"targets": NOTARY.sign(stray, table.made.signers["targets"])})
    found = table.resolve()
    assert found.heads["targets"] == 1
    assert found.repairs == ["targets version 9 left out: above version 1, which is current"]


def test_roots_are_followed_one_by_one(table: Table) -> None:
    table.made.root.version = 2
    table.made.signers["root"].append(certified())
    table.made.root.revoke_key(table.made.signers["root"][0].public_key.keyid, "root")
    table.made.root.add_key(table.made.signers["root"][1].public_key, "root")
    old = table.made.signers["root"][0].public_key
    table.made.root.keys[old.keyid] = old
    table.add(table.made.release("root"))
    assert [root.version for root in table.resolve().roots] == [1, 2]


def test_root_that_the_one_before_did_not_sign_is_not_served(table: Table) -> None:
    table.made.root.version = 2
    table.made.signers["root"] = [certified()]
    table.made.root.roles["root"].keyids = []
    table.made.root.add_key(table.made.signers["root"][0].public_key, "root")
    table.add(table.made.release("root"))
    found = table.resolve()
    assert found.heads["root"] == 1
    assert "root version 2 can't be trusted" in found.repairs[0]


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_file_signed_by_a_stranger_is_not_served(table: Table, role: str) -> None:
    table.made.signers[role] = [new_signer()]
    table.release(2)
    found = table.resolve()
    assert found.heads["timestamp"] == 1
    assert "broken" in found.repairs[0]


def test_delegation_without_enough_signatures_is_kept_and_told(table: Table) -> None:
    table.made.delegate("targets/releases")
    table.made.signers["targets/releases"] = [new_signer()]
    table.made.targets["targets"].version = 2
    table.add(table.made.release("targets", "targets/releases"))
    found = table.resolve()
    assert found.heads["targets/releases"] == 1
    assert "clients pass over targets/releases" in found.notes[0]


def test_delegation_whose_bytes_are_gone_breaks_the_release(table: Table) -> None:
    table.made.delegate("targets/releases")
    table.made.targets["targets"].version = 2
    table.add(table.made.release("targets", "targets/releases"))
    table.rows = [row for row in table.rows if row.role != "targets/releases"]
    found = table.resolve()
    assert found.heads["timestamp"] == 1
    assert "names targets/releases with SHA-256" in found.repairs[0]


def test_expiry_of_files_and_certificate_is_told_and_not_judged(table: Table) -> None:
    found = table.resolve(now=NOW + timedelta(days=4000))
    assert found.heads["timestamp"] == 1
    assert len(found.notes) == 5
    assert "the certificate of root version 1 expired" in found.notes[-1]


@pytest.mark.parametrize(
    ("role", "version", "why"),
    [
        ("targets/UPPER", 1, "no name of a role"),
        ("targets/../x", 1, "no name of a role"),
        ("root", 5, "the file itself says version 1"),
        ("snapshot", 7, "malformed|expected type"),
    ],
)
def test_row_that_is_not_what_its_columns_say_is_left_out(
    table: Table, role: str, version: int, why: str
) -> None:
    table.rows.append(row_of(role, version, table.data("root", 1), NOW))
    found = table.resolve()
    assert len(found.files) == 4
    assert any(f"{role} version {version} left out" in item for item in found.repairs)
    assert any(part in item for item in found.repairs for part in why.split("|"))


def test_row_with_another_hash_than_its_bytes_is_left_out(table: Table) -> None:
    bad = row_of("timestamp", 2, table.data("timestamp", 1), NOW)
    table.rows.append(FileRow("timestamp", 1, "00" * 32, bad.data, NOW))
    assert "don't have the SHA-256" in table.resolve().repairs[0]


def test_oversized_row_is_left_out_unparsed(table: Table) -> None:
    table.rows.append(row_of("timestamp", 2, b"[" * 20_000, NOW))
    assert "timestamp version 2 left out" in table.resolve().repairs[0]


def test_root_for_another_gun_is_refused(table: Table) -> None:
    with pytest.raises(VerificationError, match="certificates for other/gun"):
        resolve("other/gun", table.rows, now=NOW)
