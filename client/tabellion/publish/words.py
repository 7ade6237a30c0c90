"""What a proposal changes, in words, for somebody who is about to sign it.

Whatever differs from what is trusted gives a line, also what these words have no special name
for: nothing is signed unsaid. The author of a proposal may be an enemy: key ids are only said where
they are the key's own, and no name of his makes a line of its own or reads like our words.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Root, Signed, TargetFile, Targets

from tabellion.core.anchors import MEMBER as ANCHOR
from tabellion.core.bins import bins_of
from tabellion.core.fingerprints import fingerprints
from tabellion.core.holders import MEMBER, holders_of
from tabellion.core.names import Digest
from tabellion.core.notary_delegations import patterns_of
from tabellion.core.notary_writing import WRITTEN_TEXT
from tabellion.core.proposal import Proposal, Standing
from tabellion.core.publication import CurrentSet
from tabellion.core.roles import delegated_roles
from tabellion.core.strict_json import canonical
from tabellion.errors import TabellionError
from tabellion.publish.public_keys import fingerprint_of

_SHORT: Final = 16
_WHOLE: Final = 64  # of a new key: who compares it with what its holder says compares all of it
_ALWAYS: Final = frozenset({"_type", "version", "expires", WRITTEN_TEXT})
_SPOKEN_OF: Final = _ALWAYS | {"keys", "roles", MEMBER}
_MAX_VALUE: Final = 1000
_PLAIN = re.compile(r"[^\s'\"]+")
_PERSON = re.compile(r"[\w.@+'-]+(?: [\w.@+'-]+)*")


def changes_in_words(
    proposal: Proposal, current: CurrentSet | None, *, names: Mapping[str, str]
) -> list[str]:
    """Say what the files change, a line each; what a root changes last, where eyes rest.

    Args:
        proposal: What is to be signed.
        current: What it's built on, or as much of it as is known; None if it founds the GUN.
        names: Fingerprint to name of keys that are known here.
    """
    held = current.files if current is not None else {}
    lines: list[str] = []
    for role, item in sorted(proposal.files.items(), key=lambda each: each[0] == "root"):
        before = held[role].signed if role in held else None
        if isinstance(item.signed, Root):
            found = list(_root(before, item.signed, names))
        else:
            ends = _version_and_expiry(before, item.signed)
            found = list(targets_in_words(before, item.signed, names=names))
            nothing = "nothing but" if before is not None else "its first file, empty:"
            found = [*found, ends] if found else [f"{nothing} {ends}"]
        lines += [f"{_word(role)}: {line}" for line in found]
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


def _named(
    keyid: str,
    key: Key | None,
    holders: Mapping[str, str],
    names: Mapping[str, str],
    *,
    digits: int = _SHORT,
) -> str:
    """Write a key with its holder, as the file says and as the note of a key here does.

    Whoever writes a file chooses its key ids and names: an id that isn't the key's own would show
    somebody else's key in its place.
    """
    if key is None:
        return f"{_word(keyid[:_SHORT])}, which the file doesn't hold"
    try:
        prints, own = fingerprints(key) | {_bare_id(key)}, fingerprint_of(key)
    except TabellionError:
        return f"{_word(keyid[:_SHORT])}, which can't be read"
    shown = keyid[:digits]
    if keyid not in prints:
        shown = f"{own[:digits]}, which calls itself {_word(keyid[:_SHORT])},"
    said, known = _person(holders.get(keyid, "")), _person(names.get(own, ""))
    if said and known and said.casefold() != known.casefold():
        return f"{shown} ({said}; here it's {known})"
    return f"{shown} ({said or known})" if said or known else shown


def _person(name: str) -> str:
    return name if not name or _PERSON.fullmatch(name) else _value(name)


def _bare_id(key: Key) -> str:
    """Give the id over type, scheme and value alone: some write it of a key with more in it."""
    bare = {"keytype": key.keytype, "scheme": key.scheme, "keyval": key.keyval}
    return Digest.of(canonical(bare)).hex


def _root(old: Root | None, new: Root, names: Mapping[str, str]) -> Iterator[str]:
    if old is None:
        yield "founds the GUN: nothing of it is trusted yet"
    yield _version_and_expiry(old, new)
    holders_before = holders_of(old) if old is not None else {}
    holders = holders_of(new)
    for role in sorted({*new.roles, *(old.roles if old is not None else ())}):
        yield from _root_role(role, old, new, {**holders_before, **holders}, names)
    for keyid in sorted(holders.keys() | holders_before.keys()):
        before, after = holders_before.get(keyid), holders.get(keyid)
        if old is not None and before != after and keyid in new.keys and keyid in old.keys:
            was, now = (_person(name or "nobody") for name in (before, after))
            yield f"key {_word(keyid[:_SHORT])} is named {now}'s (was {was}'s)"
    if old is not None:
        yield from _unspoken(old, new)


def _version_and_expiry(old: Signed | None, new: Signed) -> str:
    was = f" (was {old.expires:%Y-%m-%d})" if old is not None else ""
    return f"version {new.version}, expires {new.expires:%Y-%m-%d}{was}"


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
    had = _present(before.keyids, old.keys) if before is not None and old is not None else []
    has = _present(after.keyids, new.keys)
    for keyid in has:
        if keyid not in had:
            named = _named(keyid, new.keys[keyid], holders, names, digits=_WHOLE)
            yield f"{role} gets key {named}"
    for keyid in had:
        if keyid not in has and old is not None:
            yield f"{role} loses key {_named(keyid, old.keys[keyid], holders, names)}"
    needs = f"{after.threshold} of {len(has)} keys"
    needed = f"{before.threshold} of {len(had)}" if before is not None else ""
    if before is None:
        yield f"{role} needs {needs}"
    elif not needs.startswith(f"{needed} "):
        yield f"{role} needs {needs} (was {needed})"


def _present(keyids: Sequence[str], keys: Mapping[str, Key]) -> list[str]:
    """Leave out keys that a role names and its file doesn't hold: they never sign."""
    return [keyid for keyid in keyids if keyid in keys]


