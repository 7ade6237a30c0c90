"""TLS: which authorities are trusted."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final, Literal

from tabellion.errors import ConfigurationError

_HINT: Final = "check --ca or TABELLION_CA: it names a PEM file with certificates"


def tls_context(ca: Path | None) -> ssl.SSLContext | Literal[True]:
    """Give what aiohttp verifies servers with: the system's CAs, and extra ones from a PEM file.

    Without extra ones it's True: aiohttp has the system's ready, and reading them takes 20 ms.

    Raises:
        ConfigurationError: The file can't be read or holds no certificate.
    """
    if ca is None:
        return True
    try:
        text = ca.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"CA file {str(ca)!r} can't be read: {str(error.strerror).lower()}", hint=_HINT
        ) from error
    except UnicodeDecodeError:
        text = ""
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(cadata=text)
    except (ValueError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"CA file {str(ca)!r} holds no certificate in PEM", hint=_HINT
        ) from error
    return context
