"""The keys of hash bins, which by default are those of the targets role and follow them.

Spec: TAP 15.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from securesystemslib.signer import Key
from tuf.api.metadata import Delegations, Role, Root, SuccinctRoles, Targets

from tabellion.core.bins import bins_of
from tabellion.core.roles import material_of
from tabellion.errors import UsageError


@dataclass(frozen=True)
class BinKeys:
    """Who signs the bins.

    Attributes:
        keys: Their keys, as metadata lists them.
        threshold: How many of them each bin needs.
    """

    keys: tuple[Key, ...]
    threshold: int


def own_keys(targets: Targets, root: Root) -> list[Key]:
    """Give the keys of the bins that aren't keys of the targets role; none without bins."""
    bins = bins_of(targets)
    if bins is None or targets.delegations is None:
        return []
    top = _keys(root.keys, root.roles["targets"])
    held = _keys(targets.delegations.keys, bins)
    return [key for material, key in held.items() if material not in top]


def keys_after(targets: Targets, old: Root, new: Root) -> BinKeys | None:
    """Give the keys that bins get with other keys of the targets role; None if theirs stay.

    Bins that have just the keys of the targets role follow it in everything. Where they share some
    with it, those that it loses are replaced by those that it gains: whoever takes a key away
    means that nothing is signed by it any more.

    Args:
        targets: The file that delegates to the bins.
        old: The root in force.
        new: The root that comes.

    Raises:
        UsageError: They would have fewer keys than they need.
    """
    bins = bins_of(targets)
    if bins is None or targets.delegations is None:
        return None
    held = _keys(targets.delegations.keys, bins)
    before, after = (_keys(root.keys, root.roles["targets"]) for root in (old, new))
    if held.keys() == before.keys():
        keys, threshold = after, new.roles["targets"].threshold
    elif held.keys() & (before.keys() - after.keys()):
        kept = {each: key for each, key in held.items() if each not in before or each in after}
        gained = {each: key for each, key in after.items() if each not in before}
        keys, threshold = {**kept, **(gained or after)}, bins.threshold
    else:
        return None
    if keys.keys() == held.keys() and threshold == bins.threshold:
        return None
    if len(keys) < threshold:
        raise UsageError(
            f"the hash bins need {threshold} keys, {len(keys)} would be left",
            hint="give them other keys first: tabellion rebin --bins-key KEY",
        )
    return BinKeys(tuple(keys.values()), threshold)


def give_keys(targets: Targets, wanted: BinKeys) -> None:
    """Delegate to the same bins with other keys; each bin has to be signed by them then."""
    bins = bins_of(targets)
    if bins is None or targets.delegations is None:
        raise RuntimeError("there are no bins to give keys to")
    listed = {key.keyid: key for key in wanted.keys}
    targets.delegations = Delegations(
        listed,
        None,
        SuccinctRoles(
            list(listed),
            wanted.threshold,
            bins.bit_length,
            bins.name_prefix,
            bins.unrecognized_fields,
        ),
        targets.delegations.unrecognized_fields,
    )


def _keys(listed: Mapping[str, Key], entry: Role) -> dict[bytes, Key]:
    """Give a role's keys by what makes them that key: ids are only names."""
    return {material_of(listed[keyid]): listed[keyid] for keyid in entry.keyids if keyid in listed}
