"""An organisation's anchors: what they refuse, whoever holds server, network or old keys.

After each refusal the cache still holds what was trusted before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

import notary_gun
from anchorage import COLLECTION, Anchorage, anchor, entry, print_of, raw_entry
from forge import LATER, NOW, Forge
from notary_files import NotaryFiles
from puller import Puller
from simulator import GUN, IMAGE, Simulator, hang_up
from tabellion.core.names import Digest, Gun
from tabellion.errors import (
    CacheError,
    TransportError,
    UntrustedRootError,
    VerificationError,
)
from tabellion.verify.client import ANCHORS_MAX_AGE, TrustClient
from tabellion.verify.decisions import Decisions
from tabellion.verify.trust_store import TrustStore

DIGEST = Digest.of(b"image")


@pytest.fixture
async def anchors(puller: Puller) -> AsyncIterator[Anchorage]:
    """Trust a collection that allows the GUN its root key."""
    async with Simulator() as server:
        server.publish()
        anchorage = Anchorage(server)
        anchorage.set(anchor(GUN, *puller.server.forge.signers["root"]))
        anchorage.trusted_at(puller.home)
        yield anchorage


def kept_of_gun(puller: Puller) -> dict[str, bytes]:
    """Give what is kept of the GUN, but for the note of how its first root was looked for."""
    folder = puller.client().cache(GUN).folder.relative_to(puller.home).as_posix()
    return {
        path: data
        for path, data in puller.kept().items()
        if path.startswith(folder) and not path.endswith("/pinned")
    }


async def refused(puller: Puller, words: str, **options: object) -> None:
    """See the image refused by anchors; of the GUN itself nothing changes."""
    before = kept_of_gun(puller)
    with pytest.raises(UntrustedRootError, match=words) as caught:
        await puller.verify(**({"root": None} | options))
    assert caught.value.hint
    assert kept_of_gun(puller) == before


async def test_an_anchored_root_is_trusted_without_a_root_file(
    puller: Puller, anchors: Anchorage
) -> None:
    image = await puller.verify(root=None, first_use=True)
    assert (image.digest, image.pinned) == (DIGEST, f"anchors {anchors.gun}")
    assert (await puller.verify()).pinned == f"root file; anchors {anchors.gun}"


@pytest.mark.usefixtures("anchors")
async def test_an_attacker_who_owns_the_server_and_makes_a_root_is_refused(puller: Puller) -> None:
    async with Simulator() as owned:
        owned.publish_target(b"evil")
        puller.server.files = owned.files
        await refused(puller, "has 0 of 1", first_use=True)
        # Nor does a root file or key that the attacker talked somebody into help.
        await refused(puller, "has 0 of 1", root=owned.files["1.root.json"])
        key = print_of(owned.forge.signers["root"][0])
        await refused(puller, "has 0 of 1", root_fingerprint=key)


@pytest.mark.usefixtures("anchors")
async def test_a_root_that_lists_an_anchored_key_which_did_not_sign_is_refused(
    puller: Puller,
) -> None:
    honest = puller.server.forge.signers["root"][0]
    async with Simulator() as owned:
        owned.forge.root.add_key(honest.public_key, "root")
        owned.publish_target(b"evil")
        puller.server.files = owned.files
        await refused(puller, "has 0 of 1")


async def test_a_key_that_takes_an_anchored_keys_id_is_refused(
    puller: Puller, anchors: Anchorage
) -> None:
    wanted = print_of(puller.server.forge.signers["root"][0])
    anchors.set(anchor(GUN, wanted))
    forged = Forge()
    key = forged.signers["root"][0].public_key
    forged.root.revoke_key(key.keyid, "root")
    key.keyid = wanted
    forged.root.add_key(key, "root")
    async with Simulator(forged) as owned:
        owned.publish_target(b"evil")
        puller.server.files = owned.files
        await refused(puller, "has 0 of 1")


async def test_first_use_is_not_used_for_a_gun_that_anchors_cover(
    puller: Puller, anchors: Anchorage
) -> None:
    anchors.remove(GUN)
    await refused(puller, f"allow no root of {GUN}", first_use=True)
    await refused(puller, f"allow no root of {GUN}", root=puller.server.files["1.root.json"])


async def test_a_root_rotated_away_from_the_anchored_keys_is_refused(
    puller: Puller, anchors: Anchorage
) -> None:
    await puller.verify(root=None)
    puller.server.rotate_keys("root")
    await refused(puller, "root version 2 has 0 of 1")
    puller.server.rotate_keys("root")
    await refused(puller, "root version 3 has 0 of 1")
    anchors.set(anchor(GUN, *puller.server.forge.signers["root"]))
    assert (await puller.verify(root=None)).versions["root"] == 3


async def test_a_reader_who_comes_new_or_was_away_follows_a_rotation_that_anchors_follow(
    puller: Puller, anchors: Anchorage, tmp_path: Path
) -> None:
    await puller.verify(root=None)
    puller.server.rotate_keys("root")
    anchors.set(anchor(GUN, *puller.server.forge.signers["root"]))
    assert (await puller.verify(root=None)).versions["root"] == 2
    anchors.trusted_at(tmp_path / "new")
    assert (await puller.verify(root=None, home=tmp_path / "new")).versions["root"] == 2


async def test_a_root_that_anchors_allow_is_kept_whatever_is_withheld_after_it(
    puller: Puller, anchors: Anchorage
) -> None:
    """Or the keys that it retired could sign another root of that version later."""
    await puller.verify(root=None)
    puller.server.rotate_keys("root")
    anchors.set(anchor(GUN, *puller.server.forge.signers["root"]))
    puller.server.answers["timestamp.json"] = hang_up
    with pytest.raises(TransportError):
        await puller.verify(root=None)
    assert puller.client().cache(GUN).root_versions() == [1, 2]


async def test_a_root_believed_before_anchors_came_is_refused_until_it_is_forgotten(
    puller: Puller, anchors: Anchorage
) -> None:
    async with Simulator() as owned:
        owned.publish_target(b"evil")
        home = puller.home.parent / "careless"
        honest, puller.server.files = puller.server.files, owned.files
        await puller.verify(root=None, first_use=True, home=home)
        anchors.trusted_at(home)
        for files in (owned.files, honest):
            puller.server.files = files
            with pytest.raises(UntrustedRootError, match="root version 1 has 0 of 1") as caught:
                await puller.verify(root=None, home=home)
            assert "trust remove" in caught.value.hint
    assert await Decisions(home, lambda: NOW).forget(Gun(GUN))
    assert (await puller.verify(root=None, home=home)).digest == DIGEST


async def test_whoever_holds_a_retired_root_key_alone_is_refused(
    puller: Puller, anchors: Anchorage
) -> None:
    """The old key still opens the way from root 1, but not to a root that anchors allow."""
    stolen = puller.server.forge.signers["root"][0]
    first = puller.server.files["1.root.json"]
    puller.server.rotate_keys("root")
    anchors.set(anchor(GUN, *puller.server.forge.signers["root"]))
    thief = Forge(signers={"root": [stolen]})
    async with Simulator(thief) as owned:
        owned.files["1.root.json"] = first
        thief.root.version = 2
        owned.publish_target(b"evil")
        puller.server.files = owned.files
        await refused(puller, "root version 2 has 0 of 1")


async def test_one_anchored_key_does_not_lower_the_threshold_that_anchors_ask_for(
    puller: Puller, anchors: Anchorage
) -> None:
    mine = puller.server.forge.signers["root"][0]
    anchors.set(anchor(GUN, mine, CryptoSigner.generate_ed25519(), threshold=2))
    await refused(puller, "has 1 of 2")


async def test_two_spellings_of_one_key_do_not_reach_a_threshold_of_two(
    puller: Puller, anchors: Anchorage
) -> None:
    mine = puller.server.forge.signers["root"][0]
    anchors.set(anchor(GUN, mine, mine.public_key.keyid, threshold=2))
    await refused(puller, "has 1 of 2")


async def test_a_revoked_gun_that_was_verified_a_moment_ago_is_refused(
    puller: Puller, anchors: Anchorage
) -> None:
    await puller.verify(root=None)
    anchors.set(anchor(GUN, is_revoked=True))
    await refused(puller, "is revoked")
    await refused(puller, "is revoked", root=puller.server.files["1.root.json"])
    await refused(puller, "is revoked", offline="last-known")


async def test_a_client_that_stays_hears_a_revocation_within_a_minute(
    puller: Puller, anchors: Anchorage
) -> None:
    now = [NOW]
    async with puller.client(root=None, clock=lambda: now[0]) as trust:
        await trust.verify(IMAGE)
        anchors.set(anchor(GUN, is_revoked=True))
        anchors.server.requests.clear()
        now[0] += ANCHORS_MAX_AGE - timedelta(seconds=1)
        await trust.verify(IMAGE)
        assert anchors.server.requests == []
        now[0] += timedelta(seconds=1)
        with pytest.raises(UntrustedRootError, match="is revoked"):
            await trust.verify(IMAGE)


async def test_anchors_that_expired_since_they_were_read_are_not_gone_by(
    puller: Puller, anchors: Anchorage
) -> None:
    soon = NOW + timedelta(seconds=5)
    anchors.server.publish(expires_at=soon)
    now = [NOW]
    async with puller.client(root=None, clock=lambda: now[0]) as trust:
        await trust.verify(IMAGE)
        now[0] = soon
        with pytest.raises(UntrustedRootError, match="timestamp version 3 expired"):
            await trust.verify(IMAGE)


async def test_a_delegated_signers_entries_that_expired_since_are_not_gone_by(
    puller: Puller, anchors: Anchorage
) -> None:
    soon = NOW + timedelta(seconds=5)
    anchors.remove(GUN)
    anchors.server.add_delegation("team", ["registry.example+team+*"])
    anchors.forge.delegated["team"].expires = soon
    anchors.set(anchor(GUN, *puller.server.forge.signers["root"]), role="team")
    now = [NOW]
    async with puller.client(root=None, clock=lambda: now[0]) as trust:
        await trust.verify(IMAGE)
        now[0] = soon
        with pytest.raises(
            UntrustedRootError, match="can't be relied upon: team version 2 expired"
        ):
            await trust.verify(IMAGE)


async def test_many_verifications_at_once_read_the_anchors_once(
    puller: Puller, anchors: Anchorage
) -> None:
    async with puller.client(root=None) as trust:
        guns = [f"registry.example/team/app{number}:1.2" for number in range(12)]
        anchors.set(anchor("registry.example/team/*", *puller.server.forge.signers["root"]))
        found = await asyncio.gather(*(trust.verify(image) for image in guns))
    assert {image.digest for image in found} == {DIGEST}
    assert anchors.server.requests.count("timestamp.json") == 1


async def test_mirrors_are_of_the_guns_server_and_not_of_the_anchors(
    puller: Puller, anchors: Anchorage
) -> None:
    url = puller.server.url
    async with puller.client(root=None, mirrors=["http://127.0.0.1:9"]) as trust:
        assert (await trust.verify(IMAGE)).digest == DIGEST
    async with TrustClient(
        "http://127.0.0.1:9",
        home=puller.home.parent / "cold",
        clock=lambda: NOW,
        fetcher=puller.fetcher,
        mirrors=[url],
    ) as trust:
        anchors.trusted_at(puller.home.parent / "cold")
        assert (await trust.verify(IMAGE)).digest == DIGEST


async def test_frozen_anchors_are_refused_once_they_expire(
    puller: Puller, anchors: Anchorage
) -> None:
    soon = NOW + timedelta(hours=1)
    anchors.server.publish(expires_at=soon)
    await puller.verify(root=None)
    await refused(puller, "can't be relied upon: timestamp version 3 expired", now=soon)


async def test_expired_targets_of_anchors_do_not_read_as_the_guns_own(
    puller: Puller, anchors: Anchorage
) -> None:
    """A publisher goes on from its GUN's expired targets: never from unread anchors."""
    await puller.verify(root=None)
    anchors.forge.targets.expires = NOW - timedelta(days=1)
    anchors.put({})
    await refused(puller, "can't be relied upon: targets version 3 expired")


