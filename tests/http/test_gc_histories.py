"""What ``gc`` lets go of in random histories: never what somebody under way can ask for."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from securesystemslib.signer import Key

from forge import Forge, target
from http_site import Site, new_signer
from tabellion_server.services.retention import Margins, old_of
from tabellion_server.settings import Settings
from tabellion_server.storage.interface import FileInfo

DAY = timedelta(days=1)
MARGINS = Margins(any=5 * DAY, signed=5 * DAY)
STEPS = 30


@pytest.fixture(params=[2, 9])
def settings(request: pytest.FixtureRequest) -> Settings:
    return Settings(timestamp_life=2 * DAY, snapshot_life=request.param * DAY)


@dataclass
class History:
    """One GUN's life, and the clients that began to read it."""

    site: Site
    rng: Random
    forge: Forge
    begun: list[bytes] = field(default_factory=list)  # timestamps that they were given
    gone: int = 0

    async def step(self) -> None:
        self.site.clock.now += self.rng.choice([0, 1, 2, 6]) * DAY
        steps = (self._release, self._release, self._signer, self._rotate, self._read)
        await self.rng.choice(steps)()
        self.begun.append(await self.site.body("timestamp.json"))

    async def _release(self) -> None:
        names = ["targets", *self.forge.delegated]
        chosen = self.rng.sample(names, self.rng.randint(1, len(names)))
        for name in chosen:
            payload = self.forge.targets if name == "targets" else self.forge.delegated[name]
            payload.version += 1
            if name == "targets":
                path = f"v{payload.version}"
                payload.targets[path] = target(b"x", path)
        await self.site.publish(self.forge, *chosen)

    async def _signer(self) -> None:
        """Take a signer, or take one away; hash bins stay as they are."""
        if self.forge.targets.delegations and self.forge.targets.delegations.succinct_roles:
            return await self._release()
        self.forge.targets.version += 1
        if self.forge.delegated and self.rng.random() < 0.5:
            name = self.rng.choice(sorted(self.forge.delegated))
            del self.forge.delegated[name]
            assert self.forge.targets.delegations is not None
            assert self.forge.targets.delegations.roles is not None
            self.forge.targets.revoke_key(self.forge.signers[name][0].public_key.keyid, name)
            del self.forge.targets.delegations.roles[name]
            await self.site.publish(self.forge, "targets")
        else:
            name = f"signer{self.forge.targets.version}"
            self.forge.delegate(name, ["*"])
            await self.site.publish(self.forge, "targets", name)
        return None

    async def _rotate(self) -> None:
        role = self.rng.choice(["snapshot", "timestamp"])
        answer = await self.site.client.session.post(self.site.url(f"{role}.key"))
        fields = await answer.json()
        root = self.forge.root
        root.version += 1
        root.revoke_key(root.roles[role].keyids[0], role)
        root.add_key(Key.from_dict(fields.pop("keyid"), fields), role)
        await self.site.publish(self.forge, "root")

    async def _read(self) -> None:
        await self.site.body("timestamp.json")

    async def collect(self) -> None:
        """Let go; what was told before is what goes, and what has to stay is there."""
        before = await self._infos()
        head = await self.site.store.head(self.site.gun)
        assert head is not None
        old = await old_of(self.site.store, head, now=self.site.clock(), margins=MARGINS)
        told = {(info.role, info.version) for info in old.files}
        assert await self.site.store.collect(self.site.gun, told) == old.length
        after = await self._infos()
        assert before.keys() - after.keys() == told
        assert (old.kept, old.kept_bytes) == (
            len(after),
            sum(info.length for info in after.values()),
        )
        self.gone += len(told)
        assert {role for role, _ in told}.isdisjoint({"root"})
        newest = {role: max(v for r, v in before if r == role) for role, _ in before}
        assert set(newest.items()) <= after.keys()
        for data in self.begun:
            await self._go_on(data, after)

    async def _infos(self) -> dict[tuple[str, int], FileInfo]:
        infos = await self.site.store.files(self.site.gun)
        return {(info.role, info.version): info for info in infos}

    async def _go_on(self, timestamp: bytes, there: dict[tuple[str, int], FileInfo]) -> None:
        """Ask for what a client would that began with a timestamp, if it still may."""
        snapshot = await self._named(json.loads(timestamp), "snapshot", there)
        if snapshot is not None:
            document = json.loads(await self.site.body(f"{snapshot}.snapshot.json"))
            for name in document["signed"]["meta"]:
                assert await self._named(document, name.removesuffix(".json"), there) is not None

    async def _named(
        self, document: dict[str, object], role: str, there: dict[tuple[str, int], FileInfo]
    ) -> int | None:
        signed = document["signed"]
        assert isinstance(signed, dict)
        is_timestamp = signed["_type"] == "timestamp"
        expires = datetime.fromisoformat(signed["expires"]).astimezone(UTC)
        if is_timestamp and expires + MARGINS.any <= self.site.clock():
            return None
        version = int(signed["meta"][f"{role}.json"]["version"])
        assert (role, version) in there, f"{role} {version} is named, and went"
        return version


@pytest.mark.parametrize("seed", range(4))
async def test_whoever_began_in_time_finds_all_and_the_figures_are_what_goes(
    site: Site, seed: int
) -> None:
    history = History(site, Random(seed), await site.forge())  # noqa: S311  (no secret)
    if seed % 2:
        paths = [f"1.{number}" for number in range(8)]
        history.forge.spread(3, "bin", *paths, holder=new_signer())
    await site.publish(history.forge, "root", "targets", *history.forge.delegated)
    for number in range(STEPS):
        await history.step()
        if number % 3 == 2:
            await history.collect()
    assert history.gone > STEPS
