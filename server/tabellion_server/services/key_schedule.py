"""Rotating the server's own keys on schedule.

Only a root names keys, so the server can't do it alone: it makes the new keys and keeps the root
that names them as a pending proposal, unsigned. The root's holders see it, and sign it or not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from securesystemslib.signer import Key
from tuf.api.metadata import Root

from tabellion.core.dialect import Dialect, dialect_named
from tabellion.core.next_root import RootEdit, next_root
from tabellion.core.publication import UploadedFile
from tabellion.errors import TabellionError
from tabellion_server.keys.online import ONLINE_ROLES, OnlineKeys
from tabellion_server.logs import log
from tabellion_server.services.files import MetadataFiles
from tabellion_server.services.pending import Pendings
from tabellion_server.services.signing import Clock
from tabellion_server.storage.interface import Head, Store
from tabellion_server.storage.walking import GunPages

BY: Final = "schedule"
_ROUND_SECONDS: Final = 3600.0
_PAUSE_SECONDS: Final = 1.0
_PATIENCE: Final = timedelta(days=28)  # between two proposals for one GUN, whatever became of them
_ROOT_LIFE: Final = timedelta(days=365)  # at least, from when it's proposed


class KeySchedule:
    """Proposes a root with new online keys for each GUN whose keys are old enough."""

    def __init__(
        self,
        store: Store,
        files: MetadataFiles,
        online: OnlineKeys,
        pendings: Pendings,
        *,
        clock: Clock,
        after: timedelta,
    ) -> None:
        self._store = store
        self._files = files
        self._online = online
        self._pendings = pendings
        self._clock = clock
        self._after = after

    async def run_forever(self) -> None:
        """Look at all GUNs about once an hour; runs until cancelled."""
        while True:
            try:
                await self.sweep()
            except TabellionError as error:
                log().error("rotation.failed", problem=error.message, hint=error.hint)
            except Exception:  # noqa: BLE001  (it must outlive any fault)
                log().exception("rotation.failed")
            await asyncio.sleep(_ROUND_SECONDS)

    async def sweep(self) -> int:
        """Propose what is due; give the number of proposals made."""
        made = 0
        async for page in GunPages(self._store):
            for head in page:
                try:
                    made += await self.propose(head)
                except TabellionError as error:
                    log().error(
                        "rotation.failed", gun=head.gun, problem=error.message, hint=error.hint
                    )
            await asyncio.sleep(_PAUSE_SECONDS)
        return made

    async def propose(self, head: Head) -> bool:
        """Propose a root with new keys if this GUN's are due; tell whether it was.

        Raises:
            StorageError: The store failed.
            RefusedPublicationError: The GUN has too many proposals pending.
        """
        now, dialect = self._clock(), dialect_named(head.dialect)
        file = (await self._files.current_set(head, {"root"})).files.get("root")
        if file is None or not await self._is_due(head, file.signed, now):
            return False
        if await self._was_proposed(head, now):
            return False
        found = await self._new_keys(head, file.signed, dialect)
        if not found:
            return False
        keys = {role: key for role, (key, _) in found.items()}
        since = max(made_at for _, made_at in found.values())
        data = await asyncio.to_thread(_proposal, file.signed, keys, dialect, since, now)
        offered = await self._pendings.offer(head.gun, [UploadedFile("root", data)], by=BY)
        if offered.state != "opened":
            return False  # another node came first, with the same
        log().warning(
            "rotation.proposed",
            gun=head.gun,
            proposal=offered.id,
            roles=sorted(keys),
            hint=f"the root's holders run: tabellion cosign {head.gun}",
        )
        return True

    async def _is_due(self, head: Head, root: Root, now: datetime) -> bool:
        """Tell whether a key that the root names and the server holds is old enough."""
        for role in ONLINE_ROLES:
            listed = root.roles[role].keyids
            ages = [
                now - row.created_at
                for row in await self._store.online_keys(head.gun, role)
                if row.keyid in listed
            ]
            if ages and min(ages) >= self._after:
                return True
        return False

    async def _was_proposed(self, head: Head, now: datetime) -> bool:
        """Tell whether a root is pending, or one was proposed not long ago."""
        if any("root" in row.versions for row in await self._store.pending(head.gun)):
            return True
        told = await self._store.audit(head.gun, limit=100)
        return any(
            entry.by == BY and entry.action == "opened" and now - entry.at < _PATIENCE
            for entry in told
        )

    async def _new_keys(
        self, head: Head, root: Root, dialect: Dialect
    ) -> dict[str, tuple[Key, datetime]]:
        """Give a key that the root doesn't name, and its age, for each role the server signs."""
        found: dict[str, tuple[Key, datetime]] = {}
        for role in sorted(ONLINE_ROLES):
            listed = root.roles[role].keyids
            held = await self._online.public_keys(head.gun, role, dialect)
            if not any(key.keyid in listed for key in held):
                continue  # the publisher's, or another server's
            made = await self._online.successor(head.gun, role, dialect, of=listed)
            if made is not None:  # one that lives elsewhere may not be rotated there yet
                found[role] = made
        return found


def _proposal(
    old: Root, keys: Mapping[str, Key], dialect: Dialect, since: datetime, now: datetime
) -> bytes:
    """Write the next root, signed by nobody: the same bytes whichever node writes it.

    So its life is counted from when its keys were made, in whole times of patience: what comes
    after one that was withdrawn has other bytes.
    """
    edit = RootEdit(keys={role: [key] for role, key in keys.items()})
    root = next_root(old, edit, dialect)
    passed = max(0, (now - since) // _PATIENCE) + 1
    soonest = since.replace(microsecond=0) + _ROOT_LIFE + passed * _PATIENCE
    root.expires = max(root.expires.replace(tzinfo=UTC), soonest)
    return dialect.sign(root, [])
