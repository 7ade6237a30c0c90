"""What a publication to a Notary GUN may do, in Notary's words where it may not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tuf.api.metadata import Delegations

from notary_forge import WEAK
from notary_gun import LATER, NOW, NotaryGun, certified, new_signer, target, weakly_certified
from tabellion.core.dialect import NOTARY
from tabellion.core.notary_keys import NotarySigner
from tabellion.core.release import next_snapshot
from tabellion.errors import MetadataTooLargeError, NotaryRefusalError


@pytest.fixture
def gun() -> NotaryGun:
    return NotaryGun()


@pytest.fixture
def live(gun: NotaryGun) -> NotaryGun:
    gun.targets["targets"].targets["1.0"] = target()
    gun.delegate("targets/releases")
    gun.release()
    return gun


def refused(
    name: str | None, match: str, judge: Callable[[], object], code: str = "INVALID_UPDATE"
) -> None:
    with pytest.raises(NotaryRefusalError) as caught:
        judge()
    assert re.search(match, caught.value.told)
    assert (caught.value.code_name, caught.value.name) == (code, name)


def test_a_first_publication_needs_no_snapshot(gun: NotaryGun) -> None:
    judged = gun.judge({"root": gun.sign("root"), "targets": gun.sign("targets")})
    assert judged.dialect is NOTARY
    assert judged.needs_snapshot
    assert [root.version for root in judged.roots] == [1]


@pytest.mark.parametrize("version", [0, 3, 9])
def test_a_first_root_is_version_1_or_2(gun: NotaryGun, version: int) -> None:
    files = {"targets": gun.sign("targets")}
    gun.root.version = 2
    assert gun.judge({**files, "root": gun.sign("root")}).root.version == 2
    gun.root.version = version
    refused(
        "ErrBadRoot",
        f"must increment the version. Current 1, new {version}",
        lambda: gun.judge({**files, "root": gun.sign("root")}),
    )


def test_an_upload_without_root_or_targets_to_a_new_gun_is_refused(gun: NotaryGun) -> None:
    refused(
        "ErrValidation",
        "no pre-existing root",
        lambda: gun.judge({"targets": gun.sign("targets")}),
    )
    refused(
        "ErrValidation",
        "targets must be loaded first",
        lambda: gun.judge({"root": gun.sign("root")}),
    )


@pytest.mark.parametrize(
    "signer",
    [
        lambda: certified(name="elsewhere.example/app"),
        lambda: certified(ends=NOW - timedelta(days=1)),
        lambda: certified(begins=NOW + timedelta(days=3)),
        new_signer,
        *(partial(weakly_certified, kind) for kind in WEAK),
    ],
    ids=["another GUN's", "expired", "not begun", "bare key", *WEAK],
)
def test_a_root_without_a_usable_certificate_is_refused(signer: Callable[[], object]) -> None:
    gun = NotaryGun(signer())  # type: ignore[arg-type]
    refused(
        "ErrBadRoot",
        "unable to retrieve valid leaf certificates",
        lambda: gun.judge({"root": gun.sign("root"), "targets": gun.sign("targets")}),
    )


@pytest.mark.parametrize("name", ["registry.example/*", "*", "registry.example/team/app*"])
def test_a_certificate_may_be_for_all_guns_that_begin_so(name: str) -> None:
    gun = NotaryGun(certified(name=name))
    assert gun.judge({"root": gun.sign("root"), "targets": gun.sign("targets")})


def rotated(
    live: NotaryGun,
    *,
    to: NotarySigner | None = None,
    by_old: bool = True,
    by_new: bool = True,
) -> bytes:
    old = live.signers["root"][0]
    new = to or certified()
    live.root.revoke_key(old.public_key.keyid, "root")
    live.root.add_key(new.public_key, "root")
    live.root.version = 2
    return NOTARY.sign(live.root, [*([old] if by_old else []), *([new] if by_new else [])])


def test_a_root_rotation_is_signed_by_old_and_new_keys(live: NotaryGun) -> None:
    assert live.judge({"root": rotated(live)}).root.version == 2


def test_a_rotation_by_the_new_key_alone_is_refused(live: NotaryGun) -> None:
    data = rotated(live, by_old=False)
    refused("ErrBadRoot", "could not rotate trust", lambda: live.judge({"root": data}))


def test_a_rotation_by_the_old_key_alone_is_refused(live: NotaryGun) -> None:
    data = rotated(live, by_new=False)
    refused(
        "ErrBadRoot", "failed to validate integrity of roots", lambda: live.judge({"root": data})
    )


@pytest.mark.parametrize("kind", WEAK)
def test_a_rotation_to_a_weak_certificate_is_refused(live: NotaryGun, kind: str) -> None:
    data = rotated(live, to=weakly_certified(kind))
    refused(
        "ErrBadRoot",
        "unable to retrieve valid leaf certificates",
        lambda: live.judge({"root": data}),
    )


@pytest.mark.parametrize("kind", WEAK)
def test_a_weak_certificate_vouches_for_no_rotation_away_from_it(kind: str) -> None:
    """So does the real server, but for MD5: measured with such a root put into its database."""
    gun = NotaryGun(weakly_certified(kind))
    gun.release()
    data = rotated(gun)
    refused("ErrBadRoot", "could not rotate trust", lambda: gun.judge({"root": data}))


def test_a_rotation_away_from_an_expired_certificate_is_taken() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    gun = NotaryGun(certified(private, ends=NOW - timedelta(days=1)))
    gun.release()
    assert gun.judge({"root": rotated(gun)}).root.version == 2


def test_a_root_whose_targets_key_does_not_fit_the_published_targets_is_refused(
    live: NotaryGun,
) -> None:
    new = new_signer()
    live.root.revoke_key(live.signers["targets"][0].public_key.keyid, "targets")
    live.root.add_key(new.public_key, "targets")
    live.root.version = 2
    root = live.sign("root")
    refused("ErrBadTargets", "which stays", lambda: live.judge({"root": root}))
    live.signers["targets"] = [new]
    live.targets["targets"].version = 2
    assert live.judge({"root": root, "targets": live.sign("targets")})


def test_a_delegation_whose_keys_do_not_fit_its_published_file_is_refused(live: NotaryGun) -> None:
    old = live.signers["targets/releases"]
    live.delegate("targets/releases")
    live.targets["targets"].version = 2
    data = live.sign("targets")
    refused(
        "ErrBadTargets",
        "targets/releases version 1, which stays",
        lambda: live.judge({"targets": data}),
    )
    assert old != live.signers["targets/releases"]


def test_a_role_that_lost_its_last_key_is_taken_off_the_snapshot(live: NotaryGun) -> None:
    delegations = live.targets["targets"].delegations
    assert delegations is not None
    assert delegations.roles is not None
    delegations.roles["targets/releases"].keyids.clear()
    live.targets["targets"].version = 2
    assert live.judge({"targets": live.sign("targets")}).dropped == {"targets/releases"}


def test_a_removed_delegation_leaves_the_snapshot_with_all_below_it(live: NotaryGun) -> None:
    live.delegate("targets/releases/rc", parent="targets/releases")
    live.targets["targets/releases"].version = 2
    live.release("targets/releases", "targets/releases/rc")
    live.targets["targets"].delegations = Delegations({}, {})
    live.targets["targets"].version = 2
    judged = live.judge({"targets": live.sign("targets")})
    assert judged.dropped == {"targets/releases", "targets/releases/rc"}


def taken_off(live: NotaryGun) -> None:
    """Delegate to nobody, and to the release again, by the same key: it's still stored."""
    delegations = live.targets["targets"].delegations
    live.targets["targets"].delegations = Delegations({}, {})
    live.targets["targets"].version = 2
    live.put({"targets": live.sign("targets")}, dropped=["targets/releases"])
    live.targets["targets"].delegations = delegations
    live.targets["targets"].version = 3


