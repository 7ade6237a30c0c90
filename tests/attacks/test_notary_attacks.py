"""What an attacker can't do to those who verify a Notary GUN."""

from __future__ import annotations

import base64
import json
from collections.abc import Generator, Mapping
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from securesystemslib.exceptions import UnverifiedSignatureError
from tuf.api.metadata import Targets

from notary_forge import WEAK
from notary_gun import GUN, NOW, NotaryGun, certified, new_signer, target, weakly_certified
from tabellion.core.dialect import NOTARY
from tabellion.core.names import Digest
from tabellion.core.notary_keys import NotaryKey
from tabellion.core.notary_roots import leaf_of
from tabellion.core.notary_search import RELEASES
from tabellion.core.release import next_snapshot, next_timestamp
from tabellion.core.role_requests import RoleRequest
from tabellion.core.search import find_all, find_digest, find_target, signers_of
from tabellion.core.trusted_set import TrustedSet
from tabellion.errors import (
    ExpiredMetadataError,
    MalformedMetadataError,
    MixAndMatchError,
    RollbackError,
    TabellionError,
    ThresholdError,
    UntrustedRootError,
    VerificationError,
)


@pytest.fixture
def gun() -> NotaryGun:
    gun = NotaryGun()
    gun.targets["targets"].targets["1.0"] = target(b"owner's")
    gun.targets["targets"].targets["owned"] = target(b"owned")
    gun.delegate("targets/releases")
    gun.delegate("targets/alice")
    gun.targets["targets/releases"].targets["1.0"] = target(b"released")
    gun.targets["targets/alice"].targets["1.0"] = target(b"released")
    gun.targets["targets/alice"].targets["private"] = target(b"alice's")
    gun.release()
    return gun


def drive(
    trusted: TrustedSet, search: Generator[RoleRequest, None, Any], files: Mapping[str, bytes]
) -> Any:
    try:
        request = next(search)
        while True:
            try:
                trusted.update_targets(
                    files.get(request.role, b"{}"), request.role, request.delegator
                )
            except TabellionError as error:
                if not request.optional:
                    raise
                trusted.note_unusable(request.role, request.delegator, error)
            request = next(search)
    except StopIteration as stop:
        return stop.value


def found(gun: NotaryGun, path: str, *, released: bool = True, **changed: bytes) -> Any:
    trusted = gun.trusted()
    search = find_target(trusted, path, released=released)
    files = {**gun.files, **{role.replace("__", "/"): data for role, data in changed.items()}}
    return drive(trusted, search, files)


def test_a_release_answers_before_the_owner(gun: NotaryGun) -> None:
    match = found(gun, "1.0")
    assert (match.role.role, match.delegated_by) == ("targets/releases", "targets")
    assert match.target.hashes == target(b"released").hashes


def test_what_only_the_owner_signed_is_released_too(gun: NotaryGun) -> None:
    assert found(gun, "owned").role.role == "targets"


def test_a_signers_own_tag_is_no_release(gun: NotaryGun) -> None:
    assert found(gun, "private") is None
    trusted = gun.trusted()
    listed = drive(trusted, find_all(trusted), gun.files)
    assert [match.path for match in listed] == ["1.0", "owned"]
    trusted = gun.trusted()
    assert drive(trusted, find_digest(trusted, Digest.of(b"alice's")), gun.files) is None


def test_plain_data_is_found_in_the_whole_tree(gun: NotaryGun) -> None:
    assert found(gun, "private", released=False).role.role == "targets/alice"
    assert found(gun, "1.0", released=False).role.role == "targets"


def test_signers_of_the_same_bytes_are_told_and_others_are_not(gun: NotaryGun) -> None:
    gun.delegate("targets/bob")
    gun.targets["targets/bob"].targets["1.0"] = target(b"something else")
    for payload in gun.targets.values():
        payload.version += 1
    gun.root.version = 1
    gun.release(*gun.targets)
    trusted = gun.trusted()
    match = drive(trusted, find_target(trusted, "1.0"), gun.files)
    roles = drive(trusted, signers_of(trusted, match), gun.files)
    assert [role.role for role in roles] == ["targets/releases", "targets/alice"]


def test_a_release_role_that_never_published_is_passed_over() -> None:
    gun = NotaryGun()
    gun.targets["targets"].targets["1.0"] = target()
    gun.delegate("targets/releases")
    gun.release("root", "targets")
    assert found(gun, "1.0").role.role == "targets"


