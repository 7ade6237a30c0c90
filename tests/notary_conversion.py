"""The conversion of a Notary GUN made in memory, signed by whom a test says."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey
from tuf.api.metadata import Root, TargetFile, Targets

from http_site import Site
from notary_gun import GUN, LATER, NOW, NotaryGun, target
from tabellion.core.dialect import NOTARY, TUF
from tabellion.core.notary_keys import NotaryKey, NotarySigner
from tabellion.core.notary_search import RELEASES
from tabellion.core.publication import CurrentSet, OnlineKeys, Publication, UploadedFile
from tabellion.core.release import next_snapshot, next_timestamp
from tabellion.core.roles import delegated_roles
from tabellion.core.search import find_target, walk_roles
from tabellion.core.transitions import judge_publication
from tabellion.core.trusted_set import TrustedSet
from tabellion.publish.conversion_plan import ConversionPlan, plan_conversion
from tabellion.publish.state import Current


def plain(signer: NotarySigner) -> CryptoSigner:
    """Give the same key as TUF knows it."""
    return CryptoSigner(signer._private, cast("SSlibKey", TUF.adopt_key(signer.public_key)))


def drive(trusted: TrustedSet, files: Mapping[str, bytes], search: Any) -> Any:
    """Run a search over files in memory."""
    while True:
        try:
            request = next(search)
        except StopIteration as stop:
            return stop.value
        trusted.update_targets(files[request.role], request.role, request.delegator)


def current_of(gun: NotaryGun) -> Current:
    trusted = gun.trusted()
    found = drive(trusted, gun.files, walk_roles(trusted))
    delegators = {"targets": "root"}
    for item in found:
        delegators |= {child.name: item.role for child in delegated_roles(item.signed)}
    return Current(GUN, trusted, {item.role: item for item in found}, delegators)


class Conversion:
    """What an owner would upload; a test may change it before ``files``."""

    def __init__(self, gun: NotaryGun, *, vouch: Collection[str] = ()) -> None:
        self.gun = gun
        current = current_of(gun)
        self.plan: ConversionPlan = plan_conversion(current, vouch=vouch)
        self.online = {role: CryptoSigner.generate_ed25519() for role in ("snapshot", "timestamp")}
        self.root: Root = self.plan.root(
            {role: signer.public_key for role, signer in self.online.items()}
        )
        self.root.version = gun.root.version + 1
        self.root.expires = LATER
        self.payloads: dict[str, Targets] = {}
        self.signers: dict[str, Sequence[Signer]] = {
            "root": [plain(signer) for signer in gun.signers["root"]]
        }
        for name, role in self.plan.roles.items():
            role.payload.expires = LATER
            self.payloads[name] = role.payload
            self.signers[name] = [plain(signer) for signer in gun.signers[role.was]]
        self.witnesses = {role: gun.files[role] for role in self.plan.left_out if role in gun.files}

    def files(self) -> dict[str, bytes]:
        made = {"root": TUF.sign(self.root, self.signers["root"])}
        for name, payload in self.payloads.items():
            made[name] = TUF.sign(payload, self.signers[name])
        return made | self.witnesses

    @property
    def keys(self) -> OnlineKeys:
        held: dict[str, list[Key]] = {
            role: [signer.public_key] for role, signer in self.online.items()
        }
        return OnlineKeys(held["snapshot"], held["timestamp"])

    def judge(
        self, upload: Mapping[str, bytes], *, current: Mapping[str, bytes] | None = None
    ) -> Publication:
        """Ask the server's rules about it."""
        return judge_publication(
            CurrentSet.parse(current or self.gun.files, NOTARY),
            [UploadedFile(role, data) for role, data in upload.items()],
            gun=GUN,
            online=self.keys,
            now=NOW,
        )

    def serve(self) -> dict[str, bytes]:
        """Give what a server would serve then, by role."""
        upload = self.files()
        files = {role: data for role, data in upload.items() if role not in self.witnesses}
        judged = self.judge(upload)
        old: Any = NOTARY.parse("snapshot", self.gun.files["snapshot"], max_bytes=10**6).signed
        roles = {role: (item.version, item.data) for role, item in judged.targets.items()}
        snapshot = next_snapshot(TUF, old, roles, expires_at=LATER, dropped=judged.dropped)
        data = TUF.sign(snapshot, [self.online["snapshot"]])
        older: Any = NOTARY.parse("timestamp", self.gun.files["timestamp"], max_bytes=10**6).signed
        timestamp = next_timestamp(TUF, older, data, snapshot.version, expires_at=LATER)
        return files | {
            "snapshot": data,
            "timestamp": TUF.sign(timestamp, [self.online["timestamp"]]),
        }


def answer(trusted: TrustedSet, files: Mapping[str, bytes], path: str) -> TargetFile | None:
    """Search as ``verify`` does."""
    match = drive(trusted, files, find_target(trusted, path))
    return match.target if match is not None else None


def converted_set(gun: NotaryGun, files: Mapping[str, bytes]) -> TrustedSet:
    """Give a reader who followed from the Notary root."""
    trusted = TrustedSet(gun.files["root"], now=NOW, gun=GUN)
    trusted.update_root(files["root"])
    trusted.finish_root()
    trusted.update_timestamp(files["timestamp"])
    trusted.update_snapshot(files["snapshot"])
    trusted.update_targets(files["targets"])
    return trusted


async def published(site: Site) -> NotaryGun:
    """Publish a Notary GUN that names the server's keys."""
    site.clock.now = NOW
    gun = NotaryGun()
    for role in ("snapshot", "timestamp"):
        fields = await (await site.get(f"{role}.key")).json()
        gun.root.revoke_key(gun.root.roles[role].keyids[0], role)
        gun.root.add_key(NotaryKey.from_dict(fields.pop("keyid"), fields), role)
    gun.targets["targets"].targets["1.0"] = target()
    gun.delegate(RELEASES)
    files = {role: gun.sign(role) for role in ("root", *gun.targets)}
    answer = await site.post(files)
    assert answer.status == 200, await answer.text()
    gun.files = files
    for role in ("snapshot", "timestamp"):
        gun.files[role] = await site.body(f"{role}.json")
    return gun
