"""PostgreSQL's failures in our words: what was found, and what to do next."""

from __future__ import annotations

import ssl
from typing import Final

import asyncpg

from tabellion_server.storage.interface import StorageError, StoreCorruptionError

MIGRATE: Final = "run: tabellion-server migrate --config FILE"
_BY_ITSELF: Final = "it's tried again by itself; its server's log tells why if that lasts"
# OpenSSL's codes of what is wrong with a certificate, where it isn't its CA.
_EXPIRED: Final = (9, 10)
_ANOTHER_HOST: Final = (62, 64)
_UNPOOLED: Final = "set storage.prepared_statements = false"
_STANDBY: Final = (
    "is a standby: readers could be shown what is old",
    "have storage.url name the primary, or all servers: HOST1:PORT,HOST2:PORT",
)
# SQLSTATE to what is told, behind "store NAME ", and the hint.
_STATES: Final[dict[str, tuple[str, str]]] = {
    # Of PgBouncer's failures all have this one.
    "08P01": (
        "isn't reached through its connection pooler",
        "see the log of the pooler, its limits, and that PostgreSQL runs behind it",
    ),
    "26000": ("is behind a connection pooler that loses prepared statements", _UNPOOLED),
    "42P05": ("is behind a connection pooler that mixes up prepared statements", _UNPOOLED),
    "25006": (
        "is read-only",
        "make it writable (default_transaction_read_only?), or have storage.url name the primary",
    ),
    "28000": (
        "refuses this user",
        "check the user, sslmode, sslcert and sslkey in storage.url, and pg_hba.conf",
    ),
    "28P01": (
        "refuses the password",
        "check the user in storage.url, and storage.password_file, PGPASSWORD or PGPASSFILE",
    ),
    "3D000": ("doesn't exist", "make it: createdb NAME; or mend the database in storage.url"),
    "3F000": ("has no tables of Tabellion's", MIGRATE),
    "42P01": ("has no tables of Tabellion's", MIGRATE),
    "42703": ("has other tables than this release needs", MIGRATE),
    "42501": (
        "doesn't give this user its rights",
        "let the user that migrated serve, or grant this one all tables of schema tabellion",
    ),
    "53100": ("has no space left", "free some space on the disk of its server"),
    "53200": ("is out of memory", "give its server more memory, or fewer connections"),
    "53300": (
        "has no connection left",
        "raise its server's max_connections, or lower storage.connections of the nodes",
    ),
    "55P03": ("stayed locked by another node", "see pg_stat_activity for who waits for whom"),
    "57014": ("is too slow", "see how busy its server and its disk are"),
    "57P01": ("is restarting", _BY_ITSELF),
    "57P02": ("is restarting", _BY_ITSELF),
    "57P03": ("is starting or stopping", _BY_ITSELF),
}
_DAMAGED: Final = ("XX001", "XX002")
_LOST: Final = (
    OSError,
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.ConnectionFailureError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.ProtocolViolationError,  # PgBouncer's: it lost its server
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)


def storage_error(error: BaseException, name: str) -> StorageError:
    """Turn a failure of PostgreSQL, its driver or the network into ours.

    Args:
        error: The failure.
        name: The store's name as it may be told.
    """
    if isinstance(error, StorageError):
        return error
    state = getattr(error, "sqlstate", None)
    if state in _DAMAGED:
        return StoreCorruptionError(f"store {name} is damaged: {error}")
    told, hint = _words(error, state)
    return StorageError(f"store {name} {told}", hint=hint)


def _words(error: BaseException, state: str | None) -> tuple[str, str]:
    if isinstance(error, TimeoutError):
        state, error = "57014", TimeoutError("no answer in time")
    if state in _STATES:
        told, hint = _STATES[state]
        return f"{told}: {error}", hint
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched) or (
        isinstance(error, asyncpg.FeatureNotSupportedError) and "during recovery" in str(error)
    ):
        return _STANDBY
    if isinstance(error, asyncpg.ClientConfigurationError | OSError):
        return _unconnected(error)
    if "statement pooling" in str(error):
        return (
            "is behind a connection pooler that allows no transactions",
            "set pool_mode = transaction (or session) there",
        )
    if isinstance(error, _LOST):
        return f"broke the connection: {error}", _BY_ITSELF
    return f"failed: {error}", StorageError.default_hint


def _unconnected(error: OSError | ValueError) -> tuple[str, str]:
    """Tell why no connection comes about."""
    if isinstance(error, asyncpg.ClientConfigurationError):
        return (
            f"can't be connected to as storage.url says: {error.args[0]}",
            "mend its options; TLS wants sslrootcert=FILE, the CA of the server's certificate",
        )
    if isinstance(error, ssl.SSLError):
        return _untrusted(error)
    if isinstance(error, ConnectionError) and "rejected SSL" in str(error):
        return (
            "doesn't speak TLS, which sslmode in storage.url asks for",
            "turn it on there (ssl = on), or change sslmode",
        )
    if isinstance(error, FileNotFoundError):  # of the two it doesn't say which
        return (
            f"can't be reached: {error.strerror}",
            "see that sslrootcert, sslcert, sslkey, or the socket, are where storage.url says",
        )
    return (
        f"can't be reached: {getattr(error, 'strerror', None) or error}",
        "see that PostgreSQL runs there and lets this machine in",
    )


def _untrusted(error: ssl.SSLError) -> tuple[str, str]:
    """Tell what of the certificates keeps TLS from coming about."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"can't be spoken to by TLS: {error.reason or error}",
            "see that sslrootcert, sslcert and sslkey are PEM, and the key the certificate's",
        )
    told = f"shows a certificate that isn't trusted: {error.verify_message}"
    if error.verify_code in _EXPIRED:
        return told, "renew the certificate of its server, and see that the clocks are right"
    if error.verify_code in _ANOTHER_HOST:
        return told, "have storage.url name the host as its certificate does"
    return told, "have sslrootcert in storage.url name the CA that issued it"


def is_of_content(error: StorageError) -> bool:
    """Tell whether what was to be written may be at fault, and not the database."""
    cause = error.__cause__
    return isinstance(cause, (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError))


def is_connection_lost(error: BaseException) -> bool:
    """Tell whether a connection has gone, which says nothing about a new one."""
    return isinstance(error, _LOST) and not isinstance(error, TimeoutError)
