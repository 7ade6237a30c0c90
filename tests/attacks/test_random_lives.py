"""Random lives of a GUN: rotations, publications, failures and thefts, in both dialects.

After each step every client is held against a model that was written from the specification: it
must find, keep or refuse just that. Beside it stand the rules that need no model: who was never
deceived is never refused what is honest and fresh, and evil is believed only where the thief holds
a threshold of the keys that count.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from securesystemslib.signer import Signer

from forge import target
from lives import EVIL, GUN, ONLINE, PATHS, File, Served, World, key
from lives_model import Kept, Refused, Update, View, threshold_of
from tabellion.core.dialect import NOTARY, TUF, Dialect
from tabellion.core.publication import UploadedFile
from tabellion.core.release import next_snapshot, next_timestamp
from tabellion.core.search import find_target
from tabellion.errors import NotFoundError, RollbackError, TabellionError
from tabellion.verify.cache import MetadataCache
from tabellion.verify.updater import Updater

# Other lives than the usual ones: TABELLION_TEST_LIVES=500 in the environment.
EXPLORES = "TABELLION_TEST_LIVES" in os.environ
LIVES = int(os.environ.get("TABELLION_TEST_LIVES", "15"))
SEEDS = st.integers(0, 1 << 16)
EVIL_SHA256 = hashlib.sha256(EVIL).hexdigest()
TOP = {"root", *ONLINE}
Found = dict[str, object]


class MemoryCache(MetadataCache):
    """A cache without a disk; ``kept`` is all of it, as the model keeps it."""

    def __init__(self) -> None:
        super().__init__(Path())
        self.kept: Kept = {}

    def load(self, role: str) -> bytes | None:
        return self.kept.get(role)

    def save(self, role: str, data: bytes) -> None:
        self.kept[role] = data

    def drop(self, *roles: str) -> None:
        for role in roles:
            self.kept.pop(role, None)

    def load_root(self, version: int) -> bytes | None:
        return self.kept.get(f"root {version}")

    def save_root(self, version: int, data: bytes) -> None:
        self.kept[f"root {version}"] = data
        self.save("root", data)

    def root_versions(self) -> list[int]:
        return sorted(int(name[5:]) for name in self.kept if name.startswith("root "))


class InlineLoop(asyncio.SelectorEventLoop):
    """Does what is meant for a thread at once: here switching takes longer than the work."""

    def run_in_executor(self, executor: object, func: Callable[..., Any], *args: Any) -> Any:  # noqa: ARG002  (asyncio's own)
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except TabellionError as error:
            future.set_exception(error)
        return future


@dataclass(frozen=True)
class Site:
    """A server as a client sees it."""

    view: View

    async def fetch(self, url: str, *, max_bytes: int) -> bytes:
        name = url.removeprefix("x://x/")
        if name not in self.view:
            raise NotFoundError(name)
        assert len(self.view[name]) <= max_bytes
        return self.view[name]


@dataclass
class Client:
    """One reader."""

    cache: MemoryCache = field(default_factory=MemoryCache)

    def is_deceived(self, world: World) -> bool:
        """Tell whether anything that it keeps was never published."""
        return not world.published.issuperset(self.cache.kept.values())

    async def update(self, world: World, view: View) -> Found:
        """Give what is found under each path, or why not."""
        updater = Updater("x://x", gun=GUN, fetcher=Site(view), cache=self.cache, now=world.now)
        found: Found = {}
        try:
            trusted = await updater.start(self.cache.load("root") or world.first_root)
            await updater.update_roots(trusted)
            await updater.update_online(trusted)
        except TabellionError as error:
            return {"": verdict(error)}
        for path in PATHS:
            try:
                match = await updater.search(trusted, find_target(trusted, path))
            except TabellionError as error:
                found[path] = verdict(error)
            else:
                found[path] = match and (match.role.role, match.target.hashes["sha256"])
        return found


def verdict(error: TabellionError) -> tuple[str, str | None]:
    # Of several roles that went back, either may be named.
    is_one = not isinstance(error, RollbackError)
    return type(error).__name__, getattr(error, "role", None) if is_one else None


def expected(world: World, kept: Kept, view: View) -> tuple[Found, Update]:
    """Ask the model the same, and change ``kept`` as it would."""
    update = Update(kept, world.files, view, world.now, world.dialect)
    found: Found = {}
    try:
        update.run(world.first_root)
    except Refused as refused:
        return {"": refused.verdict}, update
    for path in PATHS:
        try:
            found[path] = update.find(path)
        except Refused as refused:
            found[path] = refused.verdict
    return found, update


class Lives(RuleBasedStateMachine):
    """What may happen to one GUN."""

    dialect: Dialect

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.dialect)
        self.clients: list[Client] = []
        self.backups: list[Served] = []
        self.stolen: list[Signer] = []
        self.views: list[View] = []
        self.own = key(self.dialect, "root", 0)
        self.runner = asyncio.Runner(loop_factory=InlineLoop)
        self.checked: object = None

    def teardown(self) -> None:
        self.runner.close()

    @initialize()
    def people_come(self) -> None:
        self.clients = [Client(), Client()]
        self.read(self.clients[0], self.honest_view())

    # The owner and the signers

    def is_in_order(self) -> bool:
        return not self.world.behind

    @precondition(is_in_order)
    @rule(seed=SEEDS)
    def rotate(self, seed: int) -> None:
        rng = chance(seed)
        roles = rng.choice(
            (("root",), ("root",), ("targets",), ("snapshot",), ("timestamp",), ONLINE, ())
        )
        self.world.rotate(rng, *roles)

    @precondition(is_in_order)
    @rule(seed=SEEDS)
    def release(self, seed: int) -> None:
        rng = chance(seed)
        self.world.release(rng, rng.choice(["targets", *self.world.delegations]))

    @precondition(is_in_order)
    @rule(seed=SEEDS)
    def lose(self, seed: int) -> None:
        rng = chance(seed)
        if rng.random() < 0.5:
            self.world.lose_half_a_ceremony()
        else:
            role = rng.choice(["targets", *self.world.delegations])
            self.world.release(rng, role, lost=True)

    @precondition(is_in_order)
    @rule(seed=SEEDS)
    def change_signers(self, seed: int) -> None:
        rng = chance(seed)
        name = rng.choice(self.world.names_of_signers)
        if name in self.world.delegations and rng.random() < 0.4:
            self.world.remove_signer(name)
        else:
            self.world.set_signer(rng, name)

    # Time and the server's troubles

    @precondition(is_in_order)  # what was lost is brought back before it expires
    @rule(days=st.sampled_from((1, 5, 20, 50, 100, 400, 1100, 3700)), is_kept=st.booleans())
    def time_passes(self, days: int, *, is_kept: bool) -> None:
        self.world.now += timedelta(days=days)
        if is_kept:
            self.world.witness()
        if days > 1:
            self.backups.clear()  # too old to be brought back

    @precondition(lambda self: self.backups and not self.world.behind)
    @rule(seed=SEEDS)
    def restore(self, seed: int) -> None:
        """Go back to a backup, now and then one of before a signer who has gone since."""
        rng, backups = chance(seed), self.backups[-6:]
        if rng.random() < 0.4:
            name = rng.choice(self.world.names_of_signers)
            if name not in self.world.delegations or rng.random() < 0.5:
                self.world.set_signer(rng, name)
                self.read(rng.choice(self.clients), self.honest_view())
            self.world.remove_signer(name)
            self.read(rng.choice(self.clients), self.honest_view())
        self.world.restore(rng.choice(backups))
        self.backups.clear()
        if rng.random() < 0.5 and self.world.behind:
            self.bring_back(seed)

    @precondition(lambda self: self.world.behind)
    @rule(seed=SEEDS)
    def bring_back(self, seed: int) -> None:
        """Bring it back: all who had seen what was lost go on."""
        self.world.bring_back(chance(seed))
        for client in self.clients:
            self.read(client, self.honest_view())

    # The thief

    @rule(seed=SEEDS)
    def steal(self, seed: int) -> None:
        """Take keys: of the present root fewer than its threshold, of the past any."""
        rng = chance(seed)
        world = self.world
        role = rng.choice([*world.held, "online", "online", "retired"])
        places = {**world.held, "retired": world.retired}
        places["online"] = [*world.held["snapshot"], *world.held["timestamp"]]
        held = places[role]
        taken = [signer for signer in held if signer not in self.stolen]
        if role == "root":
            threshold = world.root.roles["root"].threshold
            mine = sum(signer in self.stolen for signer in held)
            taken = taken[: max(threshold - 1 - mine, 0)]
        count = len(taken) if role == "online" else rng.randint(1, 2)
        self.stolen.extend(rng.sample(taken, min(len(taken), count)))

    @rule(seed=SEEDS)
    def rob_server(self, seed: int) -> None:
        """Take the online keys, and at once name older files to who knows the newest ones."""
        held = self.world.held
        online = [*held["snapshot"], *held["timestamp"]]
        self.stolen.extend(signer for signer in online if signer not in self.stolen)
        for rng in several(seed):
            client = rng.choice(self.clients)
            self.read(client, self.honest_view())
            role = rng.choice([name for name in self.world.served.current if name not in TOP])
            known = [item for item in self.world.files.values() if item.role == role]
            view = dict(self.honest_view())
            self.attack(rng, self.with_chain(view, {role: rng.choice(known[-4:])}, rng), client)

    @precondition(lambda self: self.views)
    @rule(seed=SEEDS)
    def replay(self, seed: int) -> None:
        """Show everything as it was, or a new timestamp and the rest as it was."""
        for rng in several(seed):
            view = dict(rng.choice(self.views[-8:]))
            if rng.random() < 0.3:
                view["timestamp.json"] = self.honest_view()["timestamp.json"]
            self.attack(rng, view)

    @rule(seed=SEEDS)
    def mix(self, seed: int) -> None:
        """Show another file, of the same kind, in the place of one."""
        world = self.world
        for rng in several(seed):
            view = dict(self.honest_view())
            client = rng.choice(self.clients)
            if rng.random() < 0.4:
                name = f"{max(client.cache.root_versions(), default=1) + 1}.root.json"
                kind = "root"
            else:
                role = rng.choice([role for role in world.served.current if role != "root"])
                name = world.name_of(role, world.served.current[role])
                kind = world.file(role).payload.type
            files = [item.data for item in world.files.values() if item.payload.type == kind]
            view[name] = rng.choice(files[-12:])
            if rng.random() < 0.2:  # some: the newest root is hidden, the rest is as it is
                view = dict(self.honest_view())
                view.pop(f"{max(world.file('root').version, 2)}.root.json", None)
            self.attack(rng, view, client)

    @rule(seed=SEEDS)
    def forge(self, seed: int) -> None:
        """Sign targets, snapshot and timestamp with whatever was stolen."""
        for rng in several(seed):
            self.attack(rng, self.with_chain(dict(self.honest_view()), self.forged(rng), rng))

    def forged(self, rng: Random) -> dict[str, File]:
        """Give other files of some targets roles: older ones, or the thief's own."""
        files: dict[str, File] = {}
        for role in sorted(set(self.world.served.current) - TOP):
            match rng.choice(("keep", "keep", "old", "evil")):
                case "old":
                    of_role = [item for item in self.world.files.values() if item.role == role]
                    files[role] = rng.choice(of_role[-6:])
                case "evil":
                    payload = self.copy_of(role, rng)
                    payload.targets = {path: target(EVIL, path) for path in PATHS}
                    files[role] = self.sign(role, payload, rng)
        return files

    @rule(seed=SEEDS)
    def forge_root(self, seed: int) -> None:
        """Sign another root that names the thief, after one that a client trusts."""
        rng = chance(seed)
        client = rng.choice(self.clients)
        version = max(client.cache.root_versions(), default=1)
        root = self.world.files[client.cache.load_root(version) or self.world.first_root]
        payload = copy.deepcopy(root.payload)
        payload.version += rng.choice((1, 1, 1, 2, 0))
        for role in ("root", "targets", *ONLINE):
            if role != "root" or rng.random() < 0.7:
                for keyid in list(payload.roles[role].keyids):
                    payload.revoke_key(keyid, role)
                payload.roles[role].threshold = 1
                payload.add_key(self.own.public_key, role)
        made = self.sign("root", payload, rng)
        view = dict(self.honest_view())
        view[f"{version + 1}.root.json"] = made.data
        named = {"root": made} if self.dialect.lists_root else {}
        self.attack(rng, self.with_chain(view, named, rng), client)

    @precondition(lambda self: self.stolen and not self.world.behind)
    @rule(seed=SEEDS)
    def thief_uploads(self, seed: int) -> None:
        """Offer the server what too few keys signed."""
        rng = chance(seed)
        world = self.world
        role = rng.choice(["root", "targets", *world.delegations])
        payload = self.copy_of(role, rng)
        payload.version = world.file(role).version + 1
        by = world.file("root" if role in {"root", "targets"} else "targets")
        made = self.sign(role, payload, rng, all_keys=True)
        keyids, threshold = threshold_of(by, role)
        if len(made.signers & keyids) < threshold:
            with pytest.raises(TabellionError):
                world.judge([UploadedFile(role, made.data)])

    def copy_of(self, role: str, rng: Random) -> Any:
        payload = copy.deepcopy(self.world.file(role).payload)
        payload.version = max(payload.version + rng.choice((1, 1, 1, 0, -1, 1000)), 1)
        payload.expires = (self.world.now + timedelta(days=1000)).replace(microsecond=0)
        return payload

    def sign(self, role: str, payload: Any, rng: Random, *, all_keys: bool = False) -> File:
        count = len(self.stolen)
        stolen = (
            self.stolen if all_keys or rng.random() < 0.8 else rng.sample(self.stolen, count // 2)
        )
        made = self.world.sign(role, payload, [*stolen, self.own])
        return self.world.files[made.data]

    def with_chain(self, view: dict[str, bytes], files: Mapping[str, File], rng: Random) -> View:
        """Sign a snapshot and a timestamp that name these files."""
        world, expires_at = self.world, self.world.now + timedelta(days=500)
        snapshot = next_snapshot(
            self.dialect,
            world.file("snapshot").payload,
            {role: (item.version, item.data) for role, item in files.items()},
            expires_at=expires_at,
            skip=rng.choice((0, 0, 0, 1000)),
        )
        if self.dialect is NOTARY and len(snapshot.meta) > 2 and rng.random() < 0.3:
            snapshot.meta.pop(max(snapshot.meta))  # a delegated role: hidden
        made = self.sign("snapshot", snapshot, rng)
        if not files:  # another way to hide what is new
            old = [item for item in world.files.values() if item.role == "snapshot"]
            made = rng.choice(old[-8:])
        timestamp = next_timestamp(
            self.dialect,
            world.file("timestamp").payload,
            made.data,
            made.version,
            expires_at=expires_at,
            skip=rng.choice((0, 0, 0, 1000)),
        )
        for role, item in (*files.items(), ("snapshot", made)):
            if role != "root":
                view[world.name_of(role, item.data)] = item.data
        view["timestamp.json"] = self.sign("timestamp", timestamp, rng).data
        return view

    # The readers

    @rule()
    def somebody_comes(self) -> None:
        self.clients.append(Client())
        del self.clients[:-5]

    @rule(seed=SEEDS)
    def update(self, seed: int) -> None:
        self.read(chance(seed).choice(self.clients), self.honest_view())

    @invariant()
    def newcomers_find_it(self) -> None:
        """Whoever comes now finds what is honest; all that was published gets backed up."""
        state = self.world.served.copy(), self.world.now
        if self.clients and state != self.checked:
            self.checked = state
            self.read(Client(), self.honest_view())
            if not self.world.behind:
                self.backups.append(self.world.served.copy())

    def honest_view(self) -> View:
        self.world.refresh()
        view = dict(self.world.served.names)
        if not self.views or self.views[-1] != view:
            self.views.append(view)
        return view

    def attack(self, rng: Random, view: View, client: Client | None = None) -> None:
        client = client or rng.choice(self.clients)
        self.read(client, view, is_honest=False)
        if any(data not in self.honest_roots() for data in roots_of(client.cache.kept)):
            self.clients.remove(client)  # by a threshold of old root keys: no way back
            self.clients.append(Client())

    def honest_roots(self) -> set[bytes]:
        return {item.data for files in self.world.uploads for item in files if item.role == "root"}

    def read(self, client: Client, view: View, *, is_honest: bool = True) -> None:
        """Update a client; it must do as the model does."""
        world, before = self.world, dict(client.cache.kept)
        was_deceived = client.is_deceived(world)
        kept = dict(before)
        wanted, update = expected(world, kept, view)
        found = self.runner.run(client.update(world, view))
        assert found == wanted
        assert client.cache.kept == kept
        self.check_versions(before, kept)
        self.check_belief(found, update)
        if is_honest and not world.behind and not was_deceived:
            assert found == self.honest_word(), "an honest server was refused"

    def check_versions(self, before: Kept, after: Kept) -> None:
        """No version goes back, unless the online keys changed."""
        if "root" not in before:
            return
        roots = [self.world.files[kept["root"]] for kept in (before, after)]
        assert roots[0].version <= roots[1].version
        same = all(len({threshold_of(root, role) for root in roots}) == 1 for role in ONLINE)
        for role in ONLINE if same else ():
            if role in before:
                old, new = (self.world.files[kept[role]].version for kept in (before, after))
                assert old <= new

    def check_belief(self, found: Found, update: Update) -> None:
        """Evil is believed only if the thief's keys are enough for the role that says so."""
        mine = {signer.public_key.keyid for signer in [*self.stolen, self.own]}
        for word in found.values():
            if isinstance(word, tuple) and word[1] == EVIL_SHA256:
                by = update.root if word[0] == "targets" else update.loaded["targets"]
                keyids, threshold = threshold_of(by, word[0])
                assert len(keyids & mine) >= threshold
        for data in roots_of(update.kept):
            root = self.world.files[data]
            if data not in self.honest_roots():
                before = self.world.files[update.kept[f"root {root.version - 1}"]]
                keyids, threshold = threshold_of(before, "root")
                assert len(keyids & mine) >= threshold

    def honest_word(self) -> Found:
        """Give what the owner wants to be found now, or what has expired."""
        world = self.world
        for role, payload in (("root", world.root), ("targets", world.targets)):
            if payload.expires <= world.now:
                return {"": ("ExpiredMetadataError", role)}
        view = dict(world.served.names)
        return expected(world, {}, view)[0]


def chance(seed: int) -> Random:
    """Give the chances of one step: cheaper than drawing each of them."""
    return Random(seed)  # noqa: S311  (chance, no secret)


def several(seed: int) -> list[Random]:
    """Give chances for three tries: a step costs more than what is tried in it."""
    return [chance(seed + number) for number in range(3)]


def roots_of(kept: Kept) -> list[bytes]:
    return [data for name, data in kept.items() if name.startswith("root ")]


@pytest.mark.parametrize("dialect", [TUF, NOTARY], ids=["tuf", "notary"])
def test_no_life_makes_a_client_believe_or_refuse_what_it_must_not(dialect: Dialect) -> None:
    machine = cast("type[Lives]", type("Lives", (Lives,), {"dialect": dialect}))
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=LIVES,
            stateful_step_count=40,
            deadline=None,
            derandomize=not EXPLORES,  # what stops a landing is the change, not the dice
            phases=[Phase.generate],  # making a long life shorter takes minutes
        ),
    )
