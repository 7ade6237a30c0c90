"""Publishing: build on the verified current state, sign, upload, and again if somebody was first.

::

    async with Publisher("https://trust.example", home=home, trust=trust) as publisher:
        await publisher.init("registry.example/team/app")
        await publisher.sign("registry.example/team/app", "1.2", digest, length)

All work on a GUN begins with ``TrustClient.refresh``: what is signed next follows what was
verified. Changes are data; a lost race applies them again on the newer state.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from securesystemslib.signer import Key

from tabellion.core.dialect import NOTARY, TUF, Dialect
from tabellion.core.expiry import Margins
from tabellion.core.names import Digest, parse_gun
from tabellion.errors import PublicationError, TransportError, UsageError
from tabellion.publish import partial
from tabellion.publish.applying import Applier, check_witnesses
from tabellion.publish.changes import (
    AddSigner,
    Change,
    RemoveSigner,
    RevokeTarget,
    SignTarget,
    SpreadTargets,
)
from tabellion.publish.converting import Agree, Converter, Preview, Wish
from tabellion.publish.declared import Declared, GunPrefix, give_declared, lacking_yet
from tabellion.publish.draft import Draft
from tabellion.publish.earlier_keys import EarlierKeys, earlier_roots
from tabellion.publish.examining import Show
from tabellion.publish.founding import Founder
from tabellion.publish.held_keys import HeldKeys
from tabellion.publish.keystore import KeyStore
from tabellion.publish.lost import BroughtBack, LostFiles
from tabellion.publish.notary_history import read_history
from tabellion.publish.outcome import Initialized, Published, SignerInfo, Status
from tabellion.publish.overview import Overview
from tabellion.publish.passphrases import Passphrases
from tabellion.publish.proposals import Proposals
from tabellion.publish.rotating import Rotation, Rotator
from tabellion.publish.server_api import HistoryEntry, ServerApi
from tabellion.publish.signing import (
    NOTARY_EXPIRIES,
    Expiries,
    KeyRing,
)
from tabellion.publish.state import StateReader, Trust
from tabellion.publish.still_trusted import StillTrusted, still_trusted
from tabellion.publish.stolen import Doubt, full_name, settled, survey, take_over
from tabellion.publish.survey import role_states, signer_infos
from tabellion.publish.tools import Tools
from tabellion.verify.cache import MetadataCache


class Publisher:
    """Publishes to GUNs of one server with the keys of one home folder."""

    def __init__(
        self,
        server: str,
        *,
        home: Path,
        trust: Trust,
        passphrases: Passphrases | None = None,
        keystore: KeyStore | None = None,
        ca: Path | None = None,
        token: str | None = None,
        expiries: Expiries | None = None,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        """Take what publishing needs; nothing is read or sent yet.

        Args:
            server: Base URL, without ``/v2``.
            home: Folder of keys, trusted metadata and staged changes.
            trust: Verifier of the same server and home.
            passphrases: Where passphrases come from; variables only by default.
            keystore: Keys; those of ``home`` by default.
            ca: Extra CA certificates.
            token: Bearer token for the write routes.
            expiries: How long signed roles last; by default as is usual in the GUN's dialect.
            clock: Gives the current moment, aware.
        """
        self._home = home
        self._api = ServerApi(server, ca=ca, token=token)
        self._keystore = keystore or KeyStore(home)
        self._passphrases = passphrases or Passphrases()
        self._ring = KeyRing(self._keystore, self._passphrases)
        self._reader = StateReader(self._api, trust, home)
        self._declared = Declared(home)
        self._expiries = expiries
        self._clock = clock or (lambda: datetime.now(UTC))
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tools = Tools(
            self._api,
            self._reader,
            self._ring,
            home,
            self._expiries_of,
            self._now,
            self._locks,
        )
        self.proposals = Proposals(self._tools)
        self._converter = Converter(self._tools)
        self._rotator = Rotator(self._tools)
        self._applier = Applier(self._tools, self.proposals)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self._api.close()

    async def init(
        self,
        gun: str,
        *,
        root_keys: Sequence[str] = (),
        targets_keys: Sequence[str] = (),
        root_threshold: int = 1,
        targets_threshold: int = 1,
        snapshot: Literal["server", "local"] = "server",
        dialect: Dialect = TUF,
        bins: int = 0,
        bins_keys: Sequence[str] = (),
    ) -> Initialized:
        """Make a GUN: root, empty targets; publish it and pin its root in the cache.

        Args:
            gun: Its name.
            root_keys: Ids or names in the key store; without any, the only root key there is,
                or a new one.
            targets_keys: The same for targets; keys made are for this GUN.
            root_threshold: Root keys needed.
            targets_threshold: Targets keys needed.
            snapshot: Who signs snapshots.
            dialect: TUF, or NOTARY for docker's and notary's clients.
            bins: Spread targets over so many hash bins, a power of two; 0 for none.
            bins_keys: Keys of the bins, each enough alone; by default those of targets.

        Raises:
            UsageError: It exists already, a threshold can't be met, a key is missing, or there
                can't be so many bins.
        """
        name = parse_gun(gun)
        founder = Founder(self._tools, name, dialect)
        async with self._locks[name]:
            made = await founder.found(
                {"root": root_keys, "targets": targets_keys, "bins": bins_keys},
                {"root": root_threshold, "targets": targets_threshold},
                local_snapshot=snapshot == "local",
                bins=bins,
            )
        declarations = await asyncio.to_thread(self._declared.of, name)
        if made.pending:
            return replace(made, lacking=lacking_yet(declarations))
        added, lacking = await give_declared(name, declarations, self.apply, now=self._clock())
        return replace(made, declared=added, lacking=lacking)

    async def rebin(self, gun: str, bins: int, *, keys: Sequence[Key] = ()) -> Published:
        """Spread all targets of a GUN over so many hash bins, in one publication.

        With as many bins and the same keys as before, those that expire soon are signed anew.

        Args:
            gun: The GUN.
            bins: A power of two.
            keys: Keys of the bins, each enough alone; by default those of the targets role.

        Raises:
            UsageError: The GUN has signers, or is a Notary GUN, or there can't be so many bins.
        """
        return await self._applier.take(gun, SpreadTargets(bins, tuple(keys)), publish=True)

    async def sign(
        self,
        gun: str,
        target: str,
        digest: Digest,
        length: int,
        *,
        custom: Mapping[str, Any] | None = None,
        role: str | None = None,
        publish: bool = True,
    ) -> Published:
        """Sign a target (for an image: its tag) and publish just that, or stage it.

        Args:
            gun: The GUN.
            target: Target path.
            digest: Digest of the bytes; sha256.
            length: Their number.
            custom: More about it, JSON without floats.
            role: Role to sign as; by default targets if its key is here, else the first
                delegated role that covers the path and whose key is here.
            publish: False stages the change.

        Raises:
            KeyStoreError: No key here may sign that path.
            NotDelegatedError: ``role`` may not.
        """
        change = SignTarget(target, digest, length, custom or {}, role)
        return await self._applier.take(gun, change, publish=publish)

    async def revoke(
        self, gun: str, target: str, *, role: str | None = None, publish: bool = True
    ) -> Published:
        """Withdraw a target from ``role``, by default from every role whose key is here.

        Raises:
            NotSignedError: No role whose key is here lists it.
        """
        return await self._applier.take(gun, RevokeTarget(target, role), publish=publish)

    async def publish(self, gun: str) -> Published:
        """Publish what is staged; it stays staged if that fails.

        Raises:
            UsageError: Nothing is staged.
            RefusedPublicationError: The server refused it.
        """
        return await self._applier.publish_staged(parse_gun(gun))

    async def status(
        self, gun: str, *, online: bool = True, margins: Margins | None = None
    ) -> Status:
        """Tell what is staged and, with ``online``, how the GUN's roles stand.

        An expired root is told, not refused: who asks is about to renew it.
        """
        name = parse_gun(gun)
        staged = tuple(await asyncio.to_thread(self._applier.staged.read, name))
        if not online:
            return Status(name, staged)
        current = await self._reader.read(name, renews=("root",), bins=None)
        held = await asyncio.to_thread(self._ring.held)
        status = role_states(current, staged, held, now=self._clock(), margins=margins)
        with contextlib.suppress(TransportError, PublicationError):  # the roles are what counts
            return replace(status, pending=await self.proposals.pending(name))
        return status

    def overview(self, *, trusts_new: bool = False, margins: Margins | None = None) -> Overview:
        """Prepare a look at every GUN of the server.

        Args:
            trusts_new: There's a root to start from for GUNs that were never verified here.
            margins: When people want to know of what they have to renew.
        """

        async def judge_one(gun: str) -> Status:
            return await self.status(gun, margins=margins)

        async def is_pinned(gun: str) -> bool:
            cache = MetadataCache.of(self._home, gun)
            return trusts_new or bool(await asyncio.to_thread(cache.load, "root"))

        return Overview(
            self._api, judge_one, is_pinned, now=self._clock(), margins=margins or Margins()
        )

    async def staged_guns(self) -> list[str]:
        """List GUNs with staged changes."""
        return await asyncio.to_thread(self._applier.staged.guns)

    async def reset(self, gun: str) -> int:
        """Drop all staged changes; gives their number."""
        return await asyncio.to_thread(self._applier.staged.reset, parse_gun(gun))

    async def add_signer(
        self,
        gun: str,
        name: str,
        keys: Sequence[Key],
        *,
        paths: Sequence[str] | None = None,
        threshold: int | None = None,
        terminating: bool | None = None,
        file: bytes | None = None,
        under: str = "targets",
        holders: Mapping[str, str] | None = None,
        publish: bool = True,
    ) -> Published:
        """Delegate paths to a role; an existing one gets these keys, and what else is given.

        Args:
            gun: The GUN.
            name: The role.
            keys: Its keys.
            paths: Patterns of what it may sign; by default all, or those it has.
            threshold: Keys needed; by default 1, or as now.
            terminating: Whether no later role is asked for its paths; by default no, or as now.
            file: Its first file, from a ``SignerRequest``.
            under: The role that delegates to it, one whose key is here.
            holders: Key id to its holder's name; a Notary GUN has no place for them.
            publish: False stages the change.

        Raises:
            InvalidNameError: A role name or a pattern isn't portable.
        """
        given = None if paths is None else tuple(paths)
        change = AddSigner(
            *(name, tuple(keys), given, threshold, terminating, file, under),
            holders or {},
        )
        return await self._applier.take(gun, change, publish=publish)

    async def signer(self, gun: str, name: str, under: str = "targets") -> SignerInfo | None:
        """Give a delegated role by the name it was added by, None if there's none."""
        wanted = {name, f"targets/{name}", f"{under}/{name}", f"targets/{under}/{name}"}
        return next((each for each in await self.signers(gun) if each.name in wanted), None)

    async def remove_signer(self, gun: str, name: str, *, publish: bool = True) -> Published:
        """Withdraw a delegation: what only that role signed isn't signed any more."""
        return await self._applier.take(gun, RemoveSigner(name), publish=publish)

    async def signers(self, gun: str) -> list[SignerInfo]:
        """List delegated roles in the order they are asked."""
        current = await self._reader.read(parse_gun(gun))
        return signer_infos(current, await asyncio.to_thread(self._ring.held))

    async def guns(self, prefix: GunPrefix) -> list[str]:
        """List the GUNs there are under a prefix, by the server's word."""
        return await self._api.all_guns(prefix.beginning)

    async def apply(self, gun: str, change: Change) -> Published:
        """Publish a change, or nothing if it's so already."""
        return await self._applier.publish(parse_gun(gun), [change], again=True)

    async def would_change(self, gun: str, change: Change) -> bool:
        """Tell whether a change makes a difference; raises as publishing it would."""
        return await self._applier.would_change(parse_gun(gun), change)

    async def witness(self, gun: str, roles: Sequence[str], *, publish: bool = True) -> Published:
        """Sign roles anew as they are: another version, a new expiry.

        Revives one that expired or, in a delegated role, has too few valid signatures.

        Args:
            gun: The GUN.
            roles: ``root`` alone, or targets roles.
            publish: False stages it; a root isn't staged.

        Raises:
            UsageError: A role is the server's, or has published nothing.
            KeyStoreError: No key of one is here.
        """
        if "root" in roles:
            check_witnesses(roles, publish=publish)
            return await self.proposals.prepare_root(gun)
        return await self._applier.witness(parse_gun(gun), roles, publish=publish)

    async def rotate(
        self,
        gun: str,
        *roles: str,
        keys: Sequence[str] = (),
        server: bool = False,
    ) -> Published:
        """Give top-level roles other keys in one root, with all that has to be signed anew for it.

        Args:
            gun: The GUN.
            roles: Of ``root``, ``targets``, ``snapshot`` and ``timestamp``.
            keys: Ids or names of the new keys of a single role in the key store; they are made if
                none is given.
            server: Let the server make and hold it: a snapshot key, or the timestamp's always.

        Keys of other holders stay. With fewer than the thresholds of root keys here, it becomes a
        proposal.

        Raises:
            UsageError: The server holds no keys of that role, it has those keys already, or
                several others hold its keys.
            KeyStoreError: No root key is here, nor one of the roles.
        """
        name = parse_gun(gun)
        rotation = Rotation.of(roles, keys=keys, server=server)
        async with self._locks[name]:
            done = await self._rotator.rotate(name, rotation)
        published = await self.proposals.keep(name, done.built, done.attempts)
        ending = await self._applier.look_back(done.current, done.built)
        return replace(
            published,
            ending=ending,
            own_bins=done.own_bins,
            stay=done.stay,
            made=done.made,
            overruled=done.current.overruled,
        )

    async def bring_back(self, gun: str) -> BroughtBack:
        """Publish again what the server lost by an old backup; see ``LostFiles.bring_back``."""
        name, life = parse_gun(gun), self._expiries_of(TUF).root
        async with self._locks[name]:
            lost = LostFiles(self._api, self._ring, self._home, name)
            return await lost.bring_back(life=life, now=self._clock())

    async def signed_since(self, gun: str, signer: str, since: datetime) -> list[Doubt]:
        """Tell what became of each target of a signer since a moment, aware.

        Raises:
            UsageError: There's no such signer, or the moment is still to come.
        """
        if since > self._clock():
            raise UsageError(
                f"{since:%Y-%m-%d %H:%M %Z} is still to come: all that a thief signed would stay",
                hint="give the moment from which on the key may have been another's",
            )
        current = await self._reader.read(parse_gun(gun))
        cache = MetadataCache.of(self._home, current.gun)
        roots = await asyncio.to_thread(earlier_roots, cache, current)
        keys = EarlierKeys(self._api, current, roots)
        return await survey(self._api, current, signer, since, keys)

    async def also_trusts(self, gun: str, signer: str) -> list[StillTrusted]:
        """List the other roles that a signer's key is a key of; ``take_over`` leaves them."""
        current = await self._reader.read(parse_gun(gun))
        role, draft = full_name(current, signer), Draft(current, HeldKeys(frozenset(), {}))
        return still_trusted(current, draft, [role, *draft.beneath(role)])

    async def take_over(
        self, gun: str, signer: str, doubts: Sequence[Doubt], vouched: Collection[str]
    ) -> Published:
        """Withdraw a signer whose key is stolen, and sign as owner what is vouched for.

        Args:
            gun: The GUN.
            signer: The delegated role.
            doubts: From ``signed_since``: what was signed before stays as it was then.
            vouched: Targets added or changed since that are all right.
        """
        changes = take_over(signer, doubts, vouched)
        check = settled(doubts, vouched)
        return await self._applier.publish(parse_gun(gun), changes, again=False, check=check)

    async def cosign(self, file: Path, *, show: Show | None = None) -> Published:
        """Add signatures to a file's proposal; see ``Proposals.cosign_file``."""
        held = await asyncio.to_thread(partial.read, file)
        if await self._converter.converts(held):
            async with self._locks[parse_gun(held.gun)]:
                return await self._converter.cosign(file, held, show)
        return await self.proposals.cosign_file(file, show=show)

    async def preview_conversion(self, wish: Wish) -> Preview:
        """Tell what ``convert`` would do; raises as that does."""
        return await self._converter.preview(wish)

    async def convert(self, wish: Wish, agree: Agree) -> Published:
        """Make a Notary GUN a TUF GUN, or found one with its content; see ``Converter.convert``."""
        async with self._locks[wish.beside or wish.gun]:
            return await self._converter.convert(wish, agree)

    async def history(
        self, gun: str, *, target: str | None = None, before: int | None = None, limit: int = 100
    ) -> list[HistoryEntry]:
        """Tell what a tag, or every tag, meant when; newest first. The server's word."""
        return await read_history(self._api, self._reader, parse_gun(gun), target, before, limit)

    def _now(self) -> datetime:
        return self._clock()

    def _expiries_of(self, dialect: Dialect) -> Expiries:
        return self._expiries or (NOTARY_EXPIRIES if dialect is NOTARY else Expiries())
