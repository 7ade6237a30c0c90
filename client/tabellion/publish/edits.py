"""Changes applied to payloads: pure, so that a lost race applies them again."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Delegations, Role, TargetFile, Targets

from tabellion.core.dialect import NOTARY
from tabellion.core.notary_search import released_by
from tabellion.core.roles import delegated_roles, role_keys, roles_asked
from tabellion.errors import KeyStoreError, NotDelegatedError, NotSignedError, UsageError
from tabellion.publish import notary_edits, notary_release
from tabellion.publish.changes import (
    AddSigner,
    Change,
    RemoveSigner,
    RevokeTarget,
    SignTarget,
    Witness,
)
from tabellion.publish.held_keys import HeldKeys
from tabellion.publish.state import Current


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
        witnessed: Roles to be signed anew though nothing in them changes.
        respoken: Roles that a change delegates to, or takes a key from, changed or not.
        removed: Roles that a change withdrew the delegation of.
    """

    current: Current
    held: HeldKeys
    payloads: dict[str, Targets] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    signed_as: dict[str, str] = field(default_factory=dict)
    withdrawn: dict[str, list[str]] = field(default_factory=dict)
    first_files: dict[str, bytes] = field(default_factory=dict)
    witnessed: set[str] = field(default_factory=set)
    respoken: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)

    def of(self, role: str) -> Targets:
        """Give a role's payload to be read: changed, current, or empty."""
        if role in self.payloads:
            return self.payloads[role]
        published = self.current.roles.get(role)
        return published.signed if published is not None else self._empty()

    @property
    def is_notary(self) -> bool:
        """Tell whether docker's rules decide who signs what."""
        return self.current.trusted.dialect is NOTARY

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
        for name in dict.fromkeys([*self.current.roles, *self.payloads]):
            payload = self.of(name)
            for child in delegated_roles(payload):
                yield payload, child

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
        names = ", ".join(["targets", *(child.name for _, child in self.delegations())])
        raise UsageError(
            f"{self.current.gun} has no role {role[:80]!r}", hint=f"its roles: {names[:300]}"
        )

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
        """Give the targets that verifiers no longer take as a removed role signed them.

        With the role whose other word they take now, or "" if they aren't signed any more.
        """
        before, found = Draft(self.current, self.held), dict[str, str]()
        for path in sorted({path for role in self.removed for path in before.of(role).targets}):
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


def apply(draft: Draft, changes: Sequence[Change], *, again: bool) -> None:
    """Apply changes in order.

    Args:
        draft: What to change.
        changes: How.
        again: They may be published already: what is gone is fine.

    Raises:
        UsageError: A change doesn't fit the GUN.
        NotDelegatedError: A role may not sign a path.
        NotSignedError: There's nothing to revoke.
        KeyStoreError: No key here may do it.
    """
    for change in changes:
        if isinstance(change, Witness):
            _witness(draft, change.role)
            continue
        if draft.is_notary:
            notary_edits.apply(draft, change, again=again)
            continue
        match change:
            case SignTarget():
                _sign(draft, change)
            case RevokeTarget():
                _revoke(draft, change, again=again)
            case AddSigner():
                _add_signer(draft, change)
            case RemoveSigner():
                _remove_signer(draft, change, again=again)
    if draft.is_notary:
        notary_release.keep_signable(draft)


def _witness(draft: Draft, role: str) -> None:
    """Take a role as it was published last, also where too few of its keys signed that."""
    draft.keys_of(role)
    if role not in draft.payloads and role not in draft.current.roles:
        left = draft.current.left.get(role)
        if left is None:
            raise UsageError(
                f"{role[:80]} of {draft.current.gun} has published nothing yet",
                hint=f"sign something with it: tabellion sign IMAGE --role {role[:80]}",
            )
        draft.payloads[role] = copy.deepcopy(left.signed)
    draft.touched.add(role)
    draft.witnessed.add(role)


def _sign(draft: Draft, change: SignTarget) -> None:
    role = change.role or _role_for(draft, change.target)
    draft.keys_of(role)
    if role not in draft.asked(change.target):
        raise _not_delegated(draft, role, change.target)
    draft.touched.add(role)
    draft.signed_as[change.target] = role
    draft.set_target(role, change)


