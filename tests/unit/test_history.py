"""The judge of histories sees each broken promise, and none where none is broken."""

from __future__ import annotations

import dataclasses

import pytest

from history import Operation, Read, Write, judge

GUN = "g"


def read(began: float, ended: float, version: int, *paths: str) -> Read:
    versions = {"root": 1, "timestamp": version, "snapshot": version, "targets": version}
    hashes = {role: f"{role}{number}" for role, number in versions.items()}
    return Read(GUN, began, ended, versions, hashes, frozenset(paths))


def write(began: float, ended: float, version: int, path: str, outcome: str = "accepted") -> Write:
    return Write(GUN, began, ended, "targets", version, f"targets{version}", outcome, path)  # type: ignore[arg-type]


FINE: list[Operation] = [
    write(0, 1, 1, "a"),
    read(0, 1, 1, "a"),
    write(2, 5, 2, "b"),
    read(3, 4, 2, "a", "b"),  # while it is published both are right
    read(3, 4, 1, "a"),
    write(5, 6, 3, "c", "unknown"),
    read(7, 8, 2, "a", "b"),  # it was lost
    write(5, 6, 3, "d", "refused"),
]


def test_a_history_that_keeps_the_promises_is_fine() -> None:
    assert judge(FINE) == []


TORN = dataclasses.replace(read(9, 10, 2, "a", "b"), torn="3.snapshot.json isn't there")
BACK = read(5.5, 6, 2, "a", "b")
OTHER = dataclasses.replace(
    read(9, 10, 2, "a", "b"), hashes={**read(0, 0, 2).hashes, "snapshot": "other"}
)


@pytest.mark.parametrize(
    ("promise", "operation"),
    [
        (1, TORN),
        (2, read(9, 10, 2, "a")),  # b was accepted
        (2, read(6, 7, 1, "a", "b")),  # version 2 was
        (3, OTHER),
        (3, dataclasses.replace(write(9, 10, 2, "b"), sha256="other")),
        (4, dataclasses.replace(BACK, versions={**BACK.versions, "root": 0})),
    ],
)
def test_each_broken_promise_is_seen(promise: int, operation: Operation) -> None:
    assert promise in {found.promise for found in judge([*FINE, operation])}


def test_what_went_back_only_while_it_was_published_is_no_violation() -> None:
    assert judge([read(0, 3, 2), read(1, 4, 1)]) == []
    assert {found.promise for found in judge([read(0, 1, 2), read(2, 4, 1)])} == {4}
