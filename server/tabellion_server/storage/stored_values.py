"""Rows that all engines keep alike: history, online keys, proposals and their audit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tabellion_server.storage.interface import AuditEntry, OnlineKeyRow, PendingRow, TagEvent
from tabellion_server.storage.values import moment_of


def event_of(row: Sequence[Any]) -> TagEvent:
    """Read kind, target, role, version, hash of metadata, digests, length, moment and id."""
    kind, target, role, version, metadata_sha256, digests, length, at, number = row
    return TagEvent(
        *(kind, target, role, version, metadata_sha256),
        *(json.loads(digests), length, moment_of(at), number),
    )


def online_key_of(row: Sequence[Any]) -> OnlineKeyRow:
    """Read key id, role, public key, sealed key and moment."""
    keyid, role, public, sealed, created_at = row
    return OnlineKeyRow(keyid, role, public, sealed, moment_of(created_at))


def pending_of(row: Sequence[Any]) -> PendingRow:
    """Read GUN, id, versions, files, who, both moments and revision."""
    gun, number, versions, files, by, created_at, expires_at, revision = row
    return PendingRow(
        gun,
        number,
        json.loads(versions),
        {role: text.encode() for role, text in json.loads(files).items()},
        by,
        moment_of(created_at),
        moment_of(expires_at),
        revision,
    )


def entry_of(row: Sequence[Any]) -> AuditEntry:
    """Read GUN, proposal, action, versions, key ids, who, moment and id."""
    gun, proposal, action, versions, keyids, by, at, number = row
    return AuditEntry(
        *(gun, proposal, action, json.loads(versions)),
        *(tuple(json.loads(keyids)), by, moment_of(at), number),
    )


def versions_json(versions: Mapping[str, int]) -> str:
    """Write versions of roles."""
    return json.dumps(dict(versions))


def files_json(files: Mapping[str, bytes]) -> str:
    """Write files of a proposal, which are UTF-8."""
    return json.dumps({role: data.decode("utf-8") for role, data in files.items()})
