"""What ``docker trust`` publishes, made here from the keys of a person's home.

It signs only what a command is about: a delegation without files of its roles, a role from the file
that the snapshot lists and the role's keys vouch for, at version 1 where there's none.

Spec: notary-v1 sections 9 and 11.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from securesystemslib.signer import Key
from tuf.api.metadata import Delegations, TargetFile, Targets

import publisher_process
from person import Person
from tabellion.core.dialect import NOTARY
from tabellion.core.notary_search import RELEASES
from tabellion.core.publication import UploadedFile
from tabellion.core.release import next_snapshot
from tabellion.core.roles import role_keys
from tabellion.publish.passphrases import Passphrases
from tabellion.publish.server_api import ServerApi
from tabellion.publish.signing import KeyRing
from tabellion.publish.state import Current, StateReader

LATER = timedelta(days=1095)


class DockerLike:
    """Somebody with docker alone."""

    def __init__(self, person: Person, url: str, gun: str) -> None:
        self.gun = gun
        self._person = person
        self._url = url
        self._ring = KeyRing(person.keys, Passphrases(environ=publisher_process.PASSPHRASES))

    async def delegate(self, signers: Mapping[str, Key]) -> None:
        """Let these sign and nobody else: ``docker trust signer add`` and ``remove``."""
        async with ServerApi(self._url) as api:
            current = await self._read(api)
            targets = copy.deepcopy(current.roles["targets"].signed)
            targets.delegations = delegations = Delegations({}, {})
            assert delegations.roles is not None
            keys = {name: NOTARY.adopt_key(key) for name, key in signers.items()}
            delegations.keys.update({key.keyid: key for key in keys.values()})
            releasing = [key.keyid for key in keys.values()]
            named = {f"targets/{name}": [key.keyid] for name, key in keys.items()}
            for role, keyids in {**named, **({RELEASES: releasing} if keys else {})}.items():
                delegations.roles[role] = NOTARY.delegated_role(role, keyids, 1, paths=[""])
            await self._upload(api, current, {"targets": targets})

    async def sign(self, name: str, tag: str) -> None:
        """Sign a tag as a signer: ``docker trust sign``."""
        async with ServerApi(self._url) as api:
            current = await self._read(api)
            payloads: dict[str, Targets] = {}
            for role in (f"targets/{name}", RELEASES):
                held = current.roles.get(role)
                payloads[role] = copy.deepcopy(held.signed) if held is not None else _empty()
                target = TargetFile.from_data(tag, tag.encode(), ["sha256"])
                payloads[role].targets[tag] = target
            await self._upload(api, current, payloads)

    async def _read(self, api: ServerApi) -> Current:
        return await StateReader(api, self._person.trust, self._person.home).read(self.gun)

    async def _upload(
        self, api: ServerApi, current: Current, payloads: Mapping[str, Targets]
    ) -> None:
        files: dict[str, tuple[int, bytes]] = {}
        for role, payload in payloads.items():
            delegator = current.root if role == "targets" else current.roles["targets"].signed
            payload.version += 1
            payload.expires = datetime.now(UTC) + LATER
            keys, entry = role_keys(delegator, role)
            signers = self._ring.open(NOTARY, keys, entry.keyids, at_most=1)
            files[role] = payload.version, NOTARY.sign(payload, signers)
        entry = current.root.roles["snapshot"]
        online = self._ring.open(NOTARY, current.root.keys, entry.keyids, at_most=1)
        upload = [UploadedFile(role, data) for role, (_, data) in files.items()]
        if online:
            assert current.trusted.snapshot is not None
            held = current.trusted.snapshot.signed
            snapshot = next_snapshot(NOTARY, held, files, expires_at=datetime.now(UTC) + LATER)
            upload.append(UploadedFile("snapshot", NOTARY.sign(snapshot, online)))
        await api.upload(current.gun, upload)


def _empty() -> Targets:
    made = Targets(expires=datetime.now(UTC), delegations=Delegations({}, {}))
    made.version = 0
    return made
