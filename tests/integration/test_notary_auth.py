"""The real ``notary`` logs in: against our server and the real one, by the same token service."""

from __future__ import annotations

import asyncio
import base64
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import pytest
from aiohttp import ClientSession

from integration import engines
from notary_servers import NotaryServer, our_config, our_notary, real_notary
from token_service import SERVICE, TokenService

pytestmark = pytest.mark.system
GUN = "registry.example/team/app"
PHRASES = {f"NOTARY_{role}_PASSPHRASE": "correct-horse" for role in ("ROOT", "TARGETS", "SNAPSHOT")}
SERVERS = ("ours", "real")


@dataclass
class Notary:
    """The program in a home of its own, as a user or as nobody."""

    server: NotaryServer
    service: TokenService
    folder: Path

    def _run(self, home: str, words: tuple[str, ...], user: str) -> tuple[int, str]:
        folder = self.folder / home
        folder.mkdir(exist_ok=True)
        environ = engines.plain_environment(folder) | PHRASES
        if user:
            pair = f"{user}:{self.service.users[user]}"
            environ["NOTARY_AUTH"] = base64.b64encode(pair.encode()).decode()
        options = ("-s", self.server.url, "--tlscacert", str(self.server.ca), "-d", str(folder))
        done = subprocess.run(
            ["notary", *options, *words],  # noqa: S607  # Debian's, by PATH
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return done.returncode, done.stdout + done.stderr

    async def run(self, *words: str, user: str = "", home: str = "dave") -> str:
        status, said = await asyncio.to_thread(self._run, home, words, user)
        assert status == 0, said
        return said

    async def refused(self, *words: str, user: str = "", home: str = "dave") -> None:
        status, said = await asyncio.to_thread(self._run, home, words, user)
        assert status != 0, said


@contextmanager
def _started(name: str, folder: Path, service: TokenService) -> Iterator[NotaryServer]:
    auth = service.settings()
    ours = name == "ours"
    with our_notary(our_config(folder, auth)) if ours else real_notary(folder, auth) as server:
        yield server


@pytest.fixture(params=SERVERS)
async def notary(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Notary]:
    engines.need("notary")
    service = TokenService.make(tmp_path)
    service.users["eve"] = "secret"
    service.grants["eve"] = {"pull"}
    async with service.serving():
        block = _started(request.param, tmp_path, service)
        server = await asyncio.to_thread(block.__enter__)
        try:
            yield Notary(server, service, tmp_path)
        finally:
            await asyncio.to_thread(block.__exit__, None, None, None)


async def test_the_real_client_does_all_it_may_and_nothing_more(
    notary: Notary, tmp_path: Path
) -> None:
    service = notary.service
    (tmp_path / "file").write_text("content")
    # Nobody, and a reader, publish nothing.
    await notary.refused("init", GUN, "-p", home="nobody")
    await notary.refused("init", GUN, "-p", home="eve", user="eve")
    await notary.refused("list", GUN, home="reader", user="eve")
    # A publisher does.
    await notary.run("init", GUN, user="dave")
    await notary.run("add", GUN, "v1", str(tmp_path / "file"), user="dave")
    await notary.run("publish", GUN, user="dave")
    assert ("dave", f"repository:{GUN}:push,pull") in service.asked
    # Readers need to be somebody, until anybody may read.
    assert "v1" in await notary.run("list", GUN, home="eve2", user="eve")
    await notary.refused("list", GUN, home="anybody")
    service.grants[""] = {"pull"}
    service.asked.clear()
    assert "v1" in await notary.run("list", GUN, home="anybody")
    assert ("", f"repository:{GUN}:pull") in service.asked
    # Rotating the server's keys and deleting need everything.
    service.grants["dave"] = {"pull", "push"}
    await notary.refused("key", "rotate", GUN, "snapshot", "-r", user="dave")
    await notary.refused("delete", GUN, "--remote", user="dave")
    assert "v1" in await notary.run("list", GUN, home="again", user="eve")
    service.grants["dave"] = {"pull", "push", "*"}
    await notary.run("key", "rotate", GUN, "snapshot", "-r", user="dave")
    assert "v1" in await notary.run("list", GUN, home="later", user="eve")
    await notary.run("delete", GUN, "--remote", user="dave")
    assert ("dave", f"repository:{GUN}:*") in service.asked
    await notary.refused("list", GUN, home="last", user="eve")


async def test_unanswered_requests_are_alike(notary: Notary) -> None:
    """Both give the same bytes and headers; the real one names several actions in any order."""
    paths = {
        "/v2/": "registry:catalog:*",
        f"/v2/{GUN}/_trust/tuf/root.json": f"repository:{GUN}:pull",
        f"/v2/{GUN}/_trust/tuf/timestamp.key": f"repository:{GUN}:push,pull",
        "/v2/_trust/changefeed": "registry:catalog:*",
        "/v2/nowhere": "registry:catalog:*",
    }
    context = ssl.create_default_context(cafile=str(notary.server.ca))
    headers = {"Authorization": "Bearer x.y.z"}
    realm = f'Bearer realm="{notary.service.realm}",service="{SERVICE}"'
    for path, scope in paths.items():
        url = notary.server.url + path
        async with ClientSession() as session, session.get(url, ssl=context) as answer:
            status, body = answer.status, await answer.read()
            kind_of_body = answer.headers["Content-Type"]
            challenge = answer.headers["WWW-Authenticate"]
        async with (
            ClientSession() as session,
            session.get(url, ssl=context, headers=headers) as answer,
        ):
            refusal = answer.headers["WWW-Authenticate"]
        kind, name, actions = scope.split(":")
        orders = [actions.split(",")]
        if notary.server.name == "real":  # it ranges over a Go map
            orders.append(orders[0][::-1])
        scopes = [f'{realm},scope="{kind}:{name}:{",".join(order)}"' for order in orders]
        assert challenge in scopes
        assert refusal in [f'{scope},error="invalid_token"' for scope in scopes]
        details = [
            ",".join(
                f'{{"Type":"{kind}","Class":"","Name":"{name}","Action":"{action}"}}'
                for action in order
            )
            for order in orders
        ]
        expected = [
            '{"errors":[{"code":"UNAUTHORIZED","message":"authentication required",'
            f'"detail":[{detail}]}}]}}\n'
            for detail in details
        ]
        assert status == HTTPStatus.UNAUTHORIZED
        assert body.decode() in expected, path
        assert kind_of_body == "application/json; charset=utf-8"
