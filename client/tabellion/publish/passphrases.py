"""Where passphrases come from: a variable, a file, or a person at a terminal.

By role: ``TABELLION_ROOT_PASSPHRASE`` for root keys, ``TABELLION_TARGETS_PASSPHRASE`` for targets
and snapshot keys, ``TABELLION_SIGNER_PASSPHRASE`` for delegated ones,
``TABELLION_BACKUP_PASSPHRASE`` for a backup of keys; the PIN of a token in ``TABELLION_PIN``.
With ``_FILE`` appended, the variable names a file whose first line it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tabellion.errors import PassphraseError

Prompt = Callable[[str, bool], str]
"""Asks a person: (question, whether it's a new passphrase to be typed twice) -> passphrase."""

_MAX_BYTES: Final = 1024
_MIN_NEW: Final = 8
_PIN: Final = "TABELLION_PIN"


class Passphrases:
    """Answers "the passphrase for this key, please"."""

    def __init__(
        self, *, environ: Mapping[str, str] | None = None, prompt: Prompt | None = None
    ) -> None:
        """Take where to look.

        Args:
            environ: Variables; the process's own by default.
            prompt: Asks a person; give it only if there's a terminal.
        """
        self._environ = os.environ if environ is None else environ
        self._prompt = prompt
        self._asked: dict[str, str] = {}

    def existing(self, role: str, keyid: str, name: str = "") -> str:
        """Give the passphrase of a key that exists; a person is asked once per key.

        Raises:
            PassphraseError: None is set and nobody can be asked.
        """
        configured = self.configured(role)
        if configured is not None:
            return configured
        if keyid not in self._asked:
            label = f"{name} ({keyid[:12]})" if name else keyid[:12]
            question = f"Passphrase of {role} key {label}"
            self._asked[keyid] = self._ask(f"{role} key", variable_of(role), question, new=False)
        return self._asked[keyid]

    def new(self, role: str, name: str = "") -> str:
        """Give the passphrase for a key about to be made.

        Raises:
            PassphraseError: None is set and nobody can be asked, or it's under 8 characters.
        """
        configured = self.configured(role)
        label = f" {name}" if name else ""
        found = (
            configured
            if configured is not None
            else self._ask(
                f"{role} key", variable_of(role), f"New passphrase for {role} key{label}", new=True
            )
        )
        check_new(found, role)
        return found

    @property
    def can_ask(self) -> bool:
        """Tell whether a person can be asked."""
        return self._prompt is not None

    def ask(self, question: str) -> str:
        """Ask a person for the passphrase of a file that no key id names yet.

        Raises:
            PassphraseError: Nobody can be asked.
        """
        if self._prompt is None:
            raise PassphraseError("no terminal to ask for a passphrase at")
        return self._prompt(question, False)  # noqa: FBT003  # a callback's signature

    def remember(self, keyid: str, passphrase: str) -> None:
        """Keep the passphrase of a key just made, so that nobody is asked again."""
        self._asked[keyid] = passphrase

    def forget(self, keyid: str) -> None:
        """Drop an answer that turned out wrong."""
        self._asked.pop(keyid, None)

    def configured(self, role: str) -> str | None:
        """Give what variable or file say for a role, None if neither is set.

        Raises:
            PassphraseError: Both are set, or the file can't be used.
        """
        return self._configured(variable_of(role))

    def pin(self, token: str) -> str:
        """Give the PIN of a token; a wrong one is nobody's to try again, so none is kept here.

        Raises:
            PassphraseError: None is set and nobody can be asked.
        """
        configured = self._configured(_PIN)
        if configured is not None:
            return configured
        return self._ask("token", _PIN, f"PIN of token {token}", new=False)

    def _configured(self, variable: str) -> str | None:
        direct, file = self._environ.get(variable), self._environ.get(f"{variable}_FILE")
        if direct is not None and file is not None:
            raise PassphraseError(
                f"{variable} and {variable}_FILE are both set", hint="unset one of them"
            )
        if file is not None:
            return _read(variable, Path(file))
        return direct

    def _ask(self, what: str, variable: str, question: str, *, new: bool) -> str:
        if self._prompt is None:
            kind = "PIN" if variable == _PIN else "passphrase"
            raise PassphraseError(
                f"no {kind} for a {what} and no terminal to ask at",
                hint=f"set {variable} or {variable}_FILE",
            )
        return self._prompt(question, new)


def variable_of(role: str) -> str:
    """Name the variable of a role's passphrase."""
    kinds = {"root": "ROOT", "targets": "TARGETS", "snapshot": "TARGETS", "backup": "BACKUP"}
    kind = kinds.get(role, "SIGNER")
    return f"TABELLION_{kind}_PASSPHRASE"


def _read(variable: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        lines = data.decode("utf-8").splitlines()
    except (OSError, ValueError) as error:
        reason = str(error.strerror).lower() if isinstance(error, OSError) else "not UTF-8"
        raise PassphraseError(
            f"{variable}_FILE {str(path)!r} can't be read: {reason}", hint="check path and mode"
        ) from error
    if len(data) > _MAX_BYTES or not lines or not lines[0]:
        raise PassphraseError(
            f"{variable}_FILE {str(path)!r} doesn't begin with a passphrase",
            hint="its first line is the passphrase",
        )
    return lines[0]


def check_new(passphrase: str, role: str) -> None:
    """Refuse a new passphrase that is too short.

    Raises:
        PassphraseError: It's under 8 characters.
    """
    if len(passphrase) < _MIN_NEW:
        raise PassphraseError(
            f"the new passphrase for a {role} key is {len(passphrase)} long",
            hint=f"use at least {_MIN_NEW} characters",
        )
