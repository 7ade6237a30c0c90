"""Where a GUN goes on trusting the keys of a signer who has no say any more.

A key that was stolen is stolen in each of its roles, whatever id it has there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from securesystemslib.signer import Key
from tuf.api.metadata import Role

from tabellion.core.bins import is_bin
from tabellion.core.next_root import ROLES
from tabellion.core.notary_search import RELEASES
from tabellion.core.roles import key_material
from tabellion.publish.draft import Draft
from tabellion.publish.held_keys import HeldKeys
from tabellion.publish.state import Current


@dataclass(frozen=True)
class StillTrusted:
    """A role that a removed signer's key is a key of as well.

    Attributes:
        role: The role.
        keyid: The key's id there.
        is_alone: It's the role's only key.
    """

    role: str
    keyid: str
    is_alone: bool

    def remedy(self, gun: str) -> str:
        """Give the command that ends it, for a key that was stolen."""
        if self.role not in ROLES:
            return f"tabellion recover signer {gun} {self.role} --since DATE"
        if self.is_alone or self.role in {"snapshot", "timestamp"}:
            return f"tabellion rotate {gun} {self.role}"
        return (
            f"tabellion root prepare {gun} --remove-key {self.keyid[:16]} "
            f"--add-key {self.role}:NEW.pub"
        )


def still_trusted(before: Current, after: Draft, removed: Collection[str]) -> list[StillTrusted]:
    """List the roles that trust a key of the ``removed`` ones, and aren't among them.

    Notary's release isn't told: it has the keys of all signers, and loses one with its signer.

    Args:
        before: What the removed roles' keys are taken from.
        after: The roles as they are to be.
        removed: Roles without a say.
    """
    was = Draft(before, HeldKeys(frozenset(), {}))
    release = {RELEASES} if after.is_notary else set[str]()
    # A release that goes with its last signer may have the owner's key, which was never hers.
    own = {*removed} - release or {*removed}
    gone = {
        key_material(keys[keyid])
        for role in own
        if role in before.delegators
        for keys, entry in [was.keys_of(role)]
        for keyid in entry.keyids
    }
    passed_over = {*removed, *release}
    found: dict[str, StillTrusted] = {}
    for role, keys, entry in _roles(after):
        for keyid in entry.keyids if role not in passed_over else ():
            if key_material(keys[keyid]) in gone:
                found.setdefault(role, StillTrusted(role, keyid, len(entry.keyids) == 1))
    return list(found.values())


def _roles(draft: Draft) -> Iterator[tuple[str, Mapping[str, Key], Role]]:
    root = draft.current.root
    for role in ROLES:
        yield role, root.keys, root.roles[role]
    bins = draft.bins
    delegated = [child.name for _, child in draft.delegations()]
    for role in delegated:
        if not is_bin(bins, role):
            yield role, *draft.keys_of(role)
