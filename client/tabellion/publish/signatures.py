"""How many signatures a file lacks."""

from __future__ import annotations

from collections.abc import Mapping

from securesystemslib.signer import Key
from tuf.api.metadata import Role

from tabellion.core.dialect import Dialect
from tabellion.core.roles import verify_threshold
from tabellion.errors import ThresholdError


def signatures_missing(
    dialect: Dialect, role: str, data: bytes, keys: Mapping[str, Key], entry: Role
) -> int:
    """Tell how many valid signatures a file lacks."""
    parsed = dialect.parse(role, data, max_bytes=max(len(data), 1))
    try:
        verify_threshold(parsed, role, keys, entry.keyids, entry.threshold)
    except ThresholdError as error:
        return error.needed - len(error.signed_by)
    return 0
