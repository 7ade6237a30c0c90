"""Why a server can't be reached, in plain words."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from typing import Final

import aiohttp

from tabellion.errors import UnreachableError

_NETWORK: Final = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "it closed the connection",
    errno.EPIPE: "it closed the connection",
    errno.ENETUNREACH: "this machine has no network to it",
    errno.EHOSTUNREACH: "this machine has no network to it",
    errno.ETIMEDOUT: "no answer in time",
}
# X509_V_ERR_* of OpenSSL; the others are told in OpenSSL's words.
_CERTIFICATE: Final = {
    9: "its certificate isn't valid yet; check this machine's clock",
    10: "its certificate is expired",
    18: "its certificate isn't trusted: it vouches for itself",
    19: "its certificate isn't trusted: its CA isn't known here",
    20: "its certificate isn't trusted: its CA isn't known here",
    62: "its certificate is for another host name",
    64: "its certificate is for another address",
}
_UNTRUSTED: Final = frozenset({18, 19, 20})


def unreachable(where: str, error: Exception) -> UnreachableError:
    """Make our error of a foreign one."""
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return UnreachableError(
            f"can't reach {where}: its proxy {error.host}:{error.port} doesn't answer",
            hint="check HTTP_PROXY, HTTPS_PROXY and NO_PROXY",
        )
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return UnreachableError(
            f"can't reach {where}: its proxy answered {error.status}",
            hint="check HTTP_PROXY, HTTPS_PROXY and NO_PROXY, or ask the proxy's operator",
        )
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _bad_certificate(where, error.certificate_error)
    return UnreachableError(f"can't reach {where}: {_reason(error)}")


def _bad_certificate(where: str, error: Exception) -> UnreachableError:
    code = getattr(error, "verify_code", 0)
    said = getattr(error, "verify_message", "") or "it can't be verified"
    reason = _CERTIFICATE.get(code, f"its certificate isn't trusted: {said}")
    hint = "name its CA with --ca FILE" if code in _UNTRUSTED else "ask the server's operator"
    return UnreachableError(f"can't reach {where}: {reason}", hint=hint)


def _reason(error: Exception) -> str:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    if isinstance(cause, ssl.SSLError):
        return "no TLS is spoken there; is it an http address?"
    if isinstance(cause, socket.gaierror):
        is_later = cause.errno == socket.EAI_AGAIN
        return "its name can't be looked up now" if is_later else "no such host"
    if isinstance(cause, OSError) and cause.errno is not None:
        return _NETWORK.get(cause.errno) or os.strerror(cause.errno).lower()
    return "the connection failed"
