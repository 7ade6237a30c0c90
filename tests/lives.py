"""A GUN's honest people, its server and a thief, in memory: what random lives are made of.

Every file that anybody signs is registered with its payload and who signed it, so that a model can
judge it without reading bytes or checking signatures.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import Delegations, Role, Root, Signed, Snapshot, Targets, Timestamp

from forge import NOW, target
from notary_forge import NotarySigner
from tabellion.core.dialect import NOTARY, TUF, Dialect
from tabellion.core.publication import CurrentSet, OnlineKeys, Publication, UploadedFile
from tabellion.core.release import next_snapshot, next_timestamp
from tabellion.core.transitions import judge_publication

GUN = "registry.example/team/app"
PATHS = ("top-1", "alice-1", "bob-1")
EVIL = b"evil"
ONLINE = ("snapshot", "timestamp")
_LIVES = {"root": 3650, "snapshot": 90, "timestamp": 14}  # days; a targets role's is 1000
_SIGNERS = {TUF: ("alice", "bob"), NOTARY: ("targets/alice", "targets/releases")}


@functools.cache
def key(dialect: Dialect, kind: str, _number: int) -> Signer:
    """Give the same key to every life: making one takes longer than using it."""
    if dialect is TUF:
        return CryptoSigner.generate_ed25519()
    made = NotarySigner.ecdsa()
    if kind == "root":
        century = {"starts": NOW - timedelta(days=1), "ends": NOW + timedelta(days=36500)}
        made = NotarySigner.root(GUN, ec.generate_private_key(ec.SECP256R1()), **century)
    return NOTARY.signer(made.private, NOTARY.parse_key(made.keyid, made.key))


def _unsigned(**more: Any) -> Targets:
    """Give targets that were never signed: the first time makes them version 1."""
    payload = Targets(expires=NOW, **more)
    payload.version = 0
    return payload


@dataclass(frozen=True)
class File:
    """What was signed, and by which keys."""

    role: str
    data: bytes
    payload: Any
    signers: frozenset[str]

    @property
    def version(self) -> int:
        return int(self.payload.version)


@dataclass
class Served:
    """A server's disk: role to current file, name to every file."""

    current: dict[str, bytes] = field(default_factory=dict)
    names: dict[str, bytes] = field(default_factory=dict)
    uploads: int = 0

    def copy(self) -> Served:
        return Served(dict(self.current), dict(self.names), self.uploads)


