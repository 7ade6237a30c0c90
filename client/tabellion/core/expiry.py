"""What of a GUN ends when, who renews it, how many keys can still sign, and what to run.

Judged on files that are trusted already, against a moment that the caller took. What a server
signs comes back by itself; the rest waits for people, and is told ahead.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, TypeAlias

from securesystemslib.signer import Key
from tuf.api.metadata import Role, Root, Signed, Targets

from tabellion.core.bin_keys import own_keys
from tabellion.core.bins import bins_of, is_bin
from tabellion.core.holders import holders_of
from tabellion.core.names import parse_reference
from tabellion.core.notary_roots import certificate_ends, certificate_of
from tabellion.core.roles import TOP_LEVEL_ROLES, delegated_roles, key_material, role_keys
from tabellion.errors import InvalidNameError, MalformedMetadataError

Level: TypeAlias = Literal["ok", "warn", "critical", "expired"]
RenewedBy: TypeAlias = Literal["publisher", "server"]
LEVELS: Final[tuple[Level, ...]] = ("ok", "warn", "critical", "expired")
"""From good to bad."""
_SHORT: Final = 16


@dataclass(frozen=True)
class Margins:
    """How long before an end it's told.

    Attributes:
        warn: Time left from which on it's worth a warning.
        critical: Time left from which on it's urgent.
    """

    warn: timedelta = timedelta(days=30)
    critical: timedelta = timedelta(days=7)

    def level(self, expires_at: datetime, now: datetime) -> Level:
        """Judge a moment of expiry."""
        left = expires_at - now
        if left <= timedelta(0):
            return "expired"
        if left <= self.critical:
            return "critical"
        return "warn" if left <= self.warn else "ok"

    @classmethod
    def of_renewed(cls, life: timedelta) -> Margins:
        """Give those of a file that its server renews at half its life: behind that, it's late."""
        return cls(warn=life * 3 / 8, critical=life / 8)


UNKNOWN_LIFE: Final = Margins(timedelta(0), timedelta(0))
"""For files that somebody else's server signs: when it renews them isn't known here."""


@dataclass(frozen=True)
class KeyState:
    """One key of a role.

    Attributes:
        keyid: Its id in the metadata.
        keytype: As the metadata names it.
        is_alive: It can still sign, as far as anybody can tell: it's listed, and its certificate,
            if it needs one, isn't expired.
        is_held: Its private part is here.
        holder: Whose it is: as the metadata names its holder, else as the local key store does.
        has_signed: It signed the current version.
        expires_at: End of its certificate; None if it needs none.
    """

    keyid: str
    keytype: str
    is_alive: bool
    is_held: bool
    has_signed: bool
    holder: str = ""
    expires_at: datetime | None = None


@dataclass(frozen=True)
class BinsState:
    """The hash bins that one role stands for: the one of them that ends first.

    Attributes:
        count: Number of bins.
        own_keys: Ids of their keys, where those aren't the targets role's.
    """

    count: int
    own_keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class RoleState:
    """One role.

    Attributes:
        role: Its name.
        delegator: The role that names its keys.
        version: Current version; None if it published nothing yet.
        expires_at: When that expires; None if it published nothing yet.
        renewed_by: Who signs it anew.
        threshold: Keys needed.
        alive: Distinct keys that can still sign.
        keys: All its keys.
        bins: Set if it's a hash bin, and so stands for all of them.
    """

    role: str
    delegator: str
    version: int | None
    expires_at: datetime | None
    renewed_by: RenewedBy
    threshold: int
    alive: int
    keys: tuple[KeyState, ...] = ()
    bins: BinsState | None = None

    @property
    def margin(self) -> int:
        """Give how many keys may be lost before it can't be signed any more."""
        return self.alive - self.threshold


