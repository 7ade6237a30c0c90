"""Anchors: signed entries that say which root keys are allowed to which GUNs.

An anchor collection is a ``tuf`` GUN whose targets are entries. An entry's path is its pattern
(see ``gun_patterns``), its ``custom`` the member ``anchor``, and its bytes are the canonical JSON
of that member, so that any TUF client can read it::

    {"pattern": "registry.example/team/*", "root_keys": ["3f1c..."], "threshold": 1,
     "expires": "2027-11-27T00:00:00Z", "comment": "team"}
    {"pattern": "registry.example/old/app", "revoked": true}

``expires`` and ``comment`` may be left out; there are no other members. The threshold is never left
to the root that is judged: a thief of one key would write a root that asks for one.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from tuf.api.metadata import Root, TargetFile

from tabellion.core.dialect import dialect_of
from tabellion.core.fingerprints import root_key_fingerprints, signer_fingerprints
from tabellion.core.gun_patterns import GunPattern, patterns_for
from tabellion.core.limits import Limits
from tabellion.core.metadata import TrustedMetadata, UnverifiedMetadata
from tabellion.core.names import Digest
from tabellion.core.role_requests import RoleRequest, TargetMatch
from tabellion.core.roles import role_keys, verify_threshold
from tabellion.core.search import find_target
from tabellion.core.strict_json import canonical
from tabellion.core.trusted_set import TrustedSet
from tabellion.errors import InvalidNameError, MalformedMetadataError, UntrustedRootError

MAX_KEYS: Final = 64
MAX_COMMENT: Final = 500
MEMBER: Final = "anchor"
_MOMENT: Final = "%Y-%m-%dT%H:%M:%SZ"
_MOMENT_FORM = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_KEY = re.compile(r"[0-9a-f]{64}")
_ASK: Final = "ask those who sign the anchors; don't use what is refused"


@dataclass(frozen=True)
class Anchor:
    """One entry.

    Attributes:
        pattern: The GUNs it speaks for.
        root_keys: Fingerprints of the root keys allowed, 64 lower-case hex digits each.
        threshold: Signatures by different ones of them that a root needs.
        expires_at: From then on nothing passes, None for never.
        comment: For people.
        is_revoked: Nothing passes.
    """

    pattern: GunPattern
    root_keys: frozenset[str] = field(default_factory=frozenset)
    threshold: int = 1
    expires_at: datetime | None = None
    comment: str = ""
    is_revoked: bool = False

    def __post_init__(self) -> None:
        """Refuse an entry that can't be kept or met.

        Raises:
            MalformedMetadataError: Says what is wrong.
        """
        fault = self._fault()
        if fault:
            raise MalformedMetadataError(
                f"anchor {self.pattern}: {fault}",
                hint="give it anew: tabellion anchors set, or anchors revoke",
            )

    @classmethod
    def of_target(cls, path: str, target: TargetFile) -> Anchor:
        """Read an entry, strictly.

        Raises:
            MalformedMetadataError: It isn't one.
        """
        try:
            return cls._parse(path, target)
        except (ValueError, TypeError, KeyError, InvalidNameError) as error:
            raise MalformedMetadataError(
                f"target {path[:80]!r} isn't an anchor: {error}", hint=_ASK
            ) from error

    @classmethod
    def _parse(cls, path: str, target: TargetFile) -> Anchor:
        pattern = GunPattern.of_path(path)
        custom = target.unrecognized_fields.get("custom")
        if not isinstance(custom, dict) or set(custom) != {MEMBER}:
            raise ValueError("its custom isn't just an anchor")
        content = custom[MEMBER]
        if not isinstance(content, dict) or content.get("pattern") != str(pattern):
            raise ValueError("it names another pattern")
        data = canonical(content)
        if (target.length, target.hashes.get("sha256")) != (len(data), Digest.of(data).hex):
            raise ValueError("its length and hash aren't those of its content")
        if set(content) == {"pattern", "revoked"} and content["revoked"] is True:
            return cls(pattern, is_revoked=True)
        unknown = set(content) - {"pattern", "root_keys", "threshold", "expires", "comment"}
        if unknown:
            raise ValueError(f"unknown member {min(unknown)[:40]!r}")
        keys, threshold = content["root_keys"], content["threshold"]
        expires, comment = content.get("expires"), content.get("comment", "")
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise ValueError("its root_keys aren't a list of fingerprints")
        if len(set(keys)) != len(keys) or type(threshold) is not int:
            raise ValueError("it lists a key twice, or its threshold isn't a number")
        if not isinstance(comment, str):
            raise TypeError("its comment isn't text")
        return cls(
            pattern,
            frozenset(keys),
            threshold,
            expires_at=None if expires is None else _parse_moment(expires),
            comment=comment,
        )

    def _fault(self) -> str:
        if self.is_revoked:
            return "a revoked one has no keys" if self.root_keys else ""
        if not 1 <= len(self.root_keys) <= MAX_KEYS:
            return f"it has {len(self.root_keys)} keys, not 1 to {MAX_KEYS}"
        if not all(_KEY.fullmatch(key) for key in self.root_keys):
            return "a key isn't 64 lower-case hex digits"
        if not 1 <= self.threshold <= len(self.root_keys):
            return f"threshold {self.threshold} with {len(self.root_keys)} keys"
        if len(self.comment) > MAX_COMMENT:
            return f"its comment has more than {MAX_COMMENT} characters"
        return ""

    def content(self) -> dict[str, Any]:
        """Give what is signed."""
        content: dict[str, Any] = {"pattern": str(self.pattern)}
        if self.is_revoked:
            return content | {"revoked": True}
        content |= {"root_keys": sorted(self.root_keys), "threshold": self.threshold}
        if self.expires_at is not None:
            content["expires"] = self.expires_at.astimezone(UTC).strftime(_MOMENT)
        return content | ({"comment": self.comment} if self.comment else {})

    def to_bytes(self) -> bytes:
        """Give the entry's own bytes, whose length and hash are signed."""
        return canonical(self.content())

    def verify_root(self, root: TrustedMetadata[Root], now: datetime, *, where: str) -> None:
        """Refuse a root that isn't signed by enough of the keys allowed.

        Args:
            root: It's signed by its own threshold already.
            now: The moment of judgement.
            where: The GUN and the collection, for error texts.

        Raises:
            UntrustedRootError: Too few, or the entry is revoked or expired.
        """
        if self.is_revoked:
            raise UntrustedRootError(f"anchor {self.pattern} is revoked ({where})", hint=_ASK)
        if self.expires_at is not None and now >= self.expires_at:
            raise UntrustedRootError(
                f"anchor {self.pattern} expired at {self.expires_at:{_MOMENT}} ({where})",
                hint="those who sign the anchors renew it: tabellion anchors set",
            )
        signers = signer_fingerprints(root)
        met = sum(not names.isdisjoint(self.root_keys) for names in signers)
        if met < self.threshold:
            raise UntrustedRootError(
                f"root version {root.version} has {met} of {self.threshold} needed signatures by "
                f"keys that anchor {self.pattern} allows ({where})",
                hint=f"{_ASK}; a root that is kept here from before they came is forgotten with: "
                "tabellion trust remove GUN",
            )


