"""The years of a Notary GUN, owned with our command line, told to the real notary.

After each step two of its users ask: one who has followed from the start, and one who comes anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

import pytest

from integration import engines
from notary_script import Script
from notary_servers import NotaryServer

pytestmark = [pytest.mark.system, pytest.mark.timeout(170)]

GOOD = hashlib.sha256(b"good").hexdigest()
EVIL = hashlib.sha256(b"evil").hexdigest()


@dataclass
class Years:
    """A GUN's people, and what they mean to be found: target to the roles that may be named.

    Where a signer's role and ``targets/releases`` say the same, notary names either.
    """

    script: Script
    expected: dict[str, set[str]] = field(default_factory=dict)
    newcomers: int = 0

    def owner(self, *words: str, status: int = 0, user: str = "owner") -> str:
        return self.script.tabellion(*words, user=user, status=status)

    def sign(self, tag: str, *words: str, user: str = "owner", digest: str = GOOD) -> None:
        image = f"{self.script.gun}:{tag}"
        first = () if user == "owner" else ("--trust-on-first-use",)
        self.owner(
            *("sign", image, "--digest", f"sha256:{digest}", "--length", "4", *words, *first),
            user=user,
        )
        self.expected[tag] = (
            {"targets"} if user == "owner" else {"targets/releases", f"targets/{user}"}
        )

    def new_signer(self, name: str) -> None:
        """Let somebody sign with a new key of theirs."""
        shutil.rmtree(self.script.folder / name, ignore_errors=True)
        self.owner("key", "generate", "--type", "ecdsa", "--name", name, user=name)
        key = self.owner("key", "export", name, user=name)
        path = self.script.file(f"{name}.pub", key[key.index("-----BEGIN") :])
        self.owner("signer", "add", self.script.gun, name, path)

    def check(self) -> None:
        """List, look up and verify as the real notary, with a known and with a new folder."""
        self.newcomers += 1
        gun = self.script.gun
        content = self.script.file("content", "good")
        for user in ("follower", f"newcomer{self.newcomers}"):
            rows = [line.split() for line in self.listed(user) if GOOD in line or EVIL in line]
            assert [(row[0], row[1]) for row in sorted(rows)] == [
                (tag, GOOD) for tag in sorted(self.expected)
            ]
            assert all(row[-1] in self.expected[row[0]] for row in rows), rows
            tag = list(self.expected)[-1]
            assert GOOD in self.script.notary("lookup", gun, tag, user=user)
            self.script.notary("verify", gun, tag, "-i", content, user=user)
            self.script.notary("lookup", gun, "nobody", user=user, status=1)

    def listed(self, user: str) -> list[str]:
        return self.script.notary("list", self.script.gun, user=user).splitlines()


def test_the_real_notary_follows_a_gun_through_its_years(
    our_notary: NotaryServer, tmp_path: Path
) -> None:
    engines.need("notary")
    years = Years(Script(our_notary, tmp_path))
    gun = years.script.gun

    # Year 0: founded, with two signers.
    years.owner("init", "--dialect", "notary", gun)
    years.sign("v1")
    years.check()
    for name in ("sue", "tim"):
        years.new_signer(name)
    years.sign("sue-1", user="sue")
    years.sign("tim-1", user="tim")
    years.check()

    # Year 2: the owner changes keys, and signs anew what would expire.
    for role in ("root", "targets"):
        years.owner("rotate", gun, role)
        years.check()
    years.owner("witness", gun, "targets")
    years.check()

    # Year 3: Tim's key is stolen, and signs. Sue takes it back, the owner removes Tim.
    years.sign("tim-2", user="tim", digest=EVIL)
    assert any(EVIL in line for line in years.listed("follower"))
    years.owner("revoke", f"{gun}:tim-2", user="sue")
    years.owner("signer", "remove", gun, "tim")
    del years.expected["tim-2"]
    years.check()
    thief = f"{gun}:tim-1", "--digest", f"sha256:{EVIL}", "--length", "4"
    years.owner("sign", *thief, user="tim", status=2)
    years.check()

    # Year 4: Tim comes back with a new key; what he had signed needs his signature anew.
    years.new_signer("tim")
    years.check()
    years.sign("tim-3", user="tim")
    years.check()

    # Year 5: the server's disk is stolen; it makes new keys.
    before = online_keys(our_notary, gun)
    years.owner("rotate", gun, "snapshot", "timestamp", "--server-managed")
    assert not before & online_keys(our_notary, gun)
    years.check()
    years.owner("rotate", gun, "snapshot")  # the owner holds it himself for a while
    years.sign("v2", "--role", "targets")
    years.check()
    years.owner("rotate", gun, "snapshot", "--server-managed")
    years.check()

    # Year 9: every key once more.
    years.owner("rotate", gun, "root", "targets")
    years.owner("rotate", gun, "snapshot", "timestamp", "--server-managed")
    years.owner("revoke", f"{gun}:v1")
    del years.expected["v1"]
    years.sign("sue-2", user="sue")
    years.check()


def online_keys(server: NotaryServer, gun: str) -> set[str]:
    """Give the ids of the keys that the current root lists for snapshot and timestamp."""
    status, data = server.get(f"/v2/{gun}/_trust/tuf/root.json")
    assert status == HTTPStatus.OK
    roles = json.loads(data)["signed"]["roles"]
    return {keyid for role in ("snapshot", "timestamp") for keyid in roles[role]["keyids"]}
