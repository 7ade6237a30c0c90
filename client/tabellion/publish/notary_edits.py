"""Changes applied to a Notary GUN by docker's rules.

A signer ``alice`` is the role ``targets/alice``; what she signs is released by
``targets/releases``, which her key signs as well. Without any signer, the owner's ``targets``
says it all.

Spec: notary-v1 sections 9 (publish) and 11.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Delegations

from tabellion.core.dialect import NOTARY
from tabellion.core.notary_search import RELEASES
from tabellion.core.roles import delegated_roles, key_material
from tabellion.errors import (
    InvalidNameError,
    KeyStoreError,
    NotDelegatedError,
    NotSignedError,
    UsageError,
)
from tabellion.publish import notary_release
from tabellion.publish.changes import (
    AddSigner,
    Change,
    RemoveSigner,
    RevokeTarget,
    SignTarget,
    SpreadTargets,
)
from tabellion.publish.returning import refuse_return

if TYPE_CHECKING:
    from tabellion.publish.draft import Draft

_PREFIX: Final = "targets/"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")


def spoken_of(changes: Iterable[Change]) -> set[str]:
    """Give the roles that changes may delegate to, though nobody does now."""
    added = [change for change in changes if isinstance(change, AddSigner)]
    return {_full_name(change.name, change.under) for change in added} | {RELEASES}


def apply(draft: Draft, change: Change, *, again: bool) -> None:
    """Apply one change; raises as ``edits.apply`` does."""
    match change:
        case SignTarget():
            _sign(draft, change)
        case RevokeTarget():
            _revoke(draft, change, again=again)
        case AddSigner():
            if change.holders:
                raise UsageError(
                    f"{draft.current.gun} is a Notary GUN, whose files have no place for holders' "
                    "names",
                    hint="leave =NAME out; names of keys here are shown from their notes",
                )
            _add_signer(draft, change)
        case RemoveSigner():
            _remove_signer(draft, change, again=again)
        case SpreadTargets():
            raise UsageError(
                f"{draft.current.gun} is a Notary GUN, whose format has no hash bins",
                hint="found a GUN in the tuf dialect for so many targets",
            )


def _sign(draft: Draft, change: SignTarget) -> None:
    signing = _roles_for(draft, change)
    draft.signed_as[change.target] = RELEASES if RELEASES in signing else signing[0]
    for role in signing:
        draft.touched.add(role)
        draft.set_target(role, change)


def _roles_for(draft: Draft, change: SignTarget) -> list[str]:
    """Give the roles that sign: as docker does, every one whose key is here and that may."""
    children = {child.name: child for child in delegated_roles(draft.of("targets"))}
    if change.role is not None:
        return _named_roles(draft, change, children)
    if not children:
        return ["targets"]
    signing = [
        name
        for name, child in children.items()
        if child.is_delegated_path(change.target) and draft.may_sign(name)
    ]
    if signing == [RELEASES] != list(children) and notary_release.is_owners_alone(draft):
        signing = []  # the owner's key is there for the signers' sake
    if not signing:
        raise KeyStoreError(
            f"no key here may sign {change.target[:80]!r} in {draft.current.gun}",
            hint=f"its signers: {', '.join(children)[:300]}; import the key of one, or sign as the "
            "owner: --role targets",
        )
    return signing


def _named_roles(draft: Draft, change: SignTarget, children: dict[str, DelegatedRole]) -> list[str]:
    """Give the one role that is named, or a signer's role and the release that goes with it."""
    named = str(change.role)
    is_exact = named == "targets" or named.startswith(_PREFIX)
    role = named if is_exact else f"{_PREFIX}{named}"
    draft.keys_of(role)
    child = {each.name: each for _, each in draft.delegations()}.get(role)
    if child is not None and not child.is_delegated_path(change.target):
        paths = " ".join(f"{path}*" for path in child.paths or ())
        raise NotDelegatedError(
            f"{role} of {draft.current.gun} may sign {paths[:200]}, not {change.target[:80]!r}",
            hint="sign as another role, or ask the holder of "
            f"{_whose(draft.delegator_of(role))} key for that path",
        )
    release = None if is_exact else children.get(RELEASES)
    if release is None or not release.is_delegated_path(change.target):
        return [role]
    return [role, RELEASES] if draft.may_sign(RELEASES) else [role]