def _unspoken(old: Root, new: Root) -> Iterator[str]:
    """Name every other difference."""
    before, after = old.to_dict(), new.to_dict()
    yield from _fields("", before, after, skip=_SPOKEN_OF)
    for keyid in sorted(before["keys"].keys() & after["keys"].keys()):
        if before["keys"][keyid] != after["keys"][keyid]:
            yield f"key {_word(keyid[:_SHORT])} itself is another one"
    for role in sorted(before["roles"].keys() & after["roles"].keys()):
        skip = frozenset({"keyids", "threshold"})
        yield from _fields(f"{role}'s ", before["roles"][role], after["roles"][role], skip=skip)


def _fields(
    of: str, before: Mapping[str, Any], after: Mapping[str, Any], *, skip: frozenset[str]
) -> Iterator[str]:
    for name in sorted((before.keys() | after.keys()) - skip):
        if before.get(name) != after.get(name):
            was, now = (_value(side.get(name)) for side in (before, after))
            yield f"{of}{_word(name)} becomes {now} (was {was})"


def _word(name: str) -> str:
    """Write a name from outside: one with spaces in it could read like more of our words."""
    return name if _PLAIN.fullmatch(name) and name.isprintable() else _value(name)


def _value(value: object) -> str:
    """Write a value on one line; what is left out is said."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    text = "".join(char if char.isprintable() else "?" for char in text)
    if len(text) <= _MAX_VALUE:
        return text
    return f"{text[:_MAX_VALUE]}... of {len(text)} characters, see the file"


def targets_in_words(
    old: Targets | None, new: Targets, *, names: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Say what differs between two payloads of a targets role, a line each.

    Args:
        old: What is trusted; None if the role begins.
        new: What is to be signed.
        names: Fingerprint to name of keys that are known here.
    """
    before, after = (old.targets if old is not None else {}), new.targets
    for path in sorted(before.keys() | after.keys()):
        if path not in after:
            yield f"revoke {_word(path)}"
        elif path not in before:
            yield f"sign {_word(path)} {_target(after[path])}"
        elif before[path] != after[path]:
            yield f"sign {_word(path)} {_target(after[path])} (was {_target(before[path])})"
    yield from _delegations(old, new, names or {})
    yield from _bins(old, new, names or {})
    skip = _ALWAYS | {"targets", "delegations"}
    if old is not None:
        yield from _fields("", old.to_dict(), new.to_dict(), skip=skip)
    else:
        yield from _fields("", {}, new.to_dict(), skip=skip | {"spec_version", MEMBER})


