"""Hash bins: one delegation that spreads targets over 2^n roles by the hash of their path.

A bin's name is the prefix, a hyphen, and the first ``bit_length`` bits of the path's SHA-256 in
hex. Whoever signs one target signs its bin and a snapshot, however many targets there are.

Spec: TAP 15; as in python-tuf and go-tuf the search ends in the bin.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from tuf.api.metadata import SuccinctRoles, Targets

from tabellion.errors import UsageError

MAX_BITS: Final = 13
"""8192 bins: their names, versions and hashes fill half of the largest snapshot clients read."""


def bins_of(targets: Targets | None) -> SuccinctRoles | None:
    """Give the bins that a file delegates to, None if it delegates otherwise or not at all."""
    if targets is None or targets.delegations is None:
        return None
    return targets.delegations.succinct_roles


def is_bin(bins: SuccinctRoles | None, role: str) -> bool:
    """Tell whether a role is one of the bins."""
    if bins is None or not bins.is_delegated_role(role):
        return False
    # python-tuf also takes "bin-0A", "bin-+a" and "bin- a".
    return re.fullmatch("[0-9a-f]+", role[len(bins.name_prefix) + 1 :]) is not None


def bits_of(count: int) -> int:
    """Give n of 2^n bins.

    Raises:
        UsageError: Not a power of two from 2 to 2^13.
    """
    if count.bit_count() != 1 or not 1 < count <= 2**MAX_BITS:
        raise UsageError(
            f"{count} bins can't be made",
            hint=f"give a power of two from 2 to {2**MAX_BITS}, for 100 to 1000 targets in each",
        )
    return count.bit_length() - 1


def free_prefix(published: Collection[str]) -> str:
    """Give a prefix that no role ever had, and its next generation of bins can take.

    A name that a snapshot once listed stays there for ever, with a version that can't begin anew
    (TUF 5.5.5).

    Args:
        published: Names of roles that the snapshot lists.
    """
    taken = {name.rpartition("-")[0] for name in published}
    number = 1
    while f"bin{number}" in taken:
        number += 1
    return f"bin{number}"
