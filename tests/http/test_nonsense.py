"""Whatever is sent: an answer below 500, and nothing changed."""

from __future__ import annotations

import random

import pytest
from yarl import URL

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
        url = URL(str(site.client.make_url("/"))[:-1] + path, encoded=True)
        method = rng.choice(["GET", "HEAD", "POST", "DELETE", "PUT", "OPTIONS"])
        response = await site.client.session.request(method, url, allow_redirects=False)
        assert response.status < 500, (method, path, await response.text())
    assert await site.everything() == before


async def test_nonsense_queries_get_400(site: Site) -> None:
    forge = await site.forge()
    await site.publish(forge, "root", "targets")
    for path in (
        "/v1/guns?limit=0",
        "/v1/guns?limit=-1",
        "/v1/guns?limit=1e3",
        "/v1/guns?limit=99999999999999999999999",
        f"/v1/history/{site.gun}?before=x",
        f"/v1/history/{site.gun}?before=99999999999999999999999",
        f"/v1/history/{site.gun}?limit=%C2%B2",
    ):
        response = await site.client.get(path)
        assert (response.status, (await response.json())["code"]) == (400, "usage"), path
