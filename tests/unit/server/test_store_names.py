"""What a store is called in messages: enough to tell two apart, and no password."""

from __future__ import annotations

import pytest

from tabellion_server.settings_storage import shown_url
from tabellion_server.storage.redis_address import parse_redis_url


@pytest.mark.parametrize(
    ("url", "name", "shown"),
    [
        ("redis://h:1/0", "h:1", "redis://h:1/0"),
        ("redis://u:secret@h:1/2?prefix=a", "h:1/2?prefix=a", "redis://u@h:1/2?prefix=a"),
        (
            "redis+cluster://:secret@h:1,i:2?prefix=b&timeout=5",
            "h:1,i:2?prefix=b (cluster)",
            "redis+cluster://h:1,i:2?prefix=b",
        ),
    ],
)
def test_stores_of_one_server_have_names_of_their_own(url: str, name: str, shown: str) -> None:
    assert parse_redis_url(url).name == name
    assert shown_url(url) == shown


def test_no_option_of_postgresql_is_told() -> None:
    url = "postgresql://u:secret@h/db?prefix=secret&password=secret"
    assert shown_url(url) == "postgresql://u@h/db"
