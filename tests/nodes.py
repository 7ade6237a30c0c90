"""Several nodes on one store, as processes on loopback; they get killed and paused."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from time import monotonic

import aiohttp
from securesystemslib.signer import Key
from tuf.api.metadata import Targets

from forge import Forge, target
from history import Operation, Read, Write
from http_site import signed
from tabellion.core.trusted_set import TrustedSet
from tabellion.errors import ThresholdError, VerificationError

_SHORT = aiohttp.ClientTimeout(total=20)


class Link:
    """The way from a node to a store elsewhere: it can be cut, or let nothing through."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._open = asyncio.Event()
        self._open.set()
        self._is_cut = False
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self.heal()
        self._server.close()
        self._close_all()

    def cut(self) -> None:
        """End all connections, and let none begin."""
        self._is_cut = True
        self._close_all()

    def hold(self) -> None:
        """Let nothing through, and nobody know."""
        self._open.clear()

    def heal(self) -> None:
        self._is_cut = False
        self._open.set()

    def _close_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.close()
            return
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self._target)
        pair = {writer, upstream}
        self._writers |= pair
        try:
            await asyncio.gather(
                self._pump(reader, upstream),
                self._pump(upstream_reader, writer),
            )
        finally:
            self._writers -= pair
            for one in pair:
                one.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


@dataclass(frozen=True)
class Ground:
    """Where a node stands: its configuration, and its way to a store elsewhere."""

    config: Path
    link: Link | None = None


@dataclass
class Node:
    """A server process."""

    ground: Ground
    process: asyncio.subprocess.Process
    url: str
    reading: asyncio.Task[None]
    log: list[str]


@dataclass
class Nodes:
    """Nodes on one store; whoever asks is sent to any that runs."""

    program: tuple[str, ...]
    rng: Random
    running: list[Node] = field(default_factory=list)
    kills: int = 0
    pauses: int = 0
    cuts: int = 0
    is_over: bool = False

    @property
    def url(self) -> str:
        return self.rng.choice(self.running).url

    async def start(self, ground: Ground) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *self.program, "serve", "--config", str(ground.config)),
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        stream, log = process.stderr, []
        url = ""
        while not url:
            line = (await asyncio.wait_for(stream.readline(), 30)).decode()
            assert line, log
            log.append(line)
            found = re.search(r"listening\s+url=(\S+)", line)
            url = found[1] if found else ""

        async def collect() -> None:
            while line := await stream.readline():
                log.append(line.decode())

        self.running.append(Node(ground, process, url, asyncio.create_task(collect()), log))

    async def kill(self, node: Node) -> None:
        """End a node at once, as a power cut does; it isn't asked any more."""
        if node in self.running:
            self.running.remove(node)
        with contextlib.suppress(ProcessLookupError):
            node.process.kill()
        await node.process.wait()
        await node.reading
        self.kills += 1

    async def pause(self, node: Node, seconds: float) -> None:
        """Have a node stand still, as if nobody reached it and it reached nobody."""
        node.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            node.process.send_signal(signal.SIGCONT)
        self.pauses += 1

    async def part(self, link: Link, seconds: float) -> None:
        """Have a node not reach its store, and perhaps not know."""
        (link.cut if self.rng.random() < 0.5 else link.hold)()
        await asyncio.sleep(seconds)
        link.heal()
        self.cuts += 1

    async def trouble(self) -> None:
        """Kill nodes, pause them, and cut them off, until it's over; at least one is left."""
        self.is_over = False
        while not self.is_over:
            await asyncio.sleep(self.rng.uniform(0.1, 0.4))
            node = self.rng.choice(self.running)
            chance = self.rng.random()
            if node.ground.link is not None and chance < 0.4:
                await self.part(node.ground.link, self.rng.uniform(0.05, 0.8))
            elif chance < 0.6:
                await self.pause(node, self.rng.uniform(0.05, 0.5))
            elif len(self.running) > 1:
                await self.kill(node)
                await self.start(node.ground)


@asynccontextmanager
async def nodes(
    grounds: Sequence[Ground], *, rng: Random, program: tuple[str, ...] = ()
) -> AsyncIterator[Nodes]:
    made = Nodes(program or ("-m", "tabellion_server"), rng)
    links = [ground.link for ground in grounds if ground.link is not None]
    try:
        await made.start(grounds[0])  # the first makes the store
        await asyncio.gather(*(made.start(ground) for ground in grounds[1:]))
        yield made
    finally:
        for link in links:
            link.heal()
        for node in list(made.running):
            with contextlib.suppress(ProcessLookupError):
                os.kill(node.process.pid, signal.SIGCONT)
            await made.kill(node)
        for link in links:
            await link.stop()


