"""What every store keeps, whatever engine lies below."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from tabellion_server.storage.interface import (
    Change,
    FileRef,
    Head,
    OnlineKeyRow,
    StaleHeadError,
    StorageError,
    Store,
    StoreCorruptionError,
    StoredFile,
    TagEvent,
)

GUN = "registry.example/app"
AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
TOP = ("root", "targets", "snapshot", "timestamp")


def made(role: str, version: int, text: str = "") -> StoredFile:
    return StoredFile.of(role, version, (text or f"{role} {version}").encode(), stored_at=AT)


def whole_set(version: int) -> list[StoredFile]:
    return [made(role, version) for role in TOP]


def ref(file: StoredFile) -> FileRef:
    return FileRef(file.version, file.sha256, len(file.data))


def signed(target: str, version: int = 1, *, at: datetime = AT) -> TagEvent:
    return TagEvent("signed", target, "targets", version, "a" * 64, {"sha256": "b" * 64}, 7, at)


def online(keyid: str, role: str = "timestamp") -> OnlineKeyRow:
    return OnlineKeyRow(keyid, role, f'{{"keyid":"{keyid}"}}', b"\0sealed\xff", AT)


async def commit(
    store: Store,
    added: Sequence[StoredFile],
    *,
    on: int | None,
    gun: str = GUN,
    dialect: str = "tuf",
    removed_heads: Sequence[str] = (),
    events: Sequence[TagEvent] = (),
    at: datetime = AT,
) -> Head:
    return await store.commit(
        gun,
        dialect=dialect,
        expected_revision=on,
        added=added,
        removed_heads=removed_heads,
        events=events,
        at=at,
    )


class TestStoreContract:
    async def test_a_gun_nobody_published_has_nothing(self, store: Store) -> None:
        assert await store.head(GUN) is None
        assert await store.read(GUN, "root") is None
        assert await store.read(GUN, "root", 1) is None
        assert await store.events(GUN) == []
        assert await store.online_keys(GUN, "timestamp") == []
        assert await store.guns() == []
        assert await store.delete(GUN) is False

    async def test_a_commit_is_read_back_to_the_byte(self, store: Store) -> None:
        data = bytes(range(256)) * 3
        file = StoredFile.of("team/alice", 7, data, stored_at=AT)
        head = await commit(store, [*whole_set(1), file], on=None)
        expected = {item.role: ref(item) for item in [*whole_set(1), file]}
        assert head == Head(GUN, "tuf", 1, expected, AT)
        assert await store.head(GUN) == head
        assert await store.read(GUN, "team/alice") == file
        assert await store.read(GUN, "team/alice", 7) == file
        assert await store.read(GUN, "team/alice", 6) is None
        assert await store.read("registry.example/other", "team/alice") is None

    async def test_another_store_on_the_same_data_sees_it_at_once(
        self, store: Store, open_store: Callable[[], Awaitable[Store]]
    ) -> None:
        other = await open_store()
        head = await commit(store, whole_set(1), on=None)
        assert await other.head(GUN) == head
        head = await commit(other, [made("targets", 2)], on=1)
        assert await store.head(GUN) == head

    async def test_moments_keep_their_microsecond_and_come_back_in_utc(self, store: Store) -> None:
        local = AT.astimezone(timezone(timedelta(hours=5, minutes=45)))
        file = replace(made("root", 1), stored_at=local)
        head = await commit(store, [file], on=None, at=local, events=[signed("1.0", at=local)])
        read = await store.read(GUN, "root")
        (event,) = await store.events(GUN)
        assert read is not None
        for moment in (head.changed_at, read.stored_at, event.at):
            assert moment == AT
            assert moment.tzinfo is UTC

    async def test_a_moment_without_zone_is_refused(self, store: Store) -> None:
        with pytest.raises(StorageError, match="time zone"):
            await commit(store, whole_set(1), on=None, at=AT.replace(tzinfo=None))
        assert await store.head(GUN) is None

    async def test_old_versions_stay_readable(self, store: Store) -> None:
        await commit(store, whole_set(1), on=None)
        await commit(store, [made("targets", 2), made("snapshot", 2)], on=1)
        assert await store.read(GUN, "targets", 1) == made("targets", 1)
        assert await store.read(GUN, "targets") == made("targets", 2)
        assert await store.read(GUN, "root") == made("root", 1)

    async def test_consecutive_roots_in_one_commit_end_at_the_highest(self, store: Store) -> None:
        await commit(store, whole_set(1), on=None)
        head = await commit(store, [made("root", 3), made("root", 2)], on=1)
        assert head.files["root"] == ref(made("root", 3))
        assert await store.read(GUN, "root", 2) == made("root", 2)

    async def test_a_current_version_never_goes_back(self, store: Store) -> None:
        await commit(store, [made("root", 5)], on=None)
        head = await commit(store, [made("root", 4)], on=1)
        assert head.files["root"].version == 5
        assert await store.read(GUN, "root") == made("root", 5)

    async def test_a_removed_head_keeps_its_versions(self, store: Store) -> None:
        await commit(store, [*whole_set(1), made("alice", 1)], on=None)
        head = await commit(store, [made("targets", 2)], on=1, removed_heads=["alice", "nobody"])
        assert set(head.files) == set(TOP)
        assert await store.read(GUN, "alice") is None
        assert await store.read(GUN, "alice", 1) == made("alice", 1)

    async def test_a_stale_revision_is_refused_with_the_current_head(self, store: Store) -> None:
        await commit(store, whole_set(1), on=None)
        current = await commit(store, [made("targets", 2)], on=1)
        for stale in (None, 1, 3):
            with pytest.raises(StaleHeadError) as caught:
                await commit(store, [made("targets", 3)], on=stale, events=[signed("1.0")])
            assert caught.value.head == current
        assert await store.head(GUN) == current
        assert await store.read(GUN, "targets", 3) is None
        assert await store.events(GUN) == []

    async def test_a_revision_of_a_gun_that_is_not_there_is_stale(self, store: Store) -> None:
        with pytest.raises(StaleHeadError) as caught:
            await commit(store, whole_set(1), on=1)
        assert caught.value.head is None
        assert await store.head(GUN) is None

    async def test_a_version_never_changes_its_bytes(self, store: Store) -> None:
        before = await commit(store, whole_set(1), on=None)
        with pytest.raises(StoreCorruptionError, match="targets version 1"):
            await commit(store, [made("root", 2), made("targets", 1, "forged")], on=1)
        assert await store.head(GUN) == before
        assert await store.read(GUN, "targets") == made("targets", 1)
        assert await store.read(GUN, "root", 2) is None

    async def test_two_contents_of_one_version_in_one_commit_are_refused(
        self, store: Store
    ) -> None:
        with pytest.raises(StoreCorruptionError):
            await commit(store, [made("root", 1), made("root", 1, "forged")], on=None)
        assert await store.head(GUN) is None

    async def test_the_same_bytes_again_change_nothing_but_the_revision(self, store: Store) -> None:
        before = await commit(store, whole_set(1), on=None)
        again = [replace(file, stored_at=AT + timedelta(days=1)) for file in whole_set(1)]
        after = await commit(store, again, on=1)
        assert after == replace(before, revision=2)
        assert await store.read(GUN, "root") == made("root", 1)

    async def test_bytes_that_do_not_have_their_hash_are_refused(self, store: Store) -> None:
        with pytest.raises(StoreCorruptionError, match="SHA-256"):
            await commit(store, [replace(made("root", 1), data=b"other")], on=None)
        assert await store.head(GUN) is None

    async def test_a_gun_keeps_its_dialect(self, store: Store) -> None:
        before = await commit(store, whole_set(1), on=None)
        with pytest.raises(StoreCorruptionError, match="speaks tuf"):
            await commit(store, [made("targets", 2)], on=1, dialect="notary")
        assert await store.head(GUN) == before

    @pytest.mark.parametrize("version", [-1, 0, 2**63, 10**30])
    async def test_a_version_that_cannot_be_is_not_there(self, store: Store, version: int) -> None:
        await commit(store, whole_set(1), on=None)
        assert await store.read(GUN, "root", version) is None

    @pytest.mark.parametrize("version", [-1, 0, 2**63])
    async def test_a_version_that_cannot_be_is_not_written(
        self, store: Store, version: int
    ) -> None:
        with pytest.raises(StorageError):
            await commit(store, [made("root", version)], on=None)
        assert await store.head(GUN) is None

    @pytest.mark.parametrize("text", ["\udc80", "a\udfffb"])
    async def test_text_that_is_not_unicode_raises_our_error(self, store: Store, text: str) -> None:
        with pytest.raises(StorageError):
            await store.head(text)
        with pytest.raises(StorageError):
            await commit(store, whole_set(1), on=None, gun=text)

    async def test_names_are_data_not_language(self, store: Store) -> None:
        gun, role = "x'; DROP TABLE heads; --", "%_*?[a]\"'"
        await commit(store, [made(role, 1)], on=None, gun=gun)
        assert await store.read(gun, role) == made(role, 1)
        assert await store.guns("%") == []
        assert await store.guns("*") == []
        assert [head.gun for head in await store.guns("x'")] == [gun]

    @pytest.mark.parametrize(
        "name", ["", " ", "a\0b", "\n", "é", "e\u0301", "a/", "/", "\U0010fffd"]
    )
    async def test_a_name_is_only_itself(self, store: Store, name: str) -> None:
        await commit(store, [made("root", 1, "other")], on=None, gun="a")
        head = await commit(store, [made(name, 1)], on=None, gun=name, events=[signed(name)])
        await store.add_online_key(name, online(name, name))
        assert await store.head(name) == head
        assert await store.read(name, name) == await store.read(name, name, 1) == made(name, 1)
        assert await store.read("a", name) is None
        assert [event.target for event in await store.events(name, target=name)] == [name]
        assert await store.online_keys(name, name) == [online(name, name)]
        assert {item.gun for item in await store.guns()} == {"a", name}
        assert head in await store.guns(name)
        assert await store.delete(name) is True
        assert [item.gun for item in await store.guns()] == ["a"]

    async def test_large_files_come_back_to_the_byte(self, store: Store) -> None:
        data = bytes(range(256)) * 80_000
        file = StoredFile.of("targets", 1, data, stored_at=AT)
        head = await commit(store, [file], on=None)
        assert head.files["targets"].length == len(data) == 20_480_000
        assert await store.read(GUN, "targets") == file

    @pytest.mark.parametrize("revision", [0, -1, 2**63, 10**30])
    async def test_a_revision_that_cannot_be_is_stale(self, store: Store, revision: int) -> None:
        head = await commit(store, whole_set(1), on=None)
        with pytest.raises(StaleHeadError) as caught:
            await commit(store, [made("targets", 2)], on=revision)
        assert caught.value.head == head == await store.head(GUN)


class TestListing:
    async def test_pages_cover_every_gun_once_in_order(self, store: Store) -> None:
        names = sorted(
            [f"a/{number:02}" for number in range(25)] + ["A", "b", "ä/ö", "a", "a.b", "𝄞"]
        )
        for name in reversed(names):
            await commit(store, [made("root", 1)], on=None, gun=name)
        seen: list[str] = []
        while page := await store.guns(after=seen[-1] if seen else None, limit=7):
            assert len(page) <= 7
            seen += [head.gun for head in page]
        assert seen == names

    async def test_a_prefix_takes_only_those_that_begin_with_it(self, store: Store) -> None:
        for name in ("a", "a/b", "a/c", "a/c/d", "ab", "b", "A/c"):
            await commit(store, [made("root", 1)], on=None, gun=name)
        assert [head.gun for head in await store.guns("a/")] == ["a/b", "a/c", "a/c/d"]
        assert [head.gun for head in await store.guns("a/", "a/b")] == ["a/c", "a/c/d"]
        assert [head.gun for head in await store.guns("a/", "a/b", 1)] == ["a/c"]
        assert await store.guns("a/", "b") == []
        assert await store.guns("", None, 0) == []

    async def test_a_listed_head_is_the_head(self, store: Store) -> None:
        head = await commit(store, whole_set(1), on=None)
        assert await store.guns() == [head]


class TestHistory:
    async def test_events_come_newest_first_with_growing_ids(self, store: Store) -> None:
        await commit(store, whole_set(1), on=None, events=[signed("1.0"), signed("2.0")])
        revoked = replace(signed("1.0", 2), kind="revoked")
        await commit(store, [made("targets", 2)], on=1, events=[revoked])
        events = await store.events(GUN)
        assert [replace(event, id=0) for event in events] == [revoked, signed("2.0"), signed("1.0")]
        ids = [event.id for event in events]
        assert ids == sorted(ids, reverse=True)
        assert len(set(ids)) == 3
        assert min(ids) > 0

    async def test_events_of_one_target_page_by_page(self, store: Store) -> None:
        events = [signed(target, version) for version in range(1, 11) for target in ("1.0", "2.0")]
        await commit(store, whole_set(1), on=None, events=events)
        await commit(store, whole_set(1), on=None, events=events, gun="other")
        seen: list[TagEvent] = []
        before: int | None = None
        while page := await store.events(GUN, target="1.0", before=before, limit=3):
            seen += page
            before = page[-1].id
        assert [event.version for event in seen] == list(range(10, 0, -1))
        assert {event.target for event in seen} == {"1.0"}

    @pytest.mark.parametrize(("before", "count"), [(0, 0), (-5, 0), (10**30, 1)])
    async def test_a_bound_beyond_all_ids_is_a_bound(
        self, store: Store, before: int, count: int
    ) -> None:
        await commit(store, whole_set(1), on=None, events=[signed("1.0")])
        assert len(await store.events(GUN, before=before)) == count


class TestOnlineKeys:
    async def test_keys_come_newest_first_per_gun_and_role(self, store: Store) -> None:
        for keyid in ("b", "a", "c"):
            assert await store.add_online_key(GUN, online(keyid))
        assert await store.add_online_key(GUN, online("s", "snapshot"))
        rows = await store.online_keys(GUN, "timestamp")
        assert rows == [online("c"), online("a"), online("b")]
        assert await store.online_keys(GUN, "snapshot") == [online("s", "snapshot")]
        assert await store.online_keys("other", "timestamp") == []
        assert await store.head(GUN) is None

    async def test_the_oldest_keys_of_all_guns_come_with_their_gun(self, store: Store) -> None:
        assert await store.oldest_online_keys(2) == []
        for gun, keyid in (("b", "2"), ("a", "1"), ("c", "3")):
            await store.add_online_key(gun, online(keyid))
        assert await store.oldest_online_keys(2) == [("b", online("2")), ("a", online("1"))]
        await store.delete("b")
        assert await store.oldest_online_keys(1) == [("a", online("1"))]

    async def test_a_key_is_never_replaced(self, store: Store) -> None:
        await store.add_online_key(GUN, online("a"))
        with pytest.raises(StorageError, match="already"):
            await store.add_online_key(GUN, replace(online("a"), sealed=b"other"))
        assert await store.online_keys(GUN, "timestamp") == [online("a")]

    async def test_of_many_first_keys_one_is_added(
        self, store: Store, open_store: Callable[[], Awaitable[Store]]
    ) -> None:
        stores = [store, await open_store()]
        added = await asyncio.gather(
            *[
                stores[number % 2].add_online_key(GUN, online(str(number)), seen=())
                for number in range(20)
            ]
        )
        assert added.count(True) == 1
        assert await store.online_keys(GUN, "timestamp") == [online(str(added.index(True)))]


class TestDelete:
    async def test_delete_takes_everything_of_that_gun_only(self, store: Store) -> None:
        for gun in (GUN, f"{GUN}/more"):
            await commit(store, whole_set(1), on=None, gun=gun, events=[signed("1.0")])
            await store.add_online_key(gun, online("a"))
        other = await store.head(f"{GUN}/more")
        assert await store.delete(GUN) is True
        assert await store.head(GUN) is None
        assert await store.read(GUN, "root", 1) is None
        assert await store.events(GUN) == []
        assert await store.online_keys(GUN, "timestamp") == []
        assert await store.guns() == [other]
        assert len(await store.events(f"{GUN}/more")) == 1
        assert await store.online_keys(f"{GUN}/more", "timestamp") == [online("a")]
        assert await store.delete(GUN) is False

    async def test_keys_of_a_gun_that_was_never_published_go_too(self, store: Store) -> None:
        await store.add_online_key(GUN, online("a"))
        assert await store.delete(GUN) is True
        assert await store.online_keys(GUN, "timestamp") == []
        assert await store.delete(GUN) is False

    async def test_who_read_the_deleted_gun_cannot_write_to_its_successor(
        self, store: Store
    ) -> None:
        for _ in range(2):
            await commit(store, whole_set(1), on=None)
            old = await store.head(GUN)
            assert old is not None
            await store.delete(GUN)
            new = await commit(store, [made("root", 1, "new")], on=None)
            assert new.revision > old.revision
            with pytest.raises(StaleHeadError):
                await commit(store, [made("targets", 2)], on=old.revision)
            await store.delete(GUN)


class TestRaces:
    async def test_of_many_first_commits_one_wins(
        self, store: Store, open_store: Callable[[], Awaitable[Store]]
    ) -> None:
        stores = [store, await open_store()]
        results = await asyncio.gather(
            *[
                commit(stores[number % 2], [made("root", 1, f"by {number}")], on=None)
                for number in range(40)
            ],
            return_exceptions=True,
        )
        winners = [result for result in results if isinstance(result, Head)]
        losers = [result for result in results if isinstance(result, StaleHeadError)]
        assert len(winners) == 1
        assert len(losers) == 39
        assert await store.head(GUN) == winners[0]
        assert all(loser.head == winners[0] for loser in losers)

    async def test_forty_publishers_on_two_stores_lose_no_update(
        self, store: Store, open_store: Callable[[], Awaitable[Store]]
    ) -> None:
        stores = [store, await open_store()]
        await commit(store, [made("targets", 1)], on=None)

        async def publish(number: int) -> None:
            mine = stores[number % 2]
            while True:
                head = await mine.head(GUN)
                assert head is not None
                file = made("targets", head.files["targets"].version + 1, f"by {number}")
                try:
                    await commit(mine, [file], on=head.revision, events=[signed(str(number))])
                except StaleHeadError:
                    continue
                return

        await asyncio.gather(*[publish(number) for number in range(40)])
        head = await store.head(GUN)
        assert head is not None
        assert (head.revision, head.files["targets"].version) == (41, 41)
        authors = {(await store.read(GUN, "targets", version)) for version in range(2, 42)}
        assert {file.data for file in authors if file} == {f"by {n}".encode() for n in range(40)}
        events = await store.events(GUN)
        assert sorted(int(event.target) for event in events) == list(range(40))

    async def test_a_reader_never_sees_half_a_commit(
        self, store: Store, open_store: Callable[[], Awaitable[Store]]
    ) -> None:
        other = await open_store()
        await commit(store, whole_set(1), on=None)
        done = asyncio.Event()

        async def write() -> None:
            for version in range(2, 80):
                await commit(store, whole_set(version), on=version - 1)
            done.set()

        async def watch(mine: Store) -> int:
            last, seen = 0, 0
            while not done.is_set():
                head = await mine.head(GUN)
                assert head is not None
                versions = {head.files[role].version for role in TOP}
                assert versions == {head.revision}
                assert head.revision >= last
                last, seen = head.revision, seen + 1
                file = await mine.read(GUN, "snapshot", last)
                assert file == made("snapshot", last)
            return seen

        _, *seen = await asyncio.gather(write(), watch(store), watch(other), watch(other))
        assert min(seen) > 0

    async def test_of_commits_on_one_revision_one_wins_though_each_touches_another_role(
        self, store: Store, open_store: Callable[[], Awaitable[Store]]
    ) -> None:
        stores = [store, await open_store()]
        await commit(store, whole_set(1), on=None)
        for revision in range(1, 16):
            results = await asyncio.gather(
                *[
                    commit(mine, [made(f"role{revision}/{number}", 1)], on=revision)
                    for number, mine in enumerate(stores)
                ],
                return_exceptions=True,
            )
            (winner,) = [result for result in results if isinstance(result, Head)]
            (loser,) = [result for result in results if isinstance(result, StaleHeadError)]
            assert winner.revision == revision + 1
            assert loser.head == winner == await store.head(GUN)

    async def test_who_follows_the_changefeed_misses_nothing_while_many_publish(
        self, store: Store, open_store: Callable[[], Awaitable[Store]]
    ) -> None:
        stores = [store, await open_store()]
        seen: list[int] = []
        ended = asyncio.Event()

        async def publish(number: int) -> None:
            mine, gun = stores[number % 2], f"gun/{number}"
            for version in range(1, 9):
                large = "x" * (2_000_000 if number == 0 and version % 4 == 0 else 1)
                files = [made("targets", version, large), made("timestamp", version)]
                await commit(mine, files, on=version - 1 or None, gun=gun)

        async def follow(mine: Store) -> None:
            last = 0
            while not (ended.is_set() and last == 80):
                page = await mine.changes(None, after=last, limit=7)
                assert [item.id for item in page] == list(range(last + 1, last + 1 + len(page)))
                last += len(page)
                seen.append(last)

        followers = [asyncio.create_task(follow(mine)) for mine in stores]
        await asyncio.gather(*map(publish, range(10)))
        ended.set()
        async with asyncio.timeout(30):
            await asyncio.gather(*followers)
        assert len(set(seen)) > 5

    async def test_a_refused_commit_does_not_take_its_neighbours_along(self, store: Store) -> None:
        def forged(number: int) -> Awaitable[Head]:
            bad = number % 3 == 0
            return commit(
                store,
                [made("root", 1), made("root", 1, "forged") if bad else made("targets", 1)],
                on=None,
                gun=f"gun/{number:02}",
            )

        results = await asyncio.gather(*map(forged, range(60)), return_exceptions=True)
        for number, result in enumerate(results):
            expected = StoreCorruptionError if number % 3 == 0 else Head
            assert isinstance(result, expected)
        listed = [head.gun for head in await store.guns()]
        assert listed == [f"gun/{number:02}" for number in range(60) if number % 3]

    async def test_a_cancelled_commit_happened_wholly_or_not_at_all(self, store: Store) -> None:
        tasks = [
            asyncio.create_task(commit(store, whole_set(1), on=None, gun=f"gun/{number:03}"))
            for number in range(100)
        ]
        await tasks[0]
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await store.add_online_key(GUN, online("last in the queue"))
        listed = {head.gun: head for head in await store.guns(limit=1000)}
        for number, result in enumerate(results):
            head = listed.get(f"gun/{number:03}")
            if isinstance(result, Head):
                assert head == result
            if head is not None:
                assert set(head.files) == set(TOP)


class TestLife:
    async def test_what_was_written_is_there_after_a_restart(
        self, store: Store, open_store: Callable[[], Awaitable[Store]]
    ) -> None:
        head = await commit(store, whole_set(1), on=None, events=[signed("1.0")])
        await store.close()
        again = await open_store()
        assert await again.head(GUN) == head
        assert await again.read(GUN, "root") == made("root", 1)
        assert len(await again.events(GUN)) == 1

    async def test_a_version_is_found_by_its_hash_within_its_gun_and_role(
        self, store: Store
    ) -> None:
        head = await commit(store, whole_set(1), on=None)
        await commit(store, [made("targets", 2)], on=head.revision)
        old = made("targets", 1)
        assert await store.read_hash(GUN, "targets", old.sha256) == old
        assert await store.read_hash(GUN, "root", old.sha256) is None
        assert await store.read_hash("other", "targets", old.sha256) is None

    async def test_the_changefeed_tells_each_timestamp_once_in_order(self, store: Store) -> None:
        head = await commit(store, whole_set(1), on=None)
        await commit(store, whole_set(1), on=None, gun="other")
        head = await commit(store, [made("timestamp", 2)], on=head.revision)
        await commit(store, [made("targets", 2)], on=head.revision)
        found = await store.changes(None, after=0, limit=10)
        assert [(item.gun, item.version, item.category) for item in found] == [
            *((GUN, 1, "update"), ("other", 1, "update"), (GUN, 2, "update"))
        ]
        assert found[0].sha256 == made("timestamp", 1).sha256
        assert found[0].at == AT
        mine = await store.changes(GUN, after=0, limit=10)
        assert mine == [found[0], found[2]]
        assert await store.changes(GUN, after=found[0].id, limit=10) == [found[2]]
        assert await store.changes(None, limit=2) == found[1:]
        assert await store.changes(None, before=found[2].id, limit=1) == [found[1]]
        assert await store.changes(None, after=0, limit=1) == found[:1]

    async def test_a_refused_commit_is_not_told_in_the_changefeed(self, store: Store) -> None:
        with pytest.raises(StaleHeadError):
            await commit(store, whole_set(1), on=7)
        assert await store.changes(None, after=0, limit=10) == []

    async def test_a_deletion_is_told_and_what_was_told_before_stays(self, store: Store) -> None:
        await commit(store, whole_set(1), on=None)
        assert await store.delete(GUN)
        assert not await store.delete(GUN)
        found = await store.changes(GUN, after=0, limit=10)
        assert [(item.version, item.category) for item in found] == [(1, "update"), (0, "deletion")]

    async def test_an_import_tells_the_changefeed_of_its_source(self, store: Store) -> None:
        told = [
            Change(GUN, 7, "c" * 64, "update", AT - timedelta(days=9)),
            Change(GUN, 0, "", "deletion", AT - timedelta(days=8)),
        ]
        await store.commit(
            GUN, dialect="notary", expected_revision=None, added=whole_set(1), changes=told, at=AT
        )
        found = await store.changes(GUN, after=0, limit=10)
        assert [replace(item, id=0) for item in found] == told
        assert found[0].id < found[1].id

    async def test_a_conversion_in_place_keeps_files_history_and_online_keys(
        self, store: Store
    ) -> None:
        old = [*whole_set(1), made("targets/releases", 1)]
        head = await commit(store, old, on=None, dialect="notary", events=[signed("v1")])
        await store.add_online_key(GUN, online("k"))
        new = [*whole_set(2), made("releases", 2)]
        after = await store.commit(
            GUN,
            dialect="tuf",
            expected_revision=head.revision,
            added=new,
            removed_heads=["targets/releases"],
            events=[signed("v2")],
            converts="notary",
            at=AT,
        )
        assert (after.dialect, after.revision) == ("tuf", head.revision + 1)
        assert after.files == {item.role: ref(item) for item in new}
        assert await store.head(GUN) == after
        for item in old:
            assert await store.read(GUN, item.role, item.version) == item
        assert [item.target for item in await store.events(GUN)] == ["v2", "v1"]
        assert [row.keyid for row in await store.online_keys(GUN, "timestamp")] == ["k"]
        told = await store.changes(GUN, after=0, limit=10)
        assert [item.category for item in told] == ["update", "update"]

    @pytest.mark.parametrize("converts", [None, "tuf"])
    async def test_a_dialect_changes_only_from_the_one_that_is_named(
        self, store: Store, converts: str | None
    ) -> None:
        head = await commit(store, whole_set(1), on=None, dialect="notary")
        with pytest.raises(StoreCorruptionError):
            await store.commit(
                GUN,
                dialect="tuf",
                expected_revision=head.revision,
                added=whole_set(2),
                converts=converts,
                at=AT,
            )
        assert await store.head(GUN) == head

    async def test_an_open_store_is_ready_and_a_closed_one_raises(self, store: Store) -> None:
        await store.check()
        await store.close()
        await store.close()
        with pytest.raises(StorageError, match=r"closed|write"):
            await store.check()
        with pytest.raises(StorageError, match="closed"):
            await store.head(GUN)
        with pytest.raises(StorageError, match="closed"):
            await commit(store, whole_set(1), on=None)

    async def test_close_finishes_what_was_begun(
        self, store: Store, open_store: Callable[[], Awaitable[Store]]
    ) -> None:
        tasks = [
            asyncio.create_task(commit(store, whole_set(1), on=None, gun=f"gun/{number}"))
            for number in range(20)
        ]
        await tasks[0]
        await store.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        again = await open_store()
        listed = {head.gun for head in await again.guns()}
        assert listed == {result.gun for result in results if isinstance(result, Head)}
        assert all(isinstance(result, (Head, StorageError)) for result in results)
