"""What every store promises, whatever engine lies below.

* A commit is one transaction: a reader, another process, or this one after ``kill -9`` sees all
  of it or nothing.
* A commit is compare-and-set on the GUN's revision, so no update gets lost. Revisions only
  grow, even across a delete: a publisher who read the old GUN can't write to the new one.
* The bytes of (gun, role, version) never change once stored.
* A role's current version never goes back.
* Bytes are checked against their SHA-256 on the way in and on the way out.

::

    TabellionError
    └── StorageError              the store can't be read or written
        ├── StaleHeadError        somebody else committed first; carries the current head
        ├── RestoredStoreError    it lacks changes that were told: a backup was restored
        ├── PendingFullError      a GUN has as many pending proposals as it may have
        ├── ClockError            by its clock, what this node signs would be expired already
        └── StoreCorruptionError  what is, or would be, stored contradicts itself
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Protocol

from tabellion.errors import TabellionError

if TYPE_CHECKING:
    from tabellion_server.storage.records import Record

TagEventKind = Literal["signed", "revoked"]
ChangeCategory = Literal["update", "deletion"]
AuditAction = Literal["opened", "signed", "published", "withdrawn", "expired", "dropped"]


class StorageError(TabellionError):
    """The store can't be read or written."""

    code = "storage"
    default_hint = "check the store's free space, permissions and that it is running"


