"""Questions for heads: whatever a look-up fails with, all who asked are told."""

from __future__ import annotations

import asyncio

import pytest

from tabellion_server.storage.head_questions import HeadQuestions
from tabellion_server.storage.interface import Head, StorageError, StoreCorruptionError


class Store:
    """Fails with an error for each GUN that is named ``bad``, and counts look-ups."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.looked: list[list[str]] = []

    async def look_up(self, guns: list[str]) -> dict[str, Head | None]:
        self.looked.append(guns)
        await asyncio.sleep(0)
        if "bad" in guns:
            raise self.error
        return dict.fromkeys(guns)


async def ask(questions: HeadQuestions, *guns: str) -> list[Head | BaseException | None]:
    async with asyncio.timeout(5):
        return await asyncio.gather(*map(questions.head, guns), return_exceptions=True)


async def test_an_error_that_nobody_thought_of_is_told_to_all_and_the_next_are_answered() -> None:
    error = AttributeError("no writer")
    store = Store(error)
    questions = HeadQuestions(store.look_up)
    first = asyncio.create_task(ask(questions, "bad"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    # Asked while the first look-up is under way, so they wait for the next.
    assert await ask(questions, "bad", "good") == [error, error]
    assert await first == [error]
    assert await ask(questions, "good") == [None]


async def test_a_store_that_is_away_is_not_asked_for_one_gun_after_the_other() -> None:
    store = Store(StorageError("away"))
    questions = HeadQuestions(store.look_up)
    found = await ask(questions, "bad", *map(str, range(50)))
    assert found == [store.error] * 51
    assert len(store.looked) <= 2


async def test_a_damaged_gun_is_not_in_the_way_of_others() -> None:
    store = Store(StoreCorruptionError("damaged"))
    questions = HeadQuestions(store.look_up)
    assert await ask(questions, "one", "bad", "two") == [None, store.error, None]


async def test_who_has_gone_is_in_nobodys_way() -> None:
    store = Store(StorageError("away"))
    questions = HeadQuestions(store.look_up)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await questions.head("bad")
    assert await ask(questions, "good") == [None]
