"""Errors of a request itself."""

from __future__ import annotations

from tabellion.errors import TabellionError


class RequestError(TabellionError):
    """The request itself can't be answered, whatever the GUN's state."""

    def __init__(self, message: str, *, status: int, name: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.name = name
