from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from forge import Forge, target
from http_site import GUN, Site
from tabellion_server.settings import Settings
from tabellion_server.web.context import CONTEXT


async def published(site: Site) -> Forge:
    forge = await site.forge()
    forge.targets.targets["1.0"] = target(b"one", "1.0")
    forge.delegate("alice", ["a*"])
    await site.publish(forge, "root", "targets")
    return forge


async def test_head_has_the_headers_of_get_without_a_body(site: Site) -> None:
    await published(site)
    got = await site.get("1.targets.json")
    head = await site.client.session.head(site.url("1.targets.json"))
    assert head.status == 200
    assert await head.read() == b""
    for name in ("Content-Length", "ETag", "Cache-Control", "Content-Type"):
        assert head.headers[name] == got.headers[name]
    assert int(got.headers["Content-Length"]) == len(await got.read())


async def test_a_version_is_cached_for_long_and_a_current_name_is_not(site: Site) -> None:
    await published(site)
    versioned, current = await site.get("1.root.json"), await site.get("root.json")
    assert "immutable" in versioned.headers["Cache-Control"]
    assert current.headers["Cache-Control"] == "no-cache"
    assert (await site.get("2.root.json")).headers["Cache-Control"] == "no-store"


async def test_a_known_etag_gets_304_until_the_file_changes(site: Site) -> None:
    forge = await published(site)
    tag = (await site.get("targets.json")).headers["ETag"]
    known = await site.get("targets.json", **{"If-None-Match": tag})
    assert (known.status, await known.read()) == (304, b"")
    assert known.headers["ETag"] == tag
    forge.targets.version = 2
    await site.publish(forge, "targets")
    assert (await site.get("targets.json", **{"If-None-Match": tag})).status == 200


async def test_what_is_not_there_gets_404_with_a_problem(site: Site) -> None:
    await published(site)
    for name, code in {
        "2.root.json": "not-found",
        "01.root.json": "not-found",
        "0.root.json": "not-found",
        "99999999999999999999.root.json": "not-found",
        "9223372036854775807.root.json": "not-found",
        "alice.json": "not-found",
        "nothing": "not-found",
        "": "not-found",
        "%2e%2e%2fkey.json": "not-found",
    }.items():
        response = await site.get(name)
        assert (response.status, (await response.json())["code"]) == (404, code), name
    site.gun = "registry.example/other"
    response = await site.get("timestamp.json")
    assert (response.status, (await response.json())["code"]) == (404, "unknown-gun")


async def test_a_malformed_gun_or_address_gets_400(site: Site) -> None:
    for gun in ("a//b", "a%20b", "..%2Fx", "%ff"):
        site.gun = GUN
        url = str(site.url("root.json")).replace(GUN, gun)
        response = await site.client.session.get(type(site.url("x"))(url, encoded=True))
        assert (response.status, (await response.json())["code"]) == (400, "invalid-name"), gun


async def test_a_wrong_method_gets_405_and_says_which_are_right(site: Site) -> None:
    await published(site)
    response = await site.client.session.put(site.url("root.json"), data=b"")
    assert response.status == 405
    assert response.headers["Allow"] == "GET,HEAD" or "GET" in response.headers["Allow"]
    assert (await response.json())["code"] == "method-not-allowed"


async def test_a_timestamp_past_half_its_life_is_signed_anew_once(site: Site) -> None:
    await published(site)
    old = await site.body("timestamp.json")
    site.clock.now += timedelta(hours=11)
    assert await site.body("timestamp.json") == old
    site.clock.now += timedelta(hours=2)
    read = await asyncio.gather(*(site.body("timestamp.json") for _ in range(30)))
    assert len(set(read)) == 1
    new = json.loads(read[0])["signed"]
    assert new["version"] == 2
    expires = datetime.fromisoformat(new["expires"]).replace(tzinfo=UTC)
    assert timedelta(hours=23) < expires - site.clock() <= timedelta(days=1)