class StaleHeadError(StorageError):
    """Another commit came first; nothing was written.

    Attributes:
        head: The current head, or None if the GUN doesn't exist (any more).
    """

    code = "stale-head"
    default_hint = "read the head again, judge the change again, commit again"

    def __init__(self, message: str, *, head: Head | None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.head = head


class RestoredStoreError(StorageError):
    """The store lacks changes that readers may have been shown; nothing was written.

    Attributes:
        missing: How many, at most.
    """

    code = "store-restored"
    default_hint = "once it's the store you mean to go on with: tabellion-server accept-restore"

    def __init__(self, message: str, *, missing: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.missing = missing


class PendingFullError(StorageError):
    """A GUN has as many pending proposals as it may have; nothing was written."""

    code = "pending-full"


class ClockError(StorageError):
    """This node's clock and the store's are so far apart that nothing can be signed."""

    code = "clock-wrong"


class StoreCorruptionError(StorageError):
    """What is, or would be, stored contradicts itself; nothing was written."""

    code = "store-corruption"
    default_hint = "stop writing to this store; compare it with a backup"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One version of one role's metadata, immutable.

    Attributes:
        role: Role name, top-level or delegated.
        version: The file's own version, 1 or more.
        sha256: Hex SHA-256 of ``data``.
        data: The bytes as published.
        stored_at: When they were published, aware UTC.
    """

    role: str
    version: int
    sha256: str
    data: bytes
    stored_at: datetime

    @classmethod
    def of(cls, role: str, version: int, data: bytes, *, stored_at: datetime) -> StoredFile:
        """Make one, hashing ``data``."""
        return cls(role, version, hashlib.sha256(data).hexdigest(), data, stored_at)


@dataclass(frozen=True, slots=True)
class FileRef:
    """Which bytes are current, without the bytes."""

    version: int
    sha256: str
    length: int


@dataclass(frozen=True, slots=True)
class Head:
    """A GUN's current state.

    Attributes:
        gun: Its name.
        dialect: Name of its dialect.
        revision: Grows by one with each commit; for compare-and-set.
        files: Role name to current file.
        changed_at: Moment of the last commit, aware UTC.
    """

    gun: str
    dialect: str
    revision: int
    files: Mapping[str, FileRef]
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class TagEvent:
    """What a target came to mean, or ceased to.

    Attributes:
        kind: ``signed`` or ``revoked``.
        target: Target path; for an image, its tag.
        role: Targets role that says so.
        version: That role's version.
        metadata_sha256: Hex SHA-256 of that role's file.
        digests: Algorithm to hex digest of the target.
        length: The target's length in bytes.
        at: When it was published, aware UTC.
        id: Given by the store, growing with time; 0 before.
    """

    kind: TagEventKind
    target: str
    role: str
    version: int
    metadata_sha256: str
    digests: Mapping[str, str]
    length: int
    at: datetime
    id: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the changefeed: a GUN got a new timestamp, or was dropped.

    Attributes:
        gun: The GUN.
        version: The timestamp's version; 0 for a deletion.
        sha256: Hex SHA-256 of the timestamp; empty for a deletion.
        category: ``update`` or ``deletion``.
        at: When, aware UTC.
        id: Given by the store, growing with time; 0 before.
    """

    gun: str
    version: int
    sha256: str
    category: ChangeCategory
    at: datetime
    id: int = 0


@dataclass(frozen=True, slots=True)
class Restoration:
    """What a restored backup means for one GUN.

    Attributes:
        skip: Versions that may have been signed online since its newest change: not to be signed.
        may_lack: Its publishers may have published since what is here.
        settled: Roles that were published after it: of these nothing is lacking any more.
    """

    skip: int
    may_lack: bool
    settled: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class OnlineKeyRow:
    """A key pair the server holds for a role of a GUN.

    Attributes:
        keyid: TUF key id.
        role: ``timestamp`` or ``snapshot``.
        public: JSON of the public key with its ``keyid``.
        sealed: Private key, encrypted by the master key.
        created_at: When it was made, aware UTC.
    """

    keyid: str
    role: str
    public: str
    sealed: bytes
    created_at: datetime


@dataclass(frozen=True, slots=True)
class PendingRow:
    """Files of a GUN that wait for signatures.

    Attributes:
        gun: The GUN, which may not exist yet.
        id: Hex SHA-256 over what is signed, see ``proposal_id``.
        versions: Role to version.
        files: Role to the file with the signatures it has.
        by: Who opened it, as a token service says; may be empty.
        created_at: When, aware UTC.
        expires_at: From when on it isn't pending any more.
        revision: Grows by one with each change; for compare-and-set. 0 before it's stored.
    """

    gun: str
    id: str
    versions: Mapping[str, int]
    files: Mapping[str, bytes]
    by: str
    created_at: datetime
    expires_at: datetime
    revision: int = 0


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What became of a pending proposal.

    Attributes:
        gun: The GUN.
        proposal: The proposal's id.
        action: What was done; ``dropped`` with its whole GUN.
        versions: Its roles and their versions.
        keyids: Keys whose signatures were added.
        by: Who did it, as a token service says; may be empty.
        at: When, aware UTC.
        id: Given by the store, growing with time; 0 before.
    """

    gun: str
    proposal: str
    action: AuditAction
    versions: Mapping[str, int]
    keyids: Sequence[str]
    by: str
    at: datetime
    id: int = 0


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One version of one role's metadata, without its bytes; see ``StoredFile``."""

    role: str
    version: int
    sha256: str
    length: int
    stored_at: datetime


class Store(Protocol):
    """Where metadata, heads, history, pending proposals and sealed online keys live.

    Any method may raise StorageError.
    """

    async def head(self, gun: str) -> Head | None:
        """Give the current state, or None if the GUN doesn't exist."""

    async def read(self, gun: str, role: str, version: int | None = None) -> StoredFile | None:
        """Give one version of a role, or the current one; None if there's no such file.

        Raises:
            StoreCorruptionError: The bytes aren't the ones that were stored.
        """

    async def read_hash(self, gun: str, role: str, sha256: str) -> StoredFile | None:
        """Give the version of a role that has a hex SHA-256; None if there's no such file.

        Raises:
            StoreCorruptionError: The bytes aren't the ones that were stored.
        """

    async def commit(
        self,
        gun: str,
        *,
        dialect: str,
        expected_revision: int | None,
        added: Sequence[StoredFile],
        removed_heads: Sequence[str] = (),
        events: Sequence[TagEvent] = (),
        changes: Sequence[Change] | None = None,
        converts: str | None = None,
        closes: AuditEntry | None = None,
        at: datetime,
    ) -> Head:
        """Publish in one transaction; give the new head.

        The highest version added of each role becomes current, unless a higher one is. A file
        that is there already with the same bytes stays as it is. Roles in ``removed_heads`` stop
        being current; their files stay readable by version. Each timestamp that is new is told
        in the changefeed.

        Args:
            gun: The collection.
            dialect: Its dialect, the same in every commit but one that converts it.
            expected_revision: Revision it was judged on; None if the GUN must not exist.
            added: Files to add, of any number of roles and versions.
            removed_heads: Roles to have no current file any more.
            events: History to append.
            changes: What the changefeed tells instead, with moments of its own: an import keeps
                the feed of the server it comes from. Their ids are given anew.
            converts: The dialect that the GUN had, where this gives it another. Its pending
                proposals are dropped with it: nobody could read them any more. All else stays.
            closes: If that proposal is pending, drop it and write this entry; else neither.
            at: The moment of the commit, aware.

        Raises:
            StaleHeadError: The revision isn't the expected one, or the proposal in ``closes`` was
                withdrawn meanwhile; carries the current head.
            StoreCorruptionError: A stored version or the dialect would change, or a file doesn't
                have its hash.
        """

    async def confirm(self, gun: str) -> None:
        """Return once what is there of a GUN is as safe as what a commit acknowledges.

        Readers may see a commit that couldn't be acknowledged, as replicas didn't have it in time.
        What its sender is told of it is told after this.

        Raises:
            StorageError: It isn't, for now.
        """

    async def guns(
        self, prefix: str = "", after: str | None = None, limit: int = 100
    ) -> list[Head]:
        """List GUNs that begin with ``prefix`` and sort behind ``after``, by code point."""

    async def delete(self, gun: str) -> bool:
        """Drop a GUN's files, head, history, proposals and online keys; say if there was anything.

        If so the changefeed tells it; what it told before stays, and so does the audit.
        """

    async def changes(
        self, gun: str | None, *, after: int | None = None, before: int | None = None, limit: int
    ) -> list[Change]:
        """Give the changefeed of one GUN or of all, oldest first.

        Args:
            gun: The GUN, None for all.
            after: The first ones above this id.
            before: Else the last ones below this id; without either the very last ones.
            limit: How many at most.
        """

    async def events(
        self, gun: str, *, target: str | None = None, before: int | None = None, limit: int = 100
    ) -> list[TagEvent]:
        """Give history newest first, with ids below ``before``, of one target or of all."""

    async def pending(self, gun: str) -> list[PendingRow]:
        """Give a GUN's pending proposals, oldest first."""

    async def put_pending(self, row: PendingRow, entry: AuditEntry, *, at_most: int) -> bool:
        """Write a proposal over the one at ``row.revision``, and what was done to it.

        Says False, and writes nothing, if it's at another revision by now.

        Args:
            row: The proposal; revision 0 for a new one.
            entry: What was done.
            at_most: How many a GUN may have.

        Raises:
            PendingFullError: A new one would be one too many.
        """

    async def close_pending(self, entry: AuditEntry) -> bool:
        """Drop a proposal and write the entry; False, and neither, if it isn't pending."""

    async def expire_pending(self, now: datetime) -> list[AuditEntry]:
        """Drop all GUNs' proposals that are past their expiry, and write and give their entries."""

    async def audit(
        self, gun: str, *, proposal: str | None = None, before: int | None = None, limit: int
    ) -> list[AuditEntry]:
        """Give what became of a GUN's proposals, or of one, newest first, with ids below one."""

    async def online_keys(self, gun: str, role: str) -> list[OnlineKeyRow]:
        """Give the online keys of a role, newest first."""

    async def oldest_online_keys(self, limit: int) -> list[tuple[str, OnlineKeyRow]]:
        """Give the first online keys of all that are held, each with its GUN."""

    async def add_online_key(
        self, gun: str, row: OnlineKeyRow, *, seen: Collection[str] | None = None
    ) -> bool:
        """Add a key; with ``seen``, only if the role has just these. Say whether it was added.

        Raises:
            StorageError: The role has a key of that id.
        """

    async def restoration(self, gun: str) -> Restoration:
        """Tell what was restored beneath a GUN, for whoever is about to sign for it.

        Raises:
            RestoredStoreError: A backup was restored, and nobody has called ``accept_restore``.
        """

    async def missing_changes(self) -> int:
        """Tell how many changes may have been told that aren't here; 0 if none.

        While there are any, commits raise RestoredStoreError.
        """

    async def accept_restore(self, *, skip: int | None = None, at: datetime) -> int:
        """Go on from a restored state, passing over what may have been signed since it.

        Args:
            skip: How many changes to take for lost; by default as many as are known to miss.
            at: The moment.

        Gives the number of changes taken for lost.
        """

    async def files(self, gun: str) -> list[FileInfo]:
        """List all versions of all roles of a GUN, in no order."""

    async def collect(self, gun: str, files: Collection[tuple[str, int]]) -> int:
        """Let go of the bytes of old versions, role and version each; gives how many bytes.

        Their numbers stay taken: no other bytes are stored under them. What is gone already is
        passed over.

        Raises:
            StorageError: One is a root, or the newest version of its role; nothing is let go.
        """

    def dump(self, *, with_bytes: bool = True) -> AsyncGenerator[Sequence[Record], None]:
        """Give all that is stored, each GUN as it is at one moment, in groups of bounded size.

        What the changefeed tells is never newer than its GUN.

        Args:
            with_bytes: Else files are given without their bytes, which then aren't read.

        Raises:
            StoreCorruptionError: A file's bytes aren't the ones that were stored.
        """

    async def begin_load(self) -> None:
        """Begin to fill a store that has nothing in it; till the end it can't be opened again.

        Raises:
            StorageError: There's something in it.
        """

    async def load(self, records: Sequence[Record]) -> None:
        """Write a group of what another store's ``dump`` gave, ids and moments as they are."""

    async def end_load(self) -> None:
        """Say that all of it is written."""

    async def now(self) -> datetime | None:
        """Give the moment by the store's own clock, aware UTC; None if it has none."""

    async def check(self) -> None:
        """Return if the store can serve; for readiness probes."""

    async def close(self) -> None:
        """Finish what was begun, then let go of everything; a second call does nothing."""
