"""Which pin applies to a GUN, and whether a root meets it: Notary's ``trust_pinning``.

The first that fits is taken: ``certs`` by the whole name, the longest ``certs`` pattern that ends
in ``*``, the longest ``ca`` prefix. Names are compared as they are written, capitals too.

Spec: Notary 0.7.0 ``trustpinning``, as measured in notary-v1 section 8.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import (
    ClientVerifier,
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)
from securesystemslib.signer import Key
from tuf.api.metadata import Root

from tabellion.core.fingerprints import fingerprints
from tabellion.core.notary_keys import CERTIFICATE_FAULTS, NotaryKey
from tabellion.core.notary_roots import (
    is_ca,
    is_valid_at,
    is_weak,
    leaf_of,
    usable_keys_of_signer,
)
from tabellion.errors import UntrustedRootError

_USAGES: Final = frozenset({ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.SERVER_AUTH})
"""For one of these a chain has to be good, where it restricts itself. Notary wants the second one,
which the certificates that it makes itself don't have."""


class Demand(Protocol):
    """What a pin wants of one root key."""

    def is_met(self, key: Key, moment: datetime) -> bool:
        """Tell whether a key that may sign the root is a pinned one.

        Raises:
            UntrustedRootError: The pin can't be held against such a key.
        """


@dataclass(frozen=True)
class KeyDemand:
    """It's one of the keys listed; an empty list lets none pass."""

    fingerprints: frozenset[str]

    def is_met(self, key: Key, moment: datetime) -> bool:  # noqa: ARG002  (a key has no validity)
        """See ``Demand``; never by the id that the file gives a key."""
        return not self.fingerprints.isdisjoint(fingerprints(key))


@dataclass(frozen=True)
class AuthorityDemand:
    """Its certificate is issued by an authority of a bundle."""

    authorities: tuple[x509.Certificate, ...] = field(repr=False)

    def is_met(self, key: Key, moment: datetime) -> bool:
        """See ``Demand``."""
        if not isinstance(key, NotaryKey):
            raise UntrustedRootError(
                "a ca pin asks for certificates, and the roots of this GUN have none",
                hint="pin its root key's fingerprint under certs instead",
            )
        return is_issued_by(key.certificates, self.authorities, moment)


@dataclass(frozen=True)
class RootPin:
    """The pin of one GUN.

    Attributes:
        name: Where it's written, for error texts.
        demand: What it wants of the keys that sign a root.
    """

    gun: str
    name: str
    demand: Demand

    def verify_root(
        self, root: Root, signed_by: Sequence[str], *, now: datetime, leads_on: bool
    ) -> None:
        """Refuse a root that isn't signed by a threshold of pinned keys.

        Args:
            root: The root whose root role's keys signed.
            signed_by: Ids of its keys whose signatures hold, each for distinct key material.
            now: The moment at which certificates are judged.
            leads_on: The root is on the way to a newer one: a certificate that has expired is
                judged at its last moment, as it must not be a dead end.

        Raises:
            UntrustedRootError: Too few are pinned.
        """
        needed = root.roles["root"].threshold
        met = sum(self._is_met(root, keyid, now, leads_on=leads_on) for keyid in signed_by)
        if met < needed:
            raise UntrustedRootError(
                f"root version {root.version} of {self.gun} has {met} of {needed} needed "
                f"signatures by keys that {self.name} allows",
                hint="if its key is right, add it to the pin; ask the publisher, not the server",
            )

    def _is_met(self, root: Root, keyid: str, now: datetime, *, leads_on: bool) -> bool:
        if not isinstance(root.keys[keyid], NotaryKey):
            return self.demand.is_met(root.keys[keyid], now)
        for key in usable_keys_of_signer(root, keyid, self.gun):
            leaf = leaf_of(key)
            moment = min(now, leaf.not_valid_after_utc) if leads_on else now
            if is_valid_at(leaf, moment) and self.demand.is_met(key, moment):
                return True
        return False


@dataclass(frozen=True)
class TrustPinning:
    """All pins of a configuration.

    Attributes:
        certs: GUN, or its beginning and ``*``, to fingerprints of root keys, 64 lower-case hex
            digits each.
        ca: Beginning of a GUN to the certificates of its bundle.
        disable_tofu: First use is never enough, even where it's asked for.
    """

    certs: Mapping[str, frozenset[str]] = field(default_factory=dict)
    ca: Mapping[str, tuple[x509.Certificate, ...]] = field(default_factory=dict)
    disable_tofu: bool = False

    def pin_for(self, gun: str) -> RootPin | None:
        """Give the pin that applies to a GUN, None if none does."""
        name: str | None = gun
        if gun not in self.certs:
            patterns = (item for item in self.certs if item.endswith("*"))
            name = _longest(item for item in patterns if gun.startswith(item[:-1]))
        if name is not None:
            return RootPin(gun, f"trust_pinning.certs {name!r}", KeyDemand(self.certs[name]))
        prefix = _longest(item for item in self.ca if gun.startswith(item))
        if prefix is not None:
            demand = AuthorityDemand(tuple(self.ca[prefix]))
            return RootPin(gun, f"trust_pinning.ca {prefix!r}", demand)
        return None


def is_issued_by(
    chain: Sequence[x509.Certificate], authorities: Iterable[x509.Certificate], moment: datetime
) -> bool:
    """Tell whether a chain, leaf first, leads to an authority at a moment.

    Authorities and what is between have to be of CAs. Validity, theirs too, signatures (none by
    SHA-1), path lengths, names and critical extensions are judged by RFC 5280; the leaf's name is
    the caller's to judge.
    """
    anchors = list(_fit_anchors(authorities))
    if not anchors or not chain:
        return False
    try:
        found = _verifier(anchors, moment).verify(chain[0], list(chain[1:])).chain
        usages = _USAGES
        for certificate in found:
            usages &= _usages_of(certificate)
    except (VerificationError, *CERTIFICATE_FAULTS):
        return False
    return bool(usages)


def _fit_anchors(authorities: Iterable[x509.Certificate]) -> Iterator[x509.Certificate]:
    """Leave out what isn't of a CA or is signed with SHA-1; validity is the verifier's to judge."""
    for certificate in authorities:
        try:
            if is_ca(certificate) and not is_weak(certificate):
                yield certificate
        except CERTIFICATE_FAULTS:
            continue


def _verifier(anchors: list[x509.Certificate], moment: datetime) -> ClientVerifier:
    """Give what verifies chains, with the extensions that private authorities often leave out."""
    of_authorities = (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)
        .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _verify_signs_certificates)
    )
    return (
        PolicyBuilder()
        .store(Store(anchors))
        .time(moment)
        .extension_policies(ca_policy=of_authorities, ee_policy=ExtensionPolicy.permit_all())
        .build_client_verifier()
    )


def _verify_signs_certificates(
    _: Policy, __: x509.Certificate, usage: x509.KeyUsage | None
) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("the key may not sign certificates")


def _usages_of(certificate: x509.Certificate) -> frozenset[x509.ObjectIdentifier]:
    """Give what a certificate is good for, of what counts here; all of it if it doesn't say."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        return _USAGES
    named = frozenset(extension.value)
    return _USAGES if ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in named else named


def _longest(names: Iterable[str]) -> str | None:
    return max(names, key=len, default=None)
