"""A server that wants to be the publisher."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from securesystemslib.signer import CryptoSigner, SSlibKey

from forge import NOW
from person import Person
from tabellion.core.dialect import TUF
from tabellion.errors import KeyStoreError, ServerAnswerError
from tabellion.publish.birth import Plan, first_files
from tabellion.publish.passphrases import Passphrases
from tabellion.publish.signing import Expiries, KeyRing

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
