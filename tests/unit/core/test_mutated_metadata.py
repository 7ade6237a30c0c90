"""Whatever bytes come: the trusted set takes what is rightly signed, or refuses and stays."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge import NOW, resign
from mutations import (
    CHILD,
    FORGE,
    NEW,
    OLD,
    json_changes,
    mutated_bytes,
    naming,
    signed_again,
)
from tabellion.core import strict_json
from tabellion.core.dialect import TUF
from tabellion.core.publication import CurrentSet, UploadedFile
from tabellion.core.role_requests import RoleRequest
from tabellion.core.search import find_all, find_digest, find_target
from tabellion.core.transitions import judge_publication
from tabellion.core.trusted_set import TrustedSet
from tabellion.errors import MalformedMetadataError, PublicationError, VerificationError

KINDS = pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets", "alice"])
MANY = settings(max_examples=150, deadline=None)


def take(trusted: TrustedSet, role: str, data: bytes) -> object:
    match role:
        case "root":
            return trusted.update_root(data)
        case "timestamp":
            return trusted.update_timestamp(data)
        case "snapshot":
            return trusted.update_snapshot(data)
        case "targets":
            return trusted.update_targets(data)
        case _:
            return trusted.update_targets(data, role, "targets")


def before(role: str, files: dict[str, bytes]) -> TrustedSet:
    """Give a set that has read the old release, and of the new one all that comes first."""
    trusted = TrustedSet(OLD["root"], now=NOW)
    for name in ("timestamp", "snapshot", "targets", "alice"):
        take(trusted, name, OLD[name])
    for name in ("root", "timestamp", "snapshot", "targets"):
        if name == role:
            break
        take(trusted, name, files[name])
    return trusted


def state(trusted: TrustedSet) -> tuple[object, ...]:
    return trusted.root, trusted.timestamp, trusted.snapshot, dict(trusted._targets)


def refused_or_taken(trusted: TrustedSet, role: str, data: bytes) -> bool:
    known = state(trusted)
    try:
        take(trusted, role, data)
    except VerificationError:
        assert state(trusted) == known
        return False
    return True


@KINDS
@MANY
@given(data=st.data())
def test_mutated_bytes_raise_only_our_errors(role: str, data: st.DataObject) -> None:
    changed = data.draw(mutated_bytes(NEW[role]))
    if refused_or_taken(before(role, NEW), role, changed):
        parsed = TUF.parse(role, changed, max_bytes=99_999)
        assert parsed.signed_bytes == TUF.parse(role, NEW[role], max_bytes=99_999).signed_bytes


@KINDS
@MANY
@given(data=st.data())
def test_a_changed_document_is_refused_or_says_what_was_signed(
    role: str, data: st.DataObject
) -> None:
    document = json.loads(NEW[role])
    data.draw(json_changes())(document)
    changed = json.dumps(document).encode()
    if refused_or_taken(before(role, naming(role, changed)), role, changed):
        assert json.loads(changed)["signed"] == json.loads(NEW[role])["signed"]


@KINDS
@MANY
@given(data=st.data())
def test_what_a_hostile_signer_signs_is_taken_whole_or_refused(
    role: str, data: st.DataObject
) -> None:
    changed = signed_again(role, data.draw(json_changes()))
    files = naming(role, changed)
    trusted = before(role, files)
    if not refused_or_taken(trusted, role, changed):
        return
    searches: list[Callable[[], Generator[RoleRequest, None, object]]] = [
        lambda: find_target(trusted, "1.2"),
        lambda: find_target(trusted, "rel-1"),
        lambda: find_digest(trusted, CHILD),
        lambda: find_all(trusted),
    ]
    following = ["root", "timestamp", "snapshot", "targets"]
    for name in following[following.index(role) + 1 :] if role in following else ():
        if not refused_or_taken(trusted, name, files[name]):
            return
    for search in searches:
        try:
            for request in (steps := search()):
                take_request(trusted, request, files)
            steps.close()
        except VerificationError:
            continue


def take_request(trusted: TrustedSet, request: RoleRequest, files: dict[str, bytes]) -> None:
    trusted.targets_meta(request.role)
    trusted.update_targets(files.get(request.role, b"{}"), request.role, request.delegator)


@KINDS
@MANY
@given(data=st.data(), is_signed=st.booleans())
def test_a_hostile_upload_is_judged_or_refused(
    role: str, data: st.DataObject, *, is_signed: bool
) -> None:
    changed = (
        signed_again(role, data.draw(json_changes()))
        if is_signed
        else data.draw(mutated_bytes(NEW[role]))
    )
    current = CurrentSet.parse(OLD, TUF)
    for held in (current, None):
        files = {**(NEW if held is None else {}), role: changed}
        files.pop("timestamp", None)
        upload = [UploadedFile(name, content) for name, content in files.items()]
        try:
            judge_publication(held, upload, gun="a/b", online=FORGE.online(), now=NOW)
        except (PublicationError, VerificationError):
            continue


@pytest.mark.parametrize("name", [5, True])
@pytest.mark.parametrize("place", ["root's key", "delegated key", "delegated role"])
def test_a09_a14_names_of_keys_and_roles_are_text(place: str, name: object) -> None:
    def change(signed: dict[str, Any]) -> None:
        if place == "root's key":
            signed["roles"]["targets"]["keyids"].append(name)
        elif place == "delegated key":
            signed["delegations"]["roles"][0]["keyids"].append(name)
        else:
            signed["delegations"]["roles"][0]["name"] = name

    role = "root" if place == "root's key" else "targets"
    changed = resign(NEW[role], FORGE.signers[role], change)
    with pytest.raises(MalformedMetadataError):
        TUF.parse(role, changed, max_bytes=99_999)


def test_a19_hostile_escapes_take_linear_time() -> None:
    hostile = b'{"' + b'\\"' * 12_000
    begun = time.process_time()
    with pytest.raises(MalformedMetadataError):
        strict_json.parse(hostile, max_bytes=99_999, what="root")
    assert time.process_time() - begun < 0.3
