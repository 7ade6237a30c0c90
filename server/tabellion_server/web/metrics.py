"""What monitors count: requests under Notary's own names, so that dashboards stay, and expiry.

Only what has an operation is counted. Unlike Notary, an empty answer of 200 has code 200, not 0.

Spec: notary-v1 section 1.7.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from typing import Final

from aiohttp import web
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    ProcessCollector,
    Summary,
    values,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from tabellion.core.expiry import LEVELS
from tabellion_server.counter_files import FOLDER, WORKER
from tabellion_server.services.expiry import KINDS, Round
from tabellion_server.web.problems import Handler

_OPERATION = web.RequestKey("operation", str)
_PREFIX: Final = "notary_server_http_"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "DELETE"})


def _worker() -> str:
    """Name this process's files: there's never a second one with that number at a time."""
    return os.environ.get(WORKER, str(os.getpid()))


class Metrics:
    """The counters of one application; labels come from short fixed lists."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._is_shared = FOLDER in os.environ
        if self._is_shared:
            # By pid, as by default, each worker that died would leave files for ever.
            values.ValueClass = values.MultiProcessValue(_worker)  # type: ignore[no-untyped-call]
        if not self._is_shared:
            ProcessCollector(registry=self.registry)
        labels = ("operation",)
        self._requests = Counter(
            f"{_PREFIX}requests",
            "Requests answered.",
            ("code", "method", *labels),
            registry=self.registry,
        )
        self._duration = Summary(
            f"{_PREFIX}request_duration_microseconds",
            "From a request's head to its answer.",
            labels,
            registry=self.registry,
        )
        self._asked = Summary(
            f"{_PREFIX}request_size_bytes",
            "Bodies that were announced.",
            labels,
            registry=self.registry,
        )
        self._answered = Summary(
            f"{_PREFIX}response_size_bytes", "Bodies sent.", labels, registry=self.registry
        )

        self._guns = Gauge(
            "tabellion_expiry_guns",
            "GUNs by the level of a role's expiry.",
            ("role", "level"),
            multiprocess_mode="mostrecent",
            registry=self.registry,
        )
        self._soonest = Gauge(
            "tabellion_expiry_soonest_timestamp_seconds",
            "When the first GUN's role expires; infinite if none does.",
            ("role",),
            multiprocess_mode="mostrecent",
            registry=self.registry,
        )
        self._checked = Gauge(
            "tabellion_expiry_checked_timestamp_seconds",
            "When all GUNs had been looked at last.",
            multiprocess_mode="mostrecent",
            registry=self.registry,
        )
        self._missing = Gauge(
            "tabellion_store_missing_changes",
            "Changes that a restored store lacks; nothing is signed while it's above 0.",
            multiprocess_mode="mostrecent",
            registry=self.registry,
        )
        self._clock = Gauge(
            "tabellion_clock_ahead_seconds",
            "How far the node's clock is ahead of the store's; below 0 it's behind.",
            multiprocess_mode="mostrecent",
            registry=self.registry,
        )
        self._proposals_expired = Counter(
            "tabellion_proposals_expired",
            "Pending proposals that were dropped for want of signatures.",
            registry=self.registry,
        )

    def count_expired_proposals(self, number: int) -> None:
        """Count proposals that this process dropped."""
        self._proposals_expired.inc(number)

    def tell_clock(self, seconds: float) -> None:
        """Show how far this node is ahead of the store."""
        self._clock.set(seconds)

    def text(self) -> bytes:
        """Give what was counted; by all workers, if there are several. Blocks."""
        shown = self.registry
        if self._is_shared:
            shown = CollectorRegistry()
            MultiProcessCollector(shown)  # type: ignore[no-untyped-call]
        return generate_latest(shown)

    def tell_expiry(self, found: Round) -> None:
        """Show what a walk over all GUNs found; there's no label for a GUN, however many."""
        for kind in KINDS:
            for level in LEVELS:
                self._guns.labels(kind, level).set(found.guns.get((kind, level), 0))
            soonest = found.soonest.get(kind)
            self._soonest.labels(kind).set(math.inf if soonest is None else soonest.timestamp())
        self._checked.set(found.ended_at.timestamp())
        self._missing.set(found.missing)

    def count(self, request: web.Request, response: web.StreamResponse, *, seconds: float) -> None:
        """Count an answered request."""
        operation = request.get(_OPERATION)
        if not operation:
            return
        method = request.method.lower() if request.method in _METHODS else "other"
        self._requests.labels(str(response.status), method, operation).inc()
        self._duration.labels(operation).observe(seconds * 1e6)
        self._asked.labels(operation).observe(request.content_length or 0)
        size = response.body_length if response.prepared else response.content_length or 0
        self._answered.labels(operation).observe(size)


METRICS = web.AppKey("metrics", Metrics)


def note_operation(request: web.Request, operation: str) -> None:
    """Keep what the request is about; empty is not counted."""
    request[_OPERATION] = operation


@web.middleware
async def counted(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count every request that names an operation, refused ones too."""
    started = time.perf_counter()
    response = await handler(request)
    request.app[METRICS].count(request, response, seconds=time.perf_counter() - started)
    return response


async def show(request: web.Request) -> web.Response:
    """Answer ``/metrics``."""
    text = await asyncio.to_thread(request.app[METRICS].text)
    headers = {"Content-Type": CONTENT_TYPE_PLAIN_0_0_4, "Cache-Control": "no-store"}
    return web.Response(body=text, headers=headers)
