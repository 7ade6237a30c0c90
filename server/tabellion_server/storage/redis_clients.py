"""The client library's part: a client for one server, for Sentinels or for a Cluster."""

from __future__ import annotations

import ssl
from typing import Any, Final

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import NoBackoff

from tabellion_server.storage.redis_address import RedisAddress
from tabellion_server.storage.redis_tls import TlsConnection, TlsMasterConnection

Options = dict[str, Any]

_CONNECT_SECONDS: Final = 2.0


class Sentinels(Sentinel):
    """Sentinels who, if none names a master, leave why as the error's cause."""

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Ask one after the other; who answered is asked first the next time.

        Raises:
            MasterNotFoundError: None names one; caused by why one couldn't be asked, if all
                couldn't.
        """
        problem: Exception | None = None
        answered = False
        for number, sentinel in enumerate(self.sentinels):
            try:
                masters: Any = await sentinel.sentinel_masters()
            except (exceptions.RedisError, OSError) as error:
                problem = problem or error
                continue
            answered = True
            state = masters.get(service_name)
            if state and self.check_master_state(state, service_name):
                self.sentinels.insert(0, self.sentinels.pop(number))
                return state["ip"], state["port"]
        raise MasterNotFoundError(service_name) from (None if answered else problem)


def single_client(address: RedisAddress, tls: ssl.SSLContext | None) -> Redis:
    """Make a client for one server; it connects when it's first used."""
    ((host, port),) = address.hosts
    pool = ConnectionPool(
        host=host, port=port, db=address.database, retry=_never(), **_options(address, tls)
    )
    return Redis.from_pool(pool)


def sentinel_clients(address: RedisAddress, tls: ssl.SSLContext | None) -> tuple[Sentinels, Redis]:
    """Make one for Sentinels, and one for the master that they name: both speak TLS, or neither."""
    options = _options(address, tls)
    asked = {
        **options,
        "username": address.sentinel_username,
        "password": address.sentinel_password,
    }
    sentinels = Sentinels([], **options)  # type: ignore[no-untyped-call]
    sentinels.sentinels = [
        Redis.from_pool(ConnectionPool(host=host, port=port, retry=_never(), **asked))
        for host, port in address.hosts
    ]
    more: Options = {"db": address.database, "retry": _never()}
    if tls is not None:
        more["connection_class"] = TlsMasterConnection
    return sentinels, sentinels.master_for(address.service, **more)


def cluster_client(
    address: RedisAddress, tls: ssl.SSLContext | None, *, connections: int
) -> RedisCluster:
    """Make one for a Cluster, with so many connections to each node at most."""
    options = _options(address, None)
    cluster = RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in address.hosts],
        retry=_never(),
        max_connections=connections,
        **options,
    )
    if tls is not None:
        # It takes no context of ours; it makes all later nodes with these options.
        cluster.connection_kwargs.update(connection_class=TlsConnection, tls=tls)
        nodes = [
            ClusterNode(host, port, **cluster.connection_kwargs) for host, port in address.hosts
        ]
        cluster.nodes_manager.startup_nodes = {node.name: node for node in nodes}
    return cluster


def _options(address: RedisAddress, tls: ssl.SSLContext | None) -> Options:
    options: Options = {
        "username": address.username,
        "password": address.password,
        "socket_timeout": address.timeout_seconds,
        "socket_connect_timeout": min(address.timeout_seconds, _CONNECT_SECONDS),
        "protocol": 2,
    }
    if tls is not None:
        options |= {"connection_class": TlsConnection, "tls": tls}
    return options


def _never() -> Retry:
    return Retry(NoBackoff(), 0)
