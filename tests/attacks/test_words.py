"""Whoever proposes something is an enemy: what a holder is told is what he'd sign, all of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey
from tuf.api.metadata import DelegatedRole, Delegations, Root, TargetFile, Targets

from anchorage import anchor, entry, print_of
from forge import Forge, target
from tabellion.core.dialect import TUF
from tabellion.core.holders import set_holders
from tabellion.core.proposal import Proposal
from tabellion.core.publication import UploadedFile
from tabellion.publish.words import changes_in_words, standing_in_words

GUN = "registry.example/team/app"


@pytest.fixture
def forge() -> Forge:
    made = Forge()
    made.targets.targets["1.2"] = target(b"one")
    made.delegate("alice", ["a/*"])
    made.release()
    return made


def told(
    forge: Forge | None, *files: Root | Targets, names: dict[str, str] | None = None
) -> list[str]:
    """Say what a proposal changes that follows a GUN, or founds it."""
    upload = [
        UploadedFile("root" if isinstance(item, Root) else "targets", TUF.sign(item, []))
        for item in files
    ]
    current = forge.current() if forge is not None else None
    return changes_in_words(Proposal.parse(GUN, TUF, upload), current, names=names or {})


def next_targets(forge: Forge, change: Callable[[Targets], object]) -> Targets:
    payload = copy.deepcopy(forge.targets)
    payload.version += 1
    change(payload)
    return payload


def delegations(payload: Targets) -> dict[str, DelegatedRole]:
    assert payload.delegations is not None
    assert payload.delegations.roles is not None
    return payload.delegations.roles


def calling_itself(signer: Signer, keyid: str) -> Key:
    """Give a key under an id that isn't its own."""
    key = signer.public_key
    return SSlibKey(keyid, key.keytype, key.scheme, dict(key.keyval))


def test_a_key_that_takes_another_ones_id_is_not_told_as_that_one(forge: Forge) -> None:
    eve, carol = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
    carols = carol.public_key.keyid
    for keyid in (carols, carols[:16] + "0" * 48):
        root = copy.deepcopy(forge.root)
        root.add_key(calling_itself(eve, keyid), "root")
        set_holders(root, {keyid: "Carol"})
        (line,) = [line for line in told(None, root) if "Carol" in line]
        assert line == (
            f"root: root gets key {print_of(eve)}, which calls itself {carols[:16]}, (Carol)"
        )
        payload = Targets()
        payload.delegations = Delegations({}, {})
        delegations(payload)["carol"] = DelegatedRole(
            "carol", [], 1, terminating=False, paths=["c/*"]
        )
        payload.add_key(calling_itself(eve, keyid), "carol")
        (line,) = [line for line in told(None, root, payload) if "let carol sign" in line]
        assert f"{print_of(eve)}, which calls itself {carols[:16]}" in line


def test_a_signature_by_a_key_under_another_ones_id_is_not_told_as_his(forge: Forge) -> None:
    eve, carol = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
    root = copy.deepcopy(forge.root)
    root.add_key(calling_itself(eve, carol.public_key.keyid), "root")
    eve.public_key.keyid = carol.public_key.keyid
    proposal = Proposal.parse(GUN, TUF, [UploadedFile("root", TUF.sign(root, [eve]))])
    (standing,) = proposal.standings(None)
    line = standing_in_words(standing, names={})
    assert f"1 of 1 signed ({print_of(eve)[:16]}, which calls itself" in line


def test_a_key_with_more_in_it_under_an_id_that_some_compute_is_its_own(forge: Forge) -> None:
    signer = CryptoSigner.generate_ed25519()
    key = signer.public_key
    rich = SSlibKey(key.keyid, key.keytype, key.scheme, dict(key.keyval), {"x-owner": "Ann"})
    root = copy.deepcopy(forge.root)
    root.add_key(rich, "root")
    assert f"root: root gets key {key.keyid}" in told(None, root)


def test_what_is_known_here_of_a_key_is_told_beside_what_the_file_says(forge: Forge) -> None:
    eve = CryptoSigner.generate_ed25519()
    root = copy.deepcopy(forge.root)
    root.version += 1
    root.add_key(eve.public_key, "root")
    set_holders(root, {eve.public_key.keyid: "Carol"})
    (line,) = [
        line for line in told(forge, root, names={print_of(eve): "Eve"}) if "gets key" in line
    ]
    assert line.endswith("(Carol; here it's Eve)")


def test_a_key_that_is_named_but_not_held_is_told_as_lost(forge: Forge) -> None:
    (keyid,) = forge.root.roles["root"].keyids
    root = copy.deepcopy(forge.root)
    root.version += 1
    root.add_key(CryptoSigner.generate_ed25519().public_key, "root")
    del root.keys[keyid]
    lines = told(forge, root)
    assert f"root: root loses key {keyid[:16]}" in lines


def test_a_key_that_comes_to_a_role_which_named_it_already_is_told(forge: Forge) -> None:
    late = CryptoSigner.generate_ed25519()
    forge.root.roles["root"].keyids.append(late.public_key.keyid)
    delegations(forge.targets)["alice"].keyids.append(late.public_key.keyid)
    forge.release()
    root = copy.deepcopy(forge.root)
    root.version += 1
    root.keys[late.public_key.keyid] = late.public_key
    assert f"root: root gets key {late.public_key.keyid}" in told(forge, root)
    payload = next_targets(forge, lambda new: new.add_key(late.public_key, "alice"))
    assert any("let alice sign" in line for line in told(forge, payload))


