from __future__ import annotations

from datetime import timedelta

import pytest

from http_site import Site, signed
from tabellion_server.settings import Settings

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def settings() -> Settings:
    return Settings(write_token=TOKEN, timestamp_life=timedelta(days=1))


async def test_without_the_token_nothing_can_be_written(site: Site) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert (await site.get("timestamp.key")).status == 401
    for role in ("snapshot", "timestamp"):
        assert (await site.get(f"{role}.key", **bearer)).status == 200
    forge = await site.forge()
    files = signed(forge, "root", "targets")
    before = await site.everything()
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
        response = await site.post(files, **headers)
        assert response.status == 401
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
        assert (await response.json())["code"] == "access-denied"
    assert await site.everything() == before
    assert (await site.post(files, **bearer)).status == 200
    before = await site.everything()
    assert (await site.client.session.delete(site.url(""))).status == 401
    key = await site.key("timestamp")
    assert (await site.client.session.post(site.url("timestamp.key"))).status == 401
    assert await site.key("timestamp") == key
    assert await site.everything() == before
    assert (await site.get("timestamp.json")).status == 200


async def test_a_web_page_may_not_write_even_with_the_token(site: Site) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Origin": "https://evil.example"}
    response = await site.client.session.delete(site.url(""), headers=headers)
    assert (response.status, (await response.json())["code"]) == (403, "cross-origin")
