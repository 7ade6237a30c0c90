"""One change for all GUNs under a prefix: a few at a time, written down, and gone on with.

``<home>/rollouts/<prefix and signer, quoted>.json`` says how each GUN stands. One that fails
doesn't stop the others; what failed or wasn't reached can be taken up, whatever ended the run.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote

from tabellion import atomic_file
from tabellion.core import strict_json
from tabellion.errors import CacheError, TabellionError, UsageError
from tabellion.publish.changes import AddSigner, RemoveSigner, change_from_json, change_to_json
from tabellion.publish.declared import GunPrefix

if TYPE_CHECKING:
    from tabellion.publish.publisher import Publisher

SignerChange = AddSigner | RemoveSigner
State = Literal["pending", "done", "unchanged", "failed"]

_AT_ONCE: Final = 4
_MAX_BYTES: Final = 64_000_000


@dataclass(frozen=True)
class Progress:
    """How one GUN stands.

    Attributes:
        state: ``pending``, ``done``, ``unchanged`` (it was so already) or ``failed``.
        why: What went wrong, and what to do about it.
        exit_status: What that means on the command line.
    """

    state: State = "pending"
    why: str = ""
    exit_status: int = 0


@dataclass
class Rollout:
    """A change on its way to all GUNs under a prefix.

    Attributes:
        prefix: Which GUNs.
        change: What each of them gets.
        guns: How each stands, in the order of their names.
    """

    prefix: GunPrefix
    change: SignerChange
    guns: dict[str, Progress] = field(default_factory=dict)

    def left(self) -> list[str]:
        """Give the GUNs that haven't the change yet."""
        return [gun for gun, it in self.guns.items() if it.state in {"pending", "failed"}]

    def count(self, *states: State) -> int:
        """Count the GUNs that stand so."""
        return sum(it.state in states for it in self.guns.values())


class Journal:
    """Where a rollout is written down. Its methods block."""

    def __init__(self, home: Path, prefix: GunPrefix, name: str) -> None:
        self.path = home / "rollouts" / f"{quote(f'{prefix} {name}', safe='')}.json"

    def write(self, rollout: Rollout) -> None:
        """Keep how it stands."""
        content = {
            "prefix": rollout.prefix.text,
            "change": change_to_json(rollout.change),
            "guns": {gun: [it.state, it.why, it.exit_status] for gun, it in rollout.guns.items()},
        }
        try:
            atomic_file.write_atomic(self.path, json.dumps(content, indent=1).encode())
        except OSError as error:
            raise CacheError(f"{self.path} can't be used: {error.strerror or error}") from error

    def read(self) -> Rollout:
        """Give what was begun.

        Raises:
            UsageError: Nothing was.
            CacheError: The file can't be read.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            raise UsageError(
                "nothing was begun that could be resumed",
                hint="leave --resume out to begin; what is so already is left alone",
            ) from None
        except OSError as error:
            raise CacheError(f"{self.path} can't be used: {error.strerror or error}") from error
        try:
            content: dict[str, Any] = strict_json.parse(data, max_bytes=_MAX_BYTES, what="journal")
            change = change_from_json(content["change"])
            guns = {gun: Progress(*entry) for gun, entry in content["guns"].items()}
            if not isinstance(change, AddSigner | RemoveSigner):
                raise ValueError("it's of another kind")  # noqa: TRY004, TRY301  (one message)
            return Rollout(GunPrefix(content["prefix"]), change, guns)
        except (TabellionError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CacheError(
                f"journal {self.path} can't be read: {error}", hint="begin anew, without --resume"
            ) from error


async def begin(publisher: Publisher, prefix: GunPrefix, change: SignerChange) -> Rollout:
    """List the GUNs there are under a prefix; nothing is changed or written down yet.

    The list is the server's word: one it leaves out doesn't get the change, one it makes up fails.
    """
    guns = await publisher.guns(prefix)
    return Rollout(prefix, change, {gun: Progress() for gun in sorted(guns)})


async def look(publisher: Publisher, rollout: Rollout) -> Rollout:
    """Tell of each GUN whether it would be changed, and change nothing.

    ``pending`` are those that would be.
    """

    async def one(gun: str) -> Progress:
        would = await publisher.would_change(gun, rollout.change)
        return Progress("pending" if would else "unchanged")

    return Rollout(rollout.prefix, rollout.change, await _each(list(rollout.guns), one))


async def run(
    publisher: Publisher,
    rollout: Rollout,
    journal: Journal,
    *,
    tell: Callable[[str, Progress], None] = lambda _gun, _progress: None,
) -> None:
    """Publish the change to each GUN that is left; the rollout and its journal say how it went.

    Args:
        publisher: Publishes.
        rollout: What is to be done; changed as it goes.
        journal: Where it's written down.
        tell: Told of each GUN as it's done or failed.
    """
    writing = asyncio.Lock()
    await asyncio.to_thread(journal.write, rollout)

    async def one(gun: str) -> Progress:
        published = await publisher.apply(gun, rollout.change)
        if published.missing:
            where = published.incomplete
            return Progress("failed", f"signatures are missing; the next signer gets {where}", 2)
        return Progress("done" if published.versions else "unchanged")

    async def keep(gun: str, progress: Progress) -> None:
        async with writing:
            rollout.guns[gun] = progress
            await asyncio.to_thread(journal.write, rollout)
        tell(gun, progress)

    await _each(rollout.left(), one, keep)


async def _each(
    guns: list[str],
    work: Callable[[str], Awaitable[Progress]],
    keep: Callable[[str, Progress], Awaitable[None]] | None = None,
) -> dict[str, Progress]:
    slots = asyncio.Semaphore(_AT_ONCE)
    found: dict[str, Progress] = {}

    async def one(gun: str) -> None:
        async with slots:
            try:
                found[gun] = await work(gun)
            except TabellionError as error:
                why = f"{error.message} ({error.hint})" if error.hint else error.message
                found[gun] = Progress("failed", why, error.exit_status)
            if keep is not None:
                await keep(gun, found[gun])

    async with asyncio.TaskGroup() as group:
        for gun in guns:
            group.create_task(one(gun))
    return {gun: found[gun] for gun in guns}
