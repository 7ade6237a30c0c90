"""Logging in to trust servers, against a server and a token service on loopback."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from tabellion.core.publication import UploadedFile
from tabellion.errors import (
    AccessDeniedError,
    ConfigurationError,
    ServerAnswerError,
    TabellionError,
)
from tabellion.publish.server_api import ServerApi
from tabellion.transport import logins
from tabellion.transport.fetcher import HttpFetcher
from tabellion.transport.logins import Logins, scope_of
from tabellion.transport.proxies import is_loopback
from tabellion.transport.tokens import TokenRequest, is_safe_realm, read_token

GUN = "registry.example/team/app"
USER = ("dave", "secret")


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@dataclass
class Site:
    """A trust server that wants a token for everything, and a token service beside it.

    A token is its scope, whom it was given to, and a number.
    """

    url: str = ""
    realm: str | None = None
    scope: str | None = None
    scheme: str = "Bearer"
    public: bool = False
    life_seconds: int = 300
    valid_from: int = 0
    refresh_token: str | None = None
    token_answer: web.Response | None = None
    requests: list[str] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    forms: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)

    async def trust(self, request: web.Request) -> web.Response:
        self.requests.append(f"{request.method} {request.path}")
        self.bodies.append(await request.read())
        scope = scope_of(request.method, request.url)
        given = request.headers.get("Authorization", "")
        self.shown.append(given)
        if self.scheme == "Basic":
            headers = {"WWW-Authenticate": 'Basic realm="trust"'}
            return web.json_response(
                {}, status=200 if given == basic(*USER) else 401, headers=headers
            )
        if given.startswith("Bearer "):
            who, number, granted = given.removeprefix("Bearer ").split("|")
            is_enough = who == "dave" or (self.public and scope.endswith(":pull"))
            if granted == scope and is_enough and int(number) >= self.valid_from:
                return web.json_response({"versions": {"root": 1}})
        realm = self.realm or f"{self.url}/token"
        challenge = f'Bearer realm="{realm}",service="trust",scope="{self.scope or scope}"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    async def token(self, request: web.Request) -> web.Response:
        if self.token_answer is not None:
            return self.token_answer
        given = request.headers.get("Authorization")
        asked = request.query
        if request.method == "POST":
            form = {name: str(value) for name, value in (await request.post()).items()}
            self.forms.append(form)
            if form["refresh_token"] != self.refresh_token:
                return web.Response(status=401)
            who, scope = "dave", form["scope"]
        elif given is None:
            who, scope = "", asked["scope"]
        elif given == basic(*USER):
            assert asked["account"] == "dave"
            who, scope = "dave", asked["scope"]
        else:
            self.asked.append(("refused", asked["scope"]))
            return web.Response(status=401)
        self.asked.append((who, scope))
        text = f"{who}|{len(self.asked)}|{scope}"
        return web.json_response({"token": text, "expires_in": self.life_seconds})


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("NOTARY_AUTH", raising=False)
    made = Site()
    app = web.Application()
    app.router.add_route("*", "/token", made.token)
    app.router.add_route("*", "/{rest:.*}", made.trust)
    async with TestServer(app) as server:
        made.url = f"http://127.0.0.1:{server.port}"
        yield made


def log_in(monkeypatch: pytest.MonkeyPatch, user: str = "dave", password: str = "secret") -> None:
    text = base64.b64encode(f"{user}:{password}".encode()).decode()
    monkeypatch.setenv("NOTARY_AUTH", text)


def write_config(folder: Path, host: str, entry: dict[str, str]) -> None:
    (folder / "config.json").write_text(json.dumps({"auths": {host: entry}}))


def file_of(site: Site, name: str = "root.json") -> str:
    return f"{site.url}/v2/{GUN}/_trust/tuf/{name}"


async def read(site: Site, name: str = "root.json", fetcher: HttpFetcher | None = None) -> bytes:
    if fetcher is not None:
        return await fetcher.fetch(file_of(site, name), max_bytes=1000)
    async with HttpFetcher() as own:
        return await own.fetch(file_of(site, name), max_bytes=1000)


async def test_a_reader_of_what_is_public_stays_anonymous(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(monkeypatch)
    site.public = True
    assert await read(site)
    assert site.asked == [("", f"repository:{GUN}:pull")]


async def test_a_reader_of_what_is_private_logs_in_after_it_was_refused_as_nobody(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(monkeypatch)
    assert await read(site)
    assert [who for who, _ in site.asked] == ["", "dave"]
    assert len(site.requests) == 3


async def test_a_writer_logs_in_at_once_and_sends_the_whole_body_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(monkeypatch)
    async with ServerApi(site.url) as api:
        assert await api.upload(GUN, [UploadedFile("root", b"the root")]) == {"root": 1}
    assert site.asked == [("dave", f"repository:{GUN}:push,pull")]
    assert len(site.requests) == 2
    assert b"the root" in site.bodies[1]


async def test_tokens_are_kept_by_scope_until_they_expire(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(monkeypatch)
    async with HttpFetcher() as fetcher:
        await read(site, fetcher=fetcher)
        await read(site, "timestamp.json", fetcher)
        assert (len(site.asked), len(site.requests)) == (2, 4)
        await read(site, "timestamp.key", fetcher)
        assert site.asked[2:] == [("dave", f"repository:{GUN}:push,pull")]
        logins = fetcher._logins
        assert logins is not None
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: 1e9)
        assert logins.known("GET", URL(file_of(site))) is None


async def test_a_kept_token_that_is_taken_back_is_replaced(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(monkeypatch)
    async with HttpFetcher() as fetcher:
        await read(site, fetcher=fetcher)
        site.valid_from = 3
        await read(site, fetcher=fetcher)
    assert [who for who, _ in site.asked] == ["", "dave", "dave"]


async def test_many_readers_at_once_fetch_one_token(site: Site) -> None:
    site.public = True
    async with HttpFetcher() as fetcher:
        await asyncio.gather(*(read(site, fetcher=fetcher) for _ in range(8)))
    assert len(site.asked) == 1


async def test_refused_for_good_it_stops_asking(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(monkeypatch)
    site.valid_from = 100
    with pytest.raises(AccessDeniedError):
        await read(site)
    assert len(site.requests) == 3
    async with ServerApi(site.url) as api:
        with pytest.raises(AccessDeniedError):
            await api.upload(GUN, [UploadedFile("root", b"the root")])
    assert len(site.requests) == 5
    assert [scope for _, scope in site.asked].count(f"repository:{GUN}:push,pull") == 1


async def test_without_credentials_the_refusal_says_what_to_do(site: Site) -> None:
    with pytest.raises(AccessDeniedError) as caught:
        await read(site)
    assert "docker login" in caught.value.hint
    assert len(site.requests) == 2


async def test_wrong_credentials_are_told_apart(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(monkeypatch, password="wrong")
    with pytest.raises(AccessDeniedError, match="refuses the credentials") as caught:
        await read(site)
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize("host", ["trust server", "registry"])
async def test_dockers_login_serves_of_the_servers_host_or_else_of_the_guns(
    site: Site, tmp_path: Path, host: str
) -> None:
    place = URL(site.url).authority if host == "trust server" else "registry.example"
    write_config(tmp_path, place, {"auth": base64.b64encode(b"dave:secret").decode()})
    assert await read(site)


async def test_an_identity_token_is_posted(site: Site, tmp_path: Path) -> None:
    site.refresh_token = "refresh-me"
    write_config(tmp_path, URL(site.url).authority, {"identitytoken": "refresh-me"})
    assert await read(site)
    form = site.forms[0]
    assert form["grant_type"] == "refresh_token"
    assert (form["service"], form["scope"]) == ("trust", f"repository:{GUN}:pull")


async def test_a_basic_challenge_is_answered(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.scheme = "Basic"
    with pytest.raises(AccessDeniedError):
        await read(site)
    log_in(monkeypatch)
    assert await read(site)


@pytest.mark.parametrize(
    "realm",
    [
        "http://elsewhere.example/token",
        "http://127.0.0.1@elsewhere.example/token",
        "https://user:pw@elsewhere.example/token",
        "file:///etc/passwd://",
    ],
)
async def test_a_realm_by_plain_http_elsewhere_is_never_asked(
    site: Site, monkeypatch: pytest.MonkeyPatch, realm: str
) -> None:
    log_in(monkeypatch)
    asked: list[str] = []

    async def ask(_self: HttpFetcher, place: URL, _request: TokenRequest) -> tuple[int, bytes]:
        asked.append(str(place))
        return 500, b""

    monkeypatch.setattr(HttpFetcher, "_ask_token_service", ask)
    site.realm = realm
    with pytest.raises(AccessDeniedError, match="isn't https"):
        await read(site)
    assert (asked, site.asked) == ([], [])


async def test_a_server_gets_no_token_for_another_thing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(monkeypatch)
    for scope in (
        "repository:other/app:pull",
        "registry:catalog:*",
        f"repository:{GUN}:pull repository:other/app:push",
    ):
        site.scope = scope
        with pytest.raises(AccessDeniedError, match="wants a token for"):
            await read(site)
    assert site.asked == []


async def test_a_reader_gets_no_token_to_write_whatever_the_server_says(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(monkeypatch)
    site.scope = f"repository:{GUN}:push,pull,*"
    assert await read(site)
    assert {scope for _, scope in site.asked} == {f"repository:{GUN}:pull"}


async def test_a_challenge_by_plain_http_from_elsewhere_gets_no_credentials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log_in(monkeypatch)
    seen: list[TokenRequest] = []

    async def send(_realm: URL, request: TokenRequest) -> tuple[int, bytes]:
        seen.append(request)
        return 401, b""

    for header in ('Bearer realm="https://evil.example/token",service="s"', 'Basic realm="x"'):
        for method in ("GET", "POST"):
            url = URL(f"http://trust.example/v2/{GUN}/_trust/tuf/")
            assert await Logins(send).better(method, url, [header], None) is None
    assert seen
    assert all(not request.headers and request.form is None for request in seen)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"token": 1}', b'{"token": "a\\nb"}', b'{"token": "' + b"x" * 70_000],
)
async def test_a_token_service_that_gives_no_token_is_told(site: Site, body: bytes) -> None:
    site.token_answer = web.Response(body=body)
    with pytest.raises(TabellionError):
        await read(site)


async def test_a_token_service_may_not_send_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    log_in(monkeypatch)
    site.token_answer = web.Response(status=307, headers={"Location": f"{site.url}/elsewhere"})
    with pytest.raises(ServerAnswerError):
        await read(site)
    assert all("elsewhere" not in request for request in site.requests)


async def test_a_write_tokens_challenge_is_no_token_service(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(monkeypatch)
    site.realm = "tabellion"
    with pytest.raises(AccessDeniedError, match="401"):
        await read(site)
    assert (site.asked, len(site.requests)) == ([], 1)


async def test_a_token_that_was_given_is_sent_and_nothing_else(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(monkeypatch)
    async with HttpFetcher(token=f"nobody|9|repository:{GUN}:pull") as fetcher:
        with pytest.raises(AccessDeniedError):
            await read(site, fetcher=fetcher)
    assert (site.asked, len(site.requests)) == ([], 1)


async def test_a_broken_variable_is_told_without_its_text(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTARY_AUTH", "s3cret!")
    with pytest.raises(ConfigurationError, match="NOTARY_AUTH") as caught:
        await read(site)
    assert "s3cret" not in f"{caught.value} {caught.value.hint}"


def test_each_request_has_the_scope_of_notarys_table() -> None:
    base = f"https://trust.example/prefix/v2/{GUN}/_trust"
    for method, path, actions in (
        ("GET", "tuf/root.json", "pull"),
        ("GET", "changefeed", "pull"),
        ("GET", "tuf/timestamp.key", "push,pull"),
        ("POST", "tuf/", "push,pull"),
        ("POST", "tuf/timestamp.key", "*"),
        ("DELETE", "tuf/", "*"),
    ):
        assert scope_of(method, URL(f"{base}/{path}")) == f"repository:{GUN}:{actions}"
    history = URL(f"https://trust.example/v1/history/{GUN}?limit=1")
    assert scope_of("GET", history) == f"repository:{GUN}:pull"
    for method, path, actions in (
        ("GET", "pending", "pull"),
        ("GET", "audit?limit=1", "pull"),
        ("POST", "pending", "push,pull"),
        ("GET", f"pending/{'a' * 64}", "pull"),
        ("DELETE", f"pending/{'a' * 64}", "push,pull"),
    ):
        url = URL(f"https://trust.example/v1/guns/{GUN}/{path}")
        assert scope_of(method, url) == f"repository:{GUN}:{actions}"
    for path in ("/v2/", "/v1/guns", "/v2/_trust/changefeed"):
        assert scope_of("GET", URL(f"https://trust.example{path}")) == "registry:catalog:*"


@pytest.mark.parametrize("text", ["a\nb", "a\r\nX-Evil: 1", "a\x00", "é", "", 1, None, ["a"]])
def test_a_token_is_plain_text_fit_for_a_header(text: object) -> None:
    assert read_token(json.dumps({"token": text}).encode()) is None


def test_a_tokens_life_is_kept_within_bounds() -> None:
    for said, seconds in ((10, 60), (900, 900), (10**9, 3600), (None, 60), (True, 60), ("9", 60)):
        token = read_token(json.dumps({"token": "t", "expires_in": said}).encode())
        assert token is not None
        assert token.seconds == seconds


def test_a_server_elsewhere_sends_nobody_to_this_machine() -> None:
    assert not is_safe_realm(
        "http://127.0.0.1:2375/x", "https://trust.example", may_use_http=lambda _: True
    )


ODD_LOOPBACKS = [
    "0.0.0.0",  # noqa: S104  (nothing is bound)
    *("localhost.localdomain", "ip6-localhost", "IP6-loopback.", "localhost6.localdomain6"),
    *("127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "127.0.0.1."),
    *("localhost.", "a.localhost", "[::]", "[::ffff:127.0.0.1]", "[::ffff:0.0.0.0]", "[::1%25lo]"),
]


@pytest.mark.parametrize("host", ODD_LOOPBACKS)
@pytest.mark.parametrize("base", ["https://trust.example", "http://127.0.0.1:4443"])
def test_an_odd_spelling_of_this_machine_is_no_place_for_plain_http(host: str, base: str) -> None:
    assert not is_safe_realm(f"http://{host}:5001/token", base, may_use_http=is_loopback)
    assert not is_loopback(host)
    assert not is_loopback(f"{host}:5001")


@pytest.mark.parametrize("host", [*ODD_LOOPBACKS, "127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_elsewhere_sends_nobody_to_this_machine_however_spelled(
    host: str, scheme: str
) -> None:
    realm = f"{scheme}://{host}:5001/token"
    assert not is_safe_realm(realm, "https://trust.example", may_use_http=lambda _: True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "localhost", "[::1]"])
def test_a_server_here_has_its_token_service_here(host: str) -> None:
    for port in ("", ":5001"):
        realm = f"http://{host}{port}/token"
        assert is_safe_realm(realm, "http://127.0.0.1:4443", may_use_http=is_loopback)


@pytest.mark.parametrize(
    "host", ["auth.example", "10.0.0.1", "[2001:db8::1]", "127.example", "1.1"]
)
def test_a_token_service_elsewhere_is_asked_by_https_only(host: str) -> None:
    base = "https://trust.example"
    assert is_safe_realm(f"https://{host}/token", base, may_use_http=is_loopback)
    assert not is_safe_realm(f"http://{host}/token", base, may_use_http=is_loopback)


def test_what_follows_a_bracketed_address_is_a_port_or_nothing() -> None:
    assert is_loopback("[::1]:80")
    assert not is_loopback("[::1]evil.example")


@pytest.mark.parametrize(
    ("recipient", "registry"),
    [
        ("registry.example", "registry.example"),
        ("auth.docker.io", "docker.io"),
        ("registry.example", "registry.example:5000"),
        ("127.0.0.1", "registry.example"),
    ],
)
def test_a_registrys_login_goes_to_its_own_domain(recipient: str, registry: str) -> None:
    assert logins._is_within(recipient, registry)


@pytest.mark.parametrize(
    "recipient",
    ["evil.example", "evilregistry.example", "example", "registry.example.evil.example"],
)
def test_a_registrys_login_goes_nowhere_else(recipient: str) -> None:
    assert not logins._is_within(recipient, "registry.example")