def _whose(delegator: str | None) -> str:
    return "the targets" if delegator in {None, "targets"} else f"{delegator}'s"


def _revoke(draft: Draft, change: RevokeTarget, *, again: bool) -> None:
    names = ["targets", *(child.name for _, child in draft.delegations())]
    if change.role is not None:
        is_exact = change.role == "targets" or change.role.startswith(_PREFIX)
        wanted = [change.role] if is_exact else [f"{_PREFIX}{change.role}", RELEASES]
        draft.keys_of(wanted[0])
        names = [name for name in names if name in wanted]
    listing = [name for name in names if change.target in draft.of(name).targets]
    mine = [name for name in listing if draft.may_sign(name)]
    if listing and not mine:
        raise KeyStoreError(
            f"{change.target[:80]!r} is signed by {', '.join(listing)[:200]}, none of whose keys "
            "is here",
            hint="ask its signer to revoke it, or remove the signer",
        )
    if not mine and not again:
        raise NotSignedError(
            f"{change.target[:80]!r} isn't signed in {draft.current.gun}",
            hint="see what is: tabellion list GUN",
        )
    for role in mine:
        draft.touched.add(role)
        draft.signed_as.pop(change.target, None)
        draft.withdrawn.setdefault(change.target, []).append(role)
        del draft.edit(role).targets[change.target]


def _full_name(name: str, under: str = "targets") -> str:
    """Give a role's name in the tree: ``targets/a/b`` for ``b`` under ``a``."""
    parent = under if under == "targets" or under.startswith(_PREFIX) else f"{_PREFIX}{under}"
    return name if name.startswith(_PREFIX) else f"{parent}/{name}"


def _add_nested(draft: Draft, change: AddSigner, role: str) -> None:
    parent, _, name = role.rpartition("/")
    if _full_name("x", change.under) != f"{parent}/x" and change.under != "targets":
        raise UsageError(
            f"{role[:80]} isn't under {change.under[:80]}",
            hint="in a Notary GUN a role's name begins with its delegator's",
        )
    if not _NAME.fullmatch(name) or change.threshold not in {None, 1} or change.terminating:
        raise UsageError(
            f"{role[:80]} can't be delegated to so in a Notary GUN",
            hint="use lower-case letters, digits, _ and -, threshold 1, and not --terminating",
        )
    draft.touched.add(parent)
    draft.check_may_delegate(parent)
    keys = [NOTARY.adopt_key(key) for key in change.keys]
    paths = _beginnings(draft, change, role, parent)
    notary_release.delegate(draft, role, keys, paths, keep=(), parent=parent)
    draft.respoken.add(role)


def _remove_nested(draft: Draft, role: str, *, again: bool) -> None:
    parent = role.rpartition("/")[0]
    draft.touched.add(parent)
    if role not in {child.name for child in delegated_roles(draft.of(parent))}:
        if again:
            return
        raise UsageError(
            f"{draft.current.gun} has no signer {role!r}",
            hint=f"see its signers: tabellion signer list {draft.current.gun}",
        )
    beneath = draft.beneath(role)
    delegations = draft.edit(parent).delegations
    assert delegations is not None  # noqa: S101  (it lists the name; for the type checker)
    assert delegations.roles is not None  # noqa: S101
    del delegations.roles[role]
    notary_release.drop_unused_keys(delegations)
    draft.take_away([role, *beneath])
    draft.gone_too.extend(beneath)


def _add_signer(draft: Draft, change: AddSigner) -> None:
    role = _full_name(change.name, change.under)
    if role.count("/") > 1:
        _add_nested(draft, change, role)
        return
    name = change.name.removeprefix(_PREFIX)
    if not _NAME.fullmatch(name) or name == "releases":
        raise InvalidNameError(
            f"{name[:80]!r} can't be a signer of a Notary GUN",
            hint="use lower-case letters, digits, _ and -, and not releases",
        )
    if change.threshold not in {None, 1} or change.terminating:
        raise UsageError(
            "a Notary GUN's signers have neither thresholds nor terminating roles that docker and "
            "notary could set",
            hint="leave --threshold and --terminating out",
        )
    draft.touched.add("targets")
    keys = [NOTARY.adopt_key(key) for key in change.keys]
    paths = _beginnings(draft, change, f"{_PREFIX}{name}", "targets")
    keep = _keys_that_still_release(draft, f"{_PREFIX}{name}", keys)
    for returning in (f"{_PREFIX}{name}", RELEASES):
        refuse_return(draft, returning, [key.keyid for key in keys], None)
    notary_release.delegate(draft, f"{_PREFIX}{name}", keys, paths, keep=())
    notary_release.delegate(draft, RELEASES, keys, [""], keep=keep)
    draft.respoken |= {f"{_PREFIX}{name}", RELEASES}


