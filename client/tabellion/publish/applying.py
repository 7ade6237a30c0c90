"""Changes of targets roles, applied to what is current: published, staged, or only tried."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial as partial_of

from tabellion.core.expiry import End
from tabellion.core.names import Gun, parse_gun
from tabellion.errors import UnreachableError, UsageError
from tabellion.publish.afterwards import look_back
from tabellion.publish.changes import Change, Staged, Witness
from tabellion.publish.delivery import Delivery
from tabellion.publish.draft import Draft
from tabellion.publish.edits import apply
from tabellion.publish.notary_edits import spoken_of
from tabellion.publish.outcome import Published
from tabellion.publish.proposals import Proposals
from tabellion.publish.signing import Built, build, judge, no_key
from tabellion.publish.spreading import bins_changed
from tabellion.publish.state import Current
from tabellion.publish.still_trusted import still_trusted
from tabellion.publish.tools import Tools


class Applier:
    """Applies changes to GUNs of one server with the keys of one home folder.

    Attributes:
        staged: The changes that wait for ``publish_staged``.
    """

    def __init__(self, tools: Tools, proposals: Proposals) -> None:
        self.staged = Staged(tools.home)
        self._tools = tools
        self._proposals = proposals

    async def take(self, gun: str, change: Change, *, publish: bool) -> Published:
        """Publish a change, or stage it."""
        name = parse_gun(gun)
        if publish:
            return await self.publish(name, [change], again=False)
        return await self._stage(name, change)

    async def publish(
        self,
        gun: Gun,
        changes: Sequence[Change],
        *,
        again: bool,
        check: Callable[[Draft], None] | None = None,
    ) -> Published:
        """Publish changes in one publication, on whatever is current then.

        Args:
            gun: The GUN.
            changes: Applied in order.
            again: They may be published already: what is gone is fine.
            check: Raises where the changed payloads aren't as the caller saw them.
        """
        delivery = Delivery(self._tools.api, gun, home=self._tools.home)
        drafts: list[Draft] = []

        async def build(is_retry: bool) -> Built:  # noqa: FBT001  (Delivery's word)
            draft, built = await self._build(gun, changes, again=again or is_retry, check=check)
            drafts.append(draft)
            return built

        async with self._tools.locks[gun]:
            built = await delivery.bring(build)
            draft = drafts[-1]
            if again and not built.files and "targets" in draft.current.roles:
                # A run that was cut off published it, perhaps without an answer.
                await delivery.have_acknowledged(draft.current.roles["targets"])
        return replace(
            await self._proposals.keep(gun, built, delivery.attempts),
            signed_as=draft.signed_as,
            withdrawn=draft.withdrawn,
            shadowed=draft.shadowed(),
            gone_too=draft.gone_too,
            ending=await self.look_back(draft.current, built),
            lost=draft.lost(),
            still_trusted=still_trusted(draft.current, draft, draft.removed),
            silent=built.silent,
        )

    async def publish_staged(self, gun: Gun) -> Published:
        """Publish what is staged; it stays staged if that fails.

        Raises:
            UsageError: Nothing is staged.
        """
        changes = await asyncio.to_thread(self.staged.read, gun)
        if not changes:
            raise UsageError(
                f"nothing is staged for {gun}", hint="stage with: tabellion sign --no-publish"
            )
        # What was staged was fit then; what is done already was published by a run cut off.
        published = await self.publish(gun, changes, again=True)
        await asyncio.to_thread(self.staged.drop, gun, changes)
        return published

    async def witness(self, gun: Gun, roles: Sequence[str], *, publish: bool) -> Published:
        """Sign targets roles anew as they are, in one publication.

        Raises:
            UsageError: A role isn't a targets role, or has published nothing.
        """
        check_witnesses(roles, publish=publish)
        changes = [Witness(role) for role in roles]
        if publish:
            return await self.publish(gun, changes, again=False)
        for change in changes[:-1]:
            await self._stage(gun, change)
        return await self._stage(gun, changes[-1])

    async def would_change(self, gun: Gun, change: Change) -> bool:
        """Tell whether a change makes a difference; raises as publishing it would."""
        current = await self._read(gun, [change])
        return bool((await self._try(current, [], change, again=True)).changed())

    async def look_back(self, current: Current, built: Built) -> End | None:
        """Note the use of keys, and give what ends soon and waits for people."""
        return await asyncio.to_thread(
            look_back, current, built, self._tools.ring, now=self._tools.clock()
        )

    async def _stage(self, gun: Gun, change: Change) -> Published:
        """Keep a change that fits what is current with what is staged; away, keep any."""
        try:
            staged = await asyncio.to_thread(self.staged.read, gun)
            chosen = partial_of(bins_changed, [*staged, change])
            current = await self._tools.reader.read(gun, bins=chosen)
        except UnreachableError:
            outcome = Published(gun, {}, is_staged=True, is_checked=False)
        else:
            draft = await self._try(current, staged, change)
            outcome = Published(
                gun,
                {},
                signed_as=draft.signed_as,
                withdrawn=draft.withdrawn,
                shadowed=draft.shadowed(),
                gone_too=draft.gone_too,
                lost=draft.lost(),
                still_trusted=still_trusted(current, draft, draft.removed),
                is_staged=True,
            )
        await asyncio.to_thread(self.staged.add, gun, [change])
        return outcome

    async def _try(
        self, current: Current, before: Sequence[Change], change: Change, *, again: bool = False
    ) -> Draft:
        """Apply a change after others; all of them have to fit, and keys for them to be here."""
        draft = Draft(current, await asyncio.to_thread(self._tools.ring.held))
        apply(draft, before, again=True)
        draft.signed_as.clear()
        draft.withdrawn.clear()
        draft.removed.clear()
        draft.repathed.clear()
        draft.gone_too.clear()
        apply(draft, [change], again=again)
        for role in draft.changed():
            if not draft.may_sign(role):
                raise no_key(current.gun, role, draft.keys_of(role)[1])
        return draft

    async def _read(self, gun: Gun, changes: Sequence[Change]) -> Current:
        """Read what changes are built on, with the hash bins and roles they speak of."""
        revives = [change.role for change in changes if isinstance(change, Witness)]
        chosen = partial_of(bins_changed, changes)
        current = await self._tools.reader.read(gun, revives=revives, bins=chosen)
        return await self._tools.reader.with_left(current, spoken_of(changes).union(revives))

    async def _build(
        self,
        gun: Gun,
        changes: Sequence[Change],
        *,
        again: bool,
        check: Callable[[Draft], None] | None = None,
    ) -> tuple[Draft, Built]:
        current = await self._read(gun, changes)
        draft = Draft(current, await asyncio.to_thread(self._tools.ring.held))
        apply(draft, changes, again=again)
        if check is not None:
            check(draft)
        now = self._tools.clock()
        expiries = self._tools.expiries_of(current.trusted.dialect)
        built = await asyncio.to_thread(build, draft, self._tools.ring, expiries=expiries, now=now)
        if built.files and not built.missing:
            await asyncio.to_thread(judge, current, built.files, now=now)
        return draft, built


def check_witnesses(roles: Sequence[str], *, publish: bool) -> None:
    """Refuse roles that publishers can't sign anew together.

    Raises:
        UsageError: They aren't ``root`` alone or targets roles, or a root was to be staged.
    """
    online = {"snapshot", "timestamp"}.intersection(roles)
    if not roles or online or ("root" in roles and (len(roles) > 1 or not publish)):
        raise UsageError(
            f"{' '.join(roles)[:80] or 'nothing'} can't be witnessed",
            hint="name root alone, or targets roles; the server renews snapshot and timestamp",
        )
