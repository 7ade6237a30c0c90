"""HEAD, conditions and ranges: an answer is whole, or it's what the reader has already."""

from __future__ import annotations

import asyncio

from forge import Forge, target
from http_site import Site

NAMES = ("root.json", "1.root.json", "targets.json", "timestamp.json", "1.snapshot.json")
CHANGING = {"Date", "X-Request-ID"}


async def published(site: Site) -> Forge:
    forge = await site.forge()
    forge.targets.targets["1.0"] = target(b"one", "1.0")
    await site.publish(forge, "root", "targets")
    return forge


async def test_head_answers_as_get_does_for_every_address(site: Site) -> None:
    await published(site)
    urls = [site.url(name) for name in (*NAMES, "9.root.json", "no.json", "timestamp.key", "")]
    paths = ("/v2/", "/healthz", "/readyz", "/v1/guns", "/v1/guns?limit=x", f"/v1/guns/{site.gun}")
    for url in [*urls, *map(site.at, paths), site.at(f"/v1/history/{site.gun}")]:
        got = await site.client.session.get(url)
        head = await site.client.session.head(url)
        assert head.status == got.status, url
        assert await head.read() == b""
        assert len(await got.read()) > 0
        expected = {name: got.headers[name] for name in got.headers if name not in CHANGING}
        shown = {name: head.headers[name] for name in head.headers if name not in CHANGING}
        if got.status < 400:
            assert shown == expected, url
        else:  # the body's length varies with the request's id and text
            assert shown.keys() == expected.keys(), url


async def test_head_leaves_the_connection_in_step(site: Site) -> None:
    await published(site)
    path = site.url("1.root.json").raw_path
    one = f"HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n"
    reader, writer = await asyncio.open_connection(site.client.host, site.client.port)
    writer.write(f"{one}Connection: close\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    _, second = answer.split(b"\r\n\r\n", 1)
    assert second.startswith(b"HTTP/1.1 200"), answer


async def test_a_known_etag_in_any_form_gets_304(site: Site) -> None:
    await published(site)
    for name in NAMES:
        whole = await site.get(name)
        tag = whole.headers["ETag"]
        for known in (
            *(tag, f"W/{tag}", "*", f" {tag} ", f'"a", {tag}', f'{tag}, "a"', f'W/"a",W/{tag}'),
            ", ".join([*(f'"{number:064x}"' for number in range(50)), tag]),
        ):
            for method in ("GET", "HEAD"):
                answer = await site.client.session.request(
                    method, site.url(name), headers={"If-None-Match": known}
                )
                assert (answer.status, await answer.read()) == (304, b""), (name, known)
                for header in ("ETag", "Cache-Control", "Last-Modified"):
                    assert answer.headers[header] == whole.headers[header]


async def test_any_other_etag_gets_the_file(site: Site) -> None:
    await published(site)
    whole = await site.get("targets.json")
    tag, data = whole.headers["ETag"], await whole.read()
    other = (await site.get("root.json")).headers["ETag"]
    for unknown in (
        *("", '""', '"a"', 'W/"a"', other, tag.strip('"'), tag[:-1], tag[1:], tag.upper()),
        *(f'w/{tag}"', "W/", ",", ", , ,", '"', "é", "\\", f'"a" {tag}', "x" * 8000, '"a",' * 1500),
    ):
        answer = await site.get("targets.json", **{"If-None-Match": unknown})
        assert (answer.status, await answer.read()) == (200, data), unknown
    old = {"If-Modified-Since": whole.headers["Last-Modified"]}
    assert (await site.get("targets.json", **old)).status == 200  # its seconds are too coarse


async def test_a_missing_file_is_404_whatever_is_known(site: Site) -> None:
    await published(site)
    for known in ("*", '"a"'):
        assert (await site.get("2.root.json", **{"If-None-Match": known})).status == 404


async def test_a_range_is_ignored(site: Site) -> None:
    await published(site)
    whole = await site.get("targets.json")
    tag, data = whole.headers["ETag"], await whole.read()
    for wanted in ("bytes=0-9", "bytes=5-", "bytes=-5", "bytes=0-0,2-3", "bytes=99999-", "x", "é"):
        for more in ({}, {"If-Range": tag}, {"If-Range": "Wed, 21 Oct 2015 07:28:00 GMT"}):
            answer = await site.get("targets.json", Range=wanted, **more)
            assert (answer.status, await answer.read()) == (200, data), wanted
            assert "Content-Range" not in answer.headers
            assert answer.headers.get("Accept-Ranges", "none") == "none"
