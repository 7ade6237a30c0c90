"""May this publication replace that state of a Notary GUN? As notary-server judges, but stricter.

What it accepts and how it words its refusals is what docker's and notary's clients expect. It
differs where Notary's own answer breaks readers: hashes are over the stored bytes, a root may be
reached from one whose certificate expired, and nothing that stays published may be orphaned.

Spec: notary-v1 sections 6, 8 and 16, measured on notary-server 0.7.0.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from securesystemslib.signer import Key
from tuf.api.metadata import Root, Signed, Snapshot, Targets

from tabellion.core.dialect import NOTARY
from tabellion.core.freshness import verify_fresh
from tabellion.core.limits import Limits
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.notary_delegations import is_delegation_name
from tabellion.core.notary_reading import parse_moment
from tabellion.core.notary_roots import is_valid_at, usable_leaf
from tabellion.core.notary_vouching import Vouching, vouching
from tabellion.core.publication import (
    CurrentSet,
    OnlineKeys,
    Publication,
    UploadedFile,
    holds_threshold,
)
from tabellion.core.roles import TOP_LEVEL_ROLES, role_keys, verify_threshold
from tabellion.core.succession import verify_hashes
from tabellion.errors import (
    ExpiredMetadataError,
    MalformedMetadataError,
    MetadataTooLargeError,
    MixAndMatchError,
    NotaryRefusalError,
    ThresholdError,
)

_VALIDATION: Final = "ErrValidation"
_NO_PATH: Final = "could not validate the path to a trusted root"
_NO_LEAVES: Final = f"{_NO_PATH}: unable to retrieve valid leaf certificates"
_NO_INTEGRITY: Final = f"{_NO_PATH}: failed to validate integrity of roots"
_NO_ROTATION: Final = (
    "could not rotate trust to a new trusted root: failed to validate data with current trusted "
    "certificates"
)


@dataclass
class _Judgement:
    """The state while one upload is judged."""

    gun: str
    now: datetime
    limits: Limits
    current: Mapping[str, UnverifiedMetadata[Any]]
    new: dict[str, UnverifiedMetadata[Any]] = field(default_factory=dict)

    def role(self, role: str) -> UnverifiedMetadata[Any] | None:
        """Give a role's file as it would be."""
        return self.new.get(role) or self.current.get(role)

    @property
    def root(self) -> UnverifiedMetadata[Root]:
        """Give the root as it would be."""
        found = self.role("root")
        if found is None:
            _refuse(_VALIDATION, "no pre-existing root and no root provided in update.")
        return found

    def before(self) -> Vouching:
        """Tell which of the files served now are vouched for."""
        root = self.current.get("root")
        return vouching((root or self.root).signed, self.current.get)

    def named(self) -> set[str]:
        """Give the roles that the snapshot served now names."""
        held = self.current.get("snapshot")
        return {name.removesuffix(".json") for name in held.signed.meta} if held else set()

    def was_broken(self, role: str) -> bool:
        """Tell whether the snapshot served now names a role's file that nobody vouches for.

        Notary's server took such publications, so GUNs that came from it may be so; docker's
        readers pass the role over.
        """
        return role in self.named() and role in self.before().unvouched


def judge_notary_publication(
    current: CurrentSet | None,
    upload: Sequence[UploadedFile],
    *,
    gun: str,
    online: OnlineKeys,
    now: datetime,
    limits: Limits,
) -> Publication:
    """Judge an upload against what is served now; see ``judge_publication``.

    An upload may be empty: then the server's own part is signed anew. Of two files of one role the
    last one counts, and a timestamp isn't looked at.

    Raises:
        NotaryRefusalError: A rule is broken; it tells in Notary's words.
        MetadataTooLargeError: A file is above its role's limit.
    """
    parts = {item.role: item.data for item in upload if item.role != "timestamp"}
    for role, data in parts.items():
        if role not in TOP_LEVEL_ROLES and not is_delegation_name(role):
            raise NotaryRefusalError(role, code_name="INVALID_ROLE")
        _check_decodes(role, data, limits)
    judgement = _Judgement(gun, now, limits, current.files if current else {})
    if "root" in parts:
        _judge_root(judgement, parts["root"])
    root = judgement.root
    targets = sorted(set(parts) - {"root", "snapshot"}, key=lambda role: role.count("/"))
    for role in targets:
        _judge_targets(judgement, role, parts[role])
    if judgement.role("targets") is None:
        _refuse(_VALIDATION, "targets must be loaded first")
    after = _verify_nothing_orphaned(judgement)
    if "snapshot" in parts:
        _judge_snapshot(judgement, parts["snapshot"], after)
    ours = ["timestamp"] if "snapshot" in parts else ["snapshot", "timestamp"]
    unheld = [role for role in ours if not holds_threshold(root.signed, role, online.of(role))]
    if unheld:
        _refuse_unheld(root.signed, unheld, online, gun if current else None)
    _verify_versions(judgement)
    new = judgement.new
    return Publication(
        NOTARY,
        (new["root"],) if "root" in new else (),
        {role: new[role] for role in targets},
        new.get("snapshot"),
        root,
        needs_snapshot="snapshot" not in new,
        dropped=frozenset(judgement.current) - TOP_LEVEL_ROLES - after.vouched - set(new),
        relisted=_relisted(judgement, after),
    )


