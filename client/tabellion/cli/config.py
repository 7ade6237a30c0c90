"""The configuration file ``client.toml``: read whole, all faults reported at once."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabellion.errors import ConfigurationError

if TYPE_CHECKING:
    from tabellion.core.pinning import TrustPinning

_TEXT_KEYS = ("server", "home", "ca", "engine", "offline", "trust_pinning_file")
_PATH_KEYS = ("home", "ca", "trust_pinning_file")
_LIST_KEYS = ("insecure_registries",)
_ENGINES = ("docker", "podman", "nerdctl")
_PREFIX = "TABELLION_CLIENT__"


@dataclass(frozen=True)
class ClientConfig:
    """Sections ``[client]`` and ``[trust_pinning]``; None where nothing is said."""

    server: str | None = None
    home: str | None = None
    ca: str | None = None
    engine: str | None = None
    offline: str | None = None
    trust_pinning_file: str | None = None
    insecure_registries: tuple[str, ...] = ()
    trust_pinning: TrustPinning | None = None


def load_config(path: Path | None, environ: Mapping[str, str] | None = None) -> ClientConfig:
    """Read a file, or the default one if it's there, and the ``TABELLION_CLIENT__*`` variables.

    Raises:
        ConfigurationError: Names every unknown key and wrong value, with its line.
    """
    text, where = _read(path)
    content = _parse(text, where) if text else {}
    faults: list[str] = []
    client = content.get("client", {})
    if not isinstance(client, dict):
        client = {}
        faults.append(f"{where}:{_line(text, 'client')}: client isn't a section")
    values: dict[str, Any] = {}
    for key, value in client.items():
        fault = _fault(key, value)
        if fault:
            faults.append(f"{where}:{_line(text, key)}: client.{key} {fault}")
        elif key in _PATH_KEYS:
            values[key] = str(where.parent / Path(value).expanduser())
        else:
            values[key] = tuple(value) if key in _LIST_KEYS else value
    faults.extend(
        f"{where}:{_line(text, section)}: unknown section or key {section!r}"
        for section in content
        if section not in {"client", "trust_pinning"}
    )
    try:
        values["trust_pinning"] = _trust_pinning(content, where)
    except ConfigurationError as error:
        faults.append(error.message)
    for name, value in sorted((os.environ if environ is None else environ).items()):
        if name.startswith(_PREFIX):
            key = name.removeprefix(_PREFIX).lower()
            parsed = [p for p in value.split(",") if p] if key in _LIST_KEYS else value
            fault = _fault(key, parsed)
            if fault:
                faults.append(f"{name}: {fault}")
            else:
                values[key] = tuple(parsed) if isinstance(parsed, list) else parsed
    if faults:
        raise ConfigurationError("; ".join(faults), hint="see config/client.toml for all keys")
    return ClientConfig(**values)


def _read(path: Path | None) -> tuple[str, Path]:
    if path is None:
        import platformdirs  # noqa: PLC0415  # not needed for help

        path = platformdirs.user_config_path("tabellion") / "client.toml"
        if not path.is_file():
            return "", path
    try:
        return path.read_text(encoding="utf-8"), path
    except (OSError, UnicodeDecodeError) as error:
        reason = str(error.strerror).lower() if isinstance(error, OSError) else "not UTF-8"
        raise ConfigurationError(
            f"configuration file {str(path)!r} can't be read: {reason}",
            hint="check --config or TABELLION_CONFIG",
        ) from None


def _parse(text: str, where: Path) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415  # not needed without a file

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(
            f"{where}: not TOML: {error}", hint="see config/client.toml for an example"
        ) from None


def _trust_pinning(content: Mapping[str, Any], where: Path) -> TrustPinning | None:
    if "trust_pinning" not in content:
        return None
    from tabellion.verify.pins import read_pinning  # noqa: PLC0415  # slow, rarely needed

    return read_pinning(content["trust_pinning"], where=where)


def _fault(key: str, value: object) -> str:
    if key in _LIST_KEYS:
        is_good = isinstance(value, list) and all(isinstance(item, str) for item in value)
        return "" if is_good else "must be a list of strings"
    if key not in _TEXT_KEYS:
        return f"isn't known (known: {', '.join((*_TEXT_KEYS, *_LIST_KEYS))})"
    if not isinstance(value, str) or not value:
        return "must be a string that isn't empty"
    if key == "engine" and value not in _ENGINES:
        return f"is {value!r}, must be {', '.join(_ENGINES)}"
    if key == "offline" and value not in {"deny", "last-known"}:
        return f"is {value!r}, must be deny or last-known"
    return ""


def _line(text: str, key: str) -> int:
    pattern = re.compile(rf"\s*\[*\s*[\"']?{re.escape(key)}\b")
    for number, line in enumerate(text.splitlines(), 1):
        if pattern.match(line):
            return number
    return 1
