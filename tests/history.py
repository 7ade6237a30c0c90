"""What many clients did to a GUN through many nodes, and a judge of it.

Promises of the design, section 3, on a log of operations with the times they began and ended:

1. a read is whole: every file named is there, and the set is trusted;
2. nothing acknowledged is lost: whoever begins to read after an answer finds what was published;
3. a version has one content, whoever shows it and whenever;
4. versions never go back: a read that begins after another one ended sees no lower version.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

ROLES = ("root", "timestamp", "snapshot", "targets")


@dataclass(frozen=True)
class Read:
    """A client's update: role to version, and to the hash of its bytes; or why it wasn't whole."""

    gun: str
    began: float
    ended: float
    versions: Mapping[str, int] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    paths: frozenset[str] = frozenset()
    torn: str = ""


@dataclass(frozen=True)
class Write:
    """A publication of a role's version; ``unknown`` if no answer came, or 503."""

    gun: str
    began: float
    ended: float
    role: str
    version: int
    sha256: str
    outcome: Literal["accepted", "refused", "unknown"]
    path: str = ""


Operation = Read | Write


@dataclass(frozen=True)
class Violation:
    """A promise that was broken, and by what."""

    promise: int
    text: str


def judge(log: Sequence[Operation]) -> list[Violation]:
    """Find every broken promise."""
    found: list[Violation] = []
    for gun in sorted({item.gun for item in log}):
        reads = [item for item in log if isinstance(item, Read) and item.gun == gun]
        writes = [item for item in log if isinstance(item, Write) and item.gun == gun]
        whole = [read for read in reads if not read.torn]
        found += (Violation(1, f"{gun}: {read.torn}") for read in reads if read.torn)
        found += _lost(gun, whole, writes)
        found += _doubled(gun, whole, writes)
        found += _back(gun, whole)
    return found


def _lost(gun: str, reads: Iterable[Read], writes: Iterable[Write]) -> Iterable[Violation]:
    accepted = [write for write in writes if write.outcome == "accepted"]
    for read in reads:
        for write in accepted:
            if write.ended >= read.began:
                continue
            if write.path and write.path not in read.paths:
                yield Violation(2, f"{gun}: {write.path} was accepted and isn't in {_of(read)}")
            elif read.versions[write.role] < write.version:
                what = f"{write.role} version {write.version}"
                yield Violation(2, f"{gun}: {what} was accepted before {_of(read)} began")


def _doubled(gun: str, reads: Iterable[Read], writes: Iterable[Write]) -> Iterable[Violation]:
    seen: dict[tuple[str, int], str] = {}
    shown = [
        (role, read.versions[role], read.hashes[role]) for read in reads for role in read.versions
    ]
    shown += [
        (write.role, write.version, write.sha256) for write in writes if write.outcome == "accepted"
    ]
    for role, version, sha256 in shown:
        if seen.setdefault((role, version), sha256) != sha256:
            yield Violation(3, f"{gun}: {role} version {version} has two contents")


def _back(gun: str, reads: Sequence[Read]) -> Iterable[Violation]:
    by_end = sorted(reads, key=lambda read: read.ended)
    newest = dict.fromkeys(ROLES, 0)
    ended = 0
    for read in sorted(reads, key=lambda item: item.began):
        while ended < len(by_end) and by_end[ended].ended < read.began:
            for role, version in by_end[ended].versions.items():
                newest[role] = max(newest[role], version)
            ended += 1
        for role, version in read.versions.items():
            if version < newest[role]:
                yield Violation(
                    4, f"{gun}: {role} went back to {version} from {newest[role]} in {_of(read)}"
                )


def _of(read: Read) -> str:
    return " ".join(f"{role}={version}" for role, version in read.versions.items())
