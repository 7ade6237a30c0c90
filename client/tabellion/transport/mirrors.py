"""Several places for the same files, tried in turn; a mirror can only withhold."""

from __future__ import annotations

from collections.abc import Sequence

from tabellion.errors import NotFoundError, TransportError
from tabellion.transport.fetcher import Fetcher


class MirroredFetcher:
    """Asks mirrors for what the first server couldn't give.

    "Not found" is an answer, not a fault: it isn't asked for again elsewhere, lest a mirror
    decide which root is the newest.
    """

    def __init__(self, fetcher: Fetcher, server: str, mirrors: Sequence[str]) -> None:
        self._fetcher = fetcher
        self._places = [server.rstrip("/"), *(mirror.rstrip("/") for mirror in mirrors)]

    async def fetch(self, url: str, *, max_bytes: int) -> bytes:
        """Give the body from the first place that has one.

        Raises:
            TransportError: No place gave it; the first one's fault.
        """
        faults: list[TransportError] = []
        for place in self._places:
            try:
                return await self._fetcher.fetch(
                    place + url.removeprefix(self._places[0]), max_bytes=max_bytes
                )
            except NotFoundError:
                raise
            except TransportError as error:
                faults.append(error)
        raise faults[0]