def test_a_delegation_that_is_back_is_listed_as_it_was_stored(live: NotaryGun) -> None:
    taken_off(live)
    judged = live.judge({"targets": live.sign("targets")})
    assert {role: item.data for role, item in judged.relisted.items()} == {
        "targets/releases": live.files["targets/releases"]
    }
    live.delegate("targets/releases")
    judged = live.judge({"targets": live.sign("targets")})
    assert not judged.relisted, "other keys don't vouch for what is stored"
    assert judged.dropped == {"targets/releases"}


def renewed(live: NotaryGun, *dropped: str) -> dict[str, bytes]:
    """Give the next targets and the publisher's own snapshot."""
    live.targets["targets"].version += 1
    data = live.sign("targets")
    old = NOTARY.parse("snapshot", live.files["snapshot"], max_bytes=100_000).signed
    version = live.targets["targets"].version
    snapshot = next_snapshot(
        NOTARY,
        old,  # type: ignore[arg-type]
        {"targets": (version, data)},
        expires_at=LATER,
        dropped=dropped,
    )
    return {"targets": data, "snapshot": NOTARY.sign(snapshot, live.signers["snapshot"])}


def test_a_publishers_snapshot_names_no_file_that_nobody_vouches_for(live: NotaryGun) -> None:
    live.targets["targets"].delegations = Delegations({}, {})
    live.put(renewed(live))  # Notary's clients leave the entry where it was
    live.delegate("targets/releases")
    refused(
        "ErrBadTargets",
        "targets/releases version 1, which the snapshot names",
        lambda: live.judge(renewed(live)),
    )
    assert live.judge(renewed(live, "targets/releases")), "it can be left out"
    live.targets["targets"].delegations = Delegations({}, {})
    assert live.judge(renewed(live)), "no reader gets there"


