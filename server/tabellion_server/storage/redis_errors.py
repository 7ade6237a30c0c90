"""What Redis and Valkey say when they can't, as errors of ours."""

from __future__ import annotations

from typing import Final

from redis import exceptions
from redis.asyncio.sentinel import MasterNotFoundError

from tabellion_server.storage.interface import StorageError
from tabellion_server.storage.redis_address import RedisAddress
from tabellion_server.storage.redis_tls import causes, tls_problem

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
        "has fewer replicas than min-replicas-to-write asks for, and takes no writes",
        "connect its replicas (redis-cli info replication shows them), or ask for fewer there",
    ),
    "LOADING": ("is still reading its data", "wait: it does so after each start"),
    "BUSY": ("runs a script that doesn't end", "see who runs it: SCRIPT KILL ends it"),
    "MASTERDOWN": ("is a replica without its master", "see why its master isn't reached"),
    "CLUSTERDOWN": ("is a Cluster that isn't whole", "see redis-cli --cluster check"),
    "TRYAGAIN": (
        "is a Cluster that moves this GUN's slot to another master",
        "wait: it takes writes again once the slot has moved",
    ),
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
# The same of Sentinels, which have users and passwords of their own.
_SENTINELS: Final[dict[str, tuple[str, str]]] = {
    "NOAUTH": ("want a password", "set storage.sentinel_password_file"),
    "WRONGPASS": (
        "don't take this password, or want one",
        "check storage.sentinel_password_file, and sentinel_user in storage.url",
    ),
    "NOPERM": (
        "don't let this user ask",
        "give it what lets it ask: +sentinel|masters, +ping, +client, +auth",
    ),
}
# What may be behind a connection that is cut, without and with TLS.
_TLS_HINTS: Final = (
    "if it speaks TLS only, write rediss instead of redis in storage.url",
    "if it wants a client's certificate (Tabellion has none), set tls-auth-clients no there",
)
_CONNECTING: Final = "Timeout connecting to server"  # the client's words while it connects


def redis_error(error: Exception, address: RedisAddress) -> StorageError:
    """Turn a failure of the server or of the way to it into ours."""
    if isinstance(error, StorageError):
        return error
    store = f"store {address.name}"
    problem = tls_problem(error) if address.tls else None
    if problem is not None:
        return StorageError(f"{store}: {problem[0]}", hint=problem[1])
    if isinstance(error, MasterNotFoundError):
        return _no_master(error, store, address)
    if isinstance(error, exceptions.TimeoutError | TimeoutError):
        return _too_late(error, store, address)
    told = str(error)
    found = _SAID.get(_word(error, told)) or _no_database(told, address)
    if found is not None:
        return StorageError(f"{store} {found[0]}", hint=found[1])
    return _unreached(error, store, told, address)


def _no_database(told: str, address: RedisAddress) -> tuple[str, str] | None:
    if "DB index is out of range" not in told:
        return None
    return (
        f"has no database {address.database}",
        "name another one in storage.url, or raise databases in its configuration",
    )


def _no_master(error: Exception, store: str, address: RedisAddress) -> StorageError:
    cause = error.__cause__
    if cause is None:
        return StorageError(
            f"{store}: its Sentinels know no master of that name that is up",
            hint="check the service's name; if it's right, its master is down: start it, or wait "
            "till they have promoted a replica, if one is up",
        )
    told = str(cause)
    found = _SENTINELS.get(_word(cause, told))
    if found is not None:
        return StorageError(f"{store}: its Sentinels {found[0]}", hint=found[1])
    if "unknown command" in told and "SENTINEL" in told.upper():
        return StorageError(
            f"{store}: what is there is no Sentinel",
            hint="name Sentinels in storage.url (port 26379), or write redis:// for one server",
        )
    return StorageError(
        f"{store}: none of its Sentinels can be reached: {_line(told)}",
        hint=f"see that they run, and that this machine reaches them; {_TLS_HINTS[address.tls]}",
    )


def _too_late(error: Exception, store: str, address: RedisAddress) -> StorageError:
    if address.tls and str(error) == _CONNECTING:
        return StorageError(
            f"{store} didn't answer in time while TLS was begun",
            hint="see that it isn't stopped or far away, and that this port of it speaks TLS",
        )
    return StorageError(
        f"{store} didn't answer in time",
        hint="see whether it is overloaded or stopped, and how far away it is",
    )


def _unreached(error: Exception, store: str, told: str, address: RedisAddress) -> StorageError:
    if isinstance(error, exceptions.RedisClusterException):
        return _no_cluster(error, store, told, address)
    if isinstance(error, exceptions.ConnectionError | OSError):
        return StorageError(
            f"{store} can't be reached: {told[:200]}",
            hint=f"see that it runs, and that this machine reaches it; {_TLS_HINTS[address.tls]}",
        )
    kind = "" if isinstance(error, exceptions.RedisError) else f"{type(error).__name__}: "
    return StorageError(f"{store} failed: {kind}{told[:200]}")


def _no_cluster(error: Exception, store: str, told: str, address: RedisAddress) -> StorageError:
    # The client says that it's no Cluster whatever else a node has refused with.
    for cause in causes(error):
        if isinstance(cause, exceptions.RedisClusterException):
            continue
        if "cluster support disabled" in str(cause).lower():
            return StorageError(
                f"{store} is no Cluster", hint="write redis:// for a single server in storage.url"
            )
        found = _SAID.get(_word(cause, str(cause)))
        if found is not None:
            return StorageError(f"{store} {found[0]}", hint=found[1])
    return StorageError(
        f"{store}: none of its nodes can be used: {_line(told)}",
        hint="see redis-cli --cluster check, and that this machine reaches its nodes; "
        f"{_TLS_HINTS[address.tls]}",
    )


def _line(told: str) -> str:
    return " ".join(told.split())[:200]


def _word(error: BaseException, told: str) -> str:
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
        exceptions.TryAgainError: "TRYAGAIN",
        exceptions.AskError: "TRYAGAIN",  # and MovedError
        exceptions.ClusterError: "TRYAGAIN",  # after many of these
    }
    for kind, word in kinds.items():
        if isinstance(error, kind):
            return word
    return told.split(maxsplit=1)[0] if told else ""
