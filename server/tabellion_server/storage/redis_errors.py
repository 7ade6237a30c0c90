"""What Redis and Valkey say when they can't, as errors of ours."""

from __future__ import annotations

from typing import Final

from redis import exceptions
from redis.asyncio.sentinel import MasterNotFoundError

from tabellion_server.storage.interface import StorageError

# The word that an error of the server begins with: what is the matter, what to do.
_SAID: Final[dict[str, tuple[str, str]]] = {
    "OOM": (
        "has no memory left (maxmemory)",
        "raise maxmemory or give it a machine with more memory; nothing was written",
    ),
    "MISCONF": (
        "can't write to its disk and takes no writes",
        "free space on its disk, or see what its log says of the AOF or RDB file",
    ),
    "READONLY": (
        "is a replica, which takes no writes",
        "set storage.url to the master, or to its Sentinels",
    ),
    "NOREPLICAS": (
        "has fewer replicas than min-replicas-to-write asks for",
        "see why its replicas aren't connected",
    ),
    "LOADING": ("is still reading its data", "wait: it does so after each start"),
    "BUSY": ("runs a script that doesn't end", "see who runs it: SCRIPT KILL ends it"),
    "MASTERDOWN": ("is a replica without its master", "see why its master isn't reached"),
    "CLUSTERDOWN": ("is a Cluster that isn't whole", "see redis-cli --cluster check"),
    "SCHEMA": (
        "was given another schema while this node had it open",
        "run the release that changed it on this node, too",
    ),
    "NOAUTH": ("wants a password", "set storage.password_file"),
    "WRONGPASS": ("doesn't take this password", "check storage.password_file or storage.url"),
    "NOPERM": (
        "doesn't let this user run what the store needs",
        "give its user ~PREFIX* and +@all -@dangerous +info +role, see server/README.md",
    ),
}


def redis_error(error: Exception, name: str) -> StorageError:
    """Turn a failure of the server or of the way to it into ours."""
    if isinstance(error, StorageError):
        return error
    store = f"store {name}"
    if isinstance(error, exceptions.TimeoutError | TimeoutError):
        return StorageError(
            f"{store} didn't answer in time",
            hint="see whether it is overloaded or stopped, and how far away it is",
        )
    told = str(error)
    found = _SAID.get(_word(error, told))
    if found is not None:
        return StorageError(f"{store} {found[0]}", hint=found[1])
    return _unreached(error, store, told)


def _unreached(error: Exception, store: str, told: str) -> StorageError:
    if isinstance(error, MasterNotFoundError):
        return StorageError(
            f"{store}: none of its Sentinels can be reached, or none knows a master of that name",
            hint="see that they run, that this machine reaches them, and check the service's name",
        )
    if isinstance(error, exceptions.RedisClusterException):
        if "cluster mode is not enabled" in f"{told} {error.__cause__}".lower():
            return StorageError(
                f"{store} is no Cluster", hint="write redis:// for a single server in storage.url"
            )
        return StorageError(
            f"{store}: none of its nodes can be used: {_line(told)}",
            hint="see redis-cli --cluster check, and that this machine reaches its nodes",
        )
    if isinstance(error, exceptions.ConnectionError | OSError):
        return StorageError(
            f"{store} can't be reached: {told[:200]}",
            hint="see that it runs, and that this machine reaches it",
        )
    return StorageError(f"{store} failed: {told[:200]}")


def _line(told: str) -> str:
    return " ".join(told.split())[:200]


def _word(error: Exception, told: str) -> str:
    """Give the server's word for it: the client takes some away, and keeps a class for each."""
    kinds: dict[type[Exception], str] = {
        exceptions.OutOfMemoryError: "OOM",
        exceptions.ReadOnlyError: "READONLY",
        exceptions.BusyLoadingError: "LOADING",
        exceptions.MasterDownError: "MASTERDOWN",
        exceptions.NoPermissionError: "NOPERM",
        exceptions.ClusterDownError: "CLUSTERDOWN",
        exceptions.SlotNotCoveredError: "CLUSTERDOWN",
        exceptions.AuthenticationError: "WRONGPASS",
    }
    for kind, word in kinds.items():
        if isinstance(error, kind):
            return word
    return told.split(maxsplit=1)[0] if told else ""
