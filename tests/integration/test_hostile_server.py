"""A server that wants to be the publisher."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Root, Targets
from yarl import URL

import publisher_process
from forge import NOW
from person import Person
from tabellion.cli.embedded import EmbeddedServer
from tabellion.core.dialect import TUF
from tabellion.core.names import parse_gun
from tabellion.core.proposal import Proposal
from tabellion.core.publication import UploadedFile
from tabellion.errors import KeyStoreError, ServerAnswerError, UntrustedRootError
from tabellion.publish import partial
from tabellion.publish.birth import Plan, first_files
from tabellion.publish.passphrases import Passphrases
from tabellion.publish.signing import Expiries, KeyRing
from tabellion.verify.trust_store import StoredPin, TrustStore

PASSPHRASE = "a passphrase for tests"


class Thief:
    """Offers its own key under an id of its choice, and takes what it's sent."""

    def __init__(self) -> None:
        self.keyid = ""
        self.signer = CryptoSigner.generate_ed25519()
        self.taken: list[bytes] = []

    async def answer(self, request: web.Request) -> web.Response:
        if request.path.endswith(".key"):
            return web.json_response({"keyid": self.keyid, **self.signer.public_key.to_dict()})
        if request.method == "POST":
            self.taken.append(await request.read())
            return web.json_response({"versions": {"root": 1, "targets": 1}})
        problem = {"type": "urn:tabellion:problem:unknown-gun", "status": 404}
        return web.json_response(problem, status=404, content_type="application/problem+json")


@pytest.fixture
async def thief() -> AsyncIterator[tuple[Thief, str]]:
    made = Thief()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    async with TestServer(app) as server:
        yield made, str(server.make_url("")).rstrip("/")


async def test_a_server_key_named_like_a_root_key_founds_nothing(
    thief: tuple[Thief, str], tmp_path: Path
) -> None:
    server, url = thief
    async with Person(url, tmp_path) as owner:
        held = [owner.keys.generate("root", passphrase=PASSPHRASE, name=name) for name in "ab"]
        for server.keyid in (held[1].keyid, "0" * 64, ""):
            with pytest.raises(ServerAnswerError):
                await owner.publisher.init("registry.example/app", root_keys=["a", "b"])
        assert {info.keyid for info in owner.keys.list()} == {info.keyid for info in held}
    assert server.taken == []
    assert not list(tmp_path.rglob("*.init"))


def test_two_keys_of_one_id_found_nothing(tmp_path: Path) -> None:
    own, other = (CryptoSigner.generate_ed25519().public_key for _ in range(2))
    spoofed = SSlibKey(own.keyid, other.keytype, other.scheme, other.keyval)
    plan = Plan({"root": [own], "targets": [own], "timestamp": [spoofed], "snapshot": [other]}, {})
    ring = KeyRing(Person("http://127.0.0.1:9", tmp_path).keys, Passphrases())
    with pytest.raises(KeyStoreError):
        first_files(TUF, plan, ring, expiries=Expiries(), now=NOW, local_snapshot=False)


