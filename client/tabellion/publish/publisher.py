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
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial as partial_of
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from securesystemslib.signer import Key

from tabellion.core.conversion import is_conversion
from tabellion.core.dialect import NOTARY, TUF, Dialect
from tabellion.core.expiry import End, Margins
from tabellion.core.names import Digest, Gun, parse_gun
from tabellion.core.notary_search import RELEASES
from tabellion.errors import (
    TabellionError,
    UnknownGunError,
    UnreachableError,
    UsageError,
)
from tabellion.publish import partial
from tabellion.publish.afterwards import look_back
from tabellion.publish.changes import (
    AddSigner,
    Change,
    RemoveSigner,
    RevokeTarget,
    SignTarget,
    SpreadTargets,
    Staged,
    Witness,
)
from tabellion.publish.converting import Agree, Converter, Preview, Wish
from tabellion.publish.declared import Declared, GunPrefix
from tabellion.publish.delivery import Delivery
from tabellion.publish.edits import Draft, apply
from tabellion.publish.examining import Show
from tabellion.publish.founding import Founder
from tabellion.publish.keystore import KeyStore
from tabellion.publish.lost import LostFiles
from tabellion.publish.named_keys import NamedKey
from tabellion.publish.notary_edits import spoken_of
from tabellion.publish.notary_history import NotaryHistory
from tabellion.publish.outcome import Initialized, Published, SignerInfo, Status
from tabellion.publish.overview import Overview
from tabellion.publish.passphrases import Passphrases
from tabellion.publish.proposals import Proposals
from tabellion.publish.root_edits import RootEdit, build_root_edit, check_rotation
from tabellion.publish.server_api import HistoryEntry, ServerApi
from tabellion.publish.signing import (
    NOTARY_EXPIRIES,
    Built,
    Expiries,
    KeyRing,
    build,
    judge,
    no_key,
)
from tabellion.publish.spreading import bins_changed
from tabellion.publish.state import RENEWED_BY_ROOT, Current, StateReader, Trust
from tabellion.publish.stolen import Doubt, survey, take_over, verify_settled
from tabellion.publish.survey import role_states, signer_infos
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
        self._staged = Staged(home)
        self._declared = Declared(home)
        self._expiries = expiries
        self._clock = clock or (lambda: datetime.now(UTC))
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._converter = Converter(
            self._api,
            self._reader,
            self._ring,
            home=home,
            expiries=self._expiries_of(TUF),
            clock=self._clock,
        )
        self.proposals = Proposals(
            self._api,
            self._reader,
            self._ring,
            home=home,
            expiries_of=self._expiries_of,
            clock=self._clock,
            locks=self._locks,
        )

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
        founder = Founder(
            self._api,
            self._ring,
            name,
            home=self._home,
            dialect=dialect,
            expiries=self._expiries_of(dialect),
            clock=self._clock,
        )
        async with self._locks[name]:
            made = await founder.found(
                {"root": root_keys, "targets": targets_keys, "bins": bins_keys},
                {"root": root_threshold, "targets": targets_threshold},
                local_snapshot=snapshot == "local",
                bins=bins,
            )
        return await self._declare(name, made)

    async def _declare(self, gun: Gun, made: Initialized) -> Initialized:
        """Give a new GUN the signers that are declared for its namespace."""
        added: list[str] = []
        lacking: dict[str, str] = {}
        for declaration in await asyncio.to_thread(self._declared.of, gun):
            name = declaration.signer.name
            if made.pending:
                lacking[name] = "other holders have to sign the GUN first: add the signer then"
                continue
            try:
                outcome = await self.apply(gun, declaration.for_gun_founded(self._clock()))
            except TabellionError as error:
                lacking[name] = error.message  # the GUN is there, and its keys have to be told
            else:
                if outcome.missing:
                    lacking[name] = f"signatures are missing: pass {outcome.incomplete} on"
                else:
                    added.append(name)
        return replace(made, declared=tuple(added), lacking=lacking)

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
        return await self._take(gun, SpreadTargets(bins, tuple(keys)), publish=True)

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
        return await self._take(gun, change, publish=publish)

    async def revoke(
        self, gun: str, target: str, *, role: str | None = None, publish: bool = True
    ) -> Published:
        """Withdraw a target from ``role``, by default from every role whose key is here.

        Raises:
            NotSignedError: No role whose key is here lists it.
        """
        return await self._take(gun, RevokeTarget(target, role), publish=publish)

    async def publish(self, gun: str) -> Published:
        """Publish what is staged; it stays staged if that fails.

        Raises:
            UsageError: Nothing is staged.
            RefusedPublicationError: The server refused it.
        """
        name = parse_gun(gun)
        changes = await asyncio.to_thread(self._staged.read, name)
        if not changes:
            raise UsageError(
                f"nothing is staged for {name}", hint="stage with: tabellion sign --no-publish"
            )
        # What was staged was fit then; what is done already was published by a run cut off.
        published = await self._publish(name, changes, again=True)
        await asyncio.to_thread(self._staged.drop, name, changes)
        return published

    async def status(
        self, gun: str, *, online: bool = True, margins: Margins | None = None
    ) -> Status:
        """Tell what is staged and, with ``online``, how the GUN's roles stand.

        An expired root is told, not refused: who asks is about to renew it.
        """
        name = parse_gun(gun)
        staged = tuple(await asyncio.to_thread(self._staged.read, name))
        if not online:
            return Status(name, staged)
        current = await self._reader.read(name, renews=("root",))
        held = await asyncio.to_thread(self._ring.held)
        return role_states(current, staged, held, now=self._clock(), margins=margins)

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
        return await asyncio.to_thread(self._staged.guns)

    async def reset(self, gun: str) -> int:
        """Drop all staged changes; gives their number."""
        return await asyncio.to_thread(self._staged.reset, parse_gun(gun))

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
            publish: False stages the change.

        Raises:
            InvalidNameError: A role name or a pattern isn't portable.
        """
        given = None if paths is None else tuple(paths)
        change = AddSigner(name, tuple(keys), given, threshold, terminating, file, under)
        return await self._take(gun, change, publish=publish)

    async def signer(self, gun: str, name: str, under: str = "targets") -> SignerInfo | None:
        """Give a delegated role by the name it was added by, None if there's none."""
        wanted = {name, f"targets/{name}", f"{under}/{name}", f"targets/{under}/{name}"}
        return next((each for each in await self.signers(gun) if each.name in wanted), None)

    async def remove_signer(self, gun: str, name: str, *, publish: bool = True) -> Published:
        """Withdraw a delegation: what only that role signed isn't signed any more."""
        return await self._take(gun, RemoveSigner(name), publish=publish)

    async def signers(self, gun: str) -> list[SignerInfo]:
        """List delegated roles in the order they are asked."""
        current = await self._reader.read(parse_gun(gun))
        return signer_infos(current, await asyncio.to_thread(self._ring.held))

    async def guns(self, prefix: GunPrefix) -> list[str]:
        """List the GUNs there are under a prefix, by the server's word."""
        return await self._api.all_guns(prefix.beginning)

    async def apply(self, gun: str, change: Change) -> Published:
        """Publish a change, or nothing if it's so already."""
        return await self._publish(parse_gun(gun), [change], again=True)

    async def would_change(self, gun: str, change: Change) -> bool:
        """Tell whether a change makes a difference; raises as publishing it would."""
        current = await self._read(parse_gun(gun), [change])
        return bool((await self._try(current, [], change, again=True)).changed())

    async def _try(
        self, current: Current, before: Sequence[Change], change: Change, *, again: bool = False
    ) -> Draft:
        """Apply a change after others; all of them have to fit, and keys for them to be here."""
        draft = Draft(current, await asyncio.to_thread(self._ring.held))
        apply(draft, before, again=True)
        draft.signed_as.clear()
        draft.withdrawn.clear()
        draft.removed.clear()
        draft.gone_too.clear()
        apply(draft, [change], again=again)
        for role in draft.changed():
            if not draft.may_sign(role):
                raise no_key(current.gun, role, draft.keys_of(role)[1])
        return draft

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
        online = {"snapshot", "timestamp"}.intersection(roles)
        if not roles or online or ("root" in roles and (len(roles) > 1 or not publish)):
            raise UsageError(
                f"{' '.join(roles)[:80] or 'nothing'} can't be witnessed",
                hint="name root alone, or targets roles; the server renews snapshot and timestamp",
            )
        if "root" in roles:
            return await self.proposals.prepare_root(gun)
        changes = [Witness(role) for role in roles]
        if publish:
            return await self._publish(parse_gun(gun), changes, again=False)
        for change in changes[:-1]:
            await self._stage(parse_gun(gun), change)
        return await self._stage(parse_gun(gun), changes[-1])

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
            keys: Ids or names of the new keys of a single role in the key store; one is made if
                none is given.
            server: Let the server make and hold it: a snapshot key, or the timestamp's always.

        With fewer than the thresholds of keys here, it becomes a proposal.

        Raises:
            UsageError: The server holds no keys of that role, or it has those keys already.
            KeyStoreError: No root key is here.
        """
        name = parse_gun(gun)
        online = check_rotation(roles, has_keys=bool(keys), server=server)
        delivery = Delivery(self._api, name, home=self._home)
        made: dict[str, list[Key]] = {}
        built_on: list[Current] = []

        async def build(_: bool) -> Built:  # noqa: FBT001  (Delivery's word)
            current = await self._reader.read(name, renews=roles)
            current = await self._reader.with_left(current)
            built_on.append(current)
            dialect = current.trusted.dialect
            for role in roles:
                if role in made:
                    continue
                if role in online:
                    made[role] = [await self._api.rotate_online_key(name, role, dialect)]
                else:
                    made[role] = await asyncio.to_thread(self._new_keys, current, role, keys)
            for role, new in made.items():
                if {key.keyid for key in new} == set(current.root.roles[role].keyids):
                    raise UsageError(
                        f"those are the keys that {role} has already", hint="give another --key"
                    )
            return await asyncio.to_thread(
                build_root_edit,
                current,
                RootEdit(keys=made),
                self._ring,
                expiries=self._expiries_of(dialect),
                now=self._clock(),
            )

        async with self._locks[name]:
            built = await delivery.bring(build)
        published = await self.proposals.keep(name, built, delivery.attempts)
        return replace(published, ending=await self._look_back(built_on[-1], built))

    def _new_keys(self, current: Current, role: str, named: Sequence[str]) -> list[Key]:
        """Give a role's new keys as the GUN's metadata will list them, one made if none is named.

        A key that is made stays if the rotation fails: it can be named then.
        """
        dialect, gun = current.trusted.dialect, current.gun
        found = [NamedKey.read(text, self._keystore) for text in named]
        if not found:
            passphrase = self._passphrases.new(role)
            info = self._keystore.generate(
                role,
                passphrase=passphrase,
                keytype="ecdsa" if dialect is NOTARY else "ed25519",
                gun=None if role == "root" else gun,
            )
            self._passphrases.remember(info.keyid, passphrase)
            found = [NamedKey(info.key, info)]
        now = self._clock()
        return [key.listed(role, dialect, self._ring, gun, now=now) for key in found]

    async def bring_back(self, gun: str) -> dict[str, int]:
        """Publish again what the server lost by an old backup; role to version.

        Raises:
            UsageError: This home holds nothing of the GUN.
            RefusedPublicationError: The server refused it.
        """
        name = parse_gun(gun)
        async with self._locks[name]:
            return await LostFiles(self._api, self._home, name).bring_back()

    async def signed_since(self, gun: str, signer: str, since: datetime) -> list[Doubt]:
        """Tell what became of each target of a signer since a moment, aware.

        Raises:
            UsageError: There's no such signer.
        """
        current = await self._reader.read(parse_gun(gun))
        return await survey(self._api, current, signer, since)

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

        def check(draft: Draft) -> None:
            if any(doubt.heir == RELEASES for doubt in doubts):
                verify_settled(draft.of(RELEASES).targets, doubts, vouched)

        changes = take_over(signer, doubts, vouched)
        return await self._publish(parse_gun(gun), changes, again=False, check=check)

    async def cosign(self, file: Path, *, show: Show | None = None) -> Published:
        """Add signatures to a file's proposal; see ``Proposals.cosign_file``."""
        held = await asyncio.to_thread(partial.read, file)
        if await self._converts(held):
            async with self._locks[parse_gun(held.gun)]:
                return await self._converter.cosign(file, held, show)
        return await self.proposals.cosign_file(file, show=show)

    async def _converts(self, held: partial.Partial) -> bool:
        """Tell whether a file is to convert the GUN, which other changes of its root aren't."""
        if not held.has_root:
            return False
        try:
            current = await self._reader.read(parse_gun(held.gun), renews=RENEWED_BY_ROOT)
        except UnknownGunError:
            return False
        return await asyncio.to_thread(is_conversion, current.trusted.dialect, held.files)

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
        name = parse_gun(gun)
        try:
            return await self._api.history(name, target=target, before=before, limit=limit)
        except UnknownGunError:
            # A notary-server keeps no history, but every version.
            if before is not None or not await self._api.exists(name):
                raise
            current = await self._reader.read(name)
            if current.trusted.dialect is not NOTARY:
                raise
            return await NotaryHistory(self._api, current).entries(target, limit)

    def _expiries_of(self, dialect: Dialect) -> Expiries:
        return self._expiries or (NOTARY_EXPIRIES if dialect is NOTARY else Expiries())

    async def _look_back(self, current: Current, built: Built) -> End | None:
        return await asyncio.to_thread(look_back, current, built, self._ring, now=self._clock())

    async def _read(self, gun: Gun, changes: Sequence[Change]) -> Current:
        """Read what changes are built on, with the hash bins and roles they speak of."""
        revives = [change.role for change in changes if isinstance(change, Witness)]
        chosen = partial_of(bins_changed, changes)
        current = await self._reader.read(gun, revives=revives, bins=chosen)
        return await self._reader.with_left(current, spoken_of(changes).union(revives))

    async def _take(self, gun: str, change: Change, *, publish: bool) -> Published:
        name = parse_gun(gun)
        if publish:
            return await self._publish(name, [change], again=False)
        return await self._stage(name, change)

    async def _stage(self, gun: Gun, change: Change) -> Published:
        """Keep a change that fits what is current with what is staged; away, keep any."""
        try:
            staged = await asyncio.to_thread(self._staged.read, gun)
            chosen = partial_of(bins_changed, [*staged, change])
            current = await self._reader.read(gun, bins=chosen)
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
                is_staged=True,
            )
        await asyncio.to_thread(self._staged.add, gun, [change])
        return outcome

    async def _publish(
        self,
        gun: Gun,
        changes: Sequence[Change],
        *,
        again: bool,
        check: Callable[[Draft], None] | None = None,
    ) -> Published:
        delivery = Delivery(self._api, gun, home=self._home)
        drafts: list[Draft] = []

        async def build(is_retry: bool) -> Built:  # noqa: FBT001  (Delivery's word)
            draft, built = await self._build(gun, changes, again=again or is_retry, check=check)
            drafts.append(draft)
            return built

        async with self._locks[gun]:
            built = await delivery.bring(build)
        draft = drafts[-1]
        return replace(
            await self.proposals.keep(gun, built, delivery.attempts),
            signed_as=draft.signed_as,
            withdrawn=draft.withdrawn,
            shadowed=draft.shadowed(),
            gone_too=draft.gone_too,
            ending=await self._look_back(draft.current, built),
            lost=draft.lost(),
            silent=built.silent,
        )

    async def _build(
        self,
        gun: Gun,
        changes: Sequence[Change],
        *,
        again: bool,
        check: Callable[[Draft], None] | None = None,
    ) -> tuple[Draft, Built]:
        current = await self._read(gun, changes)
        draft = Draft(current, await asyncio.to_thread(self._ring.held))
        apply(draft, changes, again=again)
        if check is not None:
            check(draft)
        now = self._clock()
        expiries = self._expiries_of(current.trusted.dialect)
        built = await asyncio.to_thread(build, draft, self._ring, expiries=expiries, now=now)
        if built.files and not built.missing:
            await asyncio.to_thread(judge, current, built.files, now=now)
        return draft, built
