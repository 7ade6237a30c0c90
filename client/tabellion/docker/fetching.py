"""Commands that fetch images by themselves; they pass unverified, with one loud line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

# Verb, then the words of which one must follow somewhere; none: the verb alone is enough. Where
# among the flags the second verb stands isn't guessed: better one warning too many.
_BUILDX: Final = frozenset({"bake", "f", "create", "debug", "dap"})
FETCHING: Final[Mapping[str, frozenset[str]]] = {
    "artifact": frozenset({"pull"}),
    "auto-update": frozenset(),
    "builder": _BUILDX,
    "buildx": _BUILDX,
    "compose": frozenset(
        {"up", "pull", "run", "create", "build", "scale", "watch", "alpha", "bridge"}
    ),
    "container": frozenset({"clone", "restore", "runlabel"}),
    "debug": frozenset(),
    "extension": frozenset({"install", "update"}),
    "farm": frozenset({"build"}),
    "kube": frozenset({"play"}),
    "machine": frozenset({"init", "os"}),
    "manifest": frozenset({"add", "create"}),
    "model": frozenset({"pull", "run"}),
    "play": frozenset({"kube"}),
    "plugin": frozenset({"install", "upgrade"}),
    "pod": frozenset({"create", "clone"}),
    "quadlet": frozenset({"install"}),
    "scout": frozenset(),
    "service": frozenset({"create", "update", "rollback"}),
    "stack": frozenset({"deploy", "up"}),
    "volume": frozenset({"image", "-dimage", "-d=image", "--driver=image"}),
}


def fetching_verb(verb: str, rest: Sequence[str]) -> str:
    """Name the command if it fetches images by itself, else ""."""
    triggers = FETCHING.get(verb)
    if triggers is None or (triggers and triggers.isdisjoint(rest)):
        return ""
    second = next((word for word in rest if word in triggers and not word.startswith("-")), "")
    return f"{verb} {second}".rstrip()


def warning(engine: str, verb: str) -> str:
    """Give the line to print before such a command runs."""
    return (
        f"tabellion: warning: {engine} {verb} may fetch images, and they are NOT VERIFIED; for"
        " each of them run `tabellion docker pull IMAGE` first and name it IMAGE@sha256:... there"
    )
