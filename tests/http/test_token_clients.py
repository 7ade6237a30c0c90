"""Our own client at our own server, which believes a token service."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer

from http_site import dump
from person import Person
from tabellion.core.names import Digest
from tabellion.errors import AccessDeniedError
from tabellion_server.app import make_app
from tabellion_server.keys.master import MasterKey
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.settings import Settings
from tabellion_server.storage.sqlite import SqliteStore
from tabellion_server.token_auth import TokenAuth
from token_service import ISSUER, SERVICE, TokenService

GUN = "registry.example/team/app"


@dataclass
class Guarded:
    """A server with a token service."""

    url: str
    service: TokenService
    store: Path

    def everything(self) -> list[str]:
        return dump(self.store)


@pytest.fixture
async def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Guarded]:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("NOTARY_AUTH", raising=False)
    service = TokenService.make(tmp_path)
    service.users |= {"rita": "reads"}
    service.grants |= {"rita": {"pull"}}
    store = await SqliteStore.open(tmp_path / "tabellion.db")
    async with service.serving() as realm:
        settings = Settings(auth=TokenAuth(realm, SERVICE, ISSUER, (service.root,)))
        app = make_app(settings, store=store, online_keys=OnlineKeys(store, MasterKey.generate()))
        async with TestServer(app) as server:
            yield Guarded(str(server.make_url("")).rstrip("/"), service, tmp_path / "tabellion.db")
    await store.close()


def be(monkeypatch: pytest.MonkeyPatch, user: str, password: str) -> None:
    text = base64.b64encode(f"{user}:{password}".encode()).decode()
    monkeypatch.setenv("NOTARY_AUTH", text)


async def publish(guarded: Guarded, home: Path) -> bytes:
    """Publish as whoever one is; gives the root."""
    async with Person(guarded.url, home) as owner:
        root = (await owner.publisher.init(GUN)).root
        await owner.sign(GUN, "1.2", "content")
        return root


async def test_who_may_push_publishes_and_who_may_pull_verifies(
    guarded: Guarded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    be(monkeypatch, "dave", "secret")
    root = await publish(guarded, tmp_path / "dave")
    be(monkeypatch, "rita", "reads")
    async with Person(guarded.url, tmp_path / "rita", root) as reader:
        assert (await reader.trust.verify(f"{GUN}:1.2")).digest == Digest.of(b"content")
    assert ("rita", f"repository:{GUN}:pull") in guarded.service.asked


async def test_what_is_public_is_verified_without_a_login(
    guarded: Guarded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded.service.grants[""] = {"pull"}
    be(monkeypatch, "dave", "secret")
    root = await publish(guarded, tmp_path / "dave")
    monkeypatch.delenv("NOTARY_AUTH")
    guarded.service.asked.clear()
    async with Person(guarded.url, tmp_path / "anybody", root) as reader:
        assert (await reader.trust.verify(f"{GUN}:1.2")).digest == Digest.of(b"content")
    assert guarded.service.asked == [("", f"repository:{GUN}:pull")]


@pytest.mark.parametrize("who", [None, ("rita", "reads"), ("dave", "wrong")])
async def test_who_may_not_push_changes_nothing(
    guarded: Guarded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: tuple[str, str] | None
) -> None:
    before = guarded.everything()
    if who is not None:
        be(monkeypatch, *who)
    with pytest.raises(AccessDeniedError) as caught:
        await publish(guarded, tmp_path / "somebody")
    assert caught.value.hint
    assert guarded.everything() == before


async def test_who_may_not_pull_sees_nothing(
    guarded: Guarded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    be(monkeypatch, "dave", "secret")
    root = await publish(guarded, tmp_path / "dave")
    monkeypatch.delenv("NOTARY_AUTH")
    async with Person(guarded.url, tmp_path / "anybody", root) as reader:
        with pytest.raises(AccessDeniedError):
            await reader.trust.verify(f"{GUN}:1.2")


async def test_dockers_identity_token_for_the_guns_registry_publishes(
    guarded: Guarded, tmp_path: Path
) -> None:
    guarded.service.refresh_tokens["refresh-me"] = "dave"
    entry = {"auths": {"registry.example": {"identitytoken": "refresh-me"}}}
    (tmp_path / "config.json").write_text(json.dumps(entry))
    await publish(guarded, tmp_path / "dave")
    assert ("dave", f"repository:{GUN}:push,pull") in guarded.service.asked
