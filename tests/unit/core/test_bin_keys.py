"""Which keys hash bins have after the targets role got others."""

from __future__ import annotations

import copy

import pytest
from securesystemslib.signer import CryptoSigner, Key
from tuf.api.metadata import Delegations, Root, SuccinctRoles, Targets

from forge import LATER
from tabellion.core.bin_keys import BinKeys, give_keys, keys_after, own_keys
from tabellion.core.bins import bins_of
from tabellion.errors import UsageError

A, B, C, OWN = (CryptoSigner.generate_ed25519().public_key for _ in range(4))


def root_of(*keys: Key, threshold: int = 1) -> Root:
    root = Root(expires=LATER)
    for key in keys:
        root.add_key(key, "targets")
    root.roles["targets"].threshold = threshold
    return root


def binned(*keys: Key, threshold: int = 1) -> Targets:
    listed = {key.keyid: key for key in keys}
    bins = SuccinctRoles(list(listed), threshold, 3, "bin7", {"x-note": 1})
    return Targets(expires=LATER, delegations=Delegations(listed, None, bins, {"x-more": 2}))


def after(
    bins: Targets, old: tuple[Key, ...], new: tuple[Key, ...], threshold: int = 1
) -> set[str] | None:
    found = keys_after(bins, root_of(*old), root_of(*new, threshold=threshold))
    return {key.keyid for key in found.keys} if found is not None else None


def ids(*keys: Key) -> set[str]:
    return {key.keyid for key in keys}


def test_bins_with_the_keys_of_targets_follow_it() -> None:
    assert after(binned(A), (A,), (B,)) == ids(B)
    assert after(binned(A), (A,), (A, B)) == ids(A, B)
    assert after(binned(A, B), (A, B), (B,)) == ids(B)
    assert after(binned(A), (A,), (A,)) is None
    found = keys_after(binned(A, B), root_of(A, B), root_of(A, B, threshold=2))
    assert found == BinKeys((A, B), 2)


def test_of_shared_keys_those_that_targets_loses_are_replaced() -> None:
    assert after(binned(A, OWN), (A,), (B,)) == ids(OWN, B)
    assert after(binned(A), (A, B), (B,)) == ids(B)
    assert after(binned(A, OWN), (A, B), (B, C)) == ids(OWN, C)
    assert after(binned(A, OWN), (A,), (A, B)) is None
    assert after(binned(A), (A, B), (A, C)) is None


def test_keys_of_their_own_stay() -> None:
    assert after(binned(OWN), (A,), (B,)) is None
    assert own_keys(binned(OWN, A), root_of(A)) == [OWN]
    assert own_keys(binned(A), root_of(A)) == []
    assert own_keys(Targets(expires=LATER), root_of(A)) == []
    assert keys_after(Targets(expires=LATER), root_of(A), root_of(B)) is None


def test_a_key_under_another_id_is_the_same_key() -> None:
    alias = copy.deepcopy(A)
    alias.keyid = "a" * 64
    assert after(binned(alias), (A,), (B,)) == ids(B)
    assert own_keys(binned(alias), root_of(A)) == []


def test_bins_never_get_fewer_keys_than_they_need() -> None:
    with pytest.raises(UsageError, match="need 2 keys, 1 would"):
        keys_after(binned(A, B, threshold=2), root_of(A, B, C), root_of(C))


def test_only_keys_and_threshold_of_the_delegation_change() -> None:
    targets = binned(A)
    before = copy.deepcopy(targets)
    give_keys(targets, BinKeys((B, C), 2))
    assert targets.delegations is not None
    assert before.delegations is not None
    old, new = bins_of(before), bins_of(targets)
    assert old is not None
    assert new is not None
    assert list(new.get_roles()) == list(old.get_roles())
    assert (new.keyids, new.threshold) == ([B.keyid, C.keyid], 2)
    assert targets.delegations.keys == {B.keyid: B, C.keyid: C}
    assert new.unrecognized_fields == old.unrecognized_fields
    assert targets.delegations.unrecognized_fields == before.delegations.unrecognized_fields
