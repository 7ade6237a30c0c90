"""Makes Notary metadata, good and bad, from plain JSON: nothing of the product is used.

Spec: notary-v1 sections 2 to 4.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
Json = dict[str, Any]

_HTML = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_NO_DELEGATIONS = {"keys": {}, "roles": []}


def canonical(value: object) -> bytes:
    """Write the form that is signed: sorted, compact, only ``\\`` and ``"`` escaped."""
    if isinstance(value, dict):
        items = sorted(value.items(), key=lambda item: item[0].encode())
        return b"{" + b",".join(canonical(k) + b":" + canonical(v) for k, v in items) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(canonical(item) for item in value) + b"]"
    if isinstance(value, str):
        return b'"' + value.replace("\\", "\\\\").replace('"', '\\"').encode() + b'"'
    return json.dumps(value).encode()


def transmitted(value: object) -> bytes:
    """Write the form that is sent: sorted, compact, HTML's characters escaped."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, sort_keys=True)
    for char, escape in _HTML.items():
        text = text.replace(char, escape)
    return text.encode()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def unb64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def moment(at: datetime) -> str:
    """Write a moment with its fraction, without trailing zeros."""
    text = at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return text.rstrip("0").rstrip(".") + "Z"


def later(**parts: float) -> str:
    return moment(datetime.now(UTC) + timedelta(**parts))


def meta(data: bytes) -> Json:
    """Describe a file as a snapshot or timestamp does."""
    found = {name: b64(hashlib.new(name, data).digest()) for name in ("sha256", "sha512")}
    return {"hashes": found, "length": len(data)}


def multipart(files: Mapping[str, bytes]) -> tuple[str, bytes]:
    """Give content type and body of an upload, as docker's client sends one."""
    boundary = secrets.token_hex(16)
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{role}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode()
        + data
        + b"\r\n"
        for role, data in files.items()
    ]
    body = b"".join(parts) + f"--{boundary}--\r\n".encode()
    return f"multipart/form-data; boundary={boundary}", body


def target(data: bytes, **more: object) -> Json:
    return {"hashes": {"sha256": b64(hashlib.sha256(data).digest())}, "length": len(data), **more}


def public_key(keytype: str, public: str) -> Json:
    return {"keytype": keytype, "keyval": {"private": None, "public": public}}


def key_id(key: Json) -> str:
    return hashlib.sha256(canonical(key)).hexdigest()


