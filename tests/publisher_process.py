"""A publisher as a process, for tests to kill: says on stdout what it was told has been done.

``python publisher_process.py SERVER HOME GUN init|stage|sign PREFIX COUNT``
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

from tabellion.core.names import Digest
from tabellion.errors import UsageError
from tabellion.publish.passphrases import Passphrases
from tabellion.publish.publisher import Publisher
from tabellion.verify.client import TrustClient

PASSPHRASES = {
    "TABELLION_ROOT_PASSPHRASE": "root passphrase",
    "TABELLION_TARGETS_PASSPHRASE": "targets passphrase",
    "TABELLION_SIGNER_PASSPHRASE": "signer passphrase",
    "TABELLION_PIN": "123456",
}


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def main(server: str, home: Path, gun: str, work: tuple[str, str, int]) -> None:
    verb, prefix, count = work
    async with (
        TrustClient(server, home=home) as trust,
        Publisher(
            server, home=home, trust=trust, passphrases=Passphrases(environ=PASSPHRASES)
        ) as publisher,
    ):
        say("ready")
        if verb == "init":
            await publisher.init(gun)
            say("founded")
            return
        for number in range(count):
            target = f"{prefix}-{number}"
            await publisher.sign(gun, target, Digest.of(target.encode()), 1, publish=verb == "sign")
            say(target)
            if verb == "stage" and number % 2:
                with contextlib.suppress(UsageError):  # another process published it already
                    await publisher.publish(gun)
                say("published")


if __name__ == "__main__":
    url, folder, name, what, tag, number_of = sys.argv[1:]
    asyncio.run(main(url, Path(folder), name, (what, tag, int(number_of))))
