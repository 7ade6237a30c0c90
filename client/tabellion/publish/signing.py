"""From a draft to signed files: which keys are here, what they sign, what's still missing."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from securesystemslib.signer import Key, Signer
from tuf.api.metadata import DelegatedRole, Role, Root, Targets

from tabellion.core.bins import is_bin
from tabellion.core.dialect import NOTARY, Dialect
from tabellion.core.notary_vouching import vouching
from tabellion.core.proposal import Proposal, Standing, missing_of
from tabellion.core.publication import CurrentSet, OnlineKeys, UploadedFile
from tabellion.core.release import next_snapshot
from tabellion.core.roles import TOP_LEVEL_ROLES, delegated_roles, role_keys
from tabellion.core.transitions import judge_publication
from tabellion.errors import KeyStoreError, PassphraseError, RefusedPublicationError
from tabellion.publish.base_files import base_of
from tabellion.publish.draft import Draft
from tabellion.publish.held_keys import HeldKeys
from tabellion.publish.key_notes import KeyInfo
from tabellion.publish.keystore import KeyStore
from tabellion.publish.passphrases import Passphrases
from tabellion.publish.public_keys import crypto_key_of, fingerprint_of
from tabellion.publish.signatures import signatures_missing
from tabellion.publish.state import Current
from tabellion.signers.registry import RemoteSigners

_RENEW_BELOW = 0.5
"""Unchanged content is signed anew when less than this part of its lifetime is left."""


@dataclass(frozen=True)
class Expiries:
    """How long what is signed here lasts."""

    root: timedelta = timedelta(days=1825)
    targets: timedelta = timedelta(days=365)
    snapshot: timedelta = timedelta(days=90)
    bins: timedelta = timedelta(days=1825)  # a bin that nothing is signed in isn't signed anew


NOTARY_EXPIRIES: Final = Expiries(
    root=timedelta(days=3650), targets=timedelta(days=1095), snapshot=timedelta(days=1095)
)
"""What Notary's own clients give; they can't be told otherwise, and people count on it."""


@dataclass(frozen=True)
class Built:
    """Signed files, and what they lack.

    Attributes:
        dialect: How they are written.
        files: Ready for upload.
        versions: Role to version.
        missing: Role to number of signatures that are missing.
        silent: Roles that signed under other keys before, and have to sign again to be heard.
        standings: Who has signed what is incomplete, and who may still.
        base: What that is built on, for machines that can't ask the server.
        snapshot: Whose keys sign the snapshot that goes with it, if those aren't here.
        refusal: Why the server didn't publish it without that.
    """

    dialect: Dialect
    files: tuple[UploadedFile, ...]
    versions: Mapping[str, int]
    missing: Mapping[str, int]
    silent: tuple[str, ...] = ()
    standings: tuple[Standing, ...] = ()
    base: tuple[UploadedFile, ...] = ()
    snapshot: Standing | None = None
    refusal: RefusedPublicationError | None = None

    def waiting_for_snapshot(self, refusal: RefusedPublicationError) -> Built:
        """Give it as waiting for the holders of the snapshot's keys.

        Raises:
            RefusedPublicationError: ``refusal``, if the snapshot is signed.
        """
        if self.snapshot is None:
            raise refusal
        missing = {self.snapshot.role: self.snapshot.lacking}
        return replace(self, missing=missing, standings=(self.snapshot,), refusal=refusal)


class KeyRing:
    """Opens the keys that are here, each once. Its methods block."""

    def __init__(self, keystore: KeyStore, passphrases: Passphrases) -> None:
        self.keystore = keystore
        self.passphrases = passphrases
        self.remote = RemoteSigners(passphrases.pin)
        self._open: dict[str, PrivateKeyTypes] = {}
        self._opening = threading.Lock()

    def held(self) -> HeldKeys:
        """Tell which keys' private part is here."""
        names = {info.fingerprint: info.name for info in self.keystore.list()}
        return HeldKeys(frozenset(names), names)

    def names(self) -> dict[str, str]:
        """Give fingerprint to name of the keys here that have one."""
        return {info.fingerprint: info.name for info in self.keystore.list() if info.name}

    def open(
        self, dialect: Dialect, keys: Mapping[str, Key], keyids: Sequence[str], *, at_most: int
    ) -> list[Signer]:
        """Open those of a role's keys that are here, ``at_most`` of them.

        Args:
            dialect: How the signed file will be written.
            keys: Key id to key, as metadata lists them.
            keyids: The role's.
            at_most: How many signers are needed.

        Raises:
            PassphraseError: A passphrase is missing or wrong.
            KeyStoreError: A key file can't be used.
        """
        held = list(self.infos(keys, keyids).items())[:at_most]
        return [dialect.signer(self.private(info), keys[keyid]) for keyid, info in held]

    def infos(self, keys: Mapping[str, Key], keyids: Sequence[str]) -> dict[str, KeyInfo]:
        """Give what is known of those of a role's keys that are here, by their ids there."""
        infos = {info.fingerprint: info for info in self.keystore.list()}
        held = HeldKeys(frozenset(infos)).among(keys, keyids)
        return {keyid: infos[fingerprint_of(keys[keyid])] for keyid in held}

    def private(self, info: KeyInfo) -> PrivateKeyTypes:
        """Open one key.

        Raises:
            PassphraseError: Its passphrase is missing or wrong.
            KeyStoreError: Its file can't be used.
        """
        if info.uri is not None:
            return self.remote.private_key(info.uri, crypto_key_of(info.key))
        with self._opening:  # several GUNs at once must not ask for several passphrases at once
            if info.keyid not in self._open:
                passphrase = self.passphrases.existing(info.role, info.keyid, info.name)
                try:
                    self._open[info.keyid] = self.keystore.private_key(info.keyid, passphrase)
                except PassphraseError:
                    self.passphrases.forget(info.keyid)
                    raise
        return self._open[info.keyid]


