"""Looking at a proposal before anything is signed, and choosing one of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tabellion.core.proposal import Proposal
from tabellion.core.publication import CurrentSet, UploadedFile
from tabellion.core.transitions import dialect_of_upload
from tabellion.errors import UsageError
from tabellion.publish.cosigning import verify_untouched
from tabellion.publish.pending_api import PendingInfo
from tabellion.publish.signing import KeyRing
from tabellion.publish.words import changes_in_words

Show = Callable[[Sequence[str]], None]
"""Told in words what is about to be signed; raises to refuse."""


@dataclass(frozen=True)
class Examined:
    """A proposal beside what it's built on, for people to look at.

    Attributes:
        proposal: Its files, verified to be as the signers signed them.
        current: What is current; None if it founds the GUN.
        words: What it changes.
    """

    proposal: Proposal
    current: CurrentSet | None
    words: Sequence[str]


def examined(
    gun: str,
    files: Sequence[UploadedFile],
    current: CurrentSet | None,
    ring: KeyRing,
    *,
    overruled: str = "",
) -> Examined:
    """Read a proposal that follows ``current`` and say what it changes. It blocks.

    Raises:
        UsageError: It was made for another state.
        MalformedMetadataError: It was changed after somebody signed it.
    """
    found = worded(gun, files, current, ring, overruled=overruled)
    verify_untouched(found.proposal, current)
    return found


def worded(
    gun: str,
    files: Sequence[UploadedFile],
    current: CurrentSet | None,
    ring: KeyRing,
    *,
    overruled: str = "",
) -> Examined:
    """Read a proposal, fit or not, and say what it changes. It blocks."""
    dialect = current.dialect if current is not None else dialect_of_upload(files)
    proposal = Proposal.parse(gun, dialect, files)
    words = changes_in_words(proposal, current, names=ring.names())
    if overruled:
        forgets = "makes all readers forget what was seen here and the server doesn't show now"
        words = [*words, f"{forgets}: {overruled}"]
    return Examined(proposal, current, words)


def chosen(
    infos: Sequence[PendingInfo], gun: str, number: str, *, stale_too: bool = False
) -> PendingInfo:
    """Choose the proposal that is meant.

    Args:
        infos: What is pending.
        gun: The GUN, for error texts.
        number: The id or its beginning; empty if there's only one.
        stale_too: One that can't be published any more may be meant.

    Raises:
        UsageError: None or several fit.
    """
    found = [
        info
        for info in infos
        if info.id.startswith(number.lower()) and (number or stale_too or not info.is_stale)
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        which = f" that begins with {number[:16]!r}" if number else ""
        raise UsageError(
            f"nothing is pending for {gun}{which}", hint=f"see: tabellion pending list {gun}"
        )
    raise UsageError(
        f"{len(found)} proposals are pending for {gun}: "
        f"{', '.join(info.id[:16] for info in found)}",
        hint="give the id of one",
    )
