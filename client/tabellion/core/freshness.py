"""Expiry, judged against a moment that the caller took once at its start."""

from __future__ import annotations

from datetime import UTC, datetime

from tuf.api.metadata import Signed

from tabellion.errors import ExpiredMetadataError


def verify_fresh(role: str, signed: Signed, now: datetime) -> None:
    """Refuse metadata that is past its expiry.

    Args:
        role: Role, for error texts.
        signed: Its payload.
        now: The moment of judgement, aware.

    Raises:
        ExpiredMetadataError: ``now`` is at or after ``expires``.

    Spec:
        TUF 1.0.34, 5.1, 5.3.10, 5.4.4, 5.5.6, 5.6.5.
    """
    expired_at = signed.expires.replace(tzinfo=UTC)
    if now >= expired_at:
        raise ExpiredMetadataError(
            f"{role} version {signed.version} expired at {expired_at:%Y-%m-%dT%H:%M:%SZ}",
            role=role,
            expired_at=expired_at,
        )
