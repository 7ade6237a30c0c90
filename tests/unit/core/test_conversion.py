"""Conversion: who must have signed it, what must come with it, and that no answer changes."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, TargetFile

from notary_conversion import Conversion, answer, converted_set, current_of, plain
from notary_gun import GUN, LATER, NOW, NotaryGun, certified, new_signer, target
from tabellion.core.dialect import NOTARY, TUF
from tabellion.core.notary_search import RELEASES
from tabellion.core.publication import CurrentSet, UploadedFile
from tabellion.core.release import next_snapshot
from tabellion.core.transitions import judge_publication
from tabellion.errors import (
    ConflictError,
    InvalidNameError,
    NotaryRefusalError,
    RefusedPublicationError,
    ThresholdError,
    UsageError,
    VerificationError,
)
from tabellion.publish.conversion_plan import patterns_for, plan_conversion


def share_key(gun: NotaryGun, role: str, *, of: str) -> None:
    """Let a role have another one's key as well, as docker does with the release."""
    delegations = gun.targets["targets"].delegations
    assert delegations is not None
    assert delegations.roles is not None
    for signer in gun.signers[of]:
        delegations.keys[signer.public_key.keyid] = signer.public_key
        delegations.roles[role].keyids.append(signer.public_key.keyid)
    gun.signers[role] = [*gun.signers[role], *gun.signers[of]]


def with_docker_signers(root: Any = None) -> NotaryGun:
    """Make what docker makes: alice signs, releases has her key, too."""
    gun = NotaryGun(root)
    gun.targets["targets"].targets |= {"1.0": target(b"owner's"), "old": target(b"old")}
    gun.delegate("targets/alice")
    gun.delegate(RELEASES)
    share_key(gun, RELEASES, of="targets/alice")
    for role in ("targets/alice", RELEASES):
        gun.targets[role].targets["1.0"] = target(b"released")
    gun.targets["targets/alice"].targets["draft"] = target(b"draft")
    gun.release()
    return gun


@pytest.fixture
def gun() -> NotaryGun:
    return with_docker_signers()


@pytest.fixture
def conversion(gun: NotaryGun) -> Conversion:
    return Conversion(gun)


def test_a_conversion_goes_on_one_above_every_version(conversion: Conversion) -> None:
    judged = conversion.judge(conversion.files())
    assert judged.dialect is TUF
    assert judged.needs_snapshot
    assert judged.root.version == 2
    assert {role: item.version for role, item in judged.targets.items()} == {
        "targets": 2,
        "releases": 2,
        "alice": 2,
    }
    assert judged.dropped == {"root", RELEASES, "targets/alice"}
    served = conversion.serve()
    snapshot: Any = TUF.parse("snapshot", served["snapshot"], max_bytes=10**6).signed
    assert set(snapshot.meta) == {"targets.json", "releases.json", "alice.json"}
    assert snapshot.version == 2


def test_what_the_release_answers_stays_the_answer(conversion: Conversion, gun: NotaryGun) -> None:
    served = conversion.serve()
    trusted = converted_set(gun, served)
    for path, text in (("1.0", b"released"), ("old", b"old")):
        found = answer(trusted, served, path)
        assert found is not None
        assert found.hashes == target(text).hashes
    assert answer(trusted, served, "draft") is None  # never released
    assert ("targets", "1.0") in conversion.plan.unsaid
    assert ("targets/alice", "draft") in conversion.plan.unsaid


def test_an_expired_certificate_is_no_dead_end() -> None:
    gun = with_docker_signers(certified(ends=NOW - timedelta(days=1)))
    gun.trusted = lambda: expired_set(gun)  # type: ignore[method-assign]
    conversion = Conversion(gun)
    assert conversion.judge(conversion.files()).dialect is TUF


def expired_set(gun: NotaryGun) -> Any:
    from tabellion.core.trusted_set import TrustedSet  # noqa: PLC0415  (only here)

    trusted = TrustedSet(gun.files["root"], now=NOW, gun=GUN)
    trusted.update_timestamp(gun.files["timestamp"])
    trusted.update_snapshot(gun.files["snapshot"])
    trusted.update_targets(gun.files["targets"])
    return trusted


