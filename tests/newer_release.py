"""The release after this one: ``newer_release.py VERB --config FILE``, with one more migration.

It isn't harmless to do twice, and tables that have had it let this release's statements through.
"""

from __future__ import annotations

from tabellion_server.storage import postgres, postgres_schema

NEXT = (
    "ALTER TABLE tabellion.heads ADD COLUMN note text NOT NULL DEFAULT ''",
    "UPDATE tabellion.heads SET note = 'migrated ' || revision",
)
MIGRATIONS = (*postgres_schema.MIGRATIONS, NEXT)

if __name__ == "__main__":
    from tabellion_server.cli import main

    postgres_schema.MIGRATIONS = MIGRATIONS  # type: ignore[misc]
    postgres_schema.VERSION = postgres.VERSION = len(MIGRATIONS)  # type: ignore[misc]
    main()
