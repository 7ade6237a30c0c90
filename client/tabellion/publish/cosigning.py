"""Adding signatures to a proposal: on a machine that asks the server, and on one that has none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from securesystemslib.signer import Signer

from tabellion.core.holders import holders_of
from tabellion.core.proposal import Proposal, Standing
from tabellion.core.proposal_rules import verify_base, verify_signatures
from tabellion.core.publication import CurrentSet, UploadedFile
from tabellion.core.roles import TOP_LEVEL_ROLES, role_keys
from tabellion.errors import (
    ConflictError,
    KeyStoreError,
    MalformedMetadataError,
    RefusedPublicationError,
    UsageError,
)
from tabellion.publish.base_files import base_of
from tabellion.publish.held_keys import HeldKeys
from tabellion.publish.signing import (
    Built,
    Expiries,
    KeyRing,
    incomplete,
    judge,
    with_snapshot,
)
from tabellion.publish.state import Current


def add_signatures(
    current: Current,
    files: Sequence[UploadedFile],
    ring: KeyRing,
    *,
    expiries: Expiries,
    now: datetime,
) -> Built:
    """Add what the keys here can add; without files if all of it is published already.

    Raises:
        UsageError: It was made for an older state, or nothing delegates to a role.
        MalformedMetadataError: It was changed after somebody signed it.
        KeyStoreError: No key here is one of those that are missing.
    """
    return _build(current, files, ring, sign_proposal, expiries=expiries, now=now)


def complete(
    current: Current,
    files: Sequence[UploadedFile],
    ring: KeyRing,
    *,
    expiries: Expiries,
    now: datetime,
) -> Built:
    """Make of a proposal what is to be uploaded: nothing is signed here but a snapshot.

    Raises:
        UsageError: It was made for an older state, or nothing delegates to a role.
        MalformedMetadataError: It was changed after somebody signed it.
    """

    def verified(proposal: Proposal, served: CurrentSet, _: KeyRing) -> Proposal:
        verify_untouched(proposal, served)
        return proposal

    return _build(current, files, ring, verified, expiries=expiries, now=now)


def _build(
    current: Current,
    files: Sequence[UploadedFile],
    ring: KeyRing,
    sign: Callable[[Proposal, CurrentSet, KeyRing], Proposal],
    *,
    expiries: Expiries,
    now: datetime,
) -> Built:
    dialect, served = current.trusted.dialect, current.as_served()
    proposal = Proposal.parse(current.gun, dialect, files)
    if proposal.is_served(served):
        return Built(dialect, (), proposal.versions, {})
    signed = sign(proposal, served, ring)
    if signed.missing(served):
        return incomplete(current, signed)
    whole, versions = with_snapshot(
        current,
        signed.upload,
        signed.versions,
        ring,
        expiries=expiries,
        now=now,
        root=signed.root,
    )
    built = Built(dialect, tuple(whole), versions, {}, base=base_of(current, signed.files))
    if "snapshot" not in versions:
        built = replace(built, snapshot=_of_snapshot(signed, served))
    try:
        judge(current, whole, now=now, root=signed.root)
    except RefusedPublicationError as error:
        if error.rule != "missing-snapshot":
            raise
        return built.waiting_for_snapshot(error)
    return built


def _of_snapshot(proposal: Proposal, served: CurrentSet) -> Standing:
    """Tell whose keys sign the snapshot that goes with a proposal: a publisher's, or the server's.

    Nothing but the server knows which of them it holds.
    """
    by = proposal.files.get("root") or served.files["root"]
    keys, entry = role_keys(by.signed, "snapshot")
    listed = {keyid: keys[keyid] for keyid in entry.keyids if keyid in keys}
    return Standing(
        role="snapshot",
        delegator="root",
        delegator_version=by.version,
        threshold=entry.threshold,
        keys=listed,
        holders=holders_of(by.signed),
        signed_by=(),
    )


def sign_proposal(
    proposal: Proposal, current: CurrentSet | None, ring: KeyRing, *, knows_all: bool = True
) -> Proposal:
    """Add the signatures of keys here that some threshold still lacks.

    Args:
        proposal: From anybody.
        current: What it's built on, or as much of it as is known; None if it founds the GUN.
        ring: The keys here.
        knows_all: What ``current`` doesn't hold isn't there; else it may be.

    For a delegated role only what its delegator stands for: a stranger's file can't make
    somebody sign as a role that nobody gave them.

    Raises:
        UsageError: It was made for another state, or the delegation isn't signed yet.
        MalformedMetadataError: It was changed after somebody signed it.
        KeyStoreError: No key here is one of those that are missing.
    """
    verify_untouched(proposal, current, knows_all=knows_all)
    standings = proposal.standings(current)
    signers: dict[str, dict[str, Signer]] = {}
    unfounded: list[Standing] = []
    held = ring.held()
    of_role: defaultdict[str, list[Standing]] = defaultdict(list)
    for standing in standings:
        of_role[standing.role].append(standing)
    for standing in sorted(standings, key=_is_delegated):
        ours = signers.setdefault(standing.role, {})
        above = of_role[standing.delegator] if standing.delegator in proposal.files else ()
        if _is_delegated(standing) and not _is_founded(above, signers, held):
            unfounded.append(standing)
            continue
        # One signature may count for the old and for the new root.
        lacking = standing.lacking - len(ours.keys() & standing.keys.keys())
        awaited = [keyid for keyid in standing.awaited if keyid not in ours]
        found = ring.open(proposal.dialect, standing.keys, awaited, at_most=max(lacking, 0))
        ours.update({signer.public_key.keyid: signer for signer in found})
    lacks = [standing for standing in standings if standing.lacking]
    if lacks and not any(signers.values()):
        for standing in unfounded:
            if held.among(standing.keys, standing.awaited):
                raise UsageError(
                    f"{proposal.gun} has no role {standing.role[:80]!r} with these keys yet",
                    hint=f"the holders of {standing.delegator[:80]} sign the delegation first",
                )
        raise _nothing_to_add(proposal.gun, lacks[0], held)
    upload = [
        UploadedFile(role, proposal.dialect.add_signature(item.data, list(signers[role].values())))
        if signers.get(role)
        else UploadedFile(role, item.data)
        for role, item in proposal.files.items()
    ]
    return Proposal.parse(proposal.gun, proposal.dialect, upload)


def _nothing_to_add(gun: str, lacks: Standing, held: HeldKeys) -> KeyStoreError:
    """Tell those who signed already from those who can't."""
    wanted = ", ".join(
        f"{keyid[:12]} ({lacks.holders[keyid]})" if keyid in lacks.holders else keyid[:12]
        for keyid in lacks.awaited
    )
    done = held.among(lacks.keys, lacks.signed_by)
    if done:
        return KeyStoreError(
            f"{lacks.role} of {gun} is signed with your key {done[0][:12]} already, and "
            f"{lacks.lacking} more of its keys must sign",
            hint=f"pass it on to a holder of {wanted[:200]}",
        )
    return KeyStoreError(
        f"no key of role {lacks.role} of {gun} that hasn't signed is here",
        hint=f"its keys are {wanted[:200]}; import one, or ask its holder",
    )