@pytest.mark.parametrize("by", ["nobody", "the server", "a stranger", "targets"])
def test_a_root_without_the_old_keys_is_refused(conversion: Conversion, by: str) -> None:
    signers = {
        "nobody": [],
        "the server": list(conversion.online.values()),
        "a stranger": [CryptoSigner.generate_ecdsa()],
        "targets": conversion.signers["targets"],
    }[by]
    # The stranger also makes the root's own role theirs.
    if signers:
        conversion.root.roles["root"].keyids.clear()
        conversion.root.add_key(signers[0].public_key, "root")
    conversion.signers["root"] = signers
    with pytest.raises(ThresholdError):
        conversion.judge(conversion.files())


def test_a_key_whose_certificate_is_for_another_gun_does_not_count(gun: NotaryGun) -> None:
    other = certified(name="elsewhere.example/app")
    gun.root.add_key(other.public_key, "root")
    gun.root.version = 2
    gun.release("root")
    conversion = Conversion(gun)
    assert len(conversion.root.roles["root"].keyids) == 1
    conversion.root.add_key(plain(other).public_key, "root")
    conversion.signers["root"] = [plain(other)]
    with pytest.raises(ThresholdError):
        conversion.judge(conversion.files())


def test_two_certificates_of_one_key_are_one_key() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    gun = NotaryGun(certified(private))
    second = certified(private)
    gun.root.add_key(second.public_key, "root")
    gun.root.roles["root"].threshold = 1
    gun.release()
    conversion = Conversion(gun)
    assert len(conversion.root.roles["root"].keyids) == 1
    gun.root.roles["root"].threshold = 2
    current = current_of(gun)
    current.trusted.root.signed.roles["root"].threshold = 2
    with pytest.raises(UsageError, match="needs 2 keys and has 1"):
        plan_conversion(current)


def test_one_key_under_two_ids_is_refused(conversion: Conversion) -> None:
    signer: Any = conversion.signers["root"][0]
    twin = copy.deepcopy(signer.public_key)
    twin.keyid = "ab" * 32
    conversion.root.add_key(twin, "root")
    conversion.root.roles["root"].threshold = 2
    conversion.signers["root"] = [signer, CryptoSigner(signer._private_key, twin)]
    with pytest.raises(ThresholdError, match="1 of 2"):
        conversion.judge(conversion.files())


@pytest.mark.parametrize("version", [1, 3, 9])
def test_the_root_is_the_next_one(conversion: Conversion, version: int) -> None:
    conversion.root.version = version
    with pytest.raises(ConflictError):
        conversion.judge(conversion.files())


@pytest.mark.parametrize("role", ["targets", "releases", "alice"])
def test_a_role_goes_on_at_its_next_version_or_somebody_was_first(
    conversion: Conversion, role: str
) -> None:
    conversion.payloads[role].version = 3
    with pytest.raises(ConflictError):
        conversion.judge(conversion.files())


@pytest.mark.parametrize("role", ["targets", "releases", "alice"])
def test_nothing_is_left_behind_unseen(conversion: Conversion, role: str) -> None:
    files = conversion.files()
    del files[role]
    with pytest.raises(RefusedPublicationError) as caught:
        conversion.judge(files)
    assert caught.value.rule == "conversion-incomplete"


def test_a_role_that_is_left_out_is_shown_as_it_is(gun: NotaryGun) -> None:
    conversion = Conversion(gun, vouch=["releases", "targets/alice"])
    assert set(conversion.payloads) == {"targets"}
    said = conversion.payloads["targets"].targets
    assert {path: item.hashes for path, item in said.items()} == {
        "1.0": target(b"released").hashes,
        "old": target(b"old").hashes,
    }
    files = conversion.files()
    assert conversion.judge(files).dialect is TUF
    gun.targets[RELEASES].version += 1
    gun.targets[RELEASES].targets["2.0"] = target(b"meanwhile")
    gun.release(RELEASES)
    with pytest.raises(ConflictError):
        conversion.judge(files)


def test_a_new_delegation_without_a_file_is_refused(conversion: Conversion) -> None:
    targets = conversion.payloads["targets"]
    signer = CryptoSigner.generate_ed25519()
    assert targets.delegations is not None
    assert targets.delegations.roles is not None
    targets.delegations.roles["bob"] = DelegatedRole("bob", [], 1, False, ["*"])  # noqa: FBT003
    targets.add_key(signer.public_key, "bob")
    with pytest.raises(RefusedPublicationError) as caught:
        conversion.judge(conversion.files())
    assert caught.value.rule == "conversion-incomplete"


def test_keys_that_the_server_does_not_hold_are_refused(conversion: Conversion) -> None:
    files = conversion.files()
    conversion.online["timestamp"] = CryptoSigner.generate_ed25519()
    with pytest.raises(RefusedPublicationError) as caught:
        conversion.judge(files)
    assert caught.value.rule == "timestamp-is-online"


