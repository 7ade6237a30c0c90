"""The server tells ahead what people have to renew: in a GUN's state, the log and the metrics."""

from __future__ import annotations

import contextlib
import json
import math
import re
import sqlite3
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from forge import Forge
from http_site import Site, new_signer, signed
from notary_forge import NotaryForge, NotarySigner
from tabellion_server.app import make_app
from tabellion_server.services.expiry import ExpiryWatch, Round
from tabellion_server.settings import Settings
from tabellion_server.storage.interface import StoreCorruptionError, StoredFile
from tabellion_server.web.context import CONTEXT
from tabellion_server.web.metrics import METRICS

DAY = timedelta(days=1)
SAMPLE = re.compile(r"^(tabellion_expiry_\w+)(?:\{(.*)\})? (.+)$", re.MULTILINE)


def watch(site: Site) -> ExpiryWatch:
    context = site.client.app[CONTEXT]  # type: ignore[index]  # the application under test
    report = site.client.app[METRICS].tell_expiry  # type: ignore[index]  # same
    return ExpiryWatch(
        context.store, context.judge, context.renewer, clock=site.clock, report=report
    )


async def published(site: Site, gun: str = "", **expiries: datetime) -> Forge:
    site.gun = gun or site.gun
    forge = await site.forge()
    forge.delegate("alice", ["a*"])
    for role, at in expiries.items():
        payload: Any = {"root": forge.root, "targets": forge.targets, **forge.delegated}[role]
        payload.expires = at.replace(microsecond=0)
    await site.publish(forge, "root", "targets", "alice")
    return forge


async def walk(watching: ExpiryWatch) -> tuple[Round, list[tuple[str, str, str]]]:
    """Walk once; give what it found and what it warned of."""
    with capture_logs() as lines:
        found = await watching.walk()
    assert {line["event"] for line in lines} <= {"expiry.near"}
    return found, [(line["gun"], line["role"], line["level"]) for line in lines]


async def samples(site: Site) -> dict[str, float]:
    answer = await site.client.session.get(site.at("/metrics"))
    found = SAMPLE.findall(await answer.text())
    return {f"{name}{{{labels}}}": float(value) for name, labels, value in found}


async def test_a_guns_state_tells_what_breaks_first_and_who_renews_what(site: Site) -> None:
    now = site.clock()
    await published(site, alice=now + 3 * DAY, targets=now + 20 * DAY)
    state = await (await site.client.get(f"/v1/guns/{site.gun}")).json()
    assert state["level"] == "critical"
    assert state["first"]["role"] == "alice"
    assert state["first"]["command"] == f"tabellion witness {site.gun} alice"
    levels = {role: (item["level"], item["renewed_by"]) for role, item in state["roles"].items()}
    assert levels == {
        "root": ("ok", "publisher"),
        "targets": ("warn", "publisher"),
        "alice": ("critical", "publisher"),
        "snapshot": ("ok", "server"),
        "timestamp": ("ok", "server"),
    }
    assert all(item["alive"] == 1 for item in state["roles"].values())


async def test_a_warning_comes_once_per_gun_role_and_day(site: Site) -> None:
    now = site.clock()
    await published(site, alice=now + 40 * DAY)
    watching = watch(site)
    assert (await walk(watching))[1] == []
    site.clock.now += 20 * DAY
    warned = [(site.gun, "alice", "warn")]
    assert (await walk(watching))[1] == warned
    assert (await walk(watching))[1] == []
    site.clock.now += DAY
    assert (await walk(watching))[1] == warned
    site.clock.now += 25 * DAY
    found, lines = await walk(watching)
    assert lines == [(site.gun, "alice", "expired")]
    assert found.guns["delegation", "expired"] == 1


async def test_a_renewed_role_is_warned_of_no_more(site: Site) -> None:
    forge = await published(site, targets=site.clock() + 10 * DAY)
    watching = watch(site)
    assert (await walk(watching))[1] == [(site.gun, "targets", "warn")]
    forge.targets.version, forge.targets.expires = 2, forge.root.expires
    await site.publish(forge, "targets")
    site.clock.now += DAY
    assert (await walk(watching))[1] == []


async def test_a_snapshot_that_a_publisher_holds_is_warned_of(site: Site) -> None:
    forge = await site.forge()
    theirs = Forge()
    forge.root.revoke_key(forge.root.roles["snapshot"].keyids[0], "snapshot")
    forge.root.add_key(theirs.signers["snapshot"][0].public_key, "snapshot")
    forge.signers["snapshot"] = theirs.signers["snapshot"]
    forge.release(snapshot_expires_at=(site.clock() + 5 * DAY).replace(microsecond=0))
    files = {role: forge.files[role] for role in ("root", "targets", "snapshot")}
    answer = await site.post(files)
    assert answer.status == 200, await answer.text()
    assert (await walk(watch(site)))[1] == [(site.gun, "snapshot", "critical")]


