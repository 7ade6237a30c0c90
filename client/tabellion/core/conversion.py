"""A Notary GUN becomes a TUF 1.0 GUN: who must have signed that, and what must come with it.

The conversion is a root rotation across dialects. TUF root version N+1 follows Notary's root N,
and is signed by a threshold of the old root's keys, as bare TUF keys, and by its own threshold.
Every other role goes on one above its Notary version, ``targets/alice`` as ``alice``, so that a
version is never signed twice and whoever published meanwhile isn't overrun. There's no way back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key, Signature
from tuf.api.metadata import Role, Root, Targets

from tabellion.core import strict_json
from tabellion.core.dialect import NOTARY, TUF, Dialect
from tabellion.core.limits import Limits
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.notary_keys import NotaryKey
from tabellion.core.notary_roots import usable_leaf
from tabellion.core.publication import CurrentSet, UploadedFile
from tabellion.core.roles import TOP_LEVEL_ROLES, delegated_roles, verify_threshold
from tabellion.errors import (
    ConflictError,
    MalformedMetadataError,
    RefusedPublicationError,
    VerificationError,
)

_PREFIX: Final = "targets/"

Files = Mapping[str, UnverifiedMetadata[Any]]


def tuf_name(role: str) -> str:
    """Give the name that a Notary role has after the conversion."""
    return role.removeprefix(_PREFIX)


def may_go_on(role: str) -> bool:
    """Tell whether a role has a name in TUF: ``targets/root`` would be another role's."""
    return role in TOP_LEVEL_ROLES or tuf_name(role) not in TOP_LEVEL_ROLES


def is_tuf_root(data: bytes) -> bool:
    """Tell whether a file that follows a Notary root means to be a TUF root.

    A Notary root with a member ``spec_version`` is none: Notary lets unknown members pass.
    """
    try:
        content = strict_json.parse(data, max_bytes=Limits().root_bytes, what="root")
    except VerificationError:
        return False
    signed = content.get("signed")
    return isinstance(signed, dict) and "spec_version" in signed and signed.get("_type") == "root"


def is_conversion(dialect: Dialect | None, upload: Sequence[UploadedFile]) -> bool:
    """Tell whether an upload is to convert a GUN that speaks ``dialect``."""
    return dialect is NOTARY and any(
        item.role == "root" and is_tuf_root(item.data) for item in upload
    )


def plain_key(key: Key) -> Key:
    """Give a Notary key as the bare TUF key of the same material, under the id it has there.

    Raises:
        MalformedMetadataError: It can't be read, or TUF has no such keys.
    """
    try:
        return TUF.adopt_key(key)
    except ValueError as error:
        raise MalformedMetadataError(
            f"key {key.keyid[:64]} is of no kind that TUF knows"
        ) from error


def plain_root_keys(root: Root, gun: str) -> dict[str, Key]:
    """Give the keys that may sign a Notary root, as bare TUF keys by their ids there.

    Those are the ones with a certificate for the GUN, as in Notary. That it expired must not be a
    dead end, since the conversion is a way out of just that.
    """
    found: dict[str, Key] = {}
    for keyid in root.roles["root"].keyids:
        key = root.keys[keyid]
        if usable_leaf(key, gun) is None or key.keyid != cast("NotaryKey", key).computed_id:
            continue  # Notary takes no signature of such a key, nor do we
        try:
            plain = plain_key(key)
        except MalformedMetadataError:
            continue
        found[plain.keyid] = plain
    return found


def verify_signed_by_notary_root(
    trusted: Root, unverified: UnverifiedMetadata[Root], *, gun: str | None
) -> None:
    """Refuse a TUF root that a threshold of the old Notary root's keys didn't sign.

    Raises:
        ThresholdError: Too few of them, each counted once.
    """
    if gun is None:
        raise RuntimeError("a Notary root is for one GUN: say which")
    keys = plain_root_keys(trusted, gun)
    verify_threshold(unverified, "root", keys, list(keys), trusted.roles["root"].threshold)


@dataclass(frozen=True)
class ConversionBase:
    """What a conversion is judged on.

    Attributes:
        files: The current files under the names that they go on under.
        upload: The files to be published.
        dropped: Roles that a snapshot listed and that it must not list any more.
    """

    files: Files
    upload: tuple[UploadedFile, ...]
    dropped: frozenset[str]