class Liar:
    """Passes everything on to a real server, but for what it answers itself."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.answers: dict[str, Callable[[bytes], web.Response]] = {}
        self.sent: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        if request.method != "GET":
            self.sent.append(request.path)
        headers = {"Content-Type": request.headers.get("Content-Type", "")}
        async with (
            ClientSession() as session,
            session.request(
                request.method,
                URL(self._url + request.raw_path, encoded=True),
                data=await request.read(),
                headers=headers if request.method != "GET" else {},
            ) as given,
        ):
            body = await given.read()
            for ending, lie in self.answers.items():
                if request.method == "GET" and ending in request.raw_path:
                    return lie(body)
            return web.Response(
                body=body, status=given.status, headers={"Content-Type": given.content_type}
            )


@pytest.fixture
async def liar(server: EmbeddedServer) -> AsyncIterator[tuple[Liar, str]]:
    made = Liar(server.url)
    app = web.Application(client_max_size=2**24)
    app.router.add_route("*", "/{path:.*}", made.answer)
    async with TestServer(app) as proxy:
        yield made, str(proxy.make_url("")).rstrip("/")


def public_key(person: Person, folder: Path) -> str:
    secret = publisher_process.PASSPHRASES["TABELLION_ROOT_PASSPHRASE"]
    info = person.keys.generate("root", passphrase=secret)
    path = folder / f"{info.keyid[:16]}.pub"
    path.write_bytes(person.keys.export(info.keyid))
    return str(path)


async def test_another_proposal_under_the_number_that_was_told_is_not_signed(
    server: EmbeddedServer, liar: tuple[Liar, str], gun: str, tmp_path: Path
) -> None:
    lies, url = liar
    bobs, eves = (public_key(Person(url, tmp_path / who), tmp_path) for who in ("bob", "eve"))
    async with Person(server.url, tmp_path / "ann") as ann:
        made = await ann.publisher.init(gun, root_keys=[public_key_here(ann), bobs])
        assert made.root
        proposals = ann.publisher.proposals
        good = await proposals.prepare_root(gun, thresholds={"root": 2})
        bad = await proposals.prepare_root(gun, added={"root": [eves]}, thresholds={"root": 2})
        files = await proposals._pending.files(parse_gun(gun), str(bad.pending))
        content = {"files": {item.role: item.data.decode() for item in files}}
        lies.answers[f"pending/{good.pending}"] = lambda _: web.json_response(content)
        told: list[str] = []
        async with Person(url, tmp_path / "bob", made.root) as bob:
            with pytest.raises(ServerAnswerError, match="another proposal"):
                await bob.publisher.proposals.cosign(gun, str(good.pending), show=told.extend)
            with pytest.raises(ServerAnswerError, match="another proposal"):
                await bob.publisher.proposals.show(gun, str(good.pending))
            assert told == []
            assert lies.sent == []
            lies.answers.clear()
            assert (await bob.publisher.proposals.cosign(gun, str(good.pending))).versions


def public_key_here(person: Person) -> str:
    secret = publisher_process.PASSPHRASES["TABELLION_ROOT_PASSPHRASE"]
    return person.keys.generate("root", passphrase=secret).keyid


@pytest.mark.parametrize("knows_by", ["kept", "given", "pinned"])
async def test_a_server_that_hides_a_gun_has_nobody_found_it_again(
    server: EmbeddedServer, liar: tuple[Liar, str], gun: str, tmp_path: Path, knows_by: str
) -> None:
    lies, url = liar
    home = tmp_path / "ann"
    async with Person(server.url, home) as before:
        made = await before.publisher.init(gun)
    if knows_by != "kept":
        before.trust.cache(gun).forget()
    if knows_by == "pinned":
        pin = StoredPin(parse_gun(gun), None, made.root_keys[0].fingerprint, NOW)
        TrustStore(home).save_pin(pin, how="add")
    async with Person(url, home, made.root if knows_by == "given" else None) as ann:
        # A root of the attacker's making, with the owner's key in it to be signed by.
        root = Root.from_dict(json.loads(made.root)["signed"])
        root.add_key(CryptoSigner.generate_ed25519().public_key, "root")
        files = {"root": TUF.sign(root, []), "targets": TUF.sign(Targets(), [])}
        absent = {"type": "urn:tabellion:problem:unknown-gun", "status": 404}
        lies.answers["/_trust/tuf/"] = lambda _: web.json_response(
            absent, status=404, content_type="application/problem+json"
        )
        number = Proposal.parse(gun, TUF, [UploadedFile(*item) for item in files.items()]).id
        one = {
            "id": number,
            "roles": {"root": 1, "targets": 1},
            "created": "2026-11-24T12:00:00Z",
            "expires": "2046-11-24T12:00:00Z",
            "by": "",
            "stale": False,
            "standing": [],
        }
        told = {role: data.decode() for role, data in files.items()}
        lies.answers[f"pending/{number}"] = lambda _: web.json_response({**one, "files": told})
        lies.answers["/pending"] = lambda _: web.json_response({"pending": [one]})
        words: list[str] = []
        with pytest.raises(UntrustedRootError, match="a root of it is trusted here"):
            await ann.publisher.proposals.cosign(gun, show=words.extend)
        file = tmp_path / "courier.json"
        partial.write(file, gun, [UploadedFile(*item) for item in files.items()])
        with pytest.raises(UntrustedRootError, match="a root of it is trusted here"):
            await ann.publisher.proposals.cosign_file(file, show=words.extend)
        assert words == []
        assert lies.sent == []