def _target(target: TargetFile) -> str:
    """Say all that is signed of a target. An anchor's content is all that counts of it."""
    digests = " ".join(f"{_word(k)}:{_word(v)}" for k, v in sorted(target.hashes.items()))
    said = f"{digests} of {target.length} bytes"
    more = target.unrecognized_fields
    if more.keys() == {"custom"} and isinstance(more["custom"], dict):
        anchor = more["custom"].get(ANCHOR)
        more = more["custom"]
        if more.keys() == {ANCHOR}:
            return f"{said}, the anchor {_value(anchor)}"
    return f"{said} with {_value(more)}" if more else said


def _bins(old: Targets | None, new: Targets, names: Mapping[str, str]) -> Iterator[str]:
    before, after = bins_of(old), bins_of(new)
    if before == after:
        return
    if after is None:
        yield "spread targets over no bins any more"
        return
    yield (
        f"spread targets over {after.number_of_bins} bins {_word(after.name_prefix)}-..., each "
        f"signed with {after.threshold} of the keys {_keys(new, after.keyids, names)}"
        f"{_more(after.unrecognized_fields)}"
    )


def _keys(file: Targets, keyids: Sequence[str], names: Mapping[str, str]) -> str:
    keys = file.delegations.keys if file.delegations is not None else {}
    holders = holders_of(file)
    return " ".join(
        _named(keyid, keys.get(keyid), holders, names, digits=_WHOLE) for keyid in keyids
    )


def _more(fields: Mapping[str, Any]) -> str:
    return f", with {_value(dict(fields))}" if fields else ""


def _in_force(file: Targets, role: DelegatedRole) -> tuple[DelegatedRole, list[str]]:
    """Give a delegation and which of its keys its file holds."""
    keys = file.delegations.keys if file.delegations is not None else {}
    return role, _present(role.keyids, keys)


def _delegations(old: Targets | None, new: Targets, names: Mapping[str, str]) -> Iterator[str]:
    roles_before = {role.name: role for role in delegated_roles(old)} if old is not None else {}
    roles_after = {role.name: role for role in delegated_roles(new)}
    for name in sorted(roles_before.keys() | roles_after.keys()):
        role = roles_after.get(name)
        was = roles_before.get(name)
        if role is None:
            yield f"remove signer {_word(name)}"
        elif was is None or old is None or _in_force(old, was) != _in_force(new, role):
            yield (
                f"let {_word(name)} sign {_patterns(role)} with {role.threshold} of the keys "
                f"{_keys(new, role.keyids, names)}{_more(role.unrecognized_fields)}"
            )
            if was is not None and old is not None:
                yield from _signer_before(old, was, role, names)
            if role.terminating:
                yield f"ask nobody after {_word(name)} for what {_word(name)} may sign"
            elif was is not None and was.terminating:
                yield f"ask others after {_word(name)}, too"
    kept = [name for name in roles_before if name in roles_after]
    order = [name for name in roles_after if name in roles_before]
    if order != kept:
        yield f"ask signers in another order: {' '.join(map(_word, order))}"
    yield from _before_others(list(roles_after), kept)
    keys_before = old.delegations.keys if old is not None and old.delegations else {}
    keys_after = new.delegations.keys if new.delegations else {}
    for keyid in sorted(keys_before.keys() & keys_after.keys()):
        if keys_before[keyid] != keys_after[keyid]:
            yield f"key {_word(keyid[:_SHORT])} itself is another one"


def _signer_before(
    old: Targets, was: DelegatedRole, role: DelegatedRole, names: Mapping[str, str]
) -> Iterator[str]:
    """Say what a signer may no longer do so, and which keys leave."""
    before, after = (
        (sorted(each.paths or ()), sorted(each.path_hash_prefixes or ()), each.threshold)
        for each in (was, role)
    )
    if before != after:
        yield (
            f"so far {_word(role.name)} signs {_patterns(was)} with {was.threshold} of "
            f"{len(was.keyids)} keys"
        )
    gone = [keyid for keyid in was.keyids if keyid not in role.keyids]
    if gone:
        yield f"{_word(role.name)} loses keys {_keys(old, gone, names)}"


def _patterns(role: DelegatedRole) -> str:
    prefixes = [f"hash:{prefix}" for prefix in role.path_hash_prefixes or ()]
    return " ".join(_word(path) for path in [*patterns_of(role), *prefixes])


def _before_others(order: Sequence[str], kept: Sequence[str]) -> Iterator[str]:
    """Say which new signers go before older ones: the first that signed a path is believed."""
    for at, name in enumerate(order):
        later = next((other for other in order[at:] if other in kept), None)
        if name not in kept and later is not None:
            yield f"ask {_word(name)} before {_word(later)}"