@pytest.mark.parametrize("fault", ["expired", "forged", "absent"])
def test_a_release_role_that_cannot_be_trusted_is_not_passed_over(
    gun: NotaryGun, fault: str
) -> None:
    payload = gun.targets["targets/releases"]
    payload.version = 2
    if fault == "expired":
        payload.expires = NOW - timedelta(seconds=1)
    if fault == "forged":
        gun.signers["targets/releases"] = [new_signer()]
    gun.release("targets/releases")
    wanted = {
        "expired": ExpiredMetadataError,
        "forged": ThresholdError,
        "absent": MixAndMatchError,
    }[fault]
    changed = {"targets__releases": b"{}"} if fault == "absent" else {}
    with pytest.raises(wanted):
        found(gun, "owned", **changed)


def test_a_delegation_speaks_only_within_its_paths_and_its_delegators() -> None:
    gun = NotaryGun()
    gun.delegate("targets/alice", paths=("alice/",))
    gun.delegate("targets/alice/dev", paths=("",), parent="targets/alice")
    gun.delegate("targets/alice/ops", paths=("alice/ops/",), parent="targets/alice")
    for path in ("alice/x", "alice/ops/x", "other"):
        gun.targets["targets/alice/dev"].targets[path] = target()
        gun.targets["targets/alice/ops"].targets[path] = target()
    gun.release()
    assert found(gun, "other", released=False) is None
    assert found(gun, "alice/x", released=False) is None, "'' is more than alice may give away"
    assert found(gun, "alice/ops/x", released=False).role.role == "targets/alice/ops"


def test_an_older_file_than_one_seen_is_a_rollback(gun: NotaryGun) -> None:
    old = gun.files["targets"]
    gun.targets["targets"].version = 2
    new = gun.release("targets")["targets"]
    gun.put({"targets": old})
    trusted = TrustedSet(gun.files["root"], now=NOW, gun=GUN)
    trusted.update_timestamp(gun.files["timestamp"])
    trusted.update_snapshot(gun.files["snapshot"])
    trusted.load_targets(new, "targets", "root")
    with pytest.raises(RollbackError):
        trusted.update_targets(old)
    assert trusted.targets is None


def test_a_cached_file_that_nobody_vouches_for_any_more_blocks_nothing(gun: NotaryGun) -> None:
    gun.targets["targets"].version = 2**31
    stolen = NOTARY.sign(gun.targets["targets"], [new_signer()])
    trusted = gun.trusted()
    with pytest.raises(ThresholdError):
        trusted.load_targets(stolen, "targets", "root")
    trusted.update_targets(gun.files["targets"])


def test_snapshots_and_timestamps_never_go_back(gun: NotaryGun) -> None:
    old = dict(gun.files)
    gun.put({})
    trusted = gun.trusted()
    with pytest.raises(RollbackError):
        trusted.update_timestamp(old["timestamp"])
    with pytest.raises(VerificationError):
        trusted.update_snapshot(old["snapshot"])


def test_a_snapshot_older_than_one_seen_is_a_rollback_under_a_new_timestamp(gun: NotaryGun) -> None:
    old = dict(gun.files)
    gun.put({})
    seen = gun.files["snapshot"]
    trusted = TrustedSet(gun.files["root"], now=NOW, gun=GUN)
    trusted.update_timestamp(old["timestamp"])
    trusted.load_snapshot(seen)
    with pytest.raises(RollbackError):
        trusted.update_snapshot(old["snapshot"])


def test_whoever_hides_the_newest_root_shows_in_the_snapshot(gun: NotaryGun) -> None:
    hidden = gun.files["root"]
    gun.root.version = 2
    gun.root.add_key(new_signer().public_key, "timestamp")
    gun.release("root")
    trusted = TrustedSet(hidden, now=NOW, gun=GUN)
    trusted.update_timestamp(gun.files["timestamp"])
    with pytest.raises(MixAndMatchError, match="root"):
        trusted.update_snapshot(gun.files["snapshot"])


def test_a_root_of_another_gun_is_not_taken(gun: NotaryGun) -> None:
    with pytest.raises(UntrustedRootError):
        TrustedSet(gun.files["root"], now=NOW, gun="registry.example/team/other")
    with pytest.raises(RuntimeError):
        TrustedSet(gun.files["root"], now=NOW)