def test_an_anchor_is_told_with_the_keys_it_allows(forge: Forge) -> None:
    ann, eve = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
    good = anchor("registry.example/**", ann)
    forge.targets.targets[good.pattern.path] = entry(good)
    forge.release()
    bad = anchor("registry.example/**", eve)
    payload = next_targets(forge, lambda new: new.targets.update({bad.pattern.path: entry(bad)}))
    (line,) = [line for line in told(forge, payload) if "sign " in line]
    now, was = line.split("(was")
    assert print_of(eve) in now
    assert '"threshold": 1' in now
    assert '"registry.example/**"' in now
    assert print_of(ann) in was


def with_custom(content: Any) -> TargetFile:
    made = target(b"one")
    made.unrecognized_fields["custom"] = content
    return made


def test_what_is_signed_beside_a_target_is_told(forge: Forge) -> None:
    payload = next_targets(
        forge, lambda new: new.targets.update({"1.2": with_custom({"platform": "linux/arm64"})})
    )
    (line,) = [line for line in told(forge, payload) if "sign " in line]
    assert '"linux/arm64"' in line


def test_what_is_too_long_to_be_told_is_not_left_out_silently(forge: Forge) -> None:
    payload = next_targets(
        forge, lambda new: new.targets.update({"1.2": with_custom({"a": "x" * 5000, "z": "evil"})})
    )
    (line,) = [line for line in told(forge, payload) if "sign " in line]
    assert "characters, see the file" in line
    assert len(line) < 2000


def test_a_tag_that_moves_is_told_with_what_it_was(forge: Forge) -> None:
    payload = next_targets(forge, lambda new: new.targets.update({"1.2": target(b"two")}))
    (line,) = [line for line in told(forge, payload) if "sign " in line]
    assert line.endswith(f"(was sha256:{target(b'one').hashes['sha256']} of 3 bytes)")


def test_every_hash_of_a_target_is_told(forge: Forge) -> None:
    made = target(b"one")
    made.hashes["sha512"] = "0" * 128
    payload = next_targets(forge, lambda new: new.targets.update({"1.2": made}))
    assert any(f"sha512:{'0' * 128}" in line for line in told(forge, payload))


def test_that_nobody_else_is_asked_is_told(forge: Forge) -> None:
    def end(new: Targets) -> None:
        delegations(new)["alice"].terminating = True

    lines = told(forge, next_targets(forge, end))
    assert "targets: ask nobody after alice for what alice may sign" in lines


def test_a_signer_who_goes_before_others_is_told_so(forge: Forge) -> None:
    def squeeze_in(new: Targets) -> None:
        roles = delegations(new)
        held = dict(roles)
        roles.clear()
        roles["eve"] = DelegatedRole("eve", [], 1, terminating=False, paths=["a/*"])
        roles.update(held)
        new.add_key(CryptoSigner.generate_ed25519().public_key, "eve")

    lines = told(forge, next_targets(forge, squeeze_in))
    assert "targets: ask eve before alice" in lines


def test_the_expiry_of_targets_is_told(forge: Forge) -> None:
    def for_ever(new: Targets) -> None:
        new.expires = new.expires.replace(year=9999)

    lines = told(forge, next_targets(forge, for_ever))
    assert lines == [
        f"targets: nothing but version 2, expires 9999-11-24 (was {forge.targets.expires:%Y-%m-%d})"
    ]
    payload = next_targets(forge, lambda new: new.targets.clear())
    payload.expires += timedelta(days=36500)
    assert any("version 2, expires 212" in line for line in told(forge, payload))


NASTY = [
    "x\nroot: nothing but version and expiry",
    "x\r\x1b[2Kroot: all is well",
    "x\u2028root: y",
    "x\u202eyx",
    "bob sign b/* with 1 of the keys 0123456789abcdef",
]


@pytest.mark.parametrize("name", NASTY)
def test_no_name_makes_a_line_or_words_of_its_own(forge: Forge, name: str) -> None:
    def spoil(new: Targets) -> None:
        new.targets[name] = with_custom({name: name})
        new.unrecognized_fields[name] = name
        roles = delegations(new)
        roles[name] = DelegatedRole(
            name, [], 1, terminating=False, paths=[name], unrecognized_fields={name: name}
        )
        new.add_key(CryptoSigner.generate_ed25519().public_key, name)

    root = copy.deepcopy(forge.root)
    root.version += 1
    root.unrecognized_fields[name] = name
    for line in told(forge, root, next_targets(forge, spoil)):
        assert line.isprintable()
        assert line.startswith(("root: ", "targets: "))
        assert f"let {name}" not in line
        assert f"sign {name} " not in line
        assert f": {name} becomes" not in line


def test_a_holders_name_does_not_read_like_more_of_the_words(forge: Forge) -> None:
    eve = CryptoSigner.generate_ed25519()
    root = copy.deepcopy(forge.root)
    root.version += 1
    root.add_key(eve.public_key, "root")
    set_holders(root, {eve.public_key.keyid: "Bob), 2 of 2 signed (Ann"})
    (line,) = [line for line in told(forge, root) if "gets key" in line]
    assert line.endswith('("Bob), 2 of 2 signed (Ann")')


def test_what_a_root_changes_is_told_last(forge: Forge) -> None:
    """A thousand tags before it scroll away; what is told last is seen."""

    def sign_many(payload: Targets) -> None:
        payload.targets.update({f"t{i}": target(b"one") for i in range(1000)})

    root = copy.deepcopy(forge.root)
    root.version += 1
    root.roles["targets"].threshold = 1
    lines = told(forge, root, next_targets(forge, sign_many))
    first = next(i for i, line in enumerate(lines) if line.startswith("root: "))
    assert first > 1000
    assert all(line.startswith("root: ") for line in lines[first:])
