"""``storage.password_file`` and the like: one line, for a shared engine."""

from __future__ import annotations

import stat
from pathlib import Path

from tabellion.errors import ConfigurationError


def read_password(file: Path, *, key: str = "storage.password_file") -> str:
    """Read it. Blocks.

    Args:
        file: Where it is.
        key: What names it in the configuration.

    Raises:
        ConfigurationError: It can't be used, or others may read it.
    """
    try:
        mode = file.stat().st_mode
        if mode & stat.S_IRWXO:
            is_own = stat.S_ISREG(mode)
            raise ConfigurationError(
                f"{key} {file}: others may read it",
                hint=f"chmod 600 {file}" if is_own else "give a file that holds the password alone",
            )
        password = file.read_text(encoding="utf-8").rstrip("\r\n")
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{key} {file} isn't there",
            hint="write the password into it, chmod 600; a path is relative to the configuration's "
            "folder",
        ) from error
    except PermissionError as error:
        raise ConfigurationError(
            f"{key} {file} can't be read: {error.strerror}",
            hint="let the server's user read it: chown and chmod 600",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        told = getattr(error, "strerror", None) or "it isn't UTF-8"
        raise ConfigurationError(
            f"{key} {file} can't be read: {told}",
            hint="give a file that holds the password alone",
        ) from error
    if not password or "\n" in password:
        raise ConfigurationError(
            f"{key} {file} has to hold one line", hint="write the password alone"
        )
    return password
