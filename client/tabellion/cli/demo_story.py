"""The story that ``tabellion demo`` tells: each step is done for real, by the library."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path

from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import Snapshot, Targets, Timestamp

from tabellion.cli.attacker import Mirror, steal_online_keys
from tabellion.cli.clients import publisher
from tabellion.cli.context import Settings
from tabellion.core.dialect import TUF
from tabellion.core.names import Digest, Gun
from tabellion.core.release import next_snapshot, next_timestamp
from tabellion.errors import (
    ExpiredMetadataError,
    MixAndMatchError,
    RollbackError,
    TabellionError,
    ThresholdError,
)
from tabellion.publish.passphrases import Passphrases
from tabellion.verify import TrustClient, VerifiedImage

GUN = Gun("demo.example/app")
_RELEASES = {"1.0": b"the bytes of release 1.0", "1.1": b"the bytes of release 1.1"}
_FAR = timedelta(days=3650)


class NotRefusedError(TabellionError):
    """An attack of the demo went through: a bug worth everybody's attention."""

    code = "demo-attack-not-refused"


class Story:
    """Six chapters; the mirror stays up afterwards for the listener's own trials.

    Attributes:
        passphrase: Of the demo's publisher keys.
        fingerprint: Of the root key.
    """

    def __init__(self, folder: Path, server: str, *, show: Callable[[str], None]) -> None:
        self.passphrase = secrets.token_hex(8)
        self.fingerprint = ""
        self._secrets = Passphrases(
            environ={
                f"TABELLION_{kind}_PASSPHRASE": self.passphrase
                for kind in ("ROOT", "TARGETS", "SIGNER")
            }
        )
        self._folder = folder
        self._server = server
        self._show = show
        self._mirror = Mirror(server)
        self._saved: dict[str, dict[str, bytes]] = {}

    @property
    def mirror_url(self) -> str:
        """Give the attacking mirror's address."""
        return self._mirror.url

    async def close(self) -> None:
        """Stop the mirror."""
        await self._mirror.stop()

    async def tell(self) -> None:
        """Tell all of it.

        Raises:
            NotRefusedError: An attack wasn't refused.
            TabellionError: Something else went wrong.
        """
        await self._mirror.start()
        self._show("Tabellion in a minute. All of this is real, and stays on this machine.\n")
        self._show(f"1. A trust server: {self._server}, its data in {self._folder}/server")
        await self._found()
        await self._release()
        await self._pull()
        await self._attack_with_a_mirror()
        await self._attack_with_a_key()

    def _settings(self, who: str) -> Settings:
        return Settings(
            home=self._folder / who,
            ca=None,
            root=None,
            root_key=None,
            first_use=False,
            trust_pinning=None,
            token=None,
            engine="docker",
            offline="deny",
            insecure_registries=(),
            configured_server=self._server,
        )

    def _puller(
        self, home: str, server: str, clock: Callable[[], datetime] | None = None
    ) -> TrustClient:
        return TrustClient(
            server,
            home=self._folder / home,
            root_fingerprint=self.fingerprint,
            clock=clock or (lambda: datetime.now(UTC)),
        )

    async def _found(self) -> None:
        self._show(f"\n2. A publisher makes keys and founds a collection (GUN), {GUN}")
        async with publisher(self._settings("publisher"), self._secrets) as author:
            founded = await author.init(GUN)
        self.fingerprint = founded.root_keys[0].fingerprint
        self._show(
            f"   root key    {self.fingerprint[:16]}...  its fingerprint is what pullers pin"
        )
        self._show(f"   targets key {founded.targets_keys[0].keyid[:16]}...  signs releases")
        self._show("   Both stay with the publisher, encrypted. The server has keys for freshness.")

    async def _release(self) -> None:
        self._show("\n3. The publisher signs two releases")
        for version, data in _RELEASES.items():
            digest = Digest.of(data)
            async with publisher(self._settings("publisher"), self._secrets) as author:
                await author.sign(GUN, version, digest, len(data))
            self._saved[version] = await self._save()
            self._show(f"   {GUN}:{version}  {digest}")

    async def _pull(self) -> None:
        self._show("\n4. Somebody who pulls verifies, knowing only the root key's fingerprint")
        for version in _RELEASES:
            async with self._puller("puller", self._server) as trust:
                image = await trust.verify(f"{GUN}:{version}")
            self._show(f"   {GUN}:{version}\n     verified: {image.digest}")

    async def _attack_with_a_mirror(self) -> None:
        self._show("\n5. A mirror between the two attacks")
        old, new = self._saved["1.0"], self._saved["1.1"]
        targets = next(name for name in new if name.endswith(".targets.json"))
        snapshot, old_snapshot = (
            next(name for name in files if name.endswith(".snapshot.json")) for files in (new, old)
        )
        good, bad = Digest.of(_RELEASES["1.1"]).hex, Digest.of(b"malware").hex
        await self._expect(
            "a changed digest: the targets file names malware",
            {targets: new[targets].replace(good.encode(), bad.encode())},
            MixAndMatchError,
            home="newcomer",
        )
        await self._expect(
            "a rolled back timestamp: release 1.1 never happened",
            {"timestamp.json": old["timestamp.json"]},
            RollbackError,
        )
        await self._expect(
            "a frozen timestamp: the same answer for a month (by a clock set ahead)",
            {"timestamp.json": new["timestamp.json"]},
            ExpiredMetadataError,
            ahead=timedelta(days=30),
        )
        await self._expect(
            "a snapshot mixed from two releases: 1.0's snapshot under 1.1's timestamp",
            {snapshot: old[old_snapshot]},
            MixAndMatchError,
            home="second newcomer",
        )

    async def _attack_with_a_key(self) -> None:
        self._show("\n6. An intruder signs a release with a key that isn't the publisher's")
        intruder = CryptoSigner.generate_ed25519()
        forged = self._forge(intruder, intruder, intruder)
        self._show("   offered to the server")
        status, answer = await self._mirror.offer(GUN, "targets", forged["targets"])
        if status < HTTPStatus.BAD_REQUEST:
            raise NotRefusedError("the server took a release signed with the wrong key")
        self._show(f"     refused: {status} {HTTPStatus(status).phrase}, {answer}")
        await self._expect("shown to the puller by the mirror", _shown(forged), ThresholdError)
        stolen = await steal_online_keys(self._folder / "server", GUN)
        forged = self._forge(intruder, stolen["snapshot"], stolen["timestamp"])
        await self._expect(
            "shown by the server itself: broken into, its snapshot and timestamp keys stolen",
            _shown(forged),
            ThresholdError,
        )
        self._mirror.replaced = {"timestamp.json": self._saved["1.0"]["timestamp.json"]}

    def _forge(
        self, targets_signer: Signer, snapshot_signer: Signer, timestamp_signer: Signer
    ) -> dict[str, bytes]:
        """Make the next release, wholly in order but for the keys."""
        signed = {
            content["_type"]: content
            for content in (json.loads(data)["signed"] for data in self._saved["1.1"].values())
        }
        targets = Targets.from_dict(signed["targets"])
        snapshot = Snapshot.from_dict(signed["snapshot"])
        timestamp = Timestamp.from_dict(signed["timestamp"])
        targets.version += 1
        targets.targets["1.1"].hashes["sha256"] = Digest.of(b"malware").hex
        data = TUF.sign(targets, [targets_signer])
        expires_at = datetime.now(UTC) + _FAR
        after = next_snapshot(
            TUF, snapshot, {"targets": (targets.version, data)}, expires_at=expires_at
        )
        snapshot_data = TUF.sign(after, [snapshot_signer])
        final = next_timestamp(TUF, timestamp, snapshot_data, after.version, expires_at=expires_at)
        return {
            "targets": data,
            "snapshot": snapshot_data,
            "timestamp": TUF.sign(final, [timestamp_signer]),
        }

    async def _expect(
        self,
        what: str,
        replaced: dict[str, bytes],
        error_type: type[TabellionError],
        *,
        home: str = "puller",
        ahead: timedelta = timedelta(0),
    ) -> None:
        self._show(f"   {what}")
        self._mirror.replaced = replaced
        try:
            image = await self._attempt(home, ahead)
        except error_type as error:
            self._show(f"     refused: {error.message}")
        else:
            raise NotRefusedError(f"{what}: {image.digest} was accepted", hint="report this bug")
        finally:
            self._mirror.replaced = {}

    def _attempt(self, home: str, ahead: timedelta) -> Awaitable[VerifiedImage]:
        async def attempt() -> VerifiedImage:
            clock = lambda: datetime.now(UTC) + ahead  # noqa: E731  # one line says it
            async with self._puller(home, self._mirror.url, clock) as trust:
                return await trust.verify(f"{GUN}:1.1")

        return attempt()

    async def _save(self) -> dict[str, bytes]:
        """Keep what the server shows now, as any mirror could."""
        timestamp = await self._mirror.saved(GUN, "timestamp.json")
        version = json.loads(timestamp)["signed"]["meta"]["snapshot.json"]["version"]
        snapshot = await self._mirror.saved(GUN, f"{version}.snapshot.json")
        targets = json.loads(snapshot)["signed"]["meta"]["targets.json"]["version"]
        return {
            "timestamp.json": timestamp,
            f"{version}.snapshot.json": snapshot,
            f"{targets}.targets.json": await self._mirror.saved(GUN, f"{targets}.targets.json"),
        }


def _shown(forged: dict[str, bytes]) -> dict[str, bytes]:
    """Name forged files as a server would."""
    return {
        "timestamp.json": forged["timestamp"],
        f"{_version(forged['snapshot'])}.snapshot.json": forged["snapshot"],
        f"{_version(forged['targets'])}.targets.json": forged["targets"],
    }


def _version(data: bytes) -> int:
    return int(json.loads(data)["signed"]["version"])
