"""What was used last, up to a size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class SizedCache(Generic[K, V]):
    """Forgets what was asked for longest ago once all together is too large.

    Used by the event loop alone, so it has no lock.
    """

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._size = 0
        self._held: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def get(self, key: K) -> V | None:
        """Give what is held under the key."""
        found = self._held.get(key)
        if found is None:
            return None
        self._held.move_to_end(key)
        return found[0]

    def pop(self, key: K) -> None:
        """Forget what is held under a key."""
        found = self._held.pop(key, None)
        if found is not None:
            self._size -= found[1]

    def drop(self, fits: Callable[[K], bool]) -> None:
        """Forget what is held under the keys that fit; looks at every key."""
        for key in [key for key in self._held if fits(key)]:
            self._size -= self._held.pop(key)[1]

    def put(self, key: K, value: V, size: int) -> None:
        """Hold a value, unless it alone is too large or something is held under its key."""
        if key in self._held or size > self._max_size:
            return
        self._held[key] = (value, size)
        self._size += size
        while self._size > self._max_size:
            _, (_, dropped) = self._held.popitem(last=False)
            self._size -= dropped
