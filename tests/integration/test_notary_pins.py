"""The real ``notary`` and our client with one ``config.json``: one verdict but where it's said."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage

import notary_forge
from integration import engines
from issuer import Issuer
from notary_forge import NotaryForge
from notary_gun import NOW, certified
from notary_script import Script
from notary_servers import NotaryServer
from tabellion import SyncTrustClient
from tabellion.core.notary_keys import NotarySigner
from tabellion.errors import TabellionError
from tabellion.transport.tls import tls_context
from tabellion.verify import load_notary_pinning

pytestmark = [pytest.mark.system, pytest.mark.timeout(170)]

WRONG = ["0" * 64]


@dataclass
class Published:
    """A GUN on the server, and who may pin it.

    Attributes:
        signer: Its root key.
        folder: Bundles and configurations.
    """

    gun: str
    signer: NotarySigner
    forge: NotaryForge
    folder: Path
    server: NotaryServer

    @property
    def id(self) -> str:
        return self.signer.public_key.computed_id

    def bundle(self, *certificates: x509.Certificate) -> str:
        """Write a bundle, and give its name beside the configuration."""
        name = f"{secrets.token_hex(4)}.pem"
        pem = b"".join(item.public_bytes(Encoding.PEM) for item in certificates)
        (self.folder / name).write_bytes(pem)
        return name

    def verdicts(self, pinning: dict[str, Any], user: str = "") -> tuple[bool, bool]:
        """Tell whether notary, and our client, take the GUN; both believe a first root."""
        user = user or secrets.token_hex(4)
        config = self.folder / f"{user}.json"
        config.write_text(json.dumps({"trust_pinning": pinning}))
        script = Script(self.server, self.folder, gun=self.gun)
        script.notary("-c", str(config), "list", self.gun, user=user, status=None)
        try:
            with SyncTrustClient(
                self.server.url,
                home=self.folder / user / "tabellion",
                ca=self.server.ca,
                first_use=True,
                trust_pinning=load_notary_pinning(config),
            ) as trust:
                trust.targets(self.gun)
        except TabellionError:
            return script.steps[0].status == 0, False
        return script.steps[0].status == 0, True

    def upload(self, files: dict[str, bytes]) -> None:
        """Publish without any client."""
        asyncio.run(_upload(self.server, self.gun, files))


async def _upload(server: NotaryServer, gun: str, files: dict[str, bytes]) -> None:
    form = aiohttp.FormData(quote_fields=False, default_to_multipart=True)
    for role, data in files.items():
        form.add_field("files", data, filename=role, content_type="application/octet-stream")
    connector = aiohttp.TCPConnector(ssl=tls_context(server.ca))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post(f"{server.url}/v2/{gun}/_trust/tuf/", data=form) as answer,
    ):
        assert answer.status == 200, await answer.text()


def publish(
    server: NotaryServer, folder: Path, make: Callable[[str], NotarySigner], prefix: str = "pins"
) -> Published:
    """Found a GUN whose root is signed as ``make`` says."""
    gun = f"registry.example/{prefix}/{secrets.token_hex(6)}"
    signer = make(gun)
    keys = {}
    for role in ("timestamp", "snapshot"):
        status, body = server.get(f"/v2/{gun}/_trust/tuf/{role}.key")
        assert status == 200
        keys[role] = json.loads(body)
    forge = NotaryForge(gun, keys["timestamp"], keys["snapshot"], [as_forged(signer)])
    found = Published(gun, signer, forge, folder, server)
    found.upload(forge.first())
    return found


def as_forged(signer: NotarySigner) -> notary_forge.NotarySigner:
    return notary_forge.NotarySigner(signer._private, signer.public_key.to_dict())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pins")


@pytest.fixture(scope="module")
def own(our_notary: NotaryServer, folder: Path) -> Published:
    """Give a GUN whose certificate is self-signed."""
    engines.need("notary")
    return publish(our_notary, folder, lambda gun: certified(name=gun))


AUTHORITY = Issuer()
OTHER = Issuer("other")
EXPIRED = Issuer(ends=NOW - timedelta(days=1))


@pytest.fixture(scope="module")
def issued(our_notary: NotaryServer, folder: Path) -> Published:
    """Give a GUN whose certificate the authority issued, over an intermediate."""
    engines.need("notary")
    between = Issuer("between", AUTHORITY)
    return publish(our_notary, folder, between.issue)


BY_KEY: dict[str, tuple[Callable[[Published], dict[str, Any]], bool]] = {
    "nothing said": (lambda _: {}, True),
    "first use disabled": (lambda _: {"disable_tofu": True}, False),
    "its certificate": (lambda own: {"certs": {own.gun: [*WRONG, own.id]}}, True),
    "its certificate, first use disabled": (
        lambda own: {"certs": {own.gun: [own.id]}, "disable_tofu": True},
        True,
    ),
    "another certificate": (lambda own: {"certs": {own.gun: WRONG}}, False),
    "an empty list": (lambda own: {"certs": {own.gun: []}}, False),
    "another GUN": (lambda own: {"certs": {own.gun + "2": WRONG}}, True),
    "another GUN, first use disabled": (
        lambda own: {"certs": {own.gun + "2": [own.id]}, "disable_tofu": True},
        False,
    ),
    "exact before pattern": (lambda own: {"certs": {own.gun: WRONG, "*": [own.id]}}, False),
    "pattern": (lambda own: {"certs": {"registry.example/*": [own.id]}}, True),
    "wrong pattern": (lambda own: {"certs": {own.gun + "*": WRONG}}, False),
    "pattern of longer names": (lambda own: {"certs": {own.gun + "2*": WRONG}}, True),
    "longest pattern right": (
        lambda own: {"certs": {"*": WRONG, "registry.example/pins/*": [own.id]}},
        True,
    ),
    "longest pattern wrong": (
        lambda own: {"certs": {"*": [own.id], "registry.example/pins/*": WRONG}},
        False,
    ),
    "certs before ca": (
        lambda own: {"certs": {"*": [own.id]}, "ca": {own.gun: own.bundle(OTHER.certificate)}},
        True,
    ),
    "an authority that didn't issue it": (
        lambda own: {"ca": {"": own.bundle(OTHER.certificate)}},
        False,
    ),
}

BY_AUTHORITY: dict[str, tuple[Callable[[Published], dict[str, Any]], bool]] = {
    "its authority": (lambda gun: {"ca": {"registry": gun.bundle(AUTHORITY.certificate)}}, True),
    "of several": (
        lambda gun: {"ca": {"": gun.bundle(OTHER.certificate, AUTHORITY.certificate)}},
        True,
    ),
    "longest prefix wrong": (
        lambda gun: {
            "ca": {
                "": gun.bundle(AUTHORITY.certificate),
                "registry.example/": gun.bundle(OTHER.certificate),
            }
        },
        False,
    ),
    "another prefix": (lambda gun: {"ca": {"other": gun.bundle(OTHER.certificate)}}, True),
    "expired": (lambda gun: {"ca": {"": gun.bundle(EXPIRED.certificate)}}, False),
    "expired and another": (
        lambda gun: {"ca": {"": gun.bundle(EXPIRED.certificate, OTHER.certificate)}},
        False,
    ),
    "no bundle there": (lambda _: {"ca": {"": "none.pem"}}, False),
}


@pytest.mark.parametrize("case", BY_KEY)
def test_pins_by_key_give_notarys_verdict(case: str, own: Published) -> None:
    pinning, expected = BY_KEY[case]
    assert own.verdicts(pinning(own)) == (expected, expected)


@pytest.mark.parametrize("case", BY_AUTHORITY)
def test_pins_by_authority_give_notarys_verdict(case: str, issued: Published) -> None:
    pinning, expected = BY_AUTHORITY[case]
    assert issued.verdicts(pinning(issued)) == (expected, expected)


@pytest.mark.parametrize(
    ("usages", "ends", "expected"),
    [
        ((Usage.SERVER_AUTH,), timedelta(days=999), (True, True)),
        ((Usage.CLIENT_AUTH,), timedelta(days=999), (False, False)),
        # Notary asks for a TLS server's certificate, which those that it makes itself aren't.
        ((Usage.CODE_SIGNING,), timedelta(days=999), (False, True)),
        ((), timedelta(hours=-1), (False, False)),
    ],
)
def test_what_a_certificate_has_to_be_good_for(
    usages: tuple[x509.ObjectIdentifier, ...],
    ends: timedelta,
    expected: tuple[bool, bool],
    our_notary: NotaryServer,
    tmp_path: Path,
) -> None:
    engines.need("notary")
    between = Issuer("between", AUTHORITY, ends=NOW + ends)
    gun = publish(our_notary, tmp_path, lambda name: between.issue(name, usages=usages))
    assert gun.verdicts({"ca": {"": gun.bundle(AUTHORITY.certificate)}}) == expected


def test_names_with_capitals_are_pinned_here_and_not_by_notary(
    our_notary: NotaryServer, tmp_path: Path
) -> None:
    engines.need("notary")
    gun = publish(our_notary, tmp_path, lambda name: certified(name=name), prefix="Pins")
    assert gun.verdicts({"certs": {gun.gun: WRONG}}) == (True, False)


def test_where_we_differ_it_is_said(own: Published) -> None:
    bare = {"certs": {own.gun: [own.signer.public_key.canonical_id]}}
    assert own.verdicts(bare) == (False, True)
    itself = own.signer.public_key.certificates[0]
    assert own.verdicts({"ca": {"": own.bundle(itself)}}) == (True, False)


def test_what_is_kept_and_what_follows_it_is_pinned_here_and_not_by_notary(
    our_notary: NotaryServer, tmp_path: Path
) -> None:
    engines.need("notary")
    gun = publish(our_notary, tmp_path, lambda name: certified(name=name))
    pins = {"certs": {gun.gun: [gun.id]}}
    assert gun.verdicts(pins, "reader") == (True, True)
    assert gun.verdicts({"certs": {gun.gun: WRONG}}, "reader") == (True, False)
    old, new = gun.forge.root_signers[0], certified(name=gun.gun)
    gun.forge.root_signers = [as_forged(new)]
    gun.upload({"root": gun.forge.root(2, by=[old, *gun.forge.root_signers])})
    assert gun.verdicts(pins, "reader") == (True, False)
    assert gun.verdicts(pins) == (False, False)
    pins["certs"][gun.gun].append(new.public_key.computed_id)
    assert gun.verdicts(pins, "reader") == (True, True)
    assert gun.verdicts(pins) == (True, True)
