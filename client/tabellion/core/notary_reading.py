"""What is signed in Notary's files, read strictly into python-tuf's payloads.

Spec: notary-v1 sections 3 and 4, measured on the real programs.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

from securesystemslib.signer import Key
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

from tabellion.core.metadata import UnversionedMeta, payload_type
from tabellion.core.notary_delegations import NotaryDelegatedRole, is_delegation_name
from tabellion.core.notary_keys import NotaryKey
from tabellion.core.notary_writing import WRITTEN_TEXT
from tabellion.core.roles import TOP_LEVEL_ROLES

_EXPIRES: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})T([0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{1,20})?"
    r"(Z|[+-][0-9]{2}:[0-9]{2})"
)
HASH_BYTES: Final = {"sha256": 32, "sha512": 64}


def parse_payload(role: str, content: dict[str, Any]) -> Signed:
    """Read what is signed in a role's file.

    Raises:
        ValueError: It isn't that; KeyError, TypeError and AttributeError say the same.
    """
    payload: Signed = _PARSERS[payload_type(role)](role, content)
    return payload


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
    known = {algorithm: value for algorithm, value in hashes.items() if algorithm in HASH_BYTES}
    return UnversionedMeta(length, known)


def _parse_hashes(name: str, value: object) -> dict[str, str]:
    hashes: dict[str, str] = {}
    for algorithm, text in _object(value, f"hashes of {name[:80]!r}").items():
        try:
            raw = base64.b64decode(text, validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise ValueError(f"{name[:80]!r} has a {algorithm[:20]} that isn't base64") from error
        if len(raw) != HASH_BYTES.get(algorithm, len(raw)):
            raise ValueError(f"{name[:80]!r} has a {algorithm} of {len(raw)} bytes")
        hashes[algorithm] = raw.hex()
    if not hashes.keys() & HASH_BYTES.keys():
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


_PARSERS: Final[Mapping[type[Signed], Any]] = {
    Root: _parse_root,
    Targets: _parse_targets,
    Snapshot: _parse_snapshot,
    Timestamp: _parse_timestamp,
}
