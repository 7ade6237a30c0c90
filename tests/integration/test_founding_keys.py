"""Which root key founds a GUN where none is named: the only one that fits, never a guess."""

from __future__ import annotations

from pathlib import Path

import pytest

from person import Person
from tabellion.cli.embedded import EmbeddedServer
from tabellion.core.dialect import NOTARY
from tabellion.errors import UsageError


async def test_a_root_key_that_does_not_fit_the_dialect_is_passed_over(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path / "owner") as owner:
        first = (await owner.publisher.init(f"{gun}/tuf")).root_keys[0]
        assert first.keytype == "ed25519"
        second = (await owner.publisher.init(f"{gun}/notary", dialect=NOTARY)).root_keys[0]
        assert second.keytype == "ecdsa"
        again = await owner.publisher.init(f"{gun}/again", dialect=NOTARY)
        assert [key.keyid for key in again.root_keys] == [second.keyid]
        kept = [info.keyid for info in owner.keys.list()]
        with pytest.raises(UsageError, match="2 root keys are here") as caught:
            await owner.publisher.init(f"{gun}/third")
        assert "--root-key-id" in caught.value.hint
        assert first.keyid[:16] in caught.value.message
        assert [info.keyid for info in owner.keys.list()] == kept
