"""Signer URIs: ``SCHEME:PATH[?NAME=VALUE&...]``, in securesystemslib's words where it has some."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, quote

from tabellion.errors import KeyStoreError

_MAX_CHARS: Final = 1000
_TEXT = re.compile(r"[!-~]+")
FORMS: Final[Mapping[str, str]] = {
    "hsm": "hsm:[ID][?label=TOKEN]",
    "hv": "hv:NAME[/VERSION][?mount=PATH]",
    "gnupg": "gnupg:FINGERPRINT[?home=DIR]",
    "awskms": "awskms:KEY",
    "gcpkms": "gcpkms:projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/V",
    "azurekms": "azurekms://VAULT.vault.azure.net/keys/NAME[/VERSION]",
}
"""Scheme to how its URIs look."""
_PATHS: Final[Mapping[str, re.Pattern[str]]] = {
    "hsm": re.compile(r"[0-9]{0,40}"),
    "hv": re.compile(r"[A-Za-z0-9_.-]{1,128}(/[1-9][0-9]{0,8})?"),
    "gnupg": re.compile(r"[0-9A-F]{40}"),
    "awskms": re.compile(r"[A-Za-z0-9:/_-]{1,2048}"),
    "gcpkms": re.compile(
        r"projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+/cryptoKeyVersions/[0-9]+"
    ),
    "azurekms": re.compile(r"//[a-zA-Z0-9-]+\.vault\.azure\.net/keys/[A-Za-z0-9-]+(/[0-9a-f]+)?"),
}
_OPTIONS: Final[Mapping[str, tuple[str, re.Pattern[str]]]] = {
    "hsm": ("label", re.compile(r"[^\x00-\x1f\x7f]{1,32}")),
    "hv": ("mount", re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")),
    "gnupg": ("home", re.compile(r"/[^\x00-\x1f\x7f]*")),
}


@dataclass(frozen=True)
class SignerUri:
    """A well-formed signer URI.

    Attributes:
        scheme: One of ``FORMS``.
        path: What follows the colon, without the option.
        option: Value of the one option that the scheme has (token label, mount, folder) or None.
    """

    scheme: str
    path: str
    option: str | None = None

    def __str__(self) -> str:
        if self.option is None:
            return f"{self.scheme}:{self.path}"
        name, _ = _OPTIONS[self.scheme]
        return f"{self.scheme}:{self.path}?{name}={quote(self.option, safe='/')}"


def parse_signer_uri(text: str) -> SignerUri:
    """Read a signer URI.

    Raises:
        KeyStoreError: It's none, or of an unknown scheme.
    """
    scheme, colon, rest = text.partition(":")
    if not colon or scheme not in FORMS:
        raise KeyStoreError(
            f"{text[:80]!r} isn't a signer URI", hint=f"known: {', '.join(FORMS.values())}"
        )
    path, mark, query = rest.partition("?")
    if scheme == "gnupg":
        path = path.upper()
    option = _option(scheme, query) if mark else None
    is_well_formed = len(text) <= _MAX_CHARS and _TEXT.fullmatch(text) is not None
    if not is_well_formed or not _PATHS[scheme].fullmatch(path) or (mark and not option):
        raise KeyStoreError(f"{text[:80]!r} isn't well-formed", hint=f"write {FORMS[scheme]}")
    return SignerUri(scheme, path, option)


def _option(scheme: str, query: str) -> str | None:
    """Give the option's value, None if it isn't the one that the scheme has."""
    name, pattern = _OPTIONS.get(scheme, ("", re.compile("")))
    pairs = parse_qsl(query, keep_blank_values=True)
    if len(pairs) != 1 or pairs[0][0] != name or not pattern.fullmatch(pairs[0][1]):
        return None
    return pairs[0][1]
