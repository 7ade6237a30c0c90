"""Proxies of the environment: ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY``, ``NO_PROXY``.

aiohttp would read them itself, but it sends loopback through them too, and passwords from
``~/.netrc`` to whatever server is asked.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from typing import Final
from urllib.request import getproxies, proxy_bypass

from yarl import URL

from tabellion.errors import ConfigurationError

_V4: Final = 4
_V6: Final = 6
_LOOPBACK_V6: Final = ipaddress.IPv6Address("::1")
_NAMES_HERE: Final = frozenset(  # as systems' own tables of hosts have them
    {
        *("localhost", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback"),
        *("localhost.localdomain", "localhost4.localdomain4", "localhost6.localdomain6"),
    }
)
_THIS_NETWORK: Final = ipaddress.IPv4Network("0.0.0.0/8")


def proxy_of(url: URL) -> URL | None:
    """Give the proxy to reach ``url`` through; never one for this very machine.

    Raises:
        ConfigurationError: The variable doesn't hold the URL of an http proxy.
    """
    host = url.host or ""
    if is_loopback(host) or proxy_bypass(f"{host}:{url.port}"):
        return None
    proxies = getproxies()
    text = proxies.get(url.scheme) or proxies.get("all")
    if not text:
        return None
    with contextlib.suppress(ValueError):
        proxy = URL(text if "://" in text else f"http://{text}")
        if proxy.scheme == "http" and proxy.host:
            return proxy
    # Its text isn't shown: it may hold a password.
    raise ConfigurationError(
        f"the proxy for {url.scheme} in the environment isn't an http proxy",
        hint="set HTTPS_PROXY or HTTP_PROXY to http://host:port, or unset it",
    )


def is_loopback(host: str) -> bool:
    """Tell whether ``host[:port]`` is plainly here: ``localhost``, 127.0.0.0/8 or ``[::1]``.

    Other spellings, which a resolver may or may not take for it, are not: whatever is trusted for
    being here has to be here for everybody who reads the name.
    """
    name, rest = host, ""
    if host.startswith("["):
        name, _, rest = host[1:].partition("]")
    elif host.count(":") == 1:
        name = host.partition(":")[0]
    if rest and not rest.startswith(":"):
        return False
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    # Pythons differ on mapped addresses; one with a zone isn't equal.
    return address == _LOOPBACK_V6 if address.version == _V6 else address.is_loopback


def may_be_here(name: str) -> bool:
    """Tell whether a host, without port or brackets, may lead to this machine by its mere spelling.

    Wider than ``is_loopback``, for what must not be reached: ``0.0.0.0``, ``127.1``,
    ``2130706433``, ``localhost.``, mapped addresses and the like.
    """
    plain = name.lower().rstrip(".").partition("%")[0]
    if plain in _NAMES_HERE or plain.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(plain)
    except ValueError:
        try:
            address = ipaddress.ip_address(socket.inet_aton(plain))  # as resolvers read numbers
        except (OSError, ValueError):
            return False
    found = getattr(address, "ipv4_mapped", None) or address
    in_this_network = found.version == _V4 and found in _THIS_NETWORK
    return found.is_loopback or found.is_unspecified or in_this_network
