"""What a publication may replace: every rule refuses once, and names itself."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest
from securesystemslib.signer import CryptoSigner, Signer, SSlibKey
from tuf.api.metadata import Snapshot, Targets

from forge import NOW, Forge, resign, target
from tabellion.core.dialect import TUF
from tabellion.core.publication import CurrentSet, OnlineKeys, Publication, UploadedFile
from tabellion.core.release import next_snapshot
from tabellion.core.transitions import judge_publication
from tabellion.errors import (
    ConflictError,
    ExpiredMetadataError,
    MalformedMetadataError,
    RefusedPublicationError,
    ThresholdError,
)


def judge(
    forge: Forge,
    current: CurrentSet | None,
    *upload: tuple[str, bytes],
    online: OnlineKeys | None = None,
) -> Publication:
    return judge_publication(
        current,
        [UploadedFile(role, data) for role, data in upload],
        gun="registry/app",
        online=online or forge.online(),
        now=NOW,
    )


def refused(rule: str, act: Callable[[], object]) -> RefusedPublicationError:
    with pytest.raises(RefusedPublicationError) as caught:
        act()
    assert caught.value.rule == rule, caught.value.message
    return caught.value


def next_targets(forge: Forge, role: str = "targets") -> bytes:
    payload = forge.targets if role == "targets" else forge.delegated[role]
    payload.version += 1
    return TUF.sign(payload, forge.signers[role])


def test_a_first_publication_needs_root_and_targets(forge: Forge) -> None:
    files = forge.files
    made = judge(forge, None, ("root", files["root"]), ("targets", files["targets"]))
    assert [root.version for root in made.roots] == [1]
    assert made.needs_snapshot
    refused("missing-root", lambda: judge(forge, None, ("targets", files["targets"])))
    refused("missing-targets", lambda: judge(forge, None, ("root", files["root"])))
    refused("empty-publication", lambda: judge(forge, None))


def test_the_same_bytes_again_change_nothing(forge: Forge) -> None:
    made = judge(forge, forge.current(), ("targets", forge.files["targets"]))
    assert made.unchanged


def test_targets_built_on_an_old_version_are_a_conflict(forge: Forge) -> None:
    current = forge.current()
    next_targets(forge)
    skipping = next_targets(forge)
    with pytest.raises(ConflictError) as caught:
        judge(forge, current, ("targets", skipping))
    assert caught.value.versions == {"root": 1, "targets": 1, "snapshot": 1, "timestamp": 1}


def test_after_a_loss_versions_may_be_passed_over_but_none_comes_again(forge: Forge) -> None:
    current = forge.current()

    def after_a_loss(role: str, data: bytes, *settled: str) -> Publication:
        return judge_publication(
            current,
            [UploadedFile(role, data)],
            gun="registry.example/team/app",
            online=forge.online(),
            now=NOW,
            may_lack=True,
            settled=settled,
        )

    for version, is_taken in ((1, False), (2, True), (7, True)):
        forge.targets.version = version
        forge.targets.targets["1.3"] = target(b"other")
        data = TUF.sign(forge.targets, forge.signers["targets"])
        if is_taken:
            assert after_a_loss("targets", data, "alice").targets["targets"].version == version
        else:
            with pytest.raises(ConflictError):
                after_a_loss("targets", data)
    with pytest.raises(ConflictError):  # it was published since: nothing of it is lost
        after_a_loss("targets", data, "targets")
    forge.root.version = 3
    with pytest.raises(ConflictError):  # readers walk from root to root
        after_a_loss("root", TUF.sign(forge.root, forge.signers["root"]))


def test_other_bytes_for_a_published_version_are_a_conflict(forge: Forge) -> None:
    current = forge.current()
    forge.targets.targets["1.3"] = target(b"other")
    with pytest.raises(ConflictError):
        judge(forge, current, ("targets", TUF.sign(forge.targets, forge.signers["targets"])))


def test_targets_by_a_wrong_key_are_refused(forge: Forge) -> None:
    current = forge.current()
    forge.signers["targets"] = [CryptoSigner.generate_ed25519()]
    with pytest.raises(ThresholdError):
        judge(forge, current, ("targets", next_targets(forge)))


def test_expired_targets_are_refused(forge: Forge) -> None:
    current = forge.current()
    forge.targets.expires = NOW - timedelta(seconds=1)
    with pytest.raises(ExpiredMetadataError):
        judge(forge, current, ("targets", next_targets(forge)))


def test_consecutive_roots_are_taken_in_one_publication(forge: Forge) -> None:
    current = forge.current()
    second = copy.deepcopy(forge.root)
    second.version = 2
    third = copy.deepcopy(forge.root)
    third.version = 3
    signed = [TUF.sign(root, forge.signers["root"]) for root in (third, second)]
    made = judge(forge, current, ("root", signed[0]), ("root", signed[1]))
    assert [root.version for root in made.roots] == [2, 3]
    with pytest.raises(ConflictError):
        judge(forge, current, ("root", signed[0]))


def test_a_root_needs_the_old_keys_too(forge: Forge) -> None:
    current = forge.current()
    stranger = CryptoSigner.generate_ed25519()
    forge.root.revoke_key(forge.signers["root"][0].public_key.keyid, "root")
    forge.root.add_key(stranger.public_key, "root")
    forge.root.version = 2
    with pytest.raises(ThresholdError):
        judge(forge, current, ("root", TUF.sign(forge.root, [stranger])))


def test_the_timestamp_key_is_the_servers(forge: Forge) -> None:
    files = (("root", forge.files["root"]), ("targets", forge.files["targets"]))
    strange = OnlineKeys(forge.online().snapshot, [CryptoSigner.generate_ed25519().public_key])
    refused("timestamp-is-online", lambda: judge(forge, None, *files, online=strange))
    upload = ("timestamp", forge.files["timestamp"])
    refused("timestamp-is-online", lambda: judge(forge, forge.current(), upload))


def test_a_publisher_may_hold_the_snapshot_key(forge: Forge) -> None:
    held = OnlineKeys([], forge.online().timestamp)
    current = forge.current()
    data = next_targets(forge)
    refused("missing-snapshot", lambda: judge(forge, current, ("targets", data), online=held))
    old = TUF.parse("snapshot", forge.files["snapshot"], max_bytes=99999).signed
    assert isinstance(old, Snapshot)
    good = next_snapshot(TUF, old, {"targets": (2, data)}, expires_at=forge.root.expires)
    upload = TUF.sign(good, forge.signers["snapshot"])
    made = judge(forge, current, ("targets", data), ("snapshot", upload), online=held)
    assert made.snapshot is not None
    assert not made.needs_snapshot
    wrong = next_snapshot(TUF, old, {"targets": (2, data + b" ")}, expires_at=forge.root.expires)
    torn = TUF.sign(wrong, forge.signers["snapshot"])
    refused(
        "snapshot-content",
        lambda: judge(forge, current, ("targets", data), ("snapshot", torn), online=held),
    )


def test_a_signer_publishes_with_its_own_key_alone(forge: Forge) -> None:
    forge.delegate("alice", ["*"])
    forge.release()
    current = forge.current()
    forge.delegated["alice"].targets["9"] = target(b"x", "9")
    made = judge(forge, current, ("alice", next_targets(forge, "alice")))
    assert list(made.targets) == ["alice"]


def test_a_role_nobody_delegates_to_is_refused(forge: Forge) -> None:
    data = TUF.sign(Targets(expires=forge.root.expires), [CryptoSigner.generate_ed25519()])
    refused("unknown-role", lambda: judge(forge, forge.current(), ("mallory", data)))


def test_a_target_outside_the_delegated_paths_is_refused(forge: Forge) -> None:
    forge.delegate("alice", ["alice-*"])
    forge.release()
    current = forge.current()
    forge.delegated["alice"].targets["9"] = target(b"x", "9")
    data = next_targets(forge, "alice")
    refused("path-not-delegated", lambda: judge(forge, current, ("alice", data)))


def test_a_target_behind_a_role_that_never_published_is_refused(forge: Forge) -> None:
    forge.delegate("silent", ["*"])
    forge.delegate("bob", ["*"])
    silent = forge.delegated.pop("silent")
    forge.release()
    current = forge.current()
    forge.delegated["bob"].targets["9"] = target(b"x", "9")
    data = next_targets(forge, "bob")
    error = refused("unreachable-target", lambda: judge(forge, current, ("bob", data)))
    assert "silent" in error.message
    forge.delegated["silent"] = silent
    first = TUF.sign(silent, forge.signers["silent"])
    assert judge(forge, current, ("bob", data), ("silent", first)).targets


def test_new_keys_that_orphan_a_published_role_are_refused(forge: Forge) -> None:
    alice: Signer = forge.delegate("alice", ["*"])
    forge.release()
    current = forge.current()
    assert forge.targets.delegations is not None
    fresh = CryptoSigner.generate_ed25519()
    forge.targets.revoke_key(alice.public_key.keyid, "alice")
    forge.targets.add_key(fresh.public_key, "alice")
    data = next_targets(forge)
    refused("orphaned-role", lambda: judge(forge, current, ("targets", data)))
    forge.signers["alice"] = [fresh]
    repaired = next_targets(forge, "alice")
    assert judge(forge, current, ("targets", data), ("alice", repaired)).targets


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\x00" * 50])
def test_malformed_files_are_refused(forge: Forge, data: bytes) -> None:
    with pytest.raises(MalformedMetadataError):
        judge(forge, forge.current(), ("targets", data))


def test_a_role_stands_once_in_a_publication(forge: Forge) -> None:
    current = forge.current()
    one, two = next_targets(forge), next_targets(forge)
    refused("duplicate-role", lambda: judge(forge, current, ("targets", one), ("targets", two)))


def test_thresholds_must_be_reachable_and_keys_listed(forge: Forge) -> None:
    current = forge.current()
    forge.root.version = 2
    forge.root.roles["targets"].threshold = 2
    root = TUF.sign(forge.root, forge.signers["root"])
    refused("unreachable-threshold", lambda: judge(forge, current, ("root", root)))
    forge.root.roles["targets"].threshold = 1
    forge.root.roles["targets"].keyids.append("f" * 64)
    root = TUF.sign(forge.root, forge.signers["root"])
    refused("missing-key", lambda: judge(forge, current, ("root", root)))


def test_the_servers_key_under_another_id_is_not_the_servers(forge: Forge) -> None:
    online = forge.online()
    renamed = [
        SSlibKey("ab" * 32, key.keytype, key.scheme, dict(key.keyval)) for key in online.timestamp
    ]
    files = (("root", forge.files["root"]), ("targets", forge.files["targets"]))
    other = OnlineKeys(online.snapshot, renamed)
    refused("timestamp-is-online", lambda: judge(forge, None, *files, online=other))


@pytest.mark.parametrize(
    ("role", "rule"), [("timestamp", "timestamp-is-online"), ("snapshot", "missing-snapshot")]
)
def test_a_threshold_that_the_server_cannot_reach_is_not_its_own(
    forge: Forge, role: str, rule: str
) -> None:
    forge.root.add_key(CryptoSigner.generate_ed25519().public_key, role)
    forge.root.roles[role].threshold = 2
    data = TUF.sign(forge.root, forge.signers["root"])
    files = (("root", data), ("targets", forge.files["targets"]))
    refused(rule, lambda: judge(forge, None, *files))


def test_another_key_under_the_servers_id_is_not_the_servers(forge: Forge) -> None:
    """The server would sign with its own key, and no reader would find that signature good."""
    online = forge.online()
    stranger = CryptoSigner.generate_ed25519().public_key
    for role, keys in (("timestamp", online.timestamp), ("snapshot", online.snapshot)):
        root = copy.deepcopy(forge.root)
        root.keys[keys[0].keyid] = SSlibKey(
            keys[0].keyid, stranger.keytype, stranger.scheme, dict(stranger.keyval)
        )
        data = TUF.sign(root, forge.signers["root"])
        files = (("root", data), ("targets", forge.files["targets"]))
        rule = {"timestamp": "timestamp-is-online", "snapshot": "missing-snapshot"}[role]
        refused(rule, partial(judge, forge, None, *files))


def test_a_delegation_that_leads_again_to_a_role_of_other_keys_is_refused(forge: Forge) -> None:
    old = forge.delegate("alice", ["*"])
    forge.release()
    without = copy.deepcopy(forge.targets)
    assert forge.targets.delegations is not None
    again = copy.deepcopy(forge.targets.delegations)
    new = CryptoSigner.generate_ed25519()
    forge.targets.revoke_key(old.public_key.keyid, "alice")
    forge.targets.add_key(new.public_key, "alice")
    forge.targets.version = 2
    forge.delegated["alice"].version = 2
    forge.signers["alice"] = [new]
    forge.release()
    without.delegations = again
    without.version = 3
    data = TUF.sign(without, forge.signers["targets"])
    refused("orphaned-role", lambda: judge(forge, forge.current(), ("targets", data)))


def test_a_silent_role_put_before_one_that_published_is_refused(forge: Forge) -> None:
    forge.delegate("alice", ["*"])
    forge.delegated["alice"].targets["9"] = target(b"x", "9")
    forge.release()
    current = forge.current()
    forge.delegate("silent", ["*"])
    assert forge.targets.delegations is not None
    roles = forge.targets.delegations.roles
    assert roles is not None
    forge.targets.delegations.roles = {"silent": roles["silent"], "alice": roles["alice"]}
    data = next_targets(forge)
    refused("unreachable-target", lambda: judge(forge, current, ("targets", data)))


def test_a_dropped_target_that_leaves_anothers_behind_a_silent_role_is_refused(
    forge: Forge,
) -> None:
    forge.targets.targets["9"] = target(b"x", "9")
    forge.delegate("silent", ["*"])
    forge.delegate("alice", ["*"])
    forge.delegated["alice"].targets["9"] = target(b"x", "9")
    del forge.delegated["silent"]
    forge.release()
    current = forge.current()
    forge.targets.targets["8"] = target(b"x", "8")
    assert judge(forge, current, ("targets", next_targets(forge))).targets
    forge.targets.version -= 1
    del forge.targets.targets["9"]
    data = next_targets(forge)
    refused("unreachable-target", lambda: judge(forge, current, ("targets", data)))


def test_a_target_behind_more_roles_than_clients_visit_is_refused(forge: Forge) -> None:
    for number in range(40):
        forge.delegate(f"r{number}", ["*"])
    forge.release()
    current = forge.current()
    forge.delegated["r39"].targets["9"] = target(b"x", "9")
    with pytest.raises(RefusedPublicationError):
        judge(forge, current, ("r39", next_targets(forge, "r39")))


def test_a_key_that_is_not_of_its_type_is_refused(forge: Forge) -> None:
    rsa = CryptoSigner.generate_rsa().public_key
    current = forge.current()
    forge.root.version = 2
    forge.root.add_key(
        SSlibKey("cd" * 32, "ecdsa", "ecdsa-sha2-nistp256", dict(rsa.keyval)), "targets"
    )
    root = TUF.sign(forge.root, forge.signers["root"])
    refused("unreadable-key", lambda: judge(forge, current, ("root", root)))


def test_a_snapshot_stands_once_in_a_publication(forge: Forge) -> None:
    old = forge.current()
    upload = [("snapshot", forge.release()["snapshot"]) for _ in range(2)]
    refused("duplicate-role", lambda: judge(forge, old, *upload))


def test_the_first_root_has_version_1_and_signs_itself(forge: Forge) -> None:
    targets = ("targets", forge.files["targets"])
    forged = resign(forge.files["root"], [CryptoSigner.generate_ed25519()], lambda s: None)
    with pytest.raises(ThresholdError):
        judge(forge, None, ("root", forged), targets)
    later = resign(forge.files["root"], forge.signers["root"], lambda s: s.update(version=2))
    refused("root-versions", lambda: judge(forge, None, ("root", later), targets))


def test_an_expired_root_is_not_published(forge: Forge) -> None:
    forge.root.expires = NOW
    forge.root.version = 2
    root = TUF.sign(forge.root, forge.signers["root"])
    with pytest.raises(ExpiredMetadataError):
        judge(forge, forge.current(), ("root", root))


def test_the_first_version_of_a_role_is_1(forge: Forge) -> None:
    forge.delegate("alice", ["*"])
    current = forge.current()
    forge.targets.version += 1
    targets = TUF.sign(forge.targets, forge.signers["targets"])
    forge.delegated["alice"].version = 2
    alice = TUF.sign(forge.delegated["alice"], forge.signers["alice"])
    upload = (("targets", targets), ("alice", alice))
    assert refused("first-version", lambda: judge(forge, current, *upload)).role == "alice"


def test_new_snapshot_keys_of_the_server_need_a_new_snapshot(forge: Forge) -> None:
    current = forge.current()
    fresh = CryptoSigner.generate_ed25519().public_key
    forge.root.revoke_key(forge.signers["snapshot"][0].public_key.keyid, "snapshot")
    forge.root.add_key(fresh, "snapshot")
    forge.root.version = 2
    root = ("root", TUF.sign(forge.root, forge.signers["root"]))
    online = OnlineKeys([fresh], forge.online().timestamp)
    assert judge(forge, current, root, online=online).needs_snapshot
    theirs = OnlineKeys([], forge.online().timestamp)
    refused("missing-snapshot", lambda: judge(forge, current, root, online=theirs))


def test_a_root_that_leaves_the_publishers_snapshot_valid_needs_no_other(forge: Forge) -> None:
    current = forge.current()
    forge.root.version = 2
    root = ("root", TUF.sign(forge.root, forge.signers["root"]))
    made = judge(forge, current, root, online=OnlineKeys([], forge.online().timestamp))
    assert not made.needs_snapshot
    assert not judge(forge, current, root).needs_snapshot


def snapshot_of(forge: Forge, change: Callable[[Snapshot], object]) -> tuple[str, bytes]:
    old = TUF.parse("snapshot", forge.files["snapshot"], max_bytes=99999).signed
    assert isinstance(old, Snapshot)
    new = next_snapshot(TUF, old, {}, expires_at=forge.root.expires)
    change(new)
    return "snapshot", TUF.sign(new, forge.signers["snapshot"])


def test_a_publishers_snapshot_names_what_is_published_and_nothing_else(forge: Forge) -> None:
    forge.delegate("alice", ["*"])
    forge.release()
    current = forge.current()

    def forget(snapshot: Snapshot) -> None:
        del snapshot.meta["alice.json"]

    def invent(snapshot: Snapshot) -> None:
        snapshot.meta["bob.json"] = snapshot.meta["alice.json"]

    def misname(field: str, value: object) -> Callable[[Snapshot], object]:
        return lambda snapshot: setattr(snapshot.meta["alice.json"], field, value)

    wrong: list[Callable[[Snapshot], object]] = [
        forget, invent, misname("version", 2), misname("length", 1),
        misname("hashes", {"sha256": "00"}), misname("hashes", {"sha512": "00"}),
    ]  # fmt: skip
    for change in wrong:
        refused("snapshot-content", partial(judge, forge, current, snapshot_of(forge, change)))
    for change in (misname("hashes", None), misname("length", None)):
        made = judge(forge, current, snapshot_of(forge, change))
        assert made.snapshot is not None


def test_a_publishers_snapshot_is_the_next_signed_and_fresh(forge: Forge) -> None:
    current = forge.current()
    with pytest.raises(ConflictError):
        judge(forge, current, snapshot_of(forge, lambda new: setattr(new, "version", 3)))
    with pytest.raises(ExpiredMetadataError):
        judge(forge, current, snapshot_of(forge, lambda new: setattr(new, "expires", NOW)))
    forge.signers["snapshot"] = [CryptoSigner.generate_ed25519()]
    with pytest.raises(ThresholdError):
        judge(forge, current, snapshot_of(forge, lambda new: None))


def test_a_delegator_may_narrow_the_paths_of_what_stays(forge: Forge) -> None:
    forge.delegate("alice", ["*"])
    forge.delegated["alice"].targets["9"] = target(b"x", "9")
    forge.release()
    current = forge.current()
    assert forge.targets.delegations is not None
    assert forge.targets.delegations.roles is not None
    forge.targets.delegations.roles["alice"].paths = ["alice-*"]
    data = next_targets(forge)
    assert judge(forge, current, ("targets", data)).targets
    upload = (("targets", data), ("alice", next_targets(forge, "alice")))
    refused("path-not-delegated", lambda: judge(forge, current, *upload))


def test_a_target_that_an_earlier_role_answers_is_lawful(forge: Forge) -> None:
    forge.delegate("alice", ["*"])
    forge.delegate("bob", ["*"])
    forge.delegated["alice"].targets["9"] = target(b"x", "9")
    forge.release()
    current = forge.current()
    forge.delegated["bob"].targets["9"] = target(b"y", "9")
    assert judge(forge, current, ("bob", next_targets(forge, "bob"))).targets


def test_a_target_behind_a_terminating_role_is_refused(forge: Forge) -> None:
    forge.delegate("alice", ["*"], terminating=True)
    forge.delegate("bob", ["*"])
    forge.release()
    current = forge.current()
    forge.delegated["bob"].targets["9"] = target(b"y", "9")
    data = next_targets(forge, "bob")
    refused("path-not-delegated", lambda: judge(forge, current, ("bob", data)))


def test_a_ring_of_delegations_is_walked_once(forge: Forge) -> None:
    forge.delegate("alice", ["*"])
    forge.delegated["alice"].delegations = copy.deepcopy(forge.targets.delegations)
    forge.delegate("bob", ["*"])
    forge.release()
    current = forge.current()
    forge.delegated["bob"].targets["9"] = target(b"y", "9")
    assert judge(forge, current, ("bob", next_targets(forge, "bob"))).targets
