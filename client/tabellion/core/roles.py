"""Roles: their names, paths, delegations, and thresholds counted by distinct key material."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Role, Root, Signed, Targets

from tabellion.core.bins import is_bin
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.notary_keys import NotaryKey
from tabellion.errors import InvalidNameError, MalformedMetadataError, ThresholdError

TOP_LEVEL_ROLES: Final = frozenset({"root", "targets", "snapshot", "timestamp"})
KNOWN_SCHEMES: Final = frozenset(
    {
        ("ed25519", "ed25519"),
        ("ecdsa", "ecdsa-sha2-nistp256"),
        ("rsa", "rsassa-pss-sha256"),
    }
)
_MAX_NAME: Final = 255
_ROLE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@/-]*")
_PATTERN = re.compile(r"[A-Za-z0-9._:@/+*?-]+")


def check_role_name(name: str) -> None:
    """Accept the name of a delegated role that every client and file system can carry.

    Raises:
        InvalidNameError: A top-level name, or not portable.
    """
    hint = "use letters, digits and . _ - + @, such as releases or alice"
    if name in TOP_LEVEL_ROLES:
        raise InvalidNameError(f"{name!r} is a top-level role, not a delegated one", hint=hint)
    parts = name.split("/")
    if len(name) > _MAX_NAME or not _ROLE_NAME.fullmatch(name) or {"", ".", ".."} & set(parts):
        raise InvalidNameError(f"{name[:80]!r} isn't a portable role name", hint=hint)
    if re.match(r"[0-9]+\.", name):
        raise InvalidNameError(
            f"{name[:80]!r} begins like a version in a file name", hint="begin with a letter"
        )


def check_target_path(path: str) -> None:
    """Accept a target path that reads the same everywhere.

    Spec: TUF 1.0.34, 4.5: path-relative URL, separated by ``/``, not beginning with it.

    Raises:
        InvalidNameError: Empty, absolute, with ``.``/``..``/empty segments, a backslash, control
            characters, or not in NFC.
    """
    hint = "use a relative path with / between its parts"
    if not path or not path.isprintable() or "\\" in path:
        raise InvalidNameError(f"target path {path[:80]!r} is empty or unprintable", hint=hint)
    if unicodedata.normalize("NFC", path) != path:
        raise InvalidNameError(f"target path {path[:80]!r} isn't in NFC", hint=hint)
    if {"", ".", ".."} & set(path.split("/")):
        raise InvalidNameError(
            f"target path {path[:80]!r} has an empty, '.' or '..' segment", hint=hint
        )


def check_path_pattern(pattern: str) -> None:
    """Accept a pattern that python-tuf, go-tuf and tough read alike.

    Raises:
        InvalidNameError: Glob syntax beyond ``*`` and ``?``, or ``**``.
    """
    if not _PATTERN.fullmatch(pattern) or "**" in pattern:
        raise InvalidNameError(
            f"path pattern {pattern[:80]!r} isn't read alike by all clients",
            hint="use letters, digits and . _ - : @ / +, with * and ? as wildcards inside a part",
        )


def key_material(key: Key) -> bytes:
    """Give the bytes that make a key that key, whatever its id, scheme or spelling.

    Spec: TAP 12: each key counts once; the ids are only names.

    Raises:
        MalformedMetadataError: The public part can't be read.
    """
    if isinstance(key, NotaryKey):
        return key.material
    public = key.keyval.get("public")
    if not isinstance(public, str):
        raise MalformedMetadataError(f"key {key.keyid[:64]} has no public part")
    try:
        if key.keytype == "ed25519":
            return (
                b"ed25519:"
                + Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).public_bytes_raw()
            )
        loaded = load_pem_public_key(public.encode())
        return loaded.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedMetadataError(
            f"key {key.keyid[:64]} has an unreadable public part: {error}"
        ) from error


def material_of(key: Key) -> bytes:
    """Give what makes a key that key; one that can't be read is nobody else's."""
    try:
        return key_material(key)
    except MalformedMetadataError:
        return key.keyid.encode()


def rsa_bits(key: Key) -> int | None:
    """Give the size of an RSA key in bits, None for other kinds.

    Raises:
        MalformedMetadataError: The public part isn't a key of the type that it is said to be.
    """
    if key.keytype == "ed25519":
        return None
    loaded = load_pem_public_key(str(key.keyval.get("public")).encode())
    if key.keytype == "rsa" and isinstance(loaded, RSAPublicKey):
        return loaded.key_size
    if (
        key.keytype == "ecdsa"
        and isinstance(loaded, EllipticCurvePublicKey)
        and isinstance(loaded.curve, SECP256R1)
    ):
        return None
    raise MalformedMetadataError(f"key {key.keyid[:64]} isn't of its type {key.keytype[:20]}")


def verify_threshold(
    unverified: UnverifiedMetadata[Signed],
    role: str,
    keys: Mapping[str, Key],
    keyids: Sequence[str],
    threshold: int,
) -> tuple[str, ...]:
    """Count valid signatures by distinct key material.

    Args:
        unverified: The file to judge.
        role: Whose keys these are, for error texts.
        keys: Key id to key, as the delegator lists them.
        keyids: Ids of the role's keys.
        threshold: Distinct keys needed.

    Returns:
        The key ids that count.

    Raises:
        ThresholdError: Too few.

    Spec:
        TUF 1.0.34, 4.2.1, 5.3.4, 5.4.2, 5.5.3, 5.6.3; TAP 12.
    """
    counted: dict[bytes, str] = {}
    for keyid in dict.fromkeys(keyids):
        key, signature = keys.get(keyid), unverified.signatures.get(keyid)
        if key is None or signature is None:
            continue
        try:
            key.verify_signature(signature, unverified.signed_bytes)
            counted.setdefault(key_material(key), keyid)
        except (UnverifiedSignatureError, VerificationError, MalformedMetadataError):
            continue
        except Exception:  # noqa: BLE001, S112  (a foreign fault on hostile keys is a "no")
            continue
    signed_by = tuple(counted.values())
    if len(counted) < threshold:
        raise ThresholdError(
            f"{unverified.role} version {unverified.version} has {len(counted)} of {threshold} "
            f"needed signatures by keys of {role}",
            role=role,
            needed=threshold,
            signed_by=signed_by,
        )
    return signed_by


def role_keys(delegator: Root | Targets, role: str) -> tuple[Mapping[str, Key], Role]:
    """Give the keys a delegator lists, and the role's key ids and threshold.

    Raises:
        MalformedMetadataError: The delegator doesn't name that role.
    """
    if isinstance(delegator, Root):
        if role in delegator.roles:
            return delegator.keys, delegator.roles[role]
    elif delegator.delegations is not None:
        delegations = delegator.delegations
        if delegations.roles is not None and role in delegations.roles:
            return delegations.keys, delegations.roles[role]
        bins = delegations.succinct_roles
        if bins is not None and is_bin(bins, role):
            return delegations.keys, bins
    raise MalformedMetadataError(f"nothing delegates to role {role[:80]!r}")


def delegated_roles(targets: Targets) -> list[DelegatedRole]:
    """List a file's delegations in order; succinct bins aren't listed one by one."""
    if targets.delegations is None or targets.delegations.roles is None:
        return []
    return list(targets.delegations.roles.values())


def roles_for_path(targets: Targets, path: str) -> list[tuple[str, bool]]:
    """List delegated roles covering a path, in order, with their ``terminating`` flag."""
    if targets.delegations is None:
        return []
    return list(targets.delegations.get_roles_for_target(path))


def roles_asked(path: str, file_of: Callable[[str], Targets | None]) -> Iterator[str]:
    """List the roles that a search for a path asks, in order, without an end to their number.

    Args:
        path: Target path.
        file_of: Gives a role's file; where it gives None nothing is asked below.

    Spec: TUF 1.0.34, 5.6.7.
    """
    pending, visited = ["targets"], set[str]()
    while pending:
        role = pending.pop()
        if role in visited:
            continue
        visited.add(role)
        yield role
        file = file_of(role)
        children: list[str] = []
        for name, terminating in roles_for_path(file, path) if file is not None else ():
            children.append(name)
            if terminating:
                pending.clear()
                break
        pending.extend(reversed(children))
