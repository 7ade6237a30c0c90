"""The server as a process: crashes, endings, TLS, and its command line."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import random
import secrets
import signal
import ssl
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from forge import Forge, target
from http_site import dump, signed
from server_process import CONFIG, forge_for, post, server, verified
from tabellion.verify.client import TrustClient

# More of them: TABELLION_TEST_KILLS=200 pytest tests/http/test_process.py -k kill --timeout 3000
KILLS = os.environ.get("TABELLION_TEST_KILLS")


class Story:
    """One GUN through many lives of its server, and one verifier that remembers them all."""

    def __init__(self, gun: str, home: Path, *, first: int) -> None:
        self.gun = gun
        self.home = home
        self.forge: Forge | None = None
        self.sent = {f"first{number}" for number in range(first)}
        self.acknowledged: set[str] = set()
        self.timestamps: dict[int, bytes] = {}

    async def check(self, session: aiohttp.ClientSession, url: str) -> Forge:
        """Found the GUN, or see that all of it is there; give the forge, ready to go on."""
        base = f"{url}/v2/{self.gun}/_trust/tuf/"
        if self.forge is None:
            self.forge = await forge_for(session, base)
            self.forge.targets.targets = {path: target(b"x", path) for path in self.sent}
            assert await post(session, base, signed(self.forge, "root", "targets")) == 200
        present = await verified(session, base, self.forge)
        assert self.acknowledged <= present <= self.sent
        timestamp = self.forge.files["timestamp"]
        version = json.loads(timestamp)["signed"]["version"]
        assert version >= max(self.timestamps, default=0)
        assert self.timestamps.setdefault(version, timestamp) == timestamp
        async with TrustClient(url, home=self.home, root=self.forge.files["root"]) as client:
            listing = await client.targets(self.gun)
        assert {match.path for match in listing} == present
        targets = json.loads(self.forge.files["targets"])["signed"]
        self.forge.targets.version = targets["version"]
        self.forge.targets.targets = {path: target(b"x", path) for path in present}
        self.sent, self.acknowledged = set(present), set(present)
        return self.forge

    async def publish_until_cut(self, session: aiohttp.ClientSession, url: str) -> None:
        """Publish one more target after the other until there is no answer."""
        assert self.forge is not None
        base = f"{url}/v2/{self.gun}/_trust/tuf/"
        while True:
            self.forge.targets.version += 1
            path = f"v{self.forge.targets.version}"
            self.forge.targets.targets[path] = target(b"x", path)
            self.sent.add(path)
            try:
                assert await post(session, base, signed(self.forge, "targets")) == 200
            except (aiohttp.ClientError, ConnectionError):
                return
            self.acknowledged.add(path)


def stories(folder: Path, *, first: int = 0) -> list[Story]:
    return [
        Story(f"registry.example/app{number}", folder / "home", first=first) for number in range(3)
    ]


def config_on(request: pytest.FixtureRequest, folder: Path, engine: str) -> str:
    """Give a configuration for a store of an engine, by whose own server it's kept."""
    if engine == "sqlite":
        return CONFIG
    (folder / "key").write_text("A" * 43 + "=")
    (folder / "key").chmod(0o600)
    if engine == "postgres":
        url = request.getfixturevalue("database").url
    else:
        place = request.getfixturevalue("valkey_server").url
        url = f"{place}?prefix={secrets.token_hex(6)}"
    text = CONFIG.replace("sqlite:///store/tabellion.db", url)
    return text + '[keys]\nmaster_key_file = "key"\n'


@pytest.mark.parametrize(("engine", "kills"), [("sqlite", 12), ("postgres", 4), ("valkey", 4)])
async def test_kill_at_any_moment_leaves_the_old_or_the_new_set(
    request: pytest.FixtureRequest, tmp_path: Path, engine: str, kills: int
) -> None:
    rng = random.Random(7)  # noqa: S311  (a seed, not a secret)
    told = stories(tmp_path)
    # So short a life lets renewals be killed too.
    text = config_on(request, tmp_path, engine) + '[expiry]\ntimestamp = "4s"\n'
    count = 0
    for _ in range(int(KILLS or kills)):
        async with server(tmp_path, text) as running, aiohttp.ClientSession() as session:
            await asyncio.gather(*(story.check(session, running.url) for story in told))
            process = running.process
            asyncio.get_running_loop().call_later(rng.uniform(0.0, 0.2), process.kill)
            before = sum(len(story.acknowledged) for story in told)
            await asyncio.gather(*(story.publish_until_cut(session, running.url) for story in told))
            count += sum(len(story.acknowledged) for story in told) - before
            assert await process.wait() == -signal.SIGKILL
    assert count > 0
    async with server(tmp_path, text) as running, aiohttp.ClientSession() as session:
        for story in told:
            await story.check(session, running.url)


