"""Real registries and container engines for the tests, each on loopback with its own folder.

Every program is stopped by its own process id. A test that needs a missing program is skipped
with a line that names the Debian package.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tabellion.registry import Manifest

PACKAGES = {
    "dockerd": "docker.io",
    "docker": "docker.io",
    "docker-registry": "docker-registry",
    "podman": "podman",
    "skopeo": "skopeo",
    "busybox": "busybox-static",
    "notary": "notary",
    "openssl": "openssl",
    "pgbouncer": "pgbouncer",
    "notary-server": "notary",
    "notary-signer": "notary",
}
_START_SECONDS = 30


def need(*programs: str) -> None:
    """Skip the test if a program is missing; dockerd also needs root."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is missing: apt-get install {PACKAGES[program]}")
    if "dockerd" in programs and os.geteuid() != 0:
        pytest.skip("dockerd needs root")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def is_listening(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def started(
    words: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a daemon for as long as the block lasts."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(check: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        if check():
            return
        time.sleep(0.05)
    pytest.fail(f"{process.args!r} didn't start:\n{log.read_text(errors='replace')[-3000:]}")


@dataclass(frozen=True)
class Registry:
    """A running docker-registry.

    Attributes:
        host: ``127.0.0.1:PORT``.
    """

    host: str
    log: Path

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def digest(self, repository: str, tag: str) -> str:
        request = urllib.request.Request(  # loopback
            f"http://{self.host}/v2/{repository}/manifests/{tag}",
            headers={"Accept": "application/vnd.docker.distribution.manifest.v2+json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  # loopback
            digest: str = answer.headers["Docker-Content-Digest"]
            return digest

    def put_index(self, repository: str, tag: str, manifest: Manifest) -> bytes:
        """Push an index of one platform, linux/amd64; give its bytes."""
        kind = "application/vnd.docker.distribution.manifest.list.v2+json"
        entry = {
            "mediaType": manifest.media_type,
            "digest": str(manifest.digest),
            "size": manifest.length,
            "platform": {"os": "linux", "architecture": "amd64"},
        }
        index = {"schemaVersion": 2, "mediaType": kind, "manifests": [entry]}
        body = json.dumps(index).encode()
        request = urllib.request.Request(  # loopback
            f"http://{self.host}/v2/{repository}/manifests/{tag}",
            data=body,
            method="PUT",
            headers={"Content-Type": kind},
        )
        urllib.request.urlopen(request, timeout=10).close()  # noqa: S310  # loopback
        return body


@contextmanager
def docker_registry(folder: Path, *, extra: str = "") -> Iterator[Registry]:
    """Run docker-registry; ``extra`` is appended to its configuration."""
    need("docker-registry")
    folder.mkdir(parents=True, exist_ok=True)
    host = f"127.0.0.1:{free_port()}"
    config = folder / "registry.yml"
    config.write_text(
        "version: 0.1\n"
        "log: {level: info, accesslog: {disabled: false}}\n"
        "storage:\n"
        f"  filesystem: {{rootdirectory: {folder / 'data'}}}\n"
        "  delete: {enabled: true}\n"
        f"http: {{addr: '{host}'}}\n" + extra
    )
    log = folder / "registry.log"

    def answers() -> bool:
        try:
            urllib.request.urlopen(f"http://{host}/v2/", timeout=2).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    with started(["docker-registry", "serve", str(config)], log) as process:
        wait_until(answers, process, log)
        yield Registry(host, log)


@dataclass(frozen=True)
class Engine:
    """A container engine's command line with a store of its own.

    Attributes:
        words: The program and the flags that choose the store.
        env: Its environment.
    """

    words: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)

    def run(
        self, *words: str, check: bool = True, stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self.words, *words],
            input=stdin,
            capture_output=True,
            check=False,
            env=self.env,
            timeout=120,
        )
        result = subprocess.CompletedProcess(
            done.args,
            done.returncode,
            done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
        )
        if check:
            assert result.returncode == 0, f"{words}: {result.stdout}{result.stderr}"
        return result

    def images(self) -> list[str]:
        """Give all names the store knows, with digests."""
        output = self.run("images", "--digests", "--format", "{{.Repository}}:{{.Tag}}@{{.Digest}}")
        return sorted(output.stdout.split())


@contextmanager
def docker_daemon(folder: Path) -> Iterator[Engine]:
    """Run dockerd without network, and give its client.

    Its sockets lie apart: a socket's path has 107 characters at most.
    """
    need("dockerd", "docker")
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "dockerd.log"
    with tempfile.TemporaryDirectory(prefix="tbl", ignore_cleanup_errors=True) as short:
        path = f"{short}/d.sock"
        words = [
            "dockerd",
            f"--data-root={folder / 'data'}",
            f"--exec-root={short}/exec",
            f"--pidfile={short}/dockerd.pid",
            "--iptables=false",
            "--ip6tables=false",
            "--bridge=none",
            "--storage-driver=vfs",
            f"--host=unix://{path}",
        ]
        env = plain_environment(folder) | {
            "DOCKER_HOST": f"unix://{path}",
            "DOCKER_CONFIG": str(folder / "config"),
            "DOCKER_BUILDKIT": "0",
        }
        engine = Engine(("docker",), env)
        try:
            with started(words, log, env=env) as process:
                wait_until(lambda: engine.run("version", check=False).returncode == 0, process, log)
                yield engine
        finally:
            unmount_below(folder)


def unmount_below(folder: Path) -> None:
    """Undo the bind mount that a dockerd which failed to start leaves on its data root."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in mounts:
        if Path(mount).is_relative_to(folder):
            subprocess.run(["umount", mount], check=False)  # noqa: S607  # root's own path


def podman(folder: Path, *, registry: Registry, knows_http: bool = True) -> Engine:
    """Give podman with its own store; it needs no daemon.

    Args:
        folder: Where it keeps everything.
        registry: The registry its configuration names.
        knows_http: Its configuration says that the registry speaks http.
    """
    need("podman")
    folder.mkdir(parents=True, exist_ok=True)
    storage = folder / "storage.conf"
    storage.write_text(
        "[storage]\n"
        'driver = "vfs"\n'
        f'graphroot = "{folder / "root"}"\n'
        f'runroot = "{folder / "run"}"\n'
    )
    registries = folder / "registries.conf"
    registries.write_text(
        "unqualified-search-registries = []\n"
        f'[[registry]]\nlocation = "{registry.host}"\ninsecure = {str(knows_http).lower()}\n'
    )
    env = plain_environment(folder) | {
        "CONTAINERS_STORAGE_CONF": str(storage),
        "CONTAINERS_REGISTRIES_CONF": str(registries),
    }
    return Engine(("podman",), env)


def plain_environment(home: Path) -> dict[str, str]:
    """Give an environment without the machine's proxies and docker settings."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return kept | {"HOME": str(home)}


@dataclass(frozen=True)
class TrustServer:
    """A running tabellion-server.

    Attributes:
        url: ``http://127.0.0.1:PORT``.
    """

    url: str

    def root(self, gun: str) -> bytes:
        """Fetch a GUN's first root, as a publisher would hand it out."""
        url = f"{self.url}/v2/{gun}/_trust/tuf/1.root.json"
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  # loopback
            data: bytes = answer.read()
            return data


@contextmanager
def trust_server(folder: Path) -> Iterator[TrustServer]:
    """Run the real server as a process, with SQLite in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{free_port()}"
    config = folder / "server.toml"
    config.write_text(
        f'[server]\nlisten = "{address}"\n'
        f'[storage]\nurl = "sqlite:///{folder / "tabellion.db"}"\n'
        f'[keys]\nmaster_key_file = "{folder / "master.key"}"\n'
    )
    log = folder / "server.log"

    def answers() -> bool:
        try:
            urllib.request.urlopen(f"http://{address}/healthz", timeout=2).close()
        except OSError:
            return False
        return True

    words = [sys.executable, "-m", "tabellion_server", "serve", "--config", str(config)]
    with started(words, log, env=plain_environment(folder)) as process:
        wait_until(answers, process, log)
        yield TrustServer(f"http://{address}")


def tabellion(env: Mapping[str, str]) -> Engine:
    """Give our own command line."""
    return Engine((sys.executable, "-m", "tabellion.cli"), dict(env))


def image_tar(text: str) -> bytes:
    """Make the file system of an image: a static busybox, and ``/said`` with ``text``."""
    need("busybox")
    program = Path(shutil.which("busybox") or "").read_bytes()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("bin", "etc", "tmp", "proc", "sys", "dev"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        files = (("bin/busybox", program, 0o755), ("said", text.encode(), 0o644))
        for name, data, mode in files:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            archive.addfile(entry, io.BytesIO(data))
        for name in ("sh", "cat", "echo", "true", "sleep"):
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(entry)
    return buffer.getvalue()


def push_image(engine: Engine, reference: str, text: str) -> None:
    """Make an image that says ``text``, push it, and leave nothing of it in the engine."""
    engine.run("import", "-", reference, stdin=image_tar(text))
    engine.run("push", reference)
    engine.run("rmi", "-f", reference)