def _refuse(name: str, message: str, hint: str = "") -> NoReturn:
    raise NotaryRefusalError(message, name=name, hint=hint)


def _kind(role: str) -> str:
    return {"root": "ErrBadRoot", "snapshot": "ErrBadSnapshot"}.get(role, "ErrBadTargets")


def _check_decodes(role: str, data: bytes, limits: Limits) -> None:
    """Refuse what Go couldn't decode at all: members of a wrong type, no moment of expiry."""
    if len(data) > limits.max_bytes(role):
        raise MetadataTooLargeError(
            f"{role} has {len(data)} bytes, the limit is {limits.max_bytes(role)}"
        )
    try:
        content = json.loads(data)
        signed = {} if content.get("signed") is None else content["signed"]
        fits = isinstance(signed.get("_type", ""), str) and type(signed.get("version", 0)) is int
        if "expires" in signed:
            parse_moment(signed["expires"])
    except (ValueError, AttributeError, RecursionError):
        fits = False
    if not fits:
        raise NotaryRefusalError(
            f"{role} isn't signed metadata in JSON",
            code_name="MALFORMED_JSON",
            hint="nothing was changed; sign the file anew and publish again",
        )


def _parse(judgement: _Judgement, role: str, data: bytes) -> UnverifiedMetadata[Any]:
    if not json.loads(data).get("signatures"):
        _refuse(_kind(role), "tuf: data has no signatures")
    try:
        parsed: UnverifiedMetadata[Any] = NOTARY.parse(
            role, data, max_bytes=judgement.limits.max_bytes(role)
        )
    except MalformedMetadataError as error:
        _refuse(_kind(role), error.message)
    return parsed


def _verify_fresh(judgement: _Judgement, role: str, signed: Signed) -> None:
    try:
        verify_fresh(role, signed, judgement.now)
    except ExpiredMetadataError as error:
        at = error.expired_at.astimezone(UTC)
        when = f"{at:%a %b} {at.day} {at:%H:%M:%S} UTC {at.year:04}"
        _refuse(_kind(role), f"{role} expired at {when}")


def _judge_root(judgement: _Judgement, data: bytes) -> None:
    """Judge as section 6.3 and 8, a previous root's certificates whatever their expiry."""
    kind, held = _kind("root"), judgement.current.get("root")
    version = (json.loads(data).get("signed") or {}).get("version", 0)
    known = held.version if held is not None else 1
    if version not in {known, known + 1}:
        _refuse(
            kind, f"Root modifications must increment the version. Current {known}, new {version}"
        )
    root = _parse(judgement, "root", data)
    leaves = {
        keyid: leaf
        for keyid in root.signed.roles["root"].keyids
        if (leaf := usable_leaf(root.signed.keys[keyid], judgement.gun)) is not None
    }
    usable = [keyid for keyid, leaf in leaves.items() if is_valid_at(leaf, judgement.now)]
    if not usable:
        _refuse(kind, _NO_LEAVES)
    if held is not None:
        _verify_root_by(root, held.signed, judgement.gun, _NO_ROTATION)
    keys, threshold = root.signed.keys, root.signed.roles["root"].threshold
    try:
        verify_threshold(root, "root", keys, usable, threshold)
    except ThresholdError:
        _refuse(kind, _NO_INTEGRITY)
    _verify_fresh(judgement, "root", root.signed)
    judgement.new["root"] = root


def _verify_root_by(root: UnverifiedMetadata[Root], by: Root, gun: str, message: str) -> None:
    entry = by.roles["root"]
    usable = [keyid for keyid in entry.keyids if usable_leaf(by.keys[keyid], gun) is not None]
    try:
        verify_threshold(root, "root", by.keys, usable, entry.threshold)
    except ThresholdError:
        _refuse(_kind("root"), message)


def _judge_targets(judgement: _Judgement, role: str, data: bytes) -> None:
    item = _parse(judgement, role, data)
    keys, keyids, threshold = _vouchers(judgement, role)
    try:
        verify_threshold(item, role, keys, keyids, threshold)
    except ThresholdError:
        _refuse(_kind(role), f"valid signatures did not meet threshold for {role}")
    _verify_fresh(judgement, role, item.signed)
    for path in item.signed.targets:
        if any(unicodedata.category(char) == "Cc" for char in path):
            _refuse(_VALIDATION, f"the target name {path[:80]!r} holds control characters")
    judgement.new[role] = item


