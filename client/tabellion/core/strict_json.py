"""Strict JSON in, OLPC canonical JSON out.

Python's parser takes the last of two members of one name, NaN and floats; another parser takes
something else, and then two clients read one signature as two statements. So all of that is
refused here, before any rule looks at the data.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NoReturn, cast

from securesystemslib.exceptions import FormatError
from securesystemslib.formats import encode_canonical

from tabellion.errors import MalformedMetadataError, MetadataTooLargeError

_MAX_DEPTH: Final = 32
_MAX_INTEGER: Final = 2**63 - 1
_MAX_DIGITS: Final = 20


def parse(data: bytes, *, max_bytes: int, what: str) -> dict[str, Any]:
    """Parse one JSON object.

    Args:
        data: Unverified bytes.
        max_bytes: Longest input to look at.
        what: Name of the file for error texts.

    Raises:
        MetadataTooLargeError: Longer than ``max_bytes``; not parsed.
        MalformedMetadataError: Not UTF-8, not one JSON object, or with duplicate members,
            floating-point numbers, NaN, integers beyond 64 bits, lone surrogates or a nesting
            deeper than 32.
    """
    if len(data) > max_bytes:
        raise MetadataTooLargeError(f"{what} has {len(data)} bytes, the limit is {max_bytes}")
    try:
        text = data.decode("utf-8")
        _check_depth(text, what)
        value = _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise MalformedMetadataError(f"{what} isn't JSON in UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise MalformedMetadataError(f"{what} isn't valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise MalformedMetadataError(f"{what} isn't a JSON object")
    return value


def canonical(value: object) -> bytes:
    """Encode as OLPC canonical JSON, the form that is signed.

    The standard encoder gives the same bytes several times faster, except for control
    characters and floats; those take the slow, exact way.

    Raises:
        MalformedMetadataError: The value can't be encoded (a float, a lone surrogate).
    """
    try:
        fast = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        if "\\" not in fast and _is_float_free(value):
            return fast.encode("utf-8")
        exact: str = encode_canonical(cast("Any", value)) or ""
        return exact.encode("utf-8")
    except (ValueError, TypeError, RecursionError, FormatError) as error:
        raise MalformedMetadataError(f"no canonical JSON: {error}") from error


def _is_float_free(value: object) -> bool:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, float):
            return False
        if isinstance(item, dict):
            if not all(isinstance(key, str) for key in item):
                return False
            pending.extend(item.values())
        elif isinstance(item, list | tuple):
            pending.extend(item)
    return True


def _check_depth(text: str, what: str) -> None:
    depth = 0
    for match in _STRUCTURE.finditer(text):
        if match[0] in "[{":
            depth += 1
            if depth > _MAX_DEPTH:
                raise MalformedMetadataError(f"{what} nests deeper than {_MAX_DEPTH} levels")
        elif match[0] in "]}":
            depth -= 1


# A string that doesn't end is taken to the end at once: looked at again from each of its quotes,
# it would cost the square of its length.
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"duplicate member {name[:80]!r}")
            seen.add(name)
    for name, value in pairs:
        _check_text(name)
        if isinstance(value, str):
            _check_text(value)
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, str):
                    _check_text(item)
    return members


def _check_text(text: str) -> None:
    if not text.isascii() and _SURROGATE.search(text):
        raise ValueError("a lone surrogate")


_SURROGATE = re.compile("[\ud800-\udfff]")


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"the number {text[:40]} isn't an integer")


def _bounded_integer(text: str) -> int:
    if len(text) > _MAX_DIGITS or not -_MAX_INTEGER <= int(text) <= _MAX_INTEGER:
        raise ValueError(f"the integer {text[:40]} doesn't fit 64 bits")
    return int(text)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_members,
    parse_float=_refuse_number,
    parse_constant=_refuse_number,
    parse_int=_bounded_integer,
)