def test_there_is_no_way_back(gun: NotaryGun, conversion: Conversion) -> None:
    served = CurrentSet.parse(conversion.serve(), TUF)
    gun.root.version = 3
    gun.targets["targets"].version = 3
    for upload in ({"root": gun.sign("root")}, {"targets": gun.sign("targets")}):
        files = [UploadedFile(role, data) for role, data in upload.items()]
        with pytest.raises(ConflictError, match="signed for a Notary GUN"):
            judge_publication(served, files, gun=GUN, online=conversion.keys, now=NOW)


def test_other_uploads_are_judged_as_before(gun: NotaryGun, conversion: Conversion) -> None:
    """A TUF file without a TUF root converts nothing."""
    files = conversion.files()
    for role in ("targets", "alice"):
        with pytest.raises(NotaryRefusalError):
            conversion.judge({role: files[role]})
    gun.targets["targets"].version = 2
    assert gun.judge({"targets": gun.sign("targets")}).dialect is NOTARY


def test_a_role_that_could_not_release_does_not_begin_to(gun: NotaryGun) -> None:
    gun.delegate("targets/qa")
    gun.targets["targets/qa"].targets["rc"] = target(b"candidate")
    gun.targets["targets"].version = 2
    gun.release("targets", "targets/qa")
    conversion = Conversion(gun)
    assert "qa" not in conversion.payloads
    assert "no answer to docker" in conversion.plan.left_out["targets/qa"]
    served = conversion.serve()
    assert answer(converted_set(gun, served), served, "rc") is None


def test_a_role_with_wider_paths_than_the_release_does_not_go_on(gun: NotaryGun) -> None:
    delegations = gun.targets["targets"].delegations
    assert delegations is not None
    assert delegations.roles is not None
    delegations.roles[RELEASES].paths = ["1"]
    delegations.roles["targets/alice"].paths = ["1.", "old"]
    gun.targets["targets"].version = 2
    gun.release("targets")
    assert set(Conversion(gun).payloads) == {"targets", "releases"}
    delegations.roles["targets/alice"].paths = ["1."]
    gun.targets["targets"].version = 3
    gun.release("targets")
    assert set(Conversion(gun).payloads) == {"targets", "releases", "alice"}


def test_the_release_is_asked_before_other_roles(conversion: Conversion) -> None:
    delegations = conversion.payloads["targets"].delegations
    assert delegations is not None
    assert delegations.roles is not None
    assert list(delegations.roles) == ["releases", "alice"]


def test_a_publisher_may_go_on_signing_snapshots(conversion: Conversion, gun: NotaryGun) -> None:
    own = plain(gun.signers["snapshot"][0])
    conversion.root.revoke_key(conversion.root.roles["snapshot"].keyids[0], "snapshot")
    conversion.root.add_key(own.public_key, "snapshot")
    files = conversion.files()
    roles = {role: (2, data) for role, data in files.items() if role != "root"}
    snapshot = next_snapshot(TUF, None, roles, expires_at=LATER)
    for version in (1, 2):
        snapshot.version = version
        upload = files | {"snapshot": TUF.sign(snapshot, [own])}
        if version == 1:
            with pytest.raises(ConflictError):
                conversion.judge(upload)
        else:
            assert not conversion.judge(upload).needs_snapshot


def test_names_that_tuf_cannot_have_are_refused_in_words(gun: NotaryGun) -> None:
    gun.delegate("targets/root")
    share_key(gun, RELEASES, of="targets/root")
    gun.targets["targets"].version = 2
    gun.release("targets", RELEASES, "targets/root")
    with pytest.raises(UsageError, match="top-level role") as caught:
        Conversion(gun)
    assert "--vouch root" in caught.value.hint
    assert Conversion(gun, vouch=["root"]).judge


@pytest.mark.parametrize("name", ["root", "targets", "snapshot"])
def test_a_delegation_named_like_a_top_level_role_stands_in_for_nothing(
    gun: NotaryGun, name: str
) -> None:
    role = f"targets/{name}"
    gun.delegate(role)
    gun.targets["targets"].version = 5
    gun.release("targets", role)
    conversion = Conversion(gun, vouch=[role])
    assert conversion.payloads["targets"].version == 6
    judged = conversion.judge(conversion.files())
    assert (judged.root.version, judged.targets["targets"].version) == (2, 6)
    assert role in judged.dropped
    unseen = conversion.files()
    del unseen[role]
    with pytest.raises(RefusedPublicationError) as caught:
        conversion.judge(unseen)
    assert (caught.value.rule, caught.value.role) == ("conversion-incomplete", role)
    conversion.payloads["targets"].version = 2  # the next one of the other role
    with pytest.raises(ConflictError):
        conversion.judge(conversion.files())


