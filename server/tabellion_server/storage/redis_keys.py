"""Names of keys: all of a GUN on one slot of a Cluster, the changefeed and the lists on another."""

from __future__ import annotations

from tabellion_server.storage.interface import StorageError


def raw(text: str) -> bytes:
    """Give a name's UTF-8.

    Raises:
        StorageError: It has none.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise StorageError("a name isn't Unicode text") from error


class GunKeys:
    """Keys of one GUN, each with the hash tag ``{g:GUN}``; braces and % in it are quoted."""

    def __init__(self, prefix: str, gun: str) -> None:
        name = raw(gun).replace(b"%", b"%25").replace(b"{", b"%7B").replace(b"}", b"%7D")
        self._start = prefix.encode() + b"{g:" + name + b"}:"
        self.head = self._start + b"head"
        self.first = [self._start + name for name in (b"kept", b"head", b"log")]

    def of(self, *names: str) -> list[bytes]:
        """Give the three keys of every script, and those of that name."""
        return [*self.first, *(self._start + name.encode() for name in names)]

    def key(self, name: str) -> bytes:
        """Give one key."""
        return self._start + name.encode()

    @property
    def blobs(self) -> bytes:
        """Give what the keys of files' bytes begin with."""
        return self._start + b"file:"

    def blob(self, role: str, version: int) -> bytes:
        """Give the key of a file's bytes."""
        return self.blobs + b"%d:" % version + raw(role)


class FeedKeys:
    """Keys that are no GUN's own, with the hash tag ``{feed}``."""

    def __init__(self, prefix: str) -> None:
        self._start = prefix.encode() + b"{feed}:"

    def of(self, *names: str) -> list[bytes]:
        """Give the two keys of every script, and those of that name."""
        return [self.key(name) for name in ("state", "gaps", *names)]

    def key(self, name: str) -> bytes:
        """Give one key."""
        return self._start + name.encode()

    def changes(self, gun: str | None) -> bytes:
        """Give the key of the changefeed, of one GUN or of all."""
        return self.key("changes") if gun is None else self._start + b"changes:" + raw(gun)
