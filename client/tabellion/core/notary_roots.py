"""What makes a key of a Notary root usable: a certificate for the GUN, and its validity.

Spec: Notary 0.7.0 ``trustpinning.ValidateRoot``, as measured in notary-v1 section 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.hashes import MD5, SHA1
from cryptography.x509.oid import NameOID
from securesystemslib.signer import Key
from tuf.api.metadata import Root

from tabellion.core.notary_keys import CERTIFICATE_FAULTS, NotaryKey, is_strong
from tabellion.errors import ExpiredMetadataError, MalformedMetadataError, UntrustedRootError

_CLOCK_SKEW: Final = timedelta(days=1)  # a certificate may begin that much later than now


def verify_root_signers(
    root: Root, signed_by: Sequence[str], *, gun: str, now: datetime | None
) -> None:
    """Refuse a root whose valid signatures aren't by enough usable certificates for its GUN.

    Args:
        root: The root whose root role's keys signed.
        signed_by: Ids of its keys whose signatures hold, each for distinct key material.
        gun: The collection that the certificates must be for.
        now: Judges their validity; None where a newer root is being reached through this one, as
            an expired certificate must not be a dead end.

    Raises:
        ExpiredMetadataError: There would be enough, but they're expired.
        UntrustedRootError: Too few are usable.
    """
    needed = root.roles["root"].threshold
    usable = [leaves for keyid in signed_by if (leaves := _leaves_of_signer(root, keyid, gun))]
    if len(usable) < needed:
        raise UntrustedRootError(
            f"root version {root.version} has {len(usable)} of {needed} needed signatures by "
            f"certificates for {gun}",
            hint="a Notary root is signed by certificates whose common name is the GUN",
        )
    if now is None:
        return
    valid = [leaves for leaves in usable if any(is_valid_at(leaf, now) for leaf in leaves)]
    if len(valid) < needed:
        ends = [max(leaf.not_valid_after_utc for leaf in leaves) for leaves in usable]
        expired_at = min(ends)
        if now < expired_at:
            raise UntrustedRootError(
                f"the certificates of root version {root.version} aren't valid yet",
                hint="check this machine's clock",
            )
        raise ExpiredMetadataError(
            f"the certificate of root version {root.version} expired at "
            f"{expired_at:%Y-%m-%dT%H:%M:%SZ}",
            role="root",
            expired_at=expired_at,
            hint=f"its owner makes a new one: tabellion rotate {gun} root",
        )


def certificate_ends(root: Root, signed_by: Sequence[str], gun: str) -> list[datetime]:
    """Give how long a root's signers have usable certificates, latest first, each key once.

    Empty where keys need no certificates.
    """
    ends = {
        _material(root.keys[keyid]): max(leaf.not_valid_after_utc for leaf in leaves)
        for keyid in signed_by
        if keyid in root.keys and (leaves := _leaves_of_signer(root, keyid, gun))
    }
    return sorted(ends.values(), reverse=True)


def certificate_of(key: Key, gun: str) -> x509.Certificate | None:
    """Give the certificate that makes a root key usable; None if it has or needs none."""
    return usable_leaf(key, gun) if isinstance(key, NotaryKey) and key.is_certificate else None


def usable_keys_of_signer(root: Root, keyid: str, gun: str) -> list[Key]:
    """Give the usable entries that the root role has of a key: it may have several certificates."""
    material = _material(root.keys[keyid])
    return [
        root.keys[other]
        for other in root.roles["root"].keyids
        if _material(root.keys[other]) == material
        and usable_leaf(root.keys[other], gun) is not None
    ]


def _leaves_of_signer(root: Root, keyid: str, gun: str) -> list[x509.Certificate]:
    return [leaf_of(key) for key in usable_keys_of_signer(root, keyid, gun)]


def _material(key: Key) -> bytes | None:
    """Give what makes a Notary key that key, None if it can't be read."""
    try:
        return key.material if isinstance(key, NotaryKey) else None
    except MalformedMetadataError:
        return None


def leaf_of(key: Key) -> x509.Certificate:
    """Give the one certificate of a chain that isn't of a CA; it stands first.

    Raises:
        MalformedMetadataError: The key is no certificate chain, or has none or several leaves.
    """
    chain = key.certificates if isinstance(key, NotaryKey) else ()
    if not chain or is_ca(chain[0]) or not all(is_ca(item) for item in chain[1:]):
        raise MalformedMetadataError(f"key {key.keyid[:64]} isn't a leaf certificate and its chain")
    return chain[0]


def is_for(leaf: x509.Certificate, gun: str) -> bool:
    """Tell whether a certificate's common name is the GUN, or a beginning of it and ``*``."""
    names = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = str(names[-1].value) if names else ""  # of several, Go reads the last
    return name == gun or (name.endswith("*") and gun.startswith(name[:-1]))


def is_valid_at(leaf: x509.Certificate, now: datetime) -> bool:
    """Tell whether a moment is within a certificate's validity, give or take the start's skew."""
    return leaf.not_valid_before_utc <= now + _CLOCK_SKEW and now <= leaf.not_valid_after_utc


def usable_leaf(key: Key, gun: str) -> x509.Certificate | None:
    """Give a root key's leaf certificate; None if it isn't one, is for another GUN, or weak."""
    try:
        leaf = leaf_of(key)
        unfit = is_weak(leaf) or not is_strong(leaf.public_key())
        return None if unfit or not is_for(leaf, gun) else leaf
    except (MalformedMetadataError, *CERTIFICATE_FAULTS):
        return None


def is_weak(certificate: x509.Certificate) -> bool:
    """Tell whether a certificate is signed over a hash that can be forged."""
    return isinstance(certificate.signature_hash_algorithm, SHA1 | MD5)


def is_ca(certificate: x509.Certificate) -> bool:
    """Tell whether a certificate says that it's a certification authority's."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