def test_keys_that_not_all_clients_read_are_refused_in_words(gun: NotaryGun) -> None:
    from tabellion.core.notary_keys import NotaryKey, NotarySigner  # noqa: PLC0415

    private = ec.generate_private_key(ec.SECP384R1())
    signer = NotarySigner(private, NotaryKey.of(private.public_key()))
    gun.root.revoke_key(gun.signers["targets"][0].public_key.keyid, "targets")
    gun.root.add_key(signer.public_key, "targets")
    gun.root.version = gun.targets["targets"].version = 2
    gun.signers["targets"] = [signer]
    gun.release("root", "targets")
    with pytest.raises(UsageError, match="nistp384"):
        Conversion(gun)


PATHS = st.sampled_from(["", "v", "v1", "v1/", "v1/x", "a", "a/b/"])
NAMES = st.sampled_from(["v", "v1", "v1/x", "v1/x/y", "a", "ab", "a/b/c", "b", "2.0"])


@given(st.lists(PATHS, min_size=1, max_size=3), st.sets(NAMES))
def test_patterns_say_what_the_beginnings_said(paths: list[str], names: set[str]) -> None:
    notary = NOTARY.delegated_role("targets/a", [], 1, paths=paths)
    tuf = TUF.delegated_role("a", [], 1, paths=patterns_for(paths, names))
    for name in names:
        assert tuf.is_delegated_path(name) == notary.is_delegated_path(name)
    for name in ["v2", "v1/deep/er/still", "z", "a/b", "v1/x"]:
        assert notary.is_delegated_path(name) or not tuf.is_delegated_path(name)


@pytest.mark.parametrize("path", ["v*", "v?", "[v]", "v 1", "é"])
def test_beginnings_that_clients_would_read_otherwise_are_refused(path: str) -> None:
    with pytest.raises(InvalidNameError):
        patterns_for([path], ["v1"])


CONTENT = st.dictionaries(NAMES, st.sampled_from([b"1", b"2", b"3"]), max_size=4)
ROLE = st.tuples(
    st.sampled_from(
        [RELEASES, "targets/alice", "targets/bob", "targets/alice/dev", "targets/releases/x"]
    ),
    st.lists(PATHS, max_size=2),
    st.booleans(),  # its key may release
    CONTENT,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(CONTENT, st.lists(ROLE, unique_by=lambda role: role[0], max_size=5), st.data())
def test_no_name_gets_another_answer(
    owner: dict[str, bytes], roles: list[Any], data: st.DataObject
) -> None:
    gun = NotaryGun()
    gun.targets["targets"].targets = {path: target(text) for path, text in owner.items()}
    for name, paths, may_release, content in sorted(roles, key=lambda role: role[0].count("/")):
        parent = name.rpartition("/")[0]
        if parent not in gun.targets:
            continue
        gun.delegate(name, paths=paths, parent=parent)
        gun.targets[name].targets = {path: target(text) for path, text in content.items()}
        if may_release and RELEASES in gun.targets and name != RELEASES:
            share_key(gun, RELEASES, of=name)
    gun.release()
    before = {path: before_answer(gun, path) for path in ALL_NAMES}
    vouch = data.draw(st.sets(st.sampled_from(sorted(gun.targets.keys() - {"targets"}) or ["-"])))
    conversion = Conversion(gun, vouch=vouch - {"-"})
    served = conversion.serve()
    trusted = converted_set(gun, served)
    for path, expected in before.items():
        assert answer(trusted, served, path) == expected


ALL_NAMES = ["v", "v1", "v1/x", "v1/x/y", "a", "ab", "a/b/c", "b", "2.0"]


def before_answer(gun: NotaryGun, path: str) -> TargetFile | None:
    return answer(gun.trusted(), gun.files, path)


def test_a_release_that_is_not_verified_is_no_ground_to_convert(gun: NotaryGun) -> None:
    gun.signers[RELEASES] = [new_signer()]
    gun.targets[RELEASES].version = 2
    gun.release(RELEASES)
    with pytest.raises(VerificationError):
        Conversion(gun)
