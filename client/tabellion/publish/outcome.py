"""What a publisher's verbs give back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import Key

from tabellion.core.expiry import End, Standing
from tabellion.errors import TabellionError
from tabellion.publish.changes import Change
from tabellion.publish.key_notes import KeyInfo
from tabellion.publish.pending_api import PendingInfo
from tabellion.publish.still_trusted import StillTrusted


@dataclass(frozen=True)
class Published:
    """What became of a change or a publication.

    Attributes:
        gun: The GUN.
        versions: Role to version of the files published; empty if nothing had to change, or
            nothing was published.
        attempts: How often it was built; above 1 if somebody else published first.
        incomplete: File to be passed to the next signer for ``cosign``; None if published.
        missing: Role to number of signatures that are missing still.
        awaited: Role to the keys, with their holders, that may still give them.
        pending: Id under which the server keeps what is incomplete; empty if it doesn't.
        not_kept: Why it doesn't, where it could have.
        signed_as: Target to the role that signs it.
        withdrawn: Target to the roles that don't sign it any more.
        shadowed: Target to the role whose word verifiers take instead: it's asked earlier, or
            goes on signing what was withdrawn elsewhere.
        gone_too: Roles beneath a removed one, which nobody asks any more.
        lost: Target to the role whose other word verifiers take now that a signer was removed or
            has other paths, "" where nobody signs it any more.
        still_trusted: Roles that a removed signer's key is a key of as well.
        silent: Roles that signed under other keys before, and have to sign again to be heard.
        own_bins: Number of hash bins that keep keys of their own though the targets role got
            others; 0 if none do.
        is_staged: Only kept for ``publish``.
        is_checked: False if staged while the server couldn't be asked whether it fits.
        ending: What of the GUN ends soon and waits for somebody, None if nothing does.
        overruled: What was seen here that the server contradicts, and that all forget by this.
        rivals: Ids of other proposals for the same versions: one of them can be published.
        outdated: Ids of proposals that can't be published any more because of this.
        founds: Fingerprints of the root keys of a GUN that this founds.
        made: Of a rotation, the keys that were generated for it.
        stay: Of a rotation, role to the ids of keys of other holders, which it keeps.
    """

    gun: str
    versions: Mapping[str, int]
    attempts: int = 1
    incomplete: Path | None = None
    missing: Mapping[str, int] = field(default_factory=dict)
    pending: str = ""
    not_kept: str = ""
    signed_as: Mapping[str, str] = field(default_factory=dict)
    withdrawn: Mapping[str, Sequence[str]] = field(default_factory=dict)
    shadowed: Mapping[str, str] = field(default_factory=dict)
    gone_too: Sequence[str] = ()
    lost: Mapping[str, str] = field(default_factory=dict)
    still_trusted: Sequence[StillTrusted] = ()
    silent: Sequence[str] = ()
    own_bins: int = 0
    is_staged: bool = False
    is_checked: bool = True
    ending: End | None = None
    overruled: str = ""
    awaited: Mapping[str, Sequence[str]] = field(default_factory=dict)
    stay: Mapping[str, Sequence[str]] = field(default_factory=dict)
    rivals: Sequence[str] = ()
    outdated: Sequence[str] = ()
    founds: Sequence[str] = ()
    made: Sequence[KeyInfo] = ()


@dataclass(frozen=True)
class Initialized:
    """A new GUN.

    Attributes:
        gun: Its name.
        root_keys: Keys of the root role that are here.
        fingerprints: Of all keys of the root role; verifiers start from one.
        targets_keys: Keys of the targets role.
        root: Bytes of root version 1, for verifiers to start from.
        made: Keys that were generated for it.
        declared: Signers it got as declared for its namespace.
        lacking: Signer it didn't get to why not.
        pending: Id under which the server keeps it until the other holders signed; empty once
            it's published.
        missing: Role to number of signatures that are missing still.
    """

    gun: str
    root_keys: tuple[KeyInfo, ...]
    targets_keys: tuple[KeyInfo, ...]
    root: bytes
    made: tuple[KeyInfo, ...]
    declared: tuple[str, ...] = ()
    lacking: Mapping[str, str] = field(default_factory=dict)
    pending: str = ""
    missing: Mapping[str, int] = field(default_factory=dict)
    fingerprints: tuple[str, ...] = ()


@dataclass(frozen=True)
class SignerInfo:
    """A delegated role.

    Attributes:
        name: Role name.
        keys: Its public keys.
        paths: Patterns of target paths it may sign.
        threshold: Keys needed.
        terminating: No later role is asked for its paths.
        version: Current version, None if it published nothing yet.
        expires_at: When that expires, None if it published nothing yet.
        held: Key ids whose private part is in this key store.
        under: The role that delegates to it.
        holders: Key id to its holder's name, as the delegator gives it.
    """

    name: str
    keys: tuple[Key, ...]
    paths: tuple[str, ...]
    threshold: int
    terminating: bool
    version: int | None
    expires_at: datetime | None
    held: tuple[str, ...]
    under: str = "targets"
    holders: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Status:
    """Staged changes of a GUN and, where the server was asked, its roles.

    Attributes:
        gun: The GUN.
        staged: Changes waiting for ``publish``.
        versions: Role to version.
        expires: Role to expiry.
        can_sign: Roles that the keys here reach the threshold of.
        standing: What ends when, and which keys can sign; None if the server wasn't asked.
        is_verified: False if all of it is the server's word: no root of the GUN is trusted here.
        problem: Why it couldn't be told how the GUN stands, None if it could.
        pending: Proposals that wait at the server for signatures, by its word.
    """

    gun: str
    staged: tuple[Change, ...]
    versions: Mapping[str, int] = field(default_factory=dict)
    expires: Mapping[str, datetime] = field(default_factory=dict)
    can_sign: tuple[str, ...] = ()
    standing: Standing | None = None
    is_verified: bool = True
    problem: TabellionError | None = None
    pending: Sequence[PendingInfo] = ()
