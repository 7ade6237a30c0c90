"""A proposal's id, standing and merging; what may be proposed at all."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import CryptoSigner, Signature, Signer, SSlibKey
from tuf.api.metadata import Root

from forge import NOW, Forge, target
from notary_gun import NotaryGun, certified
from tabellion.core.dialect import NOTARY, TUF
from tabellion.core.holders import MEMBER, holders_of, set_holders
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.proposal import Proposal
from tabellion.core.proposal_rules import verify_base, verify_fit, verify_signatures
from tabellion.core.publication import CurrentSet, OnlineKeys, ServedFiles, UploadedFile
from tabellion.errors import (
    ConflictError,
    InvalidNameError,
    MetadataTooLargeError,
    RefusedPublicationError,
)

GUN = "registry.example/team/app"


def proposed(data: bytes, role: str = "root") -> Proposal:
    return Proposal.parse(GUN, TUF, [UploadedFile(role, data)])


def grown(forge: Forge, added: Sequence[Signer], *, threshold: int) -> Root:
    root = copy.deepcopy(forge.root)
    root.version += 1
    for signer in added:
        root.add_key(signer.public_key, "root")
    root.roles["root"].threshold = threshold
    return root


def test_signatures_do_not_change_the_id_and_content_does(forge: Forge) -> None:
    root = grown(forge, [], threshold=1)
    bare, signed = (proposed(TUF.sign(root, by)) for by in ([], forge.signers["root"]))
    assert bare.id == signed.id
    root.version += 1
    assert proposed(TUF.sign(root, [])).id != bare.id
    data = TUF.sign(forge.targets, [])
    assert proposed(data, "targets").id != proposed(data, "alice").id


def test_a_root_stands_with_the_old_and_with_its_own_keys(forge: Forge) -> None:
    ann, bob = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
    root = grown(forge, [ann, bob], threshold=2)
    current = forge.current()
    first = proposed(TUF.sign(root, [ann]))
    by_old, by_new = first.standings(current)
    assert (by_old.lacking, by_new.lacking) == (1, 1)
    assert set(by_new.awaited) == {forge.root.roles["root"].keyids[0], bob.public_key.keyid}
    assert first.missing(current) == {"root": 1}
    merged = first.merged(proposed(TUF.sign(root, forge.signers["root"])))
    assert merged.missing(current) == {}
    assert merged.id == first.id
    assert len(merged.files["root"].signatures) == 2


def test_a_first_root_stands_with_its_own_keys_only(forge: Forge) -> None:
    proposal = proposed(forge.files["root"])
    (standing,) = proposal.standings(None)
    assert standing.lacking == 0


def test_one_key_under_two_ids_counts_once_and_is_not_awaited_again(forge: Forge) -> None:
    (signer,) = forge.signers["root"]
    twin = SSlibKey("f" * 64, "ed25519", "ed25519", dict(signer.public_key.keyval))
    root = grown(forge, [], threshold=2)
    root.add_key(twin, "root")
    data = TUF.sign(root, [signer])
    signature = TUF.parse("root", data, max_bytes=len(data)).signatures[signer.public_key.keyid]
    both = TUF.with_signatures(data, [replace_id(signature, twin.keyid)])
    _, by_new = proposed(both).standings(forge.current())
    assert len(by_new.signed_by) == 1
    assert by_new.awaited == ()
    assert by_new.lacking == 1


def replace_id(signature: Signature, keyid: str) -> Signature:
    made = copy.deepcopy(signature)
    made.keyid = keyid
    return made


def test_one_key_under_two_certificates_counts_once_in_a_notary_proposal() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    one, other = certified(private), certified(private)
    gun = NotaryGun(one)
    gun.release()
    root = copy.deepcopy(gun.root)
    root.version += 1
    root.add_key(other.public_key, "root")
    root.roles["root"].threshold = 2
    upload = [UploadedFile("root", NOTARY.sign(root, [one, other]))]
    proposal = Proposal.parse(GUN, NOTARY, upload)
    current = CurrentSet.parse(gun.files, NOTARY)
    assert proposal.missing(current) == {"root": 1}
    verify_signatures(proposal, current)
    with pytest.raises(RefusedPublicationError) as caught:
        verify_fit(proposal, current, online=gun.online(), now=NOW)
    assert caught.value.rule == "unreachable-threshold"


def test_a_targets_file_stands_with_the_root_that_is_proposed_beside_it(forge: Forge) -> None:
    ann = CryptoSigner.generate_ed25519()
    root = grown(forge, [], threshold=1)
    root.revoke_key(root.roles["targets"].keyids[0], "targets")
    root.add_key(ann.public_key, "targets")
    targets = copy.deepcopy(forge.targets)
    targets.version += 1
    alone = proposed(TUF.sign(root, forge.signers["root"]))
    with pytest.raises(RefusedPublicationError) as caught:
        verify_fit(alone, forge.current(), online=forge.online(), now=NOW)
    assert caught.value.rule == "orphaned-role"
    both = Proposal.parse(GUN, TUF, [*alone.upload, UploadedFile("targets", TUF.sign(targets, []))])
    verify_fit(both, forge.current(), online=forge.online(), now=NOW)
    standings = [item for item in both.standings(forge.current()) if item.role == "targets"]
    assert [(item.delegator_version, item.awaited) for item in standings] == [
        (2, (ann.public_key.keyid,))
    ]


def test_a_proposal_follows_the_current_version_of_each_role(forge: Forge) -> None:
    current = forge.current()
    verify_base(proposed(TUF.sign(grown(forge, [], threshold=1), [])), current)
    with pytest.raises(ConflictError):
        verify_base(proposed(forge.files["root"]), current)
    with pytest.raises(RefusedPublicationError) as caught:
        verify_base(proposed(forge.files["root"]), None)
    assert caught.value.rule == "missing-root"


def test_only_what_publishers_sign_is_proposed(forge: Forge) -> None:
    for files in (
        [],
        [UploadedFile("snapshot", forge.files["snapshot"])],
        [UploadedFile("timestamp", forge.files["timestamp"])],
        [UploadedFile("root", forge.files["root"])] * 2,
    ):
        with pytest.raises(RefusedPublicationError):
            Proposal.parse(GUN, TUF, files)
    with pytest.raises(InvalidNameError):
        Proposal.parse(GUN, TUF, [UploadedFile("2.root", forge.files["root"])])
    with pytest.raises(InvalidNameError):
        Proposal.parse(GUN, NOTARY, [UploadedFile("alice", b"{}")])
    with pytest.raises(MetadataTooLargeError):
        Proposal.parse(GUN, TUF, [UploadedFile("root", b" " * 600_000)])


def test_a_snapshot_that_publishers_sign_is_needed_for_targets_only(forge: Forge) -> None:
    current, mine = forge.current(), OnlineKeys([], forge.online().timestamp)
    root = proposed(TUF.sign(grown(forge, [], threshold=1), []))
    forge.targets.targets["2"] = target(b"two", "2")
    targets = proposed(TUF.sign(forge.targets, []), "targets")
    assert not root.needs_own_snapshot(current, online=mine)
    assert targets.needs_own_snapshot(current, online=mine)
    assert not targets.needs_own_snapshot(current, online=forge.online())


def test_holders_are_named_beside_the_keys_and_survive_while_these_are_listed(
    forge: Forge,
) -> None:
    (keyid,) = forge.root.roles["root"].keyids
    set_holders(forge.root, {keyid: "Ann Ä", "0" * 64: "Nobody"})
    assert holders_of(forge.root) == {keyid: "Ann Ä"}
    data = TUF.sign(forge.root, [])
    parsed = TUF.parse("root", data, max_bytes=len(data)).signed
    assert holders_of(parsed) == {keyid: "Ann Ä"}
    forge.root.revoke_key(keyid, "root")
    set_holders(forge.root, {})
    assert MEMBER not in forge.root.unrecognized_fields
    for name in ("", "a\nb", "x" * 65):
        with pytest.raises(InvalidNameError):
            set_holders(forge.root, {keyid: name})
    for odd in ({keyid: 1}, {keyid: "a\x1b[2J"}, ["x"], "x"):
        forge.root.unrecognized_fields[MEMBER] = odd
        assert holders_of(forge.root) == {}


def test_a_proposal_is_served_if_its_payloads_are(forge: Forge) -> None:
    proposal = proposed(forge.files["root"])
    assert proposal.is_served(forge.current())
    assert not proposed(TUF.sign(grown(forge, [], threshold=1), [])).is_served(forge.current())
    assert not proposal.is_served(None)


def test_a_proposal_for_one_bin_reads_no_other(forge: Forge) -> None:
    holder = CryptoSigner.generate_ed25519()
    forge.spread(2, "bin1", "1", holder=holder)
    forge.release()
    whole, name = forge.current(), forge.bin_of("1")
    read: list[str] = []

    def read_one(role: str) -> UnverifiedMetadata[Any]:
        read.append(role)
        return whole.files[role]

    current = CurrentSet(ServedFiles(whole.files.keys(), read_one), TUF)
    payload = copy.deepcopy(forge.delegated[name])
    payload.version += 1
    bare = proposed(TUF.sign(payload, []), name)
    verify_base(bare, current)
    verify_fit(bare, current, online=forge.online(), now=NOW)
    assert bare.missing(current) == {name: 1}
    signed = proposed(TUF.sign(payload, [holder]), name)
    verify_signatures(signed, current)
    assert signed.missing(current) == {}
    assert set(read) <= {"root", "targets", name}
    odd = proposed(TUF.sign(payload, [holder]), f"{name[:-1]}x")
    with pytest.raises(RefusedPublicationError, match="nothing delegates"):
        verify_signatures(odd, current)


def test_other_keys_for_bins_are_proposed_with_all_bins_only(forge: Forge) -> None:
    forge.spread(2, "bin1", "1", holder=CryptoSigner.generate_ed25519())
    forge.release()
    current = forge.current()
    forge.spread(2, "bin1", "1", holder=CryptoSigner.generate_ed25519())
    forge.targets.version += 1
    data = TUF.sign(forge.targets, forge.signers["targets"])
    with pytest.raises(RefusedPublicationError) as caught:
        verify_fit(proposed(data, "targets"), current, online=forge.online(), now=NOW)
    assert caught.value.rule == "orphaned-role"


def test_more_keys_than_bins_have_cannot_be_asked_of_them(forge: Forge) -> None:
    forge.spread(2, "bin1", holder=CryptoSigner.generate_ed25519())
    assert forge.targets.delegations is not None
    assert forge.targets.delegations.succinct_roles is not None
    forge.targets.delegations.succinct_roles.threshold = 2
    data = TUF.sign(forge.targets, forge.signers["targets"])
    with pytest.raises(RefusedPublicationError):
        verify_fit(proposed(data, "targets"), None, online=forge.online(), now=NOW)
