"""What a verification gives: a digest, and who vouches for it until when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tuf.api.metadata import TargetFile, Targets

from tabellion.core.metadata import TrustedMetadata
from tabellion.core.names import Digest, Gun, Reference
from tabellion.core.role_requests import TargetMatch
from tabellion.core.roles import key_material
from tabellion.core.search import index_manifests
from tabellion.core.trusted_set import TrustedSet
from tabellion.errors import InvalidNameError, MalformedMetadataError, NotSignedError


@dataclass(frozen=True, slots=True)
class Signer:
    """A role that signed, with the ids of its keys that count."""

    role: str
    keyids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VerifiedImage:
    """A digest that may be used, and why.

    Attributes:
        reference: What was asked for; None if it was plain data, not an image.
        gun: Its collection.
        target: Path under which it's signed: for an image the tag.
        digest: The verified digest.
        length: Bytes behind the digest; None if only its index's length is signed.
        custom: What the signer added.
        signers: The role that signed it; in a Notary GUN then the signers who vouch for it too.
        versions: Version of each role that was relied on.
        expires: Expiry of each role that was relied on.
        offline: The server couldn't be asked; this is the last known state, still fresh.
        pinned: How the root came to be trusted.
        root_fingerprints: Of the root's keys, as ``tabellion init`` prints them.
    """

    reference: Reference | None
    gun: Gun
    target: str
    digest: Digest
    length: int | None
    custom: Mapping[str, Any]
    signers: tuple[Signer, ...]
    versions: Mapping[str, int]
    expires: Mapping[str, datetime]
    offline: bool
    pinned: str
    root_fingerprints: tuple[str, ...]


def signed_digest(target: TargetFile, path: str) -> Digest:
    """Give a target's digest, sha256 before sha512.

    Raises:
        MalformedMetadataError: It has neither in a usable form.
    """
    for algorithm in ("sha256", "sha512"):
        value = target.hashes.get(algorithm)
        if value is not None:
            return _digest(f"{algorithm}:{value}", path)
    raise MalformedMetadataError(f"target {path[:80]!r} has neither a sha256 nor a sha512 hash")


def platform_digest(target: TargetFile, path: str, platform: str) -> tuple[Digest, int | None]:
    """Give the child of a signed index for a platform, or an image signed for just that one.

    Raises:
        NotSignedError: Nothing is signed for that platform.
    """
    children = index_manifests(target)
    if not children:
        return _single(target, path, platform)
    known = [str(child.get("platform")) for child in children]
    pairs = list(zip(children, known, strict=True))
    exact = [child for child, name in pairs if name == platform]
    # arm64 is written with and without its variant: any variant does if none was asked for.
    for child in exact or [item for item, name in pairs if name.startswith(f"{platform}/")]:
        return _digest(str(child.get("digest")), path), _length(child)
    raise NotSignedError(
        f"{path!r} isn't signed for platform {platform[:40]!r}",
        hint=f"signed are: {', '.join(sorted(set(known)))[:300]}",
    )


def _single(target: TargetFile, path: str, platform: str) -> tuple[Digest, int]:
    """Give an image that is no index, if its signer said that it's of this platform."""
    custom = target.unrecognized_fields.get("custom")
    signed_for = custom.get("platform") if isinstance(custom, dict) else None
    if signed_for == platform or str(signed_for).startswith(f"{platform}/"):
        return signed_digest(target, path), target.length
    found = "an unknown platform" if signed_for is None else f"platform {str(signed_for)[:40]!r}"
    raise NotSignedError(
        f"{path!r} is one image for {found}, not an index with {platform[:40]!r}",
        hint="leave --platform out, or ask the publisher to sign the index of all platforms",
    )


def child_length(target: TargetFile, digest: Digest) -> int | None:
    """Give the length behind a digest that a target is or, as an index, lists."""
    if target.hashes.get(digest.algorithm) == digest.hex:
        return target.length
    for child in index_manifests(target):
        if child.get("digest") == str(digest):
            return _length(child)
    return None


def describe(
    trusted: TrustedSet,
    match: TargetMatch,
    *,
    signers: Sequence[TrustedMetadata[Targets]],
    reference: Reference | None,
    gun: Gun,
    digest: Digest,
    length: int | None,
    offline: bool,
    pinned: str,
) -> VerifiedImage:
    """Put together what was found out."""
    files = [trusted.root, trusted.timestamp, trusted.snapshot, trusted.targets, match.role]
    relied_on = {file.role: file for file in files if file is not None}
    custom = match.target.unrecognized_fields.get("custom")
    return VerifiedImage(
        reference=reference,
        gun=gun,
        target=match.path,
        digest=digest,
        length=length,
        custom=custom if isinstance(custom, dict) else {},
        signers=tuple(Signer(role.role, role.signed_by) for role in signers),
        versions={role: file.version for role, file in relied_on.items()},
        expires={role: file.expires_at for role, file in relied_on.items()},
        offline=offline,
        pinned=pinned,
        root_fingerprints=_root_fingerprints(trusted),
    )


def _root_fingerprints(trusted: TrustedSet) -> tuple[str, ...]:
    root = trusted.root.signed
    keys = [root.keys[keyid] for keyid in root.roles["root"].keyids]
    return tuple(Digest.of(key_material(key)).hex for key in keys)


def _length(child: Mapping[str, object]) -> int | None:
    length = child.get("length")
    return length if type(length) is int and length >= 0 else None


def _digest(text: str, path: str) -> Digest:
    try:
        return Digest.parse(text)
    except InvalidNameError as error:
        raise MalformedMetadataError(
            f"target {path[:80]!r} is signed with {text[:80]!r}, which isn't a digest"
        ) from error
