"""Proposals on their way: made here, kept by the server or in a file, signed by one after another.

A file is passed from hand to hand, also to machines without a network; the server keeps the same
thing for those who reach it. Either way the signatures decide, not where they were collected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial as partial_of
from pathlib import Path
from typing import cast

from tuf.api.metadata import Root

from tabellion.core.dialect import dialect_of
from tabellion.core.limits import Limits
from tabellion.core.names import Gun, parse_gun
from tabellion.core.next_root import ONLINE, RootEdit
from tabellion.core.proposal import Proposal, Standing, missing_of
from tabellion.core.publication import UploadedFile
from tabellion.core.succession import online_roles_changed
from tabellion.core.transitions import dialect_of_upload
from tabellion.errors import (
    NotFoundError,
    PublicationError,
    RefusedPublicationError,
    ServerAnswerError,
    TransportError,
    UntrustedRootError,
    UsageError,
    VerificationError,
)
from tabellion.publish import partial
from tabellion.publish.base_files import base_of, roots_of
from tabellion.publish.cosigning import add_signatures, complete, sign_proposal
from tabellion.publish.delivery import Delivery
from tabellion.publish.edit_requests import EditRequest
from tabellion.publish.examining import Examined, Show, chosen, examined, worded
from tabellion.publish.outcome import Published
from tabellion.publish.pending_api import AuditRecord, PendingApi, PendingInfo
from tabellion.publish.public_keys import root_fingerprints
from tabellion.publish.root_edits import edit_root
from tabellion.publish.signing import Built
from tabellion.publish.spreading import bins_uploaded
from tabellion.publish.state import RENEWED_BY_ROOT, Current
from tabellion.publish.tools import Tools
from tabellion.publish.words import awaited_in_words
from tabellion.verify.cache import MetadataCache


class Proposals:
    """Makes, signs and publishes proposals of GUNs of one server."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._pending = PendingApi(tools.api)

    async def prepare_root(
        self,
        gun: str,
        *,
        added: Mapping[str, Sequence[str]] | None = None,
        removed: Sequence[str] = (),
        thresholds: Mapping[str, int] | None = None,
        life: timedelta | None = None,
        out: Path | None = None,
        show: Show | None = None,
    ) -> Published:
        """Make the next root, signed by the keys here; publish it if that's enough.

        Args:
            gun: The GUN.
            added: Role to keys it gets, as ``NamedKey`` reads them.
            removed: Ids, or beginnings of ids, of keys that no role has any more.
            thresholds: Role to threshold.
            life: How long it lasts; None for as long as is usual.
            out: Write it there instead, and tell no server.
            show: Told in words what it changes, before it's published or kept; raises to refuse.

        Raises:
            UsageError: A role would have fewer keys than its threshold.
            KeyStoreError: A key that was named can't be used.
        """
        name = parse_gun(gun)

        wanted = EditRequest(added or {}, removed, thresholds or {}, life)

        async def edit(current: Current) -> RootEdit:
            now = self._tools.clock()
            return await asyncio.to_thread(wanted.resolve, current, self._tools.ring, now=now)

        async def build(is_retry: bool) -> Built:  # noqa: FBT001  (Delivery's word)
            current, built = await edit_root(
                self._tools, name, edit, renews=RENEWED_BY_ROOT, may_be_unsigned=lambda: True
            )
            if show is not None and not is_retry:
                show(await asyncio.to_thread(self._worded, current, built.files))
            return built

        async with self._tools.locks[name]:
            if out is not None:
                return await self._write(name, await build(False), out)  # noqa: FBT003  (as above)
            delivery = Delivery(self._tools.api, name, home=self._tools.home)
            built = await delivery.bring(build)
        return await self.keep(name, built, delivery.attempts)

    async def keep(self, gun: Gun, built: Built, attempts: int) -> Published:
        """Tell what was published; keep what is incomplete in a file, and at the server."""
        if not built.missing:
            outdated = await self._others(gun, built.versions, are_stale=True)
            return Published(gun, built.versions, attempts, outdated=outdated)
        path = partial.path_for(self._tools.home, gun, built.versions, built.files)
        await self._write_file(path, gun, built.files, built.base)
        awaited = await asyncio.to_thread(self._awaited, built.standings)
        try:
            offered = await self._offer(gun, built.files, path)
        except (PublicationError, TransportError) as error:
            # A notary-server keeps none, ours may be away: the file is what counts.
            return Published(
                gun, {}, attempts, path, built.missing, not_kept=error.message, awaited=awaited
            )
        rivals = await self._others(gun, built.versions, besides=offered.pending)
        return replace(offered, awaited=awaited, rivals=rivals) if offered.missing else offered

    async def _others(
        self, gun: Gun, versions: Mapping[str, int], *, besides: str = "", are_stale: bool = False
    ) -> list[str]:
        """List proposals that the server keeps for one of the versions; none if it doesn't say."""
        if not versions:
            return []
        try:
            infos = await self.pending(gun)
        except TransportError:
            return []
        return [
            info.id
            for info in infos
            if info.id != besides
            and info.is_stale == are_stale
            and versions.items() & info.versions.items()
        ]

    def _worded(self, current: Current, files: Sequence[UploadedFile]) -> Sequence[str]:
        proposed = [item for item in files if item.role != "snapshot"]
        served, ring = current.as_served(), self._tools.ring
        return worded(current.gun, proposed, served, ring, overruled=current.overruled).words

    def _awaited(self, standings: Sequence[Standing]) -> dict[str, list[str]]:
        """Name the keys, and people, that may still sign what lacks signatures."""
        return awaited_in_words(standings, names=self._tools.ring.names())

    async def cosign_file(self, file: Path, *, show: Show | None = None) -> Published:
        """Add the signatures of keys here to a file's proposal; publish it when enough.

        Args:
            file: Rewritten while signatures are missing, removed once it's published.
            show: Told in words what it changes, before anything is signed.

        Raises:
            MalformedMetadataError: It was changed after somebody signed it.
            KeyStoreError: No key here is one of those that are missing.
        """
        held = await asyncio.to_thread(partial.read, file)
        gun = parse_gun(held.gun)
        async with self._tools.locks[gun]:
            built, attempts = await self._sign(gun, held.files, show)
            if built.missing:
                await self._write_file(file, gun, built.files, built.base or held.base)
                if "snapshot" in built.missing:
                    return await self._offer_built(gun, built, file)
                awaited = await asyncio.to_thread(self._awaited, built.standings)
                return Published(gun, {}, attempts, file, built.missing, awaited=awaited)
            if not await self._is_founded(gun):
                founds = await asyncio.to_thread(_founds, gun, built)
                return replace(await self._offer(gun, built.files, file), founds=founds)
            await asyncio.to_thread(partial.remove, file)
        return Published(gun, built.versions, attempts)

    async def cosign(self, gun: str, number: str = "", *, show: Show | None = None) -> Published:
        """Add the signatures of keys here to what the server keeps; publish it when enough.

        Args:
            gun: The GUN.
            number: The proposal's id or its beginning; empty if there's only one.
            show: Told in words what it changes, before anything is signed.

        Raises:
            UsageError: Nothing is pending, or several and none is named.
            MalformedMetadataError: It was changed after somebody signed it.
            KeyStoreError: No key here is one of those that are missing.
        """
        name = parse_gun(gun)
        async with self._tools.locks[name]:
            info = chosen(await self.pending(name), name, number)
            files = await self._files(name, info.id)
            built, attempts = await self._sign(name, files, show)
            founds = (
                []
                if await self._is_founded(name)
                else await asyncio.to_thread(_founds, name, built)
            )
            if built.missing or founds:
                return replace(await self._offer_built(name, built, None), founds=founds)
        outdated = await self._others(name, built.versions, are_stale=True)
        return Published(name, built.versions, attempts, outdated=outdated)

    async def publish_file(self, file: Path) -> Published:
        """Hand a file's proposal to the server: published if enough signed, else kept there.

        Raises:
            MalformedMetadataError: It was changed after somebody signed it.
            PublicationError: The server refuses it.
        """
        held = await asyncio.to_thread(partial.read, file)
        gun = parse_gun(held.gun)
        delivery = Delivery(self._tools.api, gun, home=self._tools.home)

        async def build(_: bool) -> Built:  # noqa: FBT001  (Delivery's word)
            current = await self._read(gun, held.files, RENEWED_BY_ROOT)
            return await asyncio.to_thread(
                complete,
                current,
                held.files,
                self._tools.ring,
                expiries=self._tools.expiries_of(current.trusted.dialect),
                now=self._tools.clock(),
            )

        async with self._tools.locks[gun]:
            if not await self._is_founded(gun):
                await self.examine(gun, held.files)
                return await self._offer(gun, held.files, file)
            built = await _bring(delivery, build)
            if built.missing:
                return await self._offer_built(gun, built, file)
            await asyncio.to_thread(partial.remove, file)
        return Published(gun, built.versions, delivery.attempts)

    async def examine(self, gun: str, files: Sequence[UploadedFile]) -> Examined:
        """Read a proposal and say what it changes.

        Raises:
            MalformedMetadataError: It was changed after somebody signed it.
        """
        current, overruled = None, ""
        if await self._is_founded(parse_gun(gun)):
            state = await self._read(gun, files, RENEWED_BY_ROOT)
            current, overruled = await asyncio.to_thread(state.as_served), state.overruled
        return await asyncio.to_thread(
            examined, gun, files, current, self._tools.ring, overruled=overruled
        )

    async def show(self, gun: str, number: str = "") -> Examined:
        """Examine a proposal that the server keeps.

        Raises:
            UsageError: Nothing is pending, or several and none is named.
        """
        name = parse_gun(gun)
        info = chosen(await self.pending(name), name, number, stale_too=True)
        return await self.examine(name, await self._files(name, info.id))

    async def save(self, gun: str, number: str, out: Path) -> Examined:
        """Examine a proposal that the server keeps, and write it for a machine without a network.

        Raises:
            UsageError: Nothing is pending, or several and none is named.
            CacheError: The file can't be written.
        """
        name = parse_gun(gun)
        info = chosen(await self.pending(name), name, number)
        files = await self._files(name, info.id)
        seen = await self.examine(name, files)
        base: tuple[UploadedFile, ...] = ()
        if seen.current is not None:
            state = await self._read(name, files, RENEWED_BY_ROOT)
            base = base_of(state, seen.proposal.files)
        await self._write_file(out, name, files, base)
        return seen

    async def pending(self, gun: str) -> list[PendingInfo]:
        """List what the server keeps for a GUN, oldest first; its word."""
        try:
            return await self._pending.proposals(parse_gun(gun))
        except NotFoundError:
            return []

    async def withdraw(self, gun: str, number: str) -> str:
        """Withdraw a proposal; gives its id.

        Raises:
            UsageError: It isn't pending.
        """
        name = parse_gun(gun)
        info = chosen(await self.pending(name), name, number, stale_too=True)
        await self._pending.withdraw(name, info.id)
        return info.id

    async def audit(
        self, gun: str, *, before: int | None = None, limit: int = 100
    ) -> list[AuditRecord]:
        """Tell what became of a GUN's proposals, newest first; the server's word."""
        return await self._pending.audit(parse_gun(gun), before=before, limit=limit)

    async def _read(
        self, gun: str, files: Sequence[UploadedFile], renews: Collection[str]
    ) -> Current:
        """Read what a proposal is built on, with the hash bins it's about."""
        current = await self._tools.reader.read(
            gun,
            renews=renews,
            bins=partial_of(bins_uploaded, files),
            forgets=await asyncio.to_thread(self._forgets, gun, files),
        )
        return await self._tools.reader.with_left(current)

    def _forgets(self, gun: str, files: Sequence[UploadedFile]) -> bool:
        """Tell whether a proposal gives both of the server's roles other keys."""
        new = [item.data for item in files if item.role == "root"]
        old, limit = MetadataCache.of(self._tools.home, gun).load("root"), Limits().root_bytes
        if not new or old is None:
            return False
        try:
            before, after = (
                cast("Root", dialect_of(data).parse("root", data, max_bytes=limit).signed)
                for data in (old, new[-1])
            )
        except VerificationError:
            return False  # whoever judges it says why
        return online_roles_changed(before, after) == ONLINE

    async def _sign(
        self, gun: Gun, files: Sequence[UploadedFile], show: Show | None
    ) -> tuple[Built, int]:
        """Sign, and publish if that's enough and the GUN exists."""
        if not await self._is_founded(gun):
            seen = await asyncio.to_thread(examined, gun, files, None, self._tools.ring)
            if show is not None:
                show(seen.words)
            signed = await asyncio.to_thread(sign_proposal, seen.proposal, None, self._tools.ring)
            standings = signed.standings(None)
            built = Built(
                signed.dialect,
                tuple(signed.upload),
                signed.versions,
                missing_of(standings),
                standings=tuple(standings),
            )
            return built, 1
        delivery = Delivery(self._tools.api, gun, home=self._tools.home)

        async def build(is_retry: bool) -> Built:  # noqa: FBT001  (Delivery's word)
            current = await self._read(gun, files, RENEWED_BY_ROOT if _has_root(files) else ())
            if show is not None and not is_retry:
                show(await asyncio.to_thread(self._worded, current, files))
            return await asyncio.to_thread(
                add_signatures,
                current,
                files,
                self._tools.ring,
                expiries=self._tools.expiries_of(current.trusted.dialect),
                now=self._tools.clock(),
            )

        return await _bring(delivery, build), delivery.attempts

    async def _offer_built(self, gun: Gun, built: Built, file: Path | None) -> Published:
        """Let the server keep what is incomplete, and tell who may complete it."""
        try:
            offered = await self._offer(gun, built.files, file)
        except (PublicationError, NotFoundError) as error:
            # It's refused for something else, or the server keeps no proposals.
            raise (built.refusal or error) from error
        if not offered.pending:
            return offered
        awaited = await asyncio.to_thread(self._awaited, built.standings)
        return replace(offered, missing=offered.missing or built.missing, awaited=awaited)

    async def _offer(
        self,
        gun: Gun,
        files: Sequence[UploadedFile],
        file: Path | None,
    ) -> Published:
        """Let the server keep a proposal, or publish it if that's enough."""
        offer = await self._pending.offer(gun, files)
        if offer.state != "published":
            return Published(gun, {}, 1, file, offer.missing, offer.id)
        if file is not None:
            await asyncio.to_thread(partial.remove, file)
        wanted = {item.role for item in files}
        return Published(gun, {role: v for role, v in offer.versions.items() if role in wanted})

    async def _write(self, gun: Gun, built: Built, out: Path) -> Published:
        await self._write_file(out, gun, built.files, built.base)
        awaited = await asyncio.to_thread(self._awaited, built.standings)
        return Published(gun, {}, 1, out, built.missing, awaited=awaited)

    async def _write_file(
        self, path: Path, gun: Gun, files: Sequence[UploadedFile], base: Sequence[UploadedFile]
    ) -> None:
        """Write a proposal for the next signer, with what a machine without a network needs."""

        def write() -> None:
            roots = roots_of(MetadataCache.of(self._tools.home, gun))
            upload = [item for item in files if item.role != "snapshot"]
            partial.write(path, gun, upload, base=base, roots=roots)

        await asyncio.to_thread(write)

    async def _files(self, gun: Gun, number: str) -> list[UploadedFile]:
        files = await self._pending.files(gun, number)
        if not files:
            raise UsageError(f"proposal {number[:16]} of {gun} holds no file")
        told = Proposal.parse(gun, dialect_of_upload(files), files)
        # Its author told people that number: they sign what it stands for, or nothing.
        if await asyncio.to_thread(lambda: told.id) != number:
            raise ServerAnswerError(
                f"the server gave another proposal of {gun} than {number[:16]}",
                status=200,
                hint="nothing was signed; tell its author and the server's operator",
            )
        return files

    async def _is_founded(self, gun: Gun) -> bool:
        """Tell whether the GUN exists; a server that hides it must not have it founded again.

        Raises:
            UntrustedRootError: The server says that there's none, and this home knows better.
        """
        if await self._tools.api.exists(gun):
            return True
        if await self._tools.reader.is_known(gun):
            raise UntrustedRootError(
                f"the server holds nothing for {gun}, though a root of it is trusted here",
                hint="nothing was signed; if it was dropped on purpose and is founded again, "
                f"forget the old one first: tabellion trust remove {gun}",
            )
        return False


async def _bring(delivery: Delivery, build: Callable[[bool], Awaitable[Built]]) -> Built:
    """Upload what enough signed; one whose snapshot others sign comes back as incomplete.

    Only the server knows whether it holds the snapshot's keys: it refuses if it doesn't.
    """
    made: list[Built] = []

    async def noted(is_retry: bool) -> Built:  # noqa: FBT001  (Delivery's word)
        made.append(await build(is_retry))
        return made[-1]

    try:
        return await delivery.bring(noted)
    except RefusedPublicationError as error:
        if not made:
            raise
        return made[-1].waiting_for_snapshot(error)


def _founds(gun: Gun, built: Built) -> list[str]:
    """Give the fingerprints of the root keys of a GUN to be founded."""
    root = Proposal.parse(gun, built.dialect, built.files).root
    return root_fingerprints(root) if root is not None else []


def _has_root(files: Sequence[UploadedFile]) -> bool:
    return any(item.role == "root" for item in files)