@dataclass(frozen=True)
class End:
    """Something that ends at a moment.

    Attributes:
        role: The role that can't be used from then on.
        what: ``metadata``, or ``certificates``: of a Notary root, too few are valid then.
        expires_at: The moment, UTC.
        level: How bad that is now.
        renewed_by: Who can do something about it.
        bins: Set if it's the end of the first of hash bins.
    """

    role: str
    what: Literal["metadata", "certificates"]
    expires_at: datetime
    level: Level
    renewed_by: RenewedBy
    bins: BinsState | None = None

    @property
    def name(self) -> str:
        """Name it for people."""
        return self.role if self.what == "metadata" else f"{self.role} certificate"


@dataclass(frozen=True)
class Standing:
    """How a GUN stands at a moment.

    Attributes:
        gun: The GUN.
        roles: Its roles: root, targets, snapshot, timestamp, then delegated ones as they're asked.
        ends: What ends, soonest first.
    """

    gun: str
    roles: tuple[RoleState, ...]
    ends: tuple[End, ...]

    @property
    def level(self) -> Level:
        """Give the worst level."""
        return worst(end.level for end in self.ends)

    @property
    def first(self) -> End | None:
        """Give what breaks first unless somebody acts; None if nothing is known to end.

        What a server renews in time breaks nothing.
        """
        waiting = [e for e in self.ends if e.renewed_by == "publisher" or e.level != "ok"]
        return waiting[0] if waiting else None

    def level_of(self, role: str) -> Level:
        """Give the worst level of one role."""
        return worst(end.level for end in self.ends if end.role == role)


@dataclass(frozen=True)
class View:
    """A GUN's trusted files, as ``judge`` takes them.

    Attributes:
        gun: The GUN.
        payloads: Role to payload; a root at least.
        signed_by: Role to ids of the keys whose signatures on its file hold, as far as known.
        online: What a server signs, and how late is late.
        local_name: Gives the name that a key has here, maybe empty; None if it isn't here.
    """

    gun: str
    payloads: Mapping[str, Signed]
    signed_by: Mapping[str, Collection[str]]
    online: Mapping[str, Margins]
    local_name: Callable[[Key], str | None] = lambda _: None


def worst(levels: Iterable[Level]) -> Level:
    """Give the worst of some levels, ``ok`` if there's none."""
    return max(levels, key=LEVELS.index, default="ok")


def judge(view: View, *, now: datetime, margins: Margins | None = None) -> Standing:
    """Tell how a GUN stands.

    Args:
        view: Its files.
        now: The moment, aware.
        margins: When people want to know of what they have to renew.

    Raises:
        MalformedMetadataError: The root lacks a top-level role.
    """
    roles = tuple(
        _role_state(view, delegator, role, now=now) for delegator, role in _delegations(view)
    )
    margins = margins or Margins()
    ends: list[End] = []
    for item in roles:
        wanted = view.online[item.role] if item.renewed_by == "server" else margins
        if item.expires_at is not None:
            level = wanted.level(item.expires_at, now)
            signer = item.renewed_by
            ends.append(End(item.role, "metadata", item.expires_at, level, signer, item.bins))
    until = _certificates_end(view)
    if until is not None:
        ends.append(End("root", "certificates", until, margins.level(until, now), "publisher"))
    return Standing(view.gun, roles, in_order(ends))


def in_order(ends: Iterable[End]) -> tuple[End, ...]:
    """Sort ends, soonest first."""
    return tuple(sorted(ends, key=lambda end: (end.expires_at, end.role, end.what)))


def remedy(end: End, gun: str) -> str:
    """Say what to run, or for what a server renews, what to look at."""
    if end.renewed_by == "server":
        return "ask the server's operator: its log tells why under timestamp.not_renewed"
    name = _argument(gun)
    if end.what == "certificates":
        return f"tabellion rotate {name} root"
    if end.bins is not None:
        keys = "".join(f" --bins-key {keyid[:_SHORT]}" for keyid in end.bins.own_keys)
        return f"tabellion rebin {name} --bins {end.bins.count}{keys}"
    # A snapshot that publishers hold is signed along with targets.
    role = "targets" if end.role == "snapshot" else end.role
    return f"tabellion witness {name} {shlex.quote(role)}"


