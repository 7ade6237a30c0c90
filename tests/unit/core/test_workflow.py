"""tuf-checklist section B: the client workflow, rule by rule, on the pure trusted set."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Generator
from datetime import datetime, timedelta
from typing import Any, TypeVar

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Delegations

from forge import LATER, NOW, Forge, resign, target
from tabellion.core.dialect import TUF
from tabellion.core.limits import Limits
from tabellion.core.names import Digest
from tabellion.core.role_requests import RoleRequest
from tabellion.core.search import find_all, find_digest, find_target, walk_roles
from tabellion.core.succession import have_online_keys_changed
from tabellion.core.trusted_set import TrustedSet
from tabellion.errors import (
    ExpiredMetadataError,
    MixAndMatchError,
    NotSignedError,
    RollbackError,
    ThresholdError,
    VerificationError,
)

T = TypeVar("T")


def drive(
    trusted: TrustedSet, search: Generator[RoleRequest, None, T], files: dict[str, bytes]
) -> tuple[T, list[str]]:
    """Run a search, loading what it asks for; give its answer and the roles asked."""
    asked: list[str] = []
    try:
        while True:
            request = next(search)
            asked.append(request.role)
            try:
                trusted.update_targets(files[request.role], request.role, request.delegator)
            except VerificationError as error:
                if not request.optional:
                    raise
                trusted.note_unusable(request.role, request.delegator, error)
    except StopIteration as stop:
        return stop.value, asked


def next_root(forge: Forge, *, old_signers: list[Any], version: int = 2) -> bytes:
    forge.root.version = version
    return TUF.sign(forge.root, [*old_signers, *forge.signers["root"]])


def test_b22_an_expired_first_root_may_lead_to_a_fresh_one(forge: Forge) -> None:
    later = LATER + timedelta(days=1)
    trusted = TrustedSet(forge.files["root"], now=later)
    with pytest.raises(ExpiredMetadataError):
        trusted.finish_root()
    forge.root.expires = later + timedelta(days=9)
    trusted.update_root(next_root(forge, old_signers=[]))
    trusted.finish_root()


def test_b22_a_first_root_that_did_not_sign_itself_is_refused(forge: Forge) -> None:
    forged = resign(forge.files["root"], [CryptoSigner.generate_ed25519()], lambda s: None)
    with pytest.raises(ThresholdError):
        TrustedSet(forged, now=NOW)


def test_b24_a_new_root_needs_the_old_and_the_new_keys(forge: Forge) -> None:
    trusted = TrustedSet(forge.files["root"], now=NOW)
    old = forge.signers["root"]
    new = CryptoSigner.generate_ed25519()
    forge.root.revoke_key(old[0].public_key.keyid, "root")
    forge.root.add_key(new.public_key, "root")
    forge.signers["root"] = []
    only_old, forge.signers["root"] = next_root(forge, old_signers=old), [new]
    only_new = next_root(forge, old_signers=[])
    for data in (only_old, only_new):
        with pytest.raises(ThresholdError):
            trusted.update_root(data)
        assert trusted.root.version == 1
    trusted.update_root(next_root(forge, old_signers=old))
    assert trusted.root.version == 2


@pytest.mark.parametrize("version", [1, 3])
def test_b25_root_versions_go_up_by_one(forge: Forge, version: int) -> None:
    trusted = TrustedSet(forge.files["root"], now=NOW)
    with pytest.raises(RollbackError):
        trusted.update_root(next_root(forge, old_signers=[], version=version))
    assert trusted.root.version == 1


def test_b26_an_intermediate_root_may_be_expired(forge: Forge) -> None:
    trusted = TrustedSet(forge.files["root"], now=NOW)
    forge.root.expires = NOW - timedelta(days=1)
    trusted.update_root(next_root(forge, old_signers=[]))
    with pytest.raises(ExpiredMetadataError):  # b28
        trusted.finish_root()
    forge.root.expires = LATER
    trusted.update_root(next_root(forge, old_signers=[], version=3))
    trusted.finish_root()


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_b29_rotated_online_keys_are_noticed_also_where_an_old_key_stays(
    forge: Forge, role: str
) -> None:
    old = copy.deepcopy(forge.root)
    assert not have_online_keys_changed(old, forge.root)
    forge.root.add_key(CryptoSigner.generate_ed25519().public_key, role)
    assert have_online_keys_changed(old, forge.root)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_b31_b35_b38_a_wrong_key_is_refused(forge: Forge, role: str) -> None:
    forge.signers[role] = [CryptoSigner.generate_ed25519()]
    forge.release()
    with pytest.raises(ThresholdError) as caught:
        forge.trusted()
    assert caught.value.role == role


def test_b32_an_older_timestamp_is_a_rollback(forge: Forge) -> None:
    first = forge.files["timestamp"]
    forge.release()
    trusted = forge.trusted()
    with pytest.raises(RollbackError):
        trusted.update_timestamp(first)
    assert trusted.timestamp is not None
    assert trusted.timestamp.version == 2


def test_b32_an_equal_timestamp_keeps_the_old_one(forge: Forge) -> None:
    trusted = forge.trusted()
    assert trusted.update_timestamp(forge.files["timestamp"]) is False


def test_b33_the_timestamp_known_already_is_refused_once_it_expires(forge: Forge) -> None:
    soon = NOW + timedelta(days=1)
    forge.release(expires_at=soon)
    trusted = TrustedSet(forge.files["root"], now=soon)
    trusted.load_timestamp(forge.files["timestamp"])
    with pytest.raises(ExpiredMetadataError) as caught:
        trusted.update_timestamp(forge.files["timestamp"])
    assert (caught.value.role, caught.value.expired_at) == ("timestamp", soon)


def test_b32_a_newer_timestamp_may_not_name_an_older_snapshot(forge: Forge) -> None:
    forge.release()
    trusted = TrustedSet(forge.files["root"], now=NOW)
    trusted.load_timestamp(forge.files["timestamp"])

    def back(signed: dict[str, Any]) -> None:
        signed["version"] = 9
        signed["meta"]["snapshot.json"]["version"] = 1

    with pytest.raises(RollbackError):
        trusted.update_timestamp(resign(forge.files["timestamp"], forge.signers["timestamp"], back))


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_b33_b37_b38_an_expired_file_is_refused(forge: Forge, role: str) -> None:
    forge.targets.expires = NOW if role == "targets" else LATER
    forge.release(
        expires_at=NOW if role == "timestamp" else LATER,
        snapshot_expires_at=NOW if role == "snapshot" else LATER,
    )
    with pytest.raises(ExpiredMetadataError) as caught:
        forge.trusted()
    assert caught.value.role == role
    assert forge.trusted(now=NOW - timedelta(seconds=1)).targets is not None


def test_b34_the_snapshot_has_the_length_and_hash_that_the_timestamp_names(forge: Forge) -> None:
    trusted = TrustedSet(forge.files["root"], now=NOW)
    trusted.update_timestamp(forge.files["timestamp"])
    with pytest.raises(MixAndMatchError):
        trusted.update_snapshot(forge.files["snapshot"] + b" ")
    with pytest.raises(MixAndMatchError):
        trusted.update_snapshot(forge.files["snapshot"].replace(b"1", b"2", 1))
    assert trusted.snapshot is None


def test_b35_a_snapshot_of_another_release_is_refused(forge: Forge) -> None:
    first = forge.files["snapshot"]
    forge.release()
    trusted = TrustedSet(forge.files["root"], now=NOW)
    trusted.update_timestamp(forge.files["timestamp"])
    with pytest.raises(MixAndMatchError):
        trusted.update_snapshot(first)


def test_b36_no_role_goes_back_or_disappears(forge: Forge) -> None:
    forge.delegate("alice", ["*"])
    forge.targets.version = 2
    forge.release()
    with_alice = forge.files["snapshot"]
    gone = Forge(signers={role: forge.signers[role] for role in forge.root.roles})
    gone.targets.version = 2
    gone.release()
    trusted = TrustedSet(gone.files["root"], now=NOW)
    trusted.load_snapshot(with_alice)
    trusted.update_timestamp(gone.files["timestamp"])
    with pytest.raises(RollbackError, match="alice is gone"):
        trusted.update_snapshot(gone.files["snapshot"])


def test_b38_targets_of_another_release_are_refused(forge: Forge) -> None:
    first = forge.files["targets"]
    forge.targets.version = 2
    forge.release()
    trusted = forge.trusted()
    with pytest.raises(MixAndMatchError):
        trusted.update_targets(first)
    assert trusted.targets is not None
    assert trusted.targets.version == 2


def test_b39_roles_are_searched_pre_order_in_the_listed_order(forge: Forge) -> None:
    for name in ("zoe", "alice"):
        forge.delegate(name, ["*"])
        forge.delegated[name].targets["9"] = target(name.encode(), "9")
    files = forge.release()
    trusted = forge.trusted()
    match, asked = drive(trusted, find_target(trusted, "9"), files)
    assert match is not None
    assert match.role.role == "zoe"
    assert asked == ["zoe"]


def test_b39_the_number_of_visited_roles_is_bounded(forge: Forge) -> None:
    for number in range(6):
        forge.delegate(f"r{number}", ["*"])
    files = forge.release()
    trusted = forge.trusted()
    trusted.limits = Limits(delegations=3)
    match, asked = drive(trusted, find_target(trusted, "none"), files)
    assert match is None
    assert asked == ["r0", "r1", "r2"]


def test_b40_a_terminating_delegation_ends_the_search(forge: Forge) -> None:
    forge.delegate("first", ["*"], terminating=True)
    forge.delegate("second", ["*"])
    forge.delegated["second"].targets["9"] = target(b"x", "9")
    files = forge.release()
    trusted = forge.trusted()
    match, asked = drive(trusted, find_target(trusted, "9"), files)
    assert match is None
    assert asked == ["first"]


def test_b41_a_role_that_cannot_be_verified_ends_the_search(forge: Forge) -> None:
    forge.delegate("first", ["*"])
    forge.delegate("second", ["*"])
    forge.delegated["second"].targets["9"] = target(b"x", "9")
    forge.signers["first"] = [CryptoSigner.generate_ed25519()]
    files = forge.release()
    trusted = forge.trusted()
    with pytest.raises(ThresholdError):
        drive(trusted, find_target(trusted, "9"), files)


def test_b41_a_role_that_never_published_ends_the_search(forge: Forge) -> None:
    forge.delegate("first", ["*"])
    del forge.delegated["first"]
    files = forge.release()
    trusted = forge.trusted()
    with pytest.raises(NotSignedError):
        drive(trusted, find_target(trusted, "9"), {**files, "first": b"{}"})


def test_a15_a_target_outside_its_delegated_paths_is_not_found(forge: Forge) -> None:
    forge.delegate("alice", ["alice-*"])
    forge.delegated["alice"].targets["9"] = target(b"x", "9")
    files = forge.release()
    trusted = forge.trusted()
    assert drive(trusted, find_target(trusted, "9"), files) == (None, [])
    digest = Digest.of(b"x")
    match, _ = drive(trusted, find_digest(trusted, digest), files)
    assert match is None


def test_b42_a_role_is_verified_for_the_delegator_that_led_to_it(forge: Forge) -> None:
    forge.delegate("alice", ["*"])
    files = forge.release()
    trusted = forge.trusted()
    trusted.update_targets(files["alice"], "alice", "targets")
    assert trusted.role("alice", "targets") is not None
    assert trusted.role("alice", "bob") is None


def test_b45_a_digest_counts_only_where_its_path_resolves_to_it(forge: Forge) -> None:
    forge.delegate("alice", ["*"])
    forge.delegated["alice"].targets["1.2"] = target(b"shadowed")
    forge.delegated["alice"].targets["1.3"] = target(b"found")
    files = forge.release()
    trusted = forge.trusted()
    shadowed, _ = drive(trusted, find_digest(trusted, Digest.of(b"shadowed")), files)
    found, _ = drive(trusted, find_digest(trusted, Digest.of(b"found")), files)
    assert shadowed is None
    assert found is not None
    assert found.path == "1.3"
    everything, _ = drive(trusted, find_all(trusted), files)
    assert [match.path for match in everything] == ["1.2", "1.3"]


@pytest.fixture
def broken_first(forge: Forge) -> dict[str, bytes]:
    """A role asked before another one, whose file its keys didn't sign."""
    forge.delegate("broken", ["b*"])
    forge.delegate("whole", ["*"])
    forge.delegated["whole"].targets["a"] = target(b"a", "a")
    forge.delegated["whole"].targets["b"] = target(b"b", "b")
    forge.signers["broken"] = [CryptoSigner.generate_ed25519()]
    return forge.release()


