"""The library's objects, made from the settings of this run."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from tabellion.cli import output
from tabellion.cli.context import Settings

if TYPE_CHECKING:
    from tabellion.publish.passphrases import Passphrases
    from tabellion.publish.publisher import Publisher
    from tabellion.verify import TrustClient

T = TypeVar("T")


def work(coroutine: Coroutine[Any, Any, T], what: str = "") -> T:
    """Run a coroutine to its end, with progress on a terminal if it takes long."""
    import asyncio  # noqa: PLC0415  # not needed for help

    if not what:
        return asyncio.run(coroutine)
    with output.progress(what):
        return asyncio.run(coroutine)


def trust_client(settings: Settings) -> TrustClient:
    """Make the verifier."""
    from tabellion.verify import TrustClient  # noqa: PLC0415  # not needed for help

    return TrustClient(
        settings.server,
        home=settings.home,
        ca=settings.ca,
        root=settings.root,
        root_fingerprint=settings.root_key,
        first_use=settings.first_use,
        trust_pinning=settings.trust_pinning,
        offline="last-known" if settings.offline == "last-known" else "deny",
    )


def passphrases() -> Passphrases:
    """Look for passphrases in variables and files; ask only at a terminal."""
    from tabellion.publish.passphrases import Passphrases  # noqa: PLC0415  # not needed for help

    return Passphrases(prompt=output.ask_passphrase if output.can_ask() else None)


@contextlib.asynccontextmanager
async def publisher(
    settings: Settings, secrets: Passphrases | None = None
) -> AsyncIterator[Publisher]:
    """Make the publisher, over a verifier of the same server and home."""
    from tabellion.publish.publisher import Publisher  # noqa: PLC0415  # not needed for help

    async with (
        trust_client(settings) as trust,
        Publisher(
            settings.server,
            home=settings.home,
            trust=trust,
            passphrases=secrets or passphrases(),
            ca=settings.ca,
            token=settings.token,
        ) as author,
    ):
        yield author
