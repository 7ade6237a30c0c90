"""``verify`` and ``sign`` as whole processes, beside one that runs python-tuf's Updater.

Run: .venv/bin/python tests/perf/bench_processes.py [ROUNDS]. A real server on loopback; every
round runs each of them once, in turn. Prints medians, spread and ratios to the peer.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tabellion.cli.embedded import EmbeddedServer

GUN = "bench.example/app"
DIGEST = "sha256:" + "ab" * 32
PEER = """
import sys
from tuf.ngclient import Updater
folder, base, root = sys.argv[1:]
updater = Updater(folder, base, bootstrap=open(root, "rb").read())
updater.refresh()
print(updater.get_targetinfo("1.0").hashes["sha256"])
"""


def run(*words: str, home: Path | None = None, url: str = "") -> str:
    environ = {
        **os.environ,
        "TABELLION_HOME": str(home),
        "TABELLION_SERVER": url,
        "TABELLION_ROOT_PASSPHRASE": "bench-only-words",
        "TABELLION_TARGETS_PASSPHRASE": "bench-only-words",
    }
    done = subprocess.run([sys.executable, *words], check=True, stdout=subprocess.PIPE, env=environ)
    return done.stdout.decode()


def measure(act: Callable[[], object]) -> float:
    begin = time.perf_counter()
    act()
    return (time.perf_counter() - begin) * 1000


def main(rounds: int) -> None:
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name, EmbeddedServer(Path(name)) as server:
        folder = Path(name)
        author, url = folder / "author", server.url
        cli = ("-m", "tabellion.cli")
        offline = ("--digest", DIGEST, "--length", "1234")
        run(*cli, "init", GUN, home=author, url=url)
        run(*cli, "sign", f"{GUN}:1.0", *offline, home=author, url=url)
        base = f"{url}/v2/{GUN}/_trust/tuf/"
        root = folder / "root.json"
        with urllib.request.urlopen(f"{base}1.root.json") as response:  # noqa: S310  # loopback
            root.write_bytes(response.read())
        for number in range(rounds):
            home, peer = folder / f"home{number}", folder / f"peer{number}"
            peer.mkdir()
            acts: dict[str, Callable[[], object]] = {
                "python-tuf": lambda p=peer: run("-c", PEER, str(p), base, str(root)),
                "verify": lambda h=home: run(
                    *cli, "verify", f"{GUN}:1.0", "--root", str(root), home=h, url=url
                ),
            }
            for state in ("cold", "warm"):
                for who, act in acts.items():
                    figures.setdefault(f"{who} {state}", []).append(measure(act))
            figures.setdefault("sign", []).append(
                measure(
                    lambda n=number: run(
                        *cli, "sign", f"{GUN}:b{n}", *offline, home=author, url=url
                    )
                )
            )
            figures.setdefault("python", []).append(measure(lambda: run("-c", "")))
    for what, values in figures.items():
        print(
            f"{what:16} {statistics.median(values):7.0f} ms"
            f"   ({min(values):.0f} to {max(values):.0f}, {rounds} rounds)"
        )
    for what, peer_name in (
        ("verify cold", "python-tuf cold"),
        ("verify warm", "python-tuf warm"),
        ("sign", "python-tuf warm"),
    ):
        ratio = statistics.median(figures[what]) / statistics.median(figures[peer_name])
        print(f"{what} / {peer_name}: {ratio:.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
