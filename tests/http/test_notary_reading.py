"""What docker's and notary's clients read: files by hash, caching, feed, health, plain paths."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer

from http_site import GUN, Clock, Site
from notary_forge import NotaryForge
from tabellion_server.app import make_app
from tabellion_server.keys.master import MasterKey
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.settings import Settings
from tabellion_server.storage.sqlite import SqliteStore

ANYTHING = {"Accept": "*/*"}


@dataclass
class NotarySite(Site):
    """A site that is spoken to as docker does."""

    async def public_key(self, role: str) -> dict[str, Any]:
        fields = json.loads(await self.body(f"{role}.key"))
        return {"keytype": fields["keytype"], "keyval": {**fields["keyval"], "private": None}}

    async def owner(self) -> NotaryForge:
        return NotaryForge(
            self.gun,
            timestamp=await self.public_key("timestamp"),
            snapshot=await self.public_key("snapshot"),
        )

    async def first(self) -> NotaryForge:
        owner = await self.owner()
        answer = await self.post(owner.first())
        assert (answer.status, await answer.read()) == (200, b"")
        return owner

    async def feed(self, query: str) -> dict[str, Any]:
        answer = await self.client.session.get(self.at(f"/v2/{self.gun}/_trust/changefeed{query}"))
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "text/plain"
        return dict(json.loads(await answer.text()))


def named(data: bytes, role: str) -> str:
    """Give the hex SHA-256 that a snapshot or timestamp names for a role."""
    return base64.b64decode(json.loads(data)["signed"]["meta"][role]["hashes"]["sha256"]).hex()


@pytest.fixture
def settings() -> Settings:
    return Settings(gun_prefixes=("registry.example/",))


@pytest.fixture
async def notary(tmp_path: Path, settings: Settings) -> AsyncIterator[NotarySite]:
    store = await SqliteStore.open(tmp_path / "tabellion.db")
    clock = Clock()
    keys = OnlineKeys(store, MasterKey.generate())
    app = make_app(settings, store=store, online_keys=keys, clock=clock)
    async with TestClient(TestServer(app), headers=ANYTHING) as client:
        yield NotarySite(client, store, clock)
    await store.close()


async def refusal(answer: ClientResponse, status: int) -> dict[str, Any]:
    """Give the one error of an answer in Notary's form."""
    body = await answer.read()
    assert (answer.status, answer.headers["Content-Type"]) == (
        status,
        "application/json; charset=utf-8",
    )
    assert body.endswith(b"\n")
    assert len(body) < 1024
    (error,) = json.loads(body)["errors"]
    return dict(error)


async def test_the_whole_chain_is_read_by_the_hashes_that_it_names(notary: NotarySite) -> None:
    owner = await notary.first()
    timestamp = await notary.body("timestamp.json")
    snapshot = await notary.body(f"snapshot.{named(timestamp, 'snapshot')}.json")
    for role in ("root", "targets"):
        data = await notary.body(f"{role}.{named(snapshot, role)}.json")
        assert hashlib.sha256(data).hexdigest() == named(snapshot, role)
    assert await notary.body(f"root.{named(snapshot, 'root')}.json") == await notary.body(
        "1.root.json"
    )
    assert owner.gun == GUN


async def test_a_hash_of_another_role_or_gun_is_not_found(notary: NotarySite) -> None:
    await notary.first()
    root = hashlib.sha256(await notary.body("root.json")).hexdigest()
    error = await refusal(await notary.get(f"targets.{root}.json"), 404)
    assert (error["code"], error["detail"]) == ("METADATA_NOT_FOUND", {})
    notary.gun = "registry.example/other"
    await refusal(await notary.get(f"root.{root}.json"), 404)


async def test_a_dropped_file_is_not_given_by_its_hash_to_readers_of_a_new_gun(
    notary: NotarySite,
) -> None:
    await notary.first()
    old = hashlib.sha256(await notary.body("root.json")).hexdigest()
    await notary.body(f"root.{old}.json")
    dropped = await notary.client.session.delete(notary.url(""))
    assert (dropped.status, await dropped.read()) == (200, b"")
    await notary.first()
    await refusal(await notary.get(f"root.{old}.json"), 404)


