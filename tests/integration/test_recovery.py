"""After a loss or a theft: what each drill ends in, for old readers and new ones."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from person import Person
from tabellion.cli.embedded import EmbeddedServer
from tabellion.core.dialect import NOTARY, TUF, Dialect
from tabellion.errors import RollbackError, ServerAnswerError, UsageError

DIALECTS = pytest.mark.parametrize("dialect", [TUF, NOTARY], ids=["tuf", "notary"])


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    folder = tmp_path / "server"
    folder.mkdir()
    with EmbeddedServer(folder) as server:
        yield server


def copy_store(folder: Path, *, to: Path) -> None:
    """Copy a stopped server's store."""
    shutil.copy(folder / "tabellion.db", to)


def restore(server: EmbeddedServer, backup: Path) -> None:
    server.stop()
    for name in ("-wal", "-shm"):
        (server.folder / f"tabellion.db{name}").unlink(missing_ok=True)
    shutil.copy(backup, server.folder / "tabellion.db")
    server.start()


def accept(server: EmbeddedServer) -> str:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tabellion_server", "accept-restore"),
            *("--config", str(server.folder / "server.toml")),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


@DIALECTS
@pytest.mark.parametrize("snapshot", ["server", "local"])
async def test_what_an_old_backup_lost_comes_back_and_old_readers_go_on(
    own_server: EmbeddedServer,
    gun: str,
    tmp_path: Path,
    dialect: Dialect,
    snapshot: Literal["server", "local"],
) -> None:
    server, backup = own_server, tmp_path / "backup"
    async with Person(server.url, tmp_path / "owner") as owner:
        made = await owner.publisher.init(gun, dialect=dialect, snapshot=snapshot)
        await owner.sign(gun, "1")
    server.stop()
    copy_store(server.folder, to=backup)
    server.start()
    async with (
        Person(server.url, tmp_path / "owner") as owner,
        Person(server.url, tmp_path / "reader", made.root) as reader,
    ):
        await owner.publisher.rotate(gun, "targets")
        for target in ("2", "3"):
            await owner.sign(gun, target)
        await owner.sign(gun, "1", "changed")
        signed = await reader.signed(gun)
        assert set(signed) == {"1", "2", "3"}
    restore(server, backup)
    async with (
        Person(server.url, tmp_path / "owner") as owner,
        Person(server.url, tmp_path / "reader", made.root) as reader,
    ):
        # Who saw the newer ones takes nothing older, and nothing can be published.
        with pytest.raises(RollbackError):
            await reader.signed(gun)
        with pytest.raises(ServerAnswerError, match="can't do that now"):
            await owner.publisher.bring_back(gun)
        assert accept(server).startswith("passed over ")
        brought = await owner.publisher.bring_back(gun)
        assert brought["root"] == 2
        assert brought["targets"] > 2
        assert await reader.signed(gun) == signed
        assert await owner.publisher.bring_back(gun) == {}
        await owner.sign(gun, "4")
        assert set(await reader.signed(gun)) == {"1", "2", "3", "4"}
        async with Person(server.url, tmp_path / "new", made.root) as new:
            assert await new.signed(gun) == await reader.signed(gun)
    assert accept(server).startswith("the store lacks nothing")


async def test_a_home_that_knows_nothing_brings_nothing_back(
    own_server: EmbeddedServer, gun: str, tmp_path: Path
) -> None:
    async with Person(own_server.url, tmp_path / "stranger") as stranger:
        with pytest.raises(UsageError, match="never read"):
            await stranger.publisher.bring_back(gun)