def test_an_expired_certificate_ends_a_root_but_not_the_way_on_from_it() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    old = certified(private, ends=NOW - timedelta(days=1))
    gun = NotaryGun(old)
    first = gun.release()["root"]
    trusted = TrustedSet(first, now=NOW, gun=GUN)
    with pytest.raises(ExpiredMetadataError, match="certificate"):
        trusted.finish_root()
    new = certified(private)
    gun.root.revoke_key(old.public_key.keyid, "root")
    gun.root.add_key(new.public_key, "root")
    gun.root.version = 2
    trusted.update_root(NOTARY.sign(gun.root, [old, new]))
    trusted.finish_root()


def test_one_key_under_two_certificates_counts_once() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    gun = NotaryGun(certified(private))
    twin = certified(private)
    gun.root.add_key(twin.public_key, "root")
    gun.root.roles["root"].threshold = 2
    data = NOTARY.sign(gun.root, [gun.signers["root"][0], twin])
    with pytest.raises(ThresholdError):
        TrustedSet(data, now=NOW, gun=GUN)


def test_a_key_under_another_keys_id_signs_nothing(gun: NotaryGun) -> None:
    intruder = new_signer()
    honest = gun.signers["targets"][0].public_key.keyid
    gun.root.keys[honest] = intruder.public_key
    intruder.public_key.keyid = honest
    gun.root.version = 1
    payload: Targets = gun.targets["targets"]
    payload.version = 2
    data = NOTARY.sign(payload, [intruder])
    gun.files.clear()
    gun.put({"root": gun.sign("root"), "targets": data})
    trusted = TrustedSet(gun.files["root"], now=NOW, gun=GUN)
    trusted.update_timestamp(gun.files["timestamp"])
    trusted.update_snapshot(gun.files["snapshot"])
    with pytest.raises(ThresholdError):
        trusted.update_targets(gun.files["targets"])


def test_a_second_file_of_a_version_that_was_seen_is_not_taken(gun: NotaryGun) -> None:
    seen = gun.files["targets"]
    gun.targets["targets"].targets["1.0"] = target(b"another")
    gun.release("targets")
    trusted = TrustedSet(gun.files["root"], now=NOW, gun=GUN)
    trusted.update_timestamp(gun.files["timestamp"])
    trusted.update_snapshot(gun.files["snapshot"])
    trusted.load_targets(seen, "targets", "root")
    with pytest.raises(MixAndMatchError):
        trusted.update_targets(gun.files["targets"])


def hiding(gun: NotaryGun) -> TrustedSet:
    """Give a client to whom the holder of the online keys shows no release any more."""
    seen = gun.files["snapshot"]
    old: Any = NOTARY.parse("snapshot", seen, max_bytes=len(seen)).signed
    hidden = next_snapshot(NOTARY, old, {}, expires_at=gun.root.expires, dropped=[RELEASES])
    data = NOTARY.sign(hidden, gun.signers["snapshot"])
    timestamp = next_timestamp(NOTARY, None, data, hidden.version, expires_at=gun.root.expires)
    trusted = TrustedSet(gun.files["root"], now=NOW, gun=GUN)
    trusted.update_timestamp(NOTARY.sign(timestamp, gun.signers["timestamp"]))
    trusted.load_snapshot(seen)
    trusted.update_snapshot(data)
    trusted.update_targets(gun.files["targets"])
    return trusted


def test_a_release_that_was_seen_cannot_be_hidden_by_the_online_keys(gun: NotaryGun) -> None:
    trusted = hiding(gun)
    assert trusted.gone_roles == {RELEASES}
    with pytest.raises(RollbackError):
        trusted.verify_not_hidden(RELEASES, gun.files[RELEASES])


def test_a_release_that_its_keys_vouch_for_no_longer_may_be_gone(gun: NotaryGun) -> None:
    trusted = hiding(gun)
    gun.signers[RELEASES] = [new_signer()]
    trusted.verify_not_hidden(RELEASES, gun.sign(RELEASES))


def test_signatures_of_one_key_are_bounded(gun: NotaryGun) -> None:
    content = json.loads(gun.files["targets"])
    good = content["signatures"][0]
    content["signatures"] = [{**good, "sig": "AAAA"}] * 7 + [good]
    data = json.dumps(content).encode()
    assert NOTARY.parse("targets", data, max_bytes=len(data))
    content["signatures"].append(good)
    data = json.dumps(content).encode()
    with pytest.raises(MalformedMetadataError, match="signatures of key"):
        NOTARY.parse("targets", data, max_bytes=len(data))


