"""Every address this server answers."""

from __future__ import annotations

from aiohttp import web

from tabellion_server.web import changefeed, metrics, operation, state, trust


def add_routes(app: web.Application) -> None:
    """Wire addresses to handlers; those holding a GUN are taken apart by the handler."""
    get = app.router.add_get
    get("/v2/", operation.api_version)
    get("/healthz", operation.alive)
    get("/readyz", operation.ready)
    get("/_notary_server/health", operation.notary_health)
    get("/metrics", metrics.show)
    get("/v1/guns", state.list_guns)
    get("/v1/guns/{gun:.+}", state.show_gun)
    get("/v1/history/{gun:.+}", state.show_history)
    get("/v2/_trust/changefeed", changefeed.all_changes)
    get("/v2/{gun:.+}/_trust/changefeed", changefeed.gun_changes)
    app.router.add_route("*", "/v2/{path:.+}", trust.handle_trust)
