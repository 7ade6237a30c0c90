"""Every address this server answers."""

from __future__ import annotations

from aiohttp import web

from tabellion_server.web import changefeed, changes, metrics, operation, pending, state, trust


def add_routes(app: web.Application) -> None:
    """Wire addresses to handlers; those holding a GUN are taken apart by the handler."""
    get = app.router.add_get
    get("/v2/", operation.api_version)
    get("/healthz", operation.alive)
    get("/readyz", operation.ready)
    get("/_notary_server/health", operation.notary_health)
    get("/metrics", metrics.show)
    get("/v1/guns", state.list_guns)
    get("/v1/guns/{gun:.+}/pending", pending.list_pending)
    app.router.add_post("/v1/guns/{gun:.+}/pending", pending.offer)
    get("/v1/guns/{gun:.+}/pending/{id:[0-9a-f]{64}}", pending.show_pending)
    app.router.add_delete("/v1/guns/{gun:.+}/pending/{id:[0-9a-f]{64}}", pending.withdraw)
    get("/v1/guns/{gun:.+}/audit", pending.show_audit)
    get("/v1/guns/{gun:.+}", state.show_gun)
    get("/v1/history/{gun:.+}", state.show_history)
    get("/v1/changes", changes.show_changes)
    get("/v2/_trust/changefeed", changefeed.all_changes)
    get("/v2/{gun:.+}/_trust/changefeed", changefeed.gun_changes)
    app.router.add_route("*", "/v2/{path:.+}", trust.handle_trust)