def test_a_gun_that_came_with_a_broken_delegation_goes_on(live: NotaryGun) -> None:
    live.delegate("targets/releases")
    live.targets["targets"].version = 2
    live.put({"targets": live.sign("targets")})  # as Notary's server took it
    assert live.judge(renewed(live)), "it gets no worse"
    judged = live.judge({"targets": renewed(live)["targets"]})
    assert judged.dropped == {"targets/releases"}, "and better, where the server signs snapshots"


def test_nothing_delegates_to_a_role_that_nobody_named(live: NotaryGun) -> None:
    data = live.sign("targets/releases")
    refused(
        "ErrBadTargets",
        r"tuf: invalid role targets/bob. delegation does not exist",
        lambda: live.judge({"targets/bob": data}),
    )


def test_a_file_by_another_key_is_refused(live: NotaryGun) -> None:
    live.targets["targets"].version = 2
    live.signers["targets"] = [new_signer()]
    data = live.sign("targets")
    refused(
        "ErrBadTargets", "did not meet threshold for targets", lambda: live.judge({"targets": data})
    )


def test_what_is_expired_is_refused_in_gos_words(live: NotaryGun) -> None:
    live.targets["targets"].version = 2
    live.targets["targets"].expires = NOW - timedelta(days=4)
    data = live.sign("targets")
    refused(
        "ErrBadTargets",
        "targets expired at Mon Nov 23 12:00:00 UTC 2026",
        lambda: live.judge({"targets": data}),
    )


def test_a_version_that_does_not_grow_is_a_conflict(live: NotaryGun) -> None:
    for role in ("root", "targets", "targets/releases"):
        data = live.files[role]
        refused(None, "earlier version", lambda: live.judge({role: data}), code="VERSION")  # noqa: B023
    live.targets["targets"].version = 7
    assert live.judge({"targets": live.sign("targets")}), "versions may skip"


@pytest.mark.parametrize(
    "data",
    [
        b"no json",
        b"[]",
        b"5",
        b'{"signed":[]}',
        b'{"signed":{"_type":5}}',
        b'{"signed":{"version":"1"}}',
        b'{"signed":{"version":true}}',
        b'{"signed":{"expires":"2036-11-21 05:53:26Z"}}',
        b'{"signed":{"expires":"2036-11-21T05:53:26"}}',
        b"[" * 100_000,
    ],
)
def test_what_go_cannot_decode_is_malformed(live: NotaryGun, data: bytes) -> None:
    refused(None, "JSON", lambda: live.judge({"targets": data}), code="MALFORMED_JSON")


@pytest.mark.parametrize("data", [b"{}", b'{"signed":{"_type":"Targets"},"signatures":[]}'])
def test_what_has_no_signatures_says_so(live: NotaryGun, data: bytes) -> None:
    refused("ErrBadTargets", "tuf: data has no signatures", lambda: live.judge({"targets": data}))