async def test_anchors_rolled_back_are_refused(puller: Puller, anchors: Anchorage) -> None:
    old = dict(anchors.server.files)
    anchors.set(anchor(GUN, is_revoked=True))
    await refused(puller, "is revoked")
    anchors.server.files = old
    await refused(puller, "can't be relied upon: timestamp has version 2")


async def test_anchors_withheld_let_nothing_pass(puller: Puller, anchors: Anchorage) -> None:
    await puller.verify(root=None)
    anchors.server.answers["timestamp.json"] = hang_up
    with pytest.raises(TransportError):
        await puller.verify(root=None)
    kept = await puller.verify(root=None, offline="last-known")
    assert (kept.digest, kept.offline) == (DIGEST, False)
    anchors.trusted_at(puller.home.parent / "new")
    with pytest.raises(TransportError):
        await puller.verify(root=None, offline="last-known", home=puller.home.parent / "new")
    puller.server.answers["timestamp.json"] = hang_up
    await refused(puller, "can't be relied upon|expired", offline="last-known", now=LATER)


async def test_a_collection_with_another_root_than_the_pinned_one_is_refused(
    puller: Puller, anchors: Anchorage
) -> None:
    async with Simulator() as owned:
        forged = Anchorage(owned)
        forged.set(anchor(GUN, *puller.server.forge.signers["root"]))
        anchors.server.files = owned.files
        await refused(puller, "can't be relied upon")


