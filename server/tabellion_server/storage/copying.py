"""Copying all of one store into another, whatever their engines: backups, and changing engines."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence

from tabellion_server.storage.interface import Store, StoreCorruptionError
from tabellion_server.storage.record_checks import check_records
from tabellion_server.storage.records import FileRecord, Fingerprint, HeadRecord, Record

Tell = Callable[[Counter[str]], None]

GUNS = "GUNs"
FILES = "files"
BYTES = "bytes"
ROWS = "rows"


async def copy_store(source: Store, target: Store, *, tell: Tell) -> Counter[str]:
    """Copy everything, then read it back and compare; gives counts.

    Args:
        source: What is copied; it may be in use.
        target: An empty store.
        tell: Is told the counts so far, now and then.

    Raises:
        StorageError: One of them failed, or the target isn't empty.
        StoreCorruptionError: The source is damaged, or what is read isn't what was written; the
            target is of no use.
    """
    counts: Counter[str] = Counter()
    given, read = Fingerprint(), Fingerprint()
    await target.begin_load()
    # Closed here, and not whenever nobody knows of them any more.
    async with contextlib.aclosing(source.dump()) as groups:
        async for group in groups:
            await asyncio.to_thread(check_records, group)
            await asyncio.to_thread(_take_in, given, group, counts)
            await target.load(group)
            tell(counts)
    async with contextlib.aclosing(target.dump()) as groups:
        async for group in groups:
            await asyncio.to_thread(_take_in, read, group, Counter())
    if given.hexdigest() != read.hexdigest():
        raise StoreCorruptionError(
            "what was written isn't what is read back", hint="look at the disk, then begin again"
        )
    await target.end_load()
    return counts


def _take_in(seen: Fingerprint, group: Sequence[Record], counts: Counter[str]) -> None:
    for record in group:
        seen.add(record)
        counts[ROWS] += 1
        if isinstance(record, HeadRecord):
            counts[GUNS] += 1
        elif isinstance(record, FileRecord):
            counts[FILES] += 1
            counts[BYTES] += len(record.file.data)