async def test_sigterm_leaves_nothing_unanswered(tmp_path: Path) -> None:
    told = stories(tmp_path, first=1500)  # so that a publication takes its time
    for delay in (0.0, 0.2, 0.35):
        async with server(tmp_path) as running, aiohttp.ClientSession() as session:
            for story in told:
                await story.check(session, running.url)
            process = running.process
            asyncio.get_running_loop().call_later(delay, process.terminate)
            await asyncio.gather(*(story.publish_until_cut(session, running.url) for story in told))
            assert await asyncio.wait_for(process.wait(), 20) == 0
        answered = {story.gun: story.acknowledged for story in told}
        async with server(tmp_path) as running, aiohttp.ClientSession() as session:
            for story in told:
                await story.check(session, running.url)
                assert story.acknowledged == answered[story.gun]
    assert any(story.acknowledged for story in told)


@pytest.mark.parametrize(
    "made", ["master.key", "store", "store/tabellion.db", "store/tabellion.db-wal"]
)
async def test_a_first_start_killed_halfway_can_be_repeated(tmp_path: Path, made: str) -> None:
    for turn in range(3):
        folder = tmp_path / str(turn)
        folder.mkdir()
        config = folder / "server.toml"
        config.write_text(CONFIG)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tabellion_server", "serve", "--config", str(config)),
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(30):
            while not (folder / made).exists():  # noqa: ASYNC110  (another process makes it)
                await asyncio.sleep(0)
        await asyncio.sleep(turn * 0.002)
        process.kill()
        await process.wait()
        key = (folder / "master.key").read_bytes()
        async with server(folder) as running, aiohttp.ClientSession() as session:
            forge = await forge_for(session, running.base)
            assert await post(session, running.base, signed(forge, "root", "targets")) == 200
        assert (folder / "master.key").read_bytes() == key


async def test_sigterm_finishes_the_publication_then_ends(tmp_path: Path) -> None:
    async with server(tmp_path) as running, aiohttp.ClientSession() as session:
        forge = await forge_for(session, running.base)
        data = signed(forge, "root", "targets")
        started = asyncio.Event()

        async def slow_body() -> AsyncIterator[bytes]:
            for role, content in data.items():
                disposition = f'form-data; name="files"; filename="{role}"'
                yield f"--x\r\nContent-Disposition: {disposition}\r\n\r\n".encode()
                yield content[:50]
                started.set()
                await asyncio.sleep(0.3)
                yield content[50:] + b"\r\n"
            yield b"--x--\r\n"

        async def publish() -> int:
            headers = {"Content-Type": "multipart/form-data; boundary=x"}
            async with session.post(running.base, data=slow_body(), headers=headers) as response:
                return response.status

        publication = asyncio.create_task(publish())
        await started.wait()
        await asyncio.sleep(0.05)
        running.process.terminate()
        assert await asyncio.wait_for(publication, 20) == 200
        assert await asyncio.wait_for(running.process.wait(), 20) == 0
    async with server(tmp_path) as running, aiohttp.ClientSession() as session:
        assert await verified(session, running.base, forge) == set()


async def test_files_on_disk_are_private(tmp_path: Path) -> None:
    async with server(tmp_path):
        for name in ("master.key", "store/tabellion.db"):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


