"""What every supported client can read: stricter than what one client must accept.

A server publishes only such files, since one unreadable root stops all clients for ever.
Source: tuf-facts section 4; TUF 1.0.34, 4.2 to 4.5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from securesystemslib.signer import Key
from tuf.api.metadata import Root, SuccinctRoles, Targets

from tabellion.core.bins import MAX_BITS
from tabellion.core.notary_keys import MIN_RSA_BITS
from tabellion.core.roles import (
    KNOWN_SCHEMES,
    TOP_LEVEL_ROLES,
    check_path_pattern,
    check_role_name,
    check_target_path,
    delegated_roles,
    key_material,
    rsa_bits,
)
from tabellion.errors import InvalidNameError, MalformedMetadataError, RefusedPublicationError


def verify_root_fit(root: Root) -> None:
    """Refuse a root that some supported client can't read or that can't be signed again.

    Raises:
        RefusedPublicationError: Names rule, role and key.
    """
    if root.consistent_snapshot is not True:
        raise RefusedPublicationError(
            "the root doesn't ask for consistent snapshots",
            rule="consistent-snapshot",
            role="root",
            hint="set consistent_snapshot to true",
        )
    if set(root.roles) != TOP_LEVEL_ROLES:
        raise RefusedPublicationError(
            "the root doesn't name exactly root, targets, snapshot and timestamp",
            rule="root-roles",
            role="root",
        )
    _verify_keys("root", root.keys)
    for name, entry in root.roles.items():
        _verify_role("root", name, root.keys, entry.keyids, entry.threshold)


def verify_targets_fit(role: str, targets: Targets) -> None:
    """Refuse a targets file that some supported client can't read or reads otherwise.

    Raises:
        RefusedPublicationError: Names rule, role and key.
    """
    try:
        if role != "targets":
            check_role_name(role)
        for path, target in targets.targets.items():
            check_target_path(path)
            unknown = set(target.hashes) - {"sha256", "sha512"}
            if unknown or "sha256" not in target.hashes:
                raise RefusedPublicationError(
                    f"{role} gives {path[:80]!r} no sha256, or unknown hashes",
                    rule="target-hashes",
                    role=role,
                )
        delegations = targets.delegations
        if delegations is None:
            return
        _verify_keys(role, delegations.keys)
        if delegations.succinct_roles is not None:
            _verify_bins(role, delegations.keys, delegations.succinct_roles)
        for child in delegated_roles(targets):
            check_role_name(child.name)
            if child.paths is None:
                raise RefusedPublicationError(
                    f"{role} delegates to {child.name} by path hashes, which go-tuf misreads",
                    rule="path-hash-prefixes",
                    role=role,
                    hint="delegate by paths",
                )
            for pattern in child.paths:
                check_path_pattern(pattern)
            _verify_role(role, child.name, delegations.keys, child.keyids, child.threshold)
    except InvalidNameError as error:
        raise RefusedPublicationError(
            f"{role}: {error.message}", rule="invalid-name", role=role, hint=error.hint
        ) from error


def _verify_bins(role: str, keys: Mapping[str, Key], bins: SuccinctRoles) -> None:
    if role != "targets":
        raise RefusedPublicationError(
            f"{role} delegates to bins",
            rule="succinct-roles",
            role=role,
            hint="only the targets role may, so that a search asks two roles",
        )
    if bins.bit_length > MAX_BITS:
        raise RefusedPublicationError(
            f"{role} delegates to 2^{bins.bit_length} bins",
            rule="bin-count",
            role=role,
            hint=f"at most {2**MAX_BITS} fit a snapshot",
        )
    check_role_name(next(bins.get_roles()))
    _verify_role(role, bins.name_prefix, keys, bins.keyids, bins.threshold)


def _verify_keys(role: str, keys: Mapping[str, Key]) -> None:
    seen: dict[bytes, str] = {}
    for keyid, key in keys.items():
        shown = keyid[:64]
        if (key.keytype, key.scheme) not in KNOWN_SCHEMES:
            raise RefusedPublicationError(
                f"{role} lists key {shown} of type {key.keytype[:30]}/{key.scheme[:30]}, which "
                "not all clients read",
                rule="key-type",
                role=role,
                keyid=keyid,
                hint="use ed25519, ecdsa-sha2-nistp256 or rsassa-pss-sha256",
            )
        try:
            material = key_material(key)
            bits = rsa_bits(key)
        except MalformedMetadataError as error:
            raise RefusedPublicationError(
                f"{role}: {error.message}", rule="unreadable-key", role=role, keyid=keyid
            ) from error
        if bits is not None and bits < MIN_RSA_BITS:
            raise RefusedPublicationError(
                f"{role} lists RSA key {shown} of {bits} bits, the least is {MIN_RSA_BITS}",
                rule="weak-key",
                role=role,
                keyid=keyid,
            )
        if material in seen:
            raise RefusedPublicationError(
                f"{role} lists one key under two ids, {seen[material][:64]} and {shown}",
                rule="duplicate-key",
                role=role,
                keyid=keyid,
            )
        seen[material] = keyid


def _verify_role(
    file: str, role: str, keys: Mapping[str, Key], keyids: Sequence[str], threshold: int
) -> None:
    for keyid in keyids:
        if keyid not in keys:
            raise RefusedPublicationError(
                f"{file} gives {role} the key {keyid[:64]}, but doesn't list it",
                rule="missing-key",
                role=file,
                keyid=keyid,
            )
    if threshold > len(set(keyids)):
        raise RefusedPublicationError(
            f"{file} gives {role} threshold {threshold} but only {len(set(keyids))} keys",
            rule="unreachable-threshold",
            role=file,
        )
