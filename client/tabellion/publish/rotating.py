"""Rotation: other keys for top-level roles, and for what depends on them, in one publication."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from securesystemslib.signer import Key

from tabellion.core.bin_keys import own_keys
from tabellion.core.dialect import NOTARY
from tabellion.core.names import Gun
from tabellion.core.next_root import ONLINE, ROLES, RootEdit
from tabellion.errors import UsageError
from tabellion.publish.delivery import Delivery
from tabellion.publish.key_notes import KeyInfo
from tabellion.publish.named_keys import NamedKey
from tabellion.publish.replacing import Replaced, replaced, rotation_edit
from tabellion.publish.root_edits import edit_root
from tabellion.publish.signing import Built
from tabellion.publish.state import Current
from tabellion.publish.tools import Tools


@dataclass(frozen=True)
class Rotation:
    """What shall get other keys.

    Attributes:
        roles: Of ``root``, ``targets``, ``snapshot`` and ``timestamp``.
        keys: Ids or names of the new keys of a single role in the key store; they are made if none
            is given.
        online: The roles whose new keys the server makes.
    """

    roles: Sequence[str]
    keys: Sequence[str]
    online: frozenset[str]

    @classmethod
    def of(cls, roles: Sequence[str], *, keys: Sequence[str], server: bool) -> Rotation:
        """Check what is asked for.

        Raises:
            UsageError: Roles, keys and holder don't go together.
        """
        wrong = [role for role in roles if role not in ROLES or (server and role not in ONLINE)]
        if wrong and wrong[0] in ROLES:
            raise UsageError(
                f"the server can't hold the key of {wrong[0]}",
                hint="it holds those of snapshot and timestamp; rotate the others by themselves",
            )
        if wrong or not roles or len(set(roles)) != len(roles):
            said = (
                f"{wrong[0][:40]!r} isn't a top-level role" if wrong else "each role is named once"
            )
            raise UsageError(said, hint=f"they are {', '.join(ROLES)}")
        online = frozenset(role for role in roles if role == "timestamp" or server)
        if keys and (online or len(roles) > 1):
            said = (
                f"the {min(online)} key is the server's to make" if online else "keys are for one"
            )
            raise UsageError(said, hint="leave --key or --server-managed out, or rotate one role")
        return cls(roles, keys, online)


@dataclass(frozen=True)
class Rotated:
    """What became of it.

    Attributes:
        built: What was published, or is incomplete.
        attempts: How often it was built.
        current: What it was built on.
        own_bins: Number of hash bins that keep keys of their own though targets got others.
        made: Keys that were generated for it.
        stay: Role to the ids of keys of other holders, which it keeps.
    """

    built: Built
    attempts: int
    current: Current
    own_bins: int
    made: Sequence[KeyInfo] = ()
    stay: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Rotator:
    """Rotates keys of GUNs of one server with the keys of one home folder.

    Keys that were made stay if a rotation fails: they can be named then.
    """

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def rotate(self, gun: Gun, rotation: Rotation) -> Rotated:
        """Give roles other keys in one root, with all that has to be signed anew for it.

        Keys of other holders stay. Hash bins that have keys which the targets role loses get its
        new ones. Does it give both of the server's roles other keys, versions seen here before
        don't count.

        Raises:
            UsageError: The server holds no keys of that role, it has those keys already, or
                several others hold its keys.
            KeyStoreError: No root key is here, nor one of the roles.
        """
        delivery = Delivery(self._tools.api, gun, home=self._tools.home)
        made: dict[str, list[Key]] = {}
        generated: list[KeyInfo] = []
        plan: dict[str, Replaced] = {}
        states: list[Current] = []

        async def edit(current: Current) -> RootEdit:
            held = await asyncio.to_thread(self._tools.ring.held)
            for role in rotation.roles:
                is_online = role in rotation.online
                plan[role] = replaced(current.root, gun, role, held, is_online=is_online)
            await self._make(current, rotation, plan, made, generated)
            return rotation_edit(current.root, plan, made)

        async def build(_: bool) -> Built:  # noqa: FBT001  (Delivery's word)
            # Who holds a key of a role may ask the root's holders for another.
            current, built = await edit_root(
                self._tools,
                gun,
                edit,
                renews=rotation.roles,
                forgets=ONLINE.issubset(rotation.roles),
                may_be_unsigned=lambda: any(item.is_held for item in plan.values()),
            )
            states.append(current)
            return built

        built = await delivery.bring(build)
        stay = {role: [key.keyid for key in item.stay] for role, item in plan.items() if item.stay}
        own_bins = _own_bins(states[-1], rotation)
        return Rotated(built, delivery.attempts, states[-1], own_bins, generated, stay)

    async def _make(
        self,
        current: Current,
        rotation: Rotation,
        plan: Mapping[str, Replaced],
        made: dict[str, list[Key]],
        generated: list[KeyInfo],
    ) -> None:
        """Add to ``made`` what it lacks, and to ``generated`` the keys that are new for it."""
        gun, dialect = current.gun, current.trusted.dialect
        for role in rotation.roles:
            if role in made:
                continue
            if role in rotation.online:
                made[role] = [await self._tools.api.rotate_online_key(gun, role, dialect)]
            else:
                found = await asyncio.to_thread(
                    self._found, current, role, rotation.keys, count=plan[role].count
                )
                if not rotation.keys:
                    generated += [key.info for key in found if key.info is not None]
                made[role] = await asyncio.to_thread(self._listed, current, role, found)

    def _found(
        self, current: Current, role: str, named: Sequence[str], *, count: int
    ) -> list[NamedKey]:
        """Give a role's new keys, made if none is named."""
        ring = self._tools.ring
        found = [NamedKey.read(text, ring.keystore) for text in named]
        for _ in range(0 if named else count):
            passphrase = ring.passphrases.new(role)
            info = ring.keystore.generate(
                role,
                passphrase=passphrase,
                keytype="ecdsa" if current.trusted.dialect is NOTARY else "ed25519",
                gun=None if role == "root" else current.gun,
            )
            ring.passphrases.remember(info.keyid, passphrase)
            found.append(NamedKey(info.key, info))
        return found

    def _listed(self, current: Current, role: str, found: Sequence[NamedKey]) -> list[Key]:
        """Give keys as metadata will list them."""
        dialect, gun, now = current.trusted.dialect, current.gun, self._tools.clock()
        return [key.listed(role, dialect, self._tools.ring, gun, now=now) for key in found]


def _own_bins(before: Current, rotation: Rotation) -> int:
    """Count the hash bins that no key was rotated of."""
    bins, targets = before.bins, before.roles["targets"].signed
    if bins is None or "targets" not in rotation.roles:
        return 0
    return bins.number_of_bins if len(own_keys(targets, before.root)) == len(bins.keyids) else 0