async def test_an_earlier_version_is_read_by_hash(notary: NotarySite) -> None:
    owner = await notary.first()
    old = await notary.body("targets.json")
    assert (await notary.post({"targets": owner.targets_file(2)})).status == 200
    assert await notary.body(f"targets.{hashlib.sha256(old).hexdigest()}.json") == old


async def test_caching_and_dates_are_as_configured_and_valid(notary: NotarySite) -> None:
    await notary.first()
    current = await notary.get("root.json")
    assert current.headers["Cache-Control"] == "public, max-age=300, s-maxage=300, must-revalidate"
    assert current.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert current.headers["Last-Modified"].endswith(" GMT")
    moment = parsedate_to_datetime(current.headers["Last-Modified"])
    assert abs(moment - notary.clock.now) < timedelta(seconds=2)
    sha256 = hashlib.sha256(await current.read()).hexdigest()
    for name in (f"root.{sha256}.json", "1.root.json"):
        fixed = await notary.get(name)
        assert fixed.headers["Cache-Control"] == "public, max-age=2592000, s-maxage=2592000"
    same = await notary.get("root.json", **{"If-None-Match": current.headers["ETag"]})
    assert (same.status, await same.read()) == (304, b"")
    assert (await notary.get("9.root.json")).headers["Cache-Control"] == "no-store"


class TestNoCaching:
    @pytest.fixture
    def settings(self) -> Settings:
        return Settings(notary_max_age_current=timedelta(0))

    async def test_an_age_of_zero_forbids_keeping(self, notary: NotarySite) -> None:
        await notary.first()
        answer = await notary.get("root.json")
        assert answer.headers["Cache-Control"] == "max-age=0, no-cache, no-store"
        assert answer.headers["Pragma"] == "no-cache"
        assert (await notary.get("1.root.json")).headers["Cache-Control"].startswith("public")


