"""Errors of a request itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tabellion.errors import AccessDeniedError, TabellionError


class RequestError(TabellionError):
    """The request itself can't be answered, whatever the GUN's state."""

    def __init__(self, message: str, *, status: int, name: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.name = name


class UnauthorizedError(AccessDeniedError):
    """A token service's token is missing, not valid, or doesn't grant enough.

    Attributes:
        challenge: Value of the ``WWW-Authenticate`` header.
        access: What is demanded, as Notary's clients read it.
    """

    def __init__(
        self, message: str, *, challenge: str, access: Sequence[Mapping[str, str]], hint: str
    ) -> None:
        super().__init__(message, hint=hint)
        self.challenge = challenge
        self.access = [dict(item) for item in access]
