"""Pending proposals: only what could be published, only signatures that count, published once."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from securesystemslib.signer import CryptoSigner, Signer, SSlibKey
from structlog.testing import capture_logs
from tuf.api.metadata import Root

from forge import Forge, resign, target
from http_site import Site, new_signer, signed
from tabellion.core.dialect import TUF
from tabellion.core.publication import CurrentSet
from tabellion_server.app import make_app
from tabellion_server.services import offers, pending
from tabellion_server.services.offers import Shown
from tabellion_server.settings import Settings
from tabellion_server.storage.interface import PendingRow
from tabellion_server.storage.sqlite import SqliteStore
from tabellion_server.web.context import CONTEXT

PROBLEMS = {"Accept": "application/problem+json"}


async def two_of_three(site: Site) -> tuple[Forge, list[CryptoSigner]]:
    """Publish a GUN with two of three root keys needed; gives their holders."""
    holders = [new_signer() for _ in range(3)]
    forge = await site.forge()
    root: Root = forge.root
    root.revoke_key(root.roles["root"].keyids[0], "root")
    for holder in holders:
        root.add_key(holder.public_key, "root")
    root.roles["root"].threshold = 2
    forge.signers["root"] = list(holders)
    await site.publish(forge, "root", "targets")
    return forge, holders


def next_root(
    forge: Forge, signers: Sequence[Signer], change: Callable[[Root], object] = lambda _: None
) -> dict[str, bytes]:
    root = copy.deepcopy(forge.root)
    root.version += 1
    change(root)
    return {"root": TUF.sign(root, signers)}


async def listed(site: Site) -> list[dict[str, Any]]:
    response = await site.client.session.get(site.at(f"/v1/guns/{site.gun}/pending"))
    assert response.status == 200, await response.text()
    return list((await response.json())["pending"])


async def actions(site: Site) -> list[str]:
    response = await site.client.session.get(site.at(f"/v1/guns/{site.gun}/audit"))
    return [entry["action"] for entry in (await response.json())["entries"]][::-1]


async def opened(site: Site, files: dict[str, bytes]) -> str:
    response = await site.offer(files)
    content = await response.json()
    assert (response.status, content["state"]) == (201, "opened"), content
    return str(content["id"])


async def refused(site: Site, files: dict[str, bytes], status: int, rule: str) -> None:
    before = await site.everything()
    response = await site.offer(files)
    problem = await response.json()
    found = (response.status, problem.get("rule", problem["code"]))
    assert found == (status, rule), problem
    assert response.content_type == "application/problem+json"
    assert await site.everything() == before


async def test_a_root_waits_until_both_thresholds_are_met(site: Site) -> None:
    forge, (ann, bob, eve) = await two_of_three(site)
    dan = new_signer()

    def swap(root: Root) -> None:
        root.revoke_key(eve.public_key.keyid, "root")
        root.add_key(dan.public_key, "root")
        root.roles["root"].threshold = 3
        root.unrecognized_fields["x-tabellion-holders"] = {dan.public_key.keyid: "Dan"}

    with capture_logs() as lines:
        number = await opened(site, next_root(forge, [ann], swap))
        (proposal,) = await listed(site)
        by_old, by_new = proposal["standing"]
        assert (by_old["delegator_version"], by_old["lacking"]) == (1, 1)
        assert (by_new["delegator_version"], by_new["lacking"]) == (2, 2)
        assert {"keyid": dan.public_key.keyid, "holder": "Dan"} in by_new["awaited"]
        # The old threshold is met, the new root's own isn't.
        response = await site.offer(next_root(forge, [bob], swap))
        assert (response.status, (await response.json())["state"]) == (200, "merged")
        assert [item["lacking"] for item in (await listed(site))[0]["standing"]] == [0, 1]
        assert (await site.get("2.root.json")).status == 404
        response = await site.offer(next_root(forge, [dan], swap))
    content = await response.json()
    assert (response.status, content["state"], content["id"]) == (200, "published", number)
    assert content["versions"]["root"] == 2
    assert len(json.loads(await site.body("2.root.json"))["signatures"]) == 3
    assert await listed(site) == []
    assert await actions(site) == ["opened", "signed", "published"]
    events = [line["event"] for line in lines if line["event"].startswith("proposal.")]
    assert events == ["proposal.opened", "proposal.signed", "proposal.published"]


async def test_one_proposal_is_given_with_its_files(site: Site) -> None:
    forge, (ann, _, _) = await two_of_three(site)
    files = next_root(forge, [ann])
    number = await opened(site, files)
    url = site.at(f"/v1/guns/{site.gun}/pending/{number}")
    content = await (await site.client.session.get(url)).json()
    assert content["files"] == {"root": files["root"].decode()}
    assert content["roles"] == {"root": 2}
    missing = site.at(f"/v1/guns/{site.gun}/pending/{'0' * 64}")
    assert (await site.client.session.get(missing)).status == 404


async def test_the_same_signatures_again_change_nothing(site: Site) -> None:
    forge, (ann, bob, _) = await two_of_three(site)
    await opened(site, next_root(forge, [ann]))
    before = await site.everything()
    response = await site.offer(next_root(forge, [ann]))
    assert (response.status, (await response.json())["state"]) == (200, "merged")
    assert await site.everything() == before
    await site.offer(next_root(forge, [bob]))
    before = await site.everything()
    response = await site.offer(next_root(forge, [ann]))
    assert (response.status, (await response.json())["state"]) == (200, "published")
    assert await site.everything() == before


async def test_a_threshold_release_waits_for_the_very_same_bytes(site: Site) -> None:
    forge = await site.forge()
    ann, bob = new_signer(), new_signer()
    forge.root.revoke_key(forge.root.roles["targets"].keyids[0], "targets")
    for holder in (ann, bob):
        forge.root.add_key(holder.public_key, "targets")
    forge.root.roles["targets"].threshold = 2
    forge.signers["targets"] = [ann, bob]
    await site.publish(forge, "root", "targets")
    forge.targets.version = 2
    forge.targets.targets["1.0"] = target(b"one", "1.0")
    half = {"targets": TUF.sign(forge.targets, [ann])}
    await opened(site, half)
    forge.targets.targets["1.0"] = target(b"other", "1.0")
    await opened(site, {"targets": TUF.sign(forge.targets, [bob])})  # other bytes: another one
    assert len(await listed(site)) == 2
    response = await site.offer({"targets": TUF.add_signature(half["targets"], [bob])})
    assert (await response.json())["state"] == "published"
    (rest,) = await listed(site)
    assert rest["stale"]
    assert b"other" not in await site.body("2.targets.json")


async def test_a_gun_is_founded_by_two_root_holders(site: Site) -> None:
    forge = await site.forge()
    ann, bob = new_signer(), new_signer()
    forge.root.revoke_key(forge.root.roles["root"].keyids[0], "root")
    for holder in (ann, bob):
        forge.root.add_key(holder.public_key, "root")
    forge.root.roles["root"].threshold = 2
    forge.signers["root"] = [ann]
    await refused(site, {"targets": signed(forge, "targets")["targets"]}, 422, "missing-root")
    await opened(site, signed(forge, "root", "targets"))
    assert (await site.get("root.json")).status == 404
    forge.signers["root"] = [bob]
    response = await site.offer(signed(forge, "root", "targets"))
    content = await response.json()
    assert (content["state"], content["versions"]["timestamp"]) == ("published", 1)
    assert await actions(site) == ["opened", "published"]


async def test_a_signature_over_other_bytes_is_refused(site: Site) -> None:
    forge, (ann, bob, _) = await two_of_three(site)
    await opened(site, next_root(forge, [ann]))
    other = next_root(forge, [bob], lambda root: root.unrecognized_fields.update(x=1))
    files = json.loads(next_root(forge, [ann])["root"])
    files["signatures"] += json.loads(other["root"])["signatures"]
    await refused(site, {"root": json.dumps(files).encode()}, 422, "bad-signature")


async def test_a_proposal_edited_after_a_signature_is_refused(site: Site) -> None:
    forge, (ann, _, _) = await two_of_three(site)
    files = json.loads(next_root(forge, [ann])["root"])
    files["signed"]["roles"]["root"]["threshold"] = 1
    await refused(site, {"root": json.dumps(files).encode()}, 422, "bad-signature")


async def test_a_signature_by_an_unlisted_key_is_refused(site: Site) -> None:
    forge, (ann, _, _) = await two_of_three(site)
    await opened(site, next_root(forge, [ann]))
    await refused(site, next_root(forge, [ann, new_signer()]), 422, "unknown-signer")
    await refused(site, next_root(forge, [new_signer()]), 422, "unknown-signer")


async def test_one_key_under_two_ids_is_refused_in_a_proposal(site: Site) -> None:
    forge, (ann, _, _) = await two_of_three(site)
    twin = SSlibKey("f" * 64, "ed25519", "ed25519", dict(ann.public_key.keyval))
    files = next_root(forge, [ann], lambda root: root.add_key(twin, "root"))
    await refused(site, files, 422, "duplicate-key")


async def test_a_withdrawn_proposal_cannot_be_brought_back(site: Site) -> None:
    forge, (ann, bob, _) = await two_of_three(site)
    number = await opened(site, next_root(forge, [ann]))
    url = site.at(f"/v1/guns/{site.gun}/pending/{number}")
    assert (await site.client.session.delete(url)).status == 204
    assert (await site.client.session.delete(url)).status == 404
    assert await listed(site) == []
    await refused(site, next_root(forge, [ann]), 422, "proposal-closed")
    await refused(site, next_root(forge, [ann, bob]), 422, "proposal-closed")
    before = await site.everything()
    response = await site.post(next_root(forge, [ann, bob]))
    assert (response.status, (await response.json())["rule"]) == (422, "proposal-closed")
    assert await site.everything() == before
    assert await actions(site) == ["opened", "withdrawn"]


async def test_a_proposal_is_judged_once_however_often_anybody_asks(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge, (ann, bob, _) = await two_of_three(site)
    judged: list[str] = []

    def standing_of_row(row: PendingRow, current: CurrentSet | None) -> Shown:
        judged.append(row.id)
        return offers.standing_of_row(row, current)

    number = await opened(site, next_root(forge, [ann]))
    monkeypatch.setattr(pending, "standing_of_row", standing_of_row)
    await asyncio.gather(*(listed(site) for _ in range(4)))
    assert judged == [number]
    # What changes it, or what it's built on, is seen at once.
    change: Callable[[Root], object] = lambda root: root.unrecognized_fields.update(x=1)  # noqa: E731  (used twice)
    await opened(site, next_root(forge, [ann], change))
    assert [item["stale"] for item in await listed(site)] == [False, False]
    assert (await site.post(next_root(forge, [ann, bob]))).status == 200
    assert [item["stale"] for item in await listed(site)] == [True]


async def test_a_withdrawn_proposal_cannot_be_brought_back_in_company(site: Site) -> None:
    forge, (ann, bob, _) = await two_of_three(site)
    withdrawn = next_root(forge, [ann, bob])
    url = site.at(f"/v1/guns/{site.gun}/pending/")
    number = await opened(site, next_root(forge, [ann]))
    assert (await site.client.session.delete(url / number)).status == 204
    # With targets of one's own, and with another root behind it.
    forge.targets.version += 1
    targets = {"targets": TUF.sign(forge.targets, forge.signers["targets"])}
    forge.root.version += 1
    later = {f"{version}.root": data for version, data in ((2, withdrawn["root"]),)}
    later["3.root"] = next_root(forge, [ann, bob])["root"]
    await refused(site, withdrawn | targets, 422, "proposal-closed")
    await refused(site, next_root_unsigned(withdrawn) | targets, 422, "proposal-closed")
    for files in (withdrawn | targets, later):
        before = await site.everything()
        response = await site.post(files)
        assert (response.status, (await response.json()).get("rule")) == (422, "proposal-closed")
        assert await site.everything() == before


def next_root_unsigned(files: dict[str, bytes]) -> dict[str, bytes]:
    return {"root": resign(files["root"], [], lambda _: None)}


async def test_a_proposal_on_an_old_base_is_refused_and_one_held_is_told_stale(
    site: Site,
) -> None:
    forge, (ann, bob, eve) = await two_of_three(site)
    change: Callable[[Root], object] = lambda root: root.unrecognized_fields.update(x=1)  # noqa: E731  (used twice)
    await opened(site, next_root(forge, [ann], change))
    response = await site.post(next_root(forge, [bob, eve]))
    assert response.status == 200
    (held,) = await listed(site)
    assert held["stale"]
    await refused(site, next_root(forge, [bob], change), 409, "version-conflict")
    assert (await site.get("3.root.json")).status == 404


async def test_a_publication_by_the_other_way_closes_the_proposal(site: Site) -> None:
    forge, (ann, bob, _) = await two_of_three(site)
    await opened(site, next_root(forge, [ann]))
    assert (await site.post(next_root(forge, [ann, bob]))).status == 200
    assert await listed(site) == []
    assert await actions(site) == ["opened", "published"]


async def test_the_seventeenth_proposal_is_refused(site: Site) -> None:
    forge, (ann, bob, _) = await two_of_three(site)

    def numbered(number: int) -> Callable[[Root], object]:
        return lambda root: root.unrecognized_fields.update(number=number)

    for number in range(16):
        await opened(site, next_root(forge, [ann], numbered(number)))
    await refused(site, next_root(forge, [ann], numbered(16)), 422, "too-many-pending")
    response = await site.offer(next_root(forge, [bob], numbered(3)))
    assert (await response.json())["state"] == "published"


async def test_proposals_too_large_together_are_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge, (ann, bob, _) = await two_of_three(site)
    files = next_root(forge, [ann])
    monkeypatch.setattr(pending, "MAX_PENDING_BYTES", len(files["root"]) + 100)
    await opened(site, files)
    other = next_root(forge, [ann], lambda root: root.unrecognized_fields.update(x=1))
    await refused(site, other, 422, "too-many-pending")
    assert (await (await site.offer(next_root(forge, [bob]))).json())["state"] == "published"


async def test_an_expired_proposal_is_gone_and_not_taken_again(site: Site) -> None:
    forge, (ann, bob, _) = await two_of_three(site)
    await opened(site, next_root(forge, [ann]))
    site.clock.now += timedelta(days=13)
    assert len(await listed(site)) == 1
    site.clock.now += timedelta(days=1, seconds=1)
    assert await listed(site) == []
    await refused(site, next_root(forge, [bob]), 422, "proposal-closed")
    assert await actions(site) == ["opened", "expired"]


async def test_a_proposal_lives_no_longer_than_what_it_holds(site: Site) -> None:
    forge, (ann, _, _) = await two_of_three(site)
    ends = site.clock().replace(microsecond=0, tzinfo=None) + timedelta(days=2)
    await opened(site, next_root(forge, [ann], lambda root: setattr(root, "expires", ends)))
    assert (await listed(site))[0]["expires"] == ends.isoformat() + "Z"
    late = ends - timedelta(days=3)
    files = next_root(forge, [ann], lambda root: setattr(root, "expires", late))
    await refused(site, files, 422, "expired-metadata")


async def test_roles_below_their_threshold_are_refused(site: Site) -> None:
    forge, (ann, bob, eve) = await two_of_three(site)

    def drop(root: Root) -> None:
        for holder in (bob, eve):
            root.revoke_key(holder.public_key.keyid, "root")

    await refused(site, next_root(forge, [ann], drop), 422, "unreachable-threshold")


async def test_a_root_that_orphans_published_targets_is_refused(site: Site) -> None:
    forge, (ann, _, _) = await two_of_three(site)

    def swap(root: Root) -> None:
        root.revoke_key(root.roles["targets"].keyids[0], "targets")
        root.add_key(new_signer().public_key, "targets")

    await refused(site, next_root(forge, [ann], swap), 422, "orphaned-role")


async def test_a_root_with_a_foreign_timestamp_key_is_refused(site: Site) -> None:
    forge, (ann, _, _) = await two_of_three(site)

    def swap(root: Root) -> None:
        root.revoke_key(root.roles["timestamp"].keyids[0], "timestamp")
        root.add_key(new_signer().public_key, "timestamp")

    await refused(site, next_root(forge, [ann], swap), 422, "timestamp-is-online")


async def test_what_nobody_proposes_is_refused(site: Site) -> None:
    forge, (ann, _, _) = await two_of_three(site)
    snapshot = await site.body("1.snapshot.json")
    await refused(site, {"snapshot": snapshot}, 422, "proposal-roles")
    root = next_root(forge, [ann])["root"]
    await refused(site, {"2.root": root}, 400, "invalid-name")
    stray = {"stray": TUF.sign(forge.targets, [])}
    await refused(site, stray, 422, "unknown-role")
    await refused(site, {"root": resign(root, [], lambda payload: payload.clear())}, 400,
                  "malformed-metadata")  # fmt: skip


async def test_the_last_signature_from_two_at_once_publishes_once(site: Site) -> None:
    forge, (ann, bob, eve) = await two_of_three(site)
    await opened(site, next_root(forge, [ann]))
    responses = await asyncio.gather(
        *(site.offer(next_root(forge, [holder])) for holder in (bob, eve) * 4)
    )
    answers = [await response.json() for response in responses]
    assert {response.status for response in responses} == {200}, answers
    assert {answer["state"] for answer in answers} == {"published"}
    assert {answer["versions"]["root"] for answer in answers} == {2}
    assert await actions(site) == ["opened", "published"]
    head = await site.store.head(site.gun)
    assert head is not None
    assert head.revision == 2


async def test_the_last_signature_by_two_processes_at_once_publishes_once(
    site: Site, settings: Settings
) -> None:
    forge, (ann, bob, eve) = await two_of_three(site)
    await opened(site, next_root(forge, [ann]))
    store = await SqliteStore.open(site.store._path)
    online = site.client.app[CONTEXT].online
    app = make_app(settings, store=store, online_keys=online, clock=site.clock)
    async with TestClient(TestServer(app), headers=PROBLEMS) as client:
        other = Site(client, store, site.clock)
        responses = await asyncio.gather(
            *(each.offer(next_root(forge, [who])) for who in (bob, eve) for each in (site, other))
        )
        answers = [await response.json() for response in responses]
    await store.close()
    assert {answer["state"] for answer in answers} == {"published"}, answers
    assert await actions(site) == ["opened", "published"]
    head = await site.store.head(site.gun)
    assert head is not None
    assert head.revision == 2


async def test_signatures_that_two_processes_take_at_once_are_all_kept(
    site: Site, settings: Settings
) -> None:
    forge, holders = await two_of_three(site)
    more = [new_signer() for _ in range(6)]

    def grow(root: Root) -> None:
        for holder in more:
            root.add_key(holder.public_key, "root")
        root.roles["root"].threshold = 9

    await opened(site, next_root(forge, [holders[0]], grow))
    store = await SqliteStore.open(site.store._path)
    online = site.client.app[CONTEXT].online
    app = make_app(settings, store=store, online_keys=online, clock=site.clock)
    async with TestClient(TestServer(app), headers=PROBLEMS) as client:
        sites = (site, Site(client, store, site.clock))
        await asyncio.gather(
            *(
                sites[number % 2].offer(next_root(forge, [holder], grow))
                for number, holder in enumerate(more)
            )
        )
    await store.close()
    (proposal,) = await listed(site)
    assert len(proposal["standing"][1]["signed"]) == 7
    assert await actions(site) == ["opened"] + ["signed"] * 6


async def test_a_gun_whose_name_ends_like_an_address_of_proposals_has_its_own(site: Site) -> None:
    site.gun = "registry.example/pending"
    forge = await site.forge()
    await site.publish(forge, "root", "targets")
    answer = await site.client.session.get(site.at("/v1/guns/registry.example%2Fpending"))
    assert (await answer.json())["versions"]["root"] == 1
    assert await listed(site) == []


@pytest.mark.parametrize("path", ["pending", "pending/" + "0" * 64])
async def test_there_is_nothing_pending_for_a_gun_that_nobody_made(site: Site, path: str) -> None:
    response = await site.client.session.get(site.at(f"/v1/guns/nobody.example/app/{path}"))
    assert (response.status, (await response.json())["code"]) == (404, "unknown-gun")


async def test_what_expired_is_dropped_unasked_and_told_once_by_two_processes_on_one_store(
    site: Site, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending, "_ROUND_SECONDS", 0.02)
    forge, (ann, _, _) = await two_of_three(site)
    number = await opened(site, next_root(forge, [ann]))
    stores = [await SqliteStore.open(site.store._path) for _ in range(2)]
    online = site.client.app[CONTEXT].online
    apps = [
        make_app(settings, store=store, online_keys=online, clock=site.clock) for store in stores
    ]
    with capture_logs() as lines:
        async with TestClient(TestServer(apps[0])) as one, TestClient(TestServer(apps[1])) as two:
            await asyncio.sleep(0.2)
            assert number in "".join(await site.everything())
            site.clock.now += timedelta(days=14, seconds=1)
            async with asyncio.timeout(20):
                while await site.store.pending(site.gun):  # noqa: ASYNC110  (others drop it)
                    await asyncio.sleep(0.02)
            await asyncio.sleep(0.2)  # for the other to tell it again, if it would
            # The first server is a third one: it may be the one that drops it.
            clients = (site.client, one, two)
            texts = [await (await client.get("/metrics")).text() for client in clients]
    told = [line for line in lines if line["event"] == "proposal.expired"]
    assert [(line["gun"], line["proposal"]) for line in told] == [(site.gun, number)]
    counted = [
        float(text.split("\ntabellion_proposals_expired_total ")[1].split()[0]) for text in texts
    ]
    assert sorted(counted) == [0, 0, 1]
    assert await actions(site) == ["opened", "expired"]
    for store in stores:
        await store.close()


async def test_a_proposal_too_large_or_too_deep_is_refused(site: Site) -> None:
    await two_of_three(site)
    deep = b'{"signed":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    await refused(site, {"root": deep}, 400, "malformed-metadata")
    await refused(site, {"root": b" " * 512_001}, 413, "metadata-too-large")
    await refused(site, {"root": b" " * 1_600_000}, 413, "body-too-large")
    assert await listed(site) == []
