"""Private keys between Notary's or docker's folders and our key store, each with role and GUN."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from tabellion.core.names import parse_gun
from tabellion.errors import KeyStoreError, PassphraseError
from tabellion.publish.key_notes import KeyInfo
from tabellion.publish.keystore import KeyStore, check_is_here
from tabellion.publish.notary_folder import FoundKey, NotaryKeyFolder
from tabellion.publish.notary_pem import canonical_id_of
from tabellion.publish.passphrases import Passphrases, check_new, variable_of
from tabellion.publish.private_keys import public_of

Tool = Literal["notary", "docker"]

_GUN_ROLES: Final = frozenset({"targets", "snapshot"})
_NAMELESS: Final = "delegation"
_SIGNER_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")
_RESERVED: Final = frozenset({"root", "targets", "snapshot", "timestamp", "releases"})


@dataclass(frozen=True)
class ImportedKey:
    """What became of one key.

    Attributes:
        info: The key as it's in the store.
        is_new: It wasn't there before.
        keeps_passphrase: It is protected by the passphrase that opened it.
    """

    info: KeyInfo
    is_new: bool
    keeps_passphrase: bool = False


@dataclass(frozen=True)
class _Plan:
    private: PrivateKeyTypes
    keyid: str
    role: str
    gun: str | None
    name: str
    passphrase: str
    keeps_passphrase: bool


class KeyTransfer:
    """Moves keys in and out of one store. Its methods block: call them in a thread."""

    def __init__(
        self,
        store: KeyStore,
        secrets: Passphrases,
        *,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Take the store, who knows our passphrases, and the variables of Notary and docker."""
        self._store = store
        self._secrets = secrets
        self._environ = os.environ if environ is None else environ

    def take(
        self,
        found: Sequence[FoundKey],
        *,
        role: str | None = None,
        gun: str | None = None,
        name: str = "",
    ) -> list[ImportedKey]:
        """Store the keys found, all of them or, if one can't be opened or is unfit, none.

        A key is protected by our passphrase for its role if one is set, else by the one that
        opened it. One that is in the store already is left as it is.

        Args:
            found: What a file or folder holds.
            role: What they are for; by default what each says, ``signer`` if it says nothing.
            gun: The GUN they are for; by default what each targets or snapshot key says.
            name: What to call it; by default the signer's name.

        Raises:
            KeyStoreError: A key can't be read, is unfit, or isn't the one it says.
            PassphraseError: A passphrase is wrong or missing.
            InvalidNameError: A key is for a GUN that can't be.
        """
        plans: dict[str, _Plan] = {}
        for key in found:
            plan = self._planned(key, role, gun, name)
            plans.setdefault(plan.keyid, plan)
        here = {info.keyid: info for info in self._store.list()}
        taken = {info.name for info in here.values()}
        done: list[ImportedKey] = []
        for plan in plans.values():
            if plan.keyid in here:
                done.append(ImportedKey(here[plan.keyid], is_new=False))
                continue
            called = plan.name
            if called and called in taken and not name:
                called = f"{called}-{canonical_id_of(plan.private)[:8]}"
            info = self._store.add(
                plan.private, plan.role, plan.passphrase, gun=plan.gun, name=called
            )
            taken.add(called)
            done.append(ImportedKey(info, is_new=True, keeps_passphrase=plan.keeps_passphrase))
        return done

    def give(
        self, info: KeyInfo, folder: NotaryKeyFolder, tool: Tool, *, gun: str | None = None
    ) -> Path:
        """Write a key of the store into a folder of Notary's or docker's; give its file.

        It's protected by the passphrase that the tool's own variable holds, else by the same one
        as here.

        Raises:
            KeyStoreError: A targets or snapshot key without GUN, it's there already, or it's one
                that can't leave where it is.
            PassphraseError: The passphrase is wrong or missing.
        """
        check_is_here(info)
        named = gun or info.gun
        if info.role in _GUN_ROLES and not named:
            raise KeyStoreError(
                f"{info.role} key {info.keyid[:12]} is for any GUN, in Notary it's for one",
                hint="say which: --gun NAME",
            )
        passphrase = self._secrets.existing(info.role, info.keyid, info.name)
        private = self._store.private_key(info.keyid, passphrase)
        theirs = self._environ.get(_variable(info.role, tool)) or passphrase
        return folder.write(
            private,
            theirs,
            role=notary_role(info.role, info.name),
            gun=named if info.role in _GUN_ROLES else None,
        )

    def _planned(self, found: FoundKey, role: str | None, gun: str | None, name: str) -> _Plan:
        said, called = our_role(found.role)
        role = role or said
        name = name or (called if role == "signer" else "")
        if gun is None and role in _GUN_ROLES and found.gun:
            gun = parse_gun(found.gun)
        private, passphrase = self._opened(found, role, name)
        try:
            keyid = public_of(private).keyid
        except KeyStoreError as error:
            raise KeyStoreError(f"{found.path}: {error.message}", hint=error.hint) from error
        ours = self._secrets.configured(role)
        keeps = ours is None and bool(passphrase)
        if ours is None:
            ours = passphrase or self._secrets.new(role, name)
        check_new(ours, role)
        return _Plan(private, keyid, role, gun, name, ours, keeps)

    def _opened(self, found: FoundKey, role: str, name: str) -> tuple[PrivateKeyTypes, str]:
        """Open a key; give also the passphrase that did, "" if none was needed."""
        if not found.block.is_encrypted:
            return found.open(""), ""
        variables = (_variable(role, "notary"), _variable(role, "docker"))
        candidates = [self._environ.get(variable) for variable in variables]
        candidates.append(self._secrets.configured(role))
        for candidate in dict.fromkeys(candidates):
            if candidate:
                try:
                    return found.open(candidate), candidate
                except PassphraseError:
                    continue
        if not self._secrets.can_ask:
            tried = "none of those set opens" if any(candidates) else "no passphrase is set for"
            raise PassphraseError(
                f"{tried} the {role} key in {found.path}",
                hint=f"set {variables[0]}, {variables[1]} or {variable_of(role)}",
            )
        label = found.canonical_id or str(found.path)
        asked = self._secrets.ask(f"Passphrase of {role} key {name or ''} ({label[:80]})")
        return found.open(asked), asked


def our_role(role: str) -> tuple[str, str]:
    """Give our role and name for the role in a key file.

    Raises:
        KeyStoreError: A timestamp key, which belongs to a server.
    """
    if role == "timestamp":
        raise KeyStoreError(
            "a timestamp key is the server's", hint="import it with the server's own data"
        )
    if role in {"root", *_GUN_ROLES}:
        return role, ""
    return "signer", "" if role == _NAMELESS else role.removeprefix("targets/")


def notary_role(role: str, name: str) -> str:
    """Give the role that a key file of Notary's tells; a signer's name where both CLIs take it."""
    if role != "signer":
        return role
    return name if _SIGNER_NAME.fullmatch(name) and name not in _RESERVED else _NAMELESS


def _variable(role: str, tool: Tool) -> str:
    if tool == "docker":
        kind = "ROOT" if role == "root" else "REPOSITORY"
        return f"DOCKER_CONTENT_TRUST_{kind}_PASSPHRASE"
    kind = "DELEGATION" if role == "signer" else role.upper()
    return f"NOTARY_{kind}_PASSPHRASE"