def test_b45_a_role_that_cannot_be_verified_hides_only_what_depends_on_it(
    forge: Forge, broken_first: dict[str, bytes]
) -> None:
    trusted = forge.trusted()
    match, _ = drive(trusted, find_digest(trusted, Digest.of(b"a")), broken_first)
    assert match is not None
    assert match.path == "a"
    everything, asked = drive(trusted, find_all(trusted), broken_first)
    assert [match.path for match in everything] == ["1.2", "a"]
    assert asked == []  # neither the good nor the bad one is asked for again
    assert list(trusted.unusable) == [("targets", "broken")]


def test_b41_a_digest_behind_a_role_that_cannot_be_verified_is_refused_with_the_reason(
    forge: Forge, broken_first: dict[str, bytes]
) -> None:
    trusted = forge.trusted()
    with pytest.raises(ThresholdError):
        drive(trusted, find_digest(trusted, Digest.of(b"b")), broken_first)
    with pytest.raises(ThresholdError):
        drive(trusted, find_target(trusted, "b"), broken_first)


def test_b45_children_of_a_signed_index_are_signed(forge: Forge) -> None:
    child = Digest.of(b"child")
    index = target(b"index", "multi")
    index.unrecognized_fields["custom"] = {"manifests": [{"digest": str(child)}]}
    forge.targets.targets["multi"] = index
    files = forge.release()
    trusted = forge.trusted()
    match, _ = drive(trusted, find_digest(trusted, child), files)
    assert match is not None
    assert match.path == "multi"


