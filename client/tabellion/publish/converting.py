"""Converting a Notary GUN into a TUF GUN: in its place, or as a new GUN beside it.

In its place, the next root is signed by the old root's keys as well, and readers follow it by
themselves. Signers whose keys aren't here sign a partly signed publication, one after the other.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from securesystemslib.signer import Key
from tuf.api.metadata import Role, Root

from tabellion.core.conversion import is_conversion, may_go_on, tuf_name
from tabellion.core.dialect import NOTARY, TUF
from tabellion.core.limits import Limits
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.names import Gun, parse_gun
from tabellion.core.proposal import Proposal
from tabellion.core.publication import CurrentSet, OnlineKeys, UploadedFile
from tabellion.core.succession import verify_converted_root
from tabellion.core.targets_tree import verify_signed_by
from tabellion.core.transitions import judge_publication
from tabellion.errors import (
    KeyStoreError,
    RollbackError,
    UnknownGunError,
    UsageError,
)
from tabellion.publish import partial
from tabellion.publish.conversion_plan import ConversionPlan, plan_conversion
from tabellion.publish.cosigning import sign_proposal, verify_untouched
from tabellion.publish.delivery import Delivery
from tabellion.publish.founding import pin_root
from tabellion.publish.outcome import Published
from tabellion.publish.signatures import signatures_missing
from tabellion.publish.signing import Built, no_key
from tabellion.publish.state import RENEWED_BY_ROOT, Current
from tabellion.publish.tools import Tools
from tabellion.publish.words import targets_in_words
from tabellion.verify.cache import MetadataCache

_ONLINE: Final = ("timestamp", "snapshot")


@dataclass(frozen=True)
class Wish:
    """What is to be converted, and how.

    Attributes:
        gun: The Notary GUN.
        vouch: Delegated roles whose word the owner gives instead.
        beside: Name of a new GUN to found with the content; None converts ``gun`` itself.
    """

    gun: Gun
    vouch: tuple[str, ...] = ()
    beside: Gun | None = None


@dataclass(frozen=True)
class Preview:
    """What a conversion will do, before anything is signed.

    Attributes:
        plan: What goes on and what doesn't.
        missing: Role, by its name in TUF, to the number of signatures that can't be given here.
    """

    plan: ConversionPlan
    missing: Mapping[str, int]


Agree = Callable[[Preview], None]
"""Told what will happen before anything is signed; raises to stop it."""


class Converter:
    """Converts GUNs of one server with the keys of one home folder."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def preview(self, wish: Wish) -> Preview:
        """Tell what would happen; nothing is signed, and the server makes no key.

        Raises:
            UsageError: It can't be converted.
        """
        _, seen = await self._plan(wish)
        return seen

    async def convert(self, wish: Wish, agree: Agree) -> Published:
        """Convert it; if signatures are missing, leave a partly signed publication.

        Args:
            wish: What.
            agree: Asked before anything is signed, and again if a lost race changes the plan.

        Raises:
            UsageError: It can't be converted.
            KeyStoreError: The keys of root or targets aren't here.
        """
        gun = wish.beside or wish.gun
        delivery = Delivery(self._tools.api, gun, home=self._tools.home)
        agreed: list[Preview] = []

        async def build(is_retry: bool) -> Built:  # noqa: FBT001  (Delivery's word)
            if wish.beside is not None and not is_retry and await self._tools.api.exists(gun):
                raise UsageError(f"{gun} exists on the server already", hint="give another name")
            current, seen = await self._plan(wish)
            if not agreed or agreed[-1] != seen:
                agree(seen)
                agreed.append(seen)
            online = {role: await self._tools.api.online_key(gun, role, TUF) for role in _ONLINE}
            return await asyncio.to_thread(self._build, wish, current, seen, online)

        built = await delivery.bring(build)
        if built.missing:
            path = partial.path_for(self._tools.home, gun, built.versions, built.files)
            await asyncio.to_thread(partial.write, path, gun, built.files)
            return Published(gun, {}, delivery.attempts, path, built.missing)
        if wish.beside is not None:
            cache = MetadataCache.of(self._tools.home, gun)
            async with cache.locked():
                await asyncio.to_thread(pin_root, cache, built.files[0].data)
        return Published(gun, built.versions, delivery.attempts)

    async def converts(self, held: partial.Partial) -> bool:
        """Tell whether a file is to convert its GUN, which other changes of a root aren't."""
        if not held.has_root:
            return False
        try:
            current = await self._tools.reader.read(parse_gun(held.gun), renews=RENEWED_BY_ROOT)
        except UnknownGunError:
            return False
        return await asyncio.to_thread(is_conversion, current.trusted.dialect, held.files)

    async def cosign(
        self,
        file: Path,
        held: partial.Partial,
        show: Callable[[Sequence[str]], None] | None,
    ) -> Published:
        """Add the signatures of keys here to a conversion; publish it when there are enough.

        Raises:
            UsageError: It doesn't follow what is current any more.
            ThresholdError: The owner didn't sign it.
            KeyStoreError: No key here is one of those that are missing.
        """
        delivery = Delivery(self._tools.api, held.gun, home=self._tools.home)

        async def build(is_retry: bool) -> Built:  # noqa: FBT001  (Delivery's word)
            current = await self._tools.reader.read(held.gun, renews=RENEWED_BY_ROOT)
            built = await asyncio.to_thread(
                self._add_signatures, current, held, None if is_retry else show
            )
            if built.missing:
                await asyncio.to_thread(partial.write, file, held.gun, built.files)
            return built

        built = await delivery.bring(build)
        if built.missing:
            return Published(held.gun, {}, delivery.attempts, file, built.missing)
        await asyncio.to_thread(partial.remove, file)
        return Published(held.gun, built.versions, delivery.attempts)

    async def _plan(self, wish: Wish) -> tuple[Current, Preview]:
        current = await self._tools.reader.read(wish.gun, renews=RENEWED_BY_ROOT)
        if current.trusted.dialect is not NOTARY:
            raise UsageError(
                f"{wish.gun} speaks TUF 1.0 already", hint="there is nothing to convert"
            )

        def plan() -> Preview:
            planned = plan_conversion(current, vouch=wish.vouch)
            return Preview(planned, self._lacking(planned))

        seen = await asyncio.to_thread(plan)
        for role in ("root", "targets"):
            if role in seen.missing:
                entry = current.root.roles[role]
                raise no_key(wish.gun, role, entry)
        if wish.beside is not None and seen.missing:
            raise KeyStoreError(
                f"keys of {', '.join(seen.missing)} aren't here, and a new GUN is founded whole",
                hint="import them, or give their word yourself: --vouch ROLE",
            )
        return current, seen

    def _lacking(self, plan: ConversionPlan) -> dict[str, int]:
        held = self._tools.ring.held()
        wanted = {"root": (plan.root_keys, plan.root_threshold)}
        wanted |= {name: (role.keys, role.threshold) for name, role in plan.roles.items()}
        return {
            name: lacking
            for name, (keys, threshold) in wanted.items()
            if (lacking := threshold - len(held.among(keys, list(keys)))) > 0
        }

    def _build(
        self, wish: Wish, current: Current, seen: Preview, online: Mapping[str, Key]
    ) -> Built:
        now, plan = self._tools.clock(), seen.plan
        is_new = wish.beside is not None
        root = plan.root(online)
        root.version = 1 if is_new else current.root.version + 1
        root.expires = now + self._tools.expiries_of(TUF).root
        signers = self._tools.ring.open(
            TUF, plan.root_keys, list(plan.root_keys), at_most=plan.root_threshold
        )
        files = [UploadedFile("root", TUF.sign(root, signers))]
        versions = {"root": root.version}
        missing: dict[str, int] = {}
        for name, role in plan.roles.items():
            payload = copy.copy(role.payload)  # the plan stays as it was agreed to
            payload.version = 1 if is_new else payload.version
            payload.expires = now + self._tools.expiries_of(TUF).targets
            keys, entry = role.keys, Role(list(role.keys), role.threshold)
            made = self._tools.ring.open(TUF, keys, entry.keyids, at_most=role.threshold)
            data = TUF.sign(payload, made)
            lacking = signatures_missing(TUF, name, data, keys, entry)
            if lacking:
                missing[name] = lacking
            files.append(UploadedFile(name, data))
            versions[name] = payload.version
        if not is_new:
            files += [
                UploadedFile(role, current.roles[role].data)
                for role in plan.left_out
                if role in current.roles
            ]
        if not missing:
            self._judge(None if is_new else current, files, root, wish.beside or wish.gun, now)
        return Built(TUF, tuple(files), versions, missing)

    def _judge(
        self,
        current: Current | None,
        files: Sequence[UploadedFile],
        root: Root,
        gun: str,
        now: datetime,
    ) -> None:
        """Ask the server's rules before the server."""
        keys = {role: [root.keys[keyid] for keyid in root.roles[role].keyids] for role in _ONLINE}
        judge_publication(
            current.as_served() if current is not None else None,
            files,
            gun=gun,
            online=OnlineKeys(keys["snapshot"], keys["timestamp"]),
            now=now,
        )

    def _add_signatures(
        self,
        current: Current,
        held: partial.Partial,
        show: Callable[[Sequence[str]], None] | None,
    ) -> Built:
        limits = Limits()
        parsed: dict[str, UnverifiedMetadata[Any]] = {
            item.role: TUF.parse(item.role, item.data, max_bytes=limits.max_bytes(item.role))
            for item in held.files
            if not item.role.startswith("targets/")
        }
        root = parsed.pop("root")
        versions = {"root": root.version, **{role: item.version for role, item in parsed.items()}}
        if current.trusted.root.data == root.data:
            return Built(TUF, (), versions, {})
        if current.trusted.dialect is not NOTARY:
            raise UsageError(f"{held.gun} was converted meanwhile", hint="delete the file")
        try:
            verify_converted_root(current.root, root, gun=current.gun)
        except RollbackError as error:
            raise _outdated(held.gun) from error
        if "targets" not in parsed:
            raise _outdated(held.gun)
        proposal = Proposal(held.gun, TUF, parsed)
        follows = CurrentSet({"root": root}, TUF)
        verify_untouched(proposal, follows, knows_all=False)
        # It says whose keys sign the other files, so it has to be the owner's before they do.
        verify_signed_by(parsed["targets"], root, "targets")
        before = {tuf_name(role): item for role, item in current.roles.items() if may_go_on(role)}
        for role, item in parsed.items():
            known = before.get(role)
            if item.version != (known.version + 1 if known is not None else 1):
                raise _outdated(held.gun)
        if show is not None:
            show(_in_words(current, parsed))
        signed = sign_proposal(proposal, follows, self._tools.ring, knows_all=False)
        missing = signed.missing(follows)
        files = tuple(
            UploadedFile(item.role, signed.files.get(item.role, item).data) for item in held.files
        )
        if not missing:
            self._judge(current, files, root.signed, held.gun, self._tools.clock())
        return Built(TUF, files, versions, missing)


def _outdated(gun: str) -> UsageError:
    return UsageError(
        f"the conversion of {gun} was made for an older state",
        hint="its owner makes it anew: tabellion convert GUN --to tuf",
    )


def _in_words(current: Current, parsed: Mapping[str, UnverifiedMetadata[Any]]) -> list[str]:
    """Say what changes, a line each, for somebody who is about to sign."""
    lines = [f"{current.gun} becomes a TUF 1.0 GUN; docker and notary can't read it any more"]
    before = {
        tuf_name(role): (role, item.signed)
        for role, item in current.roles.items()
        if may_go_on(role)
    }
    for role, item in parsed.items():
        was, old = before.get(role, (role, None))
        lines += [f"{was} as {role}: {line}" for line in targets_in_words(old, item.signed)] or [
            f"{was} goes on as {role}, and says the same"
        ]
    return lines
