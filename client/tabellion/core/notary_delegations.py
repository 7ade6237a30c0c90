"""Notary's delegated roles: their names, and paths that are plain beginnings of target names.

Spec: notary-v1 sections 1 and 4.
"""

from __future__ import annotations

import posixpath
import re
from typing import Final

from tuf.api.metadata import DelegatedRole

_DELEGATION: Final = re.compile(r"targets/[-a-z0-9_/]+")
_MAX_NAME: Final = 255


class NotaryDelegatedRole(DelegatedRole):
    """A delegation whose paths are plain beginnings of names."""

    def is_delegated_path(self, target_filepath: str) -> bool:
        """Tell whether a target lies under one of the paths; ``""`` is everything."""
        return any(target_filepath.startswith(path) for path in self.paths or ())


def patterns_of(role: DelegatedRole) -> list[str]:
    """Give a delegation's paths as patterns for people to read: ``v1*`` for Notary's ``v1``."""
    star = "*" if isinstance(role, NotaryDelegatedRole) else ""
    return [f"{path}{star}" for path in role.paths or ()]


def is_delegation_name(name: str) -> bool:
    """Tell whether a name is one that Notary's clients take for a delegated role."""
    is_clean = posixpath.normpath(name) == name and len(name) <= _MAX_NAME
    return is_clean and bool(_DELEGATION.fullmatch(name))
