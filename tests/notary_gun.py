"""A Notary GUN made in memory, with verbs; its keys are ECDSA P-256 as the real CLIs make them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from tuf.api.metadata import Delegations, Role, Root, TargetFile, Targets

from notary_forge import weak_root
from tabellion.core.dialect import NOTARY
from tabellion.core.notary_keys import NotaryKey, NotarySigner
from tabellion.core.publication import CurrentSet, OnlineKeys, Publication, UploadedFile
from tabellion.core.release import next_snapshot, next_timestamp
from tabellion.core.transitions import judge_publication
from tabellion.core.trusted_set import TrustedSet

GUN = "registry.example/team/app"
NOW = datetime(2026, 11, 27, 12, 0, 0, tzinfo=UTC)
LATER = NOW + timedelta(days=100)


def new_signer() -> NotarySigner:
    private = ec.generate_private_key(ec.SECP256R1())
    return NotarySigner(private, NotaryKey.of(private.public_key()))


def certified(
    private: ec.EllipticCurvePrivateKey | None = None,
    *,
    name: str = GUN,
    begins: datetime = NOW - timedelta(days=1),
    ends: datetime = NOW + timedelta(days=3650),
) -> NotarySigner:
    """Make a root signer with a self-signed certificate."""
    private = private or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    key = NotaryKey.of_certificates(certificate.public_bytes(Encoding.PEM))
    return NotarySigner(private, key)


def weakly_certified(kind: str) -> NotarySigner:
    """Make a root signer whose certificate is weak, as ``notary_forge.WEAK`` names it."""
    private, pem = weak_root(kind, GUN, starts=NOW - timedelta(days=1))
    return NotarySigner(private, NotaryKey.of_certificates(pem))


def target(text: bytes = b"image") -> TargetFile:
    return TargetFile.from_data("x", text, ["sha256"])


class NotaryGun:
    """Payloads, signers and current files of one GUN."""

    def __init__(self, root_signer: NotarySigner | None = None) -> None:
        self.signers: dict[str, list[NotarySigner]] = {
            "root": [root_signer or certified()],
            **{role: [new_signer()] for role in ("targets", "snapshot", "timestamp")},
        }
        roles = {role: Role([], 1) for role in self.signers}
        self.root = Root(expires=LATER, roles=roles, keys={}, consistent_snapshot=False)
        for role, signers in self.signers.items():
            for signer in signers:
                self.root.add_key(signer.public_key, role)
        self.targets: dict[str, Targets] = {
            "targets": Targets(expires=LATER, delegations=Delegations({}, {}))
        }
        self.files: dict[str, bytes] = {}

    def delegate(
        self, name: str, *, paths: Sequence[str] = ("",), parent: str = "targets"
    ) -> NotarySigner:
        """Add a delegation with a new key, and an empty payload for it."""
        signer = new_signer()
        self.signers[name] = [signer]
        delegations = self.targets[parent].delegations
        assert delegations is not None
        assert delegations.roles is not None
        delegations.keys[signer.public_key.keyid] = signer.public_key
        delegations.roles[name] = NOTARY.delegated_role(
            name, [signer.public_key.keyid], 1, paths=paths
        )
        self.targets[name] = Targets(expires=LATER, delegations=Delegations({}, {}))
        return signer

    def sign(self, role: str) -> bytes:
        payload = self.root if role == "root" else self.targets[role]
        return NOTARY.sign(payload, self.signers[role])

    def release(self, *roles: str) -> dict[str, bytes]:
        """Sign roles (all by default), then snapshot and timestamp; gives the current files."""
        new = {role: self.sign(role) for role in roles or ("root", *self.targets)}
        return self.put(new)

    def put(self, new: Mapping[str, bytes], *, dropped: Sequence[str] = ()) -> dict[str, bytes]:
        """Make files current as the server would."""
        old = {
            role: NOTARY.parse(role, data, max_bytes=len(data)).signed
            for role, data in self.files.items()
        }
        self.files.update(new)
        snapshot: Any = next_snapshot(
            NOTARY,
            old.get("snapshot"),  # type: ignore[arg-type]
            {role: (1, data) for role, data in new.items() if role != "snapshot"},
            expires_at=LATER,
            dropped=dropped,
        )
        data = NOTARY.sign(snapshot, self.signers["snapshot"])
        timestamp = next_timestamp(
            NOTARY,
            old.get("timestamp"),  # type: ignore[arg-type]
            data,
            snapshot.version,
            expires_at=LATER,
        )
        self.files["snapshot"] = data
        self.files["timestamp"] = NOTARY.sign(timestamp, self.signers["timestamp"])
        return dict(self.files)

    def online(self, *roles: str) -> OnlineKeys:
        held = {
            role: [signer.public_key for signer in self.signers[role]]
            for role in roles or ("snapshot", "timestamp")
        }
        return OnlineKeys(held.get("snapshot", []), held.get("timestamp", []))

    def judge(
        self, upload: Mapping[str, bytes], *, online: OnlineKeys | None = None
    ) -> Publication:
        """Ask the server's rules about an upload."""
        current = CurrentSet.parse(self.files, NOTARY) if self.files else None
        return judge_publication(
            current,
            [UploadedFile(role, data) for role, data in upload.items()],
            gun=GUN,
            online=online or self.online(),
            now=NOW,
        )

    def trusted(self) -> TrustedSet:
        """Give a client that has read root, timestamp, snapshot and targets."""
        trusted = TrustedSet(self.files["root"], now=NOW, gun=GUN)
        trusted.finish_root()
        trusted.update_timestamp(self.files["timestamp"])
        trusted.update_snapshot(self.files["snapshot"])
        trusted.update_targets(self.files["targets"])
        return trusted
