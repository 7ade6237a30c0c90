from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import ClientResponse
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from structlog.testing import capture_logs

from http_site import GUN, Site, signed
from tabellion.errors import ConfigurationError
from tabellion_server.settings import Settings, load_settings
from tabellion_server.token_auth import TokenAuth
from token_service import ISSUER, SERVICE, TokenService, certify, grant, kid, x5c

REALM = "https://auth.example/token"
TIMESTAMP = f"/v2/{GUN}/_trust/tuf/timestamp.json"
EVERYTHING = grant(GUN, "*")


@pytest.fixture
def service(tmp_path: Path) -> TokenService:
    made = TokenService.make(tmp_path)
    made.realm = REALM
    return made


@pytest.fixture
def settings(service: TokenService) -> Settings:
    return Settings(
        auth=TokenAuth(REALM, SERVICE, ISSUER, (service.root,)), timestamp_life=timedelta(days=1)
    )


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def ask(site: Site, method: str, path: str, token: str | None = None) -> ClientResponse:
    headers = bearer(token) if token is not None else {}
    return await site.client.session.request(method, site.at(path), headers=headers)


async def publish(site: Site, service: TokenService) -> None:
    """Publish the GUN of ``site`` with a token for it."""
    site.client.session.headers.update(bearer(service.token(EVERYTHING)))
    forge = await site.forge()
    await site.publish(forge, "root", "targets")
    del site.client.session.headers["Authorization"]


CATALOG = "registry:catalog:*"
DEMANDS = [
    ("GET", "/v2/", CATALOG),
    ("GET", "/v2/_trust/changefeed?records=1", CATALOG),
    ("GET", "/v1/guns", CATALOG),
    ("GET", "/v1/changes", CATALOG),
    ("GET", "/v1/changes?gun=a&gun=b", CATALOG),
    ("GET", f"/v1/changes?gun={GUN}", f"repository:{GUN}:pull"),
    ("GET", "/nowhere", CATALOG),
    ("PUT", "/healthz", CATALOG),
    ("PATCH", "/v2/x", CATALOG),
    ("GET", f"/v2/{GUN}/_trust/tuf/", CATALOG),
    ("GET", f"/v2/{GUN}/_trust/tuf/x.txt", CATALOG),
    ("PUT", TIMESTAMP, CATALOG),
    ("GET", "/v2/a%20b/_trust/tuf/root.json", CATALOG),
    ("GET", TIMESTAMP, f"repository:{GUN}:pull"),
    ("HEAD", TIMESTAMP, f"repository:{GUN}:pull"),
    ("GET", f"/v2/{GUN}/_trust/tuf/1.root.json", f"repository:{GUN}:pull"),
    ("GET", f"/v2/{GUN}/_trust/tuf/root.{'a' * 64}.json", f"repository:{GUN}:pull"),
    ("GET", f"/v2/{GUN}/_trust/changefeed?records=1", f"repository:{GUN}:pull"),
    ("GET", f"/v1/guns/{GUN}", f"repository:{GUN}:pull"),
    ("GET", f"/v1/history/{GUN}", f"repository:{GUN}:pull"),
    ("GET", f"/v1/guns/{GUN}/pending", f"repository:{GUN}:pull"),
    ("GET", f"/v1/guns/{GUN}/pending/{'a' * 64}", f"repository:{GUN}:pull"),
    ("GET", f"/v1/guns/{GUN}/audit", f"repository:{GUN}:pull"),
    ("POST", f"/v1/guns/{GUN}/pending", f"repository:{GUN}:push,pull"),
    ("DELETE", f"/v1/guns/{GUN}/pending/{'a' * 64}", f"repository:{GUN}:push,pull"),
    ("GET", f"/v2/{GUN}/_trust/tuf/timestamp.key", f"repository:{GUN}:push,pull"),
    ("POST", f"/v2/{GUN}/_trust/tuf/", f"repository:{GUN}:push,pull"),
    ("POST", f"/v2/{GUN}/_trust/tuf/snapshot.key", f"repository:{GUN}:*"),
    ("DELETE", f"/v2/{GUN}/_trust/tuf/", f"repository:{GUN}:*"),
]


