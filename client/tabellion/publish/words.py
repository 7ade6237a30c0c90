"""What a proposal changes, in words, for somebody who is about to sign it.

Whatever differs from what is trusted gives a line, also what these words have no special name
for: nothing is signed unsaid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Root, Targets

from tabellion.core.bins import bins_of
from tabellion.core.holders import MEMBER, holders_of
from tabellion.core.notary_delegations import patterns_of
from tabellion.core.notary_writing import WRITTEN_TEXT
from tabellion.core.proposal import Proposal, Standing
from tabellion.core.publication import CurrentSet
from tabellion.core.roles import delegated_roles
from tabellion.errors import TabellionError
from tabellion.publish.public_keys import fingerprint_of

_SHORT: Final = 16
_ALWAYS: Final = frozenset({"_type", "version", "expires", WRITTEN_TEXT})
_SPOKEN_OF: Final = _ALWAYS | {"keys", "roles", MEMBER}
_MAX_VALUE: Final = 60


def changes_in_words(
    proposal: Proposal, current: CurrentSet | None, *, names: Mapping[str, str]
) -> list[str]:
    """Say what the files change, a line each.

    Args:
        proposal: What is to be signed.
        current: What it's built on, or as much of it as is known; None if it founds the GUN.
        names: Fingerprint to name of keys that are known here.
    """
    held = current.files if current is not None else {}
    lines: list[str] = []
    for role, item in proposal.files.items():
        before = held[role].signed if role in held else None
        if isinstance(item.signed, Root):
            found = list(_root(before, item.signed, names))
        else:
            found = list(targets_in_words(before, item.signed, names=names))
        nothing = "nothing but version and expiry" if before is not None else "empty, its first"
        lines += [f"{role}: {line}" for line in found or [nothing]]
    return lines


def standing_in_words(standing: Standing, *, names: Mapping[str, str]) -> str:
    """Say who has signed for one delegator, and who may still."""
    by = f"{standing.delegator} version {standing.delegator_version}"
    signed = _people(standing, standing.signed_by, names) or "nobody"
    line = f"{standing.role}, by {by}: {len(standing.signed_by)} of {standing.threshold} signed"
    line += f" ({signed})"
    if standing.lacking:
        line += f"; {standing.lacking} more of: {_people(standing, standing.awaited, names)}"
    return line


def _people(standing: Standing, keyids: Sequence[str], names: Mapping[str, str]) -> str:
    return ", ".join(
        _named(keyid, standing.keys[keyid], standing.holders, names) for keyid in keyids
    )


def _named(keyid: str, key: Key, holders: Mapping[str, str], names: Mapping[str, str]) -> str:
    """Write a key with its holder: as the file says, else as the note of a key here does."""
    try:
        known = names.get(fingerprint_of(key), "")
    except TabellionError:
        known = ""
    name = holders.get(keyid) or known
    return f"{keyid[:_SHORT]} ({name})" if name else keyid[:_SHORT]


def _root(old: Root | None, new: Root, names: Mapping[str, str]) -> Iterator[str]:
    if old is None:
        yield "founds the GUN: nothing of it is trusted yet"
    was = f" (was {old.expires:%Y-%m-%d})" if old is not None else ""
    yield f"version {new.version}, expires {new.expires:%Y-%m-%d}{was}"
    holders_before = holders_of(old) if old is not None else {}
    holders = holders_of(new)
    for role in sorted({*new.roles, *(old.roles if old is not None else ())}):
        yield from _root_role(role, old, new, {**holders_before, **holders}, names)
    for keyid in sorted(holders.keys() | holders_before.keys()):
        before, after = holders_before.get(keyid), holders.get(keyid)
        if old is not None and before != after and keyid in new.keys and keyid in old.keys:
            was, now = before or "nobody", after or "nobody"
            yield f"key {keyid[:_SHORT]} is named {now}'s (was {was}'s)"
    if old is not None:
        yield from _unspoken(old, new)


def _root_role(
    role: str,
    old: Root | None,
    new: Root,
    holders: Mapping[str, str],
    names: Mapping[str, str],
) -> Iterator[str]:
    before = old.roles.get(role) if old is not None else None
    after = new.roles.get(role)
    if after is None:
        yield f"role {role} is gone"
        return
    known = set(before.keyids) if before is not None else set()
    for keyid in after.keyids:
        if keyid not in known and keyid in new.keys:
            yield f"{role} gets key {_named(keyid, new.keys[keyid], holders, names)}"
    for keyid in before.keyids if before is not None and old is not None else ():
        if keyid not in after.keyids and old is not None and keyid in old.keys:
            yield f"{role} loses key {_named(keyid, old.keys[keyid], holders, names)}"
    needs = f"{after.threshold} of {len(after.keyids)} keys"
    had = f"{before.threshold} of {len(before.keyids)}" if before is not None else ""
    if before is None:
        yield f"{role} needs {needs}"
    elif not needs.startswith(f"{had} "):
        yield f"{role} needs {needs} (was {had})"


def _unspoken(old: Root, new: Root) -> Iterator[str]:
    """Name every other difference."""
    before, after = old.to_dict(), new.to_dict()
    yield from _fields("", before, after, skip=_SPOKEN_OF)
    for keyid in sorted(before["keys"].keys() & after["keys"].keys()):
        if before["keys"][keyid] != after["keys"][keyid]:
            yield f"key {keyid[:_SHORT]} itself is another one"
    for role in sorted(before["roles"].keys() & after["roles"].keys()):
        skip = frozenset({"keyids", "threshold"})
        yield from _fields(f"{role}'s ", before["roles"][role], after["roles"][role], skip=skip)


def _fields(
    of: str, before: Mapping[str, Any], after: Mapping[str, Any], *, skip: frozenset[str]
) -> Iterator[str]:
    for name in sorted((before.keys() | after.keys()) - skip):
        if before.get(name) != after.get(name):
            was, now = (str(side.get(name))[:_MAX_VALUE] for side in (before, after))
            yield f"{of}{name[:_MAX_VALUE]} becomes {now} (was {was})"


def targets_in_words(
    old: Targets | None, new: Targets, *, names: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Say what differs between two payloads of a targets role, a line each."""
    before, after = (old.targets if old is not None else {}), new.targets
    for path in sorted(before.keys() | after.keys()):
        if path not in after:
            yield f"revoke {path}"
        elif before.get(path) != after[path]:
            digest = next((f"{k}:{v}" for k, v in sorted(after[path].hashes.items())), "")
            yield f"sign {path} {digest} of {after[path].length} bytes"
    yield from _delegations(old, new, names or {})
    yield from _bins(old, new)
    if old is not None:
        skip = _ALWAYS | {"targets", "delegations"}
        yield from _fields("", old.to_dict(), new.to_dict(), skip=skip)


