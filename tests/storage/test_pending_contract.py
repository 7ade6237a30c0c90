"""What every store keeps of pending proposals, whatever engine lies below."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from storage.test_contract import commit, whole_set
from tabellion_server.storage.interface import (
    AuditAction,
    AuditEntry,
    PendingFullError,
    PendingRow,
    StaleHeadError,
    Store,
    StoreCorruptionError,
)

GUN = "registry.example/app"
AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def row(letter: str = "a", *, gun: str = GUN, revision: int = 0, text: str = "{}") -> PendingRow:
    return PendingRow(
        gun,
        letter * 64,
        {"root": 2, "targets": 7},
        {"root": text.encode(), "targets": "{ü}".encode()},
        "dave",
        AT,
        AT + timedelta(days=14),
        revision,
    )


def entry(
    action: AuditAction, letter: str = "a", *, gun: str = GUN, at: datetime = AT
) -> AuditEntry:
    return AuditEntry(gun, letter * 64, action, {"root": 2, "targets": 7}, ("k1", "k2"), "eve", at)


async def put(store: Store, item: PendingRow, *, at_most: int = 16) -> bool:
    action: AuditAction = "signed" if item.revision else "opened"
    return await store.put_pending(item, entry(action, item.id[0], gun=item.gun), at_most=at_most)


async def actions(store: Store, gun: str = GUN) -> list[str]:
    return [item.action for item in await store.audit(gun, limit=99)][::-1]


async def test_a_proposal_is_read_back_to_the_byte_with_what_was_done(
    store: Store, open_store: Callable[[], Awaitable[Store]]
) -> None:
    assert await put(store, row())
    other = await open_store()
    assert await other.pending(GUN) == [row(revision=1)]
    assert await other.pending("registry.example/other") == []
    (told,) = await other.audit(GUN, limit=9)
    assert told == replace(entry("opened"), id=told.id)
    assert told.at.tzinfo is UTC
    assert await store.head(GUN) is None


async def test_of_two_changes_at_one_revision_one_is_written(store: Store) -> None:
    assert await put(store, row())
    done = await asyncio.gather(
        *(put(store, row(revision=1, text=f'{{"{number}":1}}')) for number in range(8))
    )
    assert sorted(done) == [False] * 7 + [True]
    assert not await put(store, row())  # opened already
    assert not await put(store, row("b", revision=3))  # never opened
    assert [item.revision for item in await store.pending(GUN)] == [2]
    assert await actions(store) == ["opened", "signed"]


async def test_one_too_many_is_refused_for_its_gun_only(store: Store) -> None:
    for letter in "abc":
        assert await put(store, row(letter), at_most=3)
    with pytest.raises(PendingFullError):
        await put(store, row("d"), at_most=3)
    assert await put(store, row("c", revision=1), at_most=3)
    assert await put(store, row("d", gun="other"), at_most=3)
    assert [item.id[0] for item in await store.pending(GUN)] == ["a", "b", "c"]
    assert await actions(store) == ["opened"] * 3 + ["signed"]


async def test_a_closed_proposal_is_gone_and_told_once(store: Store) -> None:
    await put(store, row())
    assert await store.close_pending(entry("withdrawn"))
    assert not await store.close_pending(entry("withdrawn"))
    assert await store.pending(GUN) == []
    assert await actions(store) == ["opened", "withdrawn"]


async def test_a_commit_closes_a_proposal_in_the_same_transaction(store: Store) -> None:
    await put(store, row())
    await put(store, row("b"))

    async def publish(on: int | None, version: int, letter: str) -> None:
        await store.commit(
            GUN,
            dialect="tuf",
            expected_revision=on,
            added=whole_set(version),
            closes=entry("published", letter),
            at=AT,
        )

    with pytest.raises(StaleHeadError):
        await publish(3, 1, "a")
    assert len(await store.pending(GUN)) == 2
    await publish(None, 1, "a")
    assert [item.id[0] for item in await store.pending(GUN)] == ["b"]
    await publish(1, 2, "a")  # not pending any more: nothing to tell
    assert await actions(store) == ["opened", "opened", "published"]


async def test_a_proposal_that_another_process_withdrew_meanwhile_is_not_committed(
    store: Store,
) -> None:
    await put(store, row())
    assert await store.close_pending(entry("withdrawn"))
    with pytest.raises(StaleHeadError):
        await store.commit(
            GUN,
            dialect="tuf",
            expected_revision=None,
            added=whole_set(1),
            closes=entry("published"),
            at=AT,
        )
    assert await store.head(GUN) is None
    assert await actions(store) == ["opened", "withdrawn"]


async def test_what_is_past_its_expiry_is_dropped_for_all_guns(store: Store) -> None:
    await put(store, row())
    await put(store, row("b", gun="other"))
    await put(store, replace(row("c"), expires_at=AT + timedelta(days=20)))
    assert await store.expire_pending(AT + timedelta(days=13)) == []
    gone = await store.expire_pending(AT + timedelta(days=14))
    assert sorted((item.gun, item.proposal[0], item.action) for item in gone) == [
        ("other", "b", "expired"),
        (GUN, "a", "expired"),
    ]
    assert [item.id[0] for item in await store.pending(GUN)] == ["c"]
    assert await actions(store, "other") == ["opened", "expired"]


async def test_proposals_go_with_their_gun_and_the_audit_stays(store: Store) -> None:
    await commit(store, whole_set(1), on=None)
    await put(store, row())
    assert await store.delete(GUN)
    assert await store.pending(GUN) == []
    assert await actions(store) == ["opened", "dropped"]
    await put(store, row())  # of a GUN that doesn't exist
    assert await store.delete(GUN)
    assert await store.pending(GUN) == []


async def test_a_converted_gun_has_no_proposals_of_its_old_dialect(store: Store) -> None:
    await commit(store, whole_set(1), on=None)
    await put(store, row())
    await put(store, row(gun="other"))
    with pytest.raises(StoreCorruptionError):
        await store.commit(
            GUN,
            dialect="notary",
            expected_revision=1,
            added=whole_set(2),
            converts="notary",
            at=AT,
        )
    assert len(await store.pending(GUN)) == 1
    await store.commit(
        GUN, dialect="notary", expected_revision=1, added=whole_set(2), converts="tuf", at=AT
    )
    assert await store.pending(GUN) == []
    assert await actions(store) == ["opened", "dropped"]
    assert len(await store.pending("other")) == 1


async def test_the_audit_is_read_page_by_page_and_by_proposal(store: Store) -> None:
    for letter in "abc":
        await put(store, row(letter))
    newest = await store.audit(GUN, limit=2)
    assert [item.proposal[0] for item in newest] == ["c", "b"]
    rest = await store.audit(GUN, before=newest[-1].id, limit=2)
    assert [item.proposal[0] for item in rest] == ["a"]
    (one,) = await store.audit(GUN, proposal="b" * 64, limit=9)
    assert one.proposal == "b" * 64
    assert await store.audit(GUN, before=2**80, limit=0) == []
