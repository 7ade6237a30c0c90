"""Somebody with a home folder who signs and verifies."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Self

import publisher_process
from tabellion.core.names import Digest
from tabellion.errors import NotSignedError
from tabellion.publish.keystore import KeyStore
from tabellion.publish.passphrases import Passphrases
from tabellion.publish.publisher import Publisher
from tabellion.verify.client import TrustClient


class Person:
    """Somebody with a home folder, who reaches the server at ``url``."""

    def __init__(
        self,
        url: str,
        home: Path,
        root: bytes | None = None,
        *,
        token: str | None = None,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        self.home = home
        self.trust = TrustClient(url, home=home, root=root, clock=clock)
        self.keys = KeyStore(home)
        self.publisher = Publisher(
            url,
            home=home,
            trust=self.trust,
            passphrases=Passphrases(environ=publisher_process.PASSPHRASES),
            token=token,
            clock=clock,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.publisher.__aexit__(None, None, None)
        await self.trust.__aexit__(None, None, None)

    async def sign(self, gun: str, target: str, content: str = "") -> dict[str, int]:
        digest = Digest.of((content or target).encode())
        return dict((await self.publisher.sign(gun, target, digest, 1)).versions)

    async def digest(self, gun: str, path: str) -> str | None:
        try:
            match = await self.trust.target(gun, path)
        except NotSignedError:
            return None
        return match.target.hashes["sha256"]

    async def signed(self, gun: str) -> dict[str, str]:
        return {
            match.path: match.target.hashes["sha256"] for match in await self.trust.targets(gun)
        }

    async def version(self, gun: str, role: str = "targets") -> int:
        return (await self.publisher.status(gun)).versions[role]


def twin(person: Person, home: Path, url: str) -> Person:
    """Give somebody else with the same keys and trust."""
    shutil.copytree(person.home, home)
    return Person(url, home)
