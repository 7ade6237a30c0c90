"""Root certificates as Notary makes them: self-signed, for one GUN, ten years.

Spec: notary-v1 section 5.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tabellion.core.notary_keys import NotaryKey
from tabellion.errors import KeyStoreError

CERTIFIABLE: Final = frozenset({"ecdsa", "rsa"})
"""Types of keys that a Notary GUN's root can have."""
_LIFE: Final = timedelta(days=3650)
_MAX_NAME: Final = 64  # of a common name, RFC 5280


def root_certificate(private: PrivateKeyTypes, gun: str, *, now: datetime) -> NotaryKey:
    """Certify a root key for a GUN, valid from ``now`` on.

    Raises:
        KeyStoreError: The key is neither ECDSA nor RSA.
    """
    if not isinstance(private, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise KeyStoreError(
            "a root key of a Notary GUN has to be ECDSA or RSA",
            hint="make one (tabellion key generate --role root --type ecdsa) and name it: "
            "init --root-key-id KEY, rotate --key KEY",
        )
    # What a certificate's name can't hold is told by its beginning, as Notary allows.
    beginning = gun.encode()[: _MAX_NAME - 1].decode(errors="ignore")
    common_name = gun if len(gun.encode()) <= _MAX_NAME else f"{beginning}*"
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=True,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + _LIFE)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private, SHA256())
    )
    return NotaryKey.of_certificates(certificate.public_bytes(Encoding.PEM))
