"""Proxies of the environment: ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY``, ``NO_PROXY``.

aiohttp would read them itself, but it sends loopback through them too, and passwords from
``~/.netrc`` to whatever server is asked.
"""

from __future__ import annotations

import contextlib
import ipaddress
from urllib.request import getproxies, proxy_bypass

from yarl import URL

from tabellion.errors import ConfigurationError


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
    """Tell whether ``host[:port]`` is this machine: ``localhost``, 127.0.0.0/8 or ``[::1]``."""
    name = host
    if host.startswith("["):
        name = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        name = host.partition(":")[0]
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
