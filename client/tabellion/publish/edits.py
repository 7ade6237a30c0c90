"""Changes applied to payloads: pure, so that a lost race applies them again."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tuf.api.metadata import DelegatedRole, Delegations, TargetFile, Targets

from tabellion.core.roles import delegated_roles, roles_for_path
from tabellion.errors import KeyStoreError, NotSignedError, UsageError
from tabellion.publish.changes import AddSigner, Change, RemoveSigner, RevokeTarget, SignTarget
from tabellion.publish.state import Current


@dataclass
class Draft:
    """Targets payloads as they shall be.

    Attributes:
        current: What it builds on.
        held: Key ids whose private part is here.
        payloads: Role to its changed payload; its version isn't raised yet.
        touched: Roles that a change spoke of, changed or not.
    """

    current: Current
    held: Collection[str]
    payloads: dict[str, Targets] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)

    def of(self, role: str) -> Targets:
        """Give a role's payload to be read: changed, current, or empty."""
        if role in self.payloads:
            return self.payloads[role]
        published = self.current.roles.get(role)
        return published.signed if published is not None else _empty()

    def edit(self, role: str) -> Targets:
        """Give a role's payload to be changed."""
        if role not in self.payloads:
            self.payloads[role] = copy.deepcopy(self.of(role))
        return self.payloads[role]

    def may_sign(self, role: str) -> bool:
        """Tell whether a key of the role is here."""
        _, entry = self.current.keys_of(role)
        return any(keyid in self.held for keyid in entry.keyids)


def apply(
    current: Current, changes: Sequence[Change], held: Collection[str], *, again: bool
) -> Draft:
    """Apply changes in order.

    Args:
        current: What to build on.
        changes: What to change.
        held: Key ids whose private part is here.
        again: An earlier attempt may have got through: what is gone already is fine.

    Raises:
        UsageError: A change doesn't fit the GUN.
        NotSignedError: There's nothing to revoke.
    """
    draft = Draft(current, held)
    for change in changes:
        match change:
            case SignTarget():
                _sign(draft, change)
            case RevokeTarget():
                _revoke(draft, change, again=again)
            case AddSigner():
                _add_signer(draft, change)
            case RemoveSigner():
                _remove_signer(draft, change, again=again)
    return draft


def _sign(draft: Draft, change: SignTarget) -> None:
    role = change.role or _role_for(draft, change.target)
    draft.current.keys_of(role)
    draft.touched.add(role)
    extra = {"custom": copy.deepcopy(dict(change.custom))} if change.custom else {}
    target = TargetFile(
        change.length, {change.digest.algorithm: change.digest.hex}, change.target, extra
    )
    if draft.of(role).targets.get(change.target) != target:
        draft.edit(role).targets[change.target] = target


def _role_for(draft: Draft, path: str) -> str:
    if draft.may_sign("targets"):
        return "targets"
    pending, visited, covering = ["targets"], set[str](), list[str]()
    while pending:
        role = pending.pop()
        if role in visited:
            continue
        visited.add(role)
        if role != "targets":
            covering.append(role)
            if draft.may_sign(role):
                return role
        names: list[str] = []
        for name, terminating in roles_for_path(draft.of(role), path):
            names.append(name)
            if terminating:
                pending.clear()
                break
        pending.extend(reversed(names))
    who = f"targets, {', '.join(covering)}" if covering else "targets"
    raise KeyStoreError(
        f"no key here may sign {path[:80]!r} in {draft.current.gun}",
        hint=f"roles that may: {who[:300]}; import one's key, or ask its holder",
    )


def _revoke(draft: Draft, change: RevokeTarget, *, again: bool) -> None:
    if change.role is not None:
        draft.current.keys_of(change.role)
        listing = [change.role] if change.target in draft.of(change.role).targets else []
    else:
        listing = [
            role for role in draft.current.delegators if change.target in draft.of(role).targets
        ]
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
    if not delegations.roles:
        targets.delegations = None


def _empty() -> Targets:
    return Targets(expires=datetime.now(UTC))
