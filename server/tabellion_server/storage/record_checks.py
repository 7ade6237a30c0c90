"""Records of a backup that anybody may have changed: each value is of its kind, or it's refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Any, Final, get_args

from tabellion.core.dialect import DIALECTS
from tabellion_server.storage.interface import (
    AuditAction,
    ChangeCategory,
    StoreCorruptionError,
    TagEventKind,
)
from tabellion_server.storage.records import Record

_MAX: Final = 2**62  # so that there's always a next one
_MAX_CHANGE: Final = 2**52  # the same for what marks are written ahead of, and Lua counts


def check_records(records: Iterable[Record], *, where: str = "the backup") -> None:
    """Refuse what no store can have given.

    Args:
        records: What is read.
        where: What is damaged, if it is.

    Raises:
        StoreCorruptionError: A value isn't of its kind.
    """
    for record in records:
        _check(record, type(record).__name__, where)


def _check(value: object, place: str, where: str) -> None:
    for item in fields(value):  # type: ignore[arg-type]  # a dataclass, by its callers
        held, name = getattr(value, item.name), f"{place}.{item.name}"
        if is_dataclass(held):
            _check(held, name, where)
        elif not (_NAMED.get(name) or _KINDS.get(str(item.type), _is_text))(held):
            raise StoreCorruptionError(f"{where} is damaged: {name} is {held!r:.40}")


def _is_text(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_one_of(*known: str) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and value in known


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX


def _is_change(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX_CHANGE


def _maps(fits: Callable[[Any], bool]) -> Callable[[object], bool]:
    return lambda value: (
        isinstance(value, Mapping)
        and all(_is_text(key) and fits(item) for key, item in value.items())
    )


_KINDS: Final[dict[str, Callable[[Any], bool]]] = {
    "int": _is_number,
    "bool": lambda value: isinstance(value, bool),
    "bytes": lambda value: isinstance(value, bytes),
    "datetime": lambda value: isinstance(value, datetime),
    "TagEventKind": _is_one_of(*get_args(TagEventKind)),
    "ChangeCategory": _is_one_of(*get_args(ChangeCategory)),
    "AuditAction": _is_one_of(*get_args(AuditAction)),
    "Mapping[str, int]": _maps(_is_number),
    "Mapping[str, str]": _maps(_is_text),
    "Mapping[str, bytes]": _maps(lambda value: isinstance(value, bytes)),
    "Sequence[str]": lambda value: isinstance(value, tuple) and all(map(_is_text, value)),
}
_NAMED: Final[dict[str, Callable[[Any], bool]]] = {
    "Change.id": _is_change,
    "FeedRecord.last": _is_change,
    "RestorationRecord.after_id": _is_change,
    "RestorationRecord.missing": _is_change,
    "HeadRecord.dialect": _is_one_of(*(dialect.name for dialect in DIALECTS)),
}