def conversion_base(current: CurrentSet, upload: Sequence[UploadedFile]) -> ConversionBase:
    """Take an upload apart, and refuse one that leaves a signer's word behind unseen.

    Every delegated role that has a file goes on under its new name, or the upload holds that very
    file as it's served now: so whoever leaves the role out has seen what it says.

    Raises:
        RefusedPublicationError: A role is neither, or there isn't just one root, or no targets.
        ConflictError: A role was published anew meanwhile.
    """
    given = {item.role: item for item in upload}
    if [item.role for item in upload].count("root") != 1 or "targets" not in given:
        raise RefusedPublicationError(
            "a conversion holds one root, and targets",
            rule="conversion-incomplete",
            role="root",
            hint="publish it with: tabellion convert GUN --to tuf",
        )
    files = {role: current.files[role] for role in TOP_LEVEL_ROLES if role in current.files}
    listed = {name.removesuffix(".json") for name in current.files["snapshot"].signed.meta}
    witnessed: set[str] = set()
    for role in _delegated(current.files, listed):
        held = current.files[role]
        if tuf_name(role) in given and may_go_on(role):
            files[tuf_name(role)] = held
        elif role not in given:
            raise RefusedPublicationError(
                f"the conversion says nothing of {role}",
                rule="conversion-incomplete",
                role=role,
                hint=f"let it go on as {tuf_name(role)}, or vouch for what it says",
            )
        elif given[role].data != held.data:
            raise ConflictError(
                f"{role} version {held.version} was published after the conversion was made",
                versions={name: item.version for name, item in current.files.items()},
            )
        else:
            witnessed.add(role)
    return ConversionBase(
        files,
        tuple(item for item in upload if item.role not in witnessed),
        frozenset(listed.difference(given) | {"root"} | witnessed),
    )


def verify_whole(targets: Mapping[str, UnverifiedMetadata[Targets]]) -> None:
    """Refuse a conversion in which a delegated role has no file: it would end searches.

    Raises:
        RefusedPublicationError: Names the role.
    """
    for item in targets.values():
        for child in delegated_roles(item.signed):
            if child.name not in targets:
                raise RefusedPublicationError(
                    f"{item.role} delegates to {child.name}, which the conversion doesn't hold",
                    rule="conversion-incomplete",
                    role=child.name,
                    hint="its signer signs it, or the owner vouches for what it says",
                )


def notary_name(role: str) -> str:
    """Give the name that a role had before the conversion."""
    return role if role == "targets" else f"{_PREFIX}{role}"


def version_before(role: str, data: bytes, keys: Mapping[str, Key], entry: Role) -> int:
    """Give the version of a role's last Notary file; what follows the conversion is above it.

    Else whoever holds the server and a conversion that was signed once, but never published, could
    show what was right then.

    Args:
        role: Its name in TUF.
        data: The file that was seen last.
        keys: Key id to key, as the role's delegator lists them in TUF.
        entry: The role's key ids and threshold there.

    Raises:
        VerificationError: It's no Notary file, or these keys don't stand for it any more.
    """
    known = NOTARY.parse(notary_name(role), data, max_bytes=Limits().max_bytes(role))
    bare = _notary_keys(keys[keyid] for keyid in entry.keyids if keyid in keys)
    # The file names a certificate's key by another id than the bare key has.
    signed = {
        keyid: signature
        for keyid, key in bare.items()
        for signature in known.signatures.values()
        if _holds(key, signature, known.signed_bytes)
    }
    verify_threshold(replace(known, signatures=signed), role, bare, list(bare), entry.threshold)
    return known.version


def _notary_keys(keys: Iterable[Key]) -> dict[str, Key]:
    """Give keys as Notary lists them; one that it can't have doesn't undo what the others say."""
    found: dict[str, Key] = {}
    for key in keys:
        with contextlib.suppress(MalformedMetadataError):
            adopted = NOTARY.adopt_key(key)
            found[adopted.keyid] = adopted
    return found


def _holds(key: Key, signature: Signature, data: bytes) -> bool:
    try:
        key.verify_signature(signature, data)
    except (UnverifiedSignatureError, MalformedMetadataError):
        return False
    return True


def is_notary_upload(upload: Iterable[UploadedFile]) -> bool:
    """Tell whether somebody signed an upload for a Notary GUN, such as one converted since."""
    limits = Limits()
    try:
        for item in upload:
            NOTARY.parse(item.role, item.data, max_bytes=limits.max_bytes(item.role))
    except VerificationError:
        return False
    return True


def _delegated(files: Files, listed: Collection[str]) -> list[str]:
    """List the delegated roles that readers come to and that the snapshot lists."""
    found: list[str] = []
    pending = ["targets"]
    while pending:
        held = files.get(pending.pop())
        for child in delegated_roles(held.signed) if held is not None else ():
            if child.name in files and child.name in listed:
                found.append(child.name)
                pending.append(child.name)
    return found