async def test_an_expired_timestamp_and_snapshot_are_signed_anew_on_read(site: Site) -> None:
    forge = await published(site)
    site.clock.now += timedelta(days=40)
    timestamp = json.loads(await site.body("timestamp.json"))["signed"]
    assert timestamp["version"] == 2
    assert timestamp["meta"]["snapshot.json"]["version"] == 2
    forge.files |= {
        "timestamp": await site.body("timestamp.json"),
        "snapshot": await site.body("2.snapshot.json"),
    }
    forge.trusted(now=site.clock())


async def test_the_state_of_a_gun_lists_roles_and_who_signed(site: Site) -> None:
    forge = await published(site)
    response = await site.client.get(f"/v1/guns/{site.gun}")
    state = await response.json()
    assert response.status == 200
    assert state["versions"] == {"root": 1, "targets": 1, "snapshot": 1, "timestamp": 1}
    assert state["roles"]["targets"]["signed_by"] == forge.root.roles["targets"].keyids
    assert state["roles"]["targets"]["targets"] == 1
    assert state["roles"]["targets"]["length"] == len(forge.files["targets"])
    assert "version" not in state["roles"]["alice"]
    assert (await site.client.get("/v1/guns/registry.example/none")).status == 404


async def test_guns_are_listed_by_prefix_in_pages(site: Site) -> None:
    for name in ("a/1", "a/2", "a/3", "b/1"):
        site.gun = name
        await published(site)
    page = await (await site.client.get("/v1/guns?prefix=a/&limit=2")).json()
    assert [item["gun"] for item in page["guns"]] == ["a/1", "a/2"]
    page = await (await site.client.get(f"/v1/guns?prefix=a/&after={page['next']}")).json()
    assert ([item["gun"] for item in page["guns"]], page["next"]) == (["a/3"], None)
    assert (await site.client.get("/v1/guns?limit=x")).status == 400


async def test_health_and_version_answer(site: Site) -> None:
    for path in ("/v2/", "/healthz", "/readyz", "/_notary_server/health"):
        assert (await site.client.get(path)).status == 200, path
    await site.store.close()
    response = await site.client.get("/readyz")
    assert (response.status, (await response.json())["code"]) == (503, "storage")
    assert response.headers["Retry-After"]
    assert (await site.client.get("/healthz")).status == 200


async def test_a_deleted_gun_is_gone_and_can_be_made_anew(site: Site) -> None:
    await published(site)
    assert (await site.client.session.delete(site.url(""))).status == 204
    assert (await site.get("1.root.json")).status == 404
    assert (await site.client.session.delete(site.url(""))).status == 404
    forge = await published(site)
    assert await site.body("1.root.json") == forge.files["root"]


async def test_a_request_id_is_kept_if_plain_and_made_if_not(site: Site) -> None:
    kept = await site.client.get("/healthz", headers={"X-Request-ID": "abc-1"})
    assert kept.headers["X-Request-ID"] == "abc-1"
    made = await site.client.get("/healthz", headers={"X-Request-ID": "a b"})
    assert made.headers["X-Request-ID"] not in {"", "a b"}


async def test_online_keys_stay_the_same_until_rotated(site: Site) -> None:
    one, same = await site.key("timestamp"), await site.key("timestamp")
    assert one == same
    assert (await site.client.session.post(site.url("timestamp.key?dialect=tuf"))).status == 404
    await published(site)
    await site.client.session.post(site.url("timestamp.key"))
    assert await site.key("timestamp") != one
    assert (await site.get("targets.key")).status == 404


@pytest.mark.parametrize("settings", [Settings(cache_bytes=2000)])
async def test_no_more_is_held_in_memory_than_the_setting_says(site: Site) -> None:
    for number in range(6):
        place = replace(site, gun=f"registry.example/app{number}")
        await place.publish(await place.forge(), "root", "targets")
        for name in ("timestamp.json", "1.snapshot.json", "1.targets.json", "1.root.json"):
            await place.body(name)
    files = site.client.app[CONTEXT].files  # type: ignore[index]
    assert 0 < files._stored._size <= 2000
    assert files._parsed._size <= 2000 // 8
