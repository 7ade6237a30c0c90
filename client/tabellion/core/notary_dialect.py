"""The ``notary`` dialect: metadata as Notary 0.7.0 and docker write and read it.

Spec: notary-v1 sections 2 to 4, measured on the real programs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.signer import Key, Signature, Signer
from tuf.api.metadata import DelegatedRole, MetaFile, Root, Signed

from tabellion.core import strict_json
from tabellion.core.limits import Limits
from tabellion.core.metadata import UnverifiedMetadata, UnversionedMeta
from tabellion.core.notary_delegations import NotaryDelegatedRole
from tabellion.core.notary_keys import NotaryKey, NotarySigner, PublicKey
from tabellion.core.notary_reading import HASH_BYTES, parse_payload
from tabellion.core.notary_roots import verify_root_signers
from tabellion.core.notary_writing import payload_json, write_envelope
from tabellion.core.roles import key_material
from tabellion.errors import MalformedMetadataError

_MAX_SIGNATURES: Final = 8  # of one key: each costs a verification
_MAX_INTEGER: Final = 2**53  # beyond, Go's verifiers see another number than was signed


class NotaryDialect:
    """Reads and writes Notary's files."""

    name = "notary"
    lists_root = True

    def parse(self, role: str, data: bytes, *, max_bytes: int) -> UnverifiedMetadata[Signed]:
        """Read a role's file; nothing is trusted yet.

        Unknown members are let pass, as Notary does: signatures cover them, nobody reads them.

        Raises:
            MetadataTooLargeError: Above ``max_bytes``; not parsed.
            MalformedMetadataError: Not this role's metadata, or Go would read other values in it.
        """
        content = strict_json.parse(data, max_bytes=max_bytes, what=role)
        signed_part = content.get("signed")
        if not isinstance(signed_part, dict):
            raise MalformedMetadataError(f"{role} has no object 'signed'")
        signatures = _parse_signatures(role, content.get("signatures"))
        _check_numbers(role, signed_part)
        try:
            signed = parse_payload(role, signed_part)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MalformedMetadataError(f"{role} type metadata invalid: {error}") from error
        signed_bytes = strict_json.canonical(signed_part)
        return UnverifiedMetadata(role, data, signed, signatures, signed_bytes)

    def sign(self, signed: Signed, signers: Sequence[Signer]) -> bytes:
        """Write a file signed by all ``signers``."""
        payload = payload_json(signed)
        signed_bytes = strict_json.canonical(payload)
        return write_envelope(payload, [signer.sign(signed_bytes) for signer in signers])

    def add_signature(self, data: bytes, signers: Sequence[Signer]) -> bytes:
        """Add signatures; a signature of the same key id is replaced.

        Raises:
            MalformedMetadataError: ``data`` isn't a signed file.
        """
        payload, _ = _open(data)
        signed_bytes = strict_json.canonical(payload)
        return self.with_signatures(data, [signer.sign(signed_bytes) for signer in signers])

    def with_signatures(self, data: bytes, signatures: Iterable[Signature]) -> bytes:
        """Add signatures that others made; one of the same key id is replaced.

        Raises:
            MalformedMetadataError: ``data`` isn't a signed file.
        """
        payload, held = _open(data)
        held.update({signature.keyid: signature for signature in signatures})
        return write_envelope(payload, list(held.values()))

    def file_name(self, role: str, version: int | None) -> str:
        """Give ``3.targets/releases.json``, or the current file's name without a version."""
        return f"{role}.json" if version is None else f"{version}.{role}.json"

    def named_file(self, role: str, meta: MetaFile, *, root: Root) -> str:  # noqa: ARG002
        """Give the name of the file that a snapshot or timestamp names: by its SHA-256."""
        return f"{role}.{(meta.hashes or {})['sha256']}.json"

    def meta(self, version: int, data: bytes) -> MetaFile:  # noqa: ARG002  (the dialects' form)
        """Give what a snapshot or timestamp says of a file."""
        hashes = {name: hashlib.new(name, data).hexdigest() for name in HASH_BYTES}
        return UnversionedMeta(len(data), hashes)

    def parse_key(self, keyid: str, fields: Mapping[str, Any]) -> Key:
        """Read a key object.

        Raises:
            MalformedMetadataError: It isn't one.
        """
        return NotaryKey.from_dict(keyid, dict(fields))

    def adopt_key(self, key: Key) -> Key:
        """Give a key as this dialect lists it."""
        return key if isinstance(key, NotaryKey) else NotaryKey.of(_public_of(key))

    def delegated_role(
        self,
        name: str,
        keyids: Sequence[str],
        threshold: int,
        *,
        paths: Sequence[str],
        terminating: bool = False,  # noqa: ARG002  (Notary has none)
    ) -> DelegatedRole:
        """Make a delegation; ``paths`` are beginnings of target names."""
        return NotaryDelegatedRole(
            name, list(keyids), threshold, terminating=False, paths=list(paths)
        )

    def signer(self, private: PrivateKeyTypes, key: Key) -> Signer:
        """Give what signs with a private key as ``key``.

        Raises:
            MalformedMetadataError: They don't belong together.
        """
        return NotarySigner(private, cast("NotaryKey", key))

    def verify_root_signers(
        self, root: Root, signed_by: Sequence[str], *, gun: str | None, now: datetime | None
    ) -> None:
        """Refuse a root that isn't signed by usable certificates for its GUN."""
        if gun is None:
            raise RuntimeError("a Notary root is for one GUN: say which")
        verify_root_signers(root, signed_by, gun=gun, now=now)


def _open(data: bytes) -> tuple[dict[str, Any], dict[str, Signature]]:
    content = strict_json.parse(data, max_bytes=Limits().targets_bytes, what="file to sign")
    payload = content.get("signed")
    if not isinstance(payload, dict):
        raise MalformedMetadataError("file to sign has no object 'signed'")
    return payload, _parse_signatures("file to sign", content.get("signatures"))


def _parse_signatures(role: str, value: object) -> dict[str, Signature]:
    if not isinstance(value, list):
        raise MalformedMetadataError(f"{role} has no list 'signatures'")
    signatures: dict[str, Signature] = {}
    for item in value:
        fields = item if isinstance(item, dict) else {}
        keyid, sig, method = fields.get("keyid"), fields.get("sig"), fields.get("method")
        if not (isinstance(keyid, str) and isinstance(sig, str) and isinstance(method, str)):
            raise MalformedMetadataError(f"{role} has a signature without keyid, method and sig")
        if keyid in signatures:
            also = signatures[keyid].unrecognized_fields.setdefault("also", [])
            if len(also) + 1 == _MAX_SIGNATURES:
                raise MalformedMetadataError(
                    f"{role} has more than {_MAX_SIGNATURES} signatures of key {keyid[:64]}"
                )
            also.append((method.lower(), sig))
        else:
            signatures[keyid] = Signature(keyid, sig, {"method": method.lower()})
    return signatures


def _check_numbers(role: str, value: object) -> None:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, int) and abs(item) > _MAX_INTEGER:
            raise MalformedMetadataError(
                f"{role} holds the number {item}, which Notary's clients would read otherwise"
            )
        if isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


def _public_of(key: Key) -> PublicKey:
    """Load a key of the other dialect."""
    material = key_material(key)
    if key.keytype == "ed25519":
        return Ed25519PublicKey.from_public_bytes(material.removeprefix(b"ed25519:"))
    return cast("PublicKey", load_pem_public_key(str(key.keyval["public"]).encode()))
