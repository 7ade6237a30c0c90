"""Pins of a home: what they let through, how they are moved on purpose, what is forgotten."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from anchorage import COLLECTION, Anchorage, anchor, print_of
from forge import NOW, Forge
from puller import Puller
from simulator import GUN, Simulator
from tabellion.core.gun_patterns import GunPattern
from tabellion.core.names import Digest, Gun
from tabellion.errors import (
    CacheError,
    ConfigurationError,
    UntrustedRootError,
    VerificationError,
)
from tabellion.verify.cache import MetadataCache
from tabellion.verify.decisions import Decisions
from tabellion.verify.trust_store import EVERYTHING, AnchorSource, TrustStore

DIGEST = Digest.of(b"image")
NAME = Gun(GUN)


def decisions(home: Path) -> Decisions:
    return Decisions(home, lambda: NOW)


@pytest.fixture
async def stranger() -> AsyncIterator[Simulator]:
    """Serve a GUN of the same name that another root stands for."""
    async with Simulator() as server:
        server.publish_target(b"other")
        yield server


def first_root(server: Simulator) -> bytes:
    return server.files["1.root.json"]


def root_print(server: Simulator) -> str:
    return print_of(server.forge.signers["root"][0])


async def test_a_pinned_root_file_or_key_is_all_that_is_needed(
    puller: Puller, server: Simulator, tmp_path: Path
) -> None:
    decisions(puller.home).pin_root(NAME, first_root(server))
    assert (await puller.verify(root=None)).digest == DIGEST
    home = tmp_path / "other"
    decisions(home).pin_root_key(NAME, root_print(server).upper())
    image = await puller.verify(root=None, home=home)
    assert (image.digest, image.pinned) == (DIGEST, "root key")


@pytest.mark.parametrize("kind", ["file", "key"])
async def test_what_is_given_later_never_replaces_a_pin(
    puller: Puller, server: Simulator, stranger: Simulator, kind: str
) -> None:
    if kind == "file":
        decisions(puller.home).pin_root(NAME, first_root(server))
    else:
        decisions(puller.home).pin_root_key(NAME, root_print(server))
    honest, server.files = server.files, stranger.files
    await puller.refused(UntrustedRootError, root=first_root(stranger))
    await puller.refused(UntrustedRootError, root=None, root_fingerprint=root_print(stranger))
    with pytest.raises(VerificationError, match=r"signed by|signatures"):
        await puller.verify(root=None, first_use=True)
    assert puller.client().cache(GUN).root_versions() == []
    server.files = honest
    for given in ({"root": first_root(server)}, {"root_fingerprint": root_print(server)}, {}):
        assert (await puller.verify(**({"root": None} | given))).digest == DIGEST


async def test_a_pin_that_disagrees_with_what_is_kept_is_refused(
    puller: Puller, server: Simulator, stranger: Simulator
) -> None:
    await puller.verify()
    before = puller.kept()
    mine = decisions(puller.home)
    with pytest.raises(UntrustedRootError, match="another root version 1 is kept") as caught:
        mine.pin_root(NAME, first_root(stranger))
    assert "trust replace" in caught.value.hint
    with pytest.raises(UntrustedRootError, match="signed by that key"):
        mine.pin_root_key(NAME, root_print(stranger))
    with pytest.raises(UntrustedRootError, match="another root version 1 is kept"):
        mine.add_collection(NAME, server.url, first_root(stranger), EVERYTHING)
    assert puller.kept() == before
    mine.pin_root(NAME, first_root(server))


async def test_a_pin_is_moved_by_replacing_it_only(
    puller: Puller, server: Simulator, stranger: Simulator
) -> None:
    mine = decisions(puller.home)
    mine.pin_root(NAME, first_root(server))
    mine.pin_root(NAME, first_root(server))
    before = puller.kept()
    assert before["pins/log"].count(b"\n") == 1
    with pytest.raises(UntrustedRootError, match="pinned by another root file"):
        mine.pin_root(NAME, first_root(stranger))
    with pytest.raises(UntrustedRootError, match="pinned by another root file"):
        mine.pin_root_key(NAME, root_print(stranger))
    with pytest.raises(UntrustedRootError, match="another root of it is pinned"):
        mine.add_collection(NAME, server.url, first_root(stranger), EVERYTHING)
    assert puller.kept() == before


@pytest.mark.parametrize("data", [b"", b"{}", b"x" * 600_000])
def test_what_is_no_root_pins_nothing(tmp_path: Path, data: bytes) -> None:
    mine = decisions(tmp_path)
    for attempt in (
        lambda: mine.pin_root(NAME, data),
        lambda: mine.prepare_replacement(NAME, data),
        lambda: mine.add_collection(NAME, "http://127.0.0.1:9", data, EVERYTHING),
    ):
        with pytest.raises(ConfigurationError):
            attempt()
    with pytest.raises(ConfigurationError):
        mine.pin_root_key(NAME, "abcd")
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_its_own_keys_did_not_sign_pins_nothing(tmp_path: Path) -> None:
    forge = Forge()
    forge.signers["root"] = Forge().signers["root"]
    with pytest.raises(ConfigurationError, match="0 of 1"):
        decisions(tmp_path).pin_root(NAME, forge.sign("root", forge.root))
    assert list(tmp_path.iterdir()) == []


async def test_a_lost_root_is_replaced_on_purpose_and_all_that_was_kept_is_forgotten(
    puller: Puller, server: Simulator, stranger: Simulator
) -> None:
    await puller.verify()
    server.files = stranger.files
    await puller.refused(UntrustedRootError, root=first_root(stranger))
    mine = decisions(puller.home)
    prepared = mine.prepare_replacement(NAME, first_root(stranger))
    assert prepared.old is not None
    assert prepared.old.fingerprints == (root_print(server),)
    assert prepared.new.fingerprints == (root_print(stranger),)
    before = puller.kept()
    for wrong in (
        root_print(server),
        "0" * 64,
        stranger.forge.signers["targets"][0].public_key.keyid,
    ):
        with pytest.raises(UntrustedRootError, match="signed the new root"):
            prepared.verify_proof(wrong)
    prepared.verify_proof(root_print(stranger))
    assert puller.kept() == before
    await mine.replace_root(prepared, proof="test")
    assert not [path for path in puller.kept() if path.startswith("trust/")]
    assert (await puller.verify(root=None)).digest == Digest.of(b"other")
    log = [json.loads(line) for line in puller.kept()["pins/log"].splitlines()]
    assert (log[-1]["what"], log[-1]["gun"]) == ("replace, test", GUN)


async def test_a_replacement_that_was_cut_off_lets_nothing_pass_until_it_is_done_again(
    puller: Puller, server: Simulator, stranger: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await puller.verify()
    mine = decisions(puller.home)
    prepared = mine.prepare_replacement(NAME, first_root(stranger))
    with monkeypatch.context() as patched:
        patched.setattr(MetadataCache, "forget", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await mine.replace_root(prepared, proof="test")
    for served in (server.files, stranger.files):
        server.files = served
        await puller.refused(UntrustedRootError, root=None)
    await mine.replace_root(mine.prepare_replacement(NAME, first_root(stranger)), proof="test")
    assert (await puller.verify(root=None)).digest == Digest.of(b"other")


async def test_going_back_to_a_root_that_was_rotated_away_is_told(
    puller: Puller, server: Simulator, stranger: Simulator
) -> None:
    await puller.verify()
    server.rotate_keys("root")
    await puller.verify()
    mine = decisions(puller.home)
    assert mine.prepare_replacement(NAME, first_root(server)).is_going_back
    assert not mine.prepare_replacement(NAME, server.files["2.root.json"]).is_going_back
    assert not mine.prepare_replacement(NAME, first_root(stranger)).is_going_back


def test_nothing_is_replaced_where_nothing_was_trusted(tmp_path: Path, forge: Forge) -> None:
    with pytest.raises(ConfigurationError, match="nothing of"):
        decisions(tmp_path).prepare_replacement(NAME, forge.files["root"])


async def test_a_forgotten_gun_needs_a_root_anew(puller: Puller, server: Simulator) -> None:
    mine = decisions(puller.home)
    assert not await mine.forget(NAME)
    mine.pin_root(NAME, first_root(server))
    await puller.verify(root=None)
    assert await mine.forget(NAME)
    await puller.refused(UntrustedRootError, root=None)
    assert not [path for path in puller.kept() if not path.endswith("/log")]


async def test_with_a_collection_goes_what_was_first_trusted_by_it(
    puller: Puller, server: Simulator
) -> None:
    async with Simulator() as held:
        held.publish()
        anchors = Anchorage(held)
        anchors.set(anchor("registry.example/**", *server.forge.signers["root"]))
        mine = decisions(puller.home)
        mine.add_collection(COLLECTION, held.url, first_root(held), EVERYTHING)
        own = "registry.example/team/own"
        await puller.verify(f"{own}:1.2")
        await puller.verify(root=None)
        with pytest.raises(ConfigurationError, match="is an anchor collection"):
            await mine.forget(COLLECTION)
        with pytest.raises(ConfigurationError, match="no anchor collection"):
            await mine.forget_collection(NAME)
        assert await mine.forget_collection(COLLECTION) == [GUN.replace("/", "%2F")]
    await puller.refused(UntrustedRootError, root=None)
    assert (await puller.verify(f"{own}:1.2", root=None)).pinned == "root file"
    assert TrustStore(puller.home).collections() == ()


async def test_the_root_of_a_collection_is_replaced_as_any_other(
    puller: Puller, server: Simulator
) -> None:
    async with Simulator() as old, Simulator() as new:
        old.publish()
        new.publish()
        mine = decisions(puller.home)
        mine.add_collection(COLLECTION, old.url, first_root(old), EVERYTHING)
        Anchorage(new).set(anchor("**", *server.forge.signers["root"]))
        old.files = new.files
        with pytest.raises(UntrustedRootError, match="can't be relied upon"):
            await puller.verify(root=None)
        prepared = mine.prepare_replacement(COLLECTION, first_root(new))
        await mine.replace_root(prepared, proof="test")
        assert (await puller.verify(root=None)).digest == DIGEST
        (kept,) = TrustStore(puller.home).collections()
        assert (kept.root, kept.patterns) == (first_root(new), EVERYTHING)


async def test_a_damaged_pin_lets_nothing_pass(puller: Puller, server: Simulator) -> None:
    mine = decisions(puller.home)
    mine.pin_root(NAME, first_root(server))
    (path,) = (puller.home / "pins" / "guns").iterdir()
    good = path.read_bytes()
    other = good.replace(b"team/app", b"team/abb")
    renamed = [
        good.replace(old, new)
        for old, new in ((b'"root"', b'"boot"'), (b'"at"', b'"it"'), (b'"root"', b'"root_key"'))
    ]
    for bad in (b"", b"[]", b"{}", good[:-5], other, *renamed):
        path.write_bytes(bad)
        with pytest.raises(CacheError) as caught:
            await puller.verify(first_use=True)
        assert str(path) in caught.value.message
    assert await mine.forget(NAME)
    mine.pin_root(NAME, first_root(server))
    assert (await puller.verify(root=None)).digest == DIGEST


def test_decisions_are_the_owners_alone_to_read(tmp_path: Path, forge: Forge) -> None:
    mine = decisions(tmp_path / "home")
    mine.pin_root(NAME, forge.files["root"])
    mine.add_collection(COLLECTION, "https://x.example", forge.files["root"], EVERYTHING)
    files = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"anchors.json", "log"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)


def test_collections_added_at_once_are_all_kept(tmp_path: Path, forge: Forge) -> None:
    def add(number: int) -> None:
        gun = Gun(f"registry.example/anchors{number}")
        source = AnchorSource(gun, "https://x.example", forge.files["root"], EVERYTHING, NOW)
        TrustStore(tmp_path).save_collection(source, how="test")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add, range(24)))
    assert len(TrustStore(tmp_path).collections()) == 24


def test_what_is_decided_comes_back_as_it_was(tmp_path: Path, forge: Forge) -> None:
    mine, store = decisions(tmp_path), TrustStore(tmp_path)
    guns = [Gun("a"), Gun("a/b"), Gun("a%".replace("%", "-")), Gun("é/" + "x" * 250)]
    for gun in guns:
        mine.pin_root(gun, forge.files["root"])
        pin = store.pin(gun)
        assert pin is not None
        assert (pin.gun, pin.root, pin.at) == (gun, forge.files["root"], NOW)
    assert [pin.gun for pin in store.pins()] == sorted(guns)
    patterns = [GunPattern.parse(text) for text in ("a/b", "a/*", "é/**")]
    mine.add_collection(COLLECTION, "https://x.example/sub", forge.files["root"], patterns)
    (kept,) = store.collections()
    assert (kept.server, kept.patterns) == ("https://x.example/sub", tuple(patterns))
    assert [kept.covers(gun) for gun in ("A/B", "a/b/c", "É/x/y", "b")] == [
        True,
        False,
        True,
        False,
    ]
