"""Which keys roles have after a rotation: those that are here are replaced, other holders' stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from securesystemslib.signer import Key
from tuf.api.metadata import Root

from tabellion.core.holders import holders_of
from tabellion.core.next_root import RootEdit
from tabellion.errors import UsageError
from tabellion.publish.held_keys import HeldKeys


@dataclass(frozen=True)
class Replaced:
    """What of a role's keys goes.

    Attributes:
        stay: Keys of other holders.
        count: How many new keys it takes.
        holder: Whose keys go, as the root says; empty if it doesn't, or they're of several.
        is_held: A key of it is here.
    """

    stay: tuple[Key, ...]
    count: int
    holder: str
    is_held: bool


def replaced(root: Root, gun: str, role: str, held: HeldKeys, *, is_online: bool) -> Replaced:
    """Tell which keys of a role go.

    Those that are here; a single one also if it's lost. One that the server makes is the only one.

    Raises:
        UsageError: Several holders have keys, and none of them is here.
    """
    entry = root.roles[role]
    ours = held.among(root.keys, entry.keyids)
    if not ours and not is_online and len(entry.keyids) > 1:
        raise UsageError(
            f"none of the {len(entry.keyids)} keys of {role} is here, so it isn't plain whose goes",
            hint=f"name it: tabellion root prepare {gun} --role {role} --remove-key ID "
            "--add-key FILE",
        )
    stay = () if is_online or not ours else [k for k in entry.keyids if k not in ours]
    names = {holders_of(root).get(keyid, "") for keyid in ours}
    return Replaced(
        tuple(root.keys[keyid] for keyid in stay),
        max(entry.threshold - len(stay), 1),
        names.pop() if len(names) == 1 else "",
        bool(ours),
    )


def rotation_edit(
    root: Root, plan: Mapping[str, Replaced], made: Mapping[str, Sequence[Key]]
) -> RootEdit:
    """Give the edit that puts new keys in the place of those that go.

    Raises:
        UsageError: A role would have the keys that it has already.
    """
    keys = {role: [*item.stay, *made[role]] for role, item in plan.items()}
    for role, listed in keys.items():
        if {key.keyid for key in listed} == set(root.roles[role].keyids):
            raise UsageError(
                f"those are the keys that {role} has already", hint="give another --key"
            )
    holders = {
        key.keyid: item.holder for role, item in plan.items() if item.holder for key in made[role]
    }
    return RootEdit(keys=keys, holders=holders)
