"""``WWW-Authenticate``: what a registry wants before it answers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

# Nothing in these may match one stretch in two ways: whoever answers writes the header.
_SCHEME = re.compile(r"[\s,]*+([A-Za-z][A-Za-z0-9_-]*+)(?:\s++|$)(?!=)")
_PARAMETER = re.compile(
    r'[\s,]*+([A-Za-z][A-Za-z0-9_-]*+)\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"|([^\s,"]++))'
)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate: ``basic`` or ``bearer``, with its parameters."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """Parse the header's values; what can't be read is left out."""
    found: list[Challenge] = []
    for header in headers:
        position = 0
        while match := _SCHEME.match(header, position):
            position = match.end()
            parameters: dict[str, str] = {}
            while parameter := _PARAMETER.match(header, position):
                quoted, plain = parameter[2], parameter[3]
                value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                parameters.setdefault(parameter[1].lower(), value)
                position = parameter.end()
            found.append(Challenge(match[1].lower(), parameters))
    return found