def edited(live: NotaryGun, change: Callable[[dict[str, object]], object]) -> bytes:
    live.targets["targets"].version = 2
    content = json.loads(live.sign("targets"))
    change(content["signed"])
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda signed: signed.update(_type="targets"), "expected type Targets, not targets"),
        (lambda signed: signed.update(version=0), "version cannot be less than one"),
        (lambda signed: signed["targets"]["1.0"].update(custom=1.5), "1.5"),
        (lambda signed: signed["targets"]["1.0"].update(custom=2**53 + 1), "read otherwise"),
        (lambda signed: signed["targets"]["1.0"].update(hashes={}), "sha256"),
        (
            lambda signed: signed["delegations"]["roles"][0].update(name="targets/a/b"),
            "delegation role targets/a/b invalid",
        ),
        (
            lambda signed: signed["delegations"]["roles"][0].update(keyids=["ab"]),
            "key ID ab specified in targets/releases without corresponding key",
        ),
        (
            lambda signed: signed["delegations"]["roles"][0].update(threshold=0),
            "invalid threshold specified for targets/releases: 0 ",
        ),
    ],
)
def test_a_malformed_targets_file_is_named_as_such(
    live: NotaryGun, change: Callable[[dict[str, object]], object], match: str
) -> None:
    data = edited(live, change)
    refused("ErrBadTargets", match, lambda: live.judge({"targets": data}))


def test_online_keys_that_are_not_the_servers_are_refused(gun: NotaryGun) -> None:
    files = {"root": gun.sign("root"), "targets": gun.sign("targets")}
    for held in ("snapshot", "timestamp"):
        refused(
            "ErrValidation",
            "NotFound desc = key [0-9a-f]{64} not found",
            lambda: gun.judge(files, online=gun.online(held)),  # noqa: B023
        )


def test_an_empty_upload_renews_the_servers_part(live: NotaryGun) -> None:
    judged = live.judge({})
    assert judged.needs_snapshot
    assert not judged.unchanged


def test_a_clients_snapshot_names_what_is_published(live: NotaryGun) -> None:
    live.targets["targets"].version = 2
    data = live.sign("targets")
    old = NOTARY.parse("snapshot", live.files["snapshot"], max_bytes=100_000).signed
    files = {"targets": (2, data)}
    good = next_snapshot(NOTARY, old, files, expires_at=LATER)  # type: ignore[arg-type]
    online = live.online("timestamp")
    signed = NOTARY.sign(good, live.signers["snapshot"])
    judged = live.judge({"targets": data, "snapshot": signed}, online=online)
    assert not judged.needs_snapshot
    for change in (
        lambda meta: meta.pop("targets.json") and meta,
        lambda meta: meta.update({"targets.json": meta["root.json"]}),
        lambda meta: meta.update({"targets/x.json": meta["root.json"]}),
        lambda meta: meta["targets.json"].__dict__.update(length=1),
    ):
        bad = next_snapshot(NOTARY, old, files, expires_at=LATER)  # type: ignore[arg-type]
        change(bad.meta)
        data_bad = NOTARY.sign(bad, live.signers["snapshot"])
        with pytest.raises(NotaryRefusalError) as caught:
            live.judge({"targets": data, "snapshot": data_bad}, online=online)
        assert caught.value.name == "ErrBadSnapshot"
    forged = NOTARY.sign(good, [new_signer()])
    refused(
        "ErrBadSnapshot",
        "threshold for snapshot",
        lambda: live.judge({"targets": data, "snapshot": forged}, online=online),
    )


def test_a_clients_snapshot_leaves_out_nothing_that_is_uploaded(live: NotaryGun) -> None:
    live.targets["targets/releases"].version = 2
    data = live.sign("targets/releases")
    old = NOTARY.parse("snapshot", live.files["snapshot"], max_bytes=100_000).signed
    without = next_snapshot(
        NOTARY,
        old,  # type: ignore[arg-type]
        {},
        expires_at=LATER,
        dropped=["targets/releases"],
    )
    snapshot = NOTARY.sign(without, live.signers["snapshot"])
    refused(
        "ErrBadSnapshot",
        "doesn't name targets/releases",
        lambda: live.judge({"targets/releases": data, "snapshot": snapshot}),
    )


def test_a_timestamp_part_is_not_looked_at(live: NotaryGun) -> None:
    assert live.judge({"timestamp": b"anything"}).needs_snapshot


def test_a_part_above_its_limit_is_not_parsed(live: NotaryGun) -> None:
    with pytest.raises(MetadataTooLargeError):
        live.judge({"targets": b" " * 5_000_001})