async def run(*arguments: str, **environ: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tabellion_server", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **environ},
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_faults_of_the_configuration_end_with_status_2(tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text('[server]\nlisten = "x"\nzoo = 1\n')
    for verb in ("serve", "check-config"):
        status, output = await run(verb, "--config", str(config))
        assert status == 2
        assert "server.toml:2: server.listen" in output
        assert "server.toml:3: server.zoo" in output
        assert "Traceback" not in output
    config.write_text(CONFIG)
    assert (await run("check-config", "--config", str(config)))[0] == 0
    (tmp_path / "master.key").write_bytes(base64.b64encode(bytes(range(32))))
    (tmp_path / "master.key").chmod(0o600)
    for url in ("postgresql://user@127.0.0.1:1/db", "redis://127.0.0.1:1/0"):
        config.write_text(
            f'server.listen = "127.0.0.1:0"\nstorage = {{url = "{url}", password_file = "secret"}}'
        )
        for verb in ("check-config", "serve"):
            status, output = await run(verb, "--config", str(config))
            assert (status, "secret isn't there" in output) == (2, True), output
        (tmp_path / "secret").write_text("correct-horse\n")
        (tmp_path / "secret").chmod(0o644)
        for verb in ("check-config", "serve"):
            status, output = await run(verb, "--config", str(config))
            assert (status, "secret: others may read it" in output) == (2, True), output
        (tmp_path / "secret").unlink()
    assert (await run("serve", "--nonsense"))[0] == 2


@pytest.mark.parametrize("content", [b"short", b"", b"\xff" * 44])
async def test_a_bad_master_key_stops_the_start(tmp_path: Path, content: bytes) -> None:
    config = tmp_path / "server.toml"
    config.write_text(CONFIG)
    (tmp_path / "master.key").write_bytes(content)
    (tmp_path / "master.key").chmod(0o600)
    status, output = await run("serve", "--config", str(config))
    assert (status, "master.key" in output, "Traceback" in output) == (2, True, False)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "is gone"),
        (b"cut short", "doesn't hold 32 bytes"),
        (base64.b64encode(bytes(32)), "doesn't open the keys"),
    ],
    ids=["missing", "damaged", "wrong"],
)
async def test_without_the_stores_own_master_key_no_server_starts(
    tmp_path: Path, content: bytes | None, told: str
) -> None:
    async with server(tmp_path) as running, aiohttp.ClientSession() as session:
        await forge_for(session, running.base)
        running.process.terminate()
        await running.process.wait()
    key, store = tmp_path / "master.key", tmp_path / "store" / "tabellion.db"
    right = key.read_bytes()
    if content is None:
        key.unlink()
    else:
        key.write_bytes(content)
    before = dump(store)
    status, output = await run("serve", "--config", str(tmp_path / "server.toml"))
    assert (status, "Traceback" in output) == (2, False), output
    assert f"{key} {told}" in output
    assert "hint: " in output
    assert (key.read_bytes() if key.exists() else None) == content
    assert dump(store) == before
    key.write_bytes(right)
    key.chmod(0o600)
    async with server(tmp_path):
        pass


async def test_an_empty_file_is_no_store_that_a_master_key_is_gone_for(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "tabellion.db").touch()
    async with server(tmp_path) as running, aiohttp.ClientSession() as session:
        await forge_for(session, running.base)
    assert (tmp_path / "master.key").exists()


