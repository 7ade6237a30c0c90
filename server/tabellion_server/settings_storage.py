"""``storage.url``: which engine keeps the store, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

SQLITE: Final = "sqlite:///"
# Schemes of engines that several machines share, and an example of each.
SHARED: Final[dict[str, str]] = {}


def sqlite_file(url: str, folder: Path) -> Path | None:
    """Give the file that a store's URL names, relative to ``folder``; None for other engines.

    Raises:
        ValueError: No engine goes by that URL. It isn't repeated: it may hold a password.
    """
    if url.startswith(SQLITE):
        if url == SQLITE or "\0" in url:
            raise ValueError(f"give the file behind {SQLITE}")
        return folder / url.removeprefix(SQLITE)
    scheme = url.partition("://")[0] if "://" in url else ""
    if scheme in SHARED:
        return None
    told = f"{scheme}:// is" if scheme.isalnum() else "it's"
    raise ValueError(f"{told} no engine's address; give {' or '.join(examples())}")


def examples() -> list[str]:
    """Give an address of each engine."""
    return [f"{SQLITE}FILE", *SHARED.values()]


def shown_url(url: str) -> str:
    """Give a URL as it may be told and logged: without password and options."""
    parts = urlsplit(url)
    user, _, place = parts.netloc.rpartition("@")
    name = user.partition(":")[0]
    return f"{parts.scheme}://{name}{'@' if name else ''}{place}{parts.path}"
