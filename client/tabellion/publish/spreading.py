"""Hash bins of a GUN: made with it, filled from another generation, and found for a change.

Spec: TAP 15.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from securesystemslib.signer import Key
from tuf.api.metadata import Delegations, SuccinctRoles, TargetFile, Targets

from tabellion.core.bin_keys import BinKeys, give_keys
from tabellion.core.bins import bins_of, bits_of, free_prefix, is_bin
from tabellion.core.publication import UploadedFile
from tabellion.core.roles import delegated_roles, role_keys
from tabellion.errors import UsageError
from tabellion.publish.changes import Change, RevokeTarget, SignTarget, SpreadTargets, Witness

if TYPE_CHECKING:
    from tabellion.publish.draft import Draft


def make_bins(
    targets: Mapping[str, TargetFile],
    keys: Sequence[Key],
    *,
    threshold: int,
    bits: int,
    prefix: str,
) -> tuple[Delegations, dict[str, Targets]]:
    """Give a delegation to 2^bits bins, and the bins with each target in its own."""
    listed = {key.keyid: key for key in keys}
    bins = SuccinctRoles(list(listed), threshold, bits, prefix)
    now = datetime.now(UTC)  # whoever signs them says when they expire
    files = {name: Targets(expires=now) for name in bins.get_roles()}
    for path, target in targets.items():
        files[bins.get_role_for_target(path)].targets[path] = target
    return Delegations(listed, None, bins), files


def no_bins(_: SuccinctRoles) -> Sequence[str]:
    """Choose none of a GUN's bins: who only looks at the roles beside them."""
    return ()


def bins_changed(changes: Sequence[Change], bins: SuccinctRoles) -> Collection[str]:
    """Choose the bins that changes speak of."""
    if any(isinstance(change, SpreadTargets) for change in changes):
        return list(bins.get_roles())
    witnessed = {change.role for change in changes if isinstance(change, Witness)}
    return {role for role in witnessed if is_bin(bins, role)} | {
        bins.get_role_for_target(change.target)
        for change in changes
        if isinstance(change, SignTarget | RevokeTarget)
    }


def bins_uploaded(files: Sequence[UploadedFile], bins: SuccinctRoles) -> Collection[str]:
    """Choose the bins that files are of; all where the delegation to them is among those."""
    roles = {item.role for item in files}
    return list(bins.get_roles()) if "targets" in roles else {r for r in roles if is_bin(bins, r)}


def spread(draft: Draft, change: SpreadTargets) -> None:
    """Move all targets into so many bins of a new generation.

    Are there so many already, they are renewed if need be, and signed by other keys if they shall
    have those.

    Raises:
        UsageError: The GUN has signers, whose delegations bins would take the place of.
    """
    current, targets = draft.current, draft.of("targets")
    signers = [role.name for role in delegated_roles(targets)]
    if signers:
        raise UsageError(
            f"{current.gun} has signers, and bins take the place of all other delegations",
            hint=f"remove them first: {', '.join(signers)[:200]}",
        )
    held, bits = bins_of(targets), bits_of(change.count)
    top_keys, top = role_keys(current.root, "targets")
    keys = list(change.keys) or [top_keys[keyid] for keyid in top.keyids]
    threshold = 1 if change.keys else top.threshold
    draft.touched.add("targets")
    names = list(held.get_roles()) if held is not None else []
    if held is not None and held.bit_length == bits:
        draft.touched.update(names)
        if set(held.keyids) != {key.keyid for key in keys}:
            give_keys(draft.edit("targets"), BinKeys(tuple(keys), threshold))
            draft.witnessed.update(names)
        return
    moved = dict(targets.targets)
    for name in reversed(names):
        # A path that targets lists itself is asked for there: that word stays.
        moved = {**draft.of(name).targets, **moved}
    prefix = free_prefix(current.published())
    payload = draft.edit("targets")
    payload.targets.clear()
    payload.delegations, files = make_bins(
        moved, keys, threshold=threshold, bits=bits, prefix=prefix
    )
    draft.payloads.update(files)
    for name in names:
        draft.payloads.pop(name, None)