def _is_delegated(standing: Standing) -> bool:
    return standing.role not in TOP_LEVEL_ROLES


def _is_founded(
    above: Sequence[Standing], signers: Mapping[str, Mapping[str, Signer]], held: HeldKeys
) -> bool:
    """Tell whether a delegation may be gone by.

    It's published (nothing of its file is to be signed), or enough have signed the file it's in,
    or who holds a key of that signs it too, and so knows.

    Args:
        above: How the file it's in stands; empty if that isn't proposed.
        signers: Role to who signs it now.
        held: The keys here.
    """
    added = [signers.get(item.role, {}).keys() & item.keys.keys() for item in above]
    if all(item.lacking <= len(fresh) for item, fresh in zip(above, added, strict=True)):
        return True
    return any(added) or any(held.among(item.keys, item.signed_by) for item in above)


def verify_untouched(
    proposal: Proposal, current: CurrentSet | None, *, knows_all: bool = True
) -> None:
    """Refuse a proposal for another state, or one that isn't what others signed.

    Raises:
        UsageError: It doesn't follow what is current.
        MalformedMetadataError: It was changed after somebody signed it.
    """
    held = current.files if current is not None else {}
    # Of a GUN to be founded there is nothing to know.
    known = [role for role in proposal.files if knows_all or current is None or role in held]
    try:
        verify_base(
            replace(proposal, files={role: proposal.files[role] for role in known}), current
        )
    except ConflictError as error:
        hint = "nothing was signed; make it anew: tabellion sign or root prepare"
        if not knows_all:
            # Which of the two is behind can't be told here.
            message = error.message.replace(
                "which is current", "the newest that this machine knows"
            )
            hint = (
                "nothing was signed; if this machine is behind, give the root between (--root "
                "FILE); else have it made anew"
            )
            raise UsageError(message, hint=hint) from error
        raise UsageError(error.message, hint=hint) from error
    except RefusedPublicationError as error:
        raise UsageError(error.message, hint=error.hint) from error
    try:
        verify_signatures(proposal, current)
    except RefusedPublicationError as error:
        if error.rule == "bad-signature" and error.role is not None:
            item = proposal.files[error.role]
            raise MalformedMetadataError(
                f"{item.role} version {item.version} was changed after key "
                f"{str(error.keyid)[:16]} signed it",
                hint="nothing was signed; ask for the file anew",
            ) from error
        raise MalformedMetadataError(error.message, hint=error.hint) from error
