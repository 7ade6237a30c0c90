from __future__ import annotations

import itertools
from datetime import timedelta

import pytest

from http_site import Site, new_signer, signed
from tabellion_server.settings import Settings

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def settings() -> Settings:
    return Settings(write_token=TOKEN, timestamp_life=timedelta(days=1))


async def test_without_the_token_nothing_can_be_written(site: Site) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert (await site.get("timestamp.key")).status == 401
    for role in ("snapshot", "timestamp"):
        assert (await site.get(f"{role}.key?dialect=tuf", **bearer)).status == 200
    forge = await site.forge()
    files = signed(forge, "root", "targets")
    before = await site.everything()
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
        response = await site.post(files, **headers)
        assert response.status == 401
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
        problem = await response.json()
        assert problem["code"] == "access-denied"
        assert "TABELLION_TOKEN" in problem["hint"]
        assert ("isn't it" in problem["detail"]) == ("Bearer wrong" in headers.values())
    assert await site.everything() == before
    assert (await site.post(files, **bearer)).status == 200
    before = await site.everything()
    assert (await site.client.session.delete(site.url(""))).status == 401
    key = await site.key("timestamp")
    assert (await site.client.session.post(site.url("timestamp.key"))).status == 401
    assert await site.key("timestamp") == key
    assert await site.everything() == before
    assert (await site.get("timestamp.json")).status == 200


async def test_without_the_token_nothing_is_proposed_signed_or_withdrawn(site: Site) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    for role in ("snapshot", "timestamp"):
        await site.get(f"{role}.key?dialect=tuf", **bearer)
    forge = await site.forge()
    forge.root.add_key(new_signer().public_key, "root")
    forge.root.roles["root"].threshold = 2
    files = signed(forge, "root", "targets")
    before = await site.everything()
    assert (await site.offer(files)).status == 401
    assert await site.everything() == before
    response = await site.offer(files, **bearer)
    assert response.status == 201
    number = (await response.json())["id"]
    before = await site.everything()
    url = site.at(f"/v1/guns/{site.gun}/pending/{number}")
    for headers in ({}, {**bearer, "Origin": "https://evil.example"}):
        assert (await site.offer(files, **headers)).status in {401, 403}
        response = await site.client.session.delete(url, headers=headers)
        assert response.status in {401, 403}
    assert await site.everything() == before
    assert (await site.client.session.get(url)).status == 200


async def test_a_web_page_may_not_write_even_with_the_token(site: Site) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Origin": "https://evil.example"}
    response = await site.client.session.delete(site.url(""), headers=headers)
    assert (response.status, (await response.json())["code"]) == (403, "cross-origin")


ODD_AUTHORIZATIONS = [
    b"",
    b"Bearer",
    b"Bearer ",
    b"Bearer \xff\xfe",
    b"\xff\xfe\x80",
    b"Bearer \xc3\xa9" + b"\xc3\xa9" * 100,
    b"Bearer " + TOKEN[:-1].encode(),
    b"Bearer " + TOKEN.encode() + b"0",
    b"Bearer " + TOKEN.upper().encode(),
    b"Bearer " + b"x" * 8000,
    b"Bearer " + b"x" * 9000,
    b"Bearer " + b"x" * 200_000,
    b"Bearer \x00",
    b"Basic eHg6eHg=",
    b"Basic " + TOKEN.encode(),
    b"Token " + TOKEN.encode(),
    TOKEN.encode(),
    b"Bearer\t" + TOKEN.encode(),
    b"Bearer wrong, Bearer " + TOKEN.encode(),
    b"Bearer wrong\r\nAuthorization: Bearer " + TOKEN.encode(),
]


async def test_an_odd_authorization_opens_nothing(site: Site) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    for role in ("snapshot", "timestamp"):
        assert (await site.get(f"{role}.key?dialect=tuf", **bearer)).status == 200
    response = await site.post(signed(await site.forge(), "root", "targets"), **bearer)
    assert response.status == 200
    before = await site.everything()
    path = site.url("").raw_path.encode()
    requests = (b"DELETE " + path, b"POST " + path, b"POST " + path + b"timestamp.key")
    for sent, request in itertools.product(ODD_AUTHORIZATIONS, requests):
        header = b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: "
        status, answer = await site.raw(request + header + sent + b"\r\n\r\n")
        # What isn't even HTTP is refused before it gets to us.
        is_http = len(sent) < 8190 and b"\x00" not in sent
        assert status == (401 if is_http else 400), (sent[:99], answer)
        assert TOKEN not in answer
    assert await site.everything() == before


async def test_the_scheme_may_be_in_any_case(site: Site) -> None:
    response = await site.get("timestamp.key", Authorization=f"bEARER  {TOKEN} ")
    assert response.status == 200