async def test_a_server_that_cannot_renew_shows_in_the_metrics(site: Site) -> None:
    await published(site)
    watching = watch(site)
    found, _ = await walk(watching)
    assert found.guns["timestamp", "ok"] == 1
    site.clock.now += timedelta(hours=16)  # nobody reads, no sweep comes
    found, lines = await walk(watching)
    assert found.guns["timestamp", "warn"] == 1
    assert lines == []
    site.clock.now += timedelta(hours=6)
    found, _ = await walk(watching)
    assert found.guns["timestamp", "critical"] == 1


async def test_metrics_count_guns_by_role_and_level_and_name_none(site: Site) -> None:
    now = site.clock()
    for number in range(5):
        await published(site, f"a/{number}", targets=now + (5 + number) * DAY)
    watching = watch(site)
    with capture_logs():
        watching._report(await watching.walk())
    found = await samples(site)
    assert len(found) == 6 * 4 + 6 + 1
    assert found['tabellion_expiry_guns{level="critical",role="targets"}'] == 3
    assert found['tabellion_expiry_guns{level="warn",role="targets"}'] == 2
    assert found['tabellion_expiry_guns{level="ok",role="delegation"}'] == 5
    assert found['tabellion_expiry_guns{level="ok",role="root_certificate"}'] == 0
    soonest = found['tabellion_expiry_soonest_timestamp_seconds{role="targets"}']
    assert soonest == (now + 5 * DAY).replace(microsecond=0).timestamp()
    assert found["tabellion_expiry_checked_timestamp_seconds{}"] == now.timestamp()

    for number in range(5):
        site.gun = f"a/{number}"
        await site.client.session.delete(site.url(""))
    watching._report(await watching.walk())
    found = await samples(site)
    assert {value for name, value in found.items() if "soonest" in name} == {math.inf}
    assert sum(value for name, value in found.items() if "guns" in name) == 0


async def test_a_root_certificate_that_ends_before_its_root_is_warned_of(site: Site) -> None:
    async def key(role: str) -> dict[str, Any]:
        fields = json.loads(await site.body(f"{role}.key"))
        return {"keytype": fields["keytype"], "keyval": {**fields["keyval"], "private": None}}

    ends = (site.clock() + 9 * DAY).replace(microsecond=0)
    owner = NotaryForge(
        site.gun,
        timestamp=await key("timestamp"),
        snapshot=await key("snapshot"),
        root_signers=[NotarySigner.root(site.gun, ends=ends)],
    )
    assert (await site.post(owner.first(), Accept="*/*")).status == 200
    watching = watch(site)
    found, lines = await walk(watching)
    assert lines == [(site.gun, "root", "warn")]
    assert found.guns["root", "ok"] == found.guns["root_certificate", "warn"] == 1
    state = await (await site.client.get(f"/v1/guns/{site.gun}")).json()
    assert state["first"]["what"] == "certificates"
    assert datetime.fromisoformat(state["roles"]["root"]["certificates_expire"]) == ends
    (shown,) = state["roles"]["root"]["keys"].values()
    assert datetime.fromisoformat(shown["expires"]) == ends
    site.clock.now = ends + DAY
    found, _ = await walk(watching)
    assert found.guns["root_certificate", "expired"] == 1


async def test_what_people_sign_is_read_once_however_often_the_server_renews(
    site: Site,
) -> None:
    for number in range(3):
        await published(site, f"a/{number}")
    watching = watch(site)
    reads: Counter[str] = Counter()
    read = site.store.read

    async def counted(gun: str, role: str, version: int | None = None) -> StoredFile | None:
        reads[role] += 1
        return await read(gun, role, version)

    site.store.read = counted  # type: ignore[method-assign]  # counts, and passes on
    await watching.walk()
    assert {role: reads[role] for role in ("root", "targets", "alice")} == dict.fromkeys(
        ("root", "targets", "alice"), 3
    )
    await watching.walk()
    site.clock.now += timedelta(hours=13)
    context = site.client.app[CONTEXT]  # type: ignore[index]  # the application under test
    await context.renewer.sweep()
    reads.clear()
    await watching.walk()
    assert set(reads) <= {"timestamp", "snapshot"}


async def test_a_gun_that_cannot_be_read_is_told_and_the_others_are_seen(site: Site) -> None:
    for number in range(3):
        await published(site, f"a/{number}", targets=site.clock() + 5 * DAY)
    with contextlib.closing(sqlite3.connect(site.store._path)) as connection:
        connection.execute("DROP TRIGGER metadata_is_immutable")
        connection.execute("UPDATE metadata SET data = 'x' WHERE gun = 'a/1' AND role = 'targets'")
        connection.commit()
    with capture_logs() as lines:
        found = await watch(site).walk()
    told = {(line["event"], line["gun"]) for line in lines}
    assert told == {("expiry.failed", "a/1"), ("expiry.near", "a/0"), ("expiry.near", "a/2")}
    assert found.guns["targets", "critical"] == 2