def _argument(gun: str) -> str:
    """Write a GUN as a command takes it."""
    try:
        is_plain = parse_reference(gun).gun == gun
    except InvalidNameError:
        is_plain = False
    quoted = shlex.quote(gun)
    return quoted if is_plain else f"--gun {quoted}"


def _delegations(view: View) -> list[tuple[str, str]]:
    """List (delegator, role), each role once, published or not."""
    found = dict.fromkeys(("root", "targets", "snapshot", "timestamp"), "root")
    pending = ["targets"]
    while pending:
        delegator = pending.pop(0)
        payload = view.payloads.get(delegator)
        if not isinstance(payload, Targets):
            continue
        for child in delegated_roles(payload):
            if child.name not in found and child.name not in TOP_LEVEL_ROLES:
                found[child.name] = delegator
                pending.append(child.name)
        for name in _first_bin(view, payload):
            found.setdefault(name, delegator)
    return [(delegator, role) for role, delegator in found.items()]


def _first_bin(view: View, payload: Targets) -> list[str]:
    """Give the hash bin that ends first of those that have a file: there may be thousands."""
    bins = bins_of(payload)
    found = [name for name in view.payloads if is_bin(bins, name)]
    return sorted(found, key=lambda name: (view.payloads[name].expires, name))[:1]


def bins_state(targets: Targets, root: Root) -> BinsState:
    """Describe the hash bins that a file delegates to."""
    bins = bins_of(targets)
    if bins is None:
        raise RuntimeError("there are no hash bins")
    own = tuple(bins.keyids) if own_keys(targets, root) else ()
    return BinsState(bins.number_of_bins, own)


def _role_state(view: View, delegator: str, role: str, *, now: datetime) -> RoleState:
    above: Any = view.payloads[delegator]
    keys, entry = role_keys(above, role)
    states: list[KeyState] = []
    alive: set[bytes] = set()
    holders = holders_of(above)
    for keyid in dict.fromkeys(entry.keyids):
        if keyid not in keys:
            continue
        state, material = _key_state(
            view, role, keys[keyid], keyid, holder=holders.get(keyid, ""), now=now
        )
        states.append(state)
        if state.is_alive:
            alive.add(material)
    payload, root = view.payloads.get(role), view.payloads["root"]
    is_of_bins = isinstance(above, Targets) and is_bin(bins_of(above), role)
    bins = bins_state(above, root) if is_of_bins and isinstance(root, Root) else None
    return RoleState(
        role,
        delegator,
        payload.version if payload is not None else None,
        payload.expires.replace(tzinfo=UTC) if payload is not None else None,
        "server" if role in view.online else "publisher",
        entry.threshold,
        len(alive),
        tuple(states),
        bins,
    )


def _key_state(
    view: View, role: str, key: Key, keyid: str, *, holder: str, now: datetime
) -> tuple[KeyState, bytes]:
    has_signed = keyid in view.signed_by.get(role, ())
    try:
        material = key_material(key)
    except MalformedMetadataError:  # nobody can sign with it
        return KeyState(keyid, key.keytype, is_alive=False, is_held=False, has_signed=False), b""
    certificate = certificate_of(key, view.gun) if role == "root" else None
    ends = certificate.not_valid_after_utc if certificate is not None else None
    name = view.local_name(key)
    state = KeyState(
        keyid,
        key.keytype,
        ends is None or now <= ends,
        name is not None,
        has_signed,
        holder or name or "",
        ends,
    )
    return state, material


def _certificates_end(view: View) -> datetime | None:
    """Give the moment from which too few of the root's signers have a valid certificate."""
    root = view.payloads["root"]
    if not isinstance(root, Root):
        raise MalformedMetadataError("a GUN's root is no root")
    entry: Role = root.roles["root"]
    ends = certificate_ends(root, list(view.signed_by.get("root", ())), view.gun)
    return ends[entry.threshold - 1] if len(ends) >= entry.threshold else None