def build(draft: Draft, ring: KeyRing, *, expiries: Expiries, now: datetime) -> Built:
    """Sign every changed role with the keys that are here.

    Raises:
        KeyStoreError: No key of a changed role is here.
        PassphraseError: A passphrase is missing or wrong.
    """
    current, dialect = draft.current, draft.current.trusted.dialect
    payloads = draft.changed()
    payloads |= _to_renew(draft, payloads, now, expiries)
    inherited = _to_sign_anew(draft, payloads)
    files: list[UploadedFile] = []
    versions: dict[str, int] = {}
    missing: dict[str, int] = {}
    opened: dict[int, list[Signer]] = {}
    silent: list[str] = []
    for role, payload in (payloads | inherited).items():
        payload.version = current.version_of(role) + 1
        payload.expires = now + _life(draft, role, expiries)
        keys, entry = draft.keys_of(role)
        if id(entry) not in opened:  # bins have one entry together, and there are thousands
            opened[id(entry)] = ring.open(dialect, keys, entry.keyids, at_most=entry.threshold)
        signers = opened[id(entry)]
        if not signers and role not in inherited:
            raise no_key(current.gun, role, entry)
        if not signers and role not in current.roles and dialect is NOTARY:
            silent.append(role)  # it leaves the snapshot until its holders sign
            continue
        data = dialect.sign(payload, signers)
        lacking = signatures_missing(dialect, role, data, keys, entry)
        if lacking:
            missing[role] = lacking
        files.append(UploadedFile(role, data))
        versions[role] = payload.version
    for role, data in _first_files(draft, versions).items():
        files.append(UploadedFile(role, data))
        versions[role] = 1
    if missing:
        whole = incomplete(current, Proposal.parse(current.gun, dialect, files))
        return replace(whole, silent=tuple(silent))
    if files:
        files, versions = with_snapshot(current, files, versions, ring, expiries=expiries, now=now)
    return Built(dialect, tuple(files), versions, missing, tuple(silent))


def incomplete(current: Current, proposal: Proposal) -> Built:
    """Give what lacks signatures, with all that the next signer needs."""
    standings = proposal.standings(current.as_served())
    return Built(
        proposal.dialect,
        tuple(proposal.upload),
        proposal.versions,
        missing_of(standings),
        standings=tuple(standings),
        base=base_of(current, proposal.files),
    )


def with_snapshot(
    current: Current,
    files: Sequence[UploadedFile],
    versions: Mapping[str, int],
    ring: KeyRing,
    *,
    expiries: Expiries,
    now: datetime,
    root: Root | None = None,
) -> tuple[list[UploadedFile], dict[str, int]]:
    """Add a snapshot if its keys are here; else the server signs it.

    ``root`` is the one in force afterwards; None for the current one.
    """
    root = root or current.root
    entry = root.roles["snapshot"]
    if len(ring.held().among(root.keys, entry.keyids)) < entry.threshold:
        return list(files), dict(versions)
    held, dialect = current.trusted.snapshot, current.trusted.dialect
    snapshot = next_snapshot(
        dialect,
        held.signed if held is not None else None,
        {
            item.role: (versions[item.role], item.data)
            for item in files
            if item.role != "root" or dialect.lists_root
        },
        expires_at=now + expiries.snapshot,
        dropped=_unheard(current, files),
    )
    signers = ring.open(dialect, root.keys, entry.keyids, at_most=entry.threshold)
    data = dialect.sign(snapshot, signers)
    return (
        [*files, UploadedFile("snapshot", data)],
        {**versions, "snapshot": snapshot.version},
    )