@pytest.mark.parametrize("name", ["targets/Upper", "targets/..", "targets/a.b", "targets/a%2fb"])
def test_a_delegation_that_notary_cannot_read_is_none(gun: NotaryGun, name: str) -> None:
    gun.delegate(name)
    data = gun.sign("targets")
    with pytest.raises(MalformedMetadataError, match="invalid"):
        NOTARY.parse("targets", data, max_bytes=len(data))


def test_a_renewed_certificate_beside_the_expired_one_is_enough() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    old, new = certified(private, ends=NOW - timedelta(days=1)), certified(private)
    gun = NotaryGun(old)
    gun.root.add_key(new.public_key, "root")
    gun.signers["root"] = [old, new]
    gun.release()
    gun.trusted().finish_root()


def test_a_certificate_that_is_broken_is_only_a_bad_key() -> None:
    signer = certified()
    pem = base64.b64decode(signer.public_key.keyval["public"])
    der = bytearray(x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER))
    place = der.index(bytes.fromhex("a003020102"))
    der[place + 4] = 6  # a version of certificates that there isn't
    broken = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(bytes(der))
    broken += b"-----END CERTIFICATE-----\n"
    key = NotaryKey("", "ecdsa-x509", "notary", {"public": base64.b64encode(broken).decode()})
    for use in (lambda: key.material, lambda: leaf_of(key)):
        with pytest.raises(MalformedMetadataError):
            use()


def test_a_release_outside_of_its_paths_is_none_whoever_else_may_sign_there() -> None:
    gun = NotaryGun()
    gun.delegate("targets/releases", paths=("v",))
    gun.delegate("targets/alice")
    gun.targets["targets/releases"].targets |= {"1.0": target(), "v1": target()}
    gun.release()
    assert found(gun, "1.0") is None
    assert found(gun, "v1").role.role == "targets/releases"


def test_a_rotation_to_a_certificate_of_another_gun_is_not_followed(gun: NotaryGun) -> None:
    trusted = gun.trusted()
    old, new = gun.signers["root"][0], certified(name="elsewhere.example/app")
    gun.root.revoke_key(old.public_key.keyid, "root")
    gun.root.add_key(new.public_key, "root")
    gun.root.version = 2
    with pytest.raises(UntrustedRootError):
        trusted.update_root(NOTARY.sign(gun.root, [old, new]))
    assert trusted.root.version == 1


@pytest.mark.parametrize("kind", WEAK)
def test_a_root_with_a_weak_certificate_is_neither_taken_nor_followed(
    gun: NotaryGun, kind: str
) -> None:
    weak = weakly_certified(kind)
    with pytest.raises((UntrustedRootError, ThresholdError)):
        TrustedSet(NotaryGun(weak).release()["root"], now=NOW, gun=GUN)
    trusted = gun.trusted()
    old = gun.signers["root"][0]
    gun.root.revoke_key(old.public_key.keyid, "root")
    gun.root.add_key(weak.public_key, "root")
    gun.root.version = 2
    with pytest.raises((UntrustedRootError, ThresholdError)):
        trusted.update_root(NOTARY.sign(gun.root, [old, weak]))
    assert trusted.root.version == 1


def test_a_cached_snapshot_of_an_older_root_is_not_current(gun: NotaryGun) -> None:
    old = dict(gun.files)
    trusted = gun.trusted()
    assert trusted.is_snapshot_current()
    gun.root.version = 2
    trusted.update_root(gun.sign("root"))
    trusted.load_snapshot(old["snapshot"])
    assert not trusted.is_snapshot_current()


def test_two_leaves_are_no_chain() -> None:
    chain = b"".join(base64.b64decode(certified().public_key.keyval["public"]) for _ in range(2))
    with pytest.raises(MalformedMetadataError, match="leaf certificate and its chain"):
        leaf_of(NotaryKey.of_certificates(chain))


def test_a_signature_of_another_length_is_none(gun: NotaryGun) -> None:
    content = json.loads(gun.files["targets"])
    raw = base64.b64decode(content["signatures"][0]["sig"])
    stretched = raw[:32] + bytes(8) + raw[32:]  # the same numbers
    content["signatures"][0]["sig"] = base64.b64encode(stretched).decode()
    parsed = NOTARY.parse("targets", json.dumps(content).encode(), max_bytes=100_000)
    key = gun.signers["targets"][0].public_key
    with pytest.raises(UnverifiedSignatureError):
        key.verify_signature(parsed.signatures[key.keyid], parsed.signed_bytes)