def _role_for(draft: Draft, path: str) -> str:
    covering = list(draft.asked(path))
    for role in covering:
        if draft.may_sign(role):
            return role
    raise KeyStoreError(
        f"no key here may sign {path[:80]!r} in {draft.current.gun}",
        hint=f"roles that may: {', '.join(covering)[:300]}; import one's key, or ask its holder",
    )


def _not_delegated(draft: Draft, role: str, path: str) -> NotDelegatedError:
    patterns = [
        pattern
        for _, child in draft.delegations()
        if child.name == role
        for pattern in child.paths or ()
    ]
    return NotDelegatedError(
        f"{role} of {draft.current.gun} may sign {' '.join(patterns)[:200]}, not {path[:80]!r}",
        hint="sign as another role, or ask the holder of the targets key for that path: "
        f"tabellion signer add GUN {role[:80]} KEYFILE --path PATTERN",
    )


def _revoke(draft: Draft, change: RevokeTarget, *, again: bool) -> None:
    if change.role is not None:
        draft.keys_of(change.role)
        listing = [change.role] if change.target in draft.of(change.role).targets else []
    else:
        names = dict.fromkeys(["targets", *(child.name for _, child in draft.delegations())])
        listing = [role for role in names if change.target in draft.of(role).targets]
        mine = [role for role in listing if draft.may_sign(role)]
        if listing and not mine:
            raise KeyStoreError(
                f"{change.target[:80]!r} is signed by {', '.join(listing)[:200]}, "
                "none of whose keys is here",
                hint="ask its signer to revoke it, or remove the signer",
            )
        listing = mine
    if not listing and not again:
        by = f" by {change.role}" if change.role else ""
        raise NotSignedError(
            f"{change.target[:80]!r} isn't signed{by} in {draft.current.gun}",
            hint="see what is: tabellion list GUN",
        )
    for role in listing:
        draft.touched.add(role)
        draft.signed_as.pop(change.target, None)
        draft.withdrawn.setdefault(change.target, []).append(role)
        del draft.edit(role).targets[change.target]


def _add_signer(draft: Draft, change: AddSigner) -> None:
    draft.touched.add("targets")
    keyids = list(dict.fromkeys(key.keyid for key in change.keys))
    wanted = DelegatedRole(
        change.name, keyids, change.threshold, change.terminating, list(change.paths)
    )
    elsewhere = draft.current.delegators.get(change.name, "targets")
    if elsewhere != "targets":
        raise UsageError(
            f"{elsewhere} delegates to {change.name} already", hint="choose another name"
        )
    if change.file is not None:
        draft.first_files[change.name] = change.file
    held = {role.name: role for role in delegated_roles(draft.of("targets"))}.get(change.name)
    if held == wanted:
        return
    targets = draft.edit("targets")
    if targets.delegations is None or targets.delegations.roles is None:
        targets.delegations = Delegations({}, {})
    roles = targets.delegations.roles
    assert roles is not None  # noqa: S101  (made just above; for the type checker)
    gone = [keyid for keyid in held.keyids if keyid not in keyids] if held is not None else []
    for keyid in gone:
        targets.revoke_key(keyid, change.name)
    roles[change.name] = wanted  # a new one comes last: it can't take paths from those before
    for key in change.keys:
        targets.delegations.keys[key.keyid] = key


def _remove_signer(draft: Draft, change: RemoveSigner, *, again: bool) -> None:
    draft.touched.add("targets")
    names = [role.name for role in delegated_roles(draft.of("targets"))]
    if change.name not in names:
        if again:
            return
        raise UsageError(
            f"{draft.current.gun} has no signer {change.name!r}",
            hint=f"its signers: {', '.join(names)[:300]}" if names else "it has none",
        )
    targets = draft.edit("targets")
    delegations = targets.delegations
    assert delegations is not None  # noqa: S101  (it lists the name; for the type checker)
    assert delegations.roles is not None  # noqa: S101
    for keyid in list(delegations.roles[change.name].keyids):
        targets.revoke_key(keyid, change.name)
    del delegations.roles[change.name]
    draft.removed.add(change.name)
    draft.payloads.pop(change.name, None)
    draft.first_files.pop(change.name, None)
    draft.touched.discard(change.name)
    if not delegations.roles:
        targets.delegations = None
