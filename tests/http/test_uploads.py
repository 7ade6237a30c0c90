"""Bodies that lie, stall, break off or hold too much: each has its code, and changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from io import BytesIO

import pytest

from forge import Forge
from http_site import Site, signed
from tabellion_server.web import uploads

MULTIPART = "multipart/form-data; boundary=x"


async def first(site: Site) -> Forge:
    """Publish; give the forge with a second version ready."""
    forge = await site.forge()
    forge.delegate("alice", ["a*"])
    await site.publish(forge, "root", "targets")
    forge.targets.version = 2
    return forge


def part(data: bytes, *, role: str = "targets", name: str = "files", more: str = "") -> bytes:
    disposition = f'form-data; name="{name}"; filename="{role}"'
    return f"--x\r\nContent-Disposition: {disposition}\r\n{more}\r\n".encode() + data + b"\r\n"


def body_of(parts: Iterable[bytes]) -> bytes:
    return b"".join(parts) + b"--x--\r\n"


def request(site: Site, body: bytes, *headers: str) -> bytes:
    lines = [
        f"POST {site.url('').raw_path} HTTP/1.1",
        *("Host: x", f"Content-Type: {MULTIPART}", *headers),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def refused(
    site: Site, body: bytes, status: int, code: str, *, content_type: str = MULTIPART
) -> dict[str, object]:
    before = await site.everything()
    response = await site.client.session.post(
        site.url(""), data=BytesIO(body), headers={"Content-Type": content_type}
    )
    problem = await response.json()
    assert (response.status, problem["code"]) == (status, code), problem
    assert response.content_type == "application/problem+json"
    assert problem["hint"]
    assert await site.everything() == before
    return dict(problem)


async def raw_refused(site: Site, sent: bytes, status: int, code: str) -> None:
    before = await site.everything()
    found, answer = await site.raw(sent)
    assert found == status, answer
    assert f'"code": "{code}"' in answer or not code, answer
    assert await site.everything() == before


async def test_a_body_that_stalls_gets_408(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_BODY_SECONDS", 0.3)
    forge = await first(site)
    body = body_of([part(signed(forge, "targets")["targets"])])
    for sent in (0, 20, len(body) - 8):
        stalled = request(site, body[:sent], f"Content-Length: {len(body)}")
        await raw_refused(site, stalled, 408, "malformed-body")


async def test_a_slow_body_is_taken(site: Site) -> None:
    forge = await first(site)
    body = body_of([part(signed(forge, "targets")["targets"])])
    reader, writer = await asyncio.open_connection(site.client.host, site.client.port)
    writer.write(request(site, b"", f"Content-Length: {len(body)}", "Connection: close"))
    for start in range(0, len(body), 50):
        writer.write(body[start : start + 50])
        await writer.drain()
        await asyncio.sleep(0.01)
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert await site.body("2.targets.json") == forge.files["targets"]


async def test_a_content_length_that_lies_changes_nothing(site: Site) -> None:
    forge = await first(site)
    body = body_of([part(signed(forge, "targets")["targets"])])
    n = len(body)
    lies = {
        (f"Content-Length: {n}", f"Content-Length: {n - 30}"): 400,
        (f"Content-Length: {n}", "Transfer-Encoding: chunked"): 400,
        ("Content-Length: -1",): 400,
        (f"Content-Length: +{n}",): 400,
        (f"Content-Length: {n}x",): 400,
        (f"Content-Length: {n}, {n}",): 400,
        (f"Content-Length: {'9' * 30}",): 400,
        ("Transfer-Encoding: chunked",): 400,
        **{(f"Content-Length: {short}",): 400 for short in (0, 1, 70, n // 2, n - 9)},
        (): 400,
    }
    for headers, status in lies.items():
        await raw_refused(site, request(site, body, *headers), status, "")
    for length in (1_500_001, 2**40):
        far = request(site, b"", f"Content-Length: {length}")
        await raw_refused(site, far, 413, "body-too-large")


async def test_a_body_cut_anywhere_changes_nothing(site: Site) -> None:
    forge = await first(site)
    body = body_of([part(signed(forge, "targets")["targets"])])
    end = body.rindex(b"--x--")
    for length in [*range(0, end, 41), *range(end, len(body) - 4)]:
        before = await site.everything()
        response = await site.client.session.post(
            site.url(""), data=body[:length], headers={"Content-Type": MULTIPART}
        )
        assert response.status in {400, 422}, (length, await response.text())
        assert await site.everything() == before


async def test_a_role_sent_twice_is_refused(site: Site) -> None:
    forge = await first(site)
    one = signed(forge, "targets")["targets"]
    forge.targets.expires = forge.targets.expires.replace(year=2028)
    other = signed(forge, "targets")["targets"]
    for files in ((one, other), (one, one), (other, one)):
        problem = await refused(site, body_of(map(part, files)), 422, "publication-refused")
        assert (problem["rule"], problem["role"]) == ("duplicate-role", "targets")
    two_names = body_of([part(one), part(other, role="targets.json")])
    assert (await refused(site, two_names, 422, "publication-refused"))["rule"] == "duplicate-role"
    forge.root.version = 2
    root = part(signed(forge, "root")["root"], role="2.root")
    again = part(forge.files["root"], role="root")
    await refused(site, body_of([root, again]), 409, "version-conflict")


async def test_a_part_that_is_no_roles_file_is_refused(site: Site) -> None:
    forge = await first(site)
    good = signed(forge, "targets")["targets"]
    for role, status, code in (
        ("stranger", 422, "publication-refused"),
        ("timestamp", 422, "publication-refused"),
        ("snapshot", 400, "malformed-metadata"),
        ("root", 400, "malformed-metadata"),
        ("1.targets", 400, "invalid-name"),
        ("3.root", 400, "malformed-metadata"),
        ("0.root", 400, "invalid-name"),
        ("9" * 30 + ".root", 400, "invalid-name"),
        ("Targets", 422, "publication-refused"),
        ("../targets", 400, "invalid-name"),
        ("/etc/passwd", 422, "publication-refused"),
        ("a" * 3000, 400, "invalid-name"),
        ("", 400, "malformed-body"),
    ):
        await refused(site, body_of([part(good), part(good, role=role)]), status, code)
    for bad in (
        part(good, name="file"),
        part(good, name=""),
        b'--x\r\nContent-Disposition: form-data; name="files"\r\n\r\n' + good + b"\r\n",
        b"--x\r\n\r\n" + good + b"\r\n",
        b"--x\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n--y\r\n\r\nz\r\n--y--\r\n",
        part(good, more="X: " + "x" * 20_000 + "\r\n"),
        part(good, more="X: y\r\n" * 2000),
    ):
        await refused(site, body_of([part(good), bad]), 400, "malformed-body")


async def test_a_type_without_a_usable_boundary_is_refused(site: Site) -> None:
    forge = await first(site)
    body = body_of([part(signed(forge, "targets")["targets"])])
    for kind, status in {
        "multipart/form-data": 400,
        "multipart/form-data; boundary=": 400,
        "multipart/form-data; boundary=" + "x" * 71: 400,
        "multipart/form-data; boundary=other": 400,
        "multipart/mixed; boundary=x": 415,
        "application/json": 415,
        "nonsense": 415,
    }.items():
        await refused(site, body, status, "malformed-body", content_type=kind)


async def test_too_many_or_too_large_parts_get_413(site: Site) -> None:
    await first(site)
    many = body_of(part(b"{}", role=f"role{number}") for number in range(uploads._MAX_PARTS + 1))
    await refused(site, many, 413, "body-too-large")
    for role, limit in (("root", 512_000), ("1.root", 512_000), ("timestamp", 16_384)):
        large = body_of([part(b" " * (limit + 1), role=role)])
        await refused(site, large, 413, "metadata-too-large")
    total = [part(b" " * 500_000, role=f"role{number}") for number in range(4)]
    await refused(site, body_of(total), 413, "body-too-large")


async def test_a_body_of_unknown_length_is_bounded_too(site: Site) -> None:
    await first(site)
    piece = b" " * 60_000
    chunk = f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
    start = part(b"", role="alice")[:-2]
    head = f"{len(start):x}\r\n".encode() + start + b"\r\n"
    sent = request(site, head + chunk * 40, "Transfer-Encoding: chunked")
    await raw_refused(site, sent, 413, "body-too-large")
