"""The next root: other keys, thresholds or expiry, and all that has to be signed with it.

It is signed by the old and the new root keys that are here; with fewer than both thresholds it's
a proposal. What a changed role signed is signed anew in the same publication, so that no reader
is left with a file that nobody vouches for.

Spec: TUF 1.0.34, 6.1; notary-v1 sections 9 and 17.1.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from datetime import datetime

from securesystemslib.signer import Signer
from tuf.api.metadata import Root, Targets

from tabellion.core.bin_keys import give_keys, keys_after
from tabellion.core.bins import bins_of, is_bin
from tabellion.core.dialect import NOTARY, Dialect
from tabellion.core.names import Gun
from tabellion.core.next_root import RootEdit, next_root
from tabellion.core.notary_search import RELEASES
from tabellion.core.proposal import Proposal
from tabellion.core.publication import UploadedFile
from tabellion.core.trusted_set import TrustedSet
from tabellion.errors import ConflictError
from tabellion.publish.notary_release import hand_over
from tabellion.publish.signatures import signatures_missing
from tabellion.publish.signing import (
    Built,
    Expiries,
    KeyRing,
    incomplete,
    judge,
    no_key,
    with_snapshot,
)
from tabellion.publish.state import Current
from tabellion.publish.tools import Tools


def build_root_edit(
    current: Current,
    edit: RootEdit,
    ring: KeyRing,
    *,
    expiries: Expiries,
    now: datetime,
    may_be_unsigned: bool = False,
) -> Built:
    """Sign the next root and what depends on it, as far as the keys here go.

    Raises:
        UsageError: A role would have fewer keys than its threshold, or the edit doesn't fit.
        KeyStoreError: No key that has to sign is here, and it may not be unsigned.
        PassphraseError: A passphrase is missing or wrong.
    """
    dialect, old = current.trusted.dialect, current.root
    root = next_root(current.root, edit, current.trusted.dialect)
    root.expires = now + (edit.life or expiries.root)
    signers = {
        signer.public_key.keyid: signer
        for each in (old, root)
        for signer in _signers(dialect, ring, each, "root")
    }
    if not signers and not may_be_unsigned:
        raise no_key(current.gun, "root", old.roles["root"])
    files = [UploadedFile("root", dialect.sign(root, list(signers.values())))]
    versions = {"root": root.version}
    for role, payload, signers_of_role in _signed_anew(current, root, ring):
        payload.version = current.version_of(role) + 1
        life = expiries.bins if is_bin(current.bins, role) else expiries.targets
        payload.expires = now + life
        files.append(UploadedFile(role, dialect.sign(payload, signers_of_role)))
        versions[role] = payload.version
    proposal = Proposal.parse(current.gun, dialect, files)
    if proposal.missing(current.as_served()):
        return incomplete(current, proposal)
    files, versions = with_snapshot(
        current, files, versions, ring, expiries=expiries, now=now, root=root
    )
    judge(current, files, now=now, root=root)
    return Built(dialect, tuple(files), versions, {})


def root_alone(
    trusted: TrustedSet, edit: RootEdit, ring: KeyRing, *, expires_at: datetime
) -> bytes | None:
    """Sign the root after a trusted one by itself; None if the keys here are too few.

    Raises:
        UsageError: The edit doesn't fit.
        PassphraseError: A passphrase is missing or wrong.
    """
    dialect, old = trusted.dialect, trusted.root.signed
    root = next_root(old, edit, dialect)
    root.expires = expires_at
    signers = {
        signer.public_key.keyid: signer
        for each in (old, root)
        for signer in _signers(dialect, ring, each, "root")
    }
    data = dialect.sign(root, list(signers.values()))
    lacking = any(
        signatures_missing(dialect, "root", data, each.keys, each.roles["root"])
        for each in (old, root)
    )
    return None if lacking else data


async def edit_root(
    tools: Tools,
    gun: Gun,
    edit_of: Callable[[Current], Awaitable[RootEdit]],
    *,
    renews: Collection[str],
    forgets: bool = False,
    may_be_unsigned: Callable[[], bool] = lambda: False,
) -> tuple[Current, Built]:
    """Read what is current, and sign the next root and what depends on it; see ``build_root_edit``.

    Args:
        tools: What to work with.
        gun: The GUN.
        edit_of: Says what is to change, seeing what is current.
        renews: As for ``StateReader.read``.
        forgets: As for ``StateReader.read``.
        may_be_unsigned: Says, after ``edit_of``, whether it's fine if no key that has to sign is
            here.

    Returns:
        What it's built on, hash bins too where they get other keys, and the files.
    """
    current = await tools.reader.read(gun, renews=renews, forgets=forgets)
    current = await tools.reader.with_left(current)
    edit = await edit_of(current)
    if _changes_bins(current, edit):
        current = await tools.reader.with_bins(current, renews=renews, forgets=forgets)
    built = await asyncio.to_thread(
        build_root_edit,
        current,
        edit,
        tools.ring,
        expiries=tools.expiries_of(current.trusted.dialect),
        now=tools.clock(),
        may_be_unsigned=may_be_unsigned(),
    )
    return current, built


def _changes_bins(current: Current, edit: RootEdit) -> bool:
    targets = current.roles["targets"].signed
    return (
        keys_after(targets, current.root, next_root(current.root, edit, current.trusted.dialect))
        is not None
    )


def _signed_anew(
    current: Current, root: Root, ring: KeyRing
) -> Iterator[tuple[str, Targets, Sequence[Signer]]]:
    """Give the targets roles that the next root's keys don't vouch for as they are."""
    dialect, held = current.trusted.dialect, current.roles["targets"]
    entry = root.roles["targets"]
    wanted = keys_after(held.signed, current.root, root)
    if wanted is None and not signatures_missing(dialect, "targets", held.data, root.keys, entry):
        return
    targets = copy.deepcopy(held.signed)
    keys = [root.keys[keyid] for keyid in entry.keyids]
    is_handed_over = dialect is NOTARY and hand_over(current, targets, keys)
    if wanted is not None:
        give_keys(targets, wanted)
    signers = _signers(dialect, ring, root, "targets")
    yield "targets", targets, signers
    if is_handed_over:
        yield RELEASES, copy.deepcopy(current.roles[RELEASES].signed), signers
    bins = bins_of(targets)
    if wanted is None or bins is None:
        return
    published = [item for role, item in current.roles.items() if is_bin(bins, role)]
    if len(published) != bins.number_of_bins:
        raise ConflictError(
            f"{current.gun} got other hash bins while its root was read",
            versions=current.versions(["targets"]),
        )
    listed = {key.keyid: key for key in wanted.keys}
    signers = ring.open(dialect, listed, bins.keyids, at_most=bins.threshold)
    for item in published:
        if signatures_missing(dialect, item.role, item.data, listed, bins):
            yield item.role, copy.deepcopy(item.signed), signers


def _signers(dialect: Dialect, ring: KeyRing, root: Root, role: str) -> list[Signer]:
    entry = root.roles[role]
    return ring.open(dialect, root.keys, entry.keyids, at_most=entry.threshold)
