"""A key management service, or somebody in its place, that lies about the keys it holds."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tabellion.errors import KeyStoreError, SignerError, TabellionError
from tabellion.signers.registry import RemoteSigners

TOKEN = "s.the-token-of-this-test"


@dataclass
class HostileVault:
    """Answers with whatever it's told to.

    Attributes:
        answer: Gives the answer to a request.
        tokens: Tokens it was sent.
    """

    answer: Callable[[web.Request], web.Response] = lambda _: web.Response(status=500)
    tokens: list[str | None] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        self.tokens.append(request.headers.get("X-Vault-Token"))
        return self.answer(request)


@pytest.fixture
async def vault(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HostileVault]:
    made = HostileVault()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    async with TestServer(app) as server:
        monkeypatch.setenv("VAULT_ADDR", str(server.make_url("")).rstrip("/"))
        monkeypatch.setenv("VAULT_TOKEN", TOKEN)
        yield made


def signers() -> RemoteSigners:
    return RemoteSigners(lambda _: "1234")


def data(content: Any) -> Callable[[web.Request], web.Response]:
    return lambda _: web.json_response({"data": content})


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


ED25519 = ed25519.Ed25519PrivateKey.generate()
RAW = base64.b64encode(ED25519.public_key().public_bytes_raw()).decode()


@pytest.mark.parametrize(
    "keys",
    [
        {"\u0663": {"public_key": RAW}},  # a digit, of another script
        {"9" * 30: {"public_key": RAW}},
        {"9" * 5000: {"public_key": RAW}},
        {"0": {"public_key": RAW}},
        {"-1": {"public_key": RAW}},
        {"1?mount=other": {"public_key": RAW}},
        {},
        [],
        "x",
        {"1": {"public_key": "AAAA"}},
        {"1": {"public_key": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"}},
        {"1": {"public_key": {"a": 1}}},
        {"1": [1]},
    ],
    ids=map(str, range(13)),
)
async def test_a_key_that_is_not_well_described_is_refused(vault: HostileVault, keys: Any) -> None:
    vault.answer = data({"keys": keys})
    with pytest.raises((SignerError, KeyStoreError)) as caught:
        await asyncio.to_thread(signers().find, "hv:app")
    assert TOKEN not in caught.value.message


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: web.Response(body=b"[" * 100_000),
        lambda _: web.Response(body=b'{"data": "' + b"x" * 3_000_000 + b'"}'),
        lambda _: web.Response(body=b"\xff\xfe"),
        lambda _: web.Response(body=b"null"),
        lambda _: web.json_response({"errors": ["\x1b[2J" * 500, TOKEN]}, status=400),
        lambda _: web.json_response({"errors": {"a": 1}}, status=503),
        lambda _: web.json_response({"data": None}),
    ],
    ids=map(str, range(7)),
)
async def test_an_answer_of_any_kind_is_an_error_of_ours(
    vault: HostileVault, answer: Callable[[web.Request], web.Response]
) -> None:
    vault.answer = answer
    public = ED25519.public_key()
    with pytest.raises(TabellionError) as caught:
        await asyncio.to_thread(signers().find, "hv:app")
    assert len(caught.value.message) < 500
    key = signers().private_key("hv:app/1", public)
    with pytest.raises(TabellionError):
        await asyncio.to_thread(key.sign_payload, b"payload")


async def test_the_token_goes_nowhere_else(vault: HostileVault) -> None:
    elsewhere = HostileVault()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", elsewhere.handle)
    async with TestServer(app) as server:
        for status in (301, 302, 303, 307, 308):
            headers = {"Location": str(server.make_url("/v1/transit/keys/app"))}
            vault.answer = lambda _, h=headers, s=status: web.Response(status=s, headers=h)  # type: ignore[misc]
            with pytest.raises(TabellionError):
                await asyncio.to_thread(signers().find, "hv:app")
    assert elsewhere.tokens == []
    assert vault.tokens == [TOKEN] * 5


def signed_with(key: ed25519.Ed25519PrivateKey, text: str) -> Callable[[web.Request], web.Response]:
    signature = base64.b64encode(key.sign(text.encode())).decode()
    return data({"signature": f"vault:v1:{signature}"})


@pytest.mark.parametrize(
    "answer",
    [
        signed_with(ed25519.Ed25519PrivateKey.generate(), "payload"),
        signed_with(ED25519, "another payload"),
        data({"signature": "vault:v1:"}),
        data({"signature": ""}),
        data({"signature": "vault:v1:!!!"}),
        data({"signature": None}),
        data({"signature": ["x"]}),
        data({"batch_results": []}),
    ],
    ids=map(str, range(8)),
)
async def test_a_signature_of_something_else_goes_no_further(
    vault: HostileVault, answer: Callable[[web.Request], web.Response]
) -> None:
    vault.answer = answer
    key = signers().private_key("hv:app/1", ED25519.public_key())
    with pytest.raises(SignerError):
        await asyncio.to_thread(key.sign_payload, b"payload")


async def test_another_key_in_the_same_place_is_another_key(vault: HostileVault) -> None:
    """What was noted is gone by: a service that swaps the key signs in vain."""
    noted, swapped = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    vault.answer = data({"keys": {"1": {"public_key": pem(noted)}}})
    found = await asyncio.to_thread(signers().find, "hv:app")
    assert found.uri == "hv:app/1"

    def sign(_: web.Request) -> web.Response:
        signature = swapped.sign(b"payload", ec.ECDSA(ec.hashes.SHA256()))
        return web.json_response(
            {"data": {"signature": f"vault:v1:{base64.b64encode(signature).decode()}"}}
        )

    vault.answer = sign
    key = signers().private_key(found.uri, found.public)
    with pytest.raises(SignerError, match="another one"):
        await asyncio.to_thread(key.sign_payload, b"payload")
    assert json.dumps(vault.tokens) == json.dumps([TOKEN, TOKEN])