@dataclass(frozen=True)
class AnchorJudge:
    """Judges the roots of one GUN by every collection that has an entry for it.

    Attributes:
        gun: The GUN.
        now: The moment of judgement; also where an owner reads an expired root as of another.
        anchors: Collection and entry; all of them have to be met.
    """

    gun: str
    now: datetime
    anchors: tuple[tuple[str, Anchor], ...]

    @property
    def name(self) -> str:
        """Say why a root that passes is trusted."""
        return f"anchors {', '.join(collection for collection, _ in self.anchors)}"

    def verify_root(self, root: TrustedMetadata[Root]) -> None:
        """Refuse a root that an entry doesn't allow.

        Raises:
            UntrustedRootError: Says which.
        """
        for collection, anchor in self.anchors:
            anchor.verify_root(root, self.now, where=f"{self.gun}, by anchors {collection}")


def find_anchor(
    trusted: TrustedSet, gun: str
) -> Generator[RoleRequest, None, tuple[Anchor, TargetMatch] | None]:
    """Search a collection for the entry that speaks for a GUN: the most specific one alone.

    A delegated role is heard within its paths only, and one that can't be had or trusted ends the
    search with its error: a less specific entry never stands in.

    Raises:
        MalformedMetadataError: The entry isn't one, or the collection isn't a ``tuf`` GUN.
    """
    if trusted.dialect.lists_root:
        raise MalformedMetadataError(
            "an anchor collection is a tuf GUN, this one is Notary's",
            hint="found one with: tabellion init",
        )
    for pattern in patterns_for(gun):
        match = yield from find_target(trusted, pattern.path)
        if match is not None:
            return Anchor.of_target(match.path, match.target), match
    return None


def keys_of_root(data: bytes) -> tuple[frozenset[str], int]:
    """Give the fingerprints of a root file's root keys, and its threshold.

    Raises:
        VerificationError: It isn't a root, or not signed by its own threshold.
    """
    unverified: UnverifiedMetadata[Any] = dialect_of(data).parse(
        "root", data, max_bytes=Limits().root_bytes
    )
    keys, entry = role_keys(unverified.signed, "root")
    verify_threshold(unverified, "root", keys, entry.keyids, entry.threshold)
    return frozenset(root_key_fingerprints(unverified.signed)), entry.threshold


def _parse_moment(text: object) -> datetime:
    if not isinstance(text, str) or not _MOMENT_FORM.fullmatch(text):
        raise ValueError("its expiry isn't a moment like 2027-11-27T00:00:00Z")
    return datetime.strptime(text, _MOMENT).replace(tzinfo=UTC)
