"""The comma-separated ``key=value`` fields in a flag's value: ``type=image,source=IMAGE``."""

from __future__ import annotations

from collections.abc import Iterator

from tabellion.docker.command import Flag
from tabellion.errors import UsageError


class Fields:
    """A flag's value, taken apart; all but a replaced value stays as it was typed.

    Engines read keys with and without regard to case and spaces; here every spelling counts.

    Raises:
        UsageError: The value is quoted, which engines read differently, or is the next flag.
    """

    def __init__(self, flag: Flag) -> None:
        text = flag.value or ""
        if any(character in text for character in '"\r\n'):
            raise UsageError(
                f"{flag.name} {text[:100]!r} is quoted and can't be judged",
                hint="write it without quotes",
            )
        if text.startswith("-"):  # --mount --tmpfs=/x: its own value was left out
            raise UsageError(
                f"{flag.name} has the flag {text[:100]!r} for its value",
                hint=f"give {flag.name} a value of its own",
            )
        self._fields = text.split(",")

    def __str__(self) -> str:
        return ",".join(self._fields)

    @property
    def bare(self) -> list[str]:
        """Give the fields without ``=``."""
        return [field for field in self._fields if "=" not in field]

    def values(self, *keys: str) -> list[str]:
        """Give all values of these keys; engines differ on whether the first or the last counts."""
        return [field.partition("=")[2].strip() for _, field in self._find(keys)]

    def replace(self, keys: tuple[str, ...], value: str) -> None:
        """Put another value behind these keys."""
        for number, field in self._find(keys):
            self._fields[number] = f"{field.partition('=')[0]}={value}"

    def _find(self, keys: tuple[str, ...]) -> Iterator[tuple[int, str]]:
        for number, field in enumerate(self._fields):
            if field.partition("=")[0].strip().casefold() in keys:
                yield number, field
