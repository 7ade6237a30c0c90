"""``storage.url`` of Redis and Valkey: one server, a service of Sentinels, or a Cluster.

::

    redis://[USER:PASSWORD@]HOST[:PORT]/[DATABASE]
    redis+sentinel://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT].../SERVICE[/DATABASE]
    redis+cluster://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT]...

``rediss`` instead of ``redis`` speaks TLS; ``valkey`` and ``valkeys`` mean the same two.
Options: ``?prefix=NAME`` before each key, ``&timeout=SECONDS`` for an answer, and
``&sentinel_user=NAME`` for the user as whom Sentinels are asked: theirs are users of their own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

Topology = Literal["single", "sentinel", "cluster"]

_SCHEME = re.compile(r"(redis|valkey)(s?)(?:\+(sentinel|cluster))?")
_PREFIX = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]/@]+))(?::([0-9]{1,5}))?")
_TOPOLOGIES: Final[dict[str, Topology]] = {
    "": "single",
    "sentinel": "sentinel",
    "cluster": "cluster",
}
_PORTS: Final = {"single": 6379, "sentinel": 26379, "cluster": 6379}
_MAX_TIMEOUT: Final = 60.0
_OWN_PREFIX: Final = "tabellion"


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a store is.

    Attributes:
        topology: One server, a service of Sentinels, or a Cluster.
        hosts: Host and port of the server, of the Sentinels, or of some nodes of the Cluster.
        service: The Sentinels' name of the service.
        database: Its number.
        username: None for the default user.
        password: None for none.
        sentinel_username: As whom Sentinels are asked; None for the default user.
        sentinel_password: None for none.
        tls: Whether TLS is spoken, with Sentinels too.
        prefix: How each key begins.
        timeout_seconds: How long an answer may take.
    """

    topology: Topology
    hosts: tuple[tuple[str, int], ...]
    service: str = ""
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    tls: bool = False
    prefix: str = _OWN_PREFIX
    timeout_seconds: float = 3.0

    @property
    def name(self) -> str:
        """Give what it's called in messages: it has no password."""
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        kind = {"single": "", "sentinel": f" (service {self.service})", "cluster": " (cluster)"}
        part = f"/{self.database}" if self.database else ""
        if self.prefix != _OWN_PREFIX:
            part += f"?prefix={self.prefix}"
        return f"{hosts}{part}{kind[self.topology]}"


def parse_redis_url(url: str) -> RedisAddress:
    """Parse an address.

    Raises:
        ValueError: With what is wrong; the address isn't repeated, as it may hold a password.
    """
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    except ValueError:
        raise ValueError("it isn't an address") from None
    scheme = _SCHEME.fullmatch(parts.scheme)
    if scheme is None or parts.fragment:
        raise ValueError("it isn't an address of Redis or Valkey")
    topology = _TOPOLOGIES[scheme[3] or ""]
    credentials, _, places = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    hosts = _hosts(places, _PORTS[topology])
    if topology == "single" and len(hosts) != 1:
        raise ValueError("several hosts are for redis+sentinel:// or redis+cluster://")
    path = [unquote(part) for part in parts.path.split("/") if part]
    service = ""
    if topology == "sentinel":
        if not path:
            raise ValueError("give the Sentinels' service: redis+sentinel://HOST,HOST/SERVICE")
        service = path.pop(0)
    if len(path) > 1 or not all(re.fullmatch(r"[0-9]{1,5}", part) for part in path):
        raise ValueError("behind the hosts there's only the number of a database")
    database = int(path[0]) if path else 0
    if topology == "cluster" and database:
        raise ValueError("a Cluster has database 0 only")
    prefix = options.pop("prefix", _OWN_PREFIX)
    if not _PREFIX.fullmatch(prefix):
        raise ValueError("a prefix has letters, digits and _ . : -")
    timeout = _seconds(options.pop("timeout", "3"))
    sentinel_user = _sentinel_user(options, topology)
    if options:
        known = "prefix, timeout and, for Sentinels, sentinel_user"
        raise ValueError(f"there's no option {min(options)}; there are {known}")
    return RedisAddress(
        topology,
        hosts,
        service=service,
        database=database,
        username=unquote(username) or None,
        password=unquote(password) or None,
        sentinel_username=sentinel_user,
        tls=scheme[2] == "s",
        prefix=prefix,
        timeout_seconds=timeout,
    )


def _hosts(places: str, port: int) -> tuple[tuple[str, int], ...]:
    found: list[tuple[str, int]] = []
    for place in places.split(","):
        match = _HOST.fullmatch(place)
        if match is None or not 0 < int(match[3] or port) < 2**16:
            raise ValueError("give hosts as HOST:PORT")
        found.append((match[1] or match[2], int(match[3] or port)))
    return tuple(found)


def _sentinel_user(options: dict[str, str], topology: Topology) -> str | None:
    if "sentinel_user" in options and topology != "sentinel":
        raise ValueError("sentinel_user is for redis+sentinel://")
    return options.pop("sentinel_user", None)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,2}(\.[0-9]{1,3})?", text) or not 0 < float(text) <= _MAX_TIMEOUT:
        raise ValueError(f"a timeout is a number of seconds up to {_MAX_TIMEOUT:g}")
    return float(text)