async def test_a_collection_gone_from_its_server_lets_nothing_pass(
    puller: Puller, anchors: Anchorage
) -> None:
    await puller.verify(root=None)
    anchors.server.files = {}
    await refused(puller, "can't be relied upon: .* now the server holds nothing")


@pytest.mark.usefixtures("anchors")
async def test_a_collection_speaks_only_for_what_it_was_given(puller: Puller) -> None:
    async with Simulator() as server:
        server.publish()
        greedy = Anchorage(server, Gun("other.example/anchors"))
        greedy.set(anchor(GUN, is_revoked=True), anchor("**", is_revoked=True))
        greedy.trusted_at(puller.home, "other.example/**")
        assert (await puller.verify(root=None)).digest == DIGEST
        # Not asked at all, so that it can't withhold what isn't its own either.
        assert server.requests == []


@pytest.mark.usefixtures("anchors")
async def test_two_collections_that_disagree_are_refused(puller: Puller) -> None:
    async with Simulator() as server:
        server.publish()
        other = Anchorage(server, Gun("other.example/anchors"))
        other.trusted_at(puller.home)
        # One that has no entry has no say ...
        assert (await puller.verify(root=None)).digest == DIGEST
        # ... one that has one has to be met too.
        other.set(anchor("registry.example/**", CryptoSigner.generate_ed25519()))
        await refused(puller, "by anchors other.example/anchors")
        other.set(anchor("registry.example/**", is_revoked=True))
        await refused(puller, "is revoked .*other.example/anchors")
        other.set(anchor("registry.example/**", *puller.server.forge.signers["root"]))
        assert "other.example/anchors" in (await puller.verify(root=None)).pinned


