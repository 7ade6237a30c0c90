"""May this publication replace that state? Asked by the server, and by the client before upload.

A publication holds consecutive roots, targets roles, and, where the publisher holds the snapshot
key, a snapshot. Judging it changes nothing; the answer lists what is to be stored.

Spec: TUF 1.0.34, sections 3, 4 and 6; the rules' names are stable and appear in answers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from tuf.api.metadata import Root, Snapshot, Targets

from tabellion.core.conversion import (
    conversion_base,
    is_conversion,
    is_notary_upload,
    verify_whole,
)
from tabellion.core.dialect import NOTARY, TUF, Dialect
from tabellion.core.fitness import verify_root_fit, verify_targets_fit
from tabellion.core.freshness import verify_fresh
from tabellion.core.limits import Limits
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.notary_transitions import judge_notary_publication
from tabellion.core.publication import (
    CurrentSet,
    OnlineKeys,
    Publication,
    UploadedFile,
    holds_threshold,
)
from tabellion.core.roles import TOP_LEVEL_ROLES
from tabellion.core.succession import verify_converted_root, verify_next_root
from tabellion.core.targets_tree import TargetsTree, verify_signed_by
from tabellion.errors import (
    ConflictError,
    MalformedMetadataError,
    RefusedPublicationError,
    RollbackError,
    ThresholdError,
)

_SPEC_VERSION: Final = b'"spec_version"'


@dataclass
class _Judgement:
    """The state while one upload is judged; ``converts`` a Notary GUN, which ``current`` is of."""

    gun: str
    dialect: Dialect
    now: datetime
    limits: Limits
    current: Mapping[str, UnverifiedMetadata[Any]]
    may_lack: bool = False
    settled: Collection[str] = ()
    converts: bool = False
    roots: list[UnverifiedMetadata[Root]] = field(default_factory=list)
    targets: dict[str, UnverifiedMetadata[Targets]] = field(default_factory=dict)
    snapshot: UnverifiedMetadata[Snapshot] | None = None

    def versions(self) -> dict[str, int]:
        told = [*TOP_LEVEL_ROLES, *self.targets]
        return {role: self.current[role].version for role in told if role in self.current}

    @property
    def root(self) -> UnverifiedMetadata[Root]:
        return self.roots[-1] if self.roots else self.current["root"]


def judge_publication(
    current: CurrentSet | None,
    upload: Sequence[UploadedFile],
    *,
    gun: str,
    online: OnlineKeys,
    now: datetime,
    limits: Limits | None = None,
    may_lack: bool = False,
    settled: Collection[str] = (),
) -> Publication:
    """Judge an upload against what is served now.

    Args:
        current: What the GUN serves, None if it doesn't exist yet.
        upload: Files as received.
        gun: Name for error texts.
        online: Public keys that this server can sign with for the GUN.
        now: The moment of judgement, aware.
        limits: Size bounds.
        may_lack: What is served comes from a backup: files built on later versions, which are
            lost, may follow it.
        settled: Roles of which nothing is lost any more, as they were published since.

    Raises:
        ConflictError: Built on versions that aren't current any more.
        RefusedPublicationError: A rule is broken; ``.rule`` names it.
        NotaryRefusalError: The same for a Notary GUN, in Notary's words.
        VerificationError: A file is malformed, too large, expired or wrongly signed.
    """
    limits = limits or Limits()
    if current is not None and is_conversion(current.dialect, upload):
        return _judge_conversion(current, upload, gun=gun, online=online, now=now, limits=limits)
    dialect = current.dialect if current else dialect_of_upload(upload)
    if dialect is NOTARY:
        return judge_notary_publication(
            current, upload, gun=gun, online=online, now=now, limits=limits
        )
    if not upload:
        raise RefusedPublicationError("the publication holds no file", rule="empty-publication")
    judgement = _Judgement(
        gun, dialect, now, limits, current.files if current else {}, may_lack, settled
    )
    if _sort(judgement, upload):
        return Publication(
            dialect, (), {}, None, judgement.root, needs_snapshot=False, unchanged=True
        )
    return _judged(judgement, online)


def _judged(judgement: _Judgement, online: OnlineKeys) -> Publication:
    _judge_roots(judgement, online)
    _judge_targets(judgement)
    needs_snapshot = _judge_snapshot(judgement, online)
    return Publication(
        judgement.dialect,
        tuple(judgement.roots),
        judgement.targets,
        judgement.snapshot,
        judgement.root,
        needs_snapshot,
    )


def _judge_conversion(
    current: CurrentSet,
    upload: Sequence[UploadedFile],
    *,
    gun: str,
    online: OnlineKeys,
    now: datetime,
    limits: Limits,
) -> Publication:
    """Judge what makes a Notary GUN a TUF GUN by TUF's rules, and that nothing is left behind."""
    base = conversion_base(current, upload)
    judgement = _Judgement(gun, TUF, now, limits, base.files, converts=True)
    _sort(judgement, base.upload)
    publication = _judged(judgement, online)
    verify_whole(publication.targets)
    return replace(publication, dropped=base.dropped)


