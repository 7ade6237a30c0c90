"""Changes as data: kept on disk until published, applied again after a lost race.

``<home>/staged/<quoted gun>.json`` holds the staged ones, replaced in one piece.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import quote, unquote

from securesystemslib.signer import Key

from tabellion import atomic_file
from tabellion.core import strict_json
from tabellion.core.bins import bits_of
from tabellion.core.holders import check_holder
from tabellion.core.names import Digest
from tabellion.core.roles import check_path_pattern, check_role_name, check_target_path
from tabellion.errors import CacheError, InvalidNameError, TabellionError, UsageError
from tabellion.publish.public_keys import load_public_key

_MAX_STAGED_BYTES: Final = 16_000_000


@dataclass(frozen=True)
class SignTarget:
    """Sign a target.

    Attributes:
        target: Target path.
        digest: Digest of its bytes.
        length: Their number.
        custom: More about it.
        role: Role to sign as, None for the one whose key is here.
    """

    target: str
    digest: Digest
    length: int
    custom: Mapping[str, Any] = field(default_factory=dict)
    role: str | None = None

    def __post_init__(self) -> None:
        check_target_path(self.target)
        if self.digest.algorithm != "sha256":
            raise UsageError(
                f"target {self.target[:80]!r} is given by {self.digest.algorithm}",
                hint="give its sha256: that's what every client checks",
            )
        if self.length < 0:
            raise UsageError(f"target {self.target[:80]!r} has length {self.length}")
        _check_role(self.role)
        try:
            json.dumps(self.custom, allow_nan=False)
            strict_json.canonical(dict(self.custom))
        except (TabellionError, TypeError, ValueError, RecursionError) as error:
            raise UsageError(
                f"custom of {self.target[:80]!r} isn't JSON that can be signed: {error}",
                hint="use objects, lists, text, integers, true, false and null",
            ) from error

    def __str__(self) -> str:
        by = f" as {self.role}" if self.role else ""
        return f"sign {self.target} {self.digest}{by}"


@dataclass(frozen=True)
class RevokeTarget:
    """Withdraw a target from a role, or from every role whose key is here."""

    target: str
    role: str | None = None

    def __post_init__(self) -> None:
        check_target_path(self.target)
        _check_role(self.role)

    def __str__(self) -> str:
        return f"revoke {self.target}{f' as {self.role}' if self.role else ''}"


@dataclass(frozen=True)
class AddSigner:
    """Delegate paths to a role; in place of one of that name, whose terms stay where none is given.

    Attributes:
        name: The role.
        keys: Its keys.
        paths: Patterns of what it may sign; None for those it has, or all for a new one.
        threshold: Keys needed; None for as many as now, or 1.
        terminating: Whether no later role is asked for its paths; None for as now, or no.
        file: Its first file, signed by its holders; without it the role is silent at first.
        under: The role that delegates to it.
        holders: Key id to its holder's name.
    """

    name: str
    keys: tuple[Key, ...]
    paths: tuple[str, ...] | None = None
    threshold: int | None = None
    terminating: bool | None = None
    file: bytes | None = None
    under: str = "targets"
    holders: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_role_name(self.name)
        _check_role(self.under)
        if self.under == self.name:
            raise UsageError(f"{self.name} can't be under itself", hint="give another role")
        if self.paths is not None and not self.paths:
            raise InvalidNameError(f"signer {self.name} gets no path", hint="give '*' for all")
        for pattern in self.paths or ():
            check_path_pattern(pattern)
        for holder in self.holders.values():
            check_holder(holder)
        self.check_threshold(1 if self.threshold is None else self.threshold)

    def check_threshold(self, threshold: int) -> None:
        """Refuse a threshold that these keys can't meet.

        Raises:
            UsageError: It's less than one, or more than there are keys.
        """
        if not 1 <= threshold <= len({key.keyid for key in self.keys}):
            raise UsageError(
                f"signer {self.name} has threshold {threshold} with {len(self.keys)} keys",
                hint="give as many keys as the threshold, or more",
            )

    def __str__(self) -> str:
        keys = ", ".join(key.keyid[:12] for key in self.keys)
        under = "" if self.under == "targets" else f" under {self.under}"
        paths = "" if self.paths is None else f" for {' '.join(self.paths)}"
        needed = "" if self.threshold is None else f"{self.threshold} of "
        return f"add signer {self.name}{under}{paths} ({needed}{keys})"


@dataclass(frozen=True)
class RemoveSigner:
    """Withdraw a delegation."""

    name: str

    def __post_init__(self) -> None:
        check_role_name(self.name)

    def __str__(self) -> str:
        return f"remove signer {self.name}"


@dataclass(frozen=True)
class Witness:
    """Sign a targets role anew as it is: with another version and expiry."""

    role: str

    def __post_init__(self) -> None:
        _check_role(self.role)

    def __str__(self) -> str:
        return f"witness {self.role}"


@dataclass(frozen=True)
class SpreadTargets:
    """Spread a GUN's targets over hash bins, or over more or fewer than before.

    Attributes:
        count: A power of two.
        keys: Keys of the bins, each enough alone; none for those of the targets role.
    """

    count: int
    keys: tuple[Key, ...] = ()

    def __post_init__(self) -> None:
        bits_of(self.count)

    def __str__(self) -> str:
        return f"spread all targets over {self.count} bins"


Change: TypeAlias = SignTarget | RevokeTarget | AddSigner | RemoveSigner | Witness | SpreadTargets


class Staged:
    """The staged changes of one home folder. Its methods block."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "staged"

    def guns(self) -> list[str]:
        """List GUNs with staged changes."""
        try:
            found = [path.stem for path in self.folder.glob("*.json")]
        except OSError as error:
            raise _unusable(self.folder, error) from error
        return sorted(unquote(stem) for stem in found)

    def read(self, gun: str) -> list[Change]:
        """Give a GUN's staged changes in order.

        Raises:
            CacheError: The file can't be read.
        """
        path = self._path(gun)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            content = strict_json.parse(data, max_bytes=_MAX_STAGED_BYTES, what="staged changes")
            if content.get("gun") != gun:
                raise ValueError("it's of another GUN")  # noqa: TRY301  (one message for all)
            return [change_from_json(item) for item in content["changes"]]
        except (TabellionError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CacheError(
                f"staged changes {path} can't be read: {error}",
                hint="drop them with: tabellion reset GUN",
            ) from error

    def add(self, gun: str, changes: Sequence[Change]) -> int:
        """Stage more changes; gives how many there are now."""
        with self._locked(gun):
            held = [*self.read(gun), *changes]
            self._write(gun, held)
            return len(held)

    def drop(self, gun: str, published: Sequence[Change]) -> None:
        """Forget changes that were published; ones staged meanwhile stay."""
        with self._locked(gun):
            held = self.read(gun)
            if list(published) == held[: len(published)]:
                self._write(gun, held[len(published) :])

    def reset(self, gun: str) -> int:
        """Forget all, readable or not; gives how many there were."""
        with self._locked(gun):
            try:
                count = len(self.read(gun))
            except CacheError:
                count = 1
            self._write(gun, [])
            return count

    def _write(self, gun: str, changes: Sequence[Change]) -> None:
        path = self._path(gun)
        content = {"gun": gun, "changes": [change_to_json(change) for change in changes]}
        try:
            if changes:
                atomic_file.write_atomic(path, json.dumps(content, indent=1).encode())
            else:
                atomic_file.remove(path)
        except OSError as error:
            raise _unusable(path, error) from error

    @contextlib.contextmanager
    def _locked(self, gun: str) -> Iterator[None]:
        path = self._path(gun).with_suffix(".lock")
        try:
            with atomic_file.locked(path):
                yield
        except OSError as error:
            raise _unusable(path, error) from error

    def _path(self, gun: str) -> Path:
        return self.folder / f"{quote(gun, safe='')}.json"


def _check_role(role: str | None) -> None:
    if role is not None and role != "targets":
        check_role_name(role)


def change_to_json(change: Change) -> dict[str, Any]:
    """Write a change as JSON."""
    match change:
        case SignTarget():
            return {
                "kind": "sign",
                "target": change.target,
                "digest": str(change.digest),
                "length": change.length,
                "custom": dict(change.custom),
                "role": change.role,
            }
        case RevokeTarget():
            return {"kind": "revoke", "target": change.target, "role": change.role}
        case AddSigner():
            return {
                "kind": "add-signer",
                "name": change.name,
                "keys": [{"keyid": key.keyid, **key.to_dict()} for key in change.keys],
                "paths": None if change.paths is None else list(change.paths),
                "threshold": change.threshold,
                "terminating": change.terminating,
                "file": None if change.file is None else change.file.decode("ascii"),
                "under": change.under,
                "holders": dict(change.holders),
            }
        case RemoveSigner():
            return {"kind": "remove-signer", "name": change.name}
        case SpreadTargets():
            keys = [{"keyid": key.keyid, **key.to_dict()} for key in change.keys]
            return {"kind": "spread", "count": change.count, "keys": keys}
        case Witness():
            return {"kind": "witness", "role": change.role}


def change_from_json(item: dict[str, Any]) -> Change:
    """Read a change; raises ValueError, KeyError, TypeError or a TabellionError if it isn't one."""
    match item["kind"]:
        case "sign":
            return SignTarget(
                item["target"],
                Digest.parse(item["digest"]),
                int(item["length"]),
                item["custom"],
                item["role"],
            )
        case "revoke":
            return RevokeTarget(item["target"], item["role"])
        case "add-signer":
            keys = tuple(load_public_key(json.dumps(key).encode()) for key in item["keys"])
            return AddSigner(
                item["name"],
                keys,
                None if item["paths"] is None else tuple(item["paths"]),
                None if item["threshold"] is None else int(item["threshold"]),
                None if item["terminating"] is None else item["terminating"] is True,
                item["file"].encode("ascii") if item.get("file") is not None else None,
                item.get("under", "targets"),
                dict(item.get("holders", {})),
            )
        case "remove-signer":
            return RemoveSigner(item["name"])
        case "spread":
            keys = tuple(load_public_key(json.dumps(key).encode()) for key in item["keys"])
            return SpreadTargets(int(item["count"]), keys)
        case "witness":
            return Witness(item["role"])
    raise ValueError(f"unknown kind {str(item['kind'])[:40]!r}")


def _unusable(path: Path, error: OSError) -> CacheError:
    return CacheError(f"{path} can't be used: {error.strerror or error}")
