"""The ``notary`` dialect: metadata as Notary 0.7.0 and docker write and read it.

Spec: notary-v1 sections 2 to 4, measured on the real programs.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.signer import Key, Signature, Signer
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    MetaFile,
    Role,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from tabellion.core import strict_json
from tabellion.core.limits import Limits
from tabellion.core.metadata import UnverifiedMetadata, UnversionedMeta, payload_type
from tabellion.core.notary_keys import NotaryKey, NotarySigner, PublicKey, signature_texts
from tabellion.core.notary_roots import verify_root_signers
from tabellion.core.roles import TOP_LEVEL_ROLES, key_material
from tabellion.errors import MalformedMetadataError

_EXPIRES: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})T([0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{1,20})?"
    r"(Z|[+-][0-9]{2}:[0-9]{2})"
)
_DELEGATION: Final = re.compile(r"targets/[-a-z0-9_/]+")
_MAX_NAME: Final = 255
_MAX_SIGNATURES: Final = 8  # of one key: each costs a verification
_MAX_INTEGER: Final = 2**53  # beyond, Go's verifiers see another number than was signed
_HASH_BYTES: Final = {"sha256": 32, "sha512": 64}
WRITTEN_TEXT: Final = "notary-expires"  # a payload's expiry as it was written, and what it means
_HTML: Final = (
    ("<", "\\u003c"),
    (">", "\\u003e"),
    ("&", "\\u0026"),
    ("\u2028", "\\u2028"),
    ("\u2029", "\\u2029"),
)


class NotaryDelegatedRole(DelegatedRole):
    """A delegation whose paths are plain beginnings of names."""

    def is_delegated_path(self, target_filepath: str) -> bool:
        """Tell whether a target lies under one of the paths; ``""`` is everything."""
        return any(target_filepath.startswith(path) for path in self.paths or ())


def patterns_of(role: DelegatedRole) -> list[str]:
    """Give a delegation's paths as patterns for people to read: ``v1*`` for Notary's ``v1``."""
    star = "*" if isinstance(role, NotaryDelegatedRole) else ""
    return [f"{path}{star}" for path in role.paths or ()]


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
            signed = _PARSERS[payload_type(role)](role, signed_part)
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
        hashes = {name: hashlib.new(name, data).hexdigest() for name in _HASH_BYTES}
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


def write_envelope(payload: Mapping[str, Any], signatures: Sequence[Signature]) -> bytes:
    """Write the bytes that are sent and stored: ``signed`` first, then its signatures.

    Hashes and lengths are over these. They differ from what is signed in that ``< > &`` and the
    two Unicode line ends are escaped, as Go does.
    """
    signed = json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    for char, escape in _HTML:
        signed = signed.replace(char, escape)
    listed = [
        {"keyid": item.keyid, "method": method, "sig": sig}
        for item in signatures
        for method, sig in signature_texts(item)
    ]
    return f'{{"signed":{signed},"signatures":{_compact(listed)}}}'.encode()


def payload_json(signed: Signed) -> dict[str, Any]:
    """Give the JSON of a payload, with Notary's own ways of writing what is empty."""
    content: dict[str, Any] = {
        "_type": signed.type.capitalize(),
        "expires": _expires_text(signed),
        "version": signed.version,
    }
    match signed:
        case Root():
            content |= {
                "consistent_snapshot": bool(signed.consistent_snapshot),
                "keys": {keyid: key.to_dict() for keyid, key in signed.keys.items()},
                "roles": {
                    name: {"keyids": entry.keyids, "threshold": entry.threshold}
                    for name, entry in signed.roles.items()
                },
            }
        case Targets():
            content |= {
                "delegations": _delegations_json(signed.delegations),
                "targets": {path: _target_json(item) for path, item in signed.targets.items()},
            }
        case Snapshot():
            content["meta"] = {
                name.removesuffix(".json"): _meta_json(meta) for name, meta in signed.meta.items()
            }
        case Timestamp():
            content["meta"] = {"snapshot": _meta_json(signed.snapshot_meta)}
    return content


def is_delegation_name(name: str) -> bool:
    """Tell whether a name is one that Notary's clients take for a delegated role."""
    is_clean = posixpath.normpath(name) == name and len(name) <= _MAX_NAME
    return is_clean and bool(_DELEGATION.fullmatch(name))


