"""Status and reminders against the real server: every GUN of it, verified as far as it can be."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from person import Person
from tabellion.cli.embedded import EmbeddedServer
from tabellion.core.dialect import NOTARY
from tabellion.core.expiry import Margins
from tabellion.core.names import Digest
from tabellion.errors import ExpiredMetadataError, ServerAnswerError, ThresholdError
from tabellion.publish.key_uses import KeyUses
from tabellion.publish.outcome import Status
from tabellion.publish.signing import Expiries
from tabellion.verify.cache import MetadataCache

DAY = timedelta(days=1)


@pytest.fixture
async def owner(server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Person]:
    async with Person(server.url, tmp_path / "owner") as person:
        yield person


async def overview(person: Person, prefix: str, **options: Any) -> dict[str, Status]:
    """Look at every GUN; give those of this test, as the server has others'."""
    statuses = person.publisher.overview(**options).statuses()
    return {each.gun: each async for each in statuses if each.gun.startswith(prefix)}


async def test_status_tells_keys_margins_and_what_breaks_first(owner: Person, gun: str) -> None:
    made = await owner.publisher.init(gun)
    status = await owner.publisher.status(gun)
    assert status.standing is not None
    roles = {role.role: role for role in status.standing.roles}
    assert list(roles) == ["root", "targets", "snapshot", "timestamp"]
    assert [roles["root"].keys[0].keyid] == [info.keyid for info in made.root_keys]
    held = {name: role.keys[0].is_held for name, role in roles.items()}
    assert held == {"root": True, "targets": True, "snapshot": False, "timestamp": False}
    assert all((role.threshold, role.alive, role.margin) == (1, 1, 0) for role in roles.values())
    assert status.standing.first is not None
    assert status.standing.first.role == "targets"
    near = await owner.publisher.status(gun, margins=Margins(400 * DAY, 370 * DAY))
    assert near.standing is not None
    assert near.standing.level == "critical"


async def test_a_publisher_is_reminded_of_what_ends_soon_and_only_of_that(
    owner: Person, gun: str
) -> None:
    await owner.publisher.init(gun)
    published = await owner.publisher.sign(gun, "1", Digest.of(b"1"), 1)
    assert published.ending is None
    owner.publisher._expiries = Expiries(root=20 * DAY, targets=5 * DAY)
    published = await owner.publisher.sign(gun, "2", Digest.of(b"2"), 1)
    assert published.ending is not None
    assert (published.ending.role, published.ending.level) == ("targets", "critical")
    rotated = await owner.publisher.rotate(gun, "root")
    assert rotated.ending is not None  # the targets still
    assert rotated.ending.role == "targets"
    owner.publisher._expiries = Expiries(root=20 * DAY)
    published = await owner.publisher.sign(gun, "3", Digest.of(b"3"), 1)
    assert published.ending is not None
    assert (published.ending.role, published.ending.level) == ("root", "warn")


async def test_an_expired_root_is_told_with_its_remedy_not_refused(owner: Person, gun: str) -> None:
    await owner.publisher.init(gun)
    real = owner.publisher._clock
    owner.publisher._expiries = Expiries(root=1 * DAY)
    await owner.publisher.rotate(gun, "root")
    owner.trust._clock, owner.publisher._clock = (lambda: real() + 2 * DAY,) * 2
    with pytest.raises(ExpiredMetadataError, match="expired") as error:
        await owner.publisher.sign(gun, "1", Digest.of(b"1"), 1)
    assert f"tabellion witness {gun} root" in error.value.hint
    status = await owner.publisher.status(gun)
    assert status.standing is not None
    assert status.standing.level_of("root") == "expired"


async def test_a_notary_gun_tells_its_root_certificate(owner: Person, gun: str) -> None:
    await owner.publisher.init(gun, dialect=NOTARY)
    status = await owner.publisher.status(gun)
    assert status.standing is not None
    certificates = [end for end in status.standing.ends if end.what == "certificates"]
    (root,) = [role for role in status.standing.roles if role.role == "root"]
    assert [end.expires_at for end in certificates] == [root.keys[0].expires_at]
    assert root.keys[0].is_held
    assert root.keys[0].has_signed


async def test_keys_remember_what_they_signed_where_and_when(owner: Person, gun: str) -> None:
    made = await owner.publisher.init(gun)
    uses = KeyUses(owner.keys.folder)
    root, targets = made.root_keys[0].keyid, made.targets_keys[0].keyid
    assert [(use.gun, use.role) for use in uses.read(root)] == [(gun, "root")]
    assert [(use.gun, use.role) for use in uses.read(targets)] == [(gun, "targets")]
    founded_at = uses.read(targets)[0].at
    later = owner.publisher._clock() + DAY
    owner.publisher._clock = lambda: later
    await owner.publisher.sign(gun, "1", Digest.of(b"1"), 1)
    assert uses.read(targets)[0].at > founded_at
    assert uses.read(root)[0].at == uses.read(root)[-1].at < uses.read(targets)[0].at
    shared = owner.keys.generate("root", passphrase="root passphrase", keytype="ecdsa").keyid
    for number in range(2):
        await owner.publisher.init(f"{gun}-{number}", dialect=NOTARY, root_keys=[shared])
    assert {(use.gun, use.role) for use in uses.read(shared)} == {
        (f"{gun}-0", "root"),
        (f"{gun}-1", "root"),
    }
    await owner.publisher.rotate(gun, "targets")
    assert uses.read(root)[0].at == later.replace(microsecond=0)