async def test_the_most_specific_entry_speaks_alone(puller: Puller, anchors: Anchorage) -> None:
    mine = puller.server.forge.signers["root"]
    stranger = CryptoSigner.generate_ed25519()
    anchors.remove(GUN)
    anchors.set(anchor("registry.example/**", *mine))
    assert (await puller.verify(root=None)).digest == DIGEST
    for narrower in ("registry.example/team/**", "registry.example/team/*", GUN):
        anchors.set(anchor(narrower, stranger))
        await refused(puller, f"anchor {narrower}".replace("*", r"\*"))
        anchors.set(anchor(narrower, *mine))
        assert (await puller.verify(root=None)).digest == DIGEST


@pytest.mark.parametrize(
    "pattern",
    [
        "registry.example/team/ap",
        "registry.example/team/app/*",
        "registry.example/team/app/**",
        "registry.example/tea/*",
        "registry.example/teams/**",
        "Registry.example/team/app",
        "registry.example/*",
        "team/app",
        "*",
    ],
)
async def test_a_pattern_of_something_else_allows_nothing(
    puller: Puller, anchors: Anchorage, pattern: str
) -> None:
    anchors.remove(GUN)
    anchors.set(anchor(pattern, *puller.server.forge.signers["root"]))
    await refused(puller, "allow no root")


