"""A delegation that its owner left under its threshold at a real notary-server is revived."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

import publisher_process
from integration import engines
from notary_servers import RealNotary
from tabellion.core.dialect import NOTARY
from tabellion.core.names import Digest
from tabellion.core.publication import UploadedFile
from tabellion.errors import TabellionError
from tabellion.publish.passphrases import Passphrases
from tabellion.publish.publisher import Publisher
from tabellion.verify.client import TrustClient

pytestmark = [pytest.mark.system, pytest.mark.timeout(170)]

GUN = "registry.example/team/witness"


async def test_a_witness_revives_a_delegation_under_its_threshold(
    real_notary: RealNotary, tmp_path: Path
) -> None:
    engines.need("notary")
    trust = TrustClient(real_notary.url, home=tmp_path, ca=real_notary.ca, first_use=True)
    publisher = Publisher(
        real_notary.url,
        home=tmp_path,
        trust=trust,
        passphrases=Passphrases(environ=publisher_process.PASSPHRASES),
        ca=real_notary.ca,
    )
    async with trust, publisher:
        await publisher.init(GUN, dialect=NOTARY)
        secret = publisher_process.PASSPHRASES["TABELLION_SIGNER_PASSPHRASE"]
        alice, carol = (
            publisher._keystore.generate("signer", passphrase=secret, keytype="ecdsa", name=name)
            for name in ("alice", "carol")
        )
        await publisher.add_signer(GUN, "alice", [alice.key])
        await publisher.sign(GUN, "1", Digest.of(b"1"), 1, role="alice")
        # As notary's own client does it: other keys, and what they should have signed stays.
        current = await publisher._reader.read(GUN)
        targets = copy.deepcopy(current.roles["targets"].signed)
        assert targets.delegations is not None
        assert targets.delegations.roles is not None
        key = NOTARY.adopt_key(carol.key)
        targets.delegations.keys[key.keyid] = key
        targets.delegations.roles["targets/alice"].keyids = [key.keyid]
        targets.version += 1
        keys, entry = current.root.keys, current.root.roles["targets"]
        signers = publisher._ring.open(NOTARY, keys, entry.keyids, at_most=1)
        await publisher._api.upload(GUN, [UploadedFile("targets", NOTARY.sign(targets, signers))])
        with pytest.raises(TabellionError):
            await trust.target(GUN, "1")
        done = await publisher.witness(GUN, ["targets/alice"])
        assert done.versions == {"targets/alice": 2}
        assert (await publisher.status(GUN)).versions["targets/alice"] == 2
        match = await trust.target(GUN, "1")
        assert match.target.hashes["sha256"] == Digest.of(b"1").hex