class World:
    """Honest people at one place; each verb is one publication, judged as the server does."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.now = NOW
        self.files: dict[bytes, File] = {}
        self.served = Served()
        self.published: set[bytes] = set()
        self.uploads: list[list[UploadedFile]] = []
        self.retired: list[Signer] = []
        self.behind = False
        self.skip = 0
        self._made = 0
        self._newest = dict.fromkeys(ONLINE, 0)
        self._online: dict[str, list[Signer]] = {role: [] for role in ONLINE}  # none is deleted
        self.held = {role: [self.new_key(role)] for role in ("root", "targets", *ONLINE)}
        self.root = Root(
            expires=NOW,
            roles={role: Role([], 1) for role in self.held},
            keys={},
            consistent_snapshot=dialect is TUF,
        )
        for role, signers in self.held.items():
            self.root.add_key(signers[0].public_key, role)
        self.targets = _unsigned(delegations=Delegations({}, {}))
        self.delegated: dict[str, Targets] = {}
        files = [self.sign_root(self.held["root"]), self.sign_targets("targets")]
        self.first_root = files[0].data
        self.publish(files)

    def new_key(self, kind: str) -> Signer:
        self._made += 1
        made = key(self.dialect, kind, self._made)
        if kind in ONLINE:
            self._online[kind].append(made)
        return made

    @property
    def delegations(self) -> dict[str, Any]:
        assert self.targets.delegations is not None
        assert self.targets.delegations.roles is not None
        return self.targets.delegations.roles

    @property
    def names_of_signers(self) -> tuple[str, ...]:
        return _SIGNERS[self.dialect]

    def file(self, role: str) -> File:
        """Give what is served of a role."""
        return self.files[self.served.current[role]]

    def sign(self, role: str, payload: Signed, signers: Iterable[Signer]) -> UploadedFile:
        """Sign, and register, any payload of anybody."""
        by = list({signer.public_key.keyid: signer for signer in signers}.values())
        data = self.dialect.sign(payload, by)
        keyids = frozenset(signer.public_key.keyid for signer in by)
        self.files[data] = File(role, data, copy.deepcopy(payload), keyids)
        return UploadedFile(role, data)

    def sign_root(self, signers: Iterable[Signer]) -> UploadedFile:
        self.root.expires = self._expiry("root")
        return self.sign("root", self.root, signers)

    def sign_targets(self, role: str) -> UploadedFile:
        """Sign a targets role's next version with all of its keys."""
        payload = self.targets if role == "targets" else self.delegated[role]
        payload.version += 1
        payload.expires = self._expiry(role)
        return self.sign(role, payload, self.held[role])

    def _expiry(self, role: str) -> datetime:
        return self.now + timedelta(days=_LIVES.get(role, 1000))

    # What the owner does

    def rotate(self, rng: Random, *roles: str) -> None:
        """Publish a root with new keys of some roles; for the root also another threshold."""
        files = [self._next_root(rng, roles)]
        if "targets" in roles:
            files.append(self.sign_targets("targets"))
        self.publish(files)

    def lose_half_a_ceremony(self) -> None:
        """Sign a next root, with new keys, by the old ones only; nobody publishes it."""
        before = copy.deepcopy(self.root), dict(self.held), list(self.retired)
        old = self.held["root"]
        self.root.version += 1
        new = self.new_key("root")
        self._replace("root", old, [new])
        self.root.roles["root"].threshold = 1
        self.sign_root(old)
        self.root, self.held, self.retired = before

    def _next_root(self, rng: Random, roles: Sequence[str]) -> UploadedFile:
        entry = self.root.roles["root"]
        signers = rng.sample(self.held["root"], entry.threshold)
        self.root.version += 1
        for role in roles:
            if role != "root":
                self._replace(role, self.held[role], [self.new_key(role)])
        if "root" in roles:
            held = self.held["root"]
            gone = rng.sample(held, rng.randint(len(held) // 2, len(held)))
            size = rng.randint(1, 4)
            added = [self.new_key("root") for _ in range(max(size - len(held) + len(gone), 1))]
            self._replace("root", gone, added)
            self.root.roles["root"].threshold = rng.randint(1, min(3, len(self.held["root"])))
        new = rng.sample(self.held["root"], self.root.roles["root"].threshold)
        return self.sign_root([*signers, *new])

    def _replace(self, role: str, gone: Sequence[Signer], added: Sequence[Signer]) -> None:
        self.retired.extend(gone)
        self.held[role] = [item for item in self.held[role] if item not in gone] + [*added]
        for item in added:
            self.root.add_key(item.public_key, role)
        for item in gone:
            self.root.revoke_key(item.public_key.keyid, role)

    def release(self, rng: Random, role: str, *, lost: bool = False) -> None:
        """Have a role sign or revoke a target; lost, it never reaches the server."""
        kept = copy.deepcopy((self.targets, self.delegated))
        payload = self.targets if role == "targets" else self.delegated[role]
        paths = [path for path in PATHS if self._reaches(role, path)]
        if not paths:
            return
        path = rng.choice(paths)
        if path in payload.targets and rng.random() < 0.3:
            del payload.targets[path]
        else:
            payload.targets[path] = target(b"%d" % rng.randrange(1000), path)
        files = [self.sign_targets(role)]
        if lost:
            self.targets, self.delegated = kept
        else:
            self.publish(files)

    def _reaches(self, role: str, path: str) -> bool:
        """Tell whether a search that finds a path nowhere else comes to a role."""
        for name, entry in self.delegations.items() if role != "targets" else ():
            if entry.is_delegated_path(path):
                if name == role:
                    return True
                if entry.terminating:
                    return False
        return role == "targets"

    def set_signer(self, rng: Random, name: str) -> None:
        """Let somebody sign, or give that signer other keys, paths and a threshold."""
        self.retired.extend(self.held.get(name, ()))
        self.held[name] = [self.new_key("signer") for _ in range(rng.randint(1, 2))]
        paths = rng.choice((["*"], [f"{name}-*"], ["alice-*", "bob-*"]))
        if self.dialect is NOTARY:
            paths = [path.removesuffix("*").removeprefix("targets/") for path in paths]
        self._forget(name)
        entry = self.dialect.delegated_role(
            *(name, [], 1 if self.dialect is NOTARY else len(self.held[name])),
            paths=paths,
            terminating=rng.random() < 0.3,
        )
        self.delegations[name] = entry
        for signer in self.held[name]:
            self.targets.add_key(signer.public_key, name)
        held = self.delegated.setdefault(name, _unsigned())
        held.targets = {}
        self.publish([self.sign_targets("targets"), self.sign_targets(name)])

    def witness(self) -> None:
        """Sign anew what has expired, as it is."""
        if self.root.expires <= self.now:
            self.root.version += 1
            self.publish([self.sign_root(self.held["root"])])
        roles = {"targets": self.targets} | {
            name: self.delegated[name] for name in self.delegations
        }
        expired = [role for role, payload in roles.items() if payload.expires <= self.now]
        if expired:
            self.publish([self.sign_targets(role) for role in expired])

    def remove_signer(self, name: str) -> None:
        self.retired.extend(self.held.pop(name))
        self._forget(name)
        self.publish([self.sign_targets("targets")])

    def _forget(self, name: str) -> None:
        entry = self.delegations.get(name)
        for keyid in list(entry.keyids) if entry is not None else ():
            self.targets.revoke_key(keyid, name)
        self.delegations.pop(name, None)

    def publish(self, files: list[UploadedFile]) -> None:
        """Publish, together with what else would have expired by now."""
        roles = {item.role for item in files}
        if "root" not in roles and self.root.expires <= self.now:
            self.root.version += 1
            files = [self.sign_root(self.held["root"]), *files]
        self.uploads.append(files)
        self._store(self.judge(files))

    # What the server does

    def judge(self, upload: Sequence[UploadedFile], *, may_lack: bool = False) -> Publication:
        current = CurrentSet.parse(self.served.current, self.dialect)
        keys = ([signer.public_key for signer in self._online[role]] for role in ONLINE)
        return judge_publication(
            current if self.served.current else None,
            upload,
            gun=GUN,
            online=OnlineKeys(*keys),
            now=self.now,
            may_lack=may_lack,
        )

    def _store(self, done: Publication) -> None:
        files = {item.role: item.data for item in done.targets.values()}
        for root in done.roots:
            self.served.names[self.dialect.file_name("root", root.version)] = root.data
            self.served.current["root"] = root.data
            self.published.add(root.data)
        if self.dialect.lists_root and done.roots:
            files["root"] = done.roots[-1].data
        self.served.uploads = len(self.uploads)
        self._sign_online(files, dropped=done.dropped, anew=done.needs_snapshot)

    def _sign_online(
        self, files: Mapping[str, bytes], *, dropped: Iterable[str] = (), anew: bool = True
    ) -> None:
        held = {role: self.files[data] for role, data in self.served.current.items()}
        if anew or self.skip:
            self._keep_online(
                next_snapshot(
                    self.dialect,
                    held["snapshot"].payload if "snapshot" in held else None,
                    {role: (self.files[data].version, data) for role, data in files.items()},
                    expires_at=self._expiry("snapshot"),
                    dropped=list(dropped),
                    skip=self.skip,
                )
            )
        for role, data in files.items():
            self._keep(role, data)
        snapshot = self.file("snapshot")
        self._keep_online(
            next_timestamp(
                self.dialect,
                held["timestamp"].payload if "timestamp" in held else None,
                *(snapshot.data, snapshot.version),
                expires_at=self._expiry("timestamp"),
                skip=self.skip,
            )
        )
        self.skip = 0

    def _keep_online(self, payload: Snapshot | Timestamp) -> None:
        role = "snapshot" if isinstance(payload, Snapshot) else "timestamp"
        self._newest[role] = max(self._newest[role], payload.version)
        wanted = self.file("root").payload.roles[role].keyids
        signers = [item for item in self._online[role] if item.public_key.keyid in wanted]
        self._keep(role, self.sign(role, payload, signers).data)

    def _keep(self, role: str, data: bytes) -> None:
        self.served.current[role] = data
        self.published.add(data)
        if role != "root":
            self.served.names[self.name_of(role, data)] = data

    def name_of(self, role: str, data: bytes) -> str:
        """Give the name that clients ask for a file by."""
        if role == "timestamp":
            return "timestamp.json"
        version = self.files[data].version
        if role == "root":
            return self.dialect.file_name("root", version)
        return self.dialect.named_file(role, self.dialect.meta(version, data), root=self.root)

    def refresh(self) -> None:
        """Sign anew what is the server's and has expired, as it does when somebody asks."""
        expired = [role for role in ONLINE if self.file(role).payload.expires <= self.now]
        if expired or self.skip:
            self._sign_online({}, anew="snapshot" in expired)

    def restore(self, backup: Served) -> None:
        """Put a backup in the place of the disk; nobody has noticed yet."""
        self.served = backup.copy()
        self.behind = self.served.uploads < len(self.uploads)

    def bring_back(self, rng: Random) -> None:
        """Accept it: pass over versions that may have been seen, and publish what was lost."""
        newest = (self._newest[role] - self.file(role).version for role in ONLINE)
        self.skip = max(newest)
        lost = self.uploads[self.served.uploads :]
        if self.dialect is TUF and lost:
            # In one: all roots, and of each role there is now the last file, built on what is lost.
            roots = [item for files in lost for item in files if item.role == "root"]
            last = {item.role: item for files in lost for item in files}
            now = {"targets", *self.delegations}
            lost = [[*roots, *(item for role, item in last.items() if role in now)]]
        for files in lost:
            self._store(self.judge(files, may_lack=True))
        self.refresh()
        self.behind = False
        if self.dialect is TUF and self._forget_removed():
            self.rotate(rng, *ONLINE)  # readers who know of removed roles forget them only so

    def _forget_removed(self) -> bool:
        """Go on from the served files of removed roles; tell whether newer ones were lost."""
        removed = self.delegated.keys() - self.delegations.keys()
        forgotten = False
        for name in sorted(removed):
            served = self.served.current.get(name)
            version = self.files[served].version if served is not None else 0
            forgotten |= version < self.delegated[name].version
            self.delegated[name].version = version
        return forgotten