def dialect_of_upload(upload: Sequence[UploadedFile]) -> Dialect:
    """Tell by the first root what a GUN will speak, well-formed or not: it's judged after."""
    roots = [item for item in upload if item.role == "root" or item.role.endswith(".root")]
    told_by = roots or upload
    return TUF if not told_by or any(_SPEC_VERSION in item.data for item in told_by) else NOTARY


def _sort(judgement: _Judgement, upload: Sequence[UploadedFile]) -> bool:
    """Parse the upload into the judgement; tell whether all of it is served already."""
    unchanged = True
    for item in upload:
        if item.role == "timestamp":
            raise RefusedPublicationError(
                "the publication holds a timestamp", rule="timestamp-is-online", role="timestamp"
            )
        limit = judgement.limits.max_bytes(item.role)
        try:
            parsed: UnverifiedMetadata[Any] = judgement.dialect.parse(
                item.role, item.data, max_bytes=limit
            )
        except MalformedMetadataError as error:
            if judgement.current and is_notary_upload(upload):
                raise ConflictError(
                    f"{judgement.gun} speaks TUF 1.0, and this was signed for a Notary GUN",
                    versions=judgement.versions(),
                    hint="it was converted: publish with tabellion, not with docker or notary",
                ) from error
            raise
        served = judgement.current.get(item.role)
        if served is not None and served.data == item.data:
            continue
        unchanged = False
        _place(judgement, parsed)
    judgement.roots.sort(key=lambda root: root.version)
    return unchanged


def _place(judgement: _Judgement, parsed: UnverifiedMetadata[Any]) -> None:
    if parsed.role == "root":
        judgement.roots.append(parsed)
    elif parsed.role == "snapshot":
        if judgement.snapshot is not None:
            raise _twice("snapshot")
        judgement.snapshot = parsed
    elif parsed.role in judgement.targets:
        raise _twice(parsed.role)
    else:
        judgement.targets[parsed.role] = parsed


def _twice(role: str) -> RefusedPublicationError:
    return RefusedPublicationError(
        f"the publication holds {role[:80]} twice", rule="duplicate-role", role=role
    )


def _judge_roots(judgement: _Judgement, online: OnlineKeys) -> None:
    trusted: UnverifiedMetadata[Root] | None = judgement.current.get("root")
    for root in judgement.roots:
        expected = trusted.version + 1 if trusted is not None else 1
        if root.version != expected:
            if trusted is None:
                raise RefusedPublicationError(
                    f"the first root of {judgement.gun} has version {root.version}, not 1",
                    rule="root-versions",
                    role="root",
                    hint="upload all roots from version 1 on in one publication",
                )
            _conflict_unless_next(judgement, "root", root.version, expected)
        if trusted is None:
            verify_signed_by(root, root, "root")
        else:
            try:
                if judgement.converts and root is judgement.roots[0]:
                    verify_converted_root(trusted.signed, root, gun=judgement.gun)
                else:
                    verify_next_root(
                        trusted.signed, root, dialect=judgement.dialect, gun=judgement.gun
                    )
            except RollbackError as error:
                raise RefusedPublicationError(
                    error.message, rule="root-versions", role="root"
                ) from error
        verify_root_fit(root.signed)
        trusted = root
    if trusted is None:
        raise RefusedPublicationError(
            f"{judgement.gun} doesn't exist here and the publication holds no root",
            rule="missing-root",
            role="root",
            hint="create it first: tabellion init GUN",
        )
    verify_fresh("root", trusted.signed, judgement.now)
    if not holds_threshold(trusted.signed, "timestamp", online.timestamp):
        raise RefusedPublicationError(
            "the root's timestamp role needs keys that this server doesn't hold",
            rule="timestamp-is-online",
            role="root",
            hint="put the key of GET .../timestamp.key into the root, with threshold 1",
        )


