"""Whether the servers keep what the store promises: looked at when it's opened, told in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Literal

from tabellion_server.logs import log
from tabellion_server.storage.interface import StorageError
from tabellion_server.storage.redis_link import RedisLink, Reply

Durability = Literal["always", "everysec", "none"]

_ORDER: Final[tuple[Durability, ...]] = ("none", "everysec", "always")
# In the server's words, or in those of the client, which takes them apart.
_ONLINE: Final = re.compile(r"state\W+online")
_MIN_MAJOR: Final = 7
_LOSES: Final[dict[Durability, str]] = {
    "everysec": "a crash of its machine may lose the newest second or two of what was acknowledged "
    "(appendfsync isn't always)",
    "none": "a crash or a restart may lose all since its last snapshot (appendonly isn't yes, or "
    "appendfsync is no)",
}


async def check_servers(link: RedisLink, stated: Durability | None) -> Durability:
    """Look at each master; give the least that they promise.

    What is found is logged unless it's the most, and so are replicas that aren't there. What can't
    be looked at, as many providers forbid CONFIG, has to be stated.

    Args:
        link: The way there.
        stated: What the operator demands, or vouches for.

    Raises:
        StorageError: A server is too old, no master, may evict keys, takes writes with fewer
            replicas than must have them, or promises less than stated; or nothing is stated of one
            that can't be looked at.
    """
    found: Durability = "always"
    configs: list[dict[str, str]] = []
    for run in await link.masters():
        name = link.address.name
        _check_server(name, _fields(await run("INFO", "server")), await run("ROLE"))
        try:
            config = _config(await run("CONFIG", "GET", "*a*"))
        except StorageError as error:
            if stated is None:
                raise StorageError(
                    f"store {name} doesn't tell its configuration: {error.message}",
                    hint="say in storage.durability what it promises: always, everysec or none",
                ) from error
            config = {}
        if link.replicas:
            _tell_replicas(link, _fields(await run("INFO", "replication")))
        _check_eviction(name, config)
        configs.append(config)
        if config:
            found = min(found, _promised(config), key=_ORDER.index)
        elif stated is not None:
            found = min(found, stated, key=_ORDER.index)
    if link.replicas:
        _check_replicas(link, configs)
    if stated is not None and _ORDER.index(found) < _ORDER.index(stated):
        raise StorageError(
            f"store {link.address.name} promises less than storage.durability = {stated!r}: "
            f"{_LOSES[found]}",
            hint="set appendonly yes and appendfsync always there, or say what may be lost",
        )
    if found != "always":
        log().warning(
            "store.durability",
            durability=found,
            problem=f"store {link.address.name}: {_LOSES[found]}",
            hint="appendonly yes and appendfsync always keep all; versions are never given out "
            "twice either way",
        )
    return found


def _check_eviction(name: str, config: dict[str, str]) -> None:
    policy = config.get("maxmemory-policy", "noeviction")
    if policy != "noeviction":
        raise StorageError(
            f"store {name} drops keys when its memory is full (maxmemory-policy {policy})",
            hint="set maxmemory-policy noeviction: what is signed must not vanish",
        )


def _check_replicas(link: RedisLink, configs: Sequence[dict[str, str]]) -> None:
    """Demand that a master with too few replicas begins nothing: what it has done is read."""
    found = [config.get("min-replicas-to-write") for config in configs]
    told = [int(value) for value in found if value is not None]
    if min(told, default=link.replicas) < link.replicas:
        raise StorageError(
            f"store {link.address.name} has min-replicas-to-write {min(told)}, less than "
            f"storage.replicas = {link.replicas}: it would take what can't be acknowledged, and "
            "show it to readers",
            hint=f"CONFIG SET min-replicas-to-write {link.replicas}, and that line in redis.conf, "
            "on every server that may become a master",
        )
    if len(told) < len(found):
        log().warning(
            "store.replicas",
            problem=f"store {link.address.name} doesn't tell whether it has "
            f"min-replicas-to-write {link.replicas}, which storage.replicas needs: else it takes "
            "what can't be acknowledged, and readers see it",
            hint="have your provider set it on every server that may become a master",
        )


def _tell_replicas(link: RedisLink, info: dict[str, str]) -> None:
    online = sum(
        name.startswith("slave") and _ONLINE.search(info[name]) is not None for name in info
    )
    if online < link.replicas:
        log().warning(
            "store.replicas",
            problem=f"store {link.address.name} has {online} of the {link.replicas} replicas that "
            "storage.replicas asks for: nothing can be acknowledged",
            hint="see why its replicas don't follow, or lower storage.replicas",
        )


def _check_server(name: str, info: dict[str, str], role: Reply) -> None:
    version = info.get("valkey_version") or info.get("redis_version", "0")
    major = version.partition(".")[0]
    if not major.isdigit() or int(major) < _MIN_MAJOR:
        raise StorageError(
            f"store {name} is version {version}", hint=f"use Redis {_MIN_MAJOR} or later, or Valkey"
        )
    if role[0] != b"master":
        raise StorageError(
            f"store {name} is a replica, which takes no writes",
            hint="set storage.url to the master, or to its Sentinels",
        )


def _promised(config: dict[str, str]) -> Durability:
    if config.get("appendonly") != "yes" or config.get("appendfsync") == "no":
        return "none"
    return "always" if config.get("appendfsync") == "always" else "everysec"


def _fields(text: bytes | dict[str, Any]) -> dict[str, str]:
    if isinstance(text, dict):
        return {name: str(value) for name, value in text.items()}
    lines = (line.partition(":") for line in text.decode().splitlines())
    return {name: value for name, _, value in lines}


def _config(answer: Reply) -> dict[str, str]:
    flat = (
        answer.items() if isinstance(answer, dict) else zip(answer[::2], answer[1::2], strict=True)
    )
    return {_text(name): _text(value) for name, value in flat}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
