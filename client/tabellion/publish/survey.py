"""How a GUN's roles stand, for people to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from tuf.api.metadata import Root

from tabellion.core.expiry import UNKNOWN_LIFE, Margins, View, judge
from tabellion.core.holders import holders_of
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.notary_delegations import patterns_of
from tabellion.core.roles import role_keys
from tabellion.publish.changes import Change
from tabellion.publish.draft import Draft
from tabellion.publish.held_keys import HeldKeys
from tabellion.publish.outcome import SignerInfo, Status
from tabellion.publish.state import Current


def role_states(
    current: Current,
    staged: Sequence[Change],
    held: HeldKeys,
    *,
    now: datetime,
    margins: Margins | None = None,
) -> Status:
    """Tell versions, expiry, which roles these keys reach the threshold of, and what ends when.

    The hash bin that ends first stands for all of them.
    """
    trusted, draft = current.trusted, Draft(current, held)
    top = [trusted.root, trusted.snapshot, trusted.timestamp]
    standing = judge(view_of(current, held), now=now, margins=margins)
    told = {role.role for role in standing.roles}  # of hash bins the first to end
    files = (*top, *current.roles.values())
    found = [item for item in files if item is not None and item.role in told]
    entries = {name: role_keys(current.root, name) for name in ("root", "snapshot")}
    entries |= {name: draft.keys_of(name) for name in current.delegators if name in told}
    return Status(
        current.gun,
        tuple(staged),
        {item.role: item.version for item in found},
        {item.role: item.expires_at for item in found},
        tuple(
            name
            for name, (keys, entry) in entries.items()
            if len(held.among(keys, entry.keyids)) >= entry.threshold
        ),
        standing,
    )


def view_of(
    current: Current, held: HeldKeys, *, newer: Mapping[str, UnverifiedMetadata[Any]] | None = None
) -> View:
    """Give the files that expiry is judged on, with those of a publication in their place.

    Who holds the snapshot's key is known only if it's here; else it counts as the server's.
    """
    trusted = current.trusted
    top = [trusted.root, trusted.snapshot, trusted.timestamp]
    found = {item.role: item for item in (*top, *current.roles.values()) if item is not None}
    made = newer or {}
    root: Root = made["root"].signed if "root" in made else current.root
    entry = root.roles["snapshot"]
    is_local = len(held.among(root.keys, entry.keyids)) >= entry.threshold
    online = {"timestamp": UNKNOWN_LIFE} | ({} if is_local else {"snapshot": UNKNOWN_LIFE})

    return View(
        current.gun,
        {role: item.signed for role, item in {**found, **made}.items()},
        {role: item.signed_by for role, item in found.items()}
        | {role: tuple(item.signatures) for role, item in made.items()},
        online,
        held.name_of,
    )


def signer_infos(current: Current, held: HeldKeys) -> list[SignerInfo]:
    """List delegated roles in the order they are asked."""
    found: list[SignerInfo] = []
    for payload, role in Draft(current, held).delegations():
        keys, entry = role_keys(payload, role.name)
        file, named = current.roles.get(role.name), holders_of(payload)
        found.append(
            SignerInfo(
                role.name,
                tuple(keys[keyid] for keyid in entry.keyids if keyid in keys),
                tuple(patterns_of(role)),
                entry.threshold,
                role.terminating,
                file.version if file is not None else None,
                file.expires_at if file is not None else None,
                tuple(held.among(keys, entry.keyids)),
                current.delegators.get(role.name, "targets"),
                {keyid: who for keyid, who in named.items() if keyid in entry.keyids},
            )
        )
    return found