class Life:
    """What its publishers, its root's holder and its readers do to a GUN, and what came of it."""

    def __init__(self, gun: str, place: Nodes, session: aiohttp.ClientSession) -> None:
        self.gun = gun
        self.place = place
        self.session = session
        self.log: list[Operation] = []
        self.forge = Forge()
        self.first_root = b""
        self._made = 0

    def url(self, name: str) -> str:
        """Give an address at any of the nodes."""
        return f"{self.place.url}/v2/{self.gun}/_trust/tuf/{name}"

    async def found(self) -> None:
        for role in ("snapshot", "timestamp"):
            key = await self._online_key("GET", role)
            self.forge.root.revoke_key(self.forge.root.roles[role].keyids[0], role)
            self.forge.root.add_key(key, role)
        files = signed(self.forge, "root", "targets")
        self.first_root = files["root"]
        assert await self._post(files) == "accepted"

    async def publish(self) -> None:
        """Publish one more target on what is current, once; lost races are for another day."""
        trusted = await self._update()
        if trusted is None or trusted.targets is None:
            return
        self._made += 1
        path = f"app-{self._made}"
        payload = Targets.from_dict(json.loads(trusted.targets.data)["signed"])
        payload.version += 1
        payload.targets[path] = target(path.encode(), path)
        data = self.forge.sign("targets", payload)
        await self._write("targets", payload.version, data, path)

    async def rotate(self) -> None:
        """Publish a root with another timestamp or snapshot key."""
        role = self.place.rng.choice(("snapshot", "timestamp"))
        try:
            key = await self._online_key("POST", role)
            root = await self._newest_root()
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            return
        self.forge.root = type(self.forge.root).from_dict(json.loads(root)["signed"])
        self.forge.root.version += 1
        self.forge.root.revoke_key(self.forge.root.roles[role].keyids[0], role)
        self.forge.root.add_key(key, role)
        version = self.forge.root.version
        await self._write("root", version, self.forge.sign("root", self.forge.root), "")

    async def read(self) -> None:
        """Update as a client does that has the first root, each file from any node."""
        await self._update()

    async def _update(self) -> TrustedSet | None:
        began = monotonic()
        while True:
            root = [1]
            try:
                trusted = await self._walk(root)
            except (aiohttp.ClientError, TimeoutError, ConnectionError):
                return None
            except ThresholdError as error:
                torn = f"{error.message}, after root version {root[0]}"
                # Between the newest root and what it's to verify a newer root may have come.
                try:
                    newer = await self._get(f"{root[0] + 1}.root.json", may_lack=True)
                except (aiohttp.ClientError, TimeoutError, ConnectionError):
                    return None  # nobody says
                if newer is not None:
                    began = monotonic()
                    continue
            except (VerificationError, LookupError) as error:
                torn = str(error)
            else:
                self._note(began, trusted)
                return trusted
            self.log.append(Read(self.gun, began, monotonic(), torn=torn))
            return None

    async def _walk(self, newest: list[int]) -> TrustedSet:
        """Take each file after the other; tells the newest root in ``newest``."""
        trusted = TrustedSet(self.first_root, now=datetime.now(UTC), gun=self.gun)
        version = 2
        while (root := await self._get(f"{version}.root.json", may_lack=True)) is not None:
            trusted.update_root(root)
            newest[0] = version
            version += 1
        trusted.update_timestamp(await self._have("timestamp.json"))
        trusted.update_snapshot(await self._have(f"{trusted.snapshot_meta.version}.snapshot.json"))
        meta = trusted.targets_meta("targets")
        trusted.update_targets(await self._have(f"{meta.version}.targets.json"))
        return trusted

    def _note(self, began: float, trusted: TrustedSet) -> None:
        files = {
            "root": trusted.root,
            "timestamp": trusted.timestamp,
            "snapshot": trusted.snapshot,
            "targets": trusted.targets,
        }
        held = {role: file for role, file in files.items() if file is not None}
        self.log.append(
            Read(
                self.gun,
                began,
                monotonic(),
                {role: file.version for role, file in held.items()},
                {role: hashlib.sha256(file.data).hexdigest() for role, file in held.items()},
                frozenset(held["targets"].signed.targets),  # type: ignore[union-attr]
            )
        )

    async def _have(self, name: str) -> bytes:
        data = await self._get(name)
        if data is None:
            raise LookupError(f"{name} isn't there")
        return data

    async def _newest_root(self) -> bytes:
        data = await self._get("root.json")
        assert data is not None
        return data

    async def _get(self, name: str, *, may_lack: bool = False) -> bytes | None:
        async with self.session.get(self.url(name), timeout=_SHORT) as answer:
            data = await answer.read()
            if answer.status == 404:
                if not may_lack:
                    raise LookupError(f"{name} isn't there")
                return None
            answer.raise_for_status()
            return data

    async def _online_key(self, method: str, role: str) -> Key:
        url = self.url(f"{role}.key?dialect=tuf")
        async with self.session.request(method, url, timeout=_SHORT) as answer:
            answer.raise_for_status()
            fields = await answer.json()
        return Key.from_dict(fields.pop("keyid"), fields)

    async def _write(self, role: str, version: int, data: bytes, path: str) -> None:
        began = monotonic()
        outcome = await self._post({role: data})
        self.log.append(
            Write(
                *(self.gun, began, monotonic(), role, version),
                *(hashlib.sha256(data).hexdigest(), outcome, path),  # type: ignore[arg-type]
            )
        )

    async def _post(self, files: dict[str, bytes]) -> str:
        form = aiohttp.FormData(quote_fields=False)
        for role, data in files.items():
            form.add_field("files", data, filename=role)
        try:
            async with self.session.post(self.url(""), data=form, timeout=_SHORT) as answer:
                await answer.read()
                if answer.status == 200:
                    return "accepted"
                return "refused" if answer.status in {409, 422} else "unknown"
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            return "unknown"
