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
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, cast

from securesystemslib.signer import Key
from tuf.api.metadata import Root

from tabellion.core.dialect import TUF
from tabellion.core.limits import Limits
from tabellion.core.names import Digest, Gun, parse_gun
from tabellion.core.roles import delegated_roles, role_keys
from tabellion.core.transitions import UploadedFile
from tabellion.errors import (
    ConflictError,
    PublicationError,
    ServerAnswerError,
    TransferError,
    UnreachableError,
    UsageError,
)
from tabellion.publish import partial
from tabellion.publish.birth import Pending, Plan, first_files
from tabellion.publish.changes import (
    AddSigner,
    Change,
    RemoveSigner,
    RevokeTarget,
    SignTarget,
    Staged,
)
from tabellion.publish.edits import apply
from tabellion.publish.keystore import KeyInfo, KeyStore
from tabellion.publish.passphrases import Passphrases
from tabellion.publish.retries import Retries
from tabellion.publish.server_api import HistoryEntry, ServerApi
from tabellion.publish.signing import (
    Built,
    Expiries,
    KeyRing,
    build,
    judge,
    no_key,
    signatures_missing,
    with_snapshot,
)
from tabellion.publish.state import Current, StateReader, Trust
from tabellion.verify.cache import MetadataCache

_TRY_AGAIN: Final = frozenset({429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Published:
    """What became of a publication.

    Attributes:
        gun: The GUN.
        versions: Role to version of the files published; empty if nothing had to change.
        attempts: How often it was built; above 1 if somebody else published first.
        incomplete: File to be passed to the next signer for ``cosign``; None if published.
        missing: Role to number of signatures that are missing still.
    """

    gun: str
    versions: Mapping[str, int]
    attempts: int = 1
    incomplete: Path | None = None
    missing: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Initialized:
    """A new GUN.

    Attributes:
        gun: Its name.
        root_keys: Keys of the root role; verifiers pin ``root_keys[0].fingerprint``.
        targets_keys: Keys of the targets role.
        root: Bytes of root version 1, for verifiers to start from.
        made: Keys that were generated for it.
    """

    gun: str
    root_keys: tuple[KeyInfo, ...]
    targets_keys: tuple[KeyInfo, ...]
    root: bytes
    made: tuple[KeyInfo, ...]


@dataclass(frozen=True)
class SignerInfo:
    """A delegated role.

    Attributes:
        name: Role name.
        keys: Its public keys.
        paths: Patterns of target paths it may sign.
        threshold: Keys needed.
        terminating: No later role is asked for its paths.
        version: Current version, None if it published nothing yet.
        expires_at: When that expires, None if it published nothing yet.
        held: Key ids whose private part is in this key store.
    """

    name: str
    keys: tuple[Key, ...]
    paths: tuple[str, ...]
    threshold: int
    terminating: bool
    version: int | None
    expires_at: datetime | None
    held: tuple[str, ...]


@dataclass(frozen=True)
class Status:
    """Staged changes of a GUN and, where the server was asked, its roles.

    Attributes:
        gun: The GUN.
        staged: Changes waiting for ``publish``.
        versions: Role to version.
        expires: Role to expiry.
        can_sign: Roles that the keys here reach the threshold of.
    """

    gun: str
    staged: tuple[Change, ...]
    versions: Mapping[str, int] = field(default_factory=dict)
    expires: Mapping[str, datetime] = field(default_factory=dict)
    can_sign: tuple[str, ...] = ()


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
            expiries: How long signed roles last.
            clock: Gives the current moment, aware.
        """
        self._home = home
        self._api = ServerApi(server, ca=ca, token=token)
        self._keystore = keystore or KeyStore(home)
        self._passphrases = passphrases or Passphrases()
        self._ring = KeyRing(self._keystore, self._passphrases)
        self._reader = StateReader(self._api, trust, home)
        self._staged = Staged(home)
        self._expiries = expiries or Expiries()
        self._clock = clock or (lambda: datetime.now(UTC))
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

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

        Raises:
            UsageError: It exists already, a threshold can't be met, or a key is missing.
        """
        name = parse_gun(gun)
        async with self._locks[name]:
            pending = Pending(self._home, name)
            files, made = await asyncio.to_thread(pending.read), list[KeyInfo]()
            if not files:
                if await self._api.exists(name):
                    raise _exists(name)
                online = {"timestamp": [await self._api.online_key(name, "timestamp")]}
                if snapshot == "server":
                    online["snapshot"] = [await self._api.online_key(name, "snapshot")]
                wanted = {"root": root_keys, "targets": targets_keys}
                thresholds = {"root": root_threshold, "targets": targets_threshold}
                files, made = await asyncio.to_thread(
                    self._first_files, name, wanted, thresholds, online
                )
                await asyncio.to_thread(pending.write, files)
            await self._send_first(name, files, pending)
        return await asyncio.to_thread(self._initialized, name, files, made)

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
    ) -> Published | None:
        """Sign a target (for an image: its tag) and publish just that, or stage it.

        Args:
            gun: The GUN.
            target: Target path.
            digest: Digest of the bytes; sha256.
            length: Their number.
            custom: More about it, JSON without floats.
            role: Role to sign as; by default targets if its key is here, else the first
                delegated role that covers the path and whose key is here.
            publish: False stages the change and gives None.

        Raises:
            KeyStoreError: No key here may sign that path.
        """
        change = SignTarget(target, digest, length, custom or {}, role)
        return await self._take(gun, change, publish=publish)

    async def revoke(
        self, gun: str, target: str, *, role: str | None = None, publish: bool = True
    ) -> Published | None:
        """Withdraw a target from ``role``, by default from every role whose key is here.

        Raises:
            NotSignedError: No role whose key is here lists it.
        """
        return await self._take(gun, RevokeTarget(target, role), publish=publish)

    async def stage(self, gun: str, change: Change) -> None:
        """Keep a change for ``publish``."""
        name = parse_gun(gun)
        await asyncio.to_thread(self._staged.add, name, [change])

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
        published = await self._publish(name, changes)
        await asyncio.to_thread(self._staged.drop, name, changes)
        return published

    async def status(self, gun: str, *, online: bool = True) -> Status:
        """Tell what is staged and, with ``online``, how the GUN's roles stand."""
        name = parse_gun(gun)
        staged = tuple(await asyncio.to_thread(self._staged.read, name))
        if not online:
            return Status(name, staged)
        current = await self._reader.read(name)
        trusted = current.trusted
        top = [trusted.root, trusted.snapshot, trusted.timestamp]
        found = [item for item in (*top, *current.roles.values()) if item is not None]
        held = await asyncio.to_thread(self._ring.held)
        roles = ["root", "snapshot", *current.delegators]
        return Status(
            name,
            staged,
            {item.role: item.version for item in found},
            {item.role: item.expires_at for item in found},
            tuple(role for role in roles if _reaches(current, role, held)),
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
        paths: Sequence[str] = ("*",),
        threshold: int = 1,
        terminating: bool = False,
        publish: bool = True,
    ) -> Published | None:
        """Delegate paths to a role; an existing one gets these keys and paths instead.

        Raises:
            InvalidNameError: A role name or a pattern isn't portable.
        """
        change = AddSigner(name, tuple(keys), tuple(paths), threshold, terminating)
        return await self._take(gun, change, publish=publish)

    async def remove_signer(self, gun: str, name: str, *, publish: bool = True) -> Published | None:
        """Withdraw a delegation: what only that role signed isn't signed any more."""
        return await self._take(gun, RemoveSigner(name), publish=publish)

    async def signers(self, gun: str) -> list[SignerInfo]:
        """List delegated roles in the order they are asked."""
        current = await self._reader.read(parse_gun(gun))
        held = await asyncio.to_thread(self._ring.held)
        found: list[SignerInfo] = []
        for by in current.roles.values():
            for role in delegated_roles(by.signed):
                keys, entry = role_keys(by.signed, role.name)
                file = current.roles.get(role.name)
                found.append(
                    SignerInfo(
                        role.name,
                        tuple(keys[keyid] for keyid in entry.keyids if keyid in keys),
                        tuple(role.paths or ()),
                        entry.threshold,
                        role.terminating,
                        file.version if file is not None else None,
                        file.expires_at if file is not None else None,
                        tuple(keyid for keyid in entry.keyids if keyid in held),
                    )
                )
        return found

    async def cosign(self, file: Path) -> Published:
        """Add the signatures of keys here to a partly signed publication; upload it when enough.

        Raises:
            KeyStoreError: No key here is one of those that are missing.
        """
        held = await asyncio.to_thread(partial.read, file)
        async with self._locks[held.gun]:
            current = await self._reader.read(held.gun)
            built = await asyncio.to_thread(self._add_signatures, current, held.files)
            if built.missing:
                await asyncio.to_thread(partial.write, file, held.gun, built.files)
                return Published(held.gun, {}, 1, file, built.missing)
            now = self._clock()
            await asyncio.to_thread(judge, current, built.files, now=now)
            await self._api.upload(held.gun, built.files)
            await asyncio.to_thread(partial.remove, file)
        return Published(held.gun, built.versions)

    async def history(
        self, gun: str, *, target: str | None = None, before: int | None = None, limit: int = 100
    ) -> list[HistoryEntry]:
        """Tell what a tag, or every tag, meant when; newest first. The server's word."""
        return await self._api.history(parse_gun(gun), target=target, before=before, limit=limit)

    async def _take(self, gun: str, change: Change, *, publish: bool) -> Published | None:
        name = parse_gun(gun)
        if publish:
            return await self._publish(name, [change])
        await asyncio.to_thread(self._staged.add, name, [change])
        return None

    async def _publish(self, gun: Gun, changes: Sequence[Change]) -> Published:
        async with self._locks[gun]:
            retries = Retries()
            while True:
                retries.begin()
                try:
                    return await self._attempt(gun, changes, retries)
                except ConflictError as error:
                    await retries.pause(error, is_fault=False)
                except (UnreachableError, TransferError) as error:
                    await retries.pause(error, is_fault=True)
                except ServerAnswerError as error:
                    if error.status not in _TRY_AGAIN:
                        raise
                    await retries.pause(error, is_fault=True)

    async def _attempt(self, gun: Gun, changes: Sequence[Change], retries: Retries) -> Published:
        """Build on what is current and upload; after a fault it may be there already."""
        current = await self._reader.read(gun)
        held = await asyncio.to_thread(self._ring.held)
        draft = apply(current, changes, held, again=retries.faults > 0)
        now = self._clock()
        built = await asyncio.to_thread(build, draft, self._ring, expiries=self._expiries, now=now)
        if not built.files:
            versions = current.versions(sorted(draft.touched)) if retries.faults else {}
            return Published(gun, versions, retries.attempts)
        if built.missing:
            path = partial.path_for(self._home, gun, built.versions)
            await asyncio.to_thread(partial.write, path, gun, built.files)
            return Published(gun, {}, retries.attempts, path, built.missing)
        await asyncio.to_thread(judge, current, built.files, now=now)
        await self._api.upload(gun, built.files)
        return Published(gun, built.versions, retries.attempts)

    async def _send_first(self, gun: Gun, files: Sequence[UploadedFile], pending: Pending) -> None:
        try:
            await self._api.upload(gun, files)
        except ConflictError as error:
            await asyncio.to_thread(pending.drop)
            raise _exists(gun) from error
        except PublicationError:
            await asyncio.to_thread(pending.drop)
            raise
        cache = MetadataCache.of(self._home, gun)
        async with cache.locked():
            await asyncio.to_thread(_pin, cache, files[0].data)
        await asyncio.to_thread(pending.drop)

    def _first_files(
        self,
        gun: Gun,
        wanted: Mapping[str, Sequence[str]],
        thresholds: Mapping[str, int],
        online: Mapping[str, Sequence[Key]],
    ) -> tuple[list[UploadedFile], list[KeyInfo]]:
        keys: dict[str, Sequence[Key]] = {}
        made: list[KeyInfo] = []
        for role in ("root", "targets"):
            chosen = self._choose(gun, role, wanted[role], made)
            if not 1 <= thresholds[role] <= len(chosen):
                raise UsageError(
                    f"{role} of {gun} has threshold {thresholds[role]} with {len(chosen)} keys",
                    hint=f"name more {role} keys, or lower the threshold",
                )
            keys[role] = [info.key for info in chosen]
        is_local = "snapshot" not in online
        if is_local:
            keys["snapshot"] = [info.key for info in self._choose(gun, "snapshot", (), made)]
        plan = Plan({**keys, **online}, thresholds)
        files = first_files(
            plan,
            self._ring,
            expiries=self._expiries,
            now=self._clock(),
            local_snapshot=is_local,
        )
        return files, made

    def _choose(
        self, gun: Gun, role: str, named: Sequence[str], made: list[KeyInfo]
    ) -> list[KeyInfo]:
        if named:
            return [self._keystore.find(text) for text in named]
        shared = role == "root"  # one root key for all of a publisher's GUNs, as in Notary
        found = [
            info for info in self._keystore.list(role=role, gun=gun) if shared or info.gun == gun
        ]
        if shared and len(found) > 1:
            raise UsageError(
                f"{len(found)} root keys are here", hint="name those that shall sign the root"
            )
        if found:
            return found
        passphrase = self._passphrases.new(role)
        info = self._keystore.generate(role, passphrase=passphrase, gun=None if shared else gun)
        self._passphrases.remember(info.keyid, passphrase)
        made.append(info)
        return [info]

    def _initialized(
        self, gun: Gun, files: Sequence[UploadedFile], made: Sequence[KeyInfo]
    ) -> Initialized:
        data = files[0].data
        root = cast("Root", TUF.parse("root", data, max_bytes=Limits().root_bytes).signed)
        return Initialized(
            gun,
            tuple(self._keystore.held(root.roles["root"].keyids)),
            tuple(self._keystore.held(root.roles["targets"].keyids)),
            data,
            tuple(made),
        )

    def _add_signatures(self, current: Current, files: Sequence[UploadedFile]) -> Built:
        """Add what the keys here can add to partly signed files."""
        signed: list[UploadedFile] = []
        versions: dict[str, int] = {}
        missing: dict[str, int] = {}
        added = 0
        for item in files:
            role, dialect = item.role, current.trusted.dialect
            keys, entry = current.keys_of(role)
            parsed = dialect.parse(role, item.data, max_bytes=Limits().targets_bytes)
            published = current.roles.get(role)
            if parsed.version != (published.version + 1 if published is not None else 1):
                raise ConflictError(
                    f"{role} version {parsed.version} doesn't follow the current one any more",
                    versions=current.versions([role]),
                    hint="make it anew with: tabellion sign",
                )
            fresh = [keyid for keyid in entry.keyids if keyid not in parsed.signatures]
            lacking = signatures_missing(dialect, role, item.data, keys, entry)
            signers = self._ring.open(fresh, at_most=lacking)
            added += len(signers)
            data = dialect.add_signature(item.data, signers) if signers else item.data
            lacking = signatures_missing(dialect, role, data, keys, entry)
            if lacking:
                missing[role] = lacking
            signed.append(UploadedFile(role, data))
            versions[role] = parsed.version
        if missing and not added:
            role = next(iter(missing))
            raise no_key(current.gun, role, current.keys_of(role)[1])
        if not missing:
            signed, versions = with_snapshot(
                current, signed, versions, self._ring, expiries=self._expiries, now=self._clock()
            )
        return Built(tuple(signed), versions, missing)


def _reaches(current: Current, role: str, held: Collection[str]) -> bool:
    entry = current.root.roles.get(role) or current.keys_of(role)[1]
    return len(set(entry.keyids).intersection(held)) >= entry.threshold


def _exists(gun: str) -> UsageError:
    return UsageError(
        f"{gun} exists on the server already",
        hint="sign in it, or ask its owner to add you as a signer",
    )


def _pin(cache: MetadataCache, root: bytes) -> None:
    """Trust the root just made, and nothing that was known of a GUN of that name before."""
    cache.drop("timestamp", "snapshot", "targets")
    for version in cache.root_versions():
        with contextlib.suppress(OSError):
            (cache.folder / "roots" / f"{version}.root.json").unlink()
    cache.save_root(1, root)
