"""Hash bins against whoever holds a bin's key, a stale copy, or a faulty publisher (TAP 15)."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Delegations, SuccinctRoles, Targets

from forge import LATER, NOW, Forge, target
from tabellion.core.dialect import TUF
from tabellion.core.publication import Publication, UploadedFile
from tabellion.core.roles import role_keys
from tabellion.core.search import find_all, find_target, walk_roles
from tabellion.core.transitions import judge_publication
from tabellion.core.trusted_set import TrustedSet
from tabellion.errors import (
    ConflictError,
    MalformedMetadataError,
    NotSignedError,
    RefusedPublicationError,
    ThresholdError,
    VerificationError,
)

HOLDER = CryptoSigner.generate_ed25519()


def binned(bits: int = 2, prefix: str = "bin1", *paths: str) -> Forge:
    """Give a published GUN of 2^bits bins with these paths in."""
    forge = Forge()
    fill(forge, bits, prefix, *paths)
    forge.release()
    return forge


def fill(forge: Forge, bits: int, prefix: str, *paths: str) -> None:
    forge.spread(bits, prefix, *paths, holder=HOLDER)


def judge(forge: Forge, *roles: str) -> Publication:
    """Sign the next version of some roles as they are now, and ask the server's rules."""
    served, files = forge.current(), dict(forge.files)
    upload = []
    for role in roles:
        payload = forge.targets if role == "targets" else forge.delegated[role]
        payload.version = served.files[role].version + 1 if role in served.files else 1
        upload.append(UploadedFile(role, forge.sign(role, payload)))
    forge.files = files
    return judge_publication(served, upload, gun="x/y", online=forge.online(), now=NOW)


def refused(forge: Forge, *roles: str) -> str:
    with pytest.raises(RefusedPublicationError) as caught:
        judge(forge, *roles)
    return caught.value.rule


def read(forge: Forge, *, but: str = "") -> Callable[[TrustedSet], list[str]]:
    """Give a reader of everything, to whom one role's file is withheld."""

    def reader(trusted: TrustedSet) -> list[str]:
        search = find_all(trusted)
        while True:
            try:
                request = next(search)
            except StopIteration as stop:
                return [match.path for match in stop.value]
            try:
                if request.role == but:
                    raise NotSignedError("withheld")
                trusted.update_targets(forge.files[request.role], request.role, request.delegator)
            except VerificationError as error:
                trusted.note_unusable(request.role, request.delegator, error)

    return reader


def test_a_bin_is_published_by_its_key_alone() -> None:
    forge = binned(2, "bin1", "1.0", "1.1")
    name = forge.bin_of("1.2")
    forge.delegated[name].targets["1.2"] = target(b"two")
    judged = judge(forge, name)
    assert judged.targets.keys() == {name}
    assert judged.needs_snapshot


def test_a_target_in_the_wrong_bin_is_refused_and_never_found() -> None:
    forge = binned()
    wrong = next(name for name in forge.delegated if name != forge.bin_of("1.2"))
    forge.delegated[wrong].targets["1.2"] = target(b"evil")
    assert refused(forge, wrong) == "path-not-delegated"
    forge.release()  # a server that doesn't judge
    assert read(forge)(forge.trusted()) == []


def test_a_bin_that_delegates_further_is_refused() -> None:
    forge = binned()
    name = forge.bin_of("1.2")
    forge.delegated[name].delegations = Delegations({}, {})
    assert refused(forge, name) == "bin-delegates"


def test_bins_of_a_delegated_role_are_refused() -> None:
    forge = Forge()
    forge.delegate("alice", ["*"])
    forge.release()
    forge.delegated["alice"].delegations = Delegations(
        {HOLDER.public_key.keyid: HOLDER.public_key},
        None,
        SuccinctRoles([HOLDER.public_key.keyid], 1, 1, "bin"),
    )
    assert refused(forge, "alice") == "succinct-roles"


def test_a_bin_signed_by_another_key_is_refused() -> None:
    forge = binned()
    name = forge.bin_of("1.2")
    forge.signers[name] = [CryptoSigner.generate_ed25519()]
    with pytest.raises(ThresholdError):
        judge(forge, name)


def test_bins_whose_key_changes_are_all_signed_anew_or_refused() -> None:
    forge = binned()
    key = CryptoSigner.generate_ed25519()
    assert forge.targets.delegations is not None
    bins = forge.targets.delegations.succinct_roles
    assert bins is not None
    bins.keyids = [key.public_key.keyid]
    forge.targets.delegations.keys = {key.public_key.keyid: key.public_key}
    assert refused(forge, "targets") == "orphaned-role"
    forge = binned()
    forge.targets.delegations = Delegations({key.public_key.keyid: key.public_key}, None, bins)
    for name in forge.delegated:
        forge.signers[name] = [key]
    assert len(judge(forge, "targets", *forge.delegated).targets) == 5


