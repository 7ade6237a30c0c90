"""Options that every verb knows, and how they are settled.

For each: the option, then its short variable (``TABELLION_SERVER``), then ``[client]`` of the
configuration (``TABELLION_CLIENT__SERVER`` first, then the file), then the default.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tabellion.errors import ConfigurationError, UsageError

if TYPE_CHECKING:
    from tabellion.cli.config import ClientConfig
    from tabellion.core.pinning import TrustPinning

F = TypeVar("F", bound=Callable[..., Any])

_SHORT_VARIABLES = {
    "server": "TABELLION_SERVER",
    "home": "TABELLION_HOME",
    "ca": "TABELLION_CA",
    "config": "TABELLION_CONFIG",
    "root": "TABELLION_ROOT",
    "root_key": "TABELLION_ROOT_KEY",
    "token": "TABELLION_TOKEN",
    "engine": "TABELLION_ENGINE",
    "offline": "TABELLION_OFFLINE",
    "trust_pinning_file": "TABELLION_TRUST_PINNING",
}


@dataclass
class Options:
    """What was typed, before variables and the configuration file; None is "not typed"."""

    server: str | None = None
    home: str | None = None
    ca: str | None = None
    config: str | None = None
    root: str | None = None
    root_key: str | None = None
    engine: str | None = None
    offline: str | None = None
    trust_pinning_file: str | None = None
    trust_on_first_use: bool = False
    json: bool = False
    insecure_registries: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, context: click.Context | None = None) -> Options:
        """Give the options of this run; the group's and the verb's are the same object."""
        return (context or click.get_current_context()).find_root().ensure_object(cls)


@dataclass(frozen=True)
class Settings:
    """Options, variables and configuration, settled.

    Attributes:
        home: Folder of keys, trusted metadata and staged changes.
        root: Bootstrap root file, or None.
        root_key: Bootstrap fingerprint of a root key, or None.
        trust_pinning: What every root of certain GUNs has to meet, or None.
        token: Bearer token for the server's write routes, or None.
    """

    home: Path
    ca: Path | None
    root: Path | None
    root_key: str | None
    first_use: bool
    trust_pinning: TrustPinning | None
    token: str | None
    engine: str
    offline: str
    insecure_registries: tuple[str, ...]
    configured_server: str | None

    @property
    def server(self) -> str:
        """Give the server's URL.

        Raises:
            ConfigurationError: None is configured.
        """
        if self.configured_server is None:
            raise ConfigurationError(
                "no trust server is configured",
                hint="give --server URL, or set TABELLION_SERVER, or server in [client] of"
                " the configuration file",
            )
        return self.configured_server


def settle(options: Options | None = None) -> Settings:
    """Settle this run's settings.

    Raises:
        ConfigurationError: The configuration file or a variable is wrong.
    """
    from tabellion.cli.config import load_config  # noqa: PLC0415  # not needed for help

    options = options or Options.of()
    explicit = options.config or os.environ.get(_SHORT_VARIABLES["config"])
    config = load_config(Path(explicit) if explicit else None)
    root, root_key = options.root, options.root_key
    if root is None and root_key is None:  # a typed one beats both variables
        root = os.environ.get(_SHORT_VARIABLES["root"]) or None
        root_key = os.environ.get(_SHORT_VARIABLES["root_key"]) or None
    if root is not None and root_key is not None:
        raise UsageError(
            "a root file and a root key are both given",
            hint="give one of --root and --root-key, or unset one of their variables",
        )
    home = _pick("home", options, config)
    ca = _existing("ca", _pick("ca", options, config))
    offline = _pick("offline", options, config) or "deny"
    if offline not in {"deny", "last-known"}:
        raise UsageError(
            f"offline is {offline!r}, not deny or last-known",
            hint="check --offline, TABELLION_OFFLINE and the configuration file",
        )
    return Settings(
        home=Path(home).expanduser() if home else default_home(),
        ca=ca,
        root=_existing("root", root),
        root_key=root_key,
        first_use=options.trust_on_first_use,
        trust_pinning=_trust_pinning(_pick("trust_pinning_file", options, config), config),
        token=os.environ.get(_SHORT_VARIABLES["token"]) or None,
        engine=_pick("engine", options, config) or "docker",
        offline=offline,
        insecure_registries=(*options.insecure_registries, *config.insecure_registries),
        configured_server=_server_url(_pick("server", options, config)),
    )


def default_home() -> Path:
    """Give the home folder of this platform."""
    import platformdirs  # noqa: PLC0415  # not needed for help

    return platformdirs.user_data_path("tabellion")


def _pick(name: str, options: Options, config: ClientConfig) -> str | None:
    typed: str | None = getattr(options, name)
    variable = os.environ.get(_SHORT_VARIABLES[name])
    configured: str | None = getattr(config, name, None)
    return typed or variable or configured or None


def _existing(name: str, text: str | None) -> Path | None:
    if text is None:
        return None
    path = Path(text).expanduser()
    fault = "is a folder" if path.is_dir() else "" if path.exists() else "doesn't exist"
    if fault:
        raise ConfigurationError(
            f"{name} file {str(path)!r} {fault}",
            hint=f"check --{name} or {_SHORT_VARIABLES[name]}",
        )
    return path


def _trust_pinning(file: str | None, config: ClientConfig) -> TrustPinning | None:
    if file is None:
        return config.trust_pinning
    if config.trust_pinning is not None:
        # Neither may put the other's pins out of force.
        raise ConfigurationError(
            "the configuration file has a section trust_pinning, and a file of it is given too",
            hint="keep one: the section, or --trust-pinning, TABELLION_TRUST_PINNING and "
            "trust_pinning_file",
        )
    from tabellion.verify.pins import load_notary_pinning  # noqa: PLC0415  # slow, rarely needed

    return load_notary_pinning(Path(file).expanduser())


def _server_url(text: str | None) -> str | None:
    if text is None:
        return None
    from tabellion.transport.addresses import server_url_fault  # noqa: PLC0415  # not for help

    fault = server_url_fault(text)
    if fault is not None:
        raise UsageError(fault[0], hint=fault[1])
    return text.rstrip("/")


def _store(context: click.Context, parameter: click.Parameter, value: Any) -> None:  # noqa: ANN401
    """Keep what was typed; a verb's option beats the group's."""
    if value is None or value is False or value == ():
        return
    options = Options.of(context)
    name = str(parameter.name)
    if name not in {item.name for item in fields(Options)}:
        raise TypeError(f"{name} isn't a common option")
    setattr(options, name, list(value) if isinstance(value, tuple) else value)


def _option(*names: str, **settings: Any) -> Callable[[F], F]:  # noqa: ANN401
    return click.option(*names, expose_value=False, callback=_store, **settings)


def place_options(function: F) -> F:
    """Add ``--server --home --ca``."""
    for decorate in (
        _option(
            "--ca",
            metavar="FILE",
            type=click.Path(),
            help="Extra CA certificates, PEM.  [TABELLION_CA]",
        ),
        _option(
            "--home",
            metavar="DIR",
            type=click.Path(file_okay=False),
            help="Folder of keys and trusted metadata.  [TABELLION_HOME]",
        ),
        _option("--server", metavar="URL", help="Trust server.  [TABELLION_SERVER]"),
    ):
        function = decorate(function)
    return function


def common_options(function: F) -> F:
    """Add ``--server --home --ca --config --json``."""
    for decorate in (
        _option("--json", is_flag=True, default=None, help="Answer in JSON on stdout."),
        _option(
            "--config",
            metavar="FILE",
            type=click.Path(),
            help="Configuration file.  [TABELLION_CONFIG]",
        ),
        place_options,
    ):
        function = decorate(function)
    return function


def pinning_option(function: F) -> F:
    """Add ``--trust-pinning``."""
    return _option(
        "--trust-pinning",
        "trust_pinning_file",
        metavar="FILE",
        type=click.Path(),
        help="Pins in a Notary configuration.  [TABELLION_TRUST_PINNING]",
    )(function)


def trust_options(function: F) -> F:
    """Add the ways to say which root to start from, needed the first time only."""
    for decorate in (
        pinning_option,
        _option(
            "--trust-on-first-use",
            is_flag=True,
            default=None,
            help="Believe the first root the server shows: only on a network you trust.",
        ),
        _option(
            "--root-key",
            metavar="FINGERPRINT",
            help="Start from the root with this key.  [TABELLION_ROOT_KEY]",
        ),
        _option(
            "--root",
            metavar="FILE",
            type=click.Path(),
            help="Start from this root file.  [TABELLION_ROOT]",
        ),
    ):
        function = decorate(function)
    return function


def offline_option(function: F) -> F:
    """Add ``--offline``."""
    return _option(
        "--offline",
        type=click.Choice(["deny", "last-known"]),
        help="Without the server: refuse (default), or use what is known until it expires."
        "  [TABELLION_OFFLINE]",
    )(function)


def engine_option(function: F) -> F:
    """Add ``--engine``."""
    return _option(
        "--engine",
        metavar="NAME",
        help="docker (default), podman or nerdctl.  [TABELLION_ENGINE]",
    )(function)


def registry_options(function: F) -> F:
    """Add ``--insecure-registry``."""
    return _option(
        "--insecure-registry",
        "insecure_registries",
        metavar="HOST",
        multiple=True,
        help="Speak http to this registry (loopback needs no saying).",
    )(function)
