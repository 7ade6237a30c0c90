"""What a verb is about: an image, a GUN, or with ``--gun NAME`` plain data by its exact names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from tabellion.core.names import Gun, Reference, parse_gun, parse_reference
from tabellion.errors import InvalidNameError, UsageError

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Subject:
    """One target of a GUN.

    Attributes:
        gun: The collection.
        path: Target path: an image's tag, or None for a bare digest.
        reference: The image, or None for plain data.
    """

    gun: Gun
    path: str | None
    reference: Reference | None

    @property
    def target(self) -> str:
        """Give the target path.

        Raises:
            UsageError: The image was given by digest alone.
        """
        if self.path is None:
            raise UsageError(
                f"{self.reference} names no tag", hint="give the tag: it's the name that is signed"
            )
        return self.path

    def __str__(self) -> str:
        return str(self.reference) if self.reference is not None else f"{self.gun} {self.path}"


def subject_of(name: str, gun: str | None) -> Subject:
    """Parse an image reference, or a target path in ``gun``.

    Raises:
        InvalidNameError: It's neither.
    """
    if gun is not None:
        from tabellion.core.roles import check_target_path  # noqa: PLC0415  # not needed for help

        check_target_path(name)
        return Subject(parse_gun(gun), name, None)
    reference = parse_reference(name)
    return Subject(reference.gun, reference.tag, reference)


def is_image(text: str) -> bool:
    """Tell whether a name has a tag or digest; without one it's a GUN, or ``:latest`` of it."""
    return "@" in text or ":" in text.rpartition("/")[2]


def gun_of(name: str | None, gun: str | None) -> Gun:
    """Parse a GUN: by docker's rules (``alpine`` is on docker.io), or exactly with ``--gun``.

    Raises:
        InvalidNameError: It isn't one.
        UsageError: None or both were given.
    """
    if (name is None) == (gun is None):
        raise UsageError("one GUN is needed", hint="give GUN, or --gun NAME for plain data")
    if gun is not None:
        return parse_gun(gun)
    text = str(name)
    if is_image(text):
        raise InvalidNameError(f"{text[:150]!r} is an image, not a GUN", hint="leave the tag out")
    return parse_reference(text).gun


def image_argument(function: F) -> F:
    """Add ``IMAGE`` and ``--gun NAME``."""
    function = click.option(
        "--gun", metavar="NAME", help="Plain data: IMAGE is then a target path in this GUN."
    )(function)
    return click.argument("image")(function)


def gun_argument(function: F) -> F:
    """Add ``GUN`` and ``--gun NAME``, of which one is needed."""
    return _gun_argument("GUN")(function)


def optional_gun_argument(function: F) -> F:
    """Add ``GUN`` and ``--gun NAME`` to a verb that also works without."""
    return _gun_argument("[GUN]")(function)


def _gun_argument(shown: str) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        function = click.option(
            "--gun",
            metavar="NAME",
            help="Take this exact name, without docker's rules; leave GUN out then.",
        )(function)
        return click.argument("name", metavar=shown, required=False)(function)

    return decorate
