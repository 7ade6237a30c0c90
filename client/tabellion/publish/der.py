"""DER, as far as key files need it: a strict reader with bounds, and what writes the same.

The reader takes definite lengths in their shortest form only, so one value has one encoding; it
goes no deeper than a key file does. Spec: X.690 sections 8 and 10.
"""

from __future__ import annotations

from typing import Final

from tabellion.errors import KeyStoreError

SEQUENCE: Final = 0x30
INTEGER: Final = 0x02
OCTETS: Final = 0x04
NULL: Final = 0x05
OID: Final = 0x06

_MAX_DEPTH: Final = 8
_MAX_LENGTH_BYTES: Final = 2
_MAX_INTEGER_BYTES: Final = 8
_LONG_FORM: Final = 0x80


class DerReader:
    """Reads the values of one DER string, one after the other."""

    def __init__(self, data: bytes, *, depth: int = 0) -> None:
        """Take the bytes; ``depth`` counts the sequences around them.

        Raises:
            KeyStoreError: Nested too deep.
        """
        if depth > _MAX_DEPTH:
            raise _malformed(f"sequences are nested more than {_MAX_DEPTH} deep")
        self._data = data
        self._at = 0
        self._depth = depth

    @property
    def next_tag(self) -> int | None:
        """Give the tag of the next value, None at the end."""
        return self._data[self._at] if self._at < len(self._data) else None

    def sequence(self) -> DerReader:
        """Read a SEQUENCE; give a reader of what's in it."""
        return DerReader(self._take(SEQUENCE), depth=self._depth + 1)

    def octets(self) -> bytes:
        """Read an OCTET STRING."""
        return self._take(OCTETS)

    def oid(self) -> bytes:
        """Read an OBJECT IDENTIFIER; give its encoded arcs."""
        return self._take(OID)

    def null(self) -> None:
        """Read a NULL."""
        if self._take(NULL):
            raise _malformed("a NULL isn't empty")

    def integer(self) -> int:
        """Read an INTEGER that isn't negative, of 8 bytes at most."""
        content = self._take(INTEGER)
        if not 0 < len(content) <= _MAX_INTEGER_BYTES:
            raise _malformed(f"an INTEGER has {len(content)} bytes")
        if content[0] & 0x80 or (len(content) > 1 and not content[0] and not content[1] & 0x80):
            raise _malformed("an INTEGER is negative or not in its shortest form")
        return int.from_bytes(content, "big")

    def end(self) -> None:
        """Refuse anything that follows."""
        if self._at != len(self._data):
            raise _malformed(f"{len(self._data) - self._at} bytes follow the last value")

    def _take(self, tag: int) -> bytes:
        if self.next_tag != tag:
            found = "the end" if self.next_tag is None else f"tag 0x{self.next_tag:02x}"
            raise _malformed(f"{found} where tag 0x{tag:02x} belongs")
        self._at += 1
        length = self._byte()
        if length >= _LONG_FORM:
            length = self._long_length(length & 0x7F)
        if length > len(self._data) - self._at:
            raise _malformed(f"a value of {length} bytes is cut short")
        start, self._at = self._at, self._at + length
        return self._data[start : self._at]

    def _long_length(self, size: int) -> int:
        if not 0 < size <= _MAX_LENGTH_BYTES:
            raise _malformed("a length is indefinite or over 65535")
        length = 0
        for _ in range(size):
            length = length << 8 | self._byte()
        if length < _LONG_FORM or length >> 8 * (size - 1) == 0:
            raise _malformed("a length isn't in its shortest form")
        return length

    def _byte(self) -> int:
        if self.next_tag is None:
            raise _malformed("a length is cut short")
        self._at += 1
        return self._data[self._at - 1]


def _malformed(reason: str) -> KeyStoreError:
    return KeyStoreError(
        f"a key isn't well-formed DER: {reason}", hint="check that the file is whole and a key"
    )


def sequence(*parts: bytes) -> bytes:
    """Write a SEQUENCE of encoded values."""
    return _tagged(SEQUENCE, b"".join(parts))


def octets(data: bytes) -> bytes:
    """Write an OCTET STRING."""
    return _tagged(OCTETS, data)


def oid(arcs: bytes) -> bytes:
    """Write an OBJECT IDENTIFIER from its encoded arcs."""
    return _tagged(OID, arcs)


def null() -> bytes:
    """Write a NULL."""
    return _tagged(NULL, b"")


def integer(number: int) -> bytes:
    """Write an INTEGER that isn't negative."""
    return _tagged(INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _tagged(tag: int, data: bytes) -> bytes:
    length = len(data)
    if length < _LONG_FORM:
        return bytes([tag, length]) + data
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, _LONG_FORM | len(size)]) + size + data