@pytest.mark.parametrize(("method", "path", "scope"), DEMANDS)
async def test_each_address_demands_its_scope_and_changes_nothing_without(
    site: Site, service: TokenService, method: str, path: str, scope: str
) -> None:
    await publish(site, service)
    before = await site.everything()
    plain = f'Bearer realm="{REALM}",service="{SERVICE}",scope="{scope}"'
    response = await ask(site, method, path)
    assert (response.status, response.headers["WWW-Authenticate"]) == (401, plain)
    kind, name, actions = scope.split(":")
    lesser = [action for action in ("pull", "push") if action not in actions.split(",")]
    for useless in (
        grant(name, *lesser, kind=kind),
        grant("other/gun", "*"),
        grant(name, kind="x"),
    ):
        response = await ask(site, method, path, service.token(useless))
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == plain + ',error="insufficient_scope"'
    response = await ask(site, method, path, "x.y.z")
    assert response.headers["WWW-Authenticate"] == plain + ',error="invalid_token"'
    assert await site.everything() == before
    allowed = service.token(grant(name, *actions.split(","), kind=kind))
    assert (await ask(site, method, path, allowed)).status != 401
    assert (await ask(site, method, path, service.token(grant(name, "*", kind=kind)))).status != 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/_notary_server/health"])
async def test_monitors_need_no_token(site: Site, path: str) -> None:
    assert (await ask(site, "GET", path)).status == 200


async def test_notarys_clients_read_the_demand_in_their_form(site: Site) -> None:
    headers = {"Accept": "*/*"}
    response = await site.client.session.post(site.url(""), headers=headers)
    (error,) = (await response.json())["errors"]
    assert error == {
        "code": "UNAUTHORIZED",
        "message": "authentication required",
        "detail": [
            {"Type": "repository", "Class": "", "Name": GUN, "Action": action}
            for action in ("push", "pull")
        ],
    }
    assert len(await response.read()) < 1024


async def test_a_pull_token_does_not_publish(site: Site, service: TokenService) -> None:
    site.client.session.headers.update(bearer(service.token(EVERYTHING)))
    files = signed(await site.forge(), "root", "targets")
    before = await site.everything()
    for actions in (["pull"], ["push"], []):
        response = await site.post(files, **bearer(service.token(grant(GUN, *actions))))
        assert response.status == 401
    assert await site.everything() == before
    with capture_logs() as lines:
        response = await site.post(
            files, **bearer(service.token(grant(GUN, "pull", "push"), sub="dave\n"))
        )
    assert response.status == 200
    assert [line["who"] for line in lines if line["event"] == "gun.published"] == ["dave?"]


async def test_no_shared_cache_keeps_what_needs_a_token(site: Site, service: TokenService) -> None:
    await publish(site, service)
    for path in (TIMESTAMP, f"/v2/{GUN}/_trust/tuf/1.root.json"):
        response = await ask(site, "GET", path, service.token(EVERYTHING))
        assert response.status == 200
        assert not {"public", "s-maxage"} & set(response.headers["Cache-Control"].split(", "))
    assert response.headers["Cache-Control"].startswith("private, max-age=")


def now() -> int:
    """Give the second of this very test: a table of moments would be old at the end of a run."""
    return int(time.time())