async def test_of_thousands_of_bins_the_first_to_end_is_told_and_each_is_read_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge = await site.forge()
    forge.spread(7, "bin1", *map(str, range(500)), holder=new_signer())
    soon = site.clock.now.replace(microsecond=0) + 3 * DAY
    for number in (5, 9):
        forge.delegated[f"bin1-{number:02x}"].expires = soon
    await site.publish(forge, "root", "targets", *forge.delegated)
    watching, read = watch(site), list[str]()
    whole = site.store.read

    async def counted(gun: str, role: str, version: int | None = None) -> StoredFile | None:
        read.append(role)
        return await whole(gun, role, version)

    monkeypatch.setattr(site.store, "read", counted)
    _, told = await walk(watching)
    assert told == [(site.gun, "bin1-05", "critical")]
    assert {"bin1-05", "bin1-09"} <= set(read)
    state = await (await site.client.get(f"/v1/guns/{site.gun}")).json()
    (keyid,) = state["roles"]["bin1-05"]["keyids"]
    assert state["roles"].keys() - {"root", "targets", "snapshot", "timestamp"} == {"bin1-05"}
    assert state["roles"]["bin1-05"]["of_bins"] == 128
    assert datetime.fromisoformat(state["first"]["expires"]) == soon
    command = f"tabellion rebin {site.gun} --bins 128 --bins-key {keyid[:16]}"
    assert state["first"]["command"] == command
    forge.delegated["bin1-05"].version += 1
    forge.delegated["bin1-05"].expires = forge.targets.expires
    await site.publish(forge, "bin1-05")
    read.clear()
    _, told = await walk(watching)
    assert told == [(site.gun, "bin1-09", "critical")]
    # Of the bins the new file, and the one that is told.
    top = {"root", "targets", "snapshot", "timestamp"}
    assert set(read) - top <= {"bin1-05", "bin1-09"}


async def test_a_damaged_gun_keeps_no_other_from_being_renewed(site: Site) -> None:
    for number in range(3):
        await published(site, f"a/{number}")
    with contextlib.closing(sqlite3.connect(site.store._path)) as connection:
        connection.execute("UPDATE heads SET dialect = 'unknown' WHERE gun = 'a/0'")
        connection.execute("DROP TRIGGER metadata_is_immutable")
        connection.execute("UPDATE metadata SET data = x'78' WHERE gun = 'a/1'")
        connection.commit()
    site.clock.now += timedelta(hours=13)
    online = site.client.app[CONTEXT].online  # type: ignore[index]  # the application under test
    # A node that holds nothing in memory yet.
    node = make_app(Settings(), store=site.store, online_keys=online, clock=site.clock)
    with capture_logs() as lines:
        await node[CONTEXT].renewer.sweep()
    told = {(line["event"], line["gun"]) for line in lines}
    assert told == {
        ("timestamp.not_renewed", "a/0"),
        ("timestamp.not_renewed", "a/1"),
        ("timestamp.renewed", "a/2"),
    }


async def test_a_gun_without_a_current_timestamp_is_told_in_words(site: Site) -> None:
    forge = await published(site, "a")
    forge.targets.version += 1
    with contextlib.closing(sqlite3.connect(site.store._path)) as connection:
        connection.execute("DELETE FROM current WHERE gun = 'a' AND role = 'timestamp'")
        connection.commit()
    with capture_logs() as lines:
        assert (await site.get("timestamp.json")).status == 404
        answer = await site.post(signed(forge, "targets"))
    assert (answer.status, (await answer.json())["code"]) == (500, "store-corruption")
    problems = {line["problem"] for line in lines if line["log_level"] == "error"}
    assert problems == {"a has no current timestamp"}
    assert not any("exc_info" in line for line in lines)


async def test_a_file_that_is_stored_as_text_is_damage(site: Site) -> None:
    await published(site, "a")
    with contextlib.closing(sqlite3.connect(site.store._path)) as connection:
        connection.execute("DROP TRIGGER metadata_is_immutable")
        connection.execute("UPDATE metadata SET data = CAST(data AS TEXT) WHERE role = 'targets'")
        connection.commit()
    online = site.client.app[CONTEXT].online  # type: ignore[index]  # the application under test
    node = make_app(Settings(), store=site.store, online_keys=online, clock=site.clock)
    head = await site.store.head("a")
    assert head is not None
    with pytest.raises(StoreCorruptionError, match="targets version 1 isn't stored as bytes"):
        await node[CONTEXT].files.current(head, "targets")
