"""What notary-server 0.7.0 answered to odd requests, and what this server answers to the same.

The cases are those of tests/vectors/notary/probe-postgres-signer.txt; the server measured there
took GUNs below ``probe/`` only. Where ours differs it's in ``DEVIATIONS``, and nowhere else.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import hashlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse, FormData
from aiohttp.test_utils import TestClient, TestServer
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from http_site import Clock, Site
from notary_forge import (
    Json,
    NotaryForge,
    NotarySigner,
    canonical,
    delegation,
    delegations,
    envelope,
    later,
    sign,
    snapshot_payload,
    target,
    targets_payload,
)
from tabellion_server.app import make_app
from tabellion_server.keys.master import MasterKey
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.settings import Settings
from tabellion_server.storage.sqlite import SqliteStore

VECTORS = Path(__file__).parents[1] / "vectors" / "notary" / "probe-postgres-signer.txt"
CASE = re.compile(r"(\S.{57}|  GET targets after {39}) ([0-9]{3}) ([^\s;]+(?:; \S+)?) *(.*)")


@dataclass(frozen=True)
class Expected:
    """An answer: status, and of an error its code, message, and detail.

    Of a refused update's detail it's the Name that counts: the text is for people.
    """

    status: int
    code: str = ""
    message: str = ""
    detail: object = None


NOT_FOUND = Expected(
    404, "METADATA_NOT_FOUND", "You have requested metadata that does not exist.", {}
)
BAD_TARGETS = Expected(
    400, "INVALID_UPDATE", "Update sent by the client is invalid.", "ErrBadTargets"
)
ABSENT = "section 16: 404 instead of 500 for absent delegations"
HEAD = "section 16: HEAD works"
# Section and case: what this server answers instead, and why.
DEVIATIONS: Mapping[tuple[str, str], tuple[Expected, str]] = {
    ("routing", "HEAD /v2/"): (Expected(200), HEAD),
    ("routing", "HEAD root.json"): (Expected(200), HEAD),
    ("routing", "GET snapshot.<sha of root>"): (
        NOT_FOUND,
        "section 1.1: a hash is looked up together with its role; no role gets another's bytes",
    ),
    ("routing", "GET 0.root"): (
        NOT_FOUND,
        "section 1: that some version comes is a bug of its database layer; there's no version 0",
    ),
    ("routing", "GET 10000000000000000000000.root"): (
        dataclasses.replace(NOT_FOUND, detail=None),
        "house rule: a version has at most 19 digits; nothing of the inside gets out",
    ),
    ("routing", "GET targets/releases.json"): (NOT_FOUND, ABSENT),
    ("routing", "GET targets/Upper.json"): (NOT_FOUND, ABSENT),
    ("routing", "GET targets/a.b.json"): (NOT_FOUND, ABSENT),
    ("routing", "GET targets/a/b/c.json"): (NOT_FOUND, ABSENT),
    ("uploads: validation", "targets key rotated, targets not re-sent"): (
        BAD_TARGETS,
        "section 16: refuse a root that orphans stored targets",
    ),
    ("delegations", "GET targets/b (absent)"): (NOT_FOUND, ABSENT),
}


def probe_cases() -> dict[tuple[str, str], Expected]:
    """Read the measured answers, by section and description."""
    found: dict[tuple[str, str], Expected] = {}
    section = ""
    for line in VECTORS.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif case := CASE.fullmatch(line):
            status, body = int(case[2]), case[4]
            error = json.loads(body)["errors"][0] if body.startswith('{"errors"') else {}
            found[section, case[1].strip()] = expected_of(status, error)
    return found


def expected_of(status: int, error: Mapping[str, Any]) -> Expected:
    detail = error.get("detail")
    if error.get("code") == "INVALID_UPDATE" and isinstance(detail, dict):
        assert sorted(detail) == ["Error", "Name"]
        assert list(detail["Error"]) == ["Msg"]
        detail = detail["Name"]
    return Expected(status, error.get("code", ""), error.get("message", ""), detail)


PROBED = probe_cases()


@dataclass
class Probe:
    """A server, the owners of GUNs on it, and which cases of a section were tried."""

    site: Site
    section: str = ""
    tried: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    guns: int = 0

    async def send(self, method: str, path: str, **more: Any) -> ClientResponse:
        return await self.site.client.session.request(
            method, self.site.at(path), allow_redirects=False, **more
        )

    async def owner(self, **more: Any) -> NotaryForge:
        """Make the owner of a new GUN; the server offers its keys."""
        self.guns += 1
        gun = f"probe/g{self.guns}"
        keys = [await self.key(gun, role) for role in ("timestamp", "snapshot")]
        return NotaryForge(gun, *keys, **more)

    async def key(self, gun: str, role: str, method: str = "GET") -> Json:
        answer = await self.send(method, f"/v2/{gun}/_trust/tuf/{role}.key")
        assert answer.status == 200, await answer.text()
        return dict(json.loads(await answer.text()))

    async def started(self) -> NotaryForge:
        owner = await self.owner()
        answer = await self.upload(owner.gun, owner.first())
        assert answer.status == 200, await answer.text()
        return owner

    async def upload(self, gun: str, *sent: Mapping[str, bytes]) -> ClientResponse:
        """Send parts; several mappings may give a role twice."""
        form = FormData(quote_fields=False, default_to_multipart=True)
        for files in sent:
            for role, data in files.items():
                form.add_field(
                    "files",
                    BytesIO(data),
                    filename=role,
                    content_type="application/octet-stream",
                )
        if not any(sent):
            kind = {"Content-Type": "multipart/form-data; boundary=b"}
            return await self.send(
                "POST", f"/v2/{gun}/_trust/tuf/", data=b"--b--\r\n", headers=kind
            )
        return await self.send("POST", f"/v2/{gun}/_trust/tuf/", data=form)

    async def get(self, gun: str, name: str) -> ClientResponse:
        return await self.send("GET", f"/v2/{gun}/_trust/tuf/{name}")

    async def file(self, gun: str, name: str) -> bytes:
        answer = await self.get(gun, name)
        assert answer.status == 200, await answer.text()
        return await answer.read()

    async def signed(self, gun: str, name: str) -> Json:
        return dict(json.loads(await self.file(gun, f"{name}.json"))["signed"])

    async def check(self, case: str, answer: ClientResponse) -> None:
        """Compare with what was measured, or with the deviation."""
        self.tried.add(case)
        expected = PROBED[self.section, case]
        if deviation := DEVIATIONS.get((self.section, case)):
            assert deviation[0] != expected, f"{case}: no deviation at all"
            expected = deviation[0]
        body = await answer.read()
        error: Mapping[str, Any] = {}
        if answer.status >= 400 and expected.code and answer.method != "HEAD":
            assert answer.headers["Content-Type"] == "application/json; charset=utf-8", case
            assert body.endswith(b"}\n"), case
            assert len(body) < 1024, case
            (error,) = json.loads(body)["errors"]
        found = expected_of(answer.status, error)
        if found != expected and not (answer.method == "HEAD" and answer.status == expected.status):
            self.wrong.append(f"{case}: {found} {body[:300]!r} instead of {expected}")

    async def refused(self, case: str, owner: NotaryForge, files: Mapping[str, bytes]) -> None:
        """Check an upload that may be refused; then it has changed nothing."""
        before = await self.site.everything()
        answer = await self.upload(owner.gun, files)
        await self.check(case, answer)
        if answer.status != 200 and await self.site.everything() != before:
            self.wrong.append(f"{case}: refused, yet something changed")

    def end(self) -> None:
        assert not self.wrong, "\n".join(self.wrong)
        assert self.tried == {case for section, case in PROBED if section == self.section}


@pytest.fixture
async def probe(tmp_path: Path) -> AsyncIterator[Probe]:
    store = await SqliteStore.open(tmp_path / "tabellion.db")
    clock = Clock()
    app = make_app(
        Settings(gun_prefixes=("probe/",)),
        store=store,
        online_keys=OnlineKeys(store, MasterKey.generate()),
        clock=clock,
    )
    async with TestClient(TestServer(app)) as client:
        yield Probe(Site(client, store, clock))
    await store.close()


def test_the_file_of_the_probe_is_read_whole() -> None:
    text = VECTORS.read_text(encoding="utf-8")
    assert len(PROBED) == len(re.findall(r"(?m)^.{58} [0-9]{3} (?:-|text|application)", text))
    assert all(key in PROBED for key in DEVIATIONS)


ROUTES = {
    "GET /v2/": "/v2/",
    "POST /v2/": "/v2/",
    "HEAD /v2/": "/v2/",
    "PUT /v2/": "/v2/",
    "PATCH /v2/": "/v2/",
    "OPTIONS /v2/": "/v2/",
    "DELETE /v2/": "/v2/",
    "GET /v2": "/v2",
    "GET /": "/",
    "GET /v2//x": "/v2//x/_trust/tuf/root.json",
    "HEAD root.json": "{gun}/root.json",
    "PUT root.json": "{gun}/root.json",
    "PATCH root.json": "{gun}/root.json",
    "DELETE root.json": "{gun}/root.json",
    "GET _trust/tuf/": "{gun}/",
    "GET root.<sha256>": "{gun}/root.{root}.json",
    "GET targets.<sha256>": "{gun}/targets.{targets}.json",
    "GET snapshot.<sha256>": "{gun}/snapshot.{snapshot}.json",
    "GET timestamp.<sha256>": "{gun}/timestamp.{timestamp}.json",
    "GET root.<SHA256 upper>": "{gun}/root.{ROOT}.json",
    "GET targets.<sha512>": "{gun}/targets.{sha512}.json",
    "GET targets.<96hex>": "{gun}/targets." + "ab" * 48 + ".json",
    "GET targets.<40hex>": "{gun}/targets." + "ab" * 20 + ".json",
    "GET snapshot.<sha of root>": "{gun}/snapshot.{root}.json",
    "GET 1.root": "{gun}/1.root.json",
    "GET 01.root": "{gun}/01.root.json",
    "GET 0.root": "{gun}/0.root.json",
    "GET 2.root": "{gun}/2.root.json",
    "GET 1.targets": "{gun}/1.targets.json",
    "GET 1.snapshot": "{gun}/1.snapshot.json",
    "GET 1.timestamp": "{gun}/1.timestamp.json",
    "GET 10000000000000000000000.root": "{gun}/10000000000000000000000.root.json",
    "GET -1.root": "{gun}/-1.root.json",
    "GET foo.json": "{gun}/foo.json",
    "GET targets/releases.json": "{gun}/targets/releases.json",
    "GET targets/Upper.json": "{gun}/targets/Upper.json",
    "GET targets/a.b.json": "{gun}/targets/a.b.json",
    "GET targets/a/b/c.json": "{gun}/targets/a/b/c.json",
    "GET targets/a%20b.json": "{gun}/targets/a%20b.json",
    "GET targets/.json": "{gun}/targets/.json",
    "GET root/x.json": "{gun}/root/x.json",
    "GET mirrors.json": "{gun}/mirrors.json",
    "GET missing gun root": "/v2/missing/gun/_trust/tuf/root.json",
    "GET gun a*b": "/v2/a*b/_trust/tuf/root.json",
    "GET gun UPPER/Case": "/v2/UPPER/Case/_trust/tuf/root.json",
    "GET gun a%2Fb": "/v2/a%2Fb/_trust/tuf/root.json",
    "GET gun with%20space": "/v2/with%20space/_trust/tuf/root.json",
    "GET gun %C3%A9": "/v2/%C3%A9/_trust/tuf/root.json",
    "GET gun a/../b": "/v2/a/../b/_trust/tuf/root.json",
    "GET gun a:1/b@c": "/v2/a:1/b@c/_trust/tuf/root.json",
    "GET gun _trust": "/v2/_trust/_trust/tuf/root.json",
    "GET gun x/_trust/tuf": "/v2/x/_trust/tuf/_trust/tuf/root.json",
}


async def test_addresses_lead_where_notary_s_lead(probe: Probe) -> None:
    probe.section = "routing"
    owner = await probe.owner()
    first = await probe.upload(owner.gun, owner.first())
    await probe.check("init root+targets, server snapshot+timestamp", first)
    bodies = {
        role: await probe.file(owner.gun, f"{role}.json")
        for role in ("root", "targets", "snapshot", "timestamp")
    }
    names = {role: hashlib.sha256(data).hexdigest() for role, data in bodies.items()}
    names |= {"gun": f"/v2/{owner.gun}/_trust/tuf", "ROOT": names["root"].upper()}
    names["sha512"] = hashlib.sha512(bodies["targets"]).hexdigest()
    for case, path in ROUTES.items():
        answer = await probe.send(case.split()[0], path.format(**names))
        await probe.check(case, answer)
        if case.startswith("GET ") and answer.status == 200 and case != "GET /v2/":
            role = re.split(r"[. /]", path.removeprefix("{gun}/"))
            assert await answer.read() == bodies[next(part for part in role if part in bodies)]
    no_slash = await probe.send("POST", f"{names['gun']}", data=b"")
    await probe.check("POST _trust/tuf (no slash)", no_slash)
    probe.end()


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp"])
async def test_files_come_with_the_headers_that_caches_read(probe: Probe, role: str) -> None:
    owner = await probe.started()
    current = await probe.get(owner.gun, f"{role}.json")
    assert current.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert current.headers["Cache-Control"] == "public, max-age=300, s-maxage=300, must-revalidate"
    assert current.headers["Last-Modified"].endswith(" GMT")
    at = parsedate_to_datetime(current.headers["Last-Modified"])
    assert abs(at - datetime.now(UTC)) < timedelta(minutes=5)
    name = hashlib.sha256(await current.read()).hexdigest()
    for address in (f"{role}.{name}.json", f"1.{role}.json"):
        fixed = await probe.get(owner.gun, address)
        assert fixed.headers["Cache-Control"] == "public, max-age=2592000, s-maxage=2592000"


async def test_public_keys_are_given_and_rotated_as_notary_s(probe: Probe) -> None:
    probe.section = "keys"
    owner = await probe.started()
    for case in (case for section, case in PROBED if section == "keys"):
        method, name = case.split()
        answer = await probe.send(method, f"/v2/{owner.gun}/_trust/tuf/{name}")
        await probe.check(case, answer)
        if answer.status == 200:
            text = await answer.text()
            assert re.fullmatch(
                r'{"keytype":"ecdsa","keyval":{"public":"[A-Za-z0-9+/]+=*","private":null}}', text
            )
            assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
            role = name.removesuffix(".key")
            in_force = owner.timestamp if role == "timestamp" else owner.snapshot
            assert (json.loads(text) == in_force) is (method == "GET")
    assert await probe.key(owner.gun, "timestamp") == owner.timestamp, "stable once in root"
    probe.end()


async def test_malformed_uploads_are_refused_in_notary_s_words(probe: Probe) -> None:
    probe.section = "uploads: malformed"
    owner = await probe.started()
    address = f"/v2/{owner.gun}/_trust/tuf/"
    await probe.check("no multipart", await probe.send("POST", address, data=b"{}"))
    form = (
        b'--b\r\nContent-Disposition: form-data; name="files"; filename=""\r\n\r\n{}\r\n--b--\r\n'
    )
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    await probe.check("empty filename", await probe.send("POST", address, data=form, headers=kind))
    good = owner.targets_file(2)
    await probe.refused("bad role", owner, {"foo": good})
    await probe.refused("bad deleg role", owner, {"targets/UP": good})
    await probe.refused("role with .json suffix", owner, {"targets.json": good})
    await probe.refused("not json", owner, {"targets": b"nonsense"})
    await probe.refused("json array", owner, {"targets": b"[]"})
    await probe.refused("empty object", owner, {"targets": b"{}"})
    await probe.refused("zero parts", owner, {})
    for role in ("snapshot", "timestamp"):
        assert (await probe.signed(owner.gun, role))["version"] == 3
    odd = owner.targets_file(4, expires="2030-01-01")
    await probe.refused("expires bad format", owner, {"targets": odd})
    await probe.refused(
        "version is string", owner, {"targets": sign(targets_payload() | {"version": "4"})}
    )
    probe.end()


async def _root_case(probe: Probe, case: str, signer: NotarySigner, **more: Any) -> None:
    owner = await probe.owner(root_signers=[signer], **more)
    # The certificate has to name the GUN, which is known by now only.
    await probe.refused(case, owner, owner.first())


async def test_first_roots_are_judged_as_notary_judges(probe: Probe) -> None:
    probe.section = "uploads: validation"
    await _first_roots(probe)
    await _first_certificates(probe)
    await _first_keys(probe)
    await _first_files(probe)
    await _versions(probe)
    probe.end()


async def _first_roots(probe: Probe) -> None:
    owner = await probe.owner()
    first = owner.first()
    await probe.refused("targets only, no root", owner, {"targets": first["targets"]})
    await probe.refused("root only, no targets", owner, {"root": first["root"]})
    for case, version in (
        ("root v0 as first", 0),
        ("root v3 as first", 3),
        ("root v2 as first", 2),
    ):
        await probe.refused(case, owner, {**first, "root": owner.root(version)})


async def _first_certificates(probe: Probe) -> None:
    gun = f"probe/g{probe.guns + 1}"
    now = datetime.now(UTC)
    signers = {
        "root cert CN mismatch": NotarySigner.root("probe/other"),
        "root key not x509": NotarySigner.ecdsa(),
        "root rsa-x509 1024": NotarySigner.root(
            gun,
            rsa.generate_private_key(65537, 1024),  # noqa: S505  (it has to be refused)
        ),
        "root cert expired": NotarySigner.root(
            gun, starts=now - timedelta(days=9), ends=now - timedelta(days=1)
        ),
        "root cert starts in 3d": NotarySigner.root(gun, starts=now + timedelta(days=3)),
    }
    owner = await probe.owner()
    assert owner.gun == gun
    for case, signer in signers.items():
        owner.root_signers = [signer]
        await probe.refused(case, owner, owner.first())
    for case, name, private, starts in (
        ("root cert CN wildcard", "probe/*", None, None),
        ("root rsa-x509 2048", "", rsa.generate_private_key(65537, 2048), None),
        ("root cert starts in 12h", "", None, now + timedelta(hours=12)),
        ("root P-384", "", ec.generate_private_key(ec.SECP384R1()), None),
    ):
        owner = await probe.owner()
        owner.root_signers = [NotarySigner.root(name or owner.gun, private, starts=starts)]
        await probe.refused(case, owner, owner.first())


async def _first_keys(probe: Probe) -> None:
    for case, role in (
        ("timestamp key not server's", "timestamp"),
        ("snapshot key not server's, none sent", "snapshot"),
    ):
        owner = await probe.owner()
        setattr(owner, role, NotarySigner.ecdsa().key)
        await probe.refused(case, owner, owner.first())
    for case, private in (
        ("targets ed25519", ed25519.Ed25519PrivateKey.generate()),
        ("targets rsa", rsa.generate_private_key(65537, 2048)),
    ):
        owner = await probe.owner(targets=NotarySigner.of(private))
        await probe.refused(case, owner, owner.first())


async def _first_files(probe: Probe) -> None:
    owner = await probe.owner()
    first, yesterday = owner.first(), later(days=-1)
    odd = {
        "expired root": {"root": owner.root(expires=yesterday)},
        "expired targets": {"targets": owner.targets_file(expires=yesterday)},
        "lowercase _type root": {"root": owner.root(_type="root")},
        "lowercase _type targets": {"targets": owner.targets_file(_type="targets")},
        "targets v0": {"targets": owner.targets_file(0)},
        "no signatures": {"targets": sign(targets_payload())},
    }
    for case, files in odd.items():
        await probe.refused(case, owner, {**first, **files})
    owner.root_threshold = 2
    await probe.refused("root thr 2 with 1 key", owner, owner.first())
    owner.root_signers.append(NotarySigner.root(owner.gun))
    await probe.refused("root thr 2 with 2 keys", owner, owner.first())
    seventh = await probe.owner()
    await probe.refused(
        "targets v7 first", seventh, {**seventh.first(), "targets": seventh.targets_file(7)}
    )


async def _versions(probe: Probe) -> None:
    owner = await probe.started()
    await probe.refused("same root version again", owner, {"root": owner.root(1)})
    await probe.refused("same targets version again", owner, {"targets": owner.targets_file(1)})
    await probe.refused("targets v5 (skip)", owner, {"targets": owner.targets_file(5)})
    await probe.refused("targets v4 after v5", owner, {"targets": owner.targets_file(4)})
    await probe.refused("root v3 (skip)", owner, {"root": owner.root(3)})
    await probe.refused("client timestamp part", owner, {"timestamp": owner.targets_file(9)})
    (old,), new = owner.root_signers, NotarySigner.root(owner.gun)
    owner.root_signers = [new]
    await probe.refused("root rotate, signed new only", owner, {"root": owner.root(2)})
    await probe.refused("root rotate, signed old only", owner, {"root": owner.root(2, [old])})
    await probe.refused("root rotate, both", owner, {"root": owner.root(2, [old, new])})
    owner.root_signers = [old]
    await probe.refused("old root key after rotate", owner, {"root": owner.root(3)})
    owner.root_signers = [new]
    await probe.refused("root v3 by new only", owner, {"root": owner.root(3)})
    before = owner.targets
    owner.targets = NotarySigner.ecdsa()
    await probe.refused("targets key rotated, targets not re-sent", owner, {"root": owner.root(4)})
    await probe.check("GET targets after", await probe.get(owner.gun, "targets.json"))
    both = await probe.upload(owner.gun, {"root": owner.root(4), "targets": owner.targets_file(6)})
    assert both.status == 200, await both.text()
    by_old = sign(targets_payload(7), before)
    await probe.refused("targets by old key", owner, {"targets": by_old})
    await probe.refused("targets by new key", owner, {"targets": owner.targets_file(7)})


async def test_odd_signatures_count_as_in_notary(probe: Probe) -> None:
    probe.section = "unused / duplicate"
    owner = await probe.started()
    twice = await probe.upload(
        owner.gun, {"targets": owner.targets_file(7)}, {"targets": owner.targets_file(8)}
    )
    await probe.check("dup part same role", twice)
    assert (await probe.signed(owner.gun, "targets"))["version"] == 8
    payload = targets_payload(9)
    good = owner.targets.sign(canonical(payload))
    upper = envelope(payload, [good | {"method": "ECDSA"}])
    await probe.refused("sig method upper-case", owner, {"targets": upper})
    more = sign(targets_payload(10), owner.targets, NotarySigner.ecdsa())
    await probe.refused("extra signature by unknown key", owner, {"targets": more})
    payload = targets_payload(11)
    good = owner.targets.sign(canonical(payload))
    bad = owner.targets.sign(b"something else")
    await probe.refused(
        "bad sig then good sig same key", owner, {"targets": envelope(payload, [bad, good])}
    )
    probe.end()


async def test_snapshots_of_the_owner_are_judged_as_notary_judges(probe: Probe) -> None:
    probe.section = "client-signed snapshot"
    owner, signer = await probe.owner(), NotarySigner.ecdsa()
    owner.snapshot = signer.key
    files = owner.first()
    await probe.refused("snapshot key at client, not sent", owner, files)
    other = {**files, "targets": owner.targets_file(1, targets={"x": target(b"x")})}
    right = snapshot_payload(1, files)
    for case, data in (
        ("snapshot hash mismatch", sign(snapshot_payload(1, other), signer)),
        ("snapshot missing targets", sign(snapshot_payload(1, {"root": files["root"]}), signer)),
        ("snapshot wrong signer", sign(right, NotarySigner.ecdsa())),
        ("snapshot expired", sign(right | {"expires": later(days=-1)}, signer)),
        ("snapshot ok", sign(right, signer)),
    ):
        await probe.refused(case, owner, {**files, "snapshot": data})
    second = {"targets": owner.targets_file(2)}
    await probe.refused("targets v2 without snapshot", owner, second)
    named = {"root": files["root"], **second}
    for case, version in (("snapshot v1 again with t2", 1), ("snapshot v2 with t2", 2)):
        snapshot = sign(snapshot_payload(version, named), signer)
        await probe.refused(case, owner, {**second, "snapshot": snapshot})
    probe.end()


async def test_bytes_that_are_not_notary_s_are_served_as_they_were_sent(probe: Probe) -> None:
    probe.section = "non-canonical bytes with server snapshot"
    custom = {
        "custom float 1.5": 1.5,
        "custom nested unsorted ok": {"b": {"z": 1, "a": 2}, "a": [1]},
        "custom 2^53+1": 2**53 + 1,
        "custom 2^63": 2**63,
        "custom newline string": "a\nb",
        "custom null": None,
    }
    expiries = {
        "expires no fraction": "2030-01-01T00:00:00Z",
        "expires offset": "2036-11-21T05:53:26.081572144+05:30",
        "expires space": "2030-01-01 00:00:00Z",
        "expires no tz": "2030-01-01T00:00:00",
        "expires trailing zero fraction": "2030-01-01T00:00:00.120Z",
        "expires year 0001": "0001-01-01T00:00:00Z",
    }
    for case in [case for section, case in PROBED if section == probe.section]:
        owner = await probe.started()
        payload = targets_payload(2)
        if case in custom:
            payload["targets"] = {"t": target(b"t", custom=custom[case])}
        elif case in expiries:
            payload["expires"] = expiries[case]
        elif case == "unknown field in targets":
            payload["spec_version"] = "1.0"
        elif case.startswith("target name with"):
            payload["targets"] = {"a<&>\u00e9\u2028": target(b"t")}
        data = sign(payload, owner.targets)
        if case == "trailing newline":
            data += b"\n"
        elif case == "pretty printed":
            data = json.dumps(json.loads(data), indent=2).encode()
        elif case == "signatures first":
            parsed = json.loads(data)
            turned = {"signatures": parsed["signatures"], "signed": parsed["signed"]}
            data = json.dumps(turned, separators=(",", ":")).encode()
        await probe.refused(case, owner, {"targets": data})
        served = await probe.file(owner.gun, "targets.json")
        snapshot = await probe.signed(owner.gun, "snapshot")
        described = snapshot["meta"]["targets"]
        # T1 and section 16: what is hashed is what is served, and what is served is what was sent.
        if (await probe.signed(owner.gun, "targets"))["version"] == 2:
            assert served == data, case
        assert described["length"] == len(served), case
        digest = await asyncio.to_thread(hashlib.sha256, served)
        by_hash = await probe.file(owner.gun, f"targets.{digest.hexdigest()}.json")
        assert by_hash == served, case
    probe.end()


async def test_delegations_are_judged_as_notary_judges(probe: Probe) -> None:
    probe.section = "delegations"
    owner, one, two = await probe.started(), NotarySigner.ecdsa(), NotarySigner.ecdsa()
    inside = {"x/1": target(b"1"), "out-of-path": target(b"2")}
    own = targets_payload(targets=inside)
    await probe.refused("deleg file before parent", owner, {"targets/a": sign(own, one)})
    entry = delegation("targets/a", [one, two], threshold=2, paths=["x/"])
    held = delegations([entry], [one, two])

    def parent(version: int, *roles: Json, signers: tuple[NotarySigner, ...] = (one, two)) -> bytes:
        return owner.targets_file(version, delegations=delegations([entry, *roles], signers))

    await probe.refused(
        "deleg thr2 defined", owner, {"targets": owner.targets_file(2, delegations=held)}
    )
    await probe.refused("deleg signed by 1 of 2", owner, {"targets/a": sign(own, one)})
    await probe.refused("deleg signed by 2 of 2", owner, {"targets/a": sign(own, one, two)})
    await probe.check("GET targets/a", await probe.get(owner.gun, "targets/a.json"))
    await probe.check("GET targets/b (absent)", await probe.get(owner.gun, "targets/b.json"))
    stranger = NotarySigner.ecdsa()
    odd = {
        "deleg of wrong child name": delegation("targets/a/b", [one]),
        "deleg with unknown keyid": delegation("targets/c", [stranger]),
        "deleg threshold 0": delegation("targets/c", [one], threshold=0),
        "deleg threshold > keys": delegation("targets/c", [one], threshold=2),
    }
    for case, role in odd.items():
        await probe.refused(case, owner, {"targets": parent(3, role)})
    nothing = {"keys": {}, "roles": None}
    await probe.refused(
        "deleg removed (roles null)", owner, {"targets": owner.targets_file(4, delegations=nothing)}
    )
    listed = (await probe.signed(owner.gun, "snapshot"))["meta"]
    assert sorted(listed) == ["root", "targets"], "section 16: entries of removed ones go"
    await probe.check("GET targets/a after removal", await probe.get(owner.gun, "targets/a.json"))
    again = await probe.upload(
        owner.gun, {"targets": owner.targets_file(5, delegations=delegations([entry], [one, two]))}
    )
    assert again.status == 200, await again.text()
    listed = (await probe.signed(owner.gun, "snapshot"))["meta"]
    assert sorted(listed) == ["root", "targets", "targets/a"], "its holders go on from version 1"
    new = delegation("targets/b", [one])
    files = {
        "targets/b": sign(targets_payload(), one),
        "targets": owner.targets_file(6, delegations=delegations([new], [one])),
    }
    await probe.refused("parent+child in one upload", owner, files)
    listed = (await probe.signed(owner.gun, "snapshot"))["meta"]
    assert sorted(listed) == ["root", "targets", "targets/b"]
    wrong = copy.deepcopy(delegations([new], [one]))
    wrong["keys"]["ab" * 32] = stranger.key
    wrong["roles"].append({**delegation("targets/c", []), "keyids": ["ab" * 32]})
    await probe.refused(
        "key stored under wrong id", owner, {"targets": owner.targets_file(7, delegations=wrong)}
    )
    probe.end()


async def test_the_changefeed_takes_notary_s_parameters(probe: Probe) -> None:
    probe.section = "changefeed"
    other, owner = await probe.started(), await probe.started()
    for version in (2, 3, 4):
        await probe.upload(other.gun, {"targets": other.targets_file(version)})
    for version in (2, 3):
        await probe.upload(owner.gun, {"targets": owner.targets_file(version)})
    counts = {
        "changefeed gun ?records=10": 3,
        "changefeed gun ?records=0": 3,
        "changefeed gun ?records=-2": 2,
        "changefeed gun ?records=2&change_id=1": 2,
        "changefeed gun ?records=-2&change_id=3": 1,
        "changefeed gun ?records=1&change_id=-1": 1,
        "changefeed gun ?records=5&change_id=999999": 0,
        "changefeed all ?records=2": 2,
    }
    for case in [case for section, case in PROBED if section == "changefeed"]:
        _, which, *query = case.split()
        path = "/v2/_trust/changefeed" if which == "all" else f"/v2/{owner.gun}/_trust/changefeed"
        if query == ["none"]:
            path, query = "/v2/none/_trust/changefeed", ["?records=10"]
        answer = await probe.send("GET", path + query[0])
        await probe.check(case, answer)
        if answer.status == 200:
            content = json.loads(await answer.text())
            ids = [int(record["ID"]) for record in content["records"]]
            assert ids == sorted(ids), case
            assert content["count"] == len(ids) == counts[case], case
    newest = await probe.send("GET", f"/v2/{owner.gun}/_trust/changefeed?records=-1")
    (record,) = json.loads(await newest.text())["records"]
    timestamp = await probe.file(owner.gun, "timestamp.json")
    assert record.pop("ID").isdigit()
    assert re.fullmatch(r"20[-0-9]{8}T[0-9:]{8}(\.[0-9]{1,9})?Z", record.pop("CreatedAt"))
    assert record == {
        "GUN": owner.gun,
        "Version": 3,
        "SHA256": hashlib.sha256(timestamp).hexdigest(),
        "Category": "update",
    }
    probe.end()


async def test_deletion_answers_as_notary_s(probe: Probe) -> None:
    probe.section = "delete"
    owner = await probe.started()
    await probe.check(
        "DELETE missing gun", await probe.send("DELETE", "/v2/missing/gun/_trust/tuf/")
    )
    await probe.check("DELETE gun", await probe.send("DELETE", f"/v2/{owner.gun}/_trust/tuf/"))
    await probe.check("GET after delete", await probe.get(owner.gun, "root.json"))
    feed = await probe.send("GET", f"/v2/{owner.gun}/_trust/changefeed?records=-1")
    await probe.check("changefeed after delete", feed)
    (record,) = json.loads(await feed.text())["records"]
    assert (record["Category"], record["Version"], record["SHA256"]) == ("deletion", 0, "")
    for role in ("timestamp", "snapshot"):
        setattr(owner, role, await probe.key(owner.gun, role))
    await probe.check("re-create after delete", await probe.upload(owner.gun, owner.first()))
    again = await probe.send("DELETE", "/v2/probe/never/_trust/tuf/")
    assert (again.status, await again.read()) == (200, b""), "also when there was nothing"
    probe.end()


async def test_monitors_are_answered_as_notary_s(probe: Probe) -> None:
    probe.section = "other"
    health = await probe.send("GET", "/_notary_server/health")
    await probe.check("health", health)
    assert (await health.text(), health.headers["Content-Type"]) == (
        "{}",
        "application/json; charset=utf-8",
    )
    await probe.check("health POST", await probe.send("POST", "/_notary_server/health"))
    metrics = await probe.send("GET", "/metrics")
    await probe.check("metrics", metrics)
    assert metrics.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    probe.end()
