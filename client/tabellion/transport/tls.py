"""TLS: which authorities are trusted."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from tabellion.errors import ConfigurationError

_HINT: Final = "check --ca or TABELLION_CA: it names a PEM file with certificates"


def tls_context(ca: Path | None) -> ssl.SSLContext:
    """Make a verifying TLS context, with extra CAs from a PEM file.

    Raises:
        ConfigurationError: The file can't be read or holds no certificate.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca is not None:
        try:
            text = ca.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(
                f"CA file {str(ca)!r} can't be read: {str(error.strerror).lower()}", hint=_HINT
            ) from error
        except UnicodeDecodeError:
            text = ""
        try:
            context.load_verify_locations(cadata=text)
        except (ValueError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"CA file {str(ca)!r} holds no certificate in PEM", hint=_HINT
            ) from error
    return context
