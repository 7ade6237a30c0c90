from __future__ import annotations

import base64
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabellion.errors import ConfigurationError, KeyStoreError
from tabellion_server.keys.master import MasterKey

KEY = bytes(range(32))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "master.key"


def write(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    path.write_bytes(data)
    path.chmod(mode)


def same(one: MasterKey, other: MasterKey) -> bool:
    return other.open(one.seal(b"secret", context=b"c"), context=b"c") == b"secret"


@given(plain=st.binary(max_size=200), context=st.binary(max_size=50))
def test_what_was_sealed_opens_under_its_context(plain: bytes, context: bytes) -> None:
    master = MasterKey(KEY)
    assert master.open(master.seal(plain, context=context), context=context) == plain


def test_a_secret_sealed_twice_looks_different_and_shows_nothing() -> None:
    master = MasterKey(KEY)
    one, other = (master.seal(b"very secret", context=b"") for _ in range(2))
    assert one != other
    assert b"secret" not in one
    assert KEY.hex() not in repr(master)
    assert "0, 1" not in repr(vars(master))


def test_another_context_does_not_open_it() -> None:
    master = MasterKey(KEY)
    sealed = master.seal(b"secret", context=b"mine")
    with pytest.raises(KeyStoreError):
        master.open(sealed, context=b"yours")


def test_another_master_key_does_not_open_it() -> None:
    sealed = MasterKey.generate().seal(b"secret", context=b"")
    with pytest.raises(KeyStoreError, match="this master key") as caught:
        MasterKey.generate().open(sealed, context=b"")
    assert "master key file" in caught.value.hint


def test_no_altered_byte_goes_unnoticed() -> None:
    master = MasterKey(KEY)
    sealed = master.seal(b"secret", context=b"")
    for position in range(len(sealed)):
        altered = bytearray(sealed)
        altered[position] ^= 1
        with pytest.raises(KeyStoreError):
            master.open(bytes(altered), context=b"")
    for length in range(len(sealed)):
        with pytest.raises(KeyStoreError):
            master.open(sealed[:length], context=b"")


def test_a_missing_file_is_not_made_unless_asked_for(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="doesn't exist") as caught:
        MasterKey.load_or_create(path, create=False)
    assert "openssl rand" in caught.value.hint
    assert not path.exists()


def test_a_made_file_is_private_and_loads_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "master.key"
    made = MasterKey.load_or_create(path, create=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(base64.b64decode(path.read_bytes())) == 32
    assert list(path.parent.iterdir()) == [path]
    assert same(made, MasterKey.load_or_create(path, create=False))
    assert same(made, MasterKey.load_or_create(path, create=True))


def test_of_many_who_make_the_file_all_get_the_same_key(path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: MasterKey.load_or_create(path, create=True), range(16)))
    assert all(same(made[0], other) for other in made)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("text", [base64.b64encode(KEY), base64.b64encode(KEY) + b"\r\n"])
def test_a_key_written_by_other_tools_loads(path: Path, text: bytes) -> None:
    write(path, text)
    assert same(MasterKey(KEY), MasterKey.load_or_create(path, create=False))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        KEY,
        KEY.hex().encode(),
        base64.b64encode(KEY[:31]),
        base64.b64encode(KEY * 2),
        b"!" + base64.b64encode(KEY),
        base64.b64encode(KEY) * 500,
        b"\xff\xfe",
    ],
)
def test_anything_but_32_bytes_in_base64_is_refused_and_kept(path: Path, text: bytes) -> None:
    write(path, text)
    with pytest.raises(ConfigurationError, match="32 bytes"):
        MasterKey.load_or_create(path, create=True)
    assert path.read_bytes() == text


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o601, 0o620, 0o660, 0o777])
def test_a_file_that_others_may_use_is_refused(path: Path, mode: int) -> None:
    write(path, base64.b64encode(KEY), mode=mode)
    with pytest.raises(ConfigurationError, match=f"{mode:04o}") as caught:
        MasterKey.load_or_create(path, create=False)
    assert caught.value.hint == f"chmod 600 {path}"


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_its_owner_and_a_secret_mount_group_may_read_it(path: Path, mode: int) -> None:
    write(path, base64.b64encode(KEY), mode=mode)
    assert same(MasterKey(KEY), MasterKey.load_or_create(path, create=False))


def test_a_folder_a_pipe_or_a_file_as_folder_is_our_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "file").touch()
    for name in ("folder", "pipe", "file/master.key", "x" * 300, "nul\0"):
        with pytest.raises(ConfigurationError):
            MasterKey.load_or_create(tmp_path / name, create=True)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ConfigurationError, match=f"{length} bytes"):
        MasterKey(bytes(length))
