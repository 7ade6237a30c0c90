"""The traps of Notary's protocol, T0 to T15, as far as they concern a server."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import ClientResponse, FormData
from aiohttp.test_utils import TestClient, TestServer
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from http_site import Clock, Site
from notary_forge import (
    Json,
    NotaryForge,
    NotarySigner,
    canonical,
    delegation,
    delegations,
    sign,
    target,
    targets_payload,
    unb64,
)
from tabellion_server.app import make_app
from tabellion_server.keys.master import MasterKey
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.settings import Settings
from tabellion_server.storage.sqlite import SqliteStore

GUN = "registry.example/team/app"
# Notary's own: no Accept header that names our form of errors.
PLAIN = {"Accept": "*/*"}


async def send(site: Site, method: str, name: str, **more: object) -> ClientResponse:
    return await site.client.session.request(method, site.url(name), headers=PLAIN, **more)  # type: ignore[arg-type]


async def upload(site: Site, files: dict[str, bytes]) -> ClientResponse:
    form = FormData(quote_fields=False, default_to_multipart=True)
    for role, data in files.items():
        form.add_field("files", data, filename=role, content_type="application/octet-stream")
    return await send(site, "POST", "", data=form)


async def accepted(site: Site, files: dict[str, bytes]) -> None:
    answer = await upload(site, files)
    assert answer.status == 200, await answer.text()
    assert await answer.read() == b""


async def refusal(site: Site, files: dict[str, bytes]) -> Json:
    """Send what must be refused and change nothing; give the one error."""
    before = await site.everything()
    answer = await upload(site, files)
    assert answer.status == 400, await answer.text()
    assert await site.everything() == before
    (error,) = json.loads(await answer.text())["errors"]
    return dict(error)


async def body(site: Site, name: str) -> bytes:
    answer = await send(site, "GET", name)
    assert answer.status == 200, await answer.text()
    return await answer.read()


async def signed(site: Site, role: str) -> Json:
    return dict(json.loads(await body(site, f"{role}.json"))["signed"])


async def owner_of(site: Site, *signers: NotarySigner) -> NotaryForge:
    keys = [json.loads(await body(site, f"{role}.key")) for role in ("timestamp", "snapshot")]
    return NotaryForge(site.gun, *keys, root_signers=list(signers))


async def started(site: Site, *signers: NotarySigner) -> NotaryForge:
    owner = await owner_of(site, *signers)
    await accepted(site, owner.first())
    return owner


async def test_t0_a_root_is_rotated_away_from_an_expired_certificate(site: Site) -> None:
    now = datetime.now(UTC)
    old = NotarySigner.root(GUN, starts=now - timedelta(days=1), ends=now + timedelta(days=2))
    owner = await started(site, old)
    site.clock.now = now + timedelta(days=3)
    new = NotarySigner.root(GUN)
    owner.root_signers = [new]
    alone = await refusal(site, {"root": owner.root(2)})
    assert alone["detail"]["Name"] == "ErrBadRoot"
    await accepted(site, {"root": owner.root(2, [old, new])})
    assert (await signed(site, "root"))["version"] == 2


async def test_t1_what_is_hashed_is_what_was_sent(site: Site) -> None:
    owner = await started(site)
    odd = owner.targets_file(2) + b"\n"
    await accepted(site, {"targets": odd})
    assert await body(site, "targets.json") == odd
    described = (await signed(site, "snapshot"))["meta"]["targets"]
    assert described["length"] == len(odd)
    assert unb64(described["hashes"]["sha256"]) == hashlib.sha256(odd).digest()
    assert unb64(described["hashes"]["sha512"]) == hashlib.sha512(odd).digest()


@pytest.mark.parametrize(
    "expires",
    [
        "2036-11-21T05:53:26.081572144+05:30",
        "2036-11-21T05:53:26.120Z",
        "2036-11-21T05:53:26Z",
    ],
)
async def test_t2_t3_an_expiry_is_kept_as_it_was_written(site: Site, expires: str) -> None:
    owner = await started(site)
    await accepted(site, {"targets": owner.targets_file(2, expires=expires)})
    assert (await signed(site, "targets"))["expires"] == expires


async def test_t4_custom_data_in_any_order_is_served_as_it_was_sent(site: Site) -> None:
    owner = await started(site)
    payload = targets_payload(2, targets={"v": target(b"v", custom={"z": "<&>", "a": 1})})
    data = sign(payload, owner.targets)
    await accepted(site, {"targets": data})
    assert await body(site, "targets.json") == data


@pytest.mark.parametrize("number", [1.5, 2**53 + 1, 2**63])
async def test_t5_numbers_that_go_reads_otherwise_are_refused(site: Site, number: float) -> None:
    owner = await started(site)
    payload = targets_payload(2, targets={"v": target(b"v", custom=number)})
    error = await refusal(site, {"targets": sign(payload, owner.targets)})
    assert error["detail"]["Name"] == "ErrBadTargets"


async def test_t6_t7_what_the_server_signs_has_exactly_notary_s_form(site: Site) -> None:
    owner = await started(site)
    for role, key in (("timestamp", owner.timestamp), ("snapshot", owner.snapshot)):
        data = await body(site, f"{role}.json")
        parsed = json.loads(data)
        payload = canonical(parsed["signed"])
        # Connaisseur's demands: exactly these members, P-256, whole seconds.
        assert list(parsed) == ["signed", "signatures"]
        assert sorted(parsed["signed"]) == ["_type", "expires", "meta", "version"]
        assert parsed["signed"]["_type"] == role.capitalize()
        assert re.fullmatch(r"20[0-9-]{8}T[0-9:]{8}Z", parsed["signed"]["expires"])
        (signature,) = parsed["signatures"]
        assert list(signature) == ["keyid", "method", "sig"]
        assert (signature["method"], key["keytype"]) == ("ecdsa", "ecdsa")
        raw = unb64(signature["sig"])
        assert len(raw) == 64
        der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
        public = load_der_public_key(unb64(key["keyval"]["public"]))
        assert isinstance(public, ec.EllipticCurvePublicKey)
        assert isinstance(public.curve, ec.SECP256R1)
        public.verify(der, payload, ec.ECDSA(SHA256()))
        assert data.startswith(b'{"signed":' + payload + b',"signatures":[{"keyid":"')
        for described in parsed["signed"]["meta"].values():
            assert sorted(described) == ["hashes", "length"]
            assert {name: len(unb64(text)) for name, text in described["hashes"].items()} == {
                "sha256": 32,
                "sha512": 64,
            }


async def test_t8_null_roles_and_key_ids_are_as_none(site: Site) -> None:
    owner, alice = await started(site), NotarySigner.ecdsa()
    null = {"keys": {}, "roles": None}
    await accepted(site, {"targets": owner.targets_file(2, delegations=null)})
    keyless = {**delegation("targets/releases", []), "keyids": None}
    held = {"keys": {alice.keyid: alice.key}, "roles": [keyless]}
    await accepted(site, {"targets": owner.targets_file(3, delegations=held)})
    assert (await send(site, "GET", "targets/releases.json")).status == 404


async def test_t10_an_error_fits_the_kibibyte_that_clients_read(site: Site) -> None:
    owner = await started(site)
    long = "x" * 4000
    sent = [
        {"targets": owner.targets_file(2, targets={f"{long}\n": target(b"v")})},
        {"targets/" + "a" * 240: owner.targets_file(2)},
        {"targets": owner.targets_file(2, _type=long)},
        {"targets": owner.targets_file(2, delegations={"keys": {}, "roles": [{"name": long}]})},
    ]
    for files in sent:
        answer = await upload(site, files)
        assert answer.status == 400
        text = await answer.read()
        assert len(text) < 1024
        assert text.endswith(b"}\n")
        assert len(json.loads(text)["errors"]) == 1


async def test_t11_head_answers_as_get_without_the_body(site: Site) -> None:
    await started(site)
    answer = await send(site, "HEAD", "root.json")
    assert (answer.status, await answer.read()) == (200, b"")
    assert int(answer.headers["Content-Length"]) == len(await body(site, "root.json"))


async def test_t12_a_dropped_gun_is_not_found_so_that_clients_say_so(site: Site) -> None:
    await started(site)
    assert (await send(site, "DELETE", "")).status == 200
    answer = await send(site, "GET", "timestamp.json")
    assert answer.status == 404
    assert json.loads(await answer.text())["errors"][0]["code"] == "METADATA_NOT_FOUND"


async def test_a_timestamp_is_renewed_ahead_of_expiry_and_told_in_the_changefeed(
    site: Site,
) -> None:
    await started(site)
    site.clock.now += timedelta(days=8)
    assert (await signed(site, "timestamp"))["version"] == 2
    feed = await site.client.session.get(
        site.at(f"/v2/{GUN}/_trust/changefeed?records=10"), headers=PLAIN
    )
    versions = [record["Version"] for record in json.loads(await feed.text())["records"]]
    assert versions == [1, 2]


async def test_an_expired_chain_is_still_served(site: Site) -> None:
    await started(site)
    site.clock.now += timedelta(days=4000)
    for role in ("root", "targets", "snapshot", "timestamp"):
        assert (await send(site, "GET", f"{role}.json")).status == 200


async def test_a_role_delegated_anew_to_other_keys_isn_t_listed_until_it_is_signed(
    site: Site,
) -> None:
    owner, alice, bob = await started(site), NotarySigner.ecdsa(), NotarySigner.ecdsa()

    def to(signer: NotarySigner, version: int) -> bytes:
        held = delegations([delegation("targets/a", [signer])], [signer])
        return owner.targets_file(version, delegations=held)

    await accepted(site, {"targets": to(alice, 2), "targets/a": sign(targets_payload(), alice)})
    straight = await refusal(site, {"targets": to(bob, 3)})
    assert "re-signed" in straight["detail"]["Error"]["Msg"]
    await accepted(site, {"targets": owner.targets_file(3)})
    await accepted(site, {"targets": to(bob, 4)})
    assert sorted((await signed(site, "snapshot"))["meta"]) == ["root", "targets"]
    # Who signs it next has to see above which version.
    assert (await signed(site, "targets/a"))["version"] == 1
    await accepted(site, {"targets/a": sign(targets_payload(2), bob)})
    assert (await signed(site, "targets/a"))["version"] == 2


async def test_our_own_client_gets_problems_and_versions_of_notary_guns_too(site: Site) -> None:
    owner = await started(site)
    again = await site.post({"targets": owner.targets_file(1)})
    assert again.status == 409
    assert again.headers["Content-Type"] == "application/problem+json"
    assert (await again.json())["code"] == "version-conflict"
    good = await site.post({"targets": owner.targets_file(2)})
    assert (await good.json())["versions"]["targets"] == 2


async def test_caches_are_told_not_to_keep_anything_if_the_age_is_zero(tmp_path: Path) -> None:
    settings = Settings(notary_max_age_current=timedelta(0), notary_max_age_consistent=timedelta(0))
    store = await SqliteStore.open(tmp_path / "tabellion.db")
    keys = OnlineKeys(store, MasterKey.generate())
    app = make_app(settings, store=store, online_keys=keys)
    async with TestClient(TestServer(app)) as client:
        site = Site(client, store, Clock())
        await started(site)
        for name in ("root.json", "1.root.json"):
            answer = await send(site, "GET", name)
            assert answer.headers["Cache-Control"] == "max-age=0, no-cache, no-store"
            assert answer.headers["Pragma"] == "no-cache"
    await store.close()


async def test_an_upload_outside_the_prefixes_is_told_which_are_taken(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "tabellion.db")
    keys = OnlineKeys(store, MasterKey.generate())
    app = make_app(Settings(gun_prefixes=("a/", "b/")), store=store, online_keys=keys)
    async with TestClient(TestServer(app)) as client:
        site = Site(client, store, Clock())
        error = await refusal(site, {"root": b"{}"})
    await store.close()
    assert error == {
        "code": "INVALID_GUN",
        "message": "The server does not support actions on images of this name.",
        "detail": "Require GUNs with prefix: [a/ b/]",
    }


async def test_health_names_the_failing_store(site: Site) -> None:
    await site.store.close()
    answer = await site.client.session.get(site.at("/_notary_server/health"), headers=PLAIN)
    assert answer.status == 503
    assert list(json.loads(await answer.text())) == ["DB operational"]


async def test_metrics_count_by_notary_s_names(site: Site) -> None:
    await started(site)
    await send(site, "GET", "root.json")
    await send(site, "GET", "1.root.json")
    await send(site, "DELETE", "")
    await send(site, "GET", "nonsense")
    answer = await site.client.session.get(site.at("/metrics"))
    text = await answer.text()
    counted = re.findall(r"(?m)^notary_server_http_requests_total({.*}) ([0-9.]+)$", text)
    assert dict(counted) == {
        '{code="200",method="get",operation="GetKey"}': "2.0",
        '{code="200",method="post",operation="UpdateTUF"}': "1.0",
        '{code="200",method="get",operation="GetRole"}': "1.0",
        '{code="200",method="get",operation="GetRoleByVersion"}': "1.0",
        '{code="200",method="delete",operation="DeleteTUF"}': "1.0",
    }
