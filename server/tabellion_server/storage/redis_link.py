"""The way to Redis or Valkey: one server, Sentinel or Cluster; scripts, repeated where safe.

Nothing is repeated by the client library: a script whose answer was lost may have been done. Ours
are written so that a second run of the same one changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.resources
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, TypeVar

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, PipelineCommand, RedisCluster

from tabellion_server.storage.interface import StorageError
from tabellion_server.storage.redis_address import RedisAddress
from tabellion_server.storage.redis_clients import (
    Sentinels,
    cluster_client,
    sentinel_clients,
    single_client,
)
from tabellion_server.storage.redis_errors import redis_error
from tabellion_server.storage.redis_tls import tls_context

T = TypeVar("T")
Reply = Any  # what a server sends may have any shape
Value = bytes | str | int | float

_ATTEMPTS: Final = 3
_PAUSE_SECONDS: Final = 0.05
# A Cluster's exceptions are a tree of their own.
_FAULTS: Final = (
    exceptions.RedisError,
    exceptions.RedisClusterException,
    OSError,
    TimeoutError,
)
_UNREACHED: Final = (exceptions.ConnectionError, OSError)


class Script:
    """A Lua script, which the server knows by its hash once it has seen it."""

    def __init__(self, name: str, prelude: str) -> None:
        """Read it from beside this module."""
        folder = importlib.resources.files("tabellion_server.storage") / "redis_scripts"
        texts = [
            (folder / f"{each}.lua").read_text(encoding="utf-8")
            for each in ("common", prelude, name)
        ]
        self.name = name
        self.text = "\n".join(texts).encode()
        self.sha1 = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()


class RedisLink:
    """Runs commands and scripts; at most so many at once, the others wait."""

    def __init__(
        self,
        address: RedisAddress,
        *,
        replicas: int = 0,
        connections: int = 10,
        ca: Path | None = None,
    ) -> None:
        """Make one; it connects when it's first used.

        Args:
            address: Where.
            replicas: How many replicas must have what was written.
            connections: How many commands may be under way at once.
            ca: Certificates that the server's must come from; None for the system's.

        Raises:
            ConfigurationError: ``ca`` can't be used.
        """
        self.address = address
        self.replicas = replicas
        self._free = asyncio.Semaphore(connections)
        self._sentinel: Sentinels | None = None
        self._cluster: RedisCluster | None = None
        self._search: asyncio.Task[RedisCluster] | None = None
        self._redis: Redis | None = None
        tls = tls_context(ca) if address.tls else None
        if address.topology == "cluster":
            self._cluster = cluster_client(address, tls, connections=2 * connections)
        elif address.topology == "sentinel":
            self._sentinel, self._redis = sentinel_clients(address, tls)
        else:
            self._redis = single_client(address, tls)

    async def close(self) -> None:
        """Let go of all connections."""
        if self._search is not None:
            await asyncio.wait([self._search])
        for client in (self._redis, self._cluster):
            if client is not None:
                await client.aclose()
        for sentinel in self._sentinel.sentinels if self._sentinel else ():
            await sentinel.aclose()

    async def read(self, *command: Value) -> Reply:
        """Run a command that changes nothing when it's run a second time.

        Raises:
            StorageError: It couldn't be.
        """
        return await self._attempt(lambda: self._execute(command))

    async def read_all(self, commands: Sequence[Sequence[Value]]) -> list[Reply]:
        """Run such commands together.

        Raises:
            StorageError: One couldn't be.
        """
        if self._redis is None:
            return await asyncio.gather(*(self.read(*command) for command in commands))
        redis = self._redis

        async def run() -> list[Reply]:
            async with redis.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                return list(await pipeline.execute())

        return await self._attempt(run)

    async def read_in_order(self, commands: Sequence[Sequence[Value]]) -> None:
        """Run such commands one behind the other.

        Raises:
            StorageError: One couldn't be.
        """
        if self._redis is not None:
            await self.read_all(commands)
            return
        for command in commands:
            await self.read(*command)

    async def run(
        self,
        script: Script,
        keys: Sequence[bytes],
        values: Sequence[Value],
        *,
        waits: bool = False,
        is_urgent: bool = False,
    ) -> Reply:
        """Run a script, again if its answer is lost: one that changes nothing the second time.

        Args:
            script: The script.
            keys: Its keys, all on one slot.
            values: Its values.
            waits: Whether replicas must have what it wrote.
            is_urgent: It doesn't wait for its turn, and is tried no longer than the time-out.

        Raises:
            StorageError: It couldn't be, or it isn't known whether it was.
        """

        async def evaluate() -> Reply:
            try:
                return await self._execute(("EVALSHA", script.sha1, len(keys), *keys, *values))
            except exceptions.NoScriptError:
                return await self._execute(("EVAL", script.text, len(keys), *keys, *values))

        if is_urgent:
            return await self._attempt(evaluate, turn=contextlib.nullcontext())
        answer = await self._attempt(evaluate, timeouts=1)
        if waits and self.replicas:
            again = ("EVALSHA", script.sha1, len(keys), *keys, *values)
            await self._attempt(lambda: self._replicate(keys[0], again))
        return answer

    async def masters(self) -> list[Callable[..., Awaitable[Reply]]]:
        """Give what runs a command on a master, for each.

        Raises:
            StorageError: They can't be reached.
        """
        if self._cluster is None:
            return [self.read]
        cluster = await self._attempt(self._found_cluster)

        def on(node: ClusterNode) -> Callable[..., Awaitable[Reply]]:
            return lambda *command: self._attempt(
                lambda: cluster.execute_command(*command, target_nodes=[node])
            )

        return [on(node) for node in cluster.get_primaries()]

    async def _execute(self, command: Sequence[Value]) -> Reply:
        client: Any = self._redis if self._redis is not None else await self._found_cluster()
        return await client.execute_command(*command)

    async def _found_cluster(self) -> RedisCluster:
        """Give the Cluster once its nodes are known; all who come meanwhile share the search.

        Alone each would search for itself, one behind the other, as long as no node answers.
        """
        assert self._cluster is not None  # noqa: S101  (one of the two is there)
        if self._cluster._initialize:  # noqa: SLF001  (nothing else tells it)
            if self._search is None or self._search.done():
                self._search = asyncio.create_task(self._cluster.initialize())
                self._search.add_done_callback(_is_looked_at)
            await asyncio.shield(self._search)
        return self._cluster

    async def _replicate(self, key: bytes, again: Sequence[Value]) -> None:
        """Run a script again, which changes nothing, and wait for the replicas to have it.

        Both on one connection: WAIT counts what its own wrote, and all before.
        """
        wait = ("WAIT", self.replicas, int(self.address.timeout_seconds * 500))
        if self._redis is not None:
            async with self._redis.pipeline(transaction=False) as pipeline:
                pipeline.execute_command(*again)
                pipeline.execute_command(*wait)
                _, count = await pipeline.execute()
        else:
            cluster = await self._found_cluster()
            node = cluster.get_node_from_key(key)  # type: ignore[arg-type]
            if node is None:
                raise exceptions.SlotNotCoveredError
            commands = [PipelineCommand(0, *again), PipelineCommand(1, *wait)]
            await node.execute_pipeline(commands)
            for each in commands:
                if isinstance(each.result, Exception):
                    raise each.result
            count = commands[1].result
        if count < self.replicas:
            raise StorageError(
                f"store {self.address.name} has it, but only {count} of its replicas",
                hint="see why its replicas don't follow; publish again once they do",
            )

    async def _attempt(
        self,
        work: Callable[[], Awaitable[T]],
        *,
        timeouts: int = 0,
        turn: AbstractAsyncContextManager[None] | None = None,
    ) -> T:
        async with turn or self._free:
            for attempt in range(_ATTEMPTS):
                try:
                    return await work()
                except StorageError:
                    raise
                except UnicodeError as error:
                    raise StorageError(f"a name isn't Unicode: {error}") from error
                except Exception as error:
                    if attempt == _ATTEMPTS - 1 or not _may_pass(
                        error, waits_again=attempt < timeouts
                    ):
                        raise redis_error(error, self.address) from error
                    await asyncio.sleep(_PAUSE_SECONDS * 4**attempt)
            raise AssertionError  # the last attempt returned or raised


def _may_pass(error: Exception, *, waits_again: bool) -> bool:
    if isinstance(error, exceptions.TimeoutError):
        return waits_again
    if isinstance(error, _UNREACHED):
        # Mostly a connection that was open when the server was started anew.
        return not isinstance(error, exceptions.AuthenticationError)
    # A Cluster's client that looks for its nodes anew lets go of connections that others are
    # using: they meet an AttributeError or the like.
    return not isinstance(error, _FAULTS)


def _is_looked_at(search: asyncio.Task[RedisCluster]) -> None:
    """See its error, which asyncio would tell of if all who wait for it had gone."""
    if not search.cancelled():
        search.exception()
