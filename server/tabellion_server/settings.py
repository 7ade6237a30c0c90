"""The server's configuration: TOML and ``TABELLION_SECTION__KEY`` into frozen dataclasses.

All faults of a file are reported at once, each with its line and key; unknown keys are faults.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from tabellion.errors import ConfigurationError, KeyStoreError
from tabellion.signers.uris import parse_signer_uri
from tabellion_server.settings_notary import our_word_for
from tabellion_server.settings_storage import misplaced, shown_url, sqlite_file
from tabellion_server.settings_values import CONVERT, Address
from tabellion_server.token_auth import NO_AUTH, TokenAuth, read_token_auth

_MIB: Final = 1024 * 1024
_LISTS: Final = frozenset({"addresses", "prefixes"})
_MAX_WORKERS: Final = 64
_MIN_TOKEN: Final = 16
_NO_LINE: Final = 2**31  # behind all lines
_MIN_CONNECTIONS: Final = 3  # for small and large publications, and one to read
# Section to key to kind of value; what isn't here is a fault.
_KNOWN: Final[Mapping[str, Mapping[str, str]]] = {
    "server": {
        "listen": "addresses",
        "workers": "count",
        "write_token_file": "path",
        "max_body_bytes": "count",
        "connections": "count",
        "client_seconds": "count",
        "shutdown_seconds": "count",
        "log_format": "text",
        "log_level": "text",
    },
    "server.tls": {"certificate": "path", "key": "path"},
    "storage": {
        "url": "text",
        "serve_known": "age",
        "cache_bytes": "count",
        "password_file": "path",
        "sentinel_password_file": "path",
        "connections": "count",
        "prepared_statements": "flag",
        "ca_file": "path",
        "durability": "text",
        "replicas": "count",
    },
    "keys": {
        "master_key_file": "path",
        "high_water_file": "path",
        "timestamp_signer": "text",
        "snapshot_signer": "text",
        "rotate_after": "duration",
    },
    "expiry": {
        "timestamp": "duration",
        "snapshot": "duration",
        "pending": "duration",
        "warn": "duration",
        "critical": "duration",
    },
    "auth": {
        "type": "text",
        "realm": "text",
        "service": "text",
        "issuer": "text",
        "root_cert_bundle": "path",
        "auto_redirect": "flag",
    },
    "notary": {
        "timestamp": "duration",
        "snapshot": "duration",
        "gun_prefixes": "prefixes",
        "max_age_current": "age",
        "max_age_consistent": "age",
    },
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator decides; the defaults suit one machine and loopback.

    Attributes:
        listen: Addresses to accept connections on.
        workers: Processes that share the work.
        certificate: TLS certificate chain; None for plain HTTP.
        certificate_key: Its private key.
        write_token: What writers must send as a bearer token; None lets loopback write freely.
        max_body_bytes: Largest publication.
        client_connections: How many clients' connections each process holds at most.
        client_seconds: How long a client may take to send a request's head, or to take nothing of
            its answer.
        shutdown_seconds: How long requests may take to finish after SIGTERM.
        log_format: ``console`` or ``json``.
        log_level: ``debug``, ``info``, ``warning`` or ``error``.
        storage_url: As configured.
        sqlite_path: The SQLite file; None where another engine keeps the store.
        storage_password_file: What holds the password for a shared engine; None for none.
        storage_sentinel_password_file: The same for the Sentinels of a Redis or Valkey.
        storage_connections: How many each process opens to it at most.
        storage_prepares: Statements may stay prepared there.
        storage_ca_file: Certificates that a Redis or Valkey's must come from; None: the system's.
        storage_durability: What a Redis or Valkey has to promise; None takes it as it is.
        storage_replicas: How many of its replicas must have a write before it's acknowledged.
        master_key_file: What seals the online keys.
        cache_bytes: How much of the files is held in memory; with what is parsed, twice that.
        serve_known: How long readers get what is known after a store's last answer.
        high_water_file: What tells that an old backup of the store was restored.
        rotate_after: How old the server's keys of a GUN get before new ones are proposed.
        online_signers: Role to signer URI, where new keys of the role live elsewhere.
        timestamp_life: From signing to expiry.
        snapshot_life: From signing to expiry.
        pending_life: How long a proposal waits for signatures.
        expiry_warn: How long before it expires a warning is due of what people have to renew.
        expiry_critical: The same for urgent.
        auth: Whose tokens are demanded; None demands none.
        is_open: Whoever reaches the server may write, from other machines too.
        notary_timestamp_life: The same for Notary GUNs.
        notary_snapshot_life: The same for Notary GUNs.
        gun_prefixes: How the name of every GUN here begins; none for any name.
        notary_max_age_current: How long caches may give a Notary GUN's current files; 0 for never.
        notary_max_age_consistent: The same for files asked for by hash or version.
    """

    listen: tuple[Address, ...] = (Address("127.0.0.1", 4443),)
    workers: int = 1
    certificate: Path | None = None
    certificate_key: Path | None = None
    write_token: str | None = field(default=None, repr=False)
    max_body_bytes: int = 16 * _MIB
    client_connections: int = 4096
    client_seconds: int = 30
    shutdown_seconds: int = 60
    log_format: str = "console"
    log_level: str = "info"
    storage_url: str = field(default="sqlite:///tabellion.db", repr=False)
    sqlite_path: Path | None = Path("tabellion.db")
    storage_password_file: Path | None = None
    storage_sentinel_password_file: Path | None = None
    storage_connections: int = 10
    storage_prepares: bool = True
    storage_ca_file: Path | None = None
    storage_durability: str | None = None
    storage_replicas: int = 0
    master_key_file: Path = Path("master.key")
    high_water_file: Path = Path("high-water.json")
    cache_bytes: int = 64 * _MIB
    serve_known: timedelta = timedelta(seconds=60)
    rotate_after: timedelta | None = None
    online_signers: Mapping[str, str] = field(default_factory=dict)
    timestamp_life: timedelta = timedelta(days=1)
    snapshot_life: timedelta = timedelta(days=30)
    pending_life: timedelta = timedelta(days=14)
    expiry_warn: timedelta = timedelta(days=30)
    expiry_critical: timedelta = timedelta(days=7)
    auth: TokenAuth | None = None
    is_open: bool = False
    notary_timestamp_life: timedelta = timedelta(days=14)
    notary_snapshot_life: timedelta = timedelta(days=1095)
    gun_prefixes: tuple[str, ...] = ()
    notary_max_age_current: timedelta = timedelta(seconds=300)
    notary_max_age_consistent: timedelta = timedelta(days=30)

    @property
    def store_name(self) -> str:
        """Give the store's name as it may be told: it has no password."""
        return str(self.sqlite_path or shown_url(self.storage_url))

    @property
    def is_loopback_only(self) -> bool:
        """Tell whether only this machine can reach the server."""
        return all(address.is_loopback for address in self.listen)


