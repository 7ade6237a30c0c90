"""The server's certificate: read, and taken anew when its files change."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Final

from tabellion.errors import ConfigurationError
from tabellion_server.logs import log
from tabellion_server.settings import Settings

_POLL_SECONDS: Final = 2.0


def tls_context(settings: Settings) -> ssl.SSLContext:
    """Make the context of a server that has a certificate. Blocks.

    Raises:
        ConfigurationError: The files can't be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_certificate(context, settings)
    return context


def _load_certificate(context: ssl.SSLContext, settings: Settings) -> None:
    certificate, key = settings.certificate, settings.certificate_key
    if certificate is None or key is None:
        return
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ssl.SSLError, ValueError) as error:
        raise ConfigurationError(
            f"server.tls: {certificate} and {key} can't be used: {error}",
            hint="give a PEM certificate chain and its unencrypted PEM key",
        ) from error


async def reload_tls(settings: Settings, context: ssl.SSLContext) -> None:
    """Take a changed certificate for new connections; runs until cancelled.

    A broken one is logged, not taken.
    """
    seen = refused = await asyncio.to_thread(_tls_stamp, settings)
    while True:
        await asyncio.sleep(_POLL_SECONDS)
        found = await asyncio.to_thread(_tls_stamp, settings)
        if found == seen:
            continue
        try:
            # Tried on a context of its own: a pair half replaced must not reach the live one.
            await asyncio.to_thread(tls_context, settings)
            await asyncio.to_thread(_load_certificate, context, settings)
        except ConfigurationError as error:
            # Tried again at each turn, as a change of mode may mend it; told once.
            if found != refused:
                log().error("certificate.not_reloaded", problem=error.message, hint=error.hint)
            refused = found
            continue
        seen = found
        log().info("certificate.reloaded")


def _tls_stamp(settings: Settings) -> list[tuple[int, int, int]]:
    stamps: list[tuple[int, int, int]] = []
    for path in (settings.certificate, settings.certificate_key):
        with contextlib.suppress(OSError):
            found = path.stat() if path else None
            if found:
                stamps.append((found.st_mtime_ns, found.st_ino, found.st_size))
    return stamps
