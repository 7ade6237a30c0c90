"""Whose tokens are taken: the ``[auth]`` section, once it is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography import x509

NO_AUTH: Final = "none"
"""Whoever reaches the server may write: a firewall or a VPN decides, and its operator says so."""
_MAX_BUNDLE_BYTES: Final = 1024 * 1024
_NEEDED: Final = ("type", "realm", "service", "issuer", "root_cert_bundle")
_TEXT: Final = re.compile(r"[ -~]+")
_FORMS: Final = (
    ("realm", re.compile(r"https?://[!#-\[\]-~]+"), "an http or https URL"),
    ("service", _TEXT, "printable ASCII"),
    ("issuer", _TEXT, "printable ASCII"),
)


@dataclass(frozen=True, slots=True)
class TokenAuth:
    """A token service, as docker's registries and Notary's servers know it.

    Attributes:
        realm: Where clients fetch tokens.
        service: What its tokens name as their audience.
        issuer: What they name as their issuer.
        roots: Certificates of ``auth.root_cert_bundle``: tokens are signed by these keys, or by
            keys with a certificate of theirs.
        auto_redirect: Send clients to ``/auth/token`` at the host that they asked instead.
    """

    realm: str
    service: str
    issuer: str
    roots: tuple[x509.Certificate, ...] = field(repr=False)
    auto_redirect: bool = False


def load_roots(path: Path) -> tuple[x509.Certificate, ...]:
    """Read the certificates of a PEM file. Blocks.

    Raises:
        ValueError: It can't be read, or holds no certificate.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BUNDLE_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}") from error
    if len(data) > _MAX_BUNDLE_BYTES:
        raise ValueError(f"{path} is larger than {_MAX_BUNDLE_BYTES} bytes")
    try:
        return tuple(x509.load_pem_x509_certificates(data))
    except ValueError as error:
        raise ValueError(f"{path} isn't a PEM file of certificates") from error


def read_token_auth(
    values: Mapping[str, Any], given: Collection[str], fault: Callable[[str, str], None]
) -> TokenAuth | None:
    """Read the ``[auth]`` section; None if there is none, it says none, or is at fault. Blocks.

    Args:
        values: What could be read, by ``auth.KEY``.
        given: All keys that were given, also those that couldn't be read.
        fault: Takes a key and what is wrong with it.
    """
    others = [key for key in given if key.startswith("auth.") and key != "auth.type"]
    if values.get("auth.type") == NO_AUTH:
        for key in others:
            fault(key, f'auth.type "{NO_AUTH}" takes no other key')
        return None
    if not others and "auth.type" not in given:
        return None
    missing = [name for name in _NEEDED if f"auth.{name}" not in given]
    if missing:
        fault("auth", f"token authentication needs {', '.join(missing)}, too")
    found = {name: values.get(f"auth.{name}") for name in _NEEDED}
    if found["type"] not in {None, "token"}:
        fault("auth.type", 'give "token"; or "none", and whoever reaches this server may write')
    for name, pattern, wanted in _FORMS:
        text = found[name]
        if text is not None and not pattern.fullmatch(text):
            fault(f"auth.{name}", f"{text[:100]!r} isn't {wanted}")
    path: Path | None = found["root_cert_bundle"]
    if path is None:
        return None
    try:
        roots = load_roots(path)
    except ValueError as error:
        fault("auth.root_cert_bundle", str(error))
        return None
    return TokenAuth(
        realm=found["realm"] or "",
        service=found["service"] or "",
        issuer=found["issuer"] or "",
        roots=roots,
        auto_redirect=values.get("auth.auto_redirect", False),
    )
