"""Expiry: what ends when, who renews it, how many keys are left, what to run."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Delegations, SuccinctRoles, Targets

from forge import NOW, Forge
from notary_gun import GUN, NotaryGun, certified
from notary_gun import NOW as NOTARY_NOW
from tabellion.core.dialect import NOTARY, TUF, Dialect
from tabellion.core.expiry import (
    LEVELS,
    UNKNOWN_LIFE,
    BinsState,
    End,
    Margins,
    Standing,
    View,
    judge,
    remedy,
    worst,
)

DAY = timedelta(days=1)
ONLINE = {"timestamp": UNKNOWN_LIFE, "snapshot": UNKNOWN_LIFE}


def view(
    files: Mapping[str, bytes],
    *,
    dialect: Dialect = TUF,
    online: Mapping[str, Margins] | None = None,
    **more: Any,
) -> View:
    parsed = {role: dialect.parse(role, data, max_bytes=len(data)) for role, data in files.items()}
    return View(
        GUN,
        {role: item.signed for role, item in parsed.items()},
        {role: item.signatures.keys() for role, item in parsed.items()},
        ONLINE if online is None else online,
        **more,
    )


def forged(**expiries: datetime) -> Forge:
    forge = Forge()
    forge.delegate("alice", ["a*"])
    for role, at in expiries.items():
        payload: Any = {"root": forge.root, "targets": forge.targets, **forge.delegated}[role]
        payload.expires = at
    forge.release()
    return forge


def standing_of(forge: Forge, *, now: datetime = NOW, **more: Any) -> Standing:
    return judge(view(forge.files, **more), now=now)


@pytest.mark.parametrize(
    ("left", "level"),
    [
        (timedelta(days=30, seconds=1), "ok"),
        (timedelta(days=30), "warn"),
        (timedelta(days=7, seconds=1), "warn"),
        (timedelta(days=7), "critical"),
        (timedelta(seconds=1), "critical"),
        (timedelta(0), "expired"),
        (timedelta(days=-400), "expired"),
    ],
)
def test_the_time_left_makes_the_level(left: timedelta, level: str) -> None:
    forge = forged(alice=NOW + left)
    standing = standing_of(forge)
    assert standing.level_of("alice") == level
    assert standing.level == level
    assert standing.level_of("targets") == "ok"


def test_the_soonest_of_what_people_renew_breaks_first() -> None:
    forge = forged(targets=NOW + 300 * DAY, alice=NOW + 100 * DAY)
    first = standing_of(forge).first
    assert first is not None
    assert (first.role, first.level, first.expires_at) == ("alice", "ok", NOW + 100 * DAY)


def test_what_a_server_renews_breaks_nothing_while_it_does() -> None:
    forge = forged()
    forge.release(expires_at=NOW + timedelta(hours=13), snapshot_expires_at=NOW + 16 * DAY)
    online = {
        "timestamp": Margins.of_renewed(DAY),
        "snapshot": Margins.of_renewed(30 * DAY),
    }
    standing = standing_of(forge, online=online)
    assert standing.level == "ok"
    assert standing.ends[0].role == "timestamp"
    assert standing.first is not None
    assert standing.first.role not in online


@pytest.mark.parametrize(("hours", "level"), [(12, "ok"), (9, "warn"), (3, "critical")])
def test_a_server_behind_its_own_renewal_is_told(hours: int, level: str) -> None:
    forge = forged()
    forge.release(expires_at=NOW + timedelta(hours=hours))
    standing = standing_of(forge, online={**ONLINE, "timestamp": Margins.of_renewed(DAY)})
    assert standing.level == level
    assert (standing.first is not None and standing.first.role == "timestamp") == (level != "ok")


def test_another_servers_timestamp_counts_only_once_it_is_expired() -> None:
    forge = forged()
    forge.release(expires_at=NOW + timedelta(seconds=5))
    assert standing_of(forge).level == "ok"
    late = standing_of(forge, now=NOW + timedelta(seconds=5))
    assert late.level == "expired"
    assert late.first is not None
    assert "operator" in remedy(late.first, GUN)


def test_a_snapshot_that_a_publisher_signs_is_the_publishers_to_renew() -> None:
    forge = forged()
    forge.release(snapshot_expires_at=NOW + 20 * DAY)
    standing = standing_of(forge, online={"timestamp": UNKNOWN_LIFE})
    assert standing.level_of("snapshot") == "warn"
    assert standing.first is not None
    assert (standing.first.role, standing.first.renewed_by) == ("snapshot", "publisher")


def test_a_role_without_a_file_is_listed_and_has_no_end() -> None:
    forge = forged()
    del forge.files["alice"]
    standing = standing_of(forge)
    alice = next(role for role in standing.roles if role.role == "alice")
    assert (alice.version, alice.expires_at, alice.delegator) == (None, None, "targets")
    assert "alice" not in {end.role for end in standing.ends}


def test_one_key_under_two_ids_is_alive_once() -> None:
    forge = forged()
    twin = copy.copy(forge.signers["root"][0].public_key)
    twin.keyid = "f" * 64
    forge.root.add_key(twin, "root")
    forge.root.add_key(CryptoSigner.generate_ed25519().public_key, "root")
    forge.root.roles["root"].threshold = 2
    forge.sign("root", forge.root)
    root = standing_of(forge).roles[0]
    assert (root.threshold, len(root.keys), root.alive, root.margin) == (2, 3, 2, 0)


def test_keys_tell_who_holds_them_and_whether_they_signed() -> None:
    forge = forged()
    other = CryptoSigner.generate_ed25519().public_key
    forge.root.unrecognized_fields["x-tabellion-holders"] = {other.keyid: "Bea"}
    forge.root.add_key(other, "root")
    forge.sign("root", forge.root)
    here = forge.signers["root"][0].public_key
    standing = standing_of(forge, local_name=lambda key: "mine" if key == here else None)
    keys = {key.holder: key for key in standing.roles[0].keys}
    assert (keys["mine"].is_held, keys["mine"].has_signed) == (True, True)
    assert (keys["Bea"].is_held, keys["Bea"].has_signed) == (False, False)


def test_published_bins_are_told_without_listing_billions() -> None:
    forge = forged()
    signer = CryptoSigner.generate_ed25519()
    keyid = signer.public_key.keyid
    forge.targets.delegations = Delegations(
        {keyid: signer.public_key}, None, SuccinctRoles([keyid], 1, 32, "bin")
    )
    forge.sign("targets", forge.targets)
    forge.signers["bin-0000000a"] = [signer]
    forge.sign("bin-0000000a", Targets(expires=NOW + 3 * DAY))
    del forge.files["alice"]
    standing = standing_of(forge)
    assert standing.level_of("bin-0000000a") == "critical"
    assert len(standing.roles) == 5
    first = standing.first
    assert first is not None
    assert first.bins == BinsState(2**32, (keyid,))
    told = f"tabellion rebin x.example/y --bins {2**32} --bins-key {keyid[:16]}"
    assert remedy(first, "x.example/y") == told


def test_of_bins_with_the_targets_key_the_first_to_end_is_told_and_rebin_renews_all() -> None:
    forge = Forge()
    forge.spread(3, "bin1", "a", "b", holder=forge.signers["targets"][0])
    forge.delegated["bin1-5"].expires = NOW + 3 * DAY
    forge.release()
    standing = standing_of(forge)
    assert [role.role for role in standing.roles if role.bins] == ["bin1-5"]
    first = standing.first
    assert first is not None
    assert (first.role, first.level, first.bins) == ("bin1-5", "critical", BinsState(8))
    assert remedy(first, "x.example/y") == "tabellion rebin x.example/y --bins 8"


def notary_standing(gun: NotaryGun, now: datetime = NOTARY_NOW) -> Standing:
    return judge(view(gun.files, dialect=NOTARY), now=now)


def test_a_root_certificate_ends_a_notary_gun_before_its_root_does() -> None:
    gun = NotaryGun(certified(ends=NOTARY_NOW + 5 * DAY))
    gun.release()
    first = notary_standing(gun).first
    assert first is not None
    assert (first.role, first.what, first.level) == ("root", "certificates", "critical")
    assert first.expires_at == NOTARY_NOW + 5 * DAY
    assert first.name == "root certificate"
    late = notary_standing(gun, NOTARY_NOW + 6 * DAY)
    assert late.level == "expired"
    assert late.roles[0].margin == -1
    assert not late.roles[0].keys[0].is_alive


def test_a_notary_root_lives_as_long_as_enough_of_its_signers_certificates() -> None:
    gun = NotaryGun(certified(ends=NOTARY_NOW + 5 * DAY))
    longer = certified(ends=NOTARY_NOW + 500 * DAY)
    gun.signers["root"].append(longer)
    gun.root.add_key(longer.public_key, "root")
    gun.release()
    ends = [end for end in notary_standing(gun).ends if end.what == "certificates"]
    assert [end.expires_at for end in ends] == [NOTARY_NOW + 500 * DAY]
    root = notary_standing(gun, NOTARY_NOW + 6 * DAY).roles[0]
    assert (root.alive, root.margin) == (1, 0)
    gun.root.roles["root"].threshold = 2
    gun.release()
    ends = [end for end in notary_standing(gun).ends if end.what == "certificates"]
    assert [end.expires_at for end in ends] == [NOTARY_NOW + 5 * DAY]


def test_two_certificates_of_one_key_count_by_the_later_one() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    gun = NotaryGun(certified(private, ends=NOTARY_NOW + 5 * DAY))
    renewed = certified(private, ends=NOTARY_NOW + 900 * DAY)
    gun.signers["root"].append(renewed)
    gun.root.add_key(renewed.public_key, "root")
    gun.release()
    ends = [end for end in notary_standing(gun).ends if end.what == "certificates"]
    assert [end.expires_at for end in ends] == [NOTARY_NOW + 900 * DAY]
    assert notary_standing(gun).roles[0].alive == 1


def test_a_certificate_whose_key_did_not_sign_keeps_no_root_alive() -> None:
    gun = NotaryGun(certified(ends=NOTARY_NOW + 5 * DAY))
    gun.root.add_key(certified(ends=NOTARY_NOW + 500 * DAY).public_key, "root")
    gun.release()
    ends = [end for end in notary_standing(gun).ends if end.what == "certificates"]
    assert [end.expires_at for end in ends] == [NOTARY_NOW + 5 * DAY]


@pytest.mark.parametrize("gun", ["plain data", "it's;rm -rf", "$(id)", "registry.example/a b"])
def test_a_name_cannot_break_out_of_the_command(gun: str) -> None:
    for role in ("root", "targets", "snapshot", "al;ice"):
        end = End(role, "metadata", NOW, "warn", "publisher")
        words = shlex.split(remedy(end, gun))
        assert words[0] == "tabellion"
        assert words[words.index("--gun") + 1] == gun
    plain = remedy(End("root", "metadata", NOW, "warn", "publisher"), GUN)
    assert plain == f"tabellion witness {GUN} root"
    certificate = remedy(End("root", "certificates", NOW, "warn", "publisher"), GUN)
    assert certificate == f"tabellion rotate {GUN} root"


@given(
    st.lists(st.integers(-400, 400), min_size=3, max_size=3),
    st.integers(-500, 500),
    st.integers(0, 200),
    st.integers(0, 60),
)
def test_as_time_passes_nothing_gets_better(
    days: list[int], begin: int, later: int, critical: int
) -> None:
    margins = Margins(timedelta(days=60), timedelta(days=critical))
    levels = [
        [margins.level(NOW + day * DAY, NOW + (begin + passed) * DAY) for day in days]
        for passed in (0, later)
    ]
    for before, after in zip(*levels, strict=True):
        assert LEVELS.index(before) <= LEVELS.index(after)
    assert worst(levels[1]) == max(levels[1], key=LEVELS.index)
