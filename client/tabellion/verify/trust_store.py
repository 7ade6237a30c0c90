"""What somebody decided to trust, kept in a home folder: pins of GUNs, and anchor collections.

Layout: ``pins/guns/<quoted gun>.json``, one file for each pinned GUN; ``pins/anchors.json`` with
all collections; ``pins/log`` with one JSON line for each decision. Files are replaced in one piece,
mode 0600; one that can't be read is an error, never "nothing is pinned". Methods block.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tabellion import atomic_file
from tabellion.core import strict_json
from tabellion.core.fingerprints import parse_fingerprint
from tabellion.core.gun_patterns import GunPattern
from tabellion.core.names import Digest, Gun, parse_gun
from tabellion.errors import CacheError, TabellionError
from tabellion.transport.addresses import server_url_fault
from tabellion.verify.cache import file_stem

_MAX_BYTES: Final = 32_000_000
EVERYTHING: Final = (GunPattern((), "**"),)


@dataclass(frozen=True)
class StoredPin:
    """How one GUN's root is pinned.

    Attributes:
        gun: The GUN.
        root: A root file's bytes, or None.
        root_key: Fingerprint of a root key, or None; one of both is there.
        at: When that was decided, UTC.
    """

    gun: Gun
    root: bytes | None
    root_key: str | None
    at: datetime

    @property
    def what(self) -> str:
        """Say what it is, in words."""
        return "root file" if self.root is not None else "root key"


@dataclass(frozen=True)
class AnchorSource:
    """A collection of anchors, and for what it may speak.

    Attributes:
        gun: The collection's own GUN.
        server: Base URL of its trust server.
        root: The root file that it's read from.
        patterns: GUNs that it may speak for.
        at: When that was decided, UTC.
    """

    gun: Gun
    server: str
    root: bytes
    patterns: tuple[GunPattern, ...]
    at: datetime

    def covers(self, gun: str) -> bool:
        """Tell whether it speaks for a GUN; other capitals are no way around it."""
        return any(pattern.covers(gun, in_any_case=True) for pattern in self.patterns)


class TrustStore:
    """The decisions of one home folder."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "pins"

    def pin(self, gun: Gun) -> StoredPin | None:
        """Give a GUN's pin.

        Raises:
            CacheError: It can't be read.
        """
        return self._load_pin(self._path(gun), gun)

    def is_pinned(self, gun: Gun) -> bool:
        """Tell whether a GUN has a pin, readable or not."""
        return self._path(gun).exists()

    def pins(self) -> list[StoredPin]:
        """List all pins, sorted by GUN."""
        try:
            paths = list((self.folder / "guns").glob("*.json"))
        except OSError as error:
            raise _unusable(self.folder, error) from error
        found = [self._load_pin(path, None) for path in paths]
        return sorted((pin for pin in found if pin is not None), key=lambda pin: pin.gun)

    def collections(self) -> tuple[AnchorSource, ...]:
        """Give all anchor collections.

        Raises:
            CacheError: They can't be read.
        """
        path = self.folder / "anchors.json"
        content = _load(path)
        if content is None:
            return ()
        with _reading(path):
            _check_members(content, {"collections"})
            found = tuple(_source(item) for item in content["collections"])
            if len({source.gun for source in found}) != len(found):
                raise ValueError("it lists a collection twice")
            return found

    def save_pin(self, pin: StoredPin, *, how: str) -> None:
        """Pin a GUN, in place of its pin before.

        Args:
            pin: What is decided.
            how: Why, for the log.
        """
        old = self.pin(pin.gun)
        content = {"gun": pin.gun, "at": _text(pin.at)}
        if pin.root is not None:
            content["root"] = pin.root.decode()
        elif pin.root_key is not None:
            content["root_key"] = pin.root_key
        self._log(how, pin.gun, old=_named(old), new=_named(pin))
        self._write(self._path(pin.gun), content)

    def remove_pin(self, gun: Gun) -> None:
        """Forget a GUN's pin; fine if there's none, or it can't be read."""
        self._log("remove", gun)
        try:
            atomic_file.remove(self._path(gun))
        except OSError as error:
            raise _unusable(self._path(gun), error) from error

    def save_collection(self, source: AnchorSource, *, how: str) -> None:
        """Trust a collection, in place of one of that GUN before."""
        with self._locked():
            kept = self.collections()
            others = [item for item in kept if item.gun != source.gun]
            old = next((item for item in kept if item.gun == source.gun), None)
            self._log(how, source.gun, old=_named(old), new=_named(source))
            self._write_collections([*others, source])

    def remove_collection(self, gun: Gun) -> None:
        """Trust a collection no longer."""
        with self._locked():
            self._log("remove anchors", gun)
            self._write_collections([item for item in self.collections() if item.gun != gun])

    def _write_collections(self, sources: Sequence[AnchorSource]) -> None:
        content = [
            {
                "gun": source.gun,
                "server": source.server,
                "root": source.root.decode(),
                "for": [str(pattern) for pattern in source.patterns],
                "at": _text(source.at),
            }
            for source in sources
        ]
        self._write(self.folder / "anchors.json", {"collections": content})

    def _load_pin(self, path: Path, gun: str | None) -> StoredPin | None:
        content = _load(path)
        if content is None:
            return None
        with _reading(path):
            kind = "root" if "root" in content else "root_key"
            _check_members(content, {"gun", "at", kind})
            name, said = parse_gun(content["gun"]), content[kind]
            if self._path(name) != path or gun not in {None, name}:
                raise ValueError("it's of another GUN")
            if kind == "root":
                return StoredPin(name, said.encode(), None, _moment(content["at"]))
            return StoredPin(name, None, parse_fingerprint(said), _moment(content["at"]))

    def _path(self, gun: str) -> Path:
        return self.folder / "guns" / f"{file_stem(gun)}.json"

    def _log(self, what: str, gun: str, **more: str | None) -> None:
        """Write down a decision before it takes effect."""
        line = {"at": _text(datetime.now(UTC)), "what": what, "gun": gun, **more}
        path = self.folder / "log"
        try:
            atomic_file.make_folder(self.folder)
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "ab") as file:
                file.write(json.dumps(line).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _unusable(path, error) from error

    def _write(self, path: Path, content: Mapping[str, Any]) -> None:
        try:
            atomic_file.write_atomic(path, json.dumps(content, indent=1).encode())
        except OSError as error:
            raise _unusable(path, error) from error

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with atomic_file.locked(self.folder / ".lock"):
                yield
        except OSError as error:
            raise _unusable(self.folder, error) from error


def _load(path: Path) -> dict[str, Any] | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error) from error
    with _reading(path):
        return strict_json.parse(data, max_bytes=_MAX_BYTES, what="the file")


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Tell of every fault in a file where it is and what to do."""
    try:
        yield
    except CacheError:
        raise
    except (TabellionError, ValueError, TypeError, KeyError, AttributeError) as error:
        said = error.message if isinstance(error, TabellionError) else str(error)
        raise CacheError(
            f"{path} says what is trusted, and can't be read: {said}",
            hint="remove the file, then say anew what is trusted: tabellion trust add",
        ) from error


def _source(item: Mapping[str, Any]) -> AnchorSource:
    _check_members(item, {"gun", "server", "root", "for", "at"})
    fault = server_url_fault(item["server"])
    if fault is not None:
        raise ValueError(fault[0])
    patterns = tuple(GunPattern.parse(text) for text in item["for"])
    if not patterns:
        raise ValueError("a collection speaks for nothing")
    moment = _moment(item["at"])
    return AnchorSource(
        parse_gun(item["gun"]), item["server"], item["root"].encode(), patterns, moment
    )


def _check_members(content: Mapping[str, Any], wanted: set[str]) -> None:
    if set(content) != wanted:
        raise ValueError(f"its members aren't {', '.join(sorted(wanted))}")


def _moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def _text(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _named(decided: StoredPin | AnchorSource | None) -> str | None:
    if decided is None:
        return None
    if isinstance(decided, StoredPin) and decided.root is None:
        return f"root key {decided.root_key}"
    return f"root file {Digest.of(decided.root or b'')}"


def _unusable(path: Path, error: OSError) -> CacheError:
    return CacheError(f"{path} can't be used: {error.strerror or error}")