async def test_capitals_are_no_way_around_anchors(puller: Puller, anchors: Anchorage) -> None:
    anchors.trusted_at(puller.home, "registry.example/**")
    for reference in ("REGISTRY.example/team/app:1.2", "Registry.Example/team/app:1.2"):
        with pytest.raises(UntrustedRootError, match="allow no root"):
            await puller.verify(reference, root=None, first_use=True)
        assert puller.client().cache(reference.partition(":")[0]).root_versions() == []


@pytest.mark.parametrize(
    "change",
    [
        {"root_keys": []},
        {"root_keys": ["ab"]},
        {"root_keys": ["A" * 64]},
        {"root_keys": ["*" * 64]},
        {"root_keys": ["ab" * 32, "ab" * 32]},
        {"root_keys": "ab" * 32},
        {"root_keys": None},
        {"threshold": 0},
        {"threshold": 2},
        {"threshold": True},
        {"threshold": "1"},
        {"expires": "2027-01-01"},
        {"expires": "2027-01-01T00:00:00+00:00"},
        {"expires": 4},
        {"comment": 4},
        {"comment": "x" * 501},
        {"revoked": False},
        {"revoked": True},
        {"unknown": 1},
        {"pattern": "registry.example/**"},
    ],
)
async def test_a_malformed_entry_lets_nothing_pass(
    puller: Puller, anchors: Anchorage, change: dict[str, object]
) -> None:
    made = anchor(GUN, *puller.server.forge.signers["root"])
    anchors.set(anchor("**", *puller.server.forge.signers["root"]))
    anchors.put({made.pattern.path: raw_entry(made.pattern.path, made.content() | change)})
    await refused(puller, "can't be relied upon")


async def test_an_entry_whose_custom_is_not_what_was_hashed_lets_nothing_pass(
    puller: Puller, anchors: Anchorage
) -> None:
    mine = anchor(GUN, *puller.server.forge.signers["root"])
    target = entry(mine)
    target.hashes = entry(anchor(GUN, is_revoked=True)).hashes
    anchors.put({mine.pattern.path: target})
    await refused(puller, "length and hash aren't those of its content")
    target = entry(mine)
    target.unrecognized_fields["custom"]["more"] = 1
    anchors.put({mine.pattern.path: target})
    await refused(puller, "isn't just an anchor")


async def test_an_expired_entry_lets_nothing_pass(puller: Puller, anchors: Anchorage) -> None:
    ends = NOW + timedelta(hours=1)
    anchors.set(anchor("**", *puller.server.forge.signers["root"]))
    anchors.set(anchor(GUN, *puller.server.forge.signers["root"], expires_at=ends))
    await puller.verify(root=None)
    await refused(puller, "expired at 2026-11-24T13:00:00Z", now=ends)


async def test_a_delegated_signer_writes_no_entry_outside_its_paths(
    puller: Puller, anchors: Anchorage
) -> None:
    mine = puller.server.forge.signers["root"]
    anchors.remove(GUN)
    anchors.server.add_delegation("team-b", ["registry.example+team-b+*"])
    anchors.set(
        anchor(GUN, *mine),
        anchor("registry.example/team/*", *mine),
        anchor("**", *mine),
        anchor("registry.example/team-b/**", *mine),
        role="team-b",
    )
    await refused(puller, "allow no root")
    image = await puller.verify("registry.example/team-b/some/app:1.2", root=None)
    assert image.digest == DIGEST


