"""A node that PostgreSQL bears with for a second: ``paused_writer.py URL MARK``.

For each revision it's told on stdin it publishes on that, and says what became of it.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from storage.writer_process import AT, GUN, say
from tabellion_server.storage import postgres_link
from tabellion_server.storage.interface import StorageError, StoredFile
from tabellion_server.storage.postgres import PostgresStore
from tabellion_server.storage.postgres_link import Place

IDLE_SECONDS = 1
COMMIT_SECONDS = 0.5


async def main(url: str, mark: str) -> None:
    begin = postgres_link._BEGIN
    bound = f"idle_in_transaction_session_timeout = {IDLE_SECONDS * 1000}"
    postgres_link._BEGIN = begin.replace("idle_in_transaction_session_timeout = 15000", bound)  # type: ignore[misc]
    assert begin != postgres_link._BEGIN
    postgres_link.COMMIT_SECONDS = COMMIT_SECONDS  # type: ignore[misc]
    store = await PostgresStore.open(Place(url, url), high_water=Path(mark))
    say("ready")
    while line := await asyncio.to_thread(sys.stdin.readline):
        on = int(line)
        file = StoredFile.of("targets", on + 1, f"paused {on}".encode(), stored_at=AT)
        try:
            head = await store.commit(GUN, dialect="tuf", expected_revision=on, added=[file], at=AT)
            say(f"done {head.revision}")
        except StorageError as error:
            say(f"refused: {error.message}")
    say(f"missing {await store.missing_changes()}")
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
