"""A real server takes a conversion whole, or nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from http_site import Site
from notary_conversion import Conversion, published
from notary_gun import NOW, NotaryGun, target
from tabellion.core.dialect import NOTARY
from tabellion.core.notary_search import RELEASES


async def conversion_of(site: Site, gun: NotaryGun) -> Conversion:
    conversion = Conversion(gun)
    for role in ("snapshot", "timestamp"):
        conversion.root.revoke_key(conversion.root.roles[role].keyids[0], role)
        conversion.root.add_key(await site.key(role), role)
    return conversion


async def test_what_is_published_is_served_under_new_and_old_names(site: Site) -> None:
    gun = await published(site)
    conversion = await conversion_of(site, gun)
    files = conversion.files()
    answer = await site.post(files)
    assert answer.status == 200, await answer.text()
    versions = (await answer.json())["versions"]
    assert versions == dict.fromkeys(("root", "targets", "releases", "snapshot", "timestamp"), 2)
    for role in ("root", "targets", "releases"):
        assert await site.body(f"2.{role}.json") == files[role]
    assert await site.body("root.json") == files["root"]
    for role, data in gun.files.items():
        parsed = NOTARY.parse(role, data, max_bytes=10**6)
        assert await site.body(f"1.{role}.json") == data
        assert await site.body(f"{role}.{parsed.sha256}.json") == data
    assert (await site.get("targets/releases.json")).status == 404
    # Sent again after a lost answer it's what is served already.
    again = await site.post(files)
    assert (again.status, (await again.json())["unchanged"]) == (200, True)
    site.clock.now = NOW.replace(month=12, day=20)
    assert b'"version":3' in await site.body("timestamp.json")


REFUSED: Mapping[str, tuple[Callable[[dict[str, bytes]], object], int, str]] = {
    "a role is missing": (lambda files: files.pop("releases"), 422, "publication-refused"),
    "targets is missing": (lambda files: files.pop("targets"), 422, "publication-refused"),
    "a timestamp": (lambda files: files.update(timestamp=b"{}"), 422, "publication-refused"),
    "no JSON": (lambda files: files.update(releases=b"{"), 400, "malformed-metadata"),
    "another root": (lambda files: files.update({"root": files["targets"]}), 400, "notary-refusal"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_refused_conversion_changes_nothing(site: Site, case: str) -> None:
    gun = await published(site)
    files = (await conversion_of(site, gun)).files()
    change, status, code = REFUSED[case]
    change(files)
    before = await site.everything()
    answer = await site.post(files)
    assert (answer.status, (await answer.json())["code"]) == (status, code)
    assert await site.everything() == before


async def test_a_conversion_of_what_was_is_a_conflict(site: Site) -> None:
    gun = await published(site)
    files = (await conversion_of(site, gun)).files()
    gun.targets[RELEASES].version = 2
    gun.targets[RELEASES].targets["2.0"] = target()
    assert (await site.post({RELEASES: gun.sign(RELEASES)})).status == 200
    before = await site.everything()
    answer = await site.post(files)
    assert (answer.status, (await answer.json())["code"]) == (409, "version-conflict")
    assert await site.everything() == before
