"""Which pin applies to a GUN, and whether a root meets it at a moment."""

from __future__ import annotations

import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import SSlibKey

from issuer import Issuer
from notary_gun import GUN, NOW, NotaryGun, certified
from tabellion.core.fingerprints import fingerprints, parse_fingerprint
from tabellion.core.notary_keys import NotaryKey, NotarySigner
from tabellion.core.pinning import TrustPinning, is_issued_by
from tabellion.core.trusted_set import TrustedSet
from tabellion.errors import ConfigurationError, UntrustedRootError

ONE, TWO, THREE = (frozenset({digit * 64}) for digit in "123")
NAMES = st.text("aA/b", max_size=5)


def chosen(pinning: TrustPinning, gun: str = GUN) -> str | None:
    pin = pinning.pin_for(gun)
    return None if pin is None else pin.name.removeprefix("trust_pinning.")


def accept(signer: NotarySigner, pinning: TrustPinning, *, leads_on: bool = False) -> None:
    """Judge a GUN's root, signed by one key, as a client with these pins does."""
    trusted = TrustedSet(
        NotaryGun(signer).release()["root"], now=NOW, gun=GUN, pin=pinning.pin_for(GUN)
    )
    if not leads_on:
        trusted.finish_root()


def test_the_exact_name_comes_before_any_pattern_and_certs_before_ca() -> None:
    certs = {"*": ONE, "registry.example/*": TWO, GUN: THREE}
    ca: dict[str, tuple[x509.Certificate, ...]] = {"": (), GUN: ()}
    assert chosen(TrustPinning(certs, ca)) == f"certs {GUN!r}"
    assert chosen(TrustPinning({"*": ONE}, ca)) == "certs '*'"


def test_the_longest_pattern_and_the_longest_prefix_win() -> None:
    certs = {"registry.example/team/a*": ONE, "*": TWO, "registry.example/*": THREE}
    assert chosen(TrustPinning(certs)) == "certs 'registry.example/team/a*'"
    ca: dict[str, tuple[x509.Certificate, ...]] = {"": (), "registry.example/": (), "reg": ()}
    assert chosen(TrustPinning(ca=ca)) == "ca 'registry.example/'"


@pytest.mark.parametrize("pattern", [f"{GUN}2*", "other*", "registry.example", "**", "*/app"])
def test_a_pattern_or_name_that_does_not_fit_pins_nothing(pattern: str) -> None:
    assert chosen(TrustPinning({pattern: ONE})) is None


def test_capitals_count() -> None:
    pinning = TrustPinning({"Registry/App": ONE, "Team*": ONE}, {"CA/": ()})
    assert all(chosen(pinning, gun) for gun in ("Registry/App", "Team/x", "CA/x"))
    assert not any(chosen(pinning, gun) for gun in ("registry/app", "team/x", "ca/x"))


@given(st.dictionaries(NAMES | NAMES.map(lambda n: n + "*"), st.just(ONE)), NAMES)
def test_the_pin_that_applies_is_the_closest_one_that_fits(
    certs: dict[str, frozenset[str]], gun: str
) -> None:
    fitting = [n for n in certs if n == gun or (n[-1:] == "*" and gun.startswith(n[:-1]))]
    found = chosen(TrustPinning(certs), gun)
    assert (found is None) == (not fitting)
    if found is not None:
        assert found == f"certs {max(fitting, key=lambda n: (n == gun, len(n)))!r}"


@given(st.dictionaries(NAMES, st.just(())), NAMES)
def test_of_authorities_the_longest_beginning_applies(
    ca: dict[str, tuple[x509.Certificate, ...]], gun: str
) -> None:
    fitting = [name for name in ca if gun.startswith(name)]
    expected = f"ca {max(fitting, key=len)!r}" if fitting else None
    assert chosen(TrustPinning(ca=ca), gun) == expected


