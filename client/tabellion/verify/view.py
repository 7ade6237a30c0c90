"""One GUN as it was read by one update, and finding targets in it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from tabellion.core.anchors import Anchor
from tabellion.core.names import Gun, Reference
from tabellion.core.role_requests import RoleRequest, TargetMatch
from tabellion.core.search import find_digest, find_target, names_digest
from tabellion.core.trusted_set import TrustedSet
from tabellion.errors import DigestMismatchError, NotSignedError
from tabellion.verify.image import signed_digest
from tabellion.verify.updater import Updater

T = TypeVar("T")


@dataclass
class View:
    """One GUN as it was read by one update.

    Attributes:
        trusted: What is trusted of it.
        updater: Loads more of its roles.
        offline: It's the last known state.
        pinned: Why its root is trusted.
        began: Ordinal of the update; whoever asked before it may use it.
        anchors: Entries that its root met.
    """

    trusted: TrustedSet
    updater: Updater
    offline: bool
    pinned: str
    began: int
    anchors: tuple[tuple[str, Anchor], ...]

    def is_recent(self, now: datetime, max_age: timedelta) -> bool:
        """Tell whether it was read that short a time ago and nothing expired since."""
        trusted = self.trusted
        files = (trusted.root, trusted.timestamp, trusted.snapshot, trusted.targets)
        return timedelta(0) <= now - trusted.now < max_age and all(
            now < file.expires_at for file in files if file is not None
        )

    async def search(self, search: Generator[RoleRequest, None, T]) -> T:
        """Drive a search over the roles."""
        return await self.updater.search(self.trusted, search, offline=self.offline)


async def find_reference(view: View, reference: Reference) -> TargetMatch:
    """Find what an image reference names.

    Raises:
        NotSignedError: Nobody who may has signed it.
        DigestMismatchError: Its tag is signed with another digest than its own.
    """
    if reference.tag is None and reference.digest is not None:
        match = await view.search(find_digest(view.trusted, reference.digest))
        if match is None:
            raise NotSignedError(f"nobody has signed {reference}")
        return match
    match = await find_path(view, reference.gun, str(reference.tag), released=True)
    if reference.digest is not None and not names_digest(match.target, reference.digest):
        raise DigestMismatchError(
            f"{reference.name}:{reference.tag} is signed as "
            f"{signed_digest(match.target, match.path)}, not as {reference.digest}"
        )
    return match


async def find_path(view: View, gun: Gun, path: str, *, released: bool) -> TargetMatch:
    """Find a target; raises NotSignedError. See ``find_target`` for what ``released`` means."""
    match = await view.search(find_target(view.trusted, path, released=released))
    if match is None:
        command = f"tabellion sign --gun {gun} {path[:128]}"
        raise NotSignedError(
            f"nobody has signed {path[:128]!r} in {gun}",
            hint="" if released else f"ask the publisher to sign it: {command}",
        )
    return match