@pytest.mark.parametrize("bits", [14, 32])
def test_more_bins_than_a_snapshot_holds_are_refused_without_counting_them(bits: int) -> None:
    forge = binned()
    assert forge.targets.delegations is not None
    keys = forge.targets.delegations.keys
    forge.targets.delegations = Delegations(keys, None, SuccinctRoles(list(keys), 1, bits, "bin2"))
    assert refused(forge, "targets") == "bin-count"


def test_bins_that_arent_all_there_are_refused() -> None:
    forge = Forge()
    forge.release()
    fill(forge, 2, "bin1")
    names = list(forge.delegated)
    assert refused(forge, "targets", *names[:-1]) == "missing-bin"


@pytest.mark.parametrize("bits", [0, 33, True, "2", None, 2.0])
def test_a_number_of_bits_that_is_none_is_refused(bits: object) -> None:
    forge = binned()
    content = json.loads(forge.files["targets"])
    content["signed"]["delegations"]["succinct_roles"]["bit_length"] = bits
    with pytest.raises(MalformedMetadataError):
        TUF.parse("targets", json.dumps(content).encode(), max_bytes=10**6)


def test_a_role_of_a_bins_name_beside_them_isnt_theirs() -> None:
    forge = binned(3)
    for name in ("bin1-8", "bin1-07", "bin1-A", "bin1-+1", "bin-1", "bin1"):
        with pytest.raises(MalformedMetadataError, match="delegates"):
            role_keys(forge.targets, name)


def test_a_plain_role_of_a_bins_name_keeps_its_file_from_being_taken_for_the_bin() -> None:
    forge = Forge()
    forge.delegate("bin1-0", ["*"])
    forge.release()
    plain = forge.delegated["bin1-0"]
    fill(forge, 1, "bin1")
    forge.delegated["bin1-0"] = plain
    assert refused(forge, "targets", "bin1-1") == "orphaned-role"


def test_bins_filled_from_an_older_state_lose_the_race() -> None:
    forge = binned(1, "bin1", "1.0", "1.1")
    fill(forge, 2, "bin2", "1.0")  # 1.1 was published after this was read
    with pytest.raises(ConflictError):
        judge(forge, "targets", *forge.delegated)
    fill(forge, 2, "bin2", "1.0", "1.1", "1.2")  # or 1.2 revoked
    with pytest.raises(ConflictError):
        judge(forge, "targets", *forge.delegated)
    fill(forge, 2, "bin2", "1.0", "1.1")
    assert len(judge(forge, "targets", *forge.delegated).targets) == 5


def test_who_signs_in_a_bin_that_was_replaced_meanwhile_is_told_to_read_again() -> None:
    forge = binned(1, "bin1", "1.0")
    old = dict(forge.delegated)
    fill(forge, 2, "bin2", "1.0")
    forge.release()
    forge.delegated |= old
    with pytest.raises(ConflictError):
        judge(forge, binned(1).bin_of("1.0"))


def test_a_bin_that_is_withheld_hides_its_targets_alone_and_is_told() -> None:
    forge = binned(2, "bin1", *(f"1.{n}" for n in range(9)))
    gone = forge.bin_of("1.2")
    trusted = forge.trusted()
    found = read(forge, but=gone)(trusted)
    assert found == [path for path in (f"1.{n}" for n in range(9)) if forge.bin_of(path) != gone]
    assert found
    assert trusted.unusable.keys() == {("targets", gone)}
    search = find_target(forge.trusted(), "1.2")
    assert next(search).role == gone  # verified alone, it is asked for, and nothing else


def test_listing_2_to_the_32_bins_reads_those_in_the_snapshot_only() -> None:
    forge = Forge()
    fill(forge, 2, "bin")
    assert forge.targets.delegations is not None
    keys = forge.targets.delegations.keys
    forge.targets.delegations = Delegations(keys, None, SuccinctRoles(list(keys), 1, 32, "bin"))
    assert forge.targets.delegations.succinct_roles is not None
    name = forge.targets.delegations.succinct_roles.get_role_for_target("1.2")
    forge.delegated = {name: Targets(targets={"1.2": target(b"two")}, expires=LATER)}
    forge.signers[name] = [HOLDER]
    forge.release()
    trusted = forge.trusted()
    walk = walk_roles(trusted)
    assert next(walk).role == name
    assert read(forge)(trusted) == ["1.2"]
