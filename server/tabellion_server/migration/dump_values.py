"""The values of a dump's rows: PostgreSQL's COPY lines and SQL literals, MySQL's literals.

Bytes in, Python values out: None, int, or bytes as the database held them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, TypeAlias

Value: TypeAlias = bytes | int | None
Row: TypeAlias = list[Value]

_COPY_ESCAPE: Final = re.compile(rb"\\(?:x([0-9A-Fa-f]{1,2})|([0-7]{1,3})|(.))", re.DOTALL)
_COPY_LETTERS: Final = {
    b"b": b"\b",
    b"f": b"\f",
    b"n": b"\n",
    b"r": b"\r",
    b"t": b"\t",
    b"v": b"\v",
}
_MYSQL_ESCAPE: Final = re.compile(rb"\\(.)|''", re.DOTALL)
_MYSQL_LETTERS: Final = {
    b"0": b"\0",
    b"b": b"\b",
    b"n": b"\n",
    b"r": b"\r",
    b"t": b"\t",
    b"Z": b"\x1a",
}
_LITERAL: Final = (
    rb"(?P<null>NULL)|(?P<number>-?[0-9]+)(?![0-9A-Za-z.])|(?P<bool>true|false)"
    rb"|0x(?P<hex>[0-9A-Fa-f]*)|[xX]'(?P<quoted_hex>[0-9A-Fa-f]*)'"
)
# Possessive, so that no text makes them go back and forth.
_MYSQL: Final = re.compile(_LITERAL + rb"|(?:_\w+ ?)?'(?P<text>(?:[^'\\]++|\\.|'')*+)'", re.DOTALL)
_POSTGRESQL: Final = re.compile(_LITERAL + rb"|'(?P<text>(?:[^']++|'')*+)'(?:::\w+)?")
_GAP: Final = re.compile(rb"\s*")


class UnfinishedError(ValueError):
    """The statement goes on in the next line."""


def copy_row(line: bytes) -> Row:
    """Read one line of COPY's text format, without its line end."""
    return [_copy_value(item) for item in line.split(b"\t")]


def insert_rows(text: bytes, *, mysql: bool) -> Iterator[Row]:
    """Read what follows VALUES up to the semicolon: one or more rows in parentheses.

    Raises:
        UnfinishedError: There's more to come.
        ValueError: It's something else.
    """
    literal, place = (_MYSQL if mysql else _POSTGRESQL), 0
    while True:
        place = _skip(text, place, b"(")
        row: Row = []
        while True:
            place = _gap(text, place)
            match = literal.match(text, place)
            if match is None:
                if b"'" in text[place : place + 20]:
                    raise UnfinishedError
                raise ValueError(f"{text[place : place + 20]!r} is no value")
            row.append(_value(match, mysql=mysql))
            place = _gap(text, match.end())
            if text[place : place + 1] != b",":
                break
            place += 1
        place = _gap(text, _skip(text, place, b")"))
        yield row
        if text[place : place + 1] == b";":
            return
        place = _skip(text, place, b",")


def binary_of(value: Value) -> bytes:
    r"""Read a ``bytea`` in PostgreSQL's hex form, ``\x6162``; other bytes are as they are."""
    data = value if isinstance(value, bytes) else b""
    if data.startswith(b"\\x"):
        return bytes.fromhex(data[2:].decode("ascii"))
    return data


def _copy_value(item: bytes) -> Value:
    if item == b"\\N":
        return None
    return _COPY_ESCAPE.sub(_copy_escape, item) if b"\\" in item else item


def _copy_escape(match: re.Match[bytes]) -> bytes:
    if match[1] is not None:
        return bytes([int(match[1], 16)])
    if match[2] is not None:
        return bytes([int(match[2], 8) & 0xFF])
    return _COPY_LETTERS.get(match[3], match[3])


def _value(match: re.Match[bytes], *, mysql: bool) -> Value:
    if match["null"]:
        return None
    if match["number"] or match["bool"]:
        return int(match["number"] or match["bool"] == b"true")
    for name in ("hex", "quoted_hex"):
        if match[name] is not None:
            return bytes.fromhex(match[name].decode("ascii"))
    if mysql:
        return _MYSQL_ESCAPE.sub(_mysql_escape, match["text"])
    return match["text"].replace(b"''", b"'")


def _mysql_escape(match: re.Match[bytes]) -> bytes:
    return b"'" if match[1] is None else _MYSQL_LETTERS.get(match[1], match[1])


def _gap(text: bytes, place: int) -> int:
    found = _GAP.match(text, place)
    return found.end() if found else place


def _skip(text: bytes, place: int, expected: bytes) -> int:
    place = _gap(text, place)
    if place >= len(text):
        raise UnfinishedError
    if text[place : place + 1] != expected:
        raise ValueError(f"{text[place : place + 20]!r} stands where {expected!r} should")
    return place + 1