async def test_a_start_tells_its_configuration_and_its_store(tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text(CONFIG)
    (tmp_path / "master.key").write_bytes(b"no key")
    _, output = await run("serve", "--config", str(config))
    (line,) = [line for line in output.splitlines() if " starting " in line]
    assert f"config={config}" in line
    assert f"store={tmp_path / 'store' / 'tabellion.db'}" in line
    (tmp_path / "master.key").write_text("A" * 43 + "=")
    (tmp_path / "master.key").chmod(0o600)
    url = "postgresql://user:geheim@127.0.0.1:1/db?password=geheim"
    config.write_text(CONFIG.replace("sqlite:///store/tabellion.db", url))
    _, output = await run("serve", "--config", str(config))
    assert "store=postgresql://user@127.0.0.1:1/db" in output
    assert "geheim" not in output


async def test_a_store_in_no_folder_is_told_of_its_address(tmp_path: Path) -> None:
    config, file = tmp_path / "server.toml", tmp_path / "file"
    file.touch()
    config.write_text(CONFIG.replace("sqlite:///store", f"sqlite:///{file}/store"))
    status, output = await run("serve", "--config", str(config))
    assert (status, "Traceback" in output) == (3, False), output
    assert "have storage.url name a file in a folder of a local disk" in output


async def test_an_address_in_use_is_told(tmp_path: Path) -> None:
    async with server(tmp_path) as running:
        address = running.url.removeprefix("http://")
        config = tmp_path / "other.toml"
        config.write_text(CONFIG.replace("127.0.0.1:0", address))
        status, output = await run("serve", "--config", str(config))
        assert (status, "can't listen on" in output, "Traceback" in output) == (2, True, False)


async def certificate(folder: Path, *more: str) -> bytes:
    """Let openssl write new.pem and new.key for 127.0.0.1; give the certificate in DER."""
    process = await asyncio.create_subprocess_exec(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-subj", "/CN=trust", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"),
        *("-keyout", str(folder / "new.key"), "-out", str(folder / "new.pem")),
        *(more or ("-nodes",)),
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await process.communicate()
    assert process.returncode == 0, told
    return ssl.PEM_cert_to_DER_cert((folder / "new.pem").read_text())


def install(folder: Path, *names: str) -> None:
    """Replace server.pem and server.key as certificate tools do: by renaming."""
    for name in names or ("key", "pem"):
        (folder / f"new.{name}").replace(folder / f"server.{name}")


async def shown_certificate(url: str) -> bytes | None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, port = url.removeprefix("https://").split(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    der: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()
    return der


async def is_alive(url: str, ca: Path) -> bool:
    """Ask as a client does that trusts this certificate alone."""
    context = ssl.create_default_context(cafile=ca)
    async with aiohttp.ClientSession() as session, session.get(f"{url}/healthz", ssl=context) as it:
        return it.status == 200


TLS = '[server.tls]\ncertificate = "server.pem"\nkey = "server.key"\n'


async def test_tls_takes_a_changed_certificate_and_keeps_it_if_the_next_is_broken(
    tmp_path: Path,
) -> None:
    first = await certificate(tmp_path)
    install(tmp_path)
    async with server(tmp_path, CONFIG + TLS) as running:
        assert running.url.startswith("https://")
        assert await shown_certificate(running.url) == first

        def count(event: str) -> int:
            return sum(event in line for line in running.log)

        second = await certificate(tmp_path)
        install(tmp_path)
        await until(lambda: count("certificate.reloaded") == 1)
        assert await shown_certificate(running.url) == second
        right = (tmp_path / "server.pem").read_bytes(), (tmp_path / "server.key").read_bytes()
        (tmp_path / "ca.pem").write_bytes(right[0])

        async def keeps_the_second(number: int) -> None:
            await until(lambda: count("certificate.not_reloaded") == number)
            assert await shown_certificate(running.url) == second
            assert await is_alive(running.url, tmp_path / "ca.pem")

        (tmp_path / "server.pem").write_bytes(right[0][:300])  # cut short
        await keeps_the_second(1)
        await certificate(tmp_path)
        install(tmp_path, "pem")  # beside the old one's key
        await keeps_the_second(2)
        await certificate(tmp_path, "-passout", "pass:secret")
        install(tmp_path)
        await keeps_the_second(3)
        (tmp_path / "server.key").unlink()
        await keeps_the_second(4)
        await asyncio.sleep(2.5)  # it's tried again, but not told again
        assert count("certificate.not_reloaded") == 4
        assert not any("BEGIN" in line or "Traceback" in line for line in running.log)
        last = await certificate(tmp_path)
        install(tmp_path)
        await until(lambda: count("certificate.reloaded") == 2)
        assert await shown_certificate(running.url) == last
        assert await is_alive(running.url, tmp_path / "server.pem")


@pytest.mark.parametrize("fault", ["cut", "mismatch", "encrypted", "swapped"])
async def test_a_certificate_that_cannot_be_used_stops_the_start(
    tmp_path: Path, fault: str
) -> None:
    await certificate(tmp_path, *(["-passout", "pass:x"] if fault == "encrypted" else []))
    install(tmp_path)
    pem, key = tmp_path / "server.pem", tmp_path / "server.key"
    if fault == "cut":
        pem.write_bytes(pem.read_bytes()[:300])
    elif fault == "mismatch":
        await certificate(tmp_path)
        install(tmp_path, "pem")
    elif fault == "swapped":
        pem.rename(tmp_path / "x")
        key.rename(pem)
        (tmp_path / "x").rename(key)
    config = tmp_path / "server.toml"
    config.write_text(CONFIG + TLS)
    for verb in ("serve", "check-config"):
        status, output = await run(verb, "--config", str(config))
        assert (status, "Traceback" in output) == (2, False), output
        assert "server.tls: " in output
        assert str(pem) in output
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "master.key").exists()


async def test_old_tls_is_refused(tmp_path: Path) -> None:
    await certificate(tmp_path)
    install(tmp_path)
    async with server(tmp_path, CONFIG + TLS) as running:
        address = running.url.removeprefix("https://")
        for version, works in (("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)):
            process = await asyncio.create_subprocess_exec(
                *("openssl", "s_client", "-connect", address, version),
                *("-cipher", "DEFAULT@SECLEVEL=0"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            assert (await process.wait() == 0) == works, version


async def until(is_so: Any) -> None:
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110  (another process makes it so)
            await asyncio.sleep(0.1)
