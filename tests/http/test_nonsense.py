"""Whatever is sent: an answer below 500, and nothing changed."""

from __future__ import annotations

import itertools
import random

import pytest

from http_site import Site, signed

HEAD = b'--x\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n'


@pytest.mark.parametrize("seed", range(8))
async def test_mutated_publications_are_refused_and_change_nothing(site: Site, seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311  (a seed, not a secret)
    forge = await site.forge()
    await site.publish(forge, "root", "targets")
    forge.targets.version = 2
    body = HEAD % b"targets" + signed(forge, "targets")["targets"] + b"\r\n--x--\r\n"
    # What lies behind the closing boundary has no meaning, so that isn't mutated.
    end = body.rindex(b"\r\n--x--")
    before = await site.everything()
    for _ in range(60):
        mutated = bytearray(body)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(min(end, len(mutated)))
            match rng.randrange(3):
                case 0:
                    mutated[place] ^= 1 << rng.randrange(8)
                case 1:
                    del mutated[place : place + rng.randint(1, 40)]
                case _:
                    mutated[place:place] = rng.randbytes(rng.randint(1, 20))
        response = await site.client.session.post(
            site.url(""),
            data=bytes(mutated),
            headers={"Content-Type": "multipart/form-data; boundary=x"},
        )
        if response.status == 200:
            # The change was outside of what is signed, such as another header's case.
            head = await site.store.head(site.gun)
            assert head is not None
            served = await site.body("targets.json")
            assert served in bytes(mutated)
            return
        assert 400 <= response.status < 500, (bytes(mutated), await response.text())
        assert response.content_type == "application/problem+json"
        assert await site.everything() == before


@pytest.mark.parametrize("seed", range(4))
async def test_nonsense_addresses_get_an_answer_below_500(site: Site, seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311  (a seed, not a secret)
    parts = ["v2", "v1", "guns", "history", "_trust", "tuf", "a", "%2F", "%00", "..", "1", "root"]
    parts += [
        "%",
        "%zz",
        "json",
        "%F0%9F%90%B3",
        "'",
        '"',
        "$",
        "%ff",
        "9" * 30,
        "x" * 300,
        "timestamp.key",
    ]
    before = await site.everything()
    for _ in range(150):
        path = "/" + "".join(
            rng.choice(parts) + rng.choice(["/", ".", ""]) for _ in range(rng.randint(1, 9))
        )
        url = site.at(path)
        method = rng.choice(["GET", "HEAD", "POST", "DELETE", "PUT", "OPTIONS"])
        response = await site.client.session.request(method, url, allow_redirects=False)
        assert response.status < 500, (method, path, await response.text())
    assert await site.everything() == before


HUGE = "9" * 5000  # more digits than int() takes


@pytest.mark.parametrize(
    "limit",
    [
        *("", "0", "-1", "-0", "1001", "+5", "%2B5", "1e3", "1.0", "0x10", "x", "nan", "None"),
        *("%00", "5%00", "%ff", "%C2%B2", "%D9%A3", "%205", "5%0a", "1_0", HUGE, f"-{HUGE}"),
        *(str(2**63), str(2**64), "5&limit=5", "5;limit=6", "[]", "%27%20OR%201=1--"),
    ],
    ids=lambda text: f"{text[:20]}-{len(text)}",
)
async def test_a_limit_that_is_no_number_in_bounds_gets_400(site: Site, limit: str) -> None:
    await site.publish(await site.forge(), "root", "targets")
    for path in (f"/v1/guns?limit={limit}", f"/v1/history/{site.gun}?limit={limit}"):
        await assert_usage(site, path)


@pytest.mark.parametrize("before", ["", "0x1", "-1", "x", "%ff", HUGE, str(2**63), "1&before=1"])
async def test_a_nonsense_place_in_history_gets_400(site: Site, before: str) -> None:
    await site.publish(await site.forge(), "root", "targets")
    await assert_usage(site, f"/v1/history/{site.gun}?before={before}")


async def assert_usage(site: Site, path: str) -> None:
    response = await site.client.session.get(site.at(path))
    problem = await response.json()
    assert (response.status, problem["code"]) == (400, "usage"), path
    assert response.content_type == "application/problem+json"
    assert len(problem["detail"]) < 300


@pytest.mark.parametrize(
    "text",
    ["%00", "%ff", "%ed%a0%80", "%F4%8F%BF%BF", "%25", "%27%3B--", "*", "x" * 7000, "%F0%9F%90%B3"],
    ids=lambda text: f"{text[:20]}-{len(text)}",
)
async def test_any_text_may_be_asked_for_and_twice_is_400(site: Site, text: str) -> None:
    await site.publish(await site.forge(), "root", "targets")
    for path, name in {
        "/v1/guns?prefix=": "guns",
        "/v1/guns?after=~": "guns",
        f"/v1/history/{site.gun}?target=": "events",
    }.items():
        response = await site.client.session.get(site.at(path + text))
        assert (response.status, (await response.json())[name]) == (200, [])
        once = path.partition("?")[2]
        if len(text) < 100:
            await assert_usage(site, f"{path}{text}&{once}")
    response = await site.client.session.get(
        site.at(f"/v2/{site.gun}/_trust/tuf/timestamp.key?dialect={text}")
    )
    assert response.status == 400


ODD_ADDRESSES = {
    "/v2/a%2Fb/_trust/tuf/root.json": 404,
    "/v2/a%2fb%2F/_trust/tuf/root.json": 400,
    "/v2/a/_trust%2Ftuf/root.json": 404,
    "/v2/a/_trust/tuf/%2Froot.json": 404,
    "/v2/a/_trust/tuf/..%2F..%2Froot.json": 404,
    "/v2/a/_trust/tuf/../../../etc/passwd": 404,
    "/v2/a/_trust/tuf/%2e%2e/%2e%2e/root.json": 404,
    "/v2/a/../b/_trust/tuf/root.json": 400,
    "/v2/a/%2e%2e/b/_trust/tuf/root.json": 400,
    "/v2/../../etc/passwd": 404,
    "/v2/a%00b/_trust/tuf/root.json": 400,
    "/v2/a/_trust/tuf/%00.json": 404,
    "/v2/a/_trust/tuf/root.json%00": 404,
    "/v2/a/_trust/tuf/%ff.json": 400,
    "/v2/a/_trust/tuf/%ed%a0%80.json": 400,
    "/v2/a/_trust/tuf/%252e.json": 404,
    "/v2/a/_trust/tuf/%zz.json": 404,
    f"/v2/{'a' * 255}/_trust/tuf/root.json": 404,
    f"/v2/{'a' * 256}/_trust/tuf/root.json": 400,
    f"/v2/{'a/' * 3900}a/_trust/tuf/root.json": 400,
    f"/v2/{'a' * 9000}/_trust/tuf/root.json": 400,
    f"/v2/a/_trust/tuf/{'a' * 8000}.json": 404,
    f"/v2/a/_trust/tuf/{'9' * 5000}.root.json": 404,
    "/V2/a/_trust/tuf/root.json": 404,
    "/v2/a/_TRUST/tuf/root.json": 404,
    "/v2/a/_trust/TUF/root.json": 404,
    "/v2/a/_trust/tuf/ROOT.json": 404,
    "/v2/a/_trust/tuf/root.JSON": 404,
    "/v2/a/_trust/tuf/Timestamp.key": 404,
    "/v2//_trust/tuf/root.json": 400,
    "//v2/a/_trust/tuf/root.json": 404,
    "/v2/a/_trust/tuf//root.json": 404,
    "/v2/a/_trust/tuf/_trust/tuf/root.json": 404,
    "/v1/guns/%00": 400,
    "/v1/guns/": 404,
    "/v1/history/..": 400,
    "http://elsewhere.example/v2/a/_trust/tuf/root.json": 404,
    "*": 400,
    "?": 400,
    "http://[::1/": 400,
    "/\x00": 400,
    "/\xff": 400,
}


async def test_an_odd_address_gets_400_or_404(site: Site) -> None:
    before = await site.everything()
    for (path, status), method in itertools.product(
        ODD_ADDRESSES.items(), ("GET", "POST", "DELETE")
    ):
        request = (
            f"{method} {path} HTTP/1.1\r\nHost: x\r\nAccept: application/problem+json\r\n"
            "Connection: close\r\n\r\n"
        )
        found, answer = await site.raw(request.encode("latin-1"))
        assert 400 <= found < 500, (path, answer)
        if method == "GET":
            assert found == status, (path, answer)
    assert await site.everything() == before
