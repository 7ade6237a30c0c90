"""Two releases and hostile variants of their files, for property tests."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from forge import Forge, resign, target
from tabellion.core.dialect import TUF
from tabellion.core.names import Digest
from tabellion.errors import MalformedMetadataError

CHILD = Digest.of(b"child")
PIECES = st.one_of(
    st.binary(max_size=6),
    st.sampled_from(
        [b"null", b"true", b"-1", b"1.0", b"1e999", b"9" * 30, b"-0", b"NaN", b"-Infinity"]
    ),
    st.sampled_from([b"[]", b"{}", b'"', b"\\", b"\\ud800", b"\\u0000", b"\xed\xa0\x80", b"\xff"]),
    st.sampled_from([b"[" * 2000, b'{"":' * 40, b"\xef\xbb\xbf", b",", b":", b"\n", b"\x00"]),
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 2, 2**31, 2**63 - 1, 2**63, 10**40, 1.5, float("nan")]),
    st.text(max_size=4),
    st.sampled_from(
        ["", "*", "..", "root", "targets", "a" * 300, "\x00", "\ud800", "é", "/", "[a"]
    ),
    st.sampled_from([[], {}, [[]], [None], {"": None}, {"keyid": 1}, {"version": True}, ["*"] * 3]),
)


@st.composite
def mutated_bytes(draw: st.DrawFn, original: bytes) -> bytes:
    """Change a file's bytes in up to three places."""
    data = bytearray(original)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["flip", "splice", "member", "front", "cut"])):
            case "flip" if place < len(data):
                data[place] ^= 1 << draw(st.integers(0, 7))
            case "splice":
                data[place : place + draw(st.integers(0, 12))] = draw(PIECES)
            case "member":  # the first member of some object, twice
                start = data.find(b"{", place)
                end = data.find(b",", start)
                if 0 <= start < end:
                    data[start + 1 : start + 1] = data[start + 1 : end + 1]
            case "front":
                data[0:0] = draw(PIECES)
            case "cut":
                del data[place:]
    return bytes(data)


@st.composite
def json_changes(draw: st.DrawFn) -> Callable[[Any], None]:
    """Draw a change of a JSON document: a value replaced, removed, renamed or repeated."""
    steps = draw(st.lists(st.integers(0, 40), min_size=1, max_size=6))
    kind = draw(st.sampled_from(["replace", "remove", "rename", "add", "repeat"]))
    value = draw(VALUES)
    name = draw(
        st.text(max_size=3) | st.sampled_from(["version", "targets.json", "root", "custom"])
    )

    def change(document: Any) -> None:
        place, key = _descend(document, steps)
        if key is None:
            return
        if kind == "remove":
            del place[key]
        elif kind == "rename" and isinstance(place, dict):
            place[name] = place.pop(key)
        elif kind == "add" and isinstance(place, dict):
            place[name] = copy.deepcopy(value)
        elif kind == "repeat" and isinstance(place, list):
            place.append(copy.deepcopy(place[key]))
        else:
            place[key] = copy.deepcopy(value)

    return change


def _descend(document: Any, steps: list[int]) -> tuple[Any, Any]:
    """Follow the steps as far as there is a way; give the last container and a key in it."""
    place, key = document, None
    for number, step in enumerate(steps):
        inner = place[key] if key is not None else place
        if not isinstance(inner, dict | list) or not inner:
            break
        place = inner
        key = sorted(place)[step % len(place)] if isinstance(place, dict) else step % len(place)
        if number == len(steps) - 1:
            break
    return place, key


def two_releases() -> tuple[Forge, dict[str, bytes], dict[str, bytes]]:
    forge = Forge()
    index = target(b"index", "multi")
    child = {"digest": str(CHILD), "platform": "linux/arm64", "length": 5}
    index.unrecognized_fields["custom"] = {"manifests": [child]}
    forge.targets.targets = {"1.2": target(b"image"), "multi": index}
    forge.delegate("alice", ["rel-*"])
    forge.delegated["alice"].targets["rel-1"] = target(b"alice's", "rel-1")
    old = forge.release()
    for payload in (forge.root, forge.targets, forge.delegated["alice"]):
        payload.version += 1
    return forge, old, forge.release()


FORGE, OLD, NEW = two_releases()


def naming(role: str, data: bytes) -> dict[str, bytes]:
    """Give the new release with ``data`` in a role's place, named by its version alone."""
    files = NEW | {role: data}
    parents = {"snapshot": ["timestamp"], "root": [], "timestamp": []}
    named = role
    for parent in parents.get(role, ["snapshot", "timestamp"]):
        try:
            version = json.loads(files[named])["signed"]["version"]
        except (ValueError, KeyError, TypeError, RecursionError):
            version = None
        meta = {"version": version if type(version) is int and 0 < version < 2**62 else 2}

        def name(signed: dict[str, Any], named: str = named, meta: Any = meta) -> None:
            signed["meta"][f"{named}.json"] = meta

        files[parent] = resign(NEW[parent], FORGE.signers[parent], name)
        named = parent
    return files


def signed_again(role: str, change: Callable[[Any], None]) -> bytes:
    """Let the rightful holder of the keys sign a changed payload, if it can be signed at all."""
    payload = json.loads(NEW[role])["signed"]
    change(payload)
    bare = json.dumps({"signed": payload, "signatures": []}).encode()
    try:
        return TUF.add_signature(bare, FORGE.signers[role])
    except MalformedMetadataError:
        return bare
