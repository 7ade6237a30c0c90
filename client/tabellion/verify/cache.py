"""The metadata cache of one GUN: whole files, safe for many processes and for being killed.

Every file is written beside its place, flushed, and renamed over it; readers judge each file
anew, so any mix of old and new files is safe. Updates hold a lock on the folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tabellion import atomic_file
from tabellion.errors import CacheError

_LOCK_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.02
_MAX_STEM: Final = 200
_ONLINE: Final = frozenset({"timestamp", "snapshot"})


class MetadataCache:
    """A folder of metadata; the folder is made when something is saved.

    Layout: ``root.json``, ``timestamp.json``, ``snapshot.json``, ``targets.json``, delegated
    roles percent-encoded, and every root ever trusted in ``roots/N.root.json``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of(cls, home: Path, gun: str) -> MetadataCache:
        """Give the cache of a GUN under a Tabellion home folder."""
        return cls(home / "trust" / file_stem(gun))

    @classmethod
    def all_of(cls, home: Path) -> list[MetadataCache]:
        """Give the caches of all GUNs that anything is known of."""
        try:
            return [cls(path) for path in sorted((home / "trust").iterdir()) if path.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _fault(home, error) from error

    def load(self, role: str) -> bytes | None:
        """Give a role's cached file, None if there's none."""
        return _read(self.folder / f"{file_stem(role)}.json")

    def save(self, role: str, data: bytes) -> None:
        """Replace a role's file as a whole."""
        _write(self.folder / f"{file_stem(role)}.json", data)

    def drop(self, *roles: str) -> None:
        """Forget roles' files."""
        for role in roles:
            try:
                (self.folder / f"{file_stem(role)}.json").unlink(missing_ok=True)
            except OSError as error:
                raise _fault(self.folder, error) from error

    def load_root(self, version: int) -> bytes | None:
        """Give a root that was trusted before."""
        return _read(self.folder / "roots" / f"{version}.root.json")

    def save_root(self, version: int, data: bytes) -> None:
        """Keep a trusted root, and make it the current one."""
        _write(self.folder / "roots" / f"{version}.root.json", data)
        self.save("root", data)

    def root_versions(self) -> list[int]:
        """List the versions of the kept roots, ascending."""
        try:
            names = [path.name for path in (self.folder / "roots").iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _fault(self.folder, error) from error
        stems = [name.removesuffix(".root.json") for name in names if name.endswith(".root.json")]
        return sorted(int(stem) for stem in stems if stem.isdecimal())

    def forget(self) -> None:
        """Forget all that is trusted of the GUN; the caller holds the lock."""
        try:
            for path in [
                *self.folder.glob("*.json"),
                *self.folder.glob("roots/*"),
                self.folder / "pinned",
            ]:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise _fault(self.folder, error) from error

    def load_pin(self) -> str | None:
        """Give how the first root came to be trusted."""
        data = _read(self.folder / "pinned")
        return None if data is None else data.decode(errors="replace").strip()

    def save_pin(self, how: str) -> None:
        """Remember how the first root came to be trusted."""
        _write(self.folder / "pinned", f"{how}\n".encode())

    @contextlib.asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Hold the folder for one update, among all processes."""
        descriptor = await asyncio.to_thread(self._open_lock)
        try:
            deadline = asyncio.get_running_loop().time() + _LOCK_SECONDS
            while not _try_lock(descriptor):
                if asyncio.get_running_loop().time() > deadline:
                    raise CacheError(
                        f"another process has held {self.folder} for {_LOCK_SECONDS:.0f} s",
                        hint="end the process that hangs",
                    )
                await asyncio.sleep(_POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)

    def _open_lock(self) -> int:
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            return os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _fault(self.folder, error) from error


class RootsAndTargets(MetadataCache):
    """A cache without timestamp and snapshot: none is there, and none is kept."""

    def load(self, role: str) -> bytes | None:
        """Give a role's cached file, None if there's none."""
        return None if role in _ONLINE else super().load(role)

    def save(self, role: str, data: bytes) -> None:
        """Replace a role's file as a whole."""
        if role not in _ONLINE:
            super().save(role, data)


def file_stem(name: str) -> str:
    """Percent-encode a name whole; one too long for a file system ends in its hash."""
    quoted = quote(name, safe="")
    if len(quoted) <= _MAX_STEM:
        return quoted
    return f"{quoted[:100]}~{hashlib.sha256(name.encode()).hexdigest()}"


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _fault(path, error) from error


def _write(path: Path, data: bytes) -> None:
    try:
        # Power lost may bring the file before back: that one is judged anew like any other.
        atomic_file.write_atomic(path, data, sync_folder=False)
    except OSError as error:
        raise _fault(path, error) from error


def _fault(path: Path, error: OSError) -> CacheError:
    return CacheError(f"cache {path}: {error.strerror or error}")