def load_settings(path: Path | None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read a configuration file and the environment. Blocks.

    Raises:
        ConfigurationError: With every fault, one a line.
    """
    environ = os.environ if environ is None else environ
    text = ""
    if path is not None:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"{path} can't be read: {error}", hint="give an existing file: --config FILE"
            ) from error
    reader = _Reader(path, text)
    reader.take_file()
    reader.take_environment(environ)
    settings = reader.settings()
    if reader.faults:
        raise ConfigurationError(
            "\n".join(reader.told()), hint="config/server.toml shows every key with its default"
        )
    return settings


class _Reader:
    """Collects values and faults; relative paths are relative to the file's folder."""

    def __init__(self, path: Path | None, text: str) -> None:
        self.name = str(path) if path else "configuration"
        self.folder = path.absolute().parent if path else Path.cwd()
        self.text = text
        self.faults: list[tuple[int, str]] = []
        self.lines: dict[str, int] = {}
        self.values: dict[str, Any] = {}
        self.places: dict[str, str] = {}

    def fault(self, key: str, problem: str) -> None:
        place = self.places.get(key, self.name)
        self.faults.append((self.lines.get(place, 0), f"{place}: {key}: {problem}"))

    def told(self) -> list[str]:
        """Give the faults by line, those of no line of the file behind them."""
        return [fault for _, fault in sorted(self.faults, key=lambda item: item[0] or _NO_LINE)]

    def take_file(self) -> None:
        try:
            content = tomllib.loads(self.text)
        except (ValueError, RecursionError) as error:  # also a number or a depth beyond bounds
            is_json = self.text.lstrip().startswith("{")
            more = "; it is JSON, as Notary's: server/MIGRATING.md has it key by key"
            told = f"{self.name}: not TOML: {error}" + (more if is_json else "")
            self.faults.append((1, told))
            return
        lines = _line_numbers(self.text)
        for section, body in _sections(content):
            if section and not body and section not in _KNOWN:
                self._place(section, lines)
                self.fault(section, "there is no such section")
            for name, value in body.items():
                key = f"{section}.{name}" if section else name
                self._place(key, lines)
                self._take(section, name, value)

    def _place(self, key: str, lines: Mapping[str, int]) -> None:
        place = f"{self.name}:{lines.get(key, 1)}"
        self.places[key], self.lines[place] = place, lines.get(key, 1)

    def take_environment(self, environ: Mapping[str, str]) -> None:
        for variable, value in environ.items():
            section, _, name = (
                variable.removeprefix("TABELLION_").lower().replace("__", ".").rpartition(".")
            )
            is_ours = variable.startswith("TABELLION_") and "__" in variable
            if not is_ours or section == "client":  # the command line's own
                continue
            self.places[f"{section}.{name}"] = variable
            is_list = _KNOWN.get(section, {}).get(name) in _LISTS and "," in value
            self._take(section, name, value.split(",") if is_list else value)

    def _take(self, section: str, name: str, value: object) -> None:
        key = f"{section}.{name}" if section else name
        kind = _KNOWN.get(section, {}).get(name)
        if kind is None:
            instead = our_word_for(key)
            self.fault(key, "there is no such key" + (f": {instead}" if instead else ""))
            return
        try:
            self.values[key] = CONVERT[kind](value, self.folder)
        except ValueError as error:
            self.fault(key, str(error))

    def settings(self) -> Settings:
        get, default = self.values.get, Settings()
        url = get("storage.url", default.storage_url)
        sqlite_path = default.sqlite_path
        try:
            sqlite_path = sqlite_file(url, self.folder)
        except ValueError as error:
            self.fault("storage.url", str(error))
        else:
            self._check_engine(url)
        settings = Settings(
            listen=get("server.listen", default.listen),
            workers=get("server.workers", default.workers),
            certificate=get("server.tls.certificate"),
            certificate_key=get("server.tls.key"),
            write_token=self._token(),
            max_body_bytes=get("server.max_body_bytes", default.max_body_bytes),
            client_connections=get("server.connections", default.client_connections),
            client_seconds=get("server.client_seconds", default.client_seconds),
            shutdown_seconds=get("server.shutdown_seconds", default.shutdown_seconds),
            log_format=get("server.log_format", default.log_format),
            log_level=get("server.log_level", default.log_level),
            storage_url=url,
            sqlite_path=sqlite_path,
            storage_password_file=get("storage.password_file"),
            storage_sentinel_password_file=get("storage.sentinel_password_file"),
            storage_connections=get("storage.connections", default.storage_connections),
            storage_prepares=get("storage.prepared_statements", default.storage_prepares),
            storage_ca_file=get("storage.ca_file"),
            storage_durability=get("storage.durability"),
            storage_replicas=get("storage.replicas", default.storage_replicas),
            master_key_file=get("keys.master_key_file", self.folder / default.master_key_file),
            cache_bytes=get("storage.cache_bytes", default.cache_bytes),
            serve_known=get("storage.serve_known", default.serve_known),
            high_water_file=get("keys.high_water_file", self.folder / default.high_water_file),
            rotate_after=get("keys.rotate_after"),
            online_signers=self._signers(),
            timestamp_life=get("expiry.timestamp", default.timestamp_life),
            snapshot_life=get("expiry.snapshot", default.snapshot_life),
            pending_life=get("expiry.pending", default.pending_life),
            expiry_warn=get("expiry.warn", default.expiry_warn),
            expiry_critical=get("expiry.critical", default.expiry_critical),
            auth=read_token_auth(self.values, self.places, self.fault),
            is_open=get("auth.type") == NO_AUTH,
            notary_timestamp_life=get("notary.timestamp", default.notary_timestamp_life),
            notary_snapshot_life=get("notary.snapshot", default.notary_snapshot_life),
            gun_prefixes=get("notary.gun_prefixes", default.gun_prefixes),
            notary_max_age_current=get("notary.max_age_current", default.notary_max_age_current),
            notary_max_age_consistent=get(
                "notary.max_age_consistent", default.notary_max_age_consistent
            ),
        )
        self._check(settings)
        return settings

    def _check(self, settings: Settings) -> None:
        self._check_tls()
        if settings.log_format not in {"console", "json"}:
            self.fault("server.log_format", "give console or json")
        if settings.log_level not in {"debug", "info", "warning", "error"}:
            self.fault("server.log_level", "give debug, info, warning or error")
        if settings.workers > _MAX_WORKERS:
            self.fault("server.workers", f"give at most {_MAX_WORKERS}; as many as cores is usual")
        if settings.storage_durability not in {None, "always", "everysec", "none"}:
            self.fault("storage.durability", "give always, everysec or none")
        if settings.storage_connections < _MIN_CONNECTIONS:
            self.fault("storage.connections", f"give {_MIN_CONNECTIONS} or more")
        if settings.timestamp_life > settings.snapshot_life:
            self.fault("expiry.timestamp", "it can't outlive expiry.snapshot")
        if settings.expiry_critical > settings.expiry_warn:
            given = "critical" if "expiry.critical" in self.places else "warn"
            self.fault(f"expiry.{given}", "expiry.critical can't be longer than expiry.warn")
        if settings.notary_timestamp_life > settings.notary_snapshot_life:
            self.fault("notary.timestamp", "it can't outlive notary.snapshot")
        self._check_access(settings)

    def _check_engine(self, url: str) -> None:
        """Refuse what the store's engine would ignore: whoever set it counts on it."""
        default = Settings()
        harmless = {
            "storage.connections": default.storage_connections,
            "storage.prepared_statements": default.storage_prepares,
        }
        for key in self.places:
            is_default = key in harmless and self.values.get(key) == harmless[key]
            if key.startswith("storage.") and not is_default:
                problem = misplaced(url, key.removeprefix("storage."))
                if problem is not None:
                    self.fault(key, problem)

    def _check_tls(self) -> None:
        tls = ("server.tls.certificate", "server.tls.key")
        mentioned = [key for key in tls if key in self.places]
        if len(mentioned) == 1:
            self.fault(mentioned[0], "give certificate and key, or neither")
        for key in tls:
            given = self.values.get(key)
            if given is not None and not given.is_file():
                self.fault(key, f"there is no file {given}")

    def _check_access(self, settings: Settings) -> None:
        has_token = "server.write_token_file" in self.places
        has_auth = any(key.startswith("auth.") for key in self.places)
        if has_token and has_auth:
            self.fault(
                "server.write_token_file",
                "[auth] decides who may write; give one of the two",
            )
        if not has_token and not has_auth and not settings.is_loopback_only:
            self.fault(
                "server.listen",
                "others can reach this address, so set server.write_token_file or [auth], which "
                'say who may write (auth.type = "none": all who reach it)',
            )

    def _signers(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for role in ("timestamp", "snapshot"):
            key = f"keys.{role}_signer"
            if key in self.values:
                try:
                    found[role] = str(parse_signer_uri(self.values[key]))
                except KeyStoreError as error:
                    self.fault(key, f"{error.message}: {error.hint}")
        return found

    def _token(self) -> str | None:
        path: Path | None = self.values.get("server.write_token_file")
        if path is None:
            return None
        try:
            mode = path.stat().st_mode
            token = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            self.fault("server.write_token_file", f"{path} can't be read: {error}")
            return None
        if mode & stat.S_IRWXO:
            self.fault("server.write_token_file", f"others may read it; chmod 600 {path}")
        if len(token) < _MIN_TOKEN or not token.isascii() or not token.isprintable():
            self.fault(
                "server.write_token_file",
                f"give {_MIN_TOKEN} or more printable characters: openssl rand -hex 32",
            )
        return token


def _sections(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Flatten tables: a known section's sub-tables come as sections of their own."""
    found: list[tuple[str, dict[str, Any]]] = []
    plain: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            found.extend(_sections(value, f"{prefix}.{name}" if prefix else name))
        else:
            plain[name] = value
    return [(prefix, plain), *found] if plain or not found else found


def _line_numbers(text: str) -> dict[str, int]:
    lines: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.split("\n"), start=1):
        if header := re.match(r"\s*\[([^\[\]#]+)\]", line):
            section = _bare(header[1])
            lines[section] = number
        elif entry := re.match(r"([^=#]+)=", line):
            lines[f"{section}.{_bare(entry[1])}" if section else _bare(entry[1])] = number
    return lines


def _bare(key: str) -> str:
    """Take quotes and spaces off a dotted key."""
    return re.sub(r"[\s\"']", "", key)
