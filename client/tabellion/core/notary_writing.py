"""Notary's files as text: what is signed, and the envelope that is sent and stored.

Spec: notary-v1 sections 2 to 4, measured on the real programs.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from securesystemslib.signer import Signature
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from tabellion.core.notary_keys import signature_texts

WRITTEN_TEXT: Final = "notary-expires"
"""Member of a payload that was read: its expiry as it was written, and the moment that is."""
_HTML: Final = (
    ("<", "\\u003c"),
    (">", "\\u003e"),
    ("&", "\\u0026"),
    ("\u2028", "\\u2028"),
    ("\u2029", "\\u2029"),
)


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


def _expires_text(signed: Signed) -> str:
    """Give the expiry as it was written, unless it was changed since: then whole seconds, UTC."""
    text, moment = signed.unrecognized_fields.get(WRITTEN_TEXT, ("", None))
    return text if moment == signed.expires else f"{signed.expires:%Y-%m-%dT%H:%M:%SZ}"


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
