"""A fetcher over the files of a Notary GUN in memory, which an attacker may change."""

from __future__ import annotations

import hashlib

from notary_gun import NotaryGun
from tabellion.core.dialect import NOTARY
from tabellion.errors import NotFoundError


class NotaryFiles:
    """Gives a GUN's files as a notary-server does: by version, by hash, current."""

    def __init__(self, gun: NotaryGun) -> None:
        self.gun = gun

    async def fetch(self, url: str, *, max_bytes: int) -> bytes:
        name = url.partition("/_trust/tuf/")[2].removesuffix(".json")
        for role, data in self.gun.files.items():
            version = NOTARY.parse(role, data, max_bytes=max_bytes).version
            digest = hashlib.sha256(data).hexdigest()
            if name in {role, f"{version}.{role}", f"{role}.{digest}"}:
                return data
        raise NotFoundError(url)