def _keys_that_still_release(draft: Draft, role: str, keys: Sequence[Key]) -> list[str]:
    """Give the key ids that stay in the release where a signer gets these keys, maybe for others.

    A key that she had may have been stolen: released by it, everything would go on.
    """
    delegations = draft.of("targets").delegations
    roles = (delegations.roles if delegations is not None else None) or {}
    if delegations is None or RELEASES not in roles:
        return []
    if role not in roles:
        return list(roles[RELEASES].keyids)
    kept = set(keys_that_release_without(delegations, role, owners=()))
    wanted = {key_material(key) for key in keys}
    return [
        keyid
        for keyid in roles[RELEASES].keyids
        if keyid in kept or key_material(delegations.keys[keyid]) in wanted
    ]


def _remove_signer(draft: Draft, change: RemoveSigner, *, again: bool) -> None:
    role = _full_name(change.name)
    if role.count("/") > 1:
        _remove_nested(draft, role, again=again)
        return
    beneath = draft.beneath(role)
    draft.touched.add("targets")
    names = [child.name for child in delegated_roles(draft.of("targets"))]
    if role not in names:
        if again:
            return
        listed = ", ".join(name.removeprefix(_PREFIX) for name in names if name != RELEASES)
        raise UsageError(
            f"{draft.current.gun} has no signer {change.name!r}",
            hint=f"its signers: {listed[:300]}" if listed else "it has none",
        )
    delegations = draft.edit("targets").delegations
    assert delegations is not None  # noqa: S101  (it lists the name; for the type checker)
    roles = delegations.roles
    assert roles is not None  # noqa: S101
    staying = keys_that_release_without(
        delegations, role, owners=notary_release.owners_material(draft.current)
    )
    del roles[role]
    if RELEASES in roles:
        roles[RELEASES].keyids = staying
        if not staying:
            # Nobody could sign it any more; the owner's own word is what is left.
            del roles[RELEASES]
    notary_release.drop_unused_keys(delegations)
    draft.respoken.add(RELEASES)
    draft.take_away({role, *beneath, *({RELEASES} - roles.keys())})
    draft.gone_too.extend(beneath)


def keys_that_release_without(
    delegations: Delegations, role: str, *, owners: Collection[bytes]
) -> list[str]:
    """Give the key ids that ``targets/releases`` has left once a signer is gone.

    A key that another signer has as well stays. ``owners`` is the owner's material: it was in the
    release for the signers' sake, and goes with the last one.
    """
    roles = delegations.roles or {}
    if RELEASES not in roles:
        return []
    theirs = {key_material(delegations.keys[keyid]) for keyid in roles[role].keyids}
    for name, child in roles.items():
        if name not in {role, RELEASES}:
            theirs -= {key_material(delegations.keys[keyid]) for keyid in child.keyids}
    if not roles.keys() - {role, RELEASES}:
        theirs |= set(owners)
    return [
        keyid
        for keyid in roles[RELEASES].keyids
        if key_material(delegations.keys[keyid]) not in theirs
    ]


def _beginnings(draft: Draft, change: AddSigner, role: str, parent: str) -> Sequence[str]:
    """Give the paths a signer shall have: as given, else as it has them, else everything."""
    if change.paths is not None:
        return [_beginning(pattern) for pattern in change.paths]
    held = {child.name: child for child in delegated_roles(draft.of(parent))}.get(role)
    return held.paths or [] if held is not None else [""]


def _beginning(pattern: str) -> str:
    """Read a pattern as a beginning of names, which is all that Notary knows."""
    beginning, star, rest = pattern.partition("*")
    if not star or rest or "?" in beginning:
        raise InvalidNameError(
            f"path pattern {pattern[:80]!r} isn't a beginning of names, all that Notary knows",
            hint="end it with one *, such as 'v1*', or give '*' for all",
        )
    return beginning
