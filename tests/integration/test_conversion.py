"""A Notary GUN becomes a TUF GUN on a real server: who publishes and who verifies goes on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tuf.ngclient import Updater

import publisher_process
from person import Person, twin
from tabellion.cli.embedded import EmbeddedServer
from tabellion.core.dialect import NOTARY, TUF
from tabellion.core.names import Digest, parse_gun
from tabellion.core.publication import UploadedFile
from tabellion.errors import (
    ConflictError,
    KeyStoreError,
    NotFoundError,
    ThresholdError,
    UsageError,
)
from tabellion.publish.converting import Preview, Wish
from tabellion.publish.server_api import ServerApi
from tabellion.transport.fetcher import HttpFetcher


def agreed(_: Preview) -> None:
    """Want whatever it is."""


def sha256(text: str) -> str:
    return Digest.of(text.encode()).hex


async def convert(person: Person, gun: str, *vouch: str) -> Any:
    return await person.publisher.convert(Wish(parse_gun(gun), vouch), agreed)


async def state(server: EmbeddedServer, gun: str) -> Any:
    async with HttpFetcher() as fetcher:
        return json.loads(await fetcher.fetch(f"{server.url}/v1/guns/{gun}", max_bytes=10**6))


async def with_alice(owner: Person, gun: str, home: Path, url: str, root: bytes) -> Person:
    """Add a signer who holds her key alone, as docker does, and let her sign."""
    alice = Person(url, home, root)
    secret = publisher_process.PASSPHRASES["TABELLION_SIGNER_PASSPHRASE"]
    made = alice.keys.generate("signer", passphrase=secret, keytype="ecdsa", name="alice")
    await owner.publisher.add_signer(gun, "alice", [made.key])
    await alice.sign(gun, "2", "alice's")
    return alice


async def test_readers_of_every_trust_follow(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path / "owner") as owner:
        made = await owner.publisher.init(gun, dialect=NOTARY)
        await owner.sign(gun, "1")
        async with Person(server.url, tmp_path / "warm", made.root) as warm:
            assert await warm.digest(gun, "1") == sha256("1")
            published = await convert(owner, gun)
            assert dict(published.versions) == {"root": 2, "targets": 3}
            assert await warm.digest(gun, "1") == sha256("1")
            await owner.sign(gun, "2")
            assert await warm.signed(gun) == {"1": sha256("1"), "2": sha256("2")}
            assert (await warm.trust.refresh(gun)).dialect is TUF
        async with Person(server.url, tmp_path / "cold", made.root) as cold:
            assert await cold.digest(gun, "2") == sha256("2")
        async with ServerApi(server.url) as api:
            root = await api.metadata(gun, "2.root.json", max_bytes=10**6)
        async with Person(server.url, tmp_path / "newer", root) as newer:
            assert await newer.digest(gun, "2") == sha256("2")
        for role in ("root", "targets", "snapshot", "timestamp"):
            await owner.publisher.rotate(gun, role, server=role == "snapshot")
        assert await owner.digest(gun, "2") == sha256("2")


async def test_python_tuf_reads_it_from_its_first_tuf_root_on(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path / "owner") as owner:
        made = await owner.publisher.init(gun, dialect=NOTARY)
        async with await with_alice(owner, gun, tmp_path / "alice", server.url, made.root) as alice:
            published = await convert(owner, gun)
            await alice.publisher.cosign(published.incomplete)
            await alice.sign(gun, "3", "later")
        await owner.publisher.rotate(gun, "root")
        base = f"{server.url}/v2/{gun}/_trust/tuf/"
        async with ServerApi(server.url) as api:
            roots = await api.metadata(gun, f"{3 - 1}.root.json", max_bytes=10**6)
        (tmp_path / "theirs").mkdir()
        updater = Updater(str(tmp_path / "theirs"), base, bootstrap=roots)

        def read() -> list[Any]:
            return [updater.get_targetinfo(path) for path in ("2", "3", "4")]

        second, third, none = await asyncio.to_thread(read)
        assert second.hashes["sha256"] == sha256("alice's")
        assert third.hashes["sha256"] == sha256("later")
        assert none is None


async def test_signers_elsewhere_sign_one_after_the_other(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path / "owner") as owner:
        made = await owner.publisher.init(gun, dialect=NOTARY)
        await owner.sign(gun, "2", "owner's old word")
        async with await with_alice(owner, gun, tmp_path / "alice", server.url, made.root) as alice:
            before = await state(server, gun)
            published = await convert(owner, gun)
            assert published.missing == {"alice": 1, "releases": 1}
            assert await state(server, gun) == before  # nothing is published yet
            with pytest.raises(KeyStoreError):
                await owner.publisher.cosign(published.incomplete)
            shown: list[str] = []
            done = await alice.publisher.cosign(published.incomplete, show=shown.extend)
            assert done.versions == {"root": 2, "targets": 4, "releases": 2, "alice": 2}
            assert any("docker and notary can't read" in line for line in shown)
            assert not published.incomplete.exists()
            assert await alice.digest(gun, "2") == sha256("alice's")
            await alice.sign(gun, "3")
            assert await owner.digest(gun, "3") == sha256("3")
        now = await state(server, gun)
        assert now["dialect"] == "tuf"
        assert set(now["roles"]) == {
            *("root", "targets", "snapshot", "timestamp", "releases", "alice")
        }


async def test_a_partly_signed_conversion_is_the_owners_or_refused(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path / "owner") as owner:
        made = await owner.publisher.init(gun, dialect=NOTARY)
        await owner.sign(gun, "1")
        async with await with_alice(owner, gun, tmp_path / "alice", server.url, made.root) as alice:
            published = await convert(owner, gun)
            file = published.incomplete
            content = json.loads(file.read_text())
            forged = json.loads(content["files"]["targets"])
            forged["signed"]["targets"] = {}
            honest = content["files"]["targets"]
            content["files"]["targets"] = json.dumps(forged)
            file.write_text(json.dumps(content))
            before = await state(server, gun)
            with pytest.raises(Exception, match="changed after") as caught:
                await alice.publisher.cosign(file)
            assert caught.value.exit_status == 1  # type: ignore[attr-defined]
            # Without any signature it isn't the owner's either, whoever's keys it names.
            forged["signatures"] = []
            content["files"]["targets"] = json.dumps(forged)
            file.write_text(json.dumps(content))
            with pytest.raises(ThresholdError, match="keys of targets"):
                await alice.publisher.cosign(file)
            assert await state(server, gun) == before
            content["files"]["targets"] = honest
            root = json.loads(content["files"]["root"])
            root["signatures"] = []
            content["files"]["root"] = json.dumps(root)
            file.write_text(json.dumps(content))
            with pytest.raises(Exception, match="0 of 1"):
                await alice.publisher.cosign(file)
            assert await state(server, gun) == before
            await alice.sign(gun, "3")  # and so it's made for an older state
            content["files"]["root"] = json.dumps(root)
            published = await convert(owner, gun)
            await alice.sign(gun, "4")
            with pytest.raises(UsageError, match="older state"):
                await alice.publisher.cosign(published.incomplete)


async def test_the_owner_vouches_for_who_is_gone(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path / "owner") as owner:
        made = await owner.publisher.init(gun, dialect=NOTARY)
        await owner.sign(gun, "1")
        async with await with_alice(owner, gun, tmp_path / "alice", server.url, made.root):
            pass
        with pytest.raises(UsageError, match="no delegated role"):
            await convert(owner, gun, "bob")
        await convert(owner, gun, "alice", "targets/releases")
        assert await owner.signed(gun) == {"1": sha256("1"), "2": sha256("alice's")}
        assert await owner.publisher.signers(gun) == []
        # What was signed before stays to be had under its immutable names.
        async with ServerApi(server.url) as api:
            for name in ("1.root.json", "2.targets.json", "1.targets/releases.json"):
                assert NOTARY.parse(
                    name.split(".")[1],
                    await api.metadata(gun, name, max_bytes=10**6),
                    max_bytes=10**6,
                )
            with pytest.raises(NotFoundError):
                await api.metadata(gun, "targets/releases.json", max_bytes=10**6)
        told = await owner.publisher.history(gun, target="2")
        assert [(entry.kind, entry.role) for entry in told][-2:] == [
            ("signed", "targets/releases"),
            ("signed", "targets/alice"),
        ]
        assert ("signed", "targets") in {(entry.kind, entry.role) for entry in told}


async def test_the_timestamp_and_the_feed_go_on(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path / "owner") as owner:
        await owner.publisher.init(gun, dialect=NOTARY)
        await owner.sign(gun, "1")
        before = (await state(server, gun))["versions"]
        await convert(owner, gun)
        after = (await state(server, gun))["versions"]
        assert {role: after[role] - before[role] for role in before} == dict.fromkeys(before, 1)
        async with ServerApi(server.url) as api:
            notary = await api.metadata(gun, "2.targets.json", max_bytes=10**6)
            feed = await api.changefeed(gun, 10)
            assert [item["Category"] for item in feed] == ["update"] * 3
            assert [item["Version"] for item in feed] == [1, 2, 3]
            with pytest.raises(ConflictError, match="signed for a Notary GUN"):
                await api.upload(gun, [UploadedFile("targets", notary)])
        async with aiohttp.ClientSession() as anybody:
            url = f"{server.url}/v2/{gun}/_trust/tuf/targets/releases.json"
            async with anybody.get(url) as answer:
                assert answer.content_type == "application/problem+json"


async def test_of_a_conversion_and_a_publication_neither_is_lost(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path / "owner") as owner:
        await owner.publisher.init(gun, dialect=NOTARY)
        await owner.sign(gun, "0")
        others = [twin(owner, tmp_path / f"other{number}", server.url) for number in range(4)]
        try:
            names = [str(number) for number in range(1, 5)]
            done = await asyncio.gather(
                convert(owner, gun),
                *(other.sign(gun, name) for other, name in zip(others, names, strict=True)),
            )
            assert done[0].versions
            assert await owner.signed(gun) == {name: sha256(name) for name in ["0", *names]}
            assert (await state(server, gun))["dialect"] == "tuf"
        finally:
            for other in others:
                await other.__aexit__()


async def test_a_new_gun_is_founded_beside(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    new = parse_gun(f"{gun}-new")
    async with Person(server.url, tmp_path / "owner") as owner:
        made = await owner.publisher.init(gun, dialect=NOTARY)
        await owner.sign(gun, "1")
        async with await with_alice(owner, gun, tmp_path / "alice", server.url, made.root):
            pass
        before = await state(server, gun)
        with pytest.raises(KeyStoreError, match="founded whole"):
            await owner.publisher.convert(Wish(parse_gun(gun), (), new), agreed)
        wish = Wish(parse_gun(gun), ("releases", "alice"), new)
        published = await owner.publisher.convert(wish, agreed)
        assert dict(published.versions) == {"root": 1, "targets": 1}
        assert await state(server, gun) == before
        assert await owner.signed(new) == {"1": sha256("1"), "2": sha256("alice's")}
        with pytest.raises(UsageError, match="exists"):
            await owner.publisher.convert(wish, agreed)


async def test_who_does_not_agree_has_changed_nothing(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path / "owner") as owner:
        await owner.publisher.init(gun, dialect=NOTARY)
        before = await state(server, gun)

        def no(_: Preview) -> None:
            raise UsageError("no")

        with pytest.raises(UsageError):
            await owner.publisher.convert(Wish(parse_gun(gun)), no)
        await owner.publisher.preview_conversion(Wish(parse_gun(gun)))
        assert await state(server, gun) == before
        await convert(owner, gun)
        with pytest.raises(UsageError, match="already"):
            await convert(owner, gun)


async def test_keys_to_convert_with_are_handed_out_but_not_rotated(
    server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(server.url, tmp_path / "owner") as owner:
        await owner.publisher.init(gun, dialect=NOTARY)
        async with ServerApi(server.url) as api:
            keys = [await api.online_key(gun, "timestamp", TUF) for _ in range(2)]
            assert keys[0] == keys[1]
            notary = await api.online_key(gun, "timestamp", NOTARY)
            assert notary.keyid in (await owner.trust.refresh(gun)).root.signed.keys
        async with HttpFetcher() as fetcher:
            url = f"{server.url}/v2/{gun}/_trust/tuf/timestamp.key?dialect=tuf"
            async with fetcher.request("POST", url, None) as answer:
                assert answer.status == 400
        await owner.sign(gun, "1")
        assert await owner.digest(gun, "1") == sha256("1")
