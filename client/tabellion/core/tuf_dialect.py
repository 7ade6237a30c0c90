"""The ``tuf`` dialect: TUF 1.0 JSON metadata as python-tuf, go-tuf and tough read it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, cast
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from securesystemslib.signer import CryptoSigner, Key, Signature, Signer, SSlibKey
from tuf.api.metadata import (
    DelegatedRole,
    MetaFile,
    Role,
    Root,
    Signed,
    Snapshot,
    Targets,
    Timestamp,
)

from tabellion.core import strict_json
from tabellion.core.bins import bins_of
from tabellion.core.limits import Limits
from tabellion.core.metadata import UnverifiedMetadata, payload_type
from tabellion.core.notary_keys import NotaryKey
from tabellion.core.roles import delegated_roles
from tabellion.errors import MalformedMetadataError

_EXPIRES: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_SPEC_VERSION: Final = re.compile(r"1(?:\.[0-9]{1,6}){1,2}")
_HEX: Final = re.compile(r"[0-9a-f]*")


class TufDialect:
    """Reads and writes TUF 1.0 files."""

    name = "tuf"
    lists_root = False

    def parse(self, role: str, data: bytes, *, max_bytes: int) -> UnverifiedMetadata[Signed]:
        """Read a role's file; nothing is trusted yet.

        Spec: TUF 1.0.34, 4.2 to 4.6.

        Raises:
            MetadataTooLargeError: Above ``max_bytes``; not parsed.
            MalformedMetadataError: Anything that isn't this role's metadata to the letter.
        """
        content = strict_json.parse(data, max_bytes=max_bytes, what=role)
        signed_part = content.get("signed")
        if not isinstance(signed_part, dict):
            raise MalformedMetadataError(f"{role} has no object 'signed'")
        signatures = _parse_signatures(role, content.get("signatures"))
        _check_common(role, signed_part)
        signed_bytes = strict_json.canonical(signed_part)
        try:
            # from_dict empties what it is given; parsing again is faster than a deep copy.
            signed = payload_type(role).from_dict(json.loads(data)["signed"])
            faithful = strict_json.canonical(signed.to_dict()) == signed_bytes
        except MalformedMetadataError:
            raise
        except Exception as error:  # any fault of a foreign parser on hostile input is a "no"
            raise MalformedMetadataError(f"{role} isn't {role} metadata: {error}") from error
        if not faithful:
            raise MalformedMetadataError(
                f"{role} doesn't survive reading and writing: python-tuf would see other bytes"
            )
        _check_payload(role, signed)
        return UnverifiedMetadata(role, data, signed, signatures, signed_bytes)

    def sign(self, signed: Signed, signers: Sequence[Signer]) -> bytes:
        """Write a file signed by all ``signers``: compact JSON, members sorted."""
        payload = signed.to_dict()
        return _write(payload, _sign(strict_json.canonical(payload), signers))

    def add_signature(self, data: bytes, signers: Sequence[Signer]) -> bytes:
        """Add signatures; a signature of the same key id is replaced.

        Raises:
            MalformedMetadataError: ``data`` isn't a signed file.
        """
        payload, _ = _open(data)
        return self.with_signatures(data, _sign(strict_json.canonical(payload), signers).values())

    def with_signatures(self, data: bytes, signatures: Iterable[Signature]) -> bytes:
        """Add signatures that others made; one of the same key id is replaced.

        Raises:
            MalformedMetadataError: ``data`` isn't a signed file.
        """
        payload, held = _open(data)
        held.update({signature.keyid: signature for signature in signatures})
        return _write(payload, held)

    def file_name(self, role: str, version: int | None) -> str:
        """Give ``3.snapshot.json``; the timestamp, and a current file, carry no version.

        The role is percent-encoded whole, as python-tuf's client asks for it.
        """
        encoded = quote(role, safe="")
        if version is None or role == "timestamp":
            return f"{encoded}.json"
        return f"{version}.{encoded}.json"

    def named_file(self, role: str, meta: MetaFile, *, root: Root) -> str:
        """Give the name of the file that a snapshot or timestamp names (5.3.12)."""
        return self.file_name(role, meta.version if root.consistent_snapshot else None)

    def meta(self, version: int, data: bytes) -> MetaFile:
        """Give what a snapshot or timestamp says of a file."""
        return MetaFile(version, len(data), {"sha256": hashlib.sha256(data).hexdigest()})

    def parse_key(self, keyid: str, fields: Mapping[str, Any]) -> Key:
        """Read a key object.

        Raises:
            MalformedMetadataError: It isn't one.
        """
        try:
            return Key.from_dict(keyid, dict(fields))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise MalformedMetadataError(f"key {keyid[:64]} isn't a TUF key: {error}") from error

    def adopt_key(self, key: Key) -> Key:
        """Give a key as this dialect lists it."""
        return SSlibKey.from_crypto(key.public_key) if isinstance(key, NotaryKey) else key

    def delegated_role(
        self,
        name: str,
        keyids: Sequence[str],
        threshold: int,
        *,
        paths: Sequence[str],
        terminating: bool = False,
    ) -> DelegatedRole:
        """Make a delegation; ``paths`` are patterns."""
        return DelegatedRole(name, list(keyids), threshold, terminating, list(paths))

    def signer(self, private: PrivateKeyTypes, key: Key) -> Signer:
        """Give what signs with a private key as ``key``.

        Raises:
            MalformedMetadataError: They don't belong together.
        """
        try:
            return CryptoSigner(private, cast("SSlibKey", key))
        except Exception as error:
            raise MalformedMetadataError(f"key {key.keyid[:64]} can't sign: {error}") from error

    def verify_root_signers(
        self, root: Root, signed_by: Sequence[str], *, gun: str | None, now: datetime | None
    ) -> None:
        """Ask no more: a TUF root's keys are bare."""