def test_b34_a_loaded_snapshot_is_current_only_if_it_is_the_named_and_fresh_one(
    forge: Forge,
) -> None:
    def loaded(now: datetime = NOW) -> TrustedSet:
        trusted = TrustedSet(forge.files["root"], now=now)
        trusted.load_timestamp(forge.files["timestamp"])
        return trusted

    assert not loaded().is_snapshot_current()
    trusted = loaded()
    trusted.load_snapshot(forge.files["snapshot"])
    assert trusted.is_snapshot_current()
    late = loaded(now=LATER)
    late.load_snapshot(forge.files["snapshot"])
    assert not late.is_snapshot_current()
    twin = resign(forge.files["snapshot"], forge.signers["snapshot"], lambda s: s.update(x=1))
    trusted.load_snapshot(twin)
    assert not trusted.is_snapshot_current()
    forge.release()
    trusted.load_snapshot(forge.files["snapshot"])
    assert not trusted.is_snapshot_current()


def test_steps_out_of_order_are_a_fault_of_the_program(forge: Forge) -> None:
    trusted = TrustedSet(forge.files["root"], now=NOW)
    with pytest.raises(RuntimeError, match="timestamp comes before"):
        trusted.update_snapshot(forge.files["snapshot"])
    with pytest.raises(RuntimeError, match="snapshot comes before"):
        trusted.update_targets(forge.files["targets"])
    forge.delegate("alice", ["*"])
    forge.release()
    trusted = forge.trusted()
    with pytest.raises(RuntimeError, match="bob comes before"):
        trusted.update_targets(forge.files["alice"], "alice", "bob")
    search = find_target(trusted, "9")
    next(search)
    with pytest.raises(RuntimeError, match="wasn't loaded"):
        next(search)