def parse_moment(text: object) -> datetime:
    """Read RFC 3339 with up to nanoseconds and any offset; what is below a second is cut.

    Raises:
        ValueError: It's no such moment.
    """
    match = _EXPIRES.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{str(text)[:40]!r} isn't an RFC 3339 moment with a zone")
    zone = UTC
    if match[4] != "Z":
        hours, minutes = int(match[4][1:3]), int(match[4][4:])
        if hours > 23 or minutes > 59:  # noqa: PLR2004  (a clock's)
            raise ValueError(f"{text!r:.50} has an impossible zone")
        shift = timedelta(hours=hours, minutes=minutes)
        zone = timezone(shift if match[4][0] == "+" else -shift)
    try:
        return datetime.fromisoformat(f"{match[1]}T{match[2]}").replace(tzinfo=zone).astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{text!r:.50} is out of range") from error


def _expires_text(signed: Signed) -> str:
    """Give the expiry as it was written, unless it was changed since: then whole seconds, UTC."""
    text, moment = signed.unrecognized_fields.get(WRITTEN_TEXT, ("", None))
    return text if moment == signed.expires else f"{signed.expires:%Y-%m-%dT%H:%M:%SZ}"


def _common(role: str, content: dict[str, Any]) -> dict[str, Any]:
    """Read what every file holds, as arguments of python-tuf's payload classes."""
    kind = payload_type(role)
    if content.get("_type") != kind.type.capitalize():
        raise ValueError(
            f"expected type {kind.type.capitalize()}, not {str(content.get('_type'))[:40]}"
        )
    version = content.get("version")
    if type(version) is not int or version < 1:
        raise ValueError("version cannot be less than one")
    expires = parse_moment(content.get("expires"))
    return {
        "version": version,
        "expires": expires,
        "unrecognized_fields": {WRITTEN_TEXT: (content["expires"], expires)},
    }


def _parse_root(role: str, content: dict[str, Any]) -> Root:
    keys = _parse_keys(content["keys"])
    roles: dict[str, Role] = {}
    for name in TOP_LEVEL_ROLES:
        entry = _object(content["roles"].get(name), f"role {name}")
        roles[name] = Role(_keyids(entry.get("keyids")), _threshold(name, entry.get("threshold")))
        for keyid in roles[name].keyids:
            if keyid not in keys:
                raise ValueError(f"key {keyid[:64]} of {name} isn't listed")
    return Root(
        keys=keys,
        roles=roles,
        consistent_snapshot=content.get("consistent_snapshot") is True,
        **_common(role, content),
    )


def _parse_targets(role: str, content: dict[str, Any]) -> Targets:
    common = _common(role, content)
    targets = {
        path: _parse_target(path, item)
        for path, item in _object(content.get("targets"), "targets").items()
    }
    return Targets(targets=targets, delegations=_parse_delegations(role, content), **common)


def _parse_target(path: str, item: object) -> TargetFile:
    fields = _object(item, f"target {path[:80]!r}")
    length = fields.get("length")
    if type(length) is not int or length < 0:
        raise ValueError(f"target {path[:80]!r} has no length")
    hashes = _parse_hashes(path, fields.get("hashes"))
    custom = fields.get("custom")
    return TargetFile(length, hashes, path, {} if custom is None else {"custom": custom})


def _parse_delegations(role: str, content: dict[str, Any]) -> Delegations | None:
    fields = _object(content.get("delegations", {}), "delegations")
    keys, listed = _parse_keys(fields.get("keys") or {}), fields.get("roles")
    if listed is None and not keys:
        return None
    roles: dict[str, DelegatedRole] = {}
    for item in listed or []:
        entry = _object(item, "delegated role")
        name, paths = entry.get("name"), entry.get("paths") or []
        if not isinstance(name, str) or name.rpartition("/")[0] != role or name == f"{role}/":
            raise ValueError(f"delegation role {str(name)[:80]} invalid")
        if not is_delegation_name(name):
            raise ValueError(f"delegation role {name[:80]} invalid")
        if name in roles:
            raise ValueError(f"it delegates to {name[:80]} twice")
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            raise ValueError(f"the paths of {name[:80]} aren't a list of texts")
        keyids = _keyids(entry.get("keyids"))
        for keyid in keyids:
            if keyid not in keys:
                raise ValueError(f"key ID {keyid} specified in {name} without corresponding key")
        threshold = _threshold(name, entry.get("threshold"))
        roles[name] = NotaryDelegatedRole(name, keyids, threshold, terminating=False, paths=paths)
    return Delegations(keys, roles)