def _unheard(current: Current, files: Sequence[UploadedFile]) -> set[str]:
    """Give the roles of a Notary GUN that nobody delegates to, or whose file isn't vouched for.

    Listed, they would be an error to readers; a TUF snapshot lists them for ever.
    """
    if current.trusted.dialect is not NOTARY:
        return set()
    new = CurrentSet.parse({item.role: item.data for item in files}, NOTARY).files
    held = {**current.as_served().files, **new}
    return set(held) - TOP_LEVEL_ROLES - vouching(current.root, held.get).vouched


def judge(
    current: Current, files: Sequence[UploadedFile], *, now: datetime, root: Root | None = None
) -> None:
    """Ask the server's rules before the server: what breaks one isn't sent.

    ``root`` is the one in force afterwards; None for the current one.

    Raises:
        RefusedPublicationError: A rule is broken.
        VerificationError: A file is expired, too large or wrongly signed.
    """
    root = root or current.root
    online = OnlineKeys(
        snapshot=[]
        if any(item.role == "snapshot" for item in files)
        else _role_keys(root, "snapshot"),
        timestamp=_role_keys(root, "timestamp"),
    )
    judge_publication(
        current.as_served(),
        files,
        gun=current.gun,
        online=online,
        now=now,
        limits=current.trusted.limits,
    )


def no_key(gun: str, role: str, entry: Role) -> KeyStoreError:
    """Give the error for a role none of whose keys is here."""
    wanted = ", ".join(keyid[:12] for keyid in entry.keyids)
    return KeyStoreError(
        f"no key of role {role} of {gun} is here",
        hint=f"its keys are {wanted[:200]}; import one, or ask its holder",
    )


def _to_renew(
    draft: Draft, changed: Collection[str], now: datetime, expiries: Expiries
) -> dict[str, Targets]:
    """Give unchanged content that was spoken of and hasn't long to live."""
    found: dict[str, Targets] = {}
    for role in sorted(draft.touched.difference(changed)):
        published = draft.current.roles.get(role)
        life = _life(draft, role, expiries)
        is_due = role in draft.witnessed
        if is_due or published is None or published.expires_at - now < life * _RENEW_BELOW:
            found[role] = draft.edit(role)
    return found


def _life(draft: Draft, role: str, expiries: Expiries) -> timedelta:
    return expiries.bins if is_bin(draft.bins, role) else expiries.targets


def _first_files(draft: Draft, written: Collection[str]) -> dict[str, bytes]:
    """Give the first files of new roles, where the keys that the role gets signed them."""
    found: dict[str, bytes] = {}
    for role, data in draft.first_files.items():
        if role in written or draft.current.version_of(role):
            continue
        keys, entry = draft.keys_of(role)
        if not signatures_missing(draft.current.trusted.dialect, role, data, keys, entry):
            found[role] = data
    return found


def _to_sign_anew(draft: Draft, changed: Mapping[str, Targets]) -> dict[str, Targets]:
    """Give roles whose published file the keys of a changed delegation wouldn't vouch for.

    The server refuses to leave such a file behind. A role that gets other keys keeps what it
    signed and still may; one that was removed before comes back empty.
    """
    current, dialect = draft.current, draft.current.trusted.dialect
    found: dict[str, Targets] = {}
    for child, payload in _delegated_anew(draft, changed):
        file = current.roles.get(child.name) or current.left.get(child.name)
        if file is None or child.name in changed:
            continue
        keys, entry = role_keys(payload, child.name)
        if signatures_missing(dialect, child.name, file.data, keys, entry):
            anew = draft.edit(child.name)
            for path in [path for path in anew.targets if not draft.covers(child, path)]:
                del anew.targets[path]
            found[child.name] = anew
    return found


def _delegated_anew(
    draft: Draft, changed: Collection[str]
) -> Iterator[tuple[DelegatedRole, Targets]]:
    """List the delegations that changed or were asked for again, with the payload they're in."""
    respoken = (draft.delegator_of(role) for role in sorted(draft.respoken))
    for name in dict.fromkeys([*changed, *(name for name in respoken if name is not None)]):
        published, payload = draft.current.roles.get(name), draft.of(name)
        before = (
            {role.name: role for role in delegated_roles(published.signed)} if published else {}
        )
        for child in delegated_roles(payload):
            if child.name in draft.respoken or before.get(child.name) != child:
                yield child, payload


def _role_keys(root: Root, role: str) -> list[Key]:
    return [root.keys[keyid] for keyid in root.roles[role].keyids if keyid in root.keys]
