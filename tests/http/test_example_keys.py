from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner

from http_site import Site, signed
from tabellion_server.settings import Address, Settings

EXAMPLES = Path(__file__).parents[2] / "keys-example"


@pytest.fixture(params=["0.0.0.0", "127.0.0.1"])  # noqa: S104  (only told, never bound)
def settings(request: pytest.FixtureRequest) -> Settings:
    return Settings(listen=(Address(request.param, 0),))


@pytest.mark.parametrize("name", ["root", "targets"])
async def test_example_keys_are_refused_where_others_can_reach_the_server(
    site: Site, settings: Settings, name: str
) -> None:
    forge = await site.forge()
    example = CryptoSigner(load_pem_private_key((EXAMPLES / f"{name}.pem").read_bytes(), None))
    forge.root.revoke_key(forge.root.roles[name].keyids[0], name)
    forge.root.add_key(example.public_key, name)
    forge.signers[name] = [example]
    before = await site.everything()
    response = await site.post(signed(forge, "root", "targets"))
    if settings.is_loopback_only:
        assert response.status == 200
        return
    problem = await response.json()
    assert (response.status, problem["rule"]) == (422, "example-key")
    assert problem["keyid"] == example.public_key.keyid
    assert await site.everything() == before
