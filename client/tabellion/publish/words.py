"""What a proposal changes, in words, for somebody who is about to sign it.

Whatever differs from what is trusted gives a line, also what these words have no special name
for: nothing is signed unsaid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from securesystemslib.signer import Key
from tuf.api.metadata import Root, Targets

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
        lines += [f"{role}: {line}" for line in found or ["nothing but version and expiry"]]
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


def awaited_in_words(
    standings: Sequence[Standing], *, names: Mapping[str, str]
) -> dict[str, list[str]]:
    """Give role to the keys, with their holders, that may still sign what lacks signatures.

    A key that counts for the old and for the new root comes first.
    """
    found: dict[str, Counter[str]] = {}
    for standing in standings:
        if standing.lacking:
            people = found.setdefault(standing.role, Counter())
            for keyid in standing.awaited:
                people[_named(keyid, standing.keys[keyid], standing.holders, names)] += 1
    return {role: [name for name, _ in people.most_common()] for role, people in found.items()}


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
    if old is not None:
        yield from _renamed(old, holders, old.keys.keys() & new.keys.keys())
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


def _renamed(
    old: Root | Targets | None, holders: Mapping[str, str], kept: Collection[str]
) -> Iterator[str]:
    """Name the keys that stay and are said to be somebody else's."""
    holders_before = holders_of(old)
    for keyid in sorted(kept):
        before, after = holders_before.get(keyid), holders.get(keyid)
        if before != after:
            was, now = before or "nobody", after or "nobody"
            yield f"key {keyid[:_SHORT]} is named {now}'s (was {was}'s)"


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
    """Say what differs between two payloads of a targets role, a line each.

    Args:
        old: What it was; None if it's the first.
        new: What it becomes.
        names: Fingerprint to name of keys that are known here.
    """
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
        skip = _ALWAYS | {"targets", "delegations", MEMBER}
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
    keys_before = old.delegations.keys if old is not None and old.delegations else {}
    keys_after = new.delegations.keys if new.delegations else {}
    holders = holders_of(new)
    roles_before = {role.name: role for role in delegated_roles(old)} if old is not None else {}
    roles_after = {role.name: role for role in delegated_roles(new)}
    for name in sorted(roles_before.keys() | roles_after.keys()):
        role = roles_after.get(name)
        if role is None:
            yield f"remove signer {name}"
        elif roles_before.get(name) != role:
            keys = " ".join(
                _named(keyid, keys_after[keyid], holders, names)
                if keyid in keys_after
                else keyid[:_SHORT]
                for keyid in role.keyids
            )
            paths = " ".join(patterns_of(role))
            yield f"let {name} sign {paths} with {role.threshold} of the keys {keys}"
    kept = [name for name in roles_before if name in roles_after]
    order = [name for name in roles_after if name in roles_before]
    if order != kept:
        yield f"ask signers in another order: {' '.join(order)}"
    yield from _renamed(old, holders, keys_before.keys() & keys_after.keys())
    for keyid in sorted(keys_before.keys() & keys_after.keys()):
        if keys_before[keyid] != keys_after[keyid]:
            yield f"key {keyid[:_SHORT]} itself is another one"
