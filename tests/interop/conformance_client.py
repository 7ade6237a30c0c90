"""The conformance suite's client protocol on our updater: init, refresh, download."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sys
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from tuf.api.metadata import TargetFile

from tabellion.core.search import find_target
from tabellion.core.succession import verify_hashes
from tabellion.errors import DigestMismatchError, NotSignedError, TabellionError
from tabellion.transport.fetcher import HttpFetcher
from tabellion.verify.cache import MetadataCache
from tabellion.verify.updater import Updater


async def run(options: argparse.Namespace) -> None:
    cache = MetadataCache(options.metadata_dir)
    root = cache.load("root")
    if root is None:
        raise NotSignedError("no root.json: run init first")
    async with HttpFetcher() as fetcher:
        updater = Updater(
            options.metadata_url,
            gun=options.metadata_url,
            fetcher=fetcher,
            cache=cache,
            now=datetime.now(UTC),
        )
        trusted = await updater.start(root)
        await updater.update_roots(trusted)
        await updater.update_online(trusted)
        for name in options.target_name or []:
            match = await updater.search(trusted, find_target(trusted, name))
            if match is None:
                raise NotSignedError(f"nobody signed {name}")
            await download(fetcher, match.target, name, options)


async def download(
    fetcher: HttpFetcher, target: TargetFile, name: str, options: argparse.Namespace
) -> None:
    place = options.target_dir / quote(name, safe="")
    if place.exists() and is_signed(target, place.read_bytes()):
        return
    folder, slash, last = name.rpartition("/")
    prefix = next(iter(target.hashes.values()))
    url = f"{options.target_base_url.rstrip('/')}/{quote(folder + slash)}{prefix}.{quote(last)}"
    data = await fetcher.fetch(url, max_bytes=target.length)
    if len(data) != target.length:
        raise DigestMismatchError(f"{name} has {len(data)} bytes, {target.length} are signed")
    verify_hashes(name, data, target.hashes)
    place.write_bytes(data)


def is_signed(target: TargetFile, data: bytes) -> bool:
    return all(
        algorithm in {"sha256", "sha512"} and hashlib.new(algorithm, data).hexdigest() == value
        for algorithm, value in target.hashes.items()
    )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--metadata-url")
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--target-name", action="append")
    parser.add_argument("--target-dir", type=Path)
    parser.add_argument("--target-base-url")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    options = parser.parse_args()
    if options.command == "init":
        MetadataCache(options.metadata_dir).save("root", options.root.read_bytes())
        return 0
    if options.command == "refresh":
        options.target_name = None
    try:
        asyncio.run(run(options))
    except TabellionError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
