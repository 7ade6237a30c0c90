from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import pytest
from tuf.api.metadata import Root, Targets

from forge import Forge, target
from http_site import Site, new_signer, payload, signed
from tabellion.core.dialect import TUF
from tabellion_server.web.context import CONTEXT


async def first(site: Site) -> Forge:
    forge = await site.forge()
    forge.targets.targets["1.0"] = target(b"one", "1.0")
    await site.publish(forge, "root", "targets")
    return forge


async def refused(site: Site, files: dict[str, bytes], status: int, code: str) -> dict[str, object]:
    before = await site.everything()
    response = await site.post(files)
    problem = await response.json()
    assert (response.status, problem["code"]) == (status, code), problem
    assert response.content_type == "application/problem+json"
    assert problem["type"] == f"urn:tabellion:problem:{code}"
    assert problem["request_id"] == response.headers["X-Request-ID"]
    assert "\n" not in problem["detail"]
    assert problem["hint"]
    assert await site.everything() == before
    return dict(problem)


async def test_a_first_publication_is_signed_and_served(site: Site) -> None:
    forge = await site.forge()
    forge.targets.targets["1.0"] = target(b"one", "1.0")
    answer = await site.publish(forge, "root", "targets")
    assert answer["versions"] == {"root": 1, "targets": 1, "snapshot": 1, "timestamp": 1}
    for name, role in {
        "1.root.json": "root",
        "root.json": "root",
        "1.targets.json": "targets",
        "targets.json": "targets",
    }.items():
        assert await site.body(name) == forge.files[role]
    files = {
        "root": forge.files["root"],
        "timestamp": await site.body("timestamp.json"),
        "snapshot": await site.body("1.snapshot.json"),
        "targets": await site.body("1.targets.json"),
    }
    forge.files = files
    trusted = forge.trusted(now=site.clock())
    served = trusted.role("targets", "root")
    assert served is not None
    assert served.signed.targets.keys() == {"1.0"}


async def test_identical_bytes_sent_again_change_nothing_and_are_fine(site: Site) -> None:
    forge = await first(site)
    before = await site.everything()
    for files in (
        forge.files,
        {"1.root": forge.files["root"], "targets": forge.files["targets"]},
        {"1.root.json": forge.files["root"]},
    ):
        response = await site.post(files)
        assert response.status == 200
        assert (await response.json())["unchanged"]
    assert await site.everything() == before


async def test_a_publication_on_an_old_version_gets_409_with_the_current_ones(site: Site) -> None:
    forge = await first(site)
    forge.targets.version = 2
    await site.publish(forge, "targets")
    forge.targets.targets["1.1"] = target(b"two", "1.1")
    problem = await refused(site, signed(forge, "targets"), 409, "version-conflict")
    assert problem["versions"] == {"root": 1, "targets": 2, "snapshot": 2, "timestamp": 2}


async def test_of_many_at_once_one_wins_each_version_and_the_rest_get_409(site: Site) -> None:
    forge = await first(site)
    forge.targets.version = 2
    rivals = []
    for number in range(20):
        forge.targets.targets = {f"n{number}": target(b"x", f"n{number}")}
        rivals.append(signed(forge, "targets"))
    responses = await asyncio.gather(*(site.post(files) for files in rivals))
    assert sorted(response.status for response in responses) == [200] + [409] * 19
    head = await site.store.head(site.gun)
    assert head is not None
    assert {role: ref.version for role, ref in head.files.items()} == {
        "root": 1,
        "targets": 2,
        "snapshot": 2,
        "timestamp": 2,
    }


async def test_a_file_signed_by_a_wrong_key_is_refused(site: Site) -> None:
    forge = await first(site)
    forge.targets.version = 2
    data = TUF.sign(forge.targets, [new_signer()])
    problem = await refused(site, {"targets": data}, 422, "threshold")
    assert problem["role"] == "targets"


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"signed":{},"signatures":[]}', b"\xff\xfe"])
async def test_a_malformed_file_is_refused(site: Site, data: bytes) -> None:
    await first(site)
    await refused(site, {"targets": data}, 400, "malformed-metadata")