def _open(data: bytes) -> tuple[dict[str, Any], dict[str, Signature]]:
    content = strict_json.parse(data, max_bytes=Limits().targets_bytes, what="file to sign")
    payload = content.get("signed")
    if not isinstance(payload, dict):
        raise MalformedMetadataError("file to sign has no object 'signed'")
    return payload, _parse_signatures("file to sign", content.get("signatures"))


def _sign(signed_bytes: bytes, signers: Sequence[Signer]) -> dict[str, Signature]:
    made = [signer.sign(signed_bytes) for signer in signers]
    return {signature.keyid: signature for signature in made}


def _write(payload: dict[str, Any], signatures: dict[str, Signature]) -> bytes:
    content = {"signatures": [item.to_dict() for item in signatures.values()], "signed": payload}
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode("ascii")


def _parse_signatures(role: str, value: object) -> dict[str, Signature]:
    if not isinstance(value, list):
        raise MalformedMetadataError(f"{role} has no list 'signatures'")
    signatures: dict[str, Signature] = {}
    for item in value:
        if not isinstance(item, dict):
            raise MalformedMetadataError(f"{role} has a signature that isn't an object")
        keyid, sig = item.get("keyid"), item.get("sig")
        if not isinstance(keyid, str) or not isinstance(sig, str):
            raise MalformedMetadataError(f"{role} has a signature without keyid and sig")
        if keyid in signatures:
            raise MalformedMetadataError(f"{role} has two signatures of key {keyid[:64]!r}")
        extra = {name: field for name, field in item.items() if name not in {"keyid", "sig"}}
        signatures[keyid] = Signature(keyid, sig, extra)
    return signatures


