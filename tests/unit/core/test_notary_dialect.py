"""The notary dialect against what the real programs wrote."""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tabellion.core.dialect import NOTARY, TUF, dialect_of
from tabellion.core.notary_keys import NotaryKey
from tabellion.core.notary_reading import parse_moment
from tabellion.core.notary_writing import payload_json, write_envelope
from tabellion.core.roles import key_material, role_keys, verify_threshold
from tabellion.core.strict_json import canonical
from tabellion.core.succession import verify_next_root
from tabellion.errors import MalformedMetadataError

VECTORS = Path(__file__).parents[2] / "vectors" / "notary"
# Signed by the real CLI over unsorted custom: no verifier, Notary's own included, takes it (T4).
UNSORTED = VECTORS / "targets.v11.app.json"
FILES = sorted(path for path in VECTORS.glob("*.v*.json") if path != UNSORTED)
LIMIT = 1_000_000
GUNS = {"app": "docker.io/library/app"}


def role_of(path: Path) -> str:
    return path.name.split(".")[0].replace("_", "/")


def gun_and_version(path: Path) -> tuple[str, int]:
    match = re.fullmatch(r"[a-z_]+\.v([0-9]+)\.([a-z0-9]+)\.json", path.name)
    assert match is not None
    return match[2], int(match[1])


def parsed(path: Path):  # noqa: ANN201  (tests know the payload)
    return NOTARY.parse(role_of(path), path.read_bytes(), max_bytes=LIMIT)


def gun_of(name: str) -> str:
    root = parsed(VECTORS / f"root.v1.{name}.json").signed
    key = root.keys[root.roles["root"].keyids[0]]
    return key.certificates[0].subject.rfc4514_string().removeprefix("CN=")


def test_there_are_vectors_of_every_role() -> None:
    assert {role_of(path) for path in FILES} >= {
        *("root", "targets", "snapshot", "timestamp", "targets/releases", "targets/alice/dev")
    }
    assert len(FILES) > 100


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_captured_file_is_written_again_byte_for_byte(path: Path) -> None:
    item = parsed(path)
    again = write_envelope(payload_json(item.signed), list(item.signatures.values()))
    assert again == path.read_bytes()
    assert canonical(payload_json(item.signed)) == item.signed_bytes


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_key_id_is_that_of_its_key(path: Path) -> None:
    signed = parsed(path).signed
    keys = getattr(signed, "keys", None) or getattr(
        getattr(signed, "delegations", None), "keys", {}
    )
    for keyid, key in keys.items():
        assert key.keyid == keyid == key.computed_id
        assert key.canonical_id == (
            keyid if not key.is_certificate else NotaryKey.of(key.public_key).keyid
        )


def test_every_captured_file_is_signed_by_some_root_or_delegator_of_its_gun() -> None:
    """Each file verifies with the keys of one version of its delegator: the one then in force."""
    by_gun = defaultdict(list)
    for path in FILES:
        by_gun[gun_and_version(path)[0]].append(path)
    checked = 0
    for paths in by_gun.values():
        items = {path: parsed(path) for path in paths}
        for path, item in items.items():
            parent = item.role.rpartition("/")[0] or "root"
            delegators = [other.signed for other in items.values() if other.role == parent]
            assert any(_is_signed(item, delegator) for delegator in delegators), path.name
            checked += 1
    assert checked == len(FILES)


def _is_signed(item, delegator) -> bool:  # noqa: ANN001
    try:
        keys, entry = role_keys(delegator, item.role)
        verify_threshold(item, item.role, keys, entry.keyids, entry.threshold)
    except Exception:  # noqa: BLE001  (any refusal is a no)
        return False
    return True


def test_a_file_signed_over_unsorted_custom_is_refused() -> None:
    root = parsed(VECTORS / "root.v7.app.json").signed
    assert _is_signed(parsed(VECTORS / "targets.v10.app.json"), root)
    assert not _is_signed(parsed(UNSORTED), root)


def test_seven_roots_with_rotations_of_every_key_follow_one_another() -> None:
    gun = gun_of("app")
    roots = [parsed(VECTORS / f"root.v{n}.app.json") for n in range(1, 8)]
    for old, new in itertools.pairwise(roots):
        verify_next_root(old.signed, new, dialect=NOTARY, gun=gun)


def test_the_vector_of_a_key_id_holds() -> None:
    key = NotaryKey.from_dict(
        "",
        {
            "keytype": "ed25519",
            "keyval": {"private": None, "public": "Ig0Fs0vNI690bNbwes9jmyUjMtaIKzZR8tzZdrQSz2k="},
        },
    )
    assert key.computed_id == "ca6e2156871cb9e4729abcd769f1d4bc3890745a6642dad8de90e2dbe5f072af"


def test_a_root_tells_its_dialect() -> None:
    assert dialect_of((VECTORS / "root.v1.app.json").read_bytes()) is NOTARY
    content = json.loads((VECTORS / "root.v1.app.json").read_bytes())
    content["signed"]["spec_version"] = "1.0.31"
    assert dialect_of(json.dumps(content).encode()) is TUF
    content["signed"]["spec_version"] = 1
    with pytest.raises(MalformedMetadataError):
        dialect_of(json.dumps(content).encode())


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2036-11-21T05:53:26.081572144+05:30", datetime(2036, 11, 21, 0, 23, 26, tzinfo=UTC)),
        ("2036-11-21T05:53:26Z", datetime(2036, 11, 21, 5, 53, 26, tzinfo=UTC)),
        ("2036-11-21T05:53:26.1-01:00", datetime(2036, 11, 21, 6, 53, 26, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
    ],
)
def test_expiry_is_read_with_nanoseconds_and_offsets(text: str, moment: datetime) -> None:
    assert parse_moment(text) == moment


@pytest.mark.parametrize(
    "text",
    [
        *("2036-11-21 05:53:26Z", "2036-11-21T05:53:26", "2036-13-21T05:53:26Z", "", None, 5),
        *("2036-11-21T05:53:26+25:00", "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"),
        "2036-11-21T25:53:26Z",
    ],
)
def test_what_is_no_moment_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"moment|zone|range|must be|month|hour"):
        parse_moment(text)


def test_a_key_of_one_dialect_is_the_same_key_in_the_other() -> None:
    root = parsed(VECTORS / "root.v1.app.json").signed
    for key in root.keys.values():
        there = TUF.adopt_key(key)
        assert key_material(there) == key_material(key)
        assert NOTARY.adopt_key(there).keyid == key.canonical_id
