"""Who to be at a registry: docker's ``config.json`` and its credential helpers."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tabellion.core import strict_json
from tabellion.errors import ConfigurationError, VerificationError

_DOCKER_HUB: Final = "https://index.docker.io/v1/"
_HELPER_SECONDS: Final = 30
_MAX_CONFIG_BYTES: Final = 1024 * 1024
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user's name and secret, or an identity token (then ``username`` is empty)."""

    username: str
    secret: str

    @property
    def is_identity_token(self) -> bool:
        """Tell whether the secret is an OAuth2 refresh token."""
        return not self.username

    @property
    def basic(self) -> str:
        """Give the value of an ``Authorization: Basic`` header."""
        pair = f"{self.username}:{self.secret}".encode()
        return "Basic " + base64.b64encode(pair).decode("ascii")

    def __repr__(self) -> str:  # a secret must not reach a log by accident
        return f"Credentials(username={self.username!r}, secret=...)"


def config_folder() -> Path:
    """Give docker's configuration folder: ``DOCKER_CONFIG``, else ``~/.docker``."""
    configured = os.environ.get("DOCKER_CONFIG")
    return Path(configured) if configured else Path("~/.docker").expanduser()


async def find_credentials(registry: str, folder: Path | None = None) -> Credentials | None:
    """Find what docker would use for ``registry``: helper of the host, helper for all, file.

    Raises:
        ConfigurationError: ``config.json`` can't be read, or a helper of that host fails.
    """
    path = (folder or config_folder()) / "config.json"
    config = await asyncio.to_thread(_load, path)
    server = _DOCKER_HUB if registry == "docker.io" else registry
    per_host = _section(config, "credHelpers", path).get(registry)
    if per_host is None and registry == "docker.io":
        per_host = _section(config, "credHelpers", path).get("index.docker.io")
    if per_host is not None:
        return await _ask_helper(per_host, server, path)
    store = config.get("credsStore")
    if store:
        found = await _ask_helper(store, server, path, is_optional=True)
        if found is not None:
            return found
    for name, entry in _section(config, "auths", path).items():
        if _host_of(name) == _host_of(server) and isinstance(entry, dict):
            credentials = _from_entry(entry, name, path)
            if credentials is not None:
                return credentials
    return None


def _load(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_CONFIG_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ConfigurationError(
            f"{path} can't be read: {error.strerror}", hint="check its permissions"
        ) from error
    if not data.strip():
        return {}
    try:
        return strict_json.parse(data, max_bytes=_MAX_CONFIG_BYTES, what=str(path))
    except VerificationError as error:
        raise ConfigurationError(error.message, hint="repair it, or docker login again") from error


def _section(config: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    section = config.get(name) or {}
    if not isinstance(section, dict):
        raise ConfigurationError(f"{path}: {name} isn't an object", hint="repair the file")
    return section


def _host_of(name: str) -> str:
    """Strip scheme and path, as old docker versions wrote both."""
    host = name.split("://", 1)[-1].split("/", 1)[0].lower()
    return "docker.io" if host in {"index.docker.io", "registry-1.docker.io"} else host


def _from_entry(entry: dict[str, Any], name: str, path: Path) -> Credentials | None:
    token = entry.get("identitytoken")
    if isinstance(token, str) and token:
        return Credentials("", token)
    username, secret = entry.get("username"), entry.get("password")
    encoded = entry.get("auth")
    if isinstance(encoded, str) and encoded:
        try:
            decoded = base64.b64decode(encoded, validate=True).decode("utf-8")
            username, secret = decoded.rstrip("\0").split(":", 1)
        except (binascii.Error, ValueError) as error:
            raise ConfigurationError(
                f"{path}: auth of {name!r} isn't base64 of user:password",
                hint=f"docker login {_host_of(name)}",
            ) from error
    if isinstance(username, str) and isinstance(secret, str) and username:
        return Credentials(username, secret)
    return None


async def _ask_helper(
    name: object, server: str, path: Path, *, is_optional: bool = False
) -> Credentials | None:
    if not isinstance(name, str) or not _HELPER_NAME.fullmatch(name):
        raise ConfigurationError(
            f"{path}: {name!r:.80} isn't the name of a credential helper", hint="repair the file"
        )
    program = f"docker-credential-{name}"
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            "get",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError as error:
        if is_optional:  # docker goes on without it as well
            return None
        raise ConfigurationError(
            f"{program} can't be started: {error.strerror}",
            hint=f"install it, or remove it from {path}",
        ) from error
    try:
        async with asyncio.timeout(_HELPER_SECONDS):
            output, _ = await process.communicate(server.encode())
    except TimeoutError as error:
        raise ConfigurationError(
            f"{program} gave no answer within {_HELPER_SECONDS} s", hint=f"try it: {program} list"
        ) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        if is_optional or b"credentials not found" in output:
            return None
        said = output.decode("utf-8", "replace").strip()[:200]
        raise ConfigurationError(
            f"{program} failed for {server}: {said!r}", hint=f"docker login {_host_of(server)}"
        )
    return _from_helper(output, program)


def _from_helper(output: bytes, program: str) -> Credentials:
    try:
        answer = json.loads(output)
        username, secret = answer["Username"], answer["Secret"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigurationError(
            f"{program} gave no Username and Secret", hint=f"try it: {program} list"
        ) from error
    if not isinstance(username, str) or not isinstance(secret, str):
        raise ConfigurationError(
            f"{program} gave no Username and Secret", hint=f"try it: {program} list"
        )
    return Credentials("" if username == "<token>" else username, secret)
