"""A publication that may lack signatures: how it stands, and whose signatures it takes.

A proposal is a GUN's next root, next targets roles, or both, built on what is current. Its id is
over what is signed and not over the signatures, so it stays the same while people sign. Whether
it may be published once it's complete is ``judge_publication``'s to say; this module says what is
missing until then, and keeps out what could never be published.

Spec: TUF 1.0.34, 4.2.1, 5.3.4 and 6.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from securesystemslib.signer import Key, Signature
from tuf.api.metadata import Root, Targets

from tabellion.core import strict_json
from tabellion.core.bins import bins_of, is_bin
from tabellion.core.dialect import NOTARY, Dialect
from tabellion.core.holders import holders_of
from tabellion.core.limits import Limits
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.notary_delegations import is_delegation_name
from tabellion.core.publication import CurrentSet, OnlineKeys, UploadedFile, holds_threshold
from tabellion.core.roles import (
    check_role_name,
    delegated_roles,
    material_of,
    role_keys,
    verify_threshold,
)
from tabellion.errors import InvalidNameError, RefusedPublicationError, ThresholdError


@dataclass(frozen=True)
class Standing:
    """How a file stands with one list of keys that has to sign it.

    A root has two: the one it follows and its own.

    Attributes:
        role: The file's role.
        delegator: Role that lists the keys.
        delegator_version: That file's version.
        threshold: Distinct keys needed.
        keys: The role's keys by id.
        holders: Key id to its holder's name, as the delegator gives it.
        signed_by: Ids of the keys whose signatures count.
    """

    role: str
    delegator: str
    delegator_version: int
    threshold: int
    keys: Mapping[str, Key]
    holders: Mapping[str, str]
    signed_by: tuple[str, ...]

    @property
    def lacking(self) -> int:
        """Give the number of signatures that are missing."""
        return max(self.threshold - len(self.signed_by), 0)

    @property
    def awaited(self) -> tuple[str, ...]:
        """Give the ids of keys that haven't signed; a key that has, under another id, isn't one."""
        done = {material_of(self.keys[keyid]) for keyid in self.signed_by}
        return tuple(keyid for keyid, key in self.keys.items() if material_of(key) not in done)


@dataclass(frozen=True)
class Proposal:
    """Files of a GUN that may lack signatures; nothing is trusted by being in one.

    Attributes:
        gun: The GUN.
        dialect: How they are written.
        files: Role to file: a root, targets roles.
    """

    gun: str
    dialect: Dialect
    files: Mapping[str, UnverifiedMetadata[Any]]

    @classmethod
    def parse(
        cls,
        gun: str,
        dialect: Dialect,
        upload: Sequence[UploadedFile],
        *,
        limits: Limits | None = None,
    ) -> Proposal:
        """Read the files, from anybody.

        Raises:
            RefusedPublicationError: No file, a role twice, or one that nobody proposes.
            VerificationError: A file is malformed or too large.
        """
        limits = limits or Limits()
        files: dict[str, UnverifiedMetadata[Any]] = {}
        for item in upload:
            _check_role(item.role, dialect)
            if item.role in files:
                raise _refuse(f"the proposal holds {item.role[:80]} twice", "duplicate-role")
            files[item.role] = dialect.parse(
                item.role, item.data, max_bytes=limits.max_bytes(item.role)
            )
        if not files:
            raise _refuse("the proposal holds no file", "empty-publication")
        return cls(gun, dialect, files)

    @cached_property
    def id(self) -> str:
        """Give the hex SHA-256 over roles and what is signed of each."""
        return proposal_id(self.files)

    @property
    def versions(self) -> dict[str, int]:
        """Give the version of each role."""
        return {role: item.version for role, item in self.files.items()}

    @property
    def root(self) -> Root | None:
        """Give the root that it holds."""
        item = self.files.get("root")
        return cast("Root", item.signed) if item is not None else None

    @property
    def upload(self) -> list[UploadedFile]:
        """Give the files as they are sent."""
        return [UploadedFile(role, item.data) for role, item in self.files.items()]

    def standings(self, current: CurrentSet | None) -> list[Standing]:
        """Tell how each file stands, root first.

        Args:
            current: What the GUN serves, or as much of it as is known; None if it doesn't exist.
        """
        held = current.files if current is not None else {}
        # Bins delegate nothing, and there are thousands of them.
        above = [
            item
            for by in delegating(held, self.files)
            if names_keys((item := self.files.get(by) or held[by]).signed)
        ]
        return [
            standing_of(item, delegator)
            for role, item in self.files.items()
            for delegator in self._delegators(role, held, above)
        ]

    def missing(self, current: CurrentSet | None) -> dict[str, int]:
        """Give the roles that lack signatures, with their number at least."""
        return missing_of(self.standings(current))

    def is_served(self, current: CurrentSet | None) -> bool:
        """Tell whether just this is published, whoever's signatures it has there."""
        held = current.files if current is not None else {}
        return all(
            role in held and held[role].signed_bytes == item.signed_bytes
            for role, item in self.files.items()
        )

    def merged(self, other: Proposal) -> Proposal:
        """Add the signatures that another copy has; verify them first."""
        upload = [
            UploadedFile(role, self.dialect.with_signatures(item.data, _more(item, other.files)))
            for role, item in self.files.items()
        ]
        return Proposal.parse(self.gun, self.dialect, upload)

    def needs_own_snapshot(self, current: CurrentSet | None, *, online: OnlineKeys) -> bool:
        """Tell whether a publisher has to sign the snapshot that goes with it."""
        held = current.files if current is not None else {}
        root = self.files.get("root") or held.get("root")
        if root is None or holds_threshold(root.signed, "snapshot", online.snapshot):
            return False
        is_named = self.dialect.lists_root or self.files.keys() != {"root"}
        return is_named or not _is_signed_by(held.get("snapshot"), root)

    def _delegators(
        self,
        role: str,
        held: Mapping[str, UnverifiedMetadata[Any]],
        above: Sequence[UnverifiedMetadata[Any]],
    ) -> Iterator[UnverifiedMetadata[Any]]:
        """List the files whose keys have to sign a role's, of those that name keys."""
        if role == "root":
            if "root" in held:
                yield held["root"]
            yield self.files["root"]
            return
        yield from (item for item in above if delegates_to(item.signed, role))