def _check_common(role: str, signed: dict[str, Any]) -> None:
    expected = payload_type(role).type
    if signed.get("_type") != expected:
        raise MalformedMetadataError(
            f"{role} has _type {str(signed.get('_type'))[:40]!r}, not {expected!r}"
        )
    version = signed.get("version")
    if type(version) is not int or version < 1:
        raise MalformedMetadataError(f"{role} has no version that is an integer above 0")
    spec_version = signed.get("spec_version")
    if not isinstance(spec_version, str) or not _SPEC_VERSION.fullmatch(spec_version):
        raise MalformedMetadataError(
            f"{role} has spec_version {str(spec_version)[:40]!r}; 1.x is known here"
        )
    expires = signed.get("expires")
    if not isinstance(expires, str) or not _EXPIRES.fullmatch(expires):
        raise MalformedMetadataError(f"{role} has no expires of the form YYYY-MM-DDTHH:MM:SSZ")
    try:
        datetime.fromisoformat(expires)
    except ValueError as error:
        raise MalformedMetadataError(f"{role} expires at no such moment: {expires}") from error


def _check_payload(role: str, signed: Signed) -> None:
    """Check types that python-tuf takes as they come."""
    match signed:
        case Root():
            for name, entry in signed.roles.items():
                _check_entry(role, name, entry)
        case Timestamp():
            _check_meta(role, "snapshot.json", signed.snapshot_meta)
        case Snapshot():
            if "targets.json" not in signed.meta:
                raise MalformedMetadataError(f"{role} doesn't list targets.json")
            for name, meta in signed.meta.items():
                _check_meta(role, name, meta)
        case Targets():
            _check_targets(role, signed)


def _check_entry(role: str, name: object, entry: Role) -> None:
    """Check what python-tuf takes of a role as it comes: name, threshold and key ids."""
    if not isinstance(name, str):
        raise MalformedMetadataError(f"{role} names a role by {str(name)[:40]}, not by text")
    if not all(isinstance(keyid, str) for keyid in entry.keyids):
        raise MalformedMetadataError(f"{role} gives {name[:64]!r} a key id that isn't text")
    threshold: object = entry.threshold  # python-tuf takes true for 1
    if type(threshold) is not int or threshold < 1:
        raise MalformedMetadataError(f"{role} gives {name[:64]!r} no threshold of 1 or more")


def _check_meta(role: str, name: str, meta: Any) -> None:  # noqa: ANN401  (python-tuf's MetaFile)
    if type(meta.version) is not int or meta.version < 1:
        raise MalformedMetadataError(f"{role} gives {name[:64]!r} no version above 0")
    if meta.length is not None and (type(meta.length) is not int or meta.length < 0):
        raise MalformedMetadataError(f"{role} gives {name[:64]!r} a length that isn't a size")
    _check_hashes(role, name, meta.hashes or {})


def _check_hashes(role: str, name: str, hashes: Mapping[str, object]) -> None:
    for algorithm, value in hashes.items():
        if not isinstance(value, str) or not _HEX.fullmatch(value):
            raise MalformedMetadataError(f"{role} gives {name[:64]!r} a {algorithm} not in hex")


def _check_targets(role: str, signed: Targets) -> None:
    for path, target in signed.targets.items():
        length: object = target.length  # python-tuf takes true for 1
        if type(length) is not int or length < 0 or not target.hashes:
            raise MalformedMetadataError(f"{role} gives {path[:64]!r} no length and hashes")
        _check_hashes(role, path, target.hashes)
        if "custom" in target.unrecognized_fields and not isinstance(target.custom, dict):
            raise MalformedMetadataError(f"{role} gives {path[:64]!r} a custom not an object")
    bins = bins_of(signed)
    if bins is not None:
        _check_entry(role, bins.name_prefix, bins)
        bits: object = bins.bit_length  # python-tuf takes true for 1
        if type(bits) is not int:
            raise MalformedMetadataError(f"{role} says no number of bits for its bins")
    for delegated in delegated_roles(signed):
        _check_entry(role, delegated.name, delegated)
        patterns = [*(delegated.paths or []), *(delegated.path_hash_prefixes or [])]
        if not all(isinstance(pattern, str) for pattern in patterns):
            raise MalformedMetadataError(f"{role} gives {delegated.name[:64]!r} a path not text")
        if type(delegated.terminating) is not bool:
            raise MalformedMetadataError(
                f"{role} doesn't say with true or false if {delegated.name[:64]!r} is terminating"
            )
