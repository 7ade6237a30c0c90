"""Changes applied to payloads: pure, so that a lost race applies them again."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
)

from tabellion.core.holders import holders_of, set_holders
from tabellion.core.roles import delegated_roles
from tabellion.errors import KeyStoreError, NotDelegatedError, NotSignedError, UsageError
from tabellion.publish import notary_edits, notary_release, spreading
from tabellion.publish.changes import (
    AddSigner,
    Change,
    RemoveSigner,
    RevokeTarget,
    SignTarget,
    SpreadTargets,
    Witness,
)
from tabellion.publish.draft import Draft
from tabellion.publish.returning import refuse_return


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
        _refuse_beside_bins(draft, change)
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
            case SpreadTargets():
                spreading.spread(draft, change)
    if draft.is_notary:
        notary_release.keep_signable(draft)


def _refuse_beside_bins(draft: Draft, change: Change) -> None:
    if isinstance(change, AddSigner | RemoveSigner) and draft.bins is not None:
        raise UsageError(
            f"{draft.current.gun} has hash bins, which take the place of other delegations",
            hint="give a signer a GUN of its own",
        )


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
    if draft.bins is not None:
        covering.remove("targets")  # it's there to delegate, and stays small
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
    by = draft.delegator_of(role) or "targets"
    whose, under = ("the targets key", "")
    if by != "targets":
        whose, under = f"{by[:80]}'s key", f" --under {by[:80]}"
    return NotDelegatedError(
        f"{role} of {draft.current.gun} may sign {' '.join(patterns)[:200]}, not {path[:80]!r}",
        hint=f"sign as another role, or ask the holder of {whose} for that path: "
        f"tabellion signer add GUN {role[:80]} KEYFILE --path PATTERN{under}",
    )


def _revoke(draft: Draft, change: RevokeTarget, *, again: bool) -> None:
    if change.role is not None:
        draft.keys_of(change.role)
        listing = [change.role] if change.target in draft.of(change.role).targets else []
    else:
        names = dict.fromkeys(["targets", *(child.name for _, child in draft.delegations())])
        if draft.bins is not None:
            names[draft.bins.get_role_for_target(change.target)] = None
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
    draft.touched.add(change.under)
    draft.check_may_delegate(change.under)
    keyids = list(dict.fromkeys(key.keyid for key in change.keys))
    elsewhere = draft.delegator_of(change.name)
    if elsewhere not in {None, change.under}:
        raise UsageError(
            f"{elsewhere} delegates to {change.name} already", hint="choose another name"
        )
    if change.file is not None:
        draft.first_files[change.name] = change.file
    held = {role.name: role for role in delegated_roles(draft.of(change.under))}.get(change.name)
    wanted = _as_delegated(change, keyids, held)
    named = holders_of(draft.of(change.under))
    if held == wanted and change.holders.items() <= named.items():
        return
    refuse_return(draft, change.name, keyids, change.file)
    parent = draft.edit(change.under)
    if parent.delegations is None or parent.delegations.roles is None:
        parent.delegations = Delegations({}, {})
    roles = parent.delegations.roles
    assert roles is not None  # noqa: S101  (made just above; for the type checker)
    gone = [keyid for keyid in held.keyids if keyid not in keyids] if held is not None else []
    for keyid in gone:
        parent.revoke_key(keyid, change.name)
    if held is not None and held.paths != wanted.paths:
        draft.repathed.add(change.name)
    roles[change.name] = wanted  # a new one comes last: it can't take paths from those before
    for key in change.keys:
        parent.delegations.keys[key.keyid] = key
    set_holders(parent, change.holders)


def _as_delegated(
    change: AddSigner, keyids: Sequence[str], held: DelegatedRole | None
) -> DelegatedRole:
    """Give the role as it shall be: what isn't given stays as it's held, or is the usual."""
    base = held or DelegatedRole(change.name, [], 1, terminating=False, paths=["*"])
    wanted = copy.deepcopy(base)
    wanted.keyids = list(keyids)
    if change.paths is not None:
        wanted.paths, wanted.path_hash_prefixes = list(change.paths), None
    if change.threshold is not None:
        wanted.threshold = change.threshold
    if change.terminating is not None:
        wanted.terminating = change.terminating
    change.check_threshold(wanted.threshold)
    return wanted


def _remove_signer(draft: Draft, change: RemoveSigner, *, again: bool) -> None:
    delegator = draft.delegator_of(change.name)
    if delegator is None:
        if again:
            return
        names = [role.name for _, role in draft.delegations()]
        raise UsageError(
            f"{draft.current.gun} has no signer {change.name!r}",
            hint=f"its signers: {', '.join(names)[:300]}" if names else "it has none",
        )
    draft.touched.add(delegator)
    beneath = draft.beneath(change.name)
    parent = draft.edit(delegator)
    delegations = parent.delegations
    assert delegations is not None  # noqa: S101  (it lists the name; for the type checker)
    assert delegations.roles is not None  # noqa: S101
    for keyid in list(delegations.roles[change.name].keyids):
        parent.revoke_key(keyid, change.name)
    del delegations.roles[change.name]
    draft.take_away([change.name, *beneath])
    draft.gone_too.extend(beneath)
    if not delegations.roles:
        parent.delegations = None
    set_holders(parent, {})
