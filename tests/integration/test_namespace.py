"""One signer set for every GUN of a namespace: those there are, and those to come."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import publisher_process
from person import Person
from tabellion.cli.embedded import EmbeddedServer
from tabellion.core.dialect import NOTARY, TUF, Dialect
from tabellion.core.names import parse_gun
from tabellion.errors import InvalidNameError, UsageError
from tabellion.publish import rollout
from tabellion.publish.changes import AddSigner, RemoveSigner
from tabellion.publish.declared import Declaration, Declared, GunPrefix
from tabellion.publish.enrolment import SignerRequest
from tabellion.publish.keystore import KeyStore
from tabellion.publish.rollout import Journal, Progress

SECRET = publisher_process.PASSPHRASES["TABELLION_SIGNER_PASSPHRASE"]


def alice_of(home: Path, *paths: str) -> AddSigner:
    key = KeyStore(home).generate("signer", passphrase=SECRET, name="alice").key
    return AddSigner("alice", (key,), paths or ("*",))


def states(found: rollout.Rollout) -> dict[str, str]:
    return {gun.rpartition("/")[2]: it.state for gun, it in found.guns.items()}


async def names(person: Person, gun: str) -> list[str]:
    return [signer.name for signer in await person.publisher.signers(gun)]


@pytest.mark.parametrize(
    "text", ["a/b", "a/b/*", "a/b**", "/**", "**", "a//**", "a/*/**", "a/../**", "a/**/b"]
)
def test_a_prefix_is_a_path_and_all_beneath(text: str) -> None:
    with pytest.raises(InvalidNameError):
        GunPrefix(text)


def test_a_prefix_covers_what_lies_beneath_and_no_neighbour() -> None:
    prefix = GunPrefix("reg.example/team/**")
    assert prefix.covers("reg.example/team/a")
    assert prefix.covers("reg.example/team/a/b")
    for other in (
        "reg.example/team",
        "reg.example/team2/a",
        "reg.example/teams",
        "x/reg.example/team/a",
    ):
        assert not prefix.covers(other)


async def test_every_gun_under_a_prefix_gets_the_signer_and_its_neighbours_dont(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path) as owner:
        inside = [f"{gun}/{name}" for name in ("a", "b", "c/d")]
        for name in [*inside, f"{gun}x/a"]:
            await owner.publisher.init(name)
        alice = alice_of(tmp_path, "v*")
        prefix = GunPrefix(f"{gun}/**")
        found = await rollout.begin(owner.publisher, prefix, alice)
        assert list(found.guns) == sorted(inside)
        assert set(states(await rollout.look(owner.publisher, found)).values()) == {"pending"}
        assert await names(owner, inside[0]) == []  # looking changes nothing
        told: list[str] = []
        journal = Journal(tmp_path, prefix, "alice")
        await rollout.run(owner.publisher, found, journal, tell=lambda gun, _: told.append(gun))
        assert sorted(told) == sorted(inside)
        assert set(states(found).values()) == {"done"}
        assert journal.read() == found
        for name in inside:
            assert await names(owner, name) == ["alice"]
        assert await names(owner, f"{gun}x/a") == []
        again = await rollout.look(owner.publisher, found)
        assert set(states(again).values()) == {"unchanged"}
        gone = await rollout.begin(owner.publisher, prefix, RemoveSigner("alice"))
        await rollout.run(owner.publisher, gone, journal)
        assert set(states(gone).values()) == {"done"}
        assert await names(owner, inside[0]) == []
        gone = await rollout.begin(owner.publisher, prefix, RemoveSigner("alice"))
        await rollout.run(owner.publisher, gone, journal)
        assert set(states(gone).values()) == {"unchanged"}


async def test_one_gun_that_fails_stops_no_other_and_is_taken_up_again(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with (
        Person(server.url, tmp_path / "owner") as owner,
        Person(server.url, tmp_path / "other") as other,
    ):
        await owner.publisher.init(f"{gun}/mine")
        made = await other.publisher.init(f"{gun}/theirs")
        alice = alice_of(tmp_path / "owner")
        prefix = GunPrefix(f"{gun}/**")
        journal = Journal(tmp_path / "owner", prefix, "alice")
        found = await rollout.begin(owner.publisher, prefix, alice)
        await rollout.run(owner.publisher, found, journal)
        assert states(found) == {"mine": "done", "theirs": "failed"}
        assert found.guns[f"{gun}/theirs"].exit_status != 0
        assert "root" in found.guns[f"{gun}/theirs"].why
        assert await names(other, f"{gun}/theirs") == []
        # The owner gets that GUN's root and targets key, and goes on.
        owner.trust.cache(f"{gun}/theirs").save_root(1, made.root)
        for path in (tmp_path / "other" / "keys").iterdir():
            shutil.copy2(path, tmp_path / "owner" / "keys" / path.name)
        resumed = journal.read()
        assert resumed.left() == [f"{gun}/theirs"]
        await rollout.run(owner.publisher, resumed, journal)
        assert states(resumed) == {"mine": "done", "theirs": "done"}, resumed.guns
        assert await names(other, f"{gun}/theirs") == ["alice"]


async def test_what_was_done_before_an_interruption_isnt_done_again(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path) as owner:
        for name in "abcdef":
            await owner.publisher.init(f"{gun}/{name}")
        prefix = GunPrefix(f"{gun}/**")
        journal = Journal(tmp_path, prefix, "alice")
        found = await rollout.begin(owner.publisher, prefix, alice_of(tmp_path))
        begun = asyncio.Event()
        running = asyncio.create_task(
            rollout.run(owner.publisher, found, journal, tell=lambda *_: begun.set())
        )
        await begun.wait()
        running.cancel()
        await asyncio.wait([running])
        held = journal.read()
        assert 0 < held.count("done") < len(held.guns)
        done = [name for name, it in held.guns.items() if it == Progress("done")]
        before = {name: await owner.version(name) for name in done}
        await rollout.run(owner.publisher, held, journal)
        assert held.left() == []
        assert {name: await owner.version(name) for name in done} == before
        for name in held.guns:
            assert await names(owner, name) == ["alice"]


@pytest.mark.parametrize("dialect", [TUF, NOTARY], ids=lambda dialect: dialect.name)
async def test_a_gun_founded_later_has_the_declared_signer(
    server: EmbeddedServer, gun: str, tmp_path: Path, dialect: Dialect
) -> None:
    async with Person(server.url, tmp_path) as owner:
        alice = alice_of(tmp_path, "v*")
        Declared(tmp_path).put(Declaration(GunPrefix(f"{gun}/**"), alice))
        made = await owner.publisher.init(f"{gun}/new", dialect=dialect)
        assert (made.declared, dict(made.lacking)) == (("alice",), {})
        assert any("alice" in name for name in await names(owner, f"{gun}/new"))
        made = await owner.publisher.init(f"{gun}x/new")
        assert made.declared == ()
        assert await names(owner, f"{gun}x/new") == []


async def test_a_gun_that_cant_have_the_declared_signer_is_founded_and_says_so(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path) as owner:
        Declared(tmp_path).put(Declaration(GunPrefix(f"{gun}/**"), alice_of(tmp_path)))
        made = await owner.publisher.init(f"{gun}/new", bins=2)
        assert made.declared == ()
        assert "bins" in made.lacking["alice"]
        assert await owner.sign(f"{gun}/new", "1.0")


async def test_a_declared_signers_first_file_is_given_while_its_fresh(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path) as owner:
        key = owner.keys.generate("signer", passphrase=SECRET, name="alice")
        expires_at = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
        request = SignerRequest.make(
            parse_gun(f"{gun}/any"),
            "alice",
            [owner.keys.signer(key.keyid, SECRET)],
            expires_at=expires_at,
        )
        alice = AddSigner("alice", request.keys, ("*",), file=request.file)
        declaration = Declaration(GunPrefix(f"{gun}/**"), alice)
        assert declaration.for_gun_founded(datetime.now(UTC)) == alice
        later = datetime.now(UTC) + timedelta(days=31)
        assert declaration.for_gun_founded(later) == replace(alice, file=None)
        Declared(tmp_path).put(declaration)
        assert Declared(tmp_path).all() == [declaration]
        await owner.publisher.init(f"{gun}/new")
        (signer,) = await owner.publisher.signers(f"{gun}/new")
        assert signer.version == 1


def test_declarations_are_kept_replaced_and_dropped_by_name_and_prefix(tmp_path: Path) -> None:
    declared, alice = Declared(tmp_path), alice_of(tmp_path)
    one, two = GunPrefix("r.example/a/**"), GunPrefix("r.example/b/**")
    declared.put(Declaration(one, alice))
    declared.put(Declaration(two, alice))
    narrow = replace(alice, paths=("v*",))
    declared.put(Declaration(one, narrow))
    assert declared.of("r.example/a/x") == [Declaration(one, narrow)]
    assert declared.drop(one, "alice")
    assert not declared.drop(one, "alice")
    assert declared.all() == [Declaration(two, alice)]


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="resumed"):
        Journal(tmp_path, GunPrefix("r.example/a/**"), "alice").read()