def certificate(
    private: PrivateKey, name: str, *, starts: datetime | None = None, ends: datetime | None = None
) -> bytes:
    """Make a self-signed certificate such as Notary's for a root key."""
    starts = starts or datetime.now(UTC) - timedelta(minutes=5)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(starts)
        .not_valid_after(ends or starts + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
    )
    digest = None if isinstance(private, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(private, digest).public_bytes(serialization.Encoding.PEM)


_RSA = bytes.fromhex("2a864886f70d0101")
_RSA_WITH = {"sha256": _RSA + b"\x0b", "sha1": _RSA + b"\x05", "md5": _RSA + b"\x04"}


def weak_certificate(private: rsa.RSAPrivateKey, pem: bytes, digest: hashes.HashAlgorithm) -> bytes:
    """Sign a certificate anew with SHA-1 or MD5: by hand, as no library does it any more."""
    made = x509.load_pem_x509_certificate(pem)
    change = (_RSA_WITH["sha256"], _RSA_WITH[digest.name])
    signed = made.tbs_certificate_bytes.replace(*change)
    signature = private.sign(signed, padding.PKCS1v15(), digest)
    der = made.public_bytes(serialization.Encoding.DER).replace(*change)
    der = der.replace(made.tbs_certificate_bytes, signed)[: -len(signature)] + signature
    weak = x509.load_der_x509_certificate(der)
    assert isinstance(weak.signature_hash_algorithm, type(digest))
    return weak.public_bytes(serialization.Encoding.PEM)


WEAK = ("sha1", "md5", "1024")


def weak_root(
    kind: str, name: str, *, starts: datetime | None = None
) -> tuple[rsa.RSAPrivateKey, bytes]:
    """Make a root key and its certificate, signed with SHA-1 or MD5, or of 1024 bits."""
    private = rsa.generate_private_key(65537, 1024 if kind == "1024" else 2048)
    digests = {"sha1": hashes.SHA1(), "md5": hashes.MD5()}  # noqa: S303  (to be refused)
    digest = digests.get(kind)
    pem = certificate(private, name, starts=starts)
    return private, weak_certificate(private, pem, digest) if digest else pem


@dataclass
class NotarySigner:
    """A private key and how metadata names it."""

    private: PrivateKey
    key: Json

    @property
    def keyid(self) -> str:
        return key_id(self.key)

    @classmethod
    def of(cls, private: PrivateKey, pem: bytes | None = None) -> NotarySigner:
        """Name a private key, by its certificate if there is one."""
        if isinstance(private, ed25519.Ed25519PrivateKey):
            raw = private.public_key().public_bytes_raw()
            return cls(private, public_key("ed25519", b64(raw)))
        kind = "rsa" if isinstance(private, rsa.RSAPrivateKey) else "ecdsa"
        if pem is not None:
            return cls(private, public_key(f"{kind}-x509", b64(pem)))
        der = private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return cls(private, public_key(kind, b64(der)))

    @classmethod
    def ecdsa(cls, curve: ec.EllipticCurve | None = None) -> NotarySigner:
        return cls.of(ec.generate_private_key(curve or ec.SECP256R1()))

    @classmethod
    def root(
        cls,
        name: str,
        private: PrivateKey | None = None,
        *,
        starts: datetime | None = None,
        ends: datetime | None = None,
    ) -> NotarySigner:
        """Make a root key with a certificate for a GUN."""
        private = private or ec.generate_private_key(ec.SECP256R1())
        return cls.of(private, certificate(private, name, starts=starts, ends=ends))

    def sign(self, payload: bytes) -> Json:
        return {"keyid": self.keyid, **self._signature(payload)}

    def _signature(self, payload: bytes) -> Json:
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            return {"method": "eddsa", "sig": b64(self.private.sign(payload))}
        if isinstance(self.private, rsa.RSAPrivateKey):
            pss = padding.PSS(padding.MGF1(hashes.SHA256()), salt_length=32)
            return {
                "method": "rsapss",
                "sig": b64(self.private.sign(payload, pss, hashes.SHA256())),
            }
        size = (self.private.curve.key_size + 7) // 8
        parts = decode_dss_signature(self.private.sign(payload, ec.ECDSA(hashes.SHA256())))
        return {
            "method": "ecdsa",
            "sig": b64(b"".join(part.to_bytes(size, "big") for part in parts)),
        }


def envelope(signed: Json, signatures: Sequence[Json]) -> bytes:
    """Join a payload and its signatures just as Notary does."""
    return (
        b'{"signed":'
        + transmitted(signed)
        + b',"signatures":'
        + transmitted(list(signatures))
        + b"}"
    )


def sign(signed: Json, *signers: NotarySigner) -> bytes:
    payload = canonical(signed)
    return envelope(signed, [signer.sign(payload) for signer in signers])


def delegation(
    name: str,
    signers: Iterable[NotarySigner],
    *,
    threshold: int = 1,
    paths: Sequence[str] = ("",),
) -> Json:
    keyids = [signer.keyid for signer in signers]
    return {"keyids": keyids, "name": name, "paths": list(paths), "threshold": threshold}


def delegations(roles: Sequence[Json], signers: Iterable[NotarySigner]) -> Json:
    return {"keys": {signer.keyid: signer.key for signer in signers}, "roles": list(roles)}


def targets_payload(version: int = 1, **more: object) -> Json:
    return {
        "_type": "Targets",
        "delegations": _NO_DELEGATIONS,
        "expires": later(days=1000, microseconds=120),
        "targets": {},
        "version": version,
        **more,
    }


def snapshot_payload(version: int, files: Mapping[str, bytes], **more: object) -> Json:
    return {
        "_type": "Snapshot",
        "expires": later(days=1000),
        "meta": {role: meta(data) for role, data in files.items()},
        "version": version,
        **more,
    }


@dataclass
class NotaryForge:
    """One GUN's owner: the root key with its certificate, the targets key, who holds the rest."""

    gun: str
    timestamp: Json
    snapshot: Json
    root_signers: list[NotarySigner] = field(default_factory=list)
    targets: NotarySigner = field(default_factory=NotarySigner.ecdsa)
    root_threshold: int = 1

    def __post_init__(self) -> None:
        if not self.root_signers:
            self.root_signers = [NotarySigner.root(self.gun)]

    def root_payload(self, version: int = 1, **more: object) -> Json:
        keys = {
            "root": [signer.key for signer in self.root_signers],
            "snapshot": [self.snapshot],
            "targets": [self.targets.key],
            "timestamp": [self.timestamp],
        }
        return {
            "_type": "Root",
            "consistent_snapshot": False,
            "expires": later(days=3650),
            "keys": {key_id(key): key for held in keys.values() for key in held},
            "roles": {
                role: {
                    "keyids": [key_id(key) for key in held],
                    "threshold": self.root_threshold if role == "root" else 1,
                }
                for role, held in keys.items()
            },
            "version": version,
            **more,
        }

    def root(self, version: int = 1, by: Sequence[NotarySigner] = (), **more: object) -> bytes:
        return sign(self.root_payload(version, **more), *(by or self.root_signers))

    def targets_file(self, version: int = 1, **more: object) -> bytes:
        return sign(targets_payload(version, **more), self.targets)

    def first(self) -> dict[str, bytes]:
        """Give what docker publishes first: the server holds snapshot and timestamp."""
        return {"root": self.root(), "targets": self.targets_file()}