async def test_an_expired_file_is_refused(site: Site) -> None:
    forge = await first(site)
    forge.targets.version = 2
    forge.targets.expires = (site.clock() - timedelta(seconds=2)).replace(microsecond=0)
    await refused(site, signed(forge, "targets"), 422, "expired-metadata")


async def test_a_gun_without_a_root_is_refused(site: Site) -> None:
    forge = await site.forge()
    problem = await refused(site, signed(forge, "targets"), 422, "publication-refused")
    assert problem["rule"] == "missing-root"


async def test_a_root_with_foreign_timestamp_keys_is_refused(site: Site) -> None:
    problem = await refused(site, signed(Forge(), "root", "targets"), 422, "publication-refused")
    assert problem["rule"] == "timestamp-is-online"


async def test_a_role_nobody_delegates_to_is_refused(site: Site) -> None:
    forge = await first(site)
    data = TUF.sign(forge.targets, forge.signers["targets"])
    problem = await refused(site, {"stranger": data}, 422, "publication-refused")
    assert problem["rule"] == "unknown-role"


async def test_a_role_name_that_is_not_portable_is_refused(site: Site) -> None:
    forge = await first(site)
    await refused(site, {"../up": forge.files["targets"]}, 400, "invalid-name")


async def test_a_publication_without_files_is_refused(site: Site) -> None:
    await first(site)
    before = await site.everything()
    body = b"--x--\r\n"
    response = await site.client.session.post(
        site.url(""), data=body, headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert response.status in {400, 422}
    assert await site.everything() == before


async def test_a_file_above_its_role_limit_gets_413(site: Site) -> None:
    await first(site)
    await refused(site, {"root": b" " * 512_001}, 413, "metadata-too-large")


async def test_a_body_above_the_limit_gets_413(site: Site) -> None:
    await first(site)
    many = {"targets": b"{" * 900_000, "other": b"{" * 900_000}
    await refused(site, many, 413, "body-too-large")


async def test_a_body_that_is_not_multipart_gets_415(site: Site) -> None:
    before = await site.everything()
    response = await site.client.session.post(site.url(""), data=b"{}")
    assert response.status == 415
    assert (await response.json())["code"] == "malformed-body"
    assert await site.everything() == before


@pytest.mark.parametrize("length", [0, 10, 60, 200, 700])
async def test_a_multipart_body_cut_short_changes_nothing(site: Site, length: int) -> None:
    forge = await site.forge()
    await site.publish(forge, "root", "targets")
    forge.targets.version = 2
    data = signed(forge, "targets")["targets"]
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="targets"\r\n\r\n'
    body = (head + data + b"\r\n--x--\r\n")[: max(length, 0)] if length < 700 else head + data
    before = await site.everything()
    response = await site.client.session.post(
        site.url(""), data=body, headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert response.status in {400, 422}, await response.text()
    assert response.content_type == "application/problem+json"
    assert await site.everything() == before


async def test_a_connection_lost_in_mid_upload_changes_nothing(site: Site) -> None:
    forge = await first(site)
    forge.targets.version = 2
    data = signed(forge, "targets")["targets"]
    before = await site.everything()
    _reader, writer = await asyncio.open_connection(site.client.host, site.client.port)
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="targets"\r\n\r\n'
    writer.write(
        f"POST /v2/{site.gun}/_trust/tuf/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode()
        + head
        + data
    )
    await writer.drain()
    await asyncio.sleep(0.1)
    writer.close()
    await asyncio.sleep(0.2)
    assert await site.everything() == before


async def test_roots_in_a_row_come_with_the_timestamp_they_need(site: Site) -> None:
    forge = await first(site)
    rotated = await site.client.session.post(site.url("timestamp.key"))
    fields = await rotated.json()
    assert rotated.status == 200
    roots: dict[str, bytes] = {}
    old = forge.root.roles["timestamp"].keyids[0]
    for version in (2, 3):
        forge.root.version = version
        if version == 3:
            forge.root.revoke_key(old, "timestamp")
            forge.root.add_key(await site.key("timestamp"), "timestamp")
        roots[f"{version}.root"] = TUF.sign(forge.root, forge.signers["root"])
    response = await site.post(roots)
    assert response.status == 200, await response.text()
    assert (await response.json())["versions"]["root"] == 3
    assert await site.body("2.root.json") == roots["2.root"]
    timestamp = json.loads(await site.body("timestamp.json"))
    assert [item["keyid"] for item in timestamp["signatures"]] == [fields["keyid"]]
    assert (await site.get("4.root.json")).status == 404
    again = await site.post(roots)
    assert (await again.json())["unchanged"]


async def test_a_rotated_snapshot_key_resigns_the_snapshot_with_the_root(site: Site) -> None:
    forge = await first(site)
    await site.client.session.post(site.url("snapshot.key"))
    forge.root.revoke_key(forge.root.roles["snapshot"].keyids[0], "snapshot")
    forge.root.add_key(await site.key("snapshot"), "snapshot")
    forge.root.version = 2
    answer = await site.publish(forge, "root")
    assert answer["versions"] == {"root": 2, "targets": 1, "snapshot": 2, "timestamp": 2}
    snapshot = json.loads(await site.body("2.snapshot.json"))
    assert snapshot["signatures"][0]["keyid"] == forge.root.roles["snapshot"].keyids[0]


async def test_a_delegated_role_with_a_slash_is_published_and_served_encoded(site: Site) -> None:
    forge = await site.forge()
    forge.delegate("team/alice", ["1.*"])
    await site.publish(forge, "root", "targets")
    forge.delegated["team/alice"].targets["1.2"] = target(b"x", "1.2")
    answer = await site.publish(forge, "team/alice")
    assert answer["versions"]["team/alice"] == 1
    assert await site.body("1.team%2Falice.json") == forge.files["team/alice"]
    assert await site.body("team%2Falice.json") == forge.files["team/alice"]
    history = await site.client.get(f"/v1/history/{site.gun}")
    assert [entry["role"] for entry in (await history.json())["events"]] == ["team/alice"]


async def test_a_publisher_held_snapshot_is_taken_and_never_renewed_by_us(site: Site) -> None:
    forge = await site.forge()
    root: Root = forge.root
    signer = new_signer()
    forge.signers["snapshot"] = [signer]
    root.revoke_key(root.roles["snapshot"].keyids[0], "snapshot")
    root.add_key(signer.public_key, "snapshot")
    forge.release()
    files = {role: forge.files[role] for role in ("root", "targets", "snapshot")}
    response = await site.post(files)
    assert response.status == 200, await response.text()
    site.clock.now += timedelta(hours=20)
    assert json.loads(await site.body("timestamp.json"))["signed"]["version"] == 2
    assert await site.body("snapshot.json") == files["snapshot"]
    forge.targets.version = 2
    problem = await refused(site, signed(forge, "targets"), 422, "publication-refused")
    assert problem["rule"] == "missing-snapshot"


async def test_history_tells_what_a_tag_meant(site: Site) -> None:
    forge = await first(site)
    forge.targets.version = 2
    forge.targets.targets = {"1.0": target(b"changed", "1.0")}
    await site.publish(forge, "targets")
    forge.targets.version = 3
    forge.targets.targets = {}
    await site.publish(forge, "targets")
    response = await site.client.get(f"/v1/history/{site.gun}", params={"target": "1.0"})
    entries = (await response.json())["events"]
    assert [(item["kind"], item["version"]) for item in entries] == [
        ("revoked", 3),
        ("signed", 2),
        ("signed", 1),
    ]
    assert isinstance(payload(forge, "targets"), Targets)


async def test_parsed_files_that_publications_share_are_never_changed(site: Site) -> None:
    forge = await site.forge()
    forge.delegate("alice", ["a*"])
    await site.publish(forge, "root", "targets", "alice")
    head = await site.store.head(site.gun)
    assert head is not None
    assert site.client.app is not None
    held = (await site.client.app[CONTEXT].files.current_set(head)).files
    forge.targets.version = forge.delegated["alice"].version = 2
    forge.delegated["alice"].targets["a1"] = target(b"one", "a1")
    await site.publish(forge, "targets", "alice")
    site.clock.now += timedelta(days=20)
    await site.get("timestamp.json")
    assert (await site.client.get(f"/v1/guns/{site.gun}")).status == 200
    for role, item in held.items():
        again = TUF.parse(role, item.data, max_bytes=len(item.data))
        assert (item.signed, item.signatures) == (again.signed, again.signatures), role