async def test_a_use_that_cannot_be_noted_keeps_nobody_from_signing(
    owner: Person, gun: str
) -> None:
    made = await owner.publisher.init(gun)
    keyid = made.targets_keys[0].keyid
    path = owner.keys.folder / f"{keyid}.uses"
    path.unlink()
    path.mkdir()
    (path / "in the way").touch()
    assert (await owner.publisher.sign(gun, "1", Digest.of(b"1"), 1)).versions == {"targets": 2}
    assert KeyUses(owner.keys.folder).read(keyid) == ()
    assert [info.keyid for info in owner.keys.list(role="targets")] == [keyid]


async def test_every_gun_is_verified_where_its_root_is_trusted_else_marked(
    server: EmbeddedServer, owner: Person, gun: str, tmp_path: Path
) -> None:
    for number in range(3):
        await owner.publisher.init(f"{gun}-{number}")
    async with Person(server.url, tmp_path / "other") as other:
        await other.publisher.init(f"{gun}-theirs")
        found = await overview(owner, gun)
        assert {name.removeprefix(gun): s.is_verified for name, s in found.items()} == {
            "-0": True,
            "-1": True,
            "-2": True,
            "-theirs": False,
        }
        theirs = found[f"{gun}-theirs"].standing
        seen = (await other.publisher.status(f"{gun}-theirs")).standing
        assert theirs is not None
        assert seen is not None
        assert [(end.role, end.expires_at, end.level) for end in theirs.ends] == [
            (end.role, end.expires_at, end.level) for end in seen.ends
        ]
        assert [(role.role, role.alive, role.threshold) for role in theirs.roles] == [
            (role.role, role.alive, role.threshold) for role in seen.roles
        ]


async def test_a_gun_whose_root_is_trusted_never_falls_back_to_the_servers_word(
    server: EmbeddedServer, owner: Person, gun: str, tmp_path: Path
) -> None:
    await owner.publisher.init(gun)
    async with Person(server.url, tmp_path / "other") as other:
        await other.publisher.init(f"{gun}-b")
        theirs = MetadataCache.of(other.home, f"{gun}-b").load("root")
    assert theirs is not None
    cache = MetadataCache.of(owner.home, gun)
    cache.drop("timestamp", "snapshot", "targets")
    for version in cache.root_versions():
        cache.save_root(version, theirs)
    status = (await overview(owner, gun))[gun]
    assert status.is_verified
    assert status.standing is None
    assert isinstance(status.problem, ThresholdError)


@pytest.mark.parametrize(
    "answers",
    [
        [{"guns": [{"gun": "b"}, {"gun": "a"}], "next": None}],
        [{"guns": [{"gun": "a"}, {"gun": "a"}], "next": None}],
        [{"guns": [{"gun": "b"}], "next": "b"}, {"guns": [{"gun": "a"}], "next": "a"}],
        [{"guns": [], "next": "x"}],
        [{"guns": "none", "next": None}],
        [{"guns": [{"name": "a"}], "next": None}],
        [{}],
    ],
)
async def test_a_list_of_guns_that_goes_on_for_ever_or_is_none_is_refused(
    answers: list[dict[str, Any]], tmp_path: Path
) -> None:
    given = iter(answers)

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(next(given) if request.path == "/v1/guns" else {})

    app = web.Application()
    app.router.add_get("/{any:.*}", answer)
    async with TestServer(app) as lying, Person(str(lying.make_url("")), tmp_path) as reader:
        with pytest.raises(ServerAnswerError):
            await overview(reader, "")


@pytest.mark.parametrize(
    "change",
    [
        {"gun": "another"},
        {"roles": {"root": {}}},
        {"roles": []},
        {"roles": {"root": {"keys": {}, "delegator": "root", "threshold": -1}}},
        {"roles": {"root": {"keys": {}, "delegator": "r", "threshold": 1, "expires": "soon"}}},
        {"roles": {"root": {"keys": {}, "delegator": "r", "threshold": 1, "version": "1"}}},
        {
            "roles": {
                "timestamp": {
                    "keys": {},
                    "delegator": "root",
                    "threshold": 1,
                    "version": 1,
                    "expires": "2099-01-01T00:00:00Z",
                    "level": "fine",
                }
            }
        },
    ],
)
async def test_a_servers_word_that_makes_no_sense_is_a_problem_of_that_gun(
    change: dict[str, Any], tmp_path: Path
) -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/v1/guns":
            return web.json_response({"guns": [{"gun": "a/b"}], "next": None})
        return web.json_response({"gun": "a/b", "roles": {}, **change})

    app = web.Application()
    app.router.add_get("/{any:.*}", answer)
    async with TestServer(app) as lying, Person(str(lying.make_url("")), tmp_path) as reader:
        status = (await overview(reader, ""))["a/b"]
    assert isinstance(status.problem, ServerAnswerError)
    assert dataclasses.replace(status, problem=None) == Status("a/b", (), is_verified=False)
