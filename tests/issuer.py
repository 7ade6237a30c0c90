"""Authorities that issue certificates for Notary root keys, good ones and bad ones."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from notary_gun import GUN, NOW
from tabellion.core.notary_keys import NotaryKey, NotarySigner

_OTHER_USES = (
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def certify(
    public: ec.EllipticCurvePublicKey,
    name: str,
    *,
    issuer_name: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    constraints: x509.BasicConstraints | None,
    usages: Sequence[x509.ObjectIdentifier] = (),
    begins: datetime = NOW - timedelta(days=30),
    ends: datetime = NOW + timedelta(days=3650),
    may_sign: bool | None = None,
) -> x509.Certificate:
    """Make one certificate; ``may_sign`` says of its key whether it may sign certificates."""
    subject, issuer = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, issuer_name)
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
    )
    if constraints is not None:
        builder = builder.add_extension(constraints, critical=True)
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    if may_sign is not None:
        others = dict.fromkeys(_OTHER_USES, False)
        usage = x509.KeyUsage(digital_signature=True, key_cert_sign=may_sign, **others)
        builder = builder.add_extension(usage, critical=True)
    return builder.sign(issuer_key, hashes.SHA256())


class Issuer:
    """An authority; one with a parent stands between that and what it issues.

    Attributes:
        certificate: Its own.
        between: Certificates from it up to, but without, the topmost authority.
    """

    def __init__(
        self,
        name: str = "authority",
        parent: Issuer | None = None,
        *,
        is_ca: bool = True,
        path_length: int | None = None,
        may_sign: bool | None = None,
        usages: Sequence[x509.ObjectIdentifier] = (),
        begins: datetime = NOW - timedelta(days=30),
        ends: datetime = NOW + timedelta(days=3650),
    ) -> None:
        self.name = name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = certify(
            self.key.public_key(),
            name,
            issuer_name=parent.name if parent else name,
            issuer_key=parent.key if parent else self.key,
            constraints=x509.BasicConstraints(ca=is_ca, path_length=path_length),
            usages=usages,
            begins=begins,
            ends=ends,
            may_sign=may_sign,
        )
        self.between: list[x509.Certificate] = [self.certificate, *parent.between] if parent else []

    def issue(
        self,
        gun: str = GUN,
        *,
        usages: Sequence[x509.ObjectIdentifier] = (),
        begins: datetime = NOW - timedelta(days=30),
        ends: datetime = NOW + timedelta(days=3650),
        private: ec.EllipticCurvePrivateKey | None = None,
    ) -> NotarySigner:
        """Make a root signer with a certificate for a GUN, and what is between in its chain."""
        private = private or ec.generate_private_key(ec.SECP256R1())
        leaf = certify(
            private.public_key(),
            gun,
            issuer_name=self.name,
            issuer_key=self.key,
            constraints=x509.BasicConstraints(ca=False, path_length=None),
            usages=usages,
            begins=begins,
            ends=ends,
        )
        chain = b"".join(item.public_bytes(Encoding.PEM) for item in (leaf, *self.between))
        return NotarySigner(private, NotaryKey.of_certificates(chain))
