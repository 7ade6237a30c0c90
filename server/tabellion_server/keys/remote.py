"""Online keys that live elsewhere: one signer URI per role, for all GUNs.

What is asked there is asked in threads of its own, and for so long only: a key management service
that hangs must not take the threads that answer readers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar, cast

from securesystemslib.signer import Key

from tabellion.core.dialect import NOTARY, Dialect
from tabellion.core.notary_keys import NotaryKey
from tabellion.errors import SignerError
from tabellion.publish.passphrases import Passphrases
from tabellion.publish.public_keys import check_fit
from tabellion.signers.registry import Found, RemoteSigners
from tabellion.signers.remote_keys import RemoteKey

_T = TypeVar("_T")
_THREADS: Final = 4
_PATIENCE_SECONDS: Final = 20.0


class RemoteOnlineKeys:
    """Finds and uses them. All but ``run`` blocks."""

    def __init__(self, uris: Mapping[str, str]) -> None:
        """Take role to signer URI; a token's PIN comes from ``TABELLION_PIN`` or its ``_FILE``."""
        self._uris = dict(uris)
        self._signers = RemoteSigners(Passphrases().pin)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="signers")

    def has(self, role: str) -> bool:
        """Tell whether new keys of a role live elsewhere."""
        return role in self._uris

    def newest(self, role: str, dialect: Dialect) -> tuple[Key, str]:
        """Read the newest key of a role; give it with the URI of that very key.

        Raises:
            KeyStoreError: There's no such key, or clients don't read such ones.
            SignerError: It can't be had now.
        """
        found = self._signers.find(self._uris[role])
        check_fit(found.key)
        return dialect.adopt_key(found.key), found.uri

    def private_key(self, uri: str, key: Key) -> RemoteKey:
        """Give what signs with the key that a URI names."""
        public = cast("NotaryKey", NOTARY.adopt_key(key)).public_key
        return self._signers.private_key(uri, public)

    def probe(self) -> dict[str, Found]:
        """Have each role's key sign something harmless; tell what they are.

        Raises:
            TabellionError: One can't be had or doesn't sign.
        """
        found = {role: self._signers.probe(uri) for role, uri in self._uris.items()}
        for each in found.values():
            check_fit(each.key)
        return found

    async def run(self, work: Callable[[], _T]) -> _T:
        """Do what asks elsewhere.

        Raises:
            SignerError: No answer came in time; or what the work raises.
        """
        asked = asyncio.get_running_loop().run_in_executor(self._pool, work)
        try:
            return await asyncio.wait_for(asked, _PATIENCE_SECONDS)
        except TimeoutError as error:
            raise SignerError(
                f"what holds the online keys didn't answer within {_PATIENCE_SECONDS:.0f} s"
            ) from error

    def close(self) -> None:
        """Ask nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
