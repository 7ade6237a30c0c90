"""What may be given as a trust server's address."""

from __future__ import annotations

from urllib.parse import urlsplit


def server_url_fault(text: str) -> tuple[str, str] | None:
    """Say what is wrong with a server's base URL, and what to do; None if nothing is."""
    try:
        parts = urlsplit(text)
        is_good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        has_user = "@" in parts.netloc
    except ValueError:
        is_good = has_user = False
    if has_user:
        return (
            "the server's URL holds a user or a password",
            "leave it out; publishers give a token by TABELLION_TOKEN",
        )
    if not is_good:
        return (
            f"server {text[:100]!r} isn't an http or https URL",
            "it looks like https://trust.example or http://127.0.0.1:4443",
        )
    return None
