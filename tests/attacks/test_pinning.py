"""Whoever holds the server or a certificate against a client whose GUN is pinned."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from forge import Forge
from issuer import Issuer
from notary_files import NotaryFiles
from notary_gun import GUN, NOW, NotaryGun, certified, target
from puller import Puller
from simulator import GUN as TUF_GUN
from simulator import Simulator
from tabellion.core.dialect import NOTARY
from tabellion.core.names import Digest
from tabellion.core.notary_keys import NotarySigner
from tabellion.core.pinning import TrustPinning
from tabellion.errors import ExpiredMetadataError, UntrustedRootError
from tabellion.verify.client import TrustClient

IMAGE = f"{GUN}:1.0"
DIGEST = Digest.of(b"image")


def published(signer: NotarySigner | None = None) -> NotaryGun:
    gun = NotaryGun(signer)
    gun.targets["targets"].targets["1.0"] = target()
    gun.release()
    return gun


def rotate(gun: NotaryGun, new: NotarySigner) -> None:
    """Follow the root by one with another key."""
    old = gun.signers["root"]
    for signer in old:
        gun.root.revoke_key(signer.public_key.keyid, "root")
    gun.root.add_key(new.public_key, "root")
    gun.root.version += 1
    gun.signers["root"] = [new]
    gun.put({"root": NOTARY.sign(gun.root, [*old, new])})


def certs(*signers: NotarySigner) -> TrustPinning:
    return TrustPinning({GUN: frozenset(signer.public_key.computed_id for signer in signers)})


def ca(*issuers: Issuer, prefix: str = "registry.example/") -> TrustPinning:
    return TrustPinning(ca={prefix: tuple(issuer.certificate for issuer in issuers)})


async def verify(gun: NotaryGun, home: Path, pins: TrustPinning, **options: Any) -> str:
    """Verify the image as a new client does; gives why the root is trusted."""
    client = TrustClient(
        "https://trust.example",
        home=home,
        trust_pinning=pins,
        **{"clock": lambda: NOW, "fetcher": NotaryFiles(gun)} | options,
    )
    async with client as trust:
        image = await trust.verify(IMAGE)
    assert image.digest == DIGEST
    return image.pinned


def kept(home: Path) -> dict[str, bytes]:
    files = (path for path in home.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path): path.read_bytes() for path in files}


async def refused(
    gun: NotaryGun,
    home: Path,
    pins: TrustPinning,
    kind: type[Exception] = UntrustedRootError,
    **options: Any,
) -> str:
    """See it refused with nothing changed, asked for first use or not; gives the hint."""
    before = kept(home)
    for first_use in (False, True):
        with pytest.raises(kind) as caught:
            await verify(gun, home, pins, first_use=first_use, **options)
        assert kept(home) == before
    return str(getattr(caught.value, "hint", ""))


async def test_the_pinned_certificate_or_authority_is_enough_to_begin(tmp_path: Path) -> None:
    gun = published()
    assert await verify(gun, tmp_path / "a", certs(*gun.signers["root"])) == "trust pinning"
    authority = Issuer()
    gun = published(Issuer("between", authority).issue())
    assert await verify(gun, tmp_path / "b", ca(authority)) == "trust pinning"
    assert await verify(gun, tmp_path / "b", ca(authority)) == "trust pinning"


async def test_an_attackers_own_certificate_for_the_gun_is_refused(tmp_path: Path) -> None:
    honest = published()
    await refused(published(), tmp_path, certs(*honest.signers["root"]))
    await refused(published(), tmp_path, ca(Issuer()))
    await refused(published(), tmp_path, TrustPinning({GUN: frozenset()}))


def other_authority(authority: Issuer) -> NotarySigner:
    return Issuer(authority.name).issue()


def leaf_as_issuer(authority: Issuer) -> NotarySigner:
    return Issuer("other.example/app", authority, is_ca=False).issue()


def expired_intermediate(authority: Issuer) -> NotarySigner:
    return Issuer("between", authority, ends=NOW - timedelta(seconds=1)).issue()


def missing_intermediate(authority: Issuer) -> NotarySigner:
    between = Issuer("between", authority)
    between.between = []
    return between.issue()


def self_signed_beside_the_authority(authority: Issuer) -> NotarySigner:
    stranger = Issuer("stranger")
    stranger.between = [authority.certificate]
    return stranger.issue()


def other_gun(authority: Issuer) -> NotarySigner:
    return authority.issue("registry.example/team/other")


def beginning_later(authority: Issuer) -> NotarySigner:
    return authority.issue(begins=NOW + timedelta(hours=12))


@pytest.mark.parametrize(
    "attack",
    [
        other_authority,
        leaf_as_issuer,
        expired_intermediate,
        missing_intermediate,
        self_signed_beside_the_authority,
        other_gun,
        beginning_later,
    ],
)
async def test_a_certificate_that_the_pinned_authority_does_not_vouch_for_is_refused(
    attack: Callable[[Issuer], NotarySigner], tmp_path: Path
) -> None:
    authority = Issuer()
    await refused(published(attack(authority)), tmp_path, ca(authority))


async def test_an_authority_that_expired_vouches_for_nothing_any_more(tmp_path: Path) -> None:
    authority = Issuer(ends=NOW + timedelta(days=1))
    gun = published(authority.issue())
    assert await verify(gun, tmp_path, ca(authority))
    day_after = {"clock": lambda: NOW + timedelta(days=2)}
    await refused(gun, tmp_path, ca(authority), **day_after)


@pytest.mark.parametrize("warm", [False, True])
async def test_a_root_that_rotates_away_from_the_pin_is_refused(
    tmp_path: Path, *, warm: bool
) -> None:
    gun = published()
    first = gun.signers["root"][0]
    if warm:
        await verify(gun, tmp_path, certs(first))
    new = certified()
    rotate(gun, new)
    await refused(gun, tmp_path, certs(first))
    assert await verify(gun, tmp_path, certs(first, new))


async def test_a_rotation_under_the_same_authority_is_followed(tmp_path: Path) -> None:
    authority = Issuer()
    gun = published(authority.issue())
    await verify(gun, tmp_path, ca(authority))
    rotate(gun, authority.issue())
    assert await verify(gun, tmp_path, ca(authority))
    rotate(gun, certified())
    await refused(gun, tmp_path, ca(authority))


async def test_a_rotation_back_to_the_pin_over_another_key_is_not_followed(
    tmp_path: Path,
) -> None:
    gun = published()
    pins = certs(*gun.signers["root"])
    await verify(gun, tmp_path, pins)
    files, first = NotaryFiles(gun), gun.signers["root"][0]
    rotate(gun, certified())
    second = gun.files["root"]
    rotate(gun, first)
    honest = files.fetch

    async def fetch(url: str, *, max_bytes: int) -> bytes:
        return second if url.endswith("/2.root.json") else await honest(url, max_bytes=max_bytes)

    files.fetch = fetch  # type: ignore[method-assign]
    await refused(gun, tmp_path, pins, fetcher=files)


async def test_a_new_client_asks_the_pin_of_the_current_root_not_of_those_before(
    tmp_path: Path,
) -> None:
    gun = published()
    files, first, new = NotaryFiles(gun), gun.files["root"], certified()
    rotate(gun, new)
    honest = files.fetch

    async def fetch(url: str, *, max_bytes: int) -> bytes:
        return first if url.endswith("/1.root.json") else await honest(url, max_bytes=max_bytes)

    files.fetch = fetch  # type: ignore[method-assign]
    assert await verify(gun, tmp_path, certs(new), fetcher=files)


async def test_an_expired_certificate_of_the_authority_leads_on_to_a_new_one(
    tmp_path: Path,
) -> None:
    authority = Issuer()
    gun = published(authority.issue(ends=NOW + timedelta(days=1)))
    await verify(gun, tmp_path, ca(authority))
    later = {"clock": lambda: NOW + timedelta(days=2)}
    await refused(gun, tmp_path, ca(authority), ExpiredMetadataError, **later)
    rotate(gun, authority.issue())
    assert await verify(gun, tmp_path, ca(authority), **later)


async def test_what_is_kept_from_first_use_has_to_meet_a_pin_given_later(tmp_path: Path) -> None:
    gun = published()
    assert await verify(gun, tmp_path, TrustPinning(), first_use=True) == "first use"
    hint = await refused(gun, tmp_path, certs(certified()))
    assert str(tmp_path) in hint
    assert await verify(gun, tmp_path, certs(*gun.signers["root"])) == "first use"


async def test_without_the_server_the_pin_holds_too(tmp_path: Path) -> None:
    gun = published()
    pins = certs(*gun.signers["root"])
    await verify(gun, tmp_path, pins)
    for found, is_good in ((pins, True), (certs(certified()), False)):
        client = TrustClient(
            "http://127.0.0.1:9",
            home=tmp_path,
            trust_pinning=found,
            clock=lambda: NOW,
            offline="last-known",
        )
        async with client as trust:
            if is_good:
                assert (await trust.verify(IMAGE)).offline
            else:
                with pytest.raises(UntrustedRootError):
                    await trust.verify(IMAGE)


async def test_disabled_first_use_beats_being_asked_for_it(tmp_path: Path) -> None:
    gun = published()
    pins = TrustPinning(disable_tofu=True)
    await refused(gun, tmp_path, pins)
    assert await verify(gun, tmp_path, pins, root=gun.files["root"]) == "root file"
    assert await verify(gun, tmp_path, pins) == "root file"  # what is kept was trusted before


async def test_a_root_file_or_key_given_does_not_undo_the_pin(tmp_path: Path) -> None:
    gun = published()
    for option in (
        {"root": gun.files["root"]},
        {"root_fingerprint": gun.signers["root"][0].public_key.canonical_id},
    ):
        await refused(gun, tmp_path, certs(certified()), **option)
        assert kept(tmp_path) == {}


async def test_another_certificate_of_the_pinned_key_passes_by_its_bare_id_only(
    tmp_path: Path,
) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    pinned = certified(private)
    gun = published(certified(private))
    await refused(gun, tmp_path, certs(pinned))
    bare = TrustPinning({GUN: frozenset({pinned.public_key.canonical_id})})
    assert await verify(gun, tmp_path, bare)


def root_pin(*forges: Forge) -> TrustPinning:
    ids = [forge.signers["root"][0].public_key.keyid for forge in forges]
    return TrustPinning({TUF_GUN: frozenset(ids)})


async def test_a_tuf_gun_is_pinned_by_root_keys_from_the_first_that_is_pinned_on(
    puller: Puller, server: Simulator, forge: Forge
) -> None:
    first = root_pin(forge)
    server.rotate_keys("root")
    await puller.refused(UntrustedRootError, root=None, trust_pinning=first)
    assert puller.client().cache(TUF_GUN).root_versions() == []
    newest = root_pin(forge)
    image = await puller.verify(root=None, trust_pinning=newest)
    assert (image.versions["root"], image.pinned) == (2, "trust pinning")
    server.rotate_keys("root")
    await puller.refused(UntrustedRootError, root=None, trust_pinning=newest)


async def test_a_tuf_gun_under_an_authority_is_refused_in_words(puller: Puller) -> None:
    pins = TrustPinning(ca={"": (Issuer().certificate,)})
    error = await puller.refused(UntrustedRootError, root=None, trust_pinning=pins)
    assert "certificates" in error.message
    assert "certs" in error.hint
    await puller.refused(UntrustedRootError, trust_pinning=pins)