def _parse_snapshot(role: str, content: dict[str, Any]) -> Snapshot:
    common = _common(role, content)
    meta: dict[str, MetaFile] = {
        f"{name}.json": _parse_meta(name, item)
        for name, item in _object(content.get("meta"), "meta").items()
    }
    for name in ("root", "targets"):
        if f"{name}.json" not in meta:
            raise ValueError(f"missing {name} sha256 checksum information")
    return Snapshot(meta=meta, **common)


def _parse_timestamp(role: str, content: dict[str, Any]) -> Timestamp:
    common = _common(role, content)
    meta = _object(content.get("meta"), "meta")
    return Timestamp(snapshot_meta=_parse_meta("snapshot", meta.get("snapshot")), **common)


def _parse_meta(name: str, item: object) -> UnversionedMeta:
    fields = _object(item, f"meta of {name[:80]}")
    length = fields.get("length")
    if type(length) is not int or length < 0:
        raise ValueError(f"{name[:80]} is named without a length")
    hashes = _parse_hashes(name, fields.get("hashes"))
    if "sha256" not in hashes:
        raise ValueError(f"missing {name[:80]} sha256 checksum information")
    known = {algorithm: value for algorithm, value in hashes.items() if algorithm in _HASH_BYTES}
    return UnversionedMeta(length, known)


def _parse_hashes(name: str, value: object) -> dict[str, str]:
    hashes: dict[str, str] = {}
    for algorithm, text in _object(value, f"hashes of {name[:80]!r}").items():
        try:
            raw = base64.b64decode(text, validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise ValueError(f"{name[:80]!r} has a {algorithm[:20]} that isn't base64") from error
        if len(raw) != _HASH_BYTES.get(algorithm, len(raw)):
            raise ValueError(f"{name[:80]!r} has a {algorithm} of {len(raw)} bytes")
        hashes[algorithm] = raw.hex()
    if not hashes.keys() & _HASH_BYTES.keys():
        raise ValueError(f"{name[:80]!r} has neither a sha256 nor a sha512")
    return hashes


def _parse_keys(value: object) -> dict[str, Key]:
    keys: dict[str, Key] = {}
    for keyid, fields in _object(value, "keys").items():
        keys[keyid] = NotaryKey.from_dict(keyid, _object(fields, f"key {keyid[:64]}"))
    return keys


def _keyids(value: object) -> list[str]:
    keyids = [] if value is None else value
    if not isinstance(keyids, list) or not all(isinstance(keyid, str) for keyid in keyids):
        raise ValueError("keyids aren't a list of texts")
    return list(dict.fromkeys(keyids))


def _threshold(name: str, value: object) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"invalid threshold specified for {name[:80]}: {str(value)[:20]} ")
    return value


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} isn't an object")  # noqa: TRY004  (one error of bad content)
    return value


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


def _delegations_json(delegations: Delegations | None) -> dict[str, Any]:
    """Write ``null`` where Notary does: for roles and key ids once the last one is gone."""
    if delegations is None:
        return {"keys": {}, "roles": None}
    return {
        "keys": {keyid: key.to_dict() for keyid, key in delegations.keys.items()},
        "roles": [_role_json(entry) for entry in (delegations.roles or {}).values()],
    }


def _role_json(entry: DelegatedRole) -> dict[str, Any]:
    paths = {"paths": entry.paths} if entry.paths else {}
    return {
        "keyids": entry.keyids or None,
        "name": entry.name,
        **paths,
        "threshold": entry.threshold,
    }


def _target_json(item: TargetFile) -> dict[str, Any]:
    custom = item.unrecognized_fields.get("custom")
    return {
        **({} if custom is None else {"custom": custom}),
        "hashes": _hashes_json(item.hashes),
        "length": item.length,
    }


def _meta_json(meta: MetaFile) -> dict[str, Any]:
    return {"hashes": _hashes_json(meta.hashes or {}), "length": meta.length}


def _hashes_json(hashes: Mapping[str, str]) -> dict[str, str]:
    return {
        algorithm: base64.b64encode(bytes.fromhex(value)).decode("ascii")
        for algorithm, value in hashes.items()
    }


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _public_of(key: Key) -> PublicKey:
    """Load a key of the other dialect."""
    material = key_material(key)
    if key.keytype == "ed25519":
        return Ed25519PublicKey.from_public_bytes(material.removeprefix(b"ed25519:"))
    return cast("PublicKey", load_pem_public_key(str(key.keyval["public"]).encode()))


_PARSERS: Final[Mapping[type[Signed], Any]] = {
    Root: _parse_root,
    Targets: _parse_targets,
    Snapshot: _parse_snapshot,
    Timestamp: _parse_timestamp,
}
