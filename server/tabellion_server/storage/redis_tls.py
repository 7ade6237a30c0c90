"""TLS to Redis and Valkey: whose certificates are taken, and what went wrong, in words."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from redis.asyncio.connection import SSLConnection
from redis.asyncio.sentinel import SentinelManagedSSLConnection

from tabellion.errors import ConfigurationError

_CA_HINT: Final = (
    "give a PEM file with the CA's certificate, readable for the server's user; a path is relative "
    "to the configuration's folder"
)
_UNKNOWN: Final = (
    "its certificate isn't trusted: storage.ca_file, or the system, doesn't know who signed it",
    "set storage.ca_file to the certificate of the CA that signed it",
)
_OTHER_NAME: Final = (
    "its certificate is for another host",
    "write a host in storage.url that it names; of Sentinels or a Cluster see server/README.md",
)
# OpenSSL's numbers of what a certificate lacks.
_CERTIFICATE: Final[dict[int, tuple[str, str]]] = {
    9: ("its certificate isn't valid yet", "check both machines' clocks"),
    10: ("its certificate is expired", "give the server a new one"),
    18: _UNKNOWN,
    19: _UNKNOWN,
    20: _UNKNOWN,
    62: _OTHER_NAME,
    64: _OTHER_NAME,
}


class TlsConnection(SSLConnection):
    """A connection whose certificates are judged by our context.

    The client library's own takes all that the system trusts, whatever CA it is given, and reads
    them again for each connection.
    """

    def __init__(self, *, tls: ssl.SSLContext, **options: Any) -> None:  # noqa: ANN401  (the client's own)
        super().__init__(**options)
        self.ssl_context.context = tls


class TlsMasterConnection(TlsConnection, SentinelManagedSSLConnection):
    """The same, to a master that Sentinels name."""


def tls_context(ca: Path | None) -> ssl.SSLContext:
    """Give what servers are verified with: the CAs of a PEM file and no others, or the system's.

    Raises:
        ConfigurationError: The file can't be read or holds no certificate.
    """
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    except ssl.SSLError as error:
        raise ConfigurationError(
            f"storage.ca_file {ca} holds no certificate in PEM", hint=_CA_HINT
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"storage.ca_file {ca} can't be read: {error.strerror}", hint=_CA_HINT
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def tls_problem(error: BaseException) -> tuple[str, str] | None:
    """Say what is the matter with TLS and what to do; None if it isn't that."""
    for each in causes(error):
        if isinstance(each, ssl.SSLCertVerificationError):
            other = (f"its certificate isn't trusted: {each.verify_message}", _UNKNOWN[1])
            return _CERTIFICATE.get(each.verify_code, other)
        if isinstance(each, ssl.SSLError):
            return _protocol_problem(each)
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """Give an error, what it came from, and so on."""
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in seen:
        seen.append(found)
        yield found
        found = found.__cause__ or found.__context__


def _protocol_problem(error: ssl.SSLError) -> tuple[str, str]:
    reason = error.reason or str(error)
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return (
            f"it refuses the TLS handshake, perhaps as it wants a client's certificate ({reason})",
            "Tabellion has none: set tls-auth-clients no (or optional) at the server, see its log",
        )
    if "ALERT" in reason or "UNSUPPORTED_PROTOCOL" in reason:
        return (
            f"it refuses the TLS handshake ({reason})",
            "see its log; it has to speak TLS 1.2 or later",
        )
    return (
        f"it doesn't speak TLS on this port ({reason})",
        "give its tls-port, or write redis:// in storage.url for a server without TLS",
    )
