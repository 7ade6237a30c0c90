"""The real notary goes on with our server after a restart, and when many publish at once."""

from __future__ import annotations

import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from integration import engines
from notary_script import Script
from notary_servers import NotaryServer, our_config, our_notary

pytestmark = [pytest.mark.system, pytest.mark.timeout(170)]

HELLO = hashlib.sha256(b"hello").hexdigest()
PUBLISHERS = 4


def added(gun: str, name: str) -> tuple[str, ...]:
    """Give the words that stage a target."""
    return ("addhash", gun, name, "5", "--sha256", HELLO)


def test_after_a_restart_everybody_goes_on_with_the_same_keys(tmp_path: Path) -> None:
    engines.need("notary")
    (tmp_path / "server").mkdir()
    config = our_config(tmp_path / "server")
    with our_notary(config) as server:
        script = Script(server, tmp_path)
        gun = script.gun
        script.notary(*added(gun, "v1"), "-p")
        script.notary("list", gun, user="reader")
        script.notary("key", "rotate", gun, "snapshot", "-r")
        pending = f"{gun}-pending"
        script.notary("init", pending)  # its timestamp key was given out, and is in no root yet
        script.notary(*added(pending, "v1"))
        path = f"/v2/{gun}/_trust/tuf/timestamp"
        asked = [server.get(f"{path}{end}") for end in (".key", ".json")]
    script.notary("list", gun, user="cold", status=1)
    with our_notary(config) as script.server:
        assert [script.server.get(f"{path}{end}") for end in (".key", ".json")] == asked
        assert "v1" in script.notary("list", gun, user="cold")
        script.notary(*added(gun, "v2"), "-p")
        assert "v2" in script.notary("list", gun, user="reader")
        script.notary("publish", pending)
        assert "v1" in script.notary("list", pending, user="reader")


@pytest.mark.parametrize("held_by", ["server", "publishers"])
def test_of_many_who_publish_at_once_nobody_who_was_told_success_is_lost(
    held_by: str, our_notary: NotaryServer, tmp_path: Path
) -> None:
    engines.need("notary")
    script = Script(our_notary, tmp_path)
    gun = script.gun
    script.notary(*added(gun, "v0"), "-p")
    if held_by == "server":
        script.notary("key", "rotate", gun, "snapshot", "-r")
    waiting = {f"person-{number}": f"v{number}" for number in range(1, PUBLISHERS + 1)}
    for user, name in waiting.items():
        shutil.copytree(tmp_path / "owner", tmp_path / user)
        script.notary(*added(gun, name), user=user)
    listed = {"v0"}
    rounds = 0
    while waiting:
        rounds += 1
        assert rounds <= PUBLISHERS, f"nobody got through in a round: {waiting} are left"
        with ThreadPoolExecutor(PUBLISHERS) as pool:
            statuses = dict(
                zip(waiting, pool.map(lambda user: published(script, user), waiting), strict=True)
            )
        listed |= {waiting.pop(user) for user, status in statuses.items() if status == 0}
        shown = script.notary("list", gun, user=f"reader-{rounds}")
        found = {line.split()[0] for line in shown.splitlines() if HELLO in line}
        assert found == listed


def published(script: Script, user: str) -> int:
    """Publish what a person staged, and give the exit status."""
    own = Script(script.server, script.folder, gun=script.gun)
    own.notary("publish", script.gun, user=user, status=None)
    return own.steps[-1].status
