"""What every part of publishing works with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tabellion.core.dialect import Dialect
from tabellion.publish.server_api import ServerApi
from tabellion.publish.signing import Expiries, KeyRing
from tabellion.publish.state import StateReader


@dataclass(frozen=True)
class Tools:
    """One server, one home folder, and the keys there.

    Attributes:
        api: The server.
        reader: Reads what is current there, verified.
        ring: The keys.
        home: The folder.
        expiries_of: How long what is signed lasts.
        clock: Gives the current moment, aware.
        locks: One for each GUN: whoever builds on what is current holds it.
    """

    api: ServerApi
    reader: StateReader
    ring: KeyRing
    home: Path
    expiries_of: Callable[[Dialect], Expiries]
    clock: Callable[[], datetime]
    locks: Mapping[str, asyncio.Lock]