async def test_a_delegated_signer_who_is_silent_or_forged_opens_no_less_specific_entry(
    puller: Puller, anchors: Anchorage
) -> None:
    mine = puller.server.forge.signers["root"]
    anchors.remove(GUN)
    anchors.set(anchor("**", *mine))
    anchors.server.add_delegation("team", ["registry.example+team+*"])
    assert (await puller.verify(root=None)).digest == DIGEST
    anchors.forge.signers["team"] = [CryptoSigner.generate_ed25519()]
    anchors.set(anchor(GUN, is_revoked=True), role="team")
    await refused(puller, "can't be relied upon: team version 2 has 0 of 1")


async def test_a_collection_is_read_by_its_own_root_whoever_speaks_for_everything(
    puller: Puller, anchors: Anchorage
) -> None:
    async with Simulator() as server:
        server.publish()
        other = Anchorage(server, Gun("other.example/anchors"))
        other.set(anchor("**", is_revoked=True))
        other.trusted_at(puller.home)
        async with TrustClient(
            anchors.server.url, home=puller.home, clock=lambda: NOW, fetcher=puller.fetcher
        ) as trust:
            found = await trust.anchor(anchors.gun, GUN)
            assert found is not None
            assert len(await trust.targets(anchors.gun)) == 1
            # Whoever gives another root for it is refused.
            with pytest.raises(UntrustedRootError, match="is pinned to something else"):
                await puller.client(root=server.files["1.root.json"]).targets(anchors.gun)


async def test_a_notary_guns_root_is_anchored_by_each_name_of_its_key(
    tmp_path: Path, puller: Puller, anchors: Anchorage
) -> None:
    gun = notary_gun.NotaryGun()
    gun.targets["targets"].targets["1.0"] = notary_gun.target(b"released")
    gun.release()
    key = gun.signers["root"][0].public_key
    stranger = notary_gun.certified().public_key

    class Both(NotaryFiles):
        async def fetch(self, url: str, *, max_bytes: int) -> bytes:
            if "/anchors/" in url:
                return await puller.fetcher.fetch(url, max_bytes=max_bytes)
            return await super().fetch(url, max_bytes=max_bytes)

    def client(home: str) -> TrustClient:
        anchors.trusted_at(tmp_path / home)
        return TrustClient(
            "https://trust.example",
            home=tmp_path / home,
            clock=lambda: notary_gun.NOW,
            fetcher=Both(gun),  # type: ignore[arg-type]
        )

    names = (key.keyid, key.canonical_id, print_of(gun.signers["root"][0]))
    for number, name in enumerate(names):
        anchors.set(anchor(GUN, name))
        async with client(str(number)) as trust:
            assert (await trust.verify(f"{GUN}:1.0")).digest == Digest.of(b"released")
    anchors.set(anchor(GUN, stranger.keyid, stranger.canonical_id))
    for home in ("0", "new"):
        async with client(home) as trust:
            with pytest.raises(UntrustedRootError, match="has 0 of 1"):
                await trust.verify(f"{GUN}:1.0")


@pytest.mark.usefixtures("anchors")
async def test_a_notary_gun_is_no_collection(puller: Puller) -> None:
    gun = notary_gun.NotaryGun()
    made = anchor(GUN, *puller.server.forge.signers["root"])
    gun.targets["targets"].targets[made.pattern.path] = entry(made)
    gun.release()
    async with TrustClient(
        "https://trust.example",
        home=puller.home.parent / "other",
        root=gun.files["root"],
        clock=lambda: notary_gun.NOW,
        fetcher=NotaryFiles(gun),  # type: ignore[arg-type]
    ) as trust:
        with pytest.raises(VerificationError, match="is a tuf GUN"):
            await trust.anchor(notary_gun.GUN, GUN)


@pytest.mark.usefixtures("anchors")
async def test_a_damaged_list_of_collections_lets_nothing_pass(puller: Puller) -> None:
    path = TrustStore(puller.home).folder / "anchors.json"
    good = path.read_bytes()
    for bad in (b"", b"{}", b"[]", good[:-9], good.replace(b'"for"', b'"fro"'),
                good.replace(b'"**"', b'"../**"'), good.replace(b"http:", b"file:")):  # fmt: skip
        path.write_bytes(bad)
        with pytest.raises(CacheError) as caught:
            await puller.verify()
        assert str(path) in caught.value.message
    assert COLLECTION.encode() in good