def _judge_targets(judgement: _Judgement) -> None:
    if "targets" not in {*judgement.targets, *judgement.current}:
        raise RefusedPublicationError(
            f"{judgement.gun} has no targets yet and the publication holds none",
            rule="missing-targets",
            role="targets",
        )
    for role, item in judgement.targets.items():
        held = judgement.current.get(role)
        _conflict_unless_next(judgement, role, item.version, held.version + 1 if held else 1)
        verify_fresh(role, item.signed, judgement.now)
        verify_targets_fit(role, item.signed)
    TargetsTree(
        judgement.root,
        judgement.targets,
        judgement.current,
        visits=judgement.limits.delegations,
    ).verify()


def _judge_snapshot(judgement: _Judgement, online: OnlineKeys) -> bool:
    root = judgement.root.signed
    held: UnverifiedMetadata[Snapshot] | None = judgement.current.get("snapshot")
    if judgement.snapshot is None:
        if not holds_threshold(root, "snapshot", online.snapshot):
            if not judgement.targets and held is not None and _still_signed(judgement, held):
                return False
            raise RefusedPublicationError(
                "the root gives the snapshot role to the publisher, but there is no snapshot",
                rule="missing-snapshot",
                role="snapshot",
            )
        return bool(judgement.targets) or held is None or not _still_signed(judgement, held)
    snapshot = judgement.snapshot
    expected = held.version + 1 if held else 1
    _conflict_unless_next(judgement, "snapshot", snapshot.version, expected)
    verify_signed_by(snapshot, judgement.root, "snapshot")
    verify_fresh("snapshot", snapshot.signed, judgement.now)
    # Notary's snapshot listed other names; who reads on from there begins with the new keys.
    _verify_snapshot_content(judgement, snapshot, None if judgement.converts else held)
    return False


def _still_signed(judgement: _Judgement, held: UnverifiedMetadata[Snapshot]) -> bool:
    try:
        verify_signed_by(held, judgement.root, "snapshot")
    except ThresholdError:
        return False
    return True


def _verify_snapshot_content(
    judgement: _Judgement,
    snapshot: UnverifiedMetadata[Snapshot],
    held: UnverifiedMetadata[Snapshot] | None,
) -> None:
    wanted = {
        f"{role}.json": role
        for role in {*judgement.current, *judgement.targets}
        if role not in TOP_LEVEL_ROLES or role == "targets"
    }
    gone = set(held.signed.meta) - set(snapshot.signed.meta) if held else set()
    if set(snapshot.signed.meta) != set(wanted) or gone:
        odd = sorted(set(snapshot.signed.meta) ^ set(wanted) | gone)
        raise RefusedPublicationError(
            f"the snapshot lists other roles than are published: {', '.join(odd)[:200]}",
            rule="snapshot-content",
            role="snapshot",
        )
    for name, role in wanted.items():
        meta = snapshot.signed.meta[name]
        if (
            role not in judgement.targets
            and held is not None
            and meta == held.signed.meta.get(name)
        ):
            continue  # what stays is named as it was: no need to read it
        item = judgement.targets.get(role) or judgement.current[role]
        hashes = meta.hashes or {}
        fits = meta.version == item.version and meta.length in {None, len(item.data)}
        if not fits or hashes.get("sha256", item.sha256) != item.sha256 or set(hashes) - {"sha256"}:
            raise RefusedPublicationError(
                f"the snapshot doesn't name {name[:80]} version {item.version} as published",
                rule="snapshot-content",
                role="snapshot",
                hint="name version, length and sha256 of the very bytes",
            )


def _conflict_unless_next(judgement: _Judgement, role: str, version: int, expected: int) -> None:
    if version == expected:
        return
    may_lack = judgement.may_lack and role not in judgement.settled
    if may_lack and version > expected and role != "root":
        return
    if role in judgement.current:
        raise ConflictError(
            f"{role} version {version} was built on version {version - 1}, but version "
            f"{expected - 1} is current",
            versions=judgement.versions(),
        )
    raise RefusedPublicationError(
        f"the first version of {role[:80]} is {version}, not {expected}",
        rule="first-version",
        role=role,
    )
