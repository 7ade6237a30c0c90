"""A signer who comes back: what the role said before must not be believed again unawares.

A removed role's last file stays at the server, and counts again once a delegation lists the keys
that signed it: also what was withdrawn with the role, such as a thief's.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from tabellion.errors import UsageError

if TYPE_CHECKING:
    from tabellion.publish.draft import Draft

_SHOWN = 5


def refuse_return(draft: Draft, role: str, keyids: Collection[str], file: bytes | None) -> None:
    """Refuse a delegation by which withdrawn targets would be signed again.

    Args:
        draft: What is changed.
        role: The role that is delegated to.
        keyids: Its keys.
        file: The file it begins with, if one is given.

    Raises:
        UsageError: The role's last file, which these keys signed, lists targets.
    """
    left = draft.current.left.get(role)
    if left is None or not left.signed.targets or not left.signatures.keys() & set(keyids):
        return
    dialect = draft.current.trusted.dialect
    if file is not None:
        limit = draft.current.trusted.limits.targets_bytes
        if dialect.parse(role, file, max_bytes=limit).version > left.version:
            return
    targets = sorted(left.signed.targets)
    more = f" and {len(targets) - _SHOWN} more" if len(targets) > _SHOWN else ""
    raise UsageError(
        f"with a key that it had, {role[:80]} would come back with what was withdrawn: "
        f"{', '.join(target[:80] for target in targets[:_SHOWN])}{more}",
        hint="have its holder ask with another key: tabellion signer request GUN NAME --key NEW",
    )