def _of_key(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> dict[str, Any]:
    if isinstance(key, rsa.RSAPrivateKey):
        made = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        made = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return dict(made)


def _good(service: TokenService) -> dict[str, str]:
    leaf, root = service.key, service.root_key
    middle_key = ec.generate_private_key(ec.SECP384R1())
    middle = certify("middle", middle_key, service.root, service.root_key, is_ca=True)
    rsa_key = rsa.generate_private_key(65537, 2048)
    rsa_leaf = certify("rsa", rsa_key, middle, middle_key)
    p384 = certify("p384", middle_key, service.root, service.root_key)
    token = service.token
    return {
        "x5c": token(EVERYTHING),
        "x5c of the bundle itself": token(
            EVERYTHING, header={"x5c": [x5c(service.root)]}, key=root
        ),
        "x5c by an intermediate, RS512": token(
            EVERYTHING,
            header={"x5c": [x5c(rsa_leaf), x5c(middle)]},
            key=rsa_key,
            algorithm="RS512",
        ),
        "ES384": token(EVERYTHING, header={"x5c": [x5c(p384)]}, key=middle_key, algorithm="ES384"),
        "kid": token(EVERYTHING, header={"kid": kid(root)}, key=root),
        "jwk": token(EVERYTHING, header={"jwk": _of_key(root)}, key=root),
        "jwk with x5c": token(
            EVERYTHING, header={"jwk": _of_key(leaf) | {"x5c": [x5c(service.certificate)]}}
        ),
        "audience in a list": token(EVERYTHING, aud=["x", SERVICE]),
        "expired within the leeway": token(EVERYTHING, exp=now() - 50),
        "begins within the leeway": token(EVERYTHING, nbf=now() + 50),
        "no nbf, no sub": token(EVERYTHING, nbf=None, sub=None),
    }


async def test_every_form_of_a_good_token_is_taken(site: Site, service: TokenService) -> None:
    await publish(site, service)
    for name, token in _good(service).items():
        assert (await ask(site, "GET", TIMESTAMP, token)).status == 200, name


def _part(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _hmac(service: TokenService, secret: bytes, algorithm: str) -> str:
    """Sign with a public key as if it were a shared secret, which PyJWT itself won't do."""
    import hmac  # noqa: PLC0415  # for the one forger

    _, payload, _ = service.token(EVERYTHING).split(".")
    header = {"alg": algorithm, "typ": "JWT", "kid": kid(service.root_key)}
    text = f"{_part(header)}.{payload}"
    return f"{text}.{_part(hmac.digest(secret, text.encode(), 'sha256'))}"


def _unsigned(service: TokenService, algorithm: str) -> str:
    _, payload, _ = service.token(EVERYTHING).split(".")
    return f"{_part({'alg': algorithm, 'typ': 'JWT', 'kid': kid(service.root_key)})}.{payload}."


def _pem(service: TokenService) -> bytes:
    return service.root_key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _foreign(service: TokenService, header: Callable[[TokenService], dict[str, Any]]) -> str:
    other = TokenService.make(service.bundle.parent.joinpath("other"))
    return service.token(EVERYTHING, header=header(other), key=other.key)


def _tampered(service: TokenService) -> str:
    head, payload, signature = service.token(grant(GUN, "push")).split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    return f"{head}.{_part(claims | {'access': [EVERYTHING]})}.{signature}"


def _twice(service: TokenService) -> str:
    """Sign claims that hold ``aud`` twice: two readers would read two audiences."""
    header = {"x5c": [x5c(service.certificate)]}
    claims = json.dumps({"iss": ISSUER, "exp": now() + 90, "access": [EVERYTHING], "aud": "x"})
    payload = f'{claims[:-1]},"aud":"{SERVICE}"}}'.encode()
    return jwt.PyJWS().encode(payload, service.key, algorithm="ES256", headers=header)


def _small_rsa(service: TokenService) -> str:
    key = rsa.generate_private_key(65537, 1024)  # noqa: S505  # what is to be refused
    leaf = certify("small", key, service.root, service.root_key)
    header = {"x5c": [x5c(leaf)]}
    text = f"{_part({'alg': 'RS256', **header})}.{service.token(EVERYTHING).split('.')[1]}"
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415  # for the one forger
    from cryptography.hazmat.primitives.asymmetric import padding  # noqa: PLC0415  # same

    return f"{text}.{_part(key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def _by_leaf(service: TokenService) -> str:
    """Let the service's plain certificate vouch for another key, as an authority might."""
    key = ec.generate_private_key(ec.SECP256R1())
    below = certify("below", key, service.certificate, service.key)
    return service.token(
        EVERYTHING, header={"x5c": [x5c(below), x5c(service.certificate)]}, key=key
    )


FORGED: dict[str, Callable[[TokenService], str]] = {
    "empty": lambda _: "",
    "not three parts": lambda s: s.token(EVERYTHING).rpartition(".")[0],
    "no base64": lambda _: "!.!.!",
    "not ASCII": lambda s: "\u00e9" + s.token(EVERYTHING),
    "header is a list": lambda _: f"{_part([1])}.{_part({})}.",
    "another's signature": lambda s: s.token(
        EVERYTHING, key=ec.generate_private_key(ec.SECP256R1())
    ),
    "claims changed after signing": _tampered,
    "signature cut off": lambda s: s.token(EVERYTHING)[:-4],
    "alg none": lambda s: _unsigned(s, "none"),
    "alg None": lambda s: _unsigned(s, "None"),
    "no signature": lambda s: _unsigned(s, "ES256"),
    "public key as HMAC secret": lambda s: _hmac(s, _pem(s), "HS256"),
    "certificate as HMAC secret": lambda s: _hmac(s, s.bundle.read_bytes(), "HS256"),
    "empty HMAC secret": lambda s: _hmac(s, b"", "HS256"),
    "expired": lambda s: s.token(EVERYTHING, exp=now() - 61),
    "not yet valid": lambda s: s.token(EVERYTHING, nbf=now() + 600),
    "never expires": lambda s: s.token(EVERYTHING, exp=None),
    "expiry as text": lambda s: _claims(s, exp=str(now() + 90)),
    "expiry true": lambda s: _claims(s, exp=True),
    "expiry without end": lambda s: _claims(s, exp=float("inf")),
    "wrong issuer": lambda s: s.token(EVERYTHING, iss="evil.example"),
    "issuers in a list": lambda s: _claims(s, iss=[ISSUER]),
    "no issuer": lambda s: s.token(EVERYTHING, iss=None),
    "wrong audience": lambda s: s.token(EVERYTHING, aud="registry.example"),
    "longer audience": lambda s: s.token(EVERYTHING, aud=SERVICE + ".evil"),
    "no audience": lambda s: s.token(EVERYTHING, aud=None),
    "audience of others": lambda s: s.token(EVERYTHING, aud=["a", "b"]),
    "audience twice": _twice,
    "access isn't a list": lambda s: s.token(EVERYTHING, access={"type": "repository"}),
    "access holds texts": lambda s: s.token(access=["repository"]),
    "actions as text": lambda s: s.token({"type": "repository", "name": GUN, "actions": "*"}),
    "no key named": lambda s: s.token(EVERYTHING, header={}),
    "kid unknown": lambda s: s.token(EVERYTHING, header={"kid": kid(s.key)}),
    "kid of the bundle, another key": lambda s: s.token(
        EVERYTHING, header={"kid": kid(s.root_key)}
    ),
    "kid isn't a text": lambda s: _headed(s, {"kid": [kid(s.root_key)]}),
    "jwk untrusted": lambda s: s.token(EVERYTHING, header={"jwk": _of_key(s.key)}),
    "jwk of the bundle, another key": lambda s: s.token(
        EVERYTHING, header={"jwk": _of_key(s.root_key)}
    ),
    "jwk beside another's certificate": lambda s: _foreign(
        s, lambda other: {"jwk": _of_key(other.key) | {"x5c": [x5c(s.certificate)]}}
    ),
    "jwk symmetric": lambda s: s.token(EVERYTHING, header={"jwk": {"kty": "oct", "k": "AAAA"}}),
    "jwk names an HMAC algorithm": lambda s: s.token(
        EVERYTHING, header={"jwk": _of_key(s.key) | {"alg": "HS256"}}
    ),
    "x5c of another authority": lambda s: _foreign(s, lambda o: {"x5c": [x5c(o.certificate)]}),
    "x5c with its own authority": lambda s: _foreign(
        s, lambda o: {"x5c": [x5c(o.certificate), x5c(o.root)]}
    ),
    "x5c foreign, then the bundle's": lambda s: _foreign(
        s, lambda o: {"x5c": [x5c(o.certificate), x5c(s.root)]}
    ),
    "x5c of the service, another key": lambda s: _foreign(
        s, lambda _: {"x5c": [x5c(s.certificate)]}
    ),
    "x5c foreign beside a good kid": lambda s: _foreign(
        s, lambda o: {"x5c": [x5c(o.certificate)], "kid": kid(s.root_key)}
    ),
    "x5c empty": lambda s: s.token(EVERYTHING, header={"x5c": []}),
    "x5c isn't a list": lambda s: s.token(EVERYTHING, header={"x5c": x5c(s.certificate)}),
    "x5c no certificate": lambda s: s.token(EVERYTHING, header={"x5c": ["AAAA"]}),
    "x5c expired": lambda s: s.token(
        EVERYTHING, header={"x5c": [x5c(certify("old", s.key, s.root, s.root_key, days=-1))]}
    ),
    "x5c below a plain certificate": _by_leaf,
    "x5c of a small RSA key": _small_rsa,
    "demands an extension": lambda s: _headed(s, {"crit": ["b64"], "b64": True}),
    "for another GUN": lambda s: s.token(grant(GUN + "2", "*")),
    "for a part of the GUN": lambda s: s.token(grant(GUN.rpartition("/")[0], "*")),
    "for all GUNs at once": lambda s: s.token(grant("*", "*")),
    "of another type": lambda s: s.token(grant(GUN, "*", kind="registry")),
    "for nothing": lambda s: s.token(),
}


def _claims(service: TokenService, **claims: Any) -> str:
    """Sign claims that PyJWT wouldn't."""
    said = {"iss": ISSUER, "aud": SERVICE, "exp": now() + 90, "access": [EVERYTHING]} | claims
    header = {"x5c": [x5c(service.certificate)]}
    payload = json.dumps(said).encode()
    return jwt.PyJWS().encode(payload, service.key, algorithm="ES256", headers=header)


def _headed(service: TokenService, header: dict[str, Any]) -> str:
    """Sign with the service's key under a header that PyJWT wouldn't write."""
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415  # for the one forger
    from cryptography.hazmat.primitives.asymmetric.utils import (  # noqa: PLC0415  # same
        decode_dss_signature,
    )

    said = {"alg": "ES256", "x5c": [x5c(service.certificate)]} | header
    if "kid" in header:
        del said["x5c"]
    text = f"{_part(said)}.{service.token(EVERYTHING).split('.')[1]}"
    key = service.root_key if "kid" in header else service.key
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    r, s = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{text}.{_part(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


@pytest.mark.parametrize("name", FORGED)
async def test_a_forged_token_opens_nothing(site: Site, service: TokenService, name: str) -> None:
    service.bundle.parent.joinpath("other").mkdir()
    await publish(site, service)
    before = await site.everything()
    token = FORGED[name](service)
    path = TIMESTAMP.removeprefix("/").encode()
    for method in (b"GET /" + path, b"DELETE /" + path.removesuffix(b"timestamp.json")):
        head = b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer "
        status, answer = await site.raw(method + head + token.encode() + b"\r\n\r\n")
        assert status == 401, name
        assert 'Bearer realm="' in answer
    assert await site.everything() == before


async def test_the_forgers_tools_make_good_tokens_too(site: Site, service: TokenService) -> None:
    """Else the tokens above would be refused for the forger's own faults."""
    await publish(site, service)
    for token in (
        _claims(service),
        _headed(service, {}),
        _headed(service, {"kid": kid(service.root_key)}),
    ):
        assert (await ask(site, "GET", TIMESTAMP, token)).status == 200


async def test_a_web_page_may_not_write_with_a_token_either(
    site: Site, service: TokenService
) -> None:
    headers = bearer(service.token(EVERYTHING)) | {"Origin": "https://evil.example"}
    response = await site.client.session.delete(site.url(""), headers=headers)
    assert (response.status, (await response.json())["code"]) == (403, "cross-origin")


async def test_a_token_ends_by_the_servers_clock(site: Site, service: TokenService) -> None:
    await publish(site, service)
    token = service.token(EVERYTHING)
    assert (await ask(site, "GET", TIMESTAMP, token)).status == 200
    site.clock.now += timedelta(seconds=400)
    assert (await ask(site, "GET", TIMESTAMP, token)).status == 401


class TestAutoRedirect:
    @pytest.fixture
    def settings(self, service: TokenService) -> Settings:
        roots = (service.root,)
        return Settings(auth=TokenAuth(REALM, SERVICE, ISSUER, roots, auto_redirect=True))

    async def test_the_realm_is_at_the_host_that_was_asked(self, site: Site) -> None:
        for host, realm in (
            ("trust.example:4443", "https://trust.example:4443/auth/token"),
            ('x",scope="y', REALM),
        ):
            head = f"GET /v2/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            _, answer = await site.raw(head.encode())
            assert f'realm="{realm}",service=' in answer


def _file(folder: Path, auth: dict[str, str], more: str = "") -> Path:
    lines = "\n".join(f'{name} = "{value}"' for name, value in auth.items())
    path = folder / "server.toml"
    path.write_text(f'[server]\nlisten = "0.0.0.0:1"\n{more}\n[auth]\n{lines}\n')
    return path


def test_a_token_service_opens_the_server_to_others(tmp_path: Path, service: TokenService) -> None:
    path = _file(tmp_path, service.settings() | {"root_cert_bundle": "auth.pem"})
    auth = load_settings(path, {"TABELLION_AUTH__AUTO_REDIRECT": "true"}).auth
    assert auth == TokenAuth(REALM, SERVICE, ISSUER, (service.root,), auto_redirect=True)


def test_write_token_and_token_service_exclude_each_other(
    tmp_path: Path, service: TokenService
) -> None:
    (tmp_path / "t").write_text("x" * 32)
    (tmp_path / "t").chmod(0o600)
    path = _file(tmp_path, service.settings(), 'write_token_file = "t"')
    with pytest.raises(ConfigurationError, match="give one of the two"):
        load_settings(path, {})


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"type": "htpasswd"}, "auth.type: "),
        ({"realm": "auth.example"}, "auth.realm: "),
        ({"realm": "https://a/b c"}, "auth.realm: "),
        ({"root_cert_bundle": "none.pem"}, "auth.root_cert_bundle: .*can't be read"),
        ({"root_cert_bundle": "server.toml"}, "auth.root_cert_bundle: .*isn't a PEM"),
        ({"auto_redirect": "maybe"}, "auth.auto_redirect: give true or false"),
        ({"issuer": None}, "needs issuer, too"),
    ],
)
def test_a_fault_of_the_auth_section_is_told(
    tmp_path: Path, service: TokenService, change: dict[str, str | None], fault: str
) -> None:
    auth = service.settings() | change
    path = _file(tmp_path, {name: value for name, value in auth.items() if value is not None})
    with pytest.raises(ConfigurationError, match=fault):
        load_settings(path, {})
