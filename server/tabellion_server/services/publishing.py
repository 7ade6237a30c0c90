"""Publishing: judge, sign the server's part, commit all of it in one step."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import ChainMap
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, cast

from securesystemslib.signer import Key

from tabellion.core.conversion import is_conversion
from tabellion.core.dialect import NOTARY, TUF
from tabellion.core.proposal import proposal_id
from tabellion.core.publication import CurrentSet, Publication, UploadedFile, holds_threshold
from tabellion.core.roles import TOP_LEVEL_ROLES, key_material
from tabellion.core.transitions import judge_publication
from tabellion.errors import ConflictError, PublicationError, RefusedPublicationError
from tabellion_server.keys.example_keys import EXAMPLE_KEY_FINGERPRINTS
from tabellion_server.services.files import FEW_ROLES, MetadataFiles, Parsed, verify_whole
from tabellion_server.services.history import tag_events
from tabellion_server.services.locks import GunLocks
from tabellion_server.services.signing import (
    Clock,
    ReleaseSigner,
)
from tabellion_server.storage.interface import (
    AuditEntry,
    Head,
    StaleHeadError,
    Store,
    StoredFile,
    TagEvent,
)

_ATTEMPTS: Final = 20
_NUMBERED_ROOT = re.compile(r"([1-9][0-9]{0,17})\.root")


@dataclass(frozen=True)
class Published:
    """What a publication came to.

    Attributes:
        versions: Role to current version; of many roles those that were published to.
        unchanged: Everything uploaded was served already.
        is_new: The GUN didn't exist before.
    """

    versions: Mapping[str, int]
    unchanged: bool
    is_new: bool


@dataclass(frozen=True)
class _Prepared:
    added: Sequence[StoredFile]
    events: Sequence[TagEvent]
    publication: Publication
    removed: Sequence[str] = ()
    converts: str | None = None  # the dialect that the GUN had before


class Publisher:
    """Accepts publications; what was begun ends, even if the sender goes away."""

    def __init__(
        self,
        store: Store,
        files: MetadataFiles,
        signer: ReleaseSigner,
        locks: GunLocks,
        *,
        clock: Clock,
        allow_example_keys: bool,
    ) -> None:
        self._store = store
        self._files = files
        self._signer = signer
        self._locks = locks
        self._clock = clock
        self._allow_example_keys = allow_example_keys
        self._running: set[asyncio.Task[Published]] = set()

    async def publish(self, gun: str, upload: Sequence[UploadedFile], *, by: str = "") -> Published:
        """Accept an upload whole, or refuse it and change nothing.

        A role may be given as ``3.root`` where several roots come at once. If it is a pending
        proposal, that isn't pending any more; ``by`` is who completed it.

        Raises:
            ConflictError: Built on versions that aren't current any more.
            RefusedPublicationError: A rule is broken.
            VerificationError: A file is malformed, too large, expired or wrongly signed.
            StorageError: The store failed.
        """
        task = asyncio.create_task(self._publish(gun, upload, by))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def pending_key(self, gun: str, role: str) -> Key | None:
        """Give the server's newest key of a Notary GUN's role if no root ever named it yet.

        As in Notary, one that asks to rotate again gets the key that waits for its root.

        Raises:
            StorageError: The store failed.
        """
        held = (await self._signer.public_keys(gun, NOTARY)).of(role)
        head = await self._store.head(gun)
        if not held or head is None:
            return held[0] if held else None
        for version in range(1, head.files["root"].version + 1):
            file = await self._store.read(gun, "root", version)
            if file is None:
                continue
            root = await asyncio.to_thread(CurrentSet.parse, {"root": file.data}, NOTARY)
            if held[0].keyid in root.files["root"].signed.keys:
                return None
        return held[0]

    async def drain(self) -> None:
        """Wait until no publication is running."""
        while self._running:
            await asyncio.wait(self._running)

    async def _publish(self, gun: str, upload: Sequence[UploadedFile], by: str) -> Published:
        head: Head | None = None
        for _ in range(_ATTEMPTS):
            async with self._locks.of(gun):
                head = await self._store.head(gun)
                fresh = await self._without_known_roots(gun, head, upload)
                if head is not None and upload and not fresh:
                    return await self._unchanged(head, upload)
                try:
                    prepared = await self._prepare(gun, head, fresh)
                except PublicationError:
                    # Who finds its own bytes beneath what is current takes them for published.
                    await self._store.confirm(gun)
                    raise
                if prepared.publication.unchanged and head is not None:
                    return await self._unchanged(head, upload)
                at = prepared.added[-1].stored_at
                closes = await self._closing(gun, prepared.publication, by, at)
                try:
                    after = await self._store.commit(
                        gun,
                        dialect=prepared.publication.dialect.name,
                        expected_revision=head.revision if head else None,
                        added=prepared.added,
                        removed_heads=prepared.removed,
                        converts=prepared.converts,
                        events=prepared.events,
                        closes=closes,
                        at=at,
                    )
                except StaleHeadError:
                    continue  # another process of this server came first: judge again
                return Published(_versions(after, upload), unchanged=False, is_new=head is None)
        raise ConflictError(
            f"{gun} is being published to by too many others at once",
            versions=_versions(head, upload) if head else {},
        )

    async def _unchanged(self, head: Head, upload: Sequence[UploadedFile]) -> Published:
        await self._store.confirm(head.gun)
        return Published(_versions(head, upload), unchanged=True, is_new=False)

    async def _closing(
        self, gun: str, publication: Publication, by: str, at: datetime
    ) -> AuditEntry | None:
        """Give what is to be told of the proposal that a publication is, if one is pending.

        Raises:
            RefusedPublicationError: It was withdrawn: whoever kept a copy can't bring it back.
        """
        files: dict[str, Parsed] = {item.role: item for item in publication.roots[-1:]}
        files |= publication.targets
        every = [*publication.roots, *publication.targets.values()]
        for item in each_alone(every):
            await verify_not_closed(self._store, gun, item, {"withdrawn"})
        if len(publication.roots) > 1 or not files:
            return None
        number = await verify_not_closed(self._store, gun, files, {"withdrawn"})
        return AuditEntry(
            gun,
            number,
            "published",
            {role: item.version for role, item in files.items()},
            sorted({keyid for item in files.values() for keyid in item.signatures}),
            by,
            at,
        )

    async def _without_known_roots(
        self, gun: str, head: Head | None, upload: Sequence[UploadedFile]
    ) -> list[UploadedFile]:
        """Name each file by its role, and drop old roots that are stored just so.

        A publication sent again after a lost answer holds them, and isn't a conflict.
        """
        fresh: list[UploadedFile] = []
        for item in upload:
            numbered = _NUMBERED_ROOT.fullmatch(item.role)
            if numbered is None:
                fresh.append(item)
                continue
            stored = await self._store.read(gun, "root", int(numbered[1])) if head else None
            if stored is None or stored.data != item.data:
                fresh.append(replace(item, role="root"))
        return fresh

    async def _prepare(
        self, gun: str, head: Head | None, upload: Sequence[UploadedFile]
    ) -> _Prepared:
        if head is not None:
            verify_whole(head)
        now = self._clock()
        wanted = {item.role for item in upload}
        current = await self._files.served(head, wanted) if head else None
        dialect = current.dialect if current else None
        converts = await asyncio.to_thread(is_conversion, dialect, upload)
        online = await self._signer.public_keys(gun, TUF if converts else dialect)
        restored = await self._store.restoration(gun)

        def judge() -> Publication:
            judged = judge_publication(
                current,
                upload,
                gun=gun,
                online=online,
                now=now,
                may_lack=restored.may_lack,
                settled=restored.settled,
            )
            if not self._allow_example_keys:
                _refuse_example_keys(judged)
            return judged

        publication = await asyncio.to_thread(judge)
        if publication.unchanged:
            return _Prepared([], [], publication)
        held = current.files if current else {}
        if restored.skip and publication.snapshot is None:
            # Versions are passed over in both at once: the next commit knows of nothing lost.
            is_ours = holds_threshold(publication.root.signed, "snapshot", online.snapshot)
            publication = replace(publication, needs_snapshot=is_ours)
        prepared = await self._complete(gun, held, publication, now, skip=restored.skip)
        if not converts or head is None:
            return prepared
        gone = head.files.keys() - publication.targets.keys() - TOP_LEVEL_ROLES
        return replace(prepared, removed=sorted(gone), converts=head.dialect)

    async def _complete(
        self,
        gun: str,
        held: Mapping[str, Parsed],
        publication: Publication,
        now: datetime,
        *,
        skip: int,
    ) -> _Prepared:
        root, dialect = publication.root.signed, publication.dialect
        given: list[Parsed] = [*publication.roots, *publication.targets.values()]
        if publication.snapshot is not None:
            given.append(publication.snapshot)
        # It hashes them, so not on the event loop.
        added = await asyncio.to_thread(lambda: [_stored(item, now) for item in given])
        for item, file in zip(given, added, strict=True):
            self._files.keep_parsed(dialect, item, file.sha256)
        snapshot: StoredFile | Parsed | None = publication.snapshot or held.get("snapshot")
        if publication.needs_snapshot or snapshot is None:
            snapshot = await self._signer.snapshot(
                gun,
                root=root,
                previous=held.get("snapshot"),
                files={item.role: (item.version, item.data) for item in _named(publication)},
                dropped=publication.dropped,
                dialect=dialect,
                now=now,
                skip=skip,
            )
            added.append(snapshot)
        timestamp = await self._signer.timestamp(
            gun,
            root=root,
            previous=held.get("timestamp"),
            snapshot=snapshot,
            dialect=dialect,
            now=now,
            skip=skip,
        )
        added.append(timestamp)
        after = ChainMap(dict(publication.targets), cast("dict[str, Parsed]", held))
        events = await asyncio.to_thread(
            tag_events, held, after, new=publication.targets.keys(), at=now
        )
        return _Prepared(added, events, publication)


def each_alone(files: Sequence[Parsed]) -> list[Mapping[str, Parsed]]:
    """Give each file by itself, as what was proposed alone may come back in company.

    Of thousands of bins the owner's files only: nobody else can publish so many at once.
    """
    is_much = len(files) > FEW_ROLES
    return [{item.role: item} for item in files if not is_much or item.role in TOP_LEVEL_ROLES]


async def verify_not_closed(
    store: Store, gun: str, files: Mapping[str, Parsed], actions: Collection[str]
) -> str:
    """Give the id that files have as a proposal, unless that came to an end of a certain kind.

    Raises:
        RefusedPublicationError: It did.
        StorageError: The store failed.
    """
    number = await asyncio.to_thread(proposal_id, files)
    told = await store.audit(gun, proposal=number, limit=1)
    if told and told[0].action in actions:
        raise withdrawn(told[0])
    return number


def withdrawn(entry: AuditEntry) -> RefusedPublicationError:
    """Give the error for a proposal that was withdrawn, or expired, and is offered again."""
    return RefusedPublicationError(
        f"proposal {entry.proposal[:16]} of {entry.gun} was {entry.action} at "
        f"{entry.at:%Y-%m-%d %H:%M} UTC",
        rule="proposal-closed",
        hint="make it anew: what is signed then has another id",
    )


def _named(publication: Publication) -> Iterable[Parsed]:
    """List the files that the next snapshot names anew."""
    roots = publication.roots[-1:] if publication.dialect.lists_root else ()
    return [*roots, *publication.targets.values(), *publication.relisted.values()]


def _stored(item: Parsed, now: datetime) -> StoredFile:
    return StoredFile(item.role, item.version, item.sha256, item.data, now)


def _versions(head: Head, upload: Sequence[UploadedFile]) -> dict[str, int]:
    """Give what is current; of thousands of bins only those that were published to."""
    told = {*TOP_LEVEL_ROLES, *(item.role for item in upload)}
    is_much = len(head.files) > FEW_ROLES
    return {role: ref.version for role, ref in head.files.items() if not is_much or role in told}


def _refuse_example_keys(publication: Publication) -> None:
    """Refuse keys whose private halves come with the source."""
    lists: list[tuple[str, Iterable[Key]]] = [
        ("root", root.signed.keys.values()) for root in publication.roots
    ]
    for role, item in publication.targets.items():
        if item.signed.delegations is not None:
            lists.append((role, item.signed.delegations.keys.values()))
    for role, keys in lists:
        for key in keys:
            if hashlib.sha256(key_material(key)).hexdigest() in EXAMPLE_KEY_FINGERPRINTS:
                raise RefusedPublicationError(
                    f"{role} names key {key.keyid[:64]}, a published example key",
                    rule="example-key",
                    role=role,
                    keyid=key.keyid,
                    hint="anybody can sign with it; make your own: tabellion key generate",
                )
