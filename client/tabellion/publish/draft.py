"""Targets roles as they shall be, before they are signed: what changed, and who may sign what."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from securesystemslib.signer import Key
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Role,
    SuccinctRoles,
    TargetFile,
    Targets,
)

from tabellion.core.bins import bins_of, is_bin
from tabellion.core.dialect import NOTARY
from tabellion.core.notary_search import released_by
from tabellion.core.roles import delegated_roles, role_keys, roles_asked
from tabellion.errors import UsageError
from tabellion.publish.changes import SignTarget
from tabellion.publish.held_keys import HeldKeys
from tabellion.publish.state import Current

_MAX_DEPTH: Final = 8


@dataclass
class Draft:
    """Targets payloads as they shall be.

    Attributes:
        current: What it builds on.
        held: Keys whose private part is here.
        payloads: Role to its changed payload; its version isn't raised yet.
        touched: Roles that a change spoke of, changed or not.
        signed_as: Target to the role that signs it.
        withdrawn: Target to the roles that don't sign it any more.
        first_files: New role to its first file, as its holders signed it.
        gone_too: Roles beneath those removed, to which nothing delegates any more.
        witnessed: Roles to be signed anew though nothing in them changes.
        respoken: Roles that a change delegates to, or takes a key from, changed or not.
        removed: Roles that a change withdrew the delegation of.
        repathed: Roles that a change gave other paths.
    """

    current: Current
    held: HeldKeys
    payloads: dict[str, Targets] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    signed_as: dict[str, str] = field(default_factory=dict)
    withdrawn: dict[str, list[str]] = field(default_factory=dict)
    first_files: dict[str, bytes] = field(default_factory=dict)
    gone_too: list[str] = field(default_factory=list)
    witnessed: set[str] = field(default_factory=set)
    respoken: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    repathed: set[str] = field(default_factory=set)

    def of(self, role: str) -> Targets:
        """Give a role's payload to be read: changed, current, or empty."""
        if role in self.payloads:
            return self.payloads[role]
        published = self.current.roles.get(role)
        if published is None and is_bin(self.current.bins, role):
            # Taken for empty, all that it lists would be lost.
            raise RuntimeError(f"bin {role} wasn't read before it was asked for")
        return published.signed if published is not None else self._empty()

    @property
    def is_notary(self) -> bool:
        """Tell whether docker's rules decide who signs what."""
        return self.current.trusted.dialect is NOTARY

    @property
    def bins(self) -> SuccinctRoles | None:
        """Give the hash bins as they shall be, None without."""
        return bins_of(self.of("targets"))

    def _empty(self) -> Targets:
        # Notary's readers want the member, empty or not.
        delegations = Delegations({}, {}) if self.is_notary else None
        return Targets(expires=datetime.now(UTC), delegations=delegations)

    def edit(self, role: str) -> Targets:
        """Give a role's payload to be changed."""
        if role not in self.payloads:
            self.payloads[role] = copy.deepcopy(self.of(role))
        return self.payloads[role]

    def set_target(self, role: str, change: SignTarget) -> None:
        """Let a role list a target, unless it lists it just so."""
        extra = {"custom": copy.deepcopy(dict(change.custom))} if change.custom else {}
        hashes = {change.digest.algorithm: change.digest.hex}
        target = TargetFile(change.length, hashes, change.target, extra)
        if self.of(role).targets.get(change.target) != target:
            self.edit(role).targets[change.target] = target

    def changed(self) -> dict[str, Targets]:
        """Give the payloads that differ from what is published."""
        published = self.current.roles
        return {
            role: payload
            for role, payload in self.payloads.items()
            if role not in published or payload != published[role].signed
        }

    def delegations(self) -> Iterator[tuple[Targets, DelegatedRole]]:
        """List every delegation with the payload it's in."""
        for by, child in self._tree():
            yield self.of(by), child

    def keys_of(self, role: str) -> tuple[Mapping[str, Key], Role]:
        """Give a role's keys, key ids and threshold as its delegator will say.

        Raises:
            UsageError: Nothing delegates to it.
        """
        if role == "targets":
            return role_keys(self.current.root, role)
        for payload, child in self.delegations():
            if child.name == role:
                return role_keys(payload, role)
        if is_bin(self.bins, role):
            return role_keys(self.of("targets"), role)
        names = ", ".join(["targets", *(child.name for _, child in self.delegations())])
        raise UsageError(
            f"{self.current.gun} has no role {role[:80]!r}", hint=f"its roles: {names[:300]}"
        )

    def delegator_of(self, role: str) -> str | None:
        """Give the role that delegates to one, None if nothing does."""
        return next((by for by, child in self._tree() if child.name == role), None)

    def beneath(self, role: str) -> list[str]:
        """List the roles that are reached through one only, nearest first."""
        return [child.name for _, child in self._tree(role)]

    def check_may_delegate(self, role: str) -> None:
        """Refuse a delegation so deep that searches for other targets would be cut short.

        Raises:
            UsageError: Nothing delegates to the role, or it's too far from the targets role.
        """
        depth, above = 0, role
        while above != "targets":
            self.keys_of(above)
            depth, above = depth + 1, self.delegator_of(above) or "targets"
        if depth >= _MAX_DEPTH:
            raise UsageError(
                f"{role} is {depth} delegations away from the targets role",
                hint=f"at most {_MAX_DEPTH} in a row are made: delegate nearer to it",
            )

    def take_away(self, roles: Collection[str]) -> None:
        """Note that nothing delegates to roles any more, and drop what was to be signed as them."""
        self.removed.update(roles)
        for role in roles:
            self.payloads.pop(role, None)
            self.first_files.pop(role, None)
            self.touched.discard(role)

    def _tree(self, top: str = "targets") -> Iterator[tuple[str, DelegatedRole]]:
        pending, seen = deque([top]), {top}
        while pending:
            by = pending.popleft()
            for child in delegated_roles(self.of(by)):
                if child.name not in seen:
                    seen.add(child.name)
                    pending.append(child.name)
                    yield by, child

    def may_sign(self, role: str) -> bool:
        """Tell whether a key of the role is here."""
        keys, entry = self.keys_of(role)
        return bool(self.held.among(keys, entry.keyids))

    def asked(self, path: str) -> Iterator[str]:
        """List the roles that are asked for a path, in order (TUF 5.6.7; docker's rule)."""
        if self.is_notary:
            return released_by(path, self.of("targets"))
        return roles_asked(path, self.of)

    def covers(self, role: DelegatedRole, path: str) -> bool:
        """Tell whether a delegated role may sign a path."""
        if self.is_notary:
            return role.is_delegated_path(path)
        return role.name in self.asked(path)

    def shadowed(self) -> dict[str, str]:
        """Give the targets just signed or withdrawn where verifiers take another role's word."""
        found: dict[str, str] = {}
        for path in dict.fromkeys([*self.signed_as, *self.withdrawn]):
            answer = self._answer(path)
            if answer is not None and answer != self.signed_as.get(path):
                found[path] = answer
        return found

    def lost(self) -> dict[str, str]:
        """Give the targets that verifiers no longer take as a removed or narrowed role signed them.

        With the role whose other word they take now, or "" if they aren't signed any more.
        """
        before, found = Draft(self.current, self.held), dict[str, str]()
        roles = self.removed | self.repathed
        for path in sorted({path for role in roles for path in before.of(role).targets}):
            was, now = before._answer(path), self._answer(path)
            if was is None or path in self.signed_as:
                continue
            if now is None:
                found[path] = ""
            elif self.of(now).targets[path].hashes != before.of(was).targets[path].hashes:
                found[path] = now
        return found

    def _answer(self, path: str) -> str | None:
        """Give the role whose word verifiers take for a path."""
        return next((role for role in self.asked(path) if path in self.of(role).targets), None)