def _is_signed_by(snapshot: UnverifiedMetadata[Any] | None, root: UnverifiedMetadata[Any]) -> bool:
    if snapshot is None:
        return False
    keys, entry = role_keys(root.signed, "snapshot")
    try:
        verify_threshold(snapshot, "snapshot", keys, entry.keyids, entry.threshold)
    except ThresholdError:
        return False
    return True


def missing_of(standings: Iterable[Standing]) -> dict[str, int]:
    """Give the roles that lack signatures, with their number at least."""
    found: dict[str, int] = {}
    for standing in standings:
        if standing.lacking:
            found[standing.role] = max(found.get(standing.role, 0), standing.lacking)
    return found


def proposal_id(files: Mapping[str, UnverifiedMetadata[Any]]) -> str:
    """Give the hex SHA-256 over roles and what is signed of each; signatures don't change it."""
    pairs = [
        [role, hashlib.sha256(item.signed_bytes).hexdigest()]
        for role, item in sorted(files.items())
    ]
    return hashlib.sha256(strict_json.canonical(pairs)).hexdigest()


def standing_of(item: UnverifiedMetadata[Any], delegator: UnverifiedMetadata[Any]) -> Standing:
    """Count a file's signatures by the keys that one delegator lists."""
    keys, entry = role_keys(delegator.signed, item.role)
    listed = {keyid: keys[keyid] for keyid in entry.keyids if keyid in keys}
    # A threshold of none: who signed, however few.
    signed_by = verify_threshold(item, item.role, listed, list(listed), 0)
    return Standing(
        item.role,
        delegator.role,
        delegator.version,
        entry.threshold,
        listed,
        holders_of(delegator.signed),
        signed_by,
    )


def delegating(
    held: Mapping[str, UnverifiedMetadata[Any]], files: Mapping[str, UnverifiedMetadata[Any]]
) -> list[str]:
    """List the roles that may delegate: where there are hash bins, no other published ones do.

    So none of thousands of bins has to be read.
    """
    targets = held.get("targets")
    if targets is None or bins_of(targets.signed) is None:
        return list(dict.fromkeys([*held, *files]))
    return list(dict.fromkeys([*(role for role in ("root", "targets") if role in held), *files]))


def delegates_of(signed: object) -> list[str]:
    """List the roles of publishers that a file names keys for; hash bins aren't listed."""
    if isinstance(signed, Root):
        return ["targets"]
    return [child.name for child in delegated_roles(signed)] if isinstance(signed, Targets) else []


def names_keys(signed: object) -> bool:
    """Tell whether a file names keys for any role of publishers, hash bins maybe."""
    is_spread = isinstance(signed, Targets) and bins_of(signed) is not None
    return is_spread or bool(delegates_of(signed))


def delegates_to(signed: object, role: str) -> bool:
    """Tell whether a file names keys for a role of publishers, a hash bin maybe."""
    if role in delegates_of(signed):
        return True
    return isinstance(signed, Targets) and is_bin(bins_of(signed), role)


def _more(
    item: UnverifiedMetadata[Any], others: Mapping[str, UnverifiedMetadata[Any]]
) -> list[Signature]:
    return [
        signature
        for keyid, signature in others[item.role].signatures.items()
        if keyid not in item.signatures
    ]


def _check_role(role: str, dialect: Dialect) -> None:
    hint = "propose a root and targets roles; the rest is signed when these are complete"
    if role in {"snapshot", "timestamp"}:
        raise RefusedPublicationError(
            f"a {role} isn't proposed", rule="proposal-roles", role=role, hint=hint
        )
    if role in {"root", "targets"}:
        return
    if dialect is NOTARY and not is_delegation_name(role):
        raise InvalidNameError(f"{role[:80]!r} is no role of a Notary GUN", hint=hint)
    check_role_name(role)


def _refuse(message: str, rule: str) -> RefusedPublicationError:
    return RefusedPublicationError(message, rule=rule, hint="nothing was kept; make it anew")
