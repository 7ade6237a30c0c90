"""Reads per second of a server process, beside a plain aiohttp server that holds the same bytes.

Run: .venv/bin/python tests/perf/bench_server.py [ROUNDS]. Loopback only; every round asks each
address in turn over the same few connections. Prints medians, spread, p50, p99, and ratios of
medians to the peer.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import aiohttp
from securesystemslib.signer import Key

from forge import Forge, target
from http_site import signed
from tabellion.cli.embedded import EmbeddedServer

GUN = "bench.example/app"
BASE = f"/v2/{GUN}/_trust/tuf/"
CONNECTIONS = 8
REQUESTS = 100  # on each connection, in each round
TARGETS = 100
PEER = """
import sys
from aiohttp import web
body = open(sys.argv[1], "rb").read()
async def answer(request):
    headers = {"ETag": '"x"', "Cache-Control": "no-cache"}
    return web.Response(body=body, content_type="application/json", headers=headers)
app = web.Application()
app.router.add_get("/{path:.+}", answer)
web.run_app(app, host="127.0.0.1", port=0, access_log=None)
"""


async def publish(url: str) -> None:
    """Publish targets 1 and 2."""
    forge = Forge()
    async with aiohttp.ClientSession(url) as session:
        for role in ("snapshot", "timestamp"):
            async with session.get(f"{BASE}{role}.key?dialect=tuf") as response:
                fields = await response.json()
            forge.root.revoke_key(forge.root.roles[role].keyids[0], role)
            forge.root.add_key(Key.from_dict(fields.pop("keyid"), fields), role)
        for number in range(TARGETS):
            forge.targets.targets[f"t{number}"] = target(b"x", f"t{number}")
        for version, roles in ((1, ("root", "targets")), (2, ("targets",))):
            forge.targets.version = version
            form = aiohttp.FormData(quote_fields=False)
            for role, data in signed(forge, *roles).items():
                form.add_field("files", data, filename=role)
            async with session.post(BASE, data=form) as response:
                assert response.status == 200, await response.text()


async def connection(port: int, path: str, seconds: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    for _ in range(REQUESTS):
        begin = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = re.search(rb"(?i)content-length: ([0-9]+)", head)
        assert length is not None
        await reader.readexactly(int(length[1]))
        seconds.append(time.perf_counter() - begin)
    writer.close()
    await writer.wait_closed()


async def load(port: int, path: str) -> tuple[float, list[float]]:
    """Give requests per second, and how long each took."""
    seconds: list[float] = []
    begin = time.perf_counter()
    await asyncio.gather(*(connection(port, path, seconds) for _ in range(CONNECTIONS)))
    return len(seconds) / (time.perf_counter() - begin), seconds


async def measure(ports: dict[str, int], rounds: int) -> None:
    rates: dict[str, list[float]] = {}
    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        for what, port in ports.items():
            rate, seconds = await load(port, f"{BASE}{what.split()[0]}")
            rates.setdefault(what, []).append(rate)
            times.setdefault(what, []).extend(seconds)
    peer = statistics.median(rates[next(iter(ports))])
    for what, values in rates.items():
        median = statistics.median(values)
        cuts = statistics.quantiles(times[what], n=100)
        print(
            f"{what:26} {median:6.0f}/s ({min(values):.0f} to {max(values):.0f})"
            f"   p50 {cuts[49] * 1000:6.2f} ms   p99 {cuts[98] * 1000:6.2f} ms"
            f"   {median / peer:.2f} of the peer"
        )


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name, EmbeddedServer(Path(name)) as server:
        asyncio.run(publish(server.url))
        body = Path(name) / "body"
        body.write_bytes(signed(Forge(), "targets")["targets"].ljust(12_000))
        peer = subprocess.Popen(
            [sys.executable, "-u", "-c", PEER, str(body)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert peer.stdout is not None
            found = re.search(r":([0-9]+)", peer.stdout.readline())
            assert found is not None
            port = int(server.url.rpartition(":")[2])
            ports = {"x.json (plain aiohttp)": int(found[1])}
            ports |= dict.fromkeys(("timestamp.json", "2.targets.json", "1.targets.json"), port)
            asyncio.run(measure(ports, rounds))
        finally:
            peer.terminate()
            peer.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