def nested(forge: Forge) -> dict[str, bytes]:
    """Delegate to alice and to bob, and alice to bob: bob is reached on two ways."""
    for name in ("alice", "bob"):
        forge.delegate(name, ["*"])
    alice, top = forge.delegated["alice"], forge.targets.delegations
    assert top is not None
    assert top.roles is not None
    alice.delegations = Delegations(dict(top.keys), {"bob": top.roles["bob"]})
    forge.delegated["bob"].targets["9"] = target(b"x", "9")
    return forge.release()


def test_b39_b42_a_role_is_searched_once_and_by_its_nearest_delegator(forge: Forge) -> None:
    files = nested(forge)
    trusted = forge.trusted()
    match, asked = drive(trusted, find_target(trusted, "9"), files)
    assert match is not None
    assert (match.role.role, match.delegated_by, asked) == ("bob", "alice", ["alice", "bob"])
    nothing, asked = drive(trusted, find_target(trusted, "none"), files)
    assert (nothing, asked) == (None, [])
    assert trusted.role("bob", "targets") is None


def test_b42_another_delegator_has_other_keys_for_a_role(forge: Forge) -> None:
    nested(forge)
    alice = forge.delegated["alice"].delegations
    assert alice is not None
    assert alice.roles is not None
    stranger = CryptoSigner.generate_ed25519().public_key
    alice.roles["bob"] = copy.deepcopy(alice.roles["bob"])
    alice.roles["bob"].keyids[:] = [stranger.keyid]
    alice.keys[stranger.keyid] = stranger
    files = forge.release()
    trusted = forge.trusted()
    with pytest.raises(ThresholdError):
        drive(trusted, find_target(trusted, "9"), files)
    trusted.update_targets(files["bob"], "bob", "targets")
    assert trusted.role("bob", "alice") is None


