"""The servers the other tests compare: both run, and the real one's database can be read."""

from __future__ import annotations

import json

import pytest

from notary_forge import WEAK, NotaryForge, NotarySigner, weak_root
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


@pytest.mark.parametrize("kind", WEAK)
def test_both_servers_refuse_a_root_with_a_weak_certificate(
    real_notary: RealNotary, our_notary: NotaryServer, kind: str
) -> None:
    """First or later; MD5, which the real one overlooks, ours refuses as it does SHA-1."""
    answers = []
    for server in (real_notary, our_notary):
        gun = f"weak.example/{kind}"
        keys = [
            json.loads(server.get(f"/v2/{gun}/_trust/tuf/{role}.key")[1])
            for role in ("timestamp", "snapshot")
        ]
        weak = NotaryForge(gun, *keys, [NotarySigner.of(*weak_root(kind, gun))])
        is_overlooked = kind == "md5" and server is real_notary
        first = server.publish(gun, weak.first())
        assert first[0] == (200 if is_overlooked else 400)
        path = f"/v2/{gun}/_trust/tuf/root.json"
        assert server.get(path)[0] == (200 if is_overlooked else 404)
        if is_overlooked:
            continue
        good = NotaryForge(gun, *keys, [NotarySigner.root(gun)], targets=weak.targets)
        assert server.publish(gun, good.first())[0] == 200
        held = server.get(path)
        by = [*weak.root_signers, *good.root_signers]
        later = server.publish(gun, {"root": weak.root(2, by=by)})
        assert later[0] == 400
        assert server.get(path) == held
        answers += [first, later]
    assert len(set(answers)) == 1, answers
