from __future__ import annotations

import hashlib

import pytest

from http_site import Site, signed
from tabellion.core.roles import key_material
from tabellion_server.services import publishing
from tabellion_server.settings import Address, Settings


@pytest.fixture
def settings() -> Settings:
    return Settings(listen=(Address("0.0.0.0", 0),))  # noqa: S104  (only told, never bound)


async def test_example_keys_are_refused_where_others_can_reach_the_server(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge = await site.forge()
    example = forge.signers["root"][0].public_key
    known = frozenset({hashlib.sha256(key_material(example)).hexdigest()})
    monkeypatch.setattr(publishing, "EXAMPLE_KEYS", known)
    before = await site.everything()
    response = await site.post(signed(forge, "root", "targets"))
    problem = await response.json()
    assert (response.status, problem["rule"], problem["keyid"]) == (
        422,
        "example-key",
        example.keyid,
    )
    assert await site.everything() == before
