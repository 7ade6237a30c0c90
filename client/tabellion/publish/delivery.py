"""Getting a publication to the server: again after a lost race, once after a lost answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from tuf.api.metadata import Targets

from tabellion.core.limits import Limits
from tabellion.core.metadata import TrustedMetadata
from tabellion.core.publication import UploadedFile
from tabellion.errors import (
    ConflictError,
    NotFoundError,
    PublicationError,
    ServerAnswerError,
    TransferError,
    UnreachableError,
)
from tabellion.publish.lost import PublishedFiles
from tabellion.publish.retries import Retries
from tabellion.publish.server_api import ServerApi
from tabellion.publish.signing import Built

_TRY_AGAIN: Final = frozenset({429, 500, 502, 503, 504})
_OK: Final = range(200, 300)


class Delivery:
    """One publication on its way to the server.

    An upload without an answer may have been accepted. Before anything is built again, the
    server is asked for the very bytes: what was accepted isn't published twice, nor on top of
    what others published since.

    Attributes:
        attempts: How often it was built.
    """

    def __init__(self, api: ServerApi, gun: str, *, home: Path) -> None:
        self._api = api
        self._kept = PublishedFiles(home, gun)
        self._gun = gun
        self._unanswered: list[Built] = []
        self._before: Mapping[str, int] | None = None
        self._sent: Mapping[str, int] | None = None
        self.attempts = 0

    async def bring(self, build: Callable[[bool], Awaitable[Built]]) -> Built:
        """Build and upload until the server has it; gives what it has.

        Args:
            build: Builds on what is current; told whether an earlier one may be published.

        Raises:
            TabellionError: That of the last attempt.
        """
        retries = Retries()
        while True:
            retries.begin()
            self.attempts = retries.attempts
            try:
                return await self._attempt(build)
            except ConflictError as error:
                await retries.pause(error, is_fault=self._is_stuck())
            except (UnreachableError, TransferError) as error:
                await retries.pause(error, is_fault=True)
            except ServerAnswerError as error:
                if not may_pass(error):
                    raise
                await retries.pause(error, is_fault=True)

    async def _attempt(self, build: Callable[[bool], Awaitable[Built]]) -> Built:
        for earlier in self._unanswered:
            if await self._is_published(earlier):
                await asyncio.to_thread(self._kept.keep, earlier.files)
                return earlier
        built = await build(bool(self._unanswered))
        if built.files and not built.missing:
            self._before, self._sent = self._sent, dict(built.versions)
            await self._upload(built)
        return built

    def _is_stuck(self) -> bool:
        """Tell whether what lost the race was built on the same as before: nobody else published.

        Then the server shows another state than it judges by, and no number of attempts helps.
        """
        return self._sent is not None and self._before == self._sent

    async def _upload(self, built: Built) -> None:
        try:
            await self._api.upload(self._gun, built.files)
            await asyncio.to_thread(self._kept.keep, built.files)
        except (UnreachableError, TransferError):
            self._unanswered.append(built)
            raise
        except ServerAnswerError as error:
            if may_pass(error):
                self._unanswered.append(built)
            raise

    async def _is_published(self, built: Built) -> bool:
        """Ask for one file, then for the server's word.

        What can be read may still be lost, as long as the server hasn't acknowledged it: sent
        again, it does, or says that it was built upon.
        """
        if not await self._is_served(built):
            return False
        with contextlib.suppress(PublicationError):
            await self._api.upload(self._gun, built.files)
            return True
        return await self._is_served(built)

    async def have_acknowledged(self, current: TrustedMetadata[Targets]) -> None:
        """Have the server acknowledge a current file, and with it all that is there of the GUN."""
        with contextlib.suppress(PublicationError):  # it was built upon
            await self._api.upload(self._gun, [UploadedFile(current.role, current.data)])

    async def _is_served(self, built: Built) -> bool:
        """Compare one file: a publication is there whole or not at all."""
        file = built.files[0]
        name = built.dialect.file_name(file.role, built.versions[file.role])
        limit = Limits().max_bytes(file.role)
        try:
            return await self._api.metadata(self._gun, name, max_bytes=limit) == file.data
        except NotFoundError:
            return False


def may_pass(error: ServerAnswerError) -> bool:
    """Tell whether trying again may help: the server is unwell, or its answer unreadable."""
    return error.status in _TRY_AGAIN or error.status in _OK