def test_b40_a_terminating_role_hides_also_what_waits_above_it(forge: Forge) -> None:
    nested(forge)
    alice = forge.delegated["alice"].delegations
    assert alice is not None
    assert alice.roles is not None
    alice.roles["bob"] = copy.deepcopy(alice.roles["bob"])
    alice.roles["bob"].terminating = True
    forge.delegate("carol", ["*"])
    forge.delegated["carol"].targets["10"] = target(b"y", "10")
    files = forge.release()
    trusted = forge.trusted()
    match, asked = drive(trusted, find_target(trusted, "10"), files)
    assert (match, asked) == (None, ["alice", "bob"])


def test_b45_a_listing_visits_each_role_once_and_skips_the_unpublished(forge: Forge) -> None:
    nested(forge)
    forge.delegate("silent", ["*"])
    del forge.delegated["silent"]
    files = forge.release()
    trusted = forge.trusted()
    roles, asked = drive(trusted, walk_roles(trusted), files)
    assert [role.role for role in roles] == ["targets", "alice", "bob"] == ["targets", *asked]


def sha(algorithm: str, data: bytes) -> dict[str, dict[str, str]]:
    return {"hashes": {algorithm: hashlib.new(algorithm, data).hexdigest()}}


RIGHT: dict[str, Callable[[bytes], dict[str, Any]]] = {
    "version": lambda _: {},
    "length": lambda data: {"length": len(data)},
    "sha256": lambda data: sha("sha256", data),
    "sha512": lambda data: sha("sha512", data),
}
WRONG: dict[str, Callable[[bytes], dict[str, Any]]] = {
    "version": lambda _: {"version": 2},
    "longer": lambda data: {"length": len(data) + 1},
    "shorter": lambda data: {"length": len(data) - 1},
    "sha256": lambda data: sha("sha256", data + b" "),
    "sha512": lambda data: sha("sha512", data + b" "),
    "md5": lambda data: sha("md5", data),
}


def named(forge: Forge, role: str, meta: dict[str, Any]) -> TrustedSet:
    """Give a set that knows a role's file by nothing but ``meta``."""

    def change(signed: dict[str, Any]) -> None:
        signed["meta"][f"{role}.json"] = {"version": 1} | meta

    trusted = TrustedSet(forge.files["root"], now=NOW)
    parent = "timestamp" if role == "snapshot" else "snapshot"
    changed = resign(forge.files[parent], forge.signers[parent], change)
    trusted.load_timestamp(changed if parent == "timestamp" else forge.files["timestamp"])
    if parent == "snapshot":
        trusted.load_snapshot(changed)
    return trusted


def take(trusted: TrustedSet, role: str, data: bytes) -> object:
    return trusted.update_targets(data) if role == "targets" else trusted.update_snapshot(data)


@pytest.mark.parametrize("role", ["snapshot", "targets"])
@pytest.mark.parametrize("how", RIGHT.values(), ids=RIGHT.keys())
def test_b34_b35_b38_version_length_or_one_hash_suffices(
    forge: Forge, role: str, how: Callable[[bytes], dict[str, Any]]
) -> None:
    data = forge.files[role]
    assert take(named(forge, role, how(data)), role, data)


@pytest.mark.parametrize("role", ["snapshot", "targets"])
@pytest.mark.parametrize("how", WRONG.values(), ids=WRONG.keys())
def test_b34_b35_b38_version_length_and_each_hash_count_alone(
    forge: Forge, role: str, how: Callable[[bytes], dict[str, Any]]
) -> None:
    data = forge.files[role]
    trusted = named(forge, role, how(data))
    known = trusted.snapshot
    with pytest.raises(MixAndMatchError):
        take(trusted, role, data)
    assert (trusted.snapshot, trusted.targets) == (known, None)
