"""The server's own keys in a key management service, by OpenBao."""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from click.testing import CliRunner
from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Timestamp

from forge import Forge
from http_site import Clock, Site
from key_places import Bao
from person import Person
from tabellion.core.dialect import NOTARY, TUF, Dialect
from tabellion_server.app import make_app
from tabellion_server.cli import commands
from tabellion_server.keys import remote as remote_module
from tabellion_server.keys.master import MasterKey
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.keys.remote import RemoteOnlineKeys
from tabellion_server.settings import Settings
from tabellion_server.storage.sqlite import SqliteStore


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bao]:
    with (
        Bao(tmp_path_factory.mktemp("bao")) as running,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in running.environ.items():
            patch.setenv(name, value)
        yield running


@asynccontextmanager
async def server(
    folder: Path, uris: dict[str, str], clock: Clock | None = None
) -> AsyncIterator[Site]:
    store, clock = await SqliteStore.open(folder / "tabellion.db"), clock or Clock()
    remote = RemoteOnlineKeys(uris)
    master = MasterKey(bytes(range(32)))
    online = OnlineKeys(store, master, remote=remote)
    app = make_app(
        Settings(timestamp_life=timedelta(days=1)), store=store, online_keys=online, clock=clock
    )
    headers = {"Accept": "application/problem+json"}
    async with TestClient(TestServer(app), headers=headers) as client:
        yield Site(client, store, clock)
    remote.close()
    await store.close()


@contextmanager
def closed_port() -> Iterator[int]:
    """Give a port where nobody answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


async def timestamp_keyid(site: Site) -> str:
    metadata: Metadata[Timestamp] = Metadata.from_bytes(await site.body("timestamp.json"))
    (keyid,) = metadata.signatures
    return keyid


def use(forge: Forge, fields: dict[str, Any]) -> None:
    """Have the next root name another timestamp key."""
    forge.root.revoke_key(forge.root.roles["timestamp"].keyids[0], "timestamp")
    forge.root.add_key(Key.from_dict(fields["keyid"], fields), "timestamp")
    forge.root.version += 1


def due(clock: Clock) -> None:
    clock.now += timedelta(hours=13)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa-p256", "rsa-3072"])
async def test_one_key_elsewhere_signs_for_all_guns_and_both_roles(
    bao: Bao, tmp_path: Path, kind: str
) -> None:
    uri = bao.make(f"shared-{kind}", kind)
    async with server(tmp_path, {"timestamp": uri, "snapshot": uri}) as site:
        keyids = set()
        for gun in ("registry.example/a", "registry.example/b"):
            site.gun = gun
            forge = await site.forge()
            await site.publish(forge, "root", "targets")
            keyids.add(await timestamp_keyid(site))
            assert forge.root.roles["snapshot"].keyids == forge.root.roles["timestamp"].keyids
        assert len(keyids) == 1
        due(site.clock)
        assert json.loads(await site.body("timestamp.json"))["signed"]["version"] == 2
        assert not any("PRIVATE" in row for row in await site.everything())


async def test_a_rotation_there_is_taken_up_by_post_and_a_root_only(
    bao: Bao, tmp_path: Path
) -> None:
    uri = bao.make("rotating")
    async with server(tmp_path, {"timestamp": uri}) as site:
        forge = await site.forge()
        await site.publish(forge, "root", "targets")
        old = await timestamp_keyid(site)
        bao.rotate("rotating")
        forge.targets.version += 1
        await site.publish(forge, "targets")
        due(site.clock)
        assert await timestamp_keyid(site) == old
        assert (await site.key("timestamp")).keyid == old
        made = await site.client.session.post(site.url("timestamp.key"))
        new = (await made.json())["keyid"]
        assert new != old
        again = await site.client.session.post(site.url("timestamp.key"))
        assert (await again.json())["keyid"] == new  # the newest there is the newest here
        due(site.clock)
        assert await timestamp_keyid(site) == old
        fields = await again.json()
        use(forge, fields)
        await site.publish(forge, "root")
        assert await timestamp_keyid(site) == new


@pytest.mark.parametrize("dialect", [TUF, NOTARY], ids=["tuf", "notary"])
async def test_publishers_and_readers_of_both_dialects_live_with_it(
    bao: Bao, tmp_path: Path, dialect: Dialect
) -> None:
    name = f"{dialect.name}-online"
    uri = bao.make(name)
    async with server(tmp_path, {"timestamp": uri, "snapshot": uri}) as site:
        url = str(site.client.make_url("")).rstrip("/")
        async with Person(url, tmp_path / "owner") as owner:
            made = await owner.publisher.init(site.gun, dialect=dialect)
            async with Person(url, tmp_path / "reader", made.root) as reader:
                await owner.sign(site.gun, "1")
                assert set(await reader.signed(site.gun)) == {"1"}
                bao.rotate(name)
                await owner.sign(site.gun, "2")
                assert set(await reader.signed(site.gun)) == {"1", "2"}
                for role in ("timestamp", "snapshot"):
                    await owner.publisher.rotate(site.gun, role, server=True)
                await owner.sign(site.gun, "3")
                assert set(await reader.signed(site.gun)) == {"1", "2", "3"}
        rows = await site.store.online_keys(site.gun, "timestamp")
        assert len(rows) == 2


async def test_a_gun_with_its_own_key_goes_on_with_it_until_it_is_rotated_elsewhere(
    bao: Bao, tmp_path: Path
) -> None:
    uri = bao.make("later")
    async with server(tmp_path, {}) as site:
        forge = await site.forge()
        await site.publish(forge, "root", "targets")
        old = await timestamp_keyid(site)
    async with server(tmp_path, {"timestamp": uri}) as site:
        due(site.clock)
        assert await timestamp_keyid(site) == old
        made = await site.client.session.post(site.url("timestamp.key"))
        fields = await made.json()
        keyid = fields["keyid"]
        use(forge, fields)
        await site.publish(forge, "root")
        assert await timestamp_keyid(site) == keyid
    async with server(tmp_path, {}) as site:  # what is in use is used, whatever is configured
        due(site.clock)
        assert await timestamp_keyid(site) == keyid


async def test_unreachable_it_refuses_publications_for_now_and_readers_are_served(
    bao: Bao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = bao.make("away")
    async with server(tmp_path, {"timestamp": uri, "snapshot": uri}) as site:
        forge = await site.forge()
        await site.publish(forge, "root", "targets")
        before, rows = await site.body("timestamp.json"), await site.everything()
        with closed_port() as port:
            monkeypatch.setenv("VAULT_ADDR", f"http://127.0.0.1:{port}")
            forge.targets.version += 1
            refused = await site.post({"targets": forge.sign("targets", forge.targets)})
            assert refused.status == 503
            assert int(refused.headers["Retry-After"]) > 0
            problem = await refused.json()
            assert problem["code"] == "signer"
            assert "127.0.0.1" not in json.dumps(problem)
            for role in ("snapshot", "timestamp"):
                made = await site.client.session.post(site.url(f"{role}.key"))
                assert made.status == 503
            site.clock.now += timedelta(hours=13)
            assert await site.body("timestamp.json") == before
            assert await site.everything() == rows
        monkeypatch.setenv("VAULT_ADDR", bao.environ["VAULT_ADDR"])
        assert (await site.post({"targets": forge.sign("targets", forge.targets)})).status == 200


async def test_one_that_hangs_delays_readers_once_and_refuses_publications_in_time(
    bao: Bao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = bao.make("hanging")
    monkeypatch.setattr(remote_module, "_PATIENCE_SECONDS", 1.0)
    asked: list[object] = []
    run = RemoteOnlineKeys.run

    async def counted(self: RemoteOnlineKeys, work: Callable[[], Any]) -> Any:
        asked.append(work)
        return await run(self, work)

    monkeypatch.setattr(RemoteOnlineKeys, "run", counted)
    async with server(tmp_path, {"timestamp": uri}) as site:
        forge = await site.forge()
        await site.publish(forge, "root", "targets")
        before = await site.body("timestamp.json")
        with socket.create_server(("127.0.0.1", 0)) as deaf:  # accepts, says nothing
            monkeypatch.setenv("VAULT_ADDR", f"http://127.0.0.1:{deaf.getsockname()[1]}")
            forge.targets.version += 1
            refused = await site.post({"targets": forge.sign("targets", forge.targets)})
            assert refused.status == 503
            site.clock.now += timedelta(hours=13)
            await site.body("timestamp.json")
            count = len(asked)
            for body in await asyncio.gather(*[site.body("timestamp.json") for _ in range(20)]):
                assert body == before
            assert len(asked) == count
            site.clock.now += timedelta(minutes=1)
            await site.body("timestamp.json")
            assert len(asked) == count + 1


async def test_a_server_starts_without_it_and_keeps_no_key_that_it_could_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAULT_TOKEN", "any")
    async with server(tmp_path, {"timestamp": "hv:any"}) as site:
        with closed_port() as port:
            monkeypatch.setenv("VAULT_ADDR", f"http://127.0.0.1:{port}")
            assert (await site.client.session.get(site.at("/readyz"))).status == 200
            asked = await site.get("timestamp.key?dialect=tuf")
            assert asked.status == 503
            assert await site.store.online_keys(site.gun, "timestamp") == []


async def test_whether_the_master_key_fits_is_told_without_asking_elsewhere(
    bao: Bao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with server(tmp_path, {"timestamp": bao.make("restarted")}) as site:
        await site.key("timestamp")
        with closed_port() as port:
            monkeypatch.setenv("VAULT_ADDR", f"http://127.0.0.1:{port}")
            assert await OnlineKeys(site.store, MasterKey(bytes(range(32)))).fits_store()
            assert not await OnlineKeys(site.store, MasterKey.generate()).fits_store()


async def test_a_row_that_leads_to_another_key_is_refused(bao: Bao, tmp_path: Path) -> None:
    """Whoever writes to the store can't name a key of his: what names one is sealed."""
    async with server(tmp_path, {"timestamp": bao.make("honest")}) as site:
        forge = await site.forge()
        await site.publish(forge, "root", "targets")
        before = await site.body("timestamp.json")
        await asyncio.to_thread(_reseal, site)
        site.clock.now += timedelta(hours=13)
        assert await site.body("timestamp.json") == before
        forge.targets.version += 1
        answer = await site.post({"targets": forge.sign("targets", forge.targets)})
        assert answer.status == 500
        assert await site.body("timestamp.json") == before


def _reseal(site: Site) -> None:
    with sqlite3.connect(site.store._path) as connection:
        connection.execute("UPDATE online_keys SET sealed = ?", (b"hv:forged/1",))


def test_check_config_has_the_keys_sign_and_names_them(
    bao: Bao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "server.toml"
    config.write_text(f'[keys]\ntimestamp_signer = "{bao.make("checked")}"\n')
    done = CliRunner().invoke(commands, ["check-config", "--config", str(config)])
    assert done.exit_code == 0, done.output
    assert "signs at hv:checked/1" in done.output
    monkeypatch.setenv("VAULT_TOKEN", "another")
    refused = CliRunner().invoke(commands, ["check-config", "--config", str(config)])
    assert refused.exit_code != 0
    assert "Vault refuses" in str(refused.exception)


def test_what_is_no_signer_uri_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text('[keys]\ntimestamp_signer = "hv:a b"\nsnapshot_signer = "file2:x"\n')
    done = CliRunner().invoke(commands, ["check-config", "--config", str(config)])
    assert "server.toml:2: keys.timestamp_signer: 'hv:a b' isn't well-formed" in str(done.exception)
    assert "server.toml:3: keys.snapshot_signer: 'file2:x' isn't a signer URI" in str(
        done.exception
    )
