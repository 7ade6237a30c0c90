"""The servers the other tests compare: both run, and the real one's database can be read."""

from __future__ import annotations

import pytest

from notary_servers import NotaryServer, RealNotary

pytestmark = [pytest.mark.system, pytest.mark.timeout(170)]


def test_both_servers_answer_an_unknown_gun_alike(
    real_notary: RealNotary, our_notary: NotaryServer
) -> None:
    for path in ("/v2/", "/v2/never/heard/_trust/tuf/root.json", "/_notary_server/health"):
        assert our_notary.get(path) == real_notary.get(path), path


def test_the_keys_the_real_server_makes_are_in_a_dump_of_its_signer(
    real_notary: RealNotary,
) -> None:
    assert real_notary.get("/v2/dumped/gun/_trust/tuf/timestamp.key")[0] == 200
    assert "PBES2-HS256+A128KW" in real_notary.dump("signer")
    assert "COPY public.tuf_files" in real_notary.dump("server")
