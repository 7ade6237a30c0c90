"""Kinds of values that the configuration holds: each read strictly, a ValueError says why not."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"([1-9][0-9]{0,8})([smhd])")
_AGE = re.compile(r"([0-9]{1,8})([smhd])")
_MAX_AGE: Final = timedelta(days=365)
_MAX_PORT: Final = 65535
_MAX_COUNT: Final = 10**12 - 1


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Tell whether only this machine reaches it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def _text(value: object, _folder: Path) -> str:
    if not isinstance(value, str) or not value:
        is_empty = value == ""
        raise ValueError("it's empty; leave it out" if is_empty else "give a text in quotes")
    return value


def _path(value: object, folder: Path) -> Path:
    text = _text(value, folder)
    if "\0" in text:
        raise ValueError("a path can't hold a NUL")
    try:
        return folder / Path(text).expanduser()
    except RuntimeError as error:  # ~name of nobody
        raise ValueError(f"{text!r}: {error}") from error


def _count(value: object, _folder: Path) -> int:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,12}", value):
        value = int(value)
    if type(value) is not int or not 1 <= value <= _MAX_COUNT:
        raise ValueError(f"give a whole number from 1 to {_MAX_COUNT}")
    return value


def _flag(value: object, _folder: Path) -> bool:
    if value is True or value == "true":
        return True
    if value is False or value == "false":
        return False
    raise ValueError("give true or false")


def _span(value: object, folder: Path) -> str:
    if type(value) is int:
        raise ValueError(f'give it in quotes and with its unit: "{value}s" for seconds')
    text = _text(value, folder)
    if text.isdigit():
        raise ValueError(f'give it with its unit: "{text[:20]}s" for seconds')
    return text


def _duration(value: object, folder: Path) -> timedelta:
    match = _DURATION.fullmatch(_span(value, folder))
    if match is None or int(match[1]) * _UNITS[match[2]] > 36500 * 86400:
        raise ValueError("give a duration above 0s, such as 90s, 30m, 12h or 30d")
    return timedelta(seconds=int(match[1]) * _UNITS[match[2]])


def _age(value: object, folder: Path) -> timedelta:
    match = _AGE.fullmatch(_span(value, folder))
    age = timedelta(seconds=int(match[1]) * _UNITS[match[2]]) if match else None
    if age is None or age > _MAX_AGE:
        raise ValueError("give a duration from 0s to 365d")
    return age


def _prefixes(value: object, folder: Path) -> tuple[str, ...]:
    found: list[str] = []
    for item in value if isinstance(value, list) else [value]:
        text = _text(item, folder).strip()
        if not text.endswith("/") or text.startswith("/") or ".." in text:
            raise ValueError(f"{text!r} has to end with '/', not begin with it, and hold no '..'")
        found.append(text)
    return tuple(found)


def _addresses(value: object, folder: Path) -> tuple[Address, ...]:
    items = value if isinstance(value, list) else [value]
    if not items:
        raise ValueError("give at least one host:port")
    found: list[Address] = []
    faults: list[str] = []
    for item in items:
        try:
            found.append(_address(_text(item, folder).strip()))
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise ValueError("; ".join(faults))
    return tuple(found)


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r}: write an IPv6 address as [::1]:4443")
    if not host and port:
        raise ValueError(
            f"{text!r}: write 0.0.0.0:{port} for all addresses, 127.0.0.1:{port} for one"
        )
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > _MAX_PORT:
        raise ValueError(f"{text!r} isn't host:port")
    return Address(host, int(port))


CONVERT: Final = {
    "text": _text,
    "path": _path,
    "count": _count,
    "flag": _flag,
    "duration": _duration,
    "age": _age,
    "prefixes": _prefixes,
    "addresses": _addresses,
}