def _bins(old: Targets | None, new: Targets) -> Iterator[str]:
    before, after = bins_of(old), bins_of(new)
    if before == after:
        return
    if after is None:
        yield "spread targets over no bins any more"
        return
    keys = " ".join(keyid[:_SHORT] for keyid in after.keyids)
    yield (
        f"spread targets over {after.number_of_bins} bins {after.name_prefix}-..., "
        f"each signed with {after.threshold} of the keys {keys}"
    )


def _delegations(old: Targets | None, new: Targets, names: Mapping[str, str]) -> Iterator[str]:
    roles_before = {role.name: role for role in delegated_roles(old)} if old is not None else {}
    roles_after = {role.name: role for role in delegated_roles(new)}
    for name in sorted(roles_before.keys() | roles_after.keys()):
        role = roles_after.get(name)
        if role is None:
            yield f"remove signer {name}"
        elif name not in roles_before:
            yield from _new_signer(role, new, names)
        elif old is not None:
            yield from _changed_signer(roles_before[name], role, old, new, names)
    kept = [name for name in roles_before if name in roles_after]
    order = [name for name in roles_after if name in roles_before]
    if order != kept:
        yield f"ask signers in another order: {' '.join(order)}"
    keys_before = old.delegations.keys if old is not None and old.delegations else {}
    keys_after = new.delegations.keys if new.delegations else {}
    for keyid in sorted(keys_before.keys() & keys_after.keys()):
        if keys_before[keyid] != keys_after[keyid]:
            yield f"key {keyid[:_SHORT]} itself is another one"


def _new_signer(role: DelegatedRole, of: Targets, names: Mapping[str, str]) -> Iterator[str]:
    keys = " ".join(_delegate(keyid, of, names) for keyid in role.keyids)
    line = f"let {role.name} sign {_paths(role)} with {role.threshold} of the keys {keys}"
    yield line + (", and ask no later role for that" if role.terminating else "")


def _changed_signer(
    before: DelegatedRole,
    after: DelegatedRole,
    old: Targets,
    new: Targets,
    names: Mapping[str, str],
) -> Iterator[str]:
    if _paths(before) != _paths(after):
        yield f"let {after.name} sign {_paths(after)} (was {_paths(before)})"
    for keyid in after.keyids:
        if keyid not in before.keyids:
            yield f"{after.name} gets key {_delegate(keyid, new, names)}"
    for keyid in before.keyids:
        if keyid not in after.keyids:
            yield f"{after.name} loses key {_delegate(keyid, old, names)}"
    had, needs = (f"{role.threshold} of {len(role.keyids)}" for role in (before, after))
    if had != needs:
        yield f"{after.name} needs {needs} keys (was {had})"
    if before.terminating != after.terminating:
        yield (
            f"{after.name}'s paths are asked of no later role any more"
            if after.terminating
            else f"{after.name}'s paths are asked of later roles again"
        )
    skip = frozenset({"name", "keyids", "threshold", "paths", "terminating"})
    yield from _fields(f"{after.name}'s ", before.to_dict(), after.to_dict(), skip=skip)


def _paths(role: DelegatedRole) -> str:
    return " ".join(patterns_of(role)) or "nothing by name"


def _delegate(keyid: str, of: Targets, names: Mapping[str, str]) -> str:
    keys = of.delegations.keys if of.delegations is not None else {}
    return _named(keyid, keys[keyid], {}, names) if keyid in keys else keyid[:_SHORT]