async def test_guns_that_begin_otherwise_are_refused_and_nothing_is_made(
    notary: NotarySite,
) -> None:
    owner = await notary.owner()
    before = await notary.everything()
    notary.gun = "elsewhere/app"
    error = await refusal(await notary.post(owner.first()), 400)
    assert error["code"] == "INVALID_GUN"
    assert error["detail"] == "Require GUNs with prefix: [registry.example/]"
    for name in ("root.json", "timestamp.key", "1.root.json"):
        assert "detail" not in await refusal(await notary.get(name), 404)
    feed = notary.at("/v2/elsewhere/app/_trust/changefeed?records=1")
    await refusal(await notary.client.session.get(feed), 404)
    await refusal(await notary.client.session.delete(notary.url("")), 404)
    assert await notary.everything() == before


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("/v2//x/_trust/tuf/root.json", "/v2/x/_trust/tuf/root.json"),
        ("/v2/a/../b/_trust/tuf/root.json", "/v2/b/_trust/tuf/root.json"),
        ("/v2/a/./b/_trust/tuf/", "/v2/a/b/_trust/tuf/"),
        ("/v2/a/../../../evil.example", "/evil.example"),
    ],
)
async def test_a_path_that_is_not_plain_leads_to_the_plain_one_here(
    notary: NotarySite, path: str, plain: str
) -> None:
    answer = await notary.client.session.get(notary.at(path), allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (301, plain)


async def test_the_changefeed_goes_both_ways_and_ends_with_the_deletion(
    notary: NotarySite,
) -> None:
    owner = await notary.first()
    for version in (2, 3):
        assert (await notary.post({"targets": owner.targets_file(version)})).status == 200
    feed = await notary.feed("?records=10")
    assert feed["count"] == 3
    assert [item["Version"] for item in feed["records"]] == [1, 2, 3]
    first, second, third = feed["records"]
    latest = hashlib.sha256(await notary.body("timestamp.json")).hexdigest()
    assert (third["SHA256"], third["GUN"], third["Category"]) == (latest, GUN, "update")
    assert list(third) == ["ID", "CreatedAt", "GUN", "Version", "SHA256", "Category"]
    assert re.fullmatch(r"20[0-9-]{8}T[0-9:]{8}(\.[0-9]{0,5}[1-9])?Z", third["CreatedAt"])
    assert (await notary.feed(f"?records=1&change_id={first['ID']}"))["records"] == [second]
    assert (await notary.feed(f"?records=-1&change_id={third['ID']}"))["records"] == [second]
    assert (await notary.feed("?records=-2"))["records"] == [second, third]
    assert (await notary.feed("?records=1&change_id=-1"))["records"] == [third]
    assert (await notary.client.session.delete(notary.url(""))).status == 200
    (told,) = (await notary.feed("?records=-1"))["records"]
    assert (told["Version"], told["SHA256"], told["Category"]) == (0, "", "deletion")
    everything = await notary.client.session.get(notary.at("/v2/_trust/changefeed?records=0"))
    assert (await everything.json(content_type="text/plain"))["count"] == 4


async def test_what_is_too_large_is_refused_with_the_limit_in_notarys_form(
    notary: NotarySite,
) -> None:
    await notary.first()
    before = await notary.everything()
    for files in (
        {"targets": b"x" * 6_000_000},
        {f"targets/{number}": b"x" * 900_000 for number in range(20)},
    ):
        error = await refusal(await notary.post(files), 400)
        assert (error["code"], error["detail"]["Name"]) == ("INVALID_UPDATE", "ErrValidation")
        assert re.search(r"larger than [0-9]+ bytes", error["detail"]["Error"]["Msg"])
    assert await notary.everything() == before


@pytest.mark.parametrize("letter", ["a", "\u00e9", "\U0001f511", "\u20ac"])
async def test_refusals_stay_below_what_clients_read_however_long_the_name(
    notary: NotarySite, letter: str
) -> None:
    for role in (letter * 400, "targets/" + letter * 250):
        body = (
            f'--B\r\nContent-Disposition: form-data; name="files"; filename="{role}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n{}\r\n--B--\r\n"
        )
        answer = await notary.client.session.post(
            notary.url(""),
            data=body.encode(),
            headers={"Content-Type": "multipart/form-data; boundary=B"},
        )
        error = await refusal(answer, 400)
        if letter != "a":
            assert error["code"] == "INVALID_ROLE"
            assert error["detail"].startswith(role[:20])


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("", 'invalid records parameter: strconv.ParseInt: parsing "": invalid syntax'),
        ("?records=1_0", 'strconv.ParseInt: parsing "1_0": invalid syntax'),
        ("?records=%D9%A1", "invalid syntax"),
        ("?records=2147483648", 'parsing "2147483648": value out of range'),
        ("?records=-2147483649", "value out of range"),
        ("?records=" + "0" * 13 + "9" * 5000, "value out of range"),
        ("?records=1&change_id=x", ""),
        ("?records=1&change_id=9223372036854775808", ""),
        ("?records=1&change_id=" + "9" * 5000, ""),
    ],
)
async def test_odd_questions_to_the_changefeed_are_refused(
    notary: NotarySite, query: str, detail: str
) -> None:
    answer = await notary.client.session.get(notary.at(f"/v2/{GUN}/_trust/changefeed{query}"))
    error = await refusal(answer, 400)
    assert error["code"] == "INVALID_PARAMETERS"
    assert detail in error["detail"] if detail else error["detail"] == {}


async def test_numbers_up_to_their_bounds_are_answered(notary: NotarySite) -> None:
    await notary.first()
    for query in (
        *("?records=2147483647&change_id=0", "?records=-2147483648&change_id=9223372036854775807"),
        *("?records=%2B0001", "?records=-1&change_id=-9"),
    ):
        assert (await notary.feed(query))["count"] == 1, query
    assert (await notary.feed("?records=1&change_id=9223372036854775807"))["records"] == []


async def test_health_is_empty_or_names_what_failed_without_telling_the_inside(
    notary: NotarySite,
) -> None:
    url = notary.at("/_notary_server/health")
    well = await notary.client.session.get(url)
    assert (well.status, await well.json()) == (200, {})
    await notary.store.close()
    ill = await notary.client.session.get(url)
    assert ill.status == 503
    told = await ill.json()
    assert list(told) == ["DB operational"]
    assert told["DB operational"] == "the store can't be read, the server's log tells why"