@pytest.mark.parametrize("text", ["", "12", "g" * 64, "1" * 65, "sha512:" + "1" * 64])
def test_what_is_no_fingerprint_is_a_fault(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_fingerprint(text)


def test_a_key_is_pinned_by_its_certificate_its_bare_id_or_its_material() -> None:
    signer = certified()
    for fingerprint in fingerprints(signer.public_key):
        accept(signer, TrustPinning({GUN: frozenset({fingerprint})}))
    assert {signer.public_key.computed_id, signer.public_key.canonical_id} < fingerprints(
        signer.public_key
    )


@pytest.mark.parametrize("ids", [frozenset(), ONE])
def test_a_list_without_the_key_and_an_empty_one_let_nothing_pass(ids: frozenset[str]) -> None:
    with pytest.raises(UntrustedRootError, match="0 of 1"):
        accept(certified(), TrustPinning({GUN: ids}))


def test_another_certificate_of_a_pinned_certificates_key_is_not_it() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    pinned, other = certified(private), certified(private)
    with pytest.raises(UntrustedRootError):
        accept(other, TrustPinning({GUN: frozenset({pinned.public_key.computed_id})}))
    accept(other, TrustPinning({GUN: frozenset({pinned.public_key.canonical_id})}))


def test_a_pinned_certificate_that_expired_is_not_helped_by_another_of_its_key() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    expired, other = certified(private, ends=NOW - timedelta(days=1)), certified(private)
    gun = NotaryGun(expired)
    gun.root.add_key(other.public_key, "root")
    pin = TrustPinning({GUN: frozenset({expired.public_key.computed_id})}).pin_for(GUN)
    trusted = TrustedSet(gun.sign("root"), now=NOW, gun=GUN, pin=pin)
    with pytest.raises(UntrustedRootError, match="certs"):
        trusted.finish_root()


def test_a_threshold_of_signers_has_to_be_pinned() -> None:
    gun = NotaryGun()
    second = certified()
    gun.signers["root"].append(second)
    gun.root.add_key(second.public_key, "root")
    gun.root.roles["root"].threshold = 2
    data = gun.sign("root")
    both = [signer.public_key.computed_id for signer in gun.signers["root"]]
    for ids, is_enough in ((both, True), (both[:1], False)):
        pin = TrustPinning({GUN: frozenset(ids)}).pin_for(GUN)
        if is_enough:
            TrustedSet(data, now=NOW, gun=GUN, pin=pin)
        else:
            with pytest.raises(UntrustedRootError, match="1 of 2"):
                TrustedSet(data, now=NOW, gun=GUN, pin=pin)


@pytest.mark.parametrize(
    "public",
    [
        ec.generate_private_key(ec.SECP256R1()).public_key(),
        ed25519.Ed25519PrivateKey.generate().public_key(),
        rsa.generate_private_key(65537, 2048).public_key(),
    ],
)
def test_the_pin_of_a_bare_key_holds_in_both_dialects(
    public: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey,
) -> None:
    notary, tuf = NotaryKey.of(public), SSlibKey.from_crypto(public)
    common = fingerprints(notary) & fingerprints(tuf)
    assert {notary.canonical_id, tuf.keyid} <= common
    assert len(common) == len(fingerprints(notary))


@pytest.mark.parametrize(
    "usages", [(), (Usage.CODE_SIGNING,), (Usage.SERVER_AUTH,), (Usage.ANY_EXTENDED_KEY_USAGE,)]
)
def test_a_leaf_for_code_servers_or_everything_passes_an_authority(
    usages: tuple[x509.ObjectIdentifier, ...],
) -> None:
    authority = Issuer()
    accept(authority.issue(usages=usages), TrustPinning(ca={"reg": (authority.certificate,)}))


def test_a_chain_has_to_be_good_for_one_usage_throughout() -> None:
    authority = Issuer()
    for above, leaf, is_good in (
        ((Usage.CLIENT_AUTH,), (), False),
        ((), (Usage.EMAIL_PROTECTION,), False),
        ((Usage.SERVER_AUTH,), (Usage.CODE_SIGNING,), False),
        ((Usage.CODE_SIGNING,), (), True),
    ):
        between = Issuer("between", authority, usages=above)
        chain = between.issue(usages=leaf).public_key.certificates
        assert is_issued_by(chain, [authority.certificate], NOW) is is_good


def test_a_chain_over_an_intermediate_is_found() -> None:
    authority = Issuer()
    signer = Issuer("between", authority).issue()
    accept(signer, TrustPinning(ca={"": (Issuer("other").certificate, authority.certificate)}))


@pytest.mark.parametrize("may_sign", [None, True, False])
def test_an_intermediate_whose_key_may_not_sign_certificates_does_not_count(
    may_sign: bool | None,  # noqa: FBT001  (of the table)
) -> None:
    authority = Issuer()
    chain = Issuer("between", authority, may_sign=may_sign).issue().public_key.certificates
    assert is_issued_by(chain, [authority.certificate], NOW) is (may_sign is not False)


def test_a_path_longer_than_the_authority_allows_is_refused() -> None:
    authority = Issuer(path_length=0)
    assert is_issued_by(authority.issue().public_key.certificates, [authority.certificate], NOW)
    longer = Issuer("between", authority).issue()
    assert not is_issued_by(longer.public_key.certificates, [authority.certificate], NOW)


@pytest.mark.parametrize(
    "bad",
    [
        {"ends": NOW - timedelta(days=1)},
        {"begins": NOW + timedelta(hours=1)},
        {"is_ca": False},
        {"may_sign": False},
    ],
)
def test_an_authority_that_expired_begins_later_or_is_none_does_not_count(
    bad: dict[str, Any],
) -> None:
    authority = Issuer(**bad)
    chain = authority.issue().public_key.certificates
    assert not is_issued_by(chain, [authority.certificate], NOW)
    good = Issuer("good")
    assert is_issued_by(
        good.issue().public_key.certificates, [authority.certificate, good.certificate], NOW
    )


def test_a_bundle_that_holds_the_leaf_itself_is_no_authority() -> None:
    leaf = certified().public_key.certificates
    assert not is_issued_by(leaf, leaf, NOW)


@pytest.mark.parametrize(("digest", "is_good"), [("-sha1", False), ("-sha256", True)])
def test_an_authority_signed_with_sha1_does_not_count(
    tmp_path: Path, digest: str, *, is_good: bool
) -> None:
    words = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    files = ["-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority"]
    subprocess.run(
        ["openssl", "req", "-x509", digest, *words, *files],  # noqa: S607  # found on the path
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    authority = x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes())
    key = load_pem_private_key((tmp_path / "ca.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    issuer = Issuer()
    issuer.key = key
    chain = issuer.issue().public_key.certificates
    moment = authority.not_valid_before_utc + timedelta(minutes=1)
    assert is_issued_by(chain, [authority], moment) is is_good


def test_an_expired_certificate_may_lead_on_but_not_be_the_last_one() -> None:
    authority = Issuer()
    signer = authority.issue(ends=NOW - timedelta(days=1))
    pinning = TrustPinning(ca={"": (authority.certificate,)})
    accept(signer, pinning, leads_on=True)
    pin = pinning.pin_for(GUN)
    assert pin is not None
    root = TrustedSet(NotaryGun(signer).release()["root"], now=NOW, gun=GUN).root
    with pytest.raises(UntrustedRootError):
        pin.verify_root(root.signed, root.signed_by, now=NOW, leads_on=False)


def test_a_flood_of_intermediates_ends_soon() -> None:
    authority, loop = Issuer(), Issuer("loop")
    loop.between = [Issuer("loop").certificate for _ in range(20)] + [loop.certificate] * 20
    assert not is_issued_by(loop.issue().public_key.certificates, [authority.certificate], NOW)
