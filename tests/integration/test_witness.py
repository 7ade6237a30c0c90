"""Witnessing delegated roles as the notary client does, in both dialects: anew, but as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

import publisher_process
from integration.test_ceremonies import digest
from person import Person
from tabellion.cli.embedded import EmbeddedServer
from tabellion.core.dialect import NOTARY, TUF, Dialect
from tabellion.errors import KeyStoreError, UsageError

SECRET = publisher_process.PASSPHRASES["TABELLION_SIGNER_PASSPHRASE"]


@pytest.mark.parametrize("dialect", [TUF, NOTARY], ids=["tuf", "notary"])
async def test_signers_roles_are_witnessed_together_by_who_holds_their_keys(
    server: EmbeddedServer, gun: str, tmp_path: Path, dialect: Dialect
) -> None:
    roles = ["targets/alice", "targets/releases"] if dialect is NOTARY else ["alice", "releases"]
    async with Person(server.url, tmp_path / "owner") as owner:
        made = await owner.publisher.init(gun, dialect=dialect)
        async with Person(server.url, tmp_path / "alice", made.root) as alice:
            key = alice.keys.generate("signer", passphrase=SECRET, keytype="ecdsa", name="alice")
            await owner.publisher.add_signer(gun, "alice", [key.key])
            if dialect is TUF:
                await owner.publisher.add_signer(gun, "releases", [key.key])
            for role in ("alice",) if dialect is NOTARY else ("alice", "releases"):
                await alice.publisher.sign(gun, role, digest(role), 1, role=role)
            before = await alice.publisher._reader.read(gun)
            done = await alice.publisher.witness(gun, roles)
            assert done.attempts == 1
            assert done.versions == {role: before.version_of(role) + 1 for role in roles}
            after = await alice.publisher._reader.read(gun)
            for role in roles:
                old, new = before.roles[role].signed, after.roles[role].signed
                assert (new.targets, new.delegations) == (old.targets, old.delegations)
            # Staged, as notary has it by default, it's published with what else is.
            staged = await alice.publisher.witness(gun, roles, publish=False)
            assert staged.is_staged
            assert (await alice.publisher._reader.read(gun)).versions(roles) == done.versions
            assert (await alice.publisher.publish(gun)).versions == {
                role: version + 1 for role, version in done.versions.items()
            }
            at_last = await owner.version(gun, roles[0])
            # Neither who holds no key of one, nor one that nobody delegates to.
            for person, named, error in (
                (owner, roles[:1], KeyStoreError),
                (alice, [roles[0], "targets"], KeyStoreError),
                (alice, [roles[0], "targets/nobody"], UsageError),
            ):
                with pytest.raises(error):
                    await person.publisher.witness(gun, named)
            assert await owner.version(gun, roles[0]) == at_last
            assert await owner.digest(gun, "alice") == digest("alice").hex