def _vouchers(judgement: _Judgement, role: str) -> tuple[Mapping[str, Key], Sequence[str], int]:
    """Give the keys that have to sign a targets role."""
    parent = judgement.root if role == "targets" else judgement.role(role.rpartition("/")[0])
    try:
        keys, entry = role_keys(parent.signed if parent is not None else Targets(), role)
    except MalformedMetadataError:
        _refuse(_kind(role), f"tuf: invalid role {role}. delegation does not exist")
    return keys, entry.keyids, entry.threshold


def _verify_nothing_orphaned(judgement: _Judgement) -> Vouching:
    """Refuse to leave a file that its role's keys don't vouch for any more: readers would break.

    A role without any key may be left: nobody could sign its file anew. So may one whose file
    nobody vouched for before, as when it's delegated to again, but to other keys.
    """
    after = vouching(judgement.root.signed, judgement.role)
    before = judgement.before() if after.unvouched else None
    for role in sorted(after.unvouched):
        _, keyids, _ = _vouchers(judgement, role)
        if role == "targets" or (keyids and before is not None and role in before.vouched):
            stays = judgement.current[role]
            _refuse(
                _kind(role),
                f"{role} version {stays.version}, which stays, would not be signed by its new "
                "keys: publish it re-signed together with this",
            )
    return after


def _relisted(judgement: _Judgement, after: Vouching) -> dict[str, UnverifiedMetadata[Targets]]:
    """Give stored files that the snapshot doesn't name, of roles that are delegated to again.

    Their holders go on from them; left out, docker's clients would begin at version 1 again, and
    ours would take it that the release is hidden.
    """
    named = judgement.named()
    return {
        role: judgement.current[role]
        for role in after.vouched
        if role not in judgement.new and role not in named
    }


def _judge_snapshot(judgement: _Judgement, data: bytes, after: Vouching) -> None:
    item, root = _parse(judgement, "snapshot", data), judgement.root.signed
    keys, entry = role_keys(root, "snapshot")
    try:
        verify_threshold(item, "snapshot", keys, entry.keyids, entry.threshold)
    except ThresholdError:
        _refuse(_kind("snapshot"), "valid signatures did not meet threshold for snapshot")
    _verify_fresh(judgement, "snapshot", item.signed)
    signed: Snapshot = item.signed
    for name, meta in signed.meta.items():
        role = name.removesuffix(".json")
        named = judgement.role(role)
        if named is None:
            _refuse(_kind("snapshot"), f"the snapshot names {role[:80]}, which isn't published")
        if role in after.unvouched and not judgement.was_broken(role):
            _refuse(
                _kind(role),
                f"{role} version {named.version}, which the snapshot names, is not signed by the "
                "role's keys: leave it out of the snapshot, or publish it re-signed with this",
            )
        try:
            verify_hashes(role, named.data, meta.hashes or {})
        except MixAndMatchError:
            _refuse(
                _kind("snapshot"),
                f"sha256 checksum for {role[:80]} did not match: expected "
                f"{(meta.hashes or {}).get('sha256', '')}",
            )
        if meta.length != len(named.data):
            _refuse(_kind("snapshot"), f"the length of {role[:80]} did not match")
    for role in judgement.new:
        if f"{role}.json" not in signed.meta:
            _refuse(_kind("snapshot"), f"the snapshot doesn't name {role[:80]}, which is uploaded")
    judgement.new["snapshot"] = item


def _verify_versions(judgement: _Judgement) -> None:
    for role, item in judgement.new.items():
        held = judgement.current.get(role)
        if held is not None and item.version <= held.version:
            raise NotaryRefusalError(
                f"{role} version {item.version} was built on an earlier version than "
                f"{held.version}, which is current",
                code_name="VERSION",
                hint="read the current files, apply the change again, publish again",
            )


def _refuse_unheld(
    root: Root, roles: Sequence[str], online: OnlineKeys, gun: str | None
) -> NoReturn:
    """Refuse what the server can't complete: its role or roles are another one's to sign.

    ``gun`` is None for a GUN that doesn't exist yet.
    """
    role = roles[0]
    known = {key.keyid for key in online.of(role)}
    missing = next((keyid for keyid in root.roles[role].keyids if keyid not in known), "?")[:64]
    names = " and ".join(roles)
    if gun is None:
        message = f"the root names other keys for {names} than this server offers"
        hint = f"name the {names} keys that this server offers, or sign the snapshot yourself"
    else:
        message = (
            f"this server doesn't hold the keys that sign {names} (the root names {missing} for "
            f"{role}): it is a mirror of the GUN, or its keys are kept elsewhere"
        )
        command = f"tabellion rotate {gun} {' '.join(roles)}"
        hint = f"the holder of the root key moves it here: {command}"
        hint += " --server-managed" if "snapshot" in roles else ""
    raise NotaryRefusalError(
        message,
        name=_VALIDATION,
        told=f"rpc error: code = NotFound desc = key {missing} not found",
        hint=hint,
    )
