"""What handlers share: services, settings, and the moment."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from tabellion_server.keys.online import OnlineKeys
from tabellion_server.services.clocks import ClockWatch
from tabellion_server.services.expiry import ExpiryJudge
from tabellion_server.services.feed import Feed
from tabellion_server.services.files import MetadataFiles
from tabellion_server.services.heads import Heads
from tabellion_server.services.locks import GunLocks
from tabellion_server.services.pending import Pendings
from tabellion_server.services.publishing import Publisher
from tabellion_server.services.signing import Clock
from tabellion_server.services.timestamping import Renewer
from tabellion_server.settings import Settings
from tabellion_server.storage.interface import Store


@dataclass(frozen=True)
class Context:
    """Everything a handler may use."""

    settings: Settings
    store: Store
    online: OnlineKeys
    heads: Heads
    files: MetadataFiles
    feed: Feed
    publisher: Publisher
    pendings: Pendings
    renewer: Renewer
    locks: GunLocks
    judge: ExpiryJudge
    clock: Clock
    clocks: ClockWatch


CONTEXT = web.AppKey("context", Context)
