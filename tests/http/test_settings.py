from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from tabellion.errors import ConfigurationError
from tabellion_server.settings import Address, Settings, load_settings
from tabellion_server.storage.opening import check_files
from tabellion_server.storage.password_file import read_password

SHIPPED = Path(__file__).parents[2] / "config" / "server.toml"


def write(folder: Path, text: str) -> Path:
    path = folder / "server.toml"
    path.write_text(text)
    return path


def test_the_shipped_configuration_is_the_defaults() -> None:
    shipped, default = load_settings(SHIPPED, {}), Settings()
    for name in Settings.__dataclass_fields__:
        if name not in {"sqlite_path", "master_key_file", "high_water_file"}:
            assert getattr(shipped, name) == getattr(default, name), name
    assert shipped.sqlite_path == SHIPPED.parent / "tabellion.db"


def test_paths_are_relative_to_the_file_and_durations_read(tmp_path: Path) -> None:
    text = '[storage]\nurl="sqlite:///a.db"\n[keys]\nmaster_key_file="m"\n[expiry]\ntimestamp="90s"'
    settings = load_settings(write(tmp_path, text), {})
    assert settings.sqlite_path == tmp_path / "a.db"
    assert settings.master_key_file == tmp_path / "m"
    assert settings.timestamp_life == timedelta(seconds=90)


def test_a_variable_overrides_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, '[server]\nlisten = "127.0.0.1:1"\n')
    environ = {"TABELLION_SERVER__LISTEN": "[::1]:2,localhost:3", "TABELLION_SERVER": "http://x"}
    settings = load_settings(path, environ)
    assert settings.listen == (Address("::1", 2), Address("localhost", 3))
    assert settings.is_loopback_only


def test_guns_and_ages_of_caches_are_read_from_file_and_variables(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '[notary]\ngun_prefixes = ["registry.example/team/"]\nmax_age_current = "0s"\n'
        'max_age_consistent = "365d"\n',
    )
    settings = load_settings(path, {})
    assert settings.gun_prefixes == ("registry.example/team/",)
    assert settings.notary_max_age_current == timedelta(0)
    assert settings.notary_max_age_consistent == timedelta(days=365)
    environ = {"TABELLION_NOTARY__GUN_PREFIXES": "a/,b/c/"}
    assert load_settings(path, environ).gun_prefixes == ("a/", "b/c/")


def test_all_faults_are_told_at_once_with_line_and_key(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '[server]\nlisten = "nowhere"\ncolour = 1\n[storage]\nurl = "mysql://x"\n'
        '[expiry]\ntimestamp = "2x"\n[zoo]\ncat = 1\n[server.tls]\nkey = "none.pem"\n',
    )
    with pytest.raises(ConfigurationError) as caught:
        load_settings(path, {"TABELLION_EXPIRY__SNAPSHOT": "soon"})
    text = caught.value.message
    for part in (
        f"{path}:2: server.listen: ",
        f"{path}:3: server.colour: there is no such key",
        f"{path}:5: storage.url: ",
        f"{path}:7: expiry.timestamp: ",
        f"{path}:9: zoo.cat: ",
        f"{path}:11: server.tls.key: ",
        f"{path}:11: server.tls.key: give certificate and key",
        "TABELLION_EXPIRY__SNAPSHOT: expiry.snapshot: ",
    ):
        assert part in text, text


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('[server]\nhttp_addr = ":4443"', "2: server.http_addr: .*server.listen"),
        ('[server]\nlisten = ":4443"', "2: server.listen: .*write 0.0.0.0:4443"),
        ('[storage]\ndb_url = "x"', "2: storage.db_url: .*storage.url"),
        ('[trust_service]\ntype = "remote"', "2: trust_service.type: .*no signer process"),
        ('[repositories]\ngun_prefixes = ["a/"]', "2: repositories.gun_prefixes: .*notary.gun_pre"),
        ("[caching.max_age]\ncurrent_metadata = 3", "current_metadata: .*notary.max_age_current"),
        ('[auth.options]\nrealm = "x"', "2: auth.options.realm: .*in .auth. itself"),
        ("[notary]\nmax_age_current = 300", '2: notary.max_age_current: .*"300s"'),
        ("[expiry]\nsnapshot = 30", '2: expiry.snapshot: .*"30s"'),
        ('[auth]\nservice = ""', "2: auth.service: it's empty"),
        ('{\n  "server": {"http_addr": ":4443"}\n}', "not TOML: .*it is JSON.*MIGRATING"),
    ],
)
def test_what_notary_calls_otherwise_is_told_by_our_name(
    tmp_path: Path, text: str, fault: str
) -> None:
    with pytest.raises(ConfigurationError, match=fault):
        load_settings(write(tmp_path, text), {})


def test_a_server_is_open_to_all_only_if_its_operator_says_so(tmp_path: Path) -> None:
    listen = '[server]\nlisten = "0.0.0.0:1"\n'
    with pytest.raises(ConfigurationError, match="say who may write"):
        load_settings(write(tmp_path, listen), {})
    settings = load_settings(write(tmp_path, f'{listen}[auth]\ntype = "none"\n'), {})
    assert settings.is_open
    assert settings.auth is None
    assert not load_settings(write(tmp_path, ""), {}).is_open
    for more in ('[auth]\ntype = "none"\nservice = "x"\n', '[auth]\ntype = "None"\n'):
        with pytest.raises(ConfigurationError, match=r"auth\."):
            load_settings(write(tmp_path, listen + more), {})
    (tmp_path / "t").write_text("x" * 32)
    (tmp_path / "t").chmod(0o600)
    token = f'{listen}write_token_file = "t"\n[auth]\ntype = "none"\n'
    with pytest.raises(ConfigurationError, match="give one of the two"):
        load_settings(write(tmp_path, token), {})


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("[zoo]\n", ["1: zoo: there is no such section"]),
        ("\n[server.zoo]\n", ["2: server.zoo: there is no such section"]),
        ("a = 1\nserver.b = 2\n", ["1: a: ", "2: server.b: "]),
        ('[[server]]\nlisten = "x"\n', ["1: server: "]),
        ("\n[server]\n'zoo' = 1\n\"cat\" = 1\n", ["3: server.zoo: ", "4: server.cat: "]),
        ('\n[ server . "tls" ]\nkey="x"', ["3: server.tls.key: ", "3: server.tls.key: "]),
        ('[server]\ntls.key = "x"\n', ["2: server.tls.key: ", "2: server.tls.key: "]),
        ('[server]\r\nzoo = "\u2028"\r\ncat = 1\r\n', ["2: server.zoo: ", "3: server.cat: "]),
        (
            "[server]\nmax_body_bytes = true\nshutdown_seconds = -1\nworkers = 1" + "0" * 99,
            ["2: server.max_body_bytes: ", "3: server.shutdown_seconds: ", "4: server.workers: "],
        ),
        (
            '[server]\nlog_format = "xml"\nlog_level = "loud"\nworkers = 65\n',
            ["2: server.log_format: ", "3: server.log_level: ", "4: server.workers: "],
        ),
        (
            '[server]\nlisten = ["[::1]:1",\n"::1:1"]\nlog_level = 5\nlog_format = ""\n',
            ["2: server.listen: ", "4: server.log_level: ", "5: server.log_format: "],
        ),
        (
            (
                '[server]\nlisten = "0.0.0.0:1"\nwrite_token_file = "a\\u0000"\n[server.tls]\n'
                'certificate = "a\\u0000"\nkey = "x"\n'
            ),
            ["3: server.write_token_file: ", "5: server.tls.certificate: ", "6: server.tls.key: "],
        ),
        ("[server]\nlisten = []\n", ["2: server.listen: "]),
        ('[server]\nlisten = "localhost:70000"\n', ["2: server.listen: "]),
        (
            (
                '[server]\nwrite_token_file = "a\\u0000"\n[keys]\nmaster_key_file = "~nobody-/x"\n'
                '[storage]\nurl = "sqlite:///a\\u0000"\n'
            ),
            ["2: server.write_token_file: ", "4: keys.master_key_file: ", "6: storage.url: "],
        ),
        ('[server]\nwrite_token_file = "/"\n', ["2: server.write_token_file: "]),
        (
            '[expiry]\ntimestamp = "0s"\nsnapshot = "99999d"\n[notary]\ntimestamp = "1w"\n',
            ["2: expiry.timestamp: ", "3: expiry.snapshot: ", "5: notary.timestamp: "],
        ),
        ('[expiry]\ntimestamp = "2d"\nsnapshot = "1d"\n', ["2: expiry.timestamp: "]),
        ('[expiry]\nwarn = "6d"\n', ["2: expiry.warn: "]),
        ('[expiry]\nwarn = "2d"\ncritical = "3d"\n', ["3: expiry.critical: "]),
        (
            '[notary]\nmax_age_current = "366d"\nmax_age_consistent = 0\ngun_prefixes = ["a"]\n',
            [
                "2: notary.max_age_current: ",
                "3: notary.max_age_consistent: ",
                "4: notary.gun_prefixes: ",
            ],
        ),
        ('[notary]\ngun_prefixes = ["/a/"]\n', ["2: notary.gun_prefixes: "]),
        ('[notary]\ngun_prefixes = ["a/", "../b/"]\n', ["2: notary.gun_prefixes: "]),
        ("[notary]\ngun_prefixes = [1]\n", ["2: notary.gun_prefixes: "]),
        ('[notary]\ntimestamp = "2d"\nsnapshot = "1d"\n', ["2: notary.timestamp: "]),
    ],
    ids=map(str, range(23)),
)
def test_each_fault_has_its_line_and_key(tmp_path: Path, text: str, faults: list[str]) -> None:
    path = tmp_path / "server.toml"
    path.write_text(text, newline="")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(path, {})
    told = sorted(caught.value.message.split("\n"))
    assert len(told) == len(faults), told
    for line, fault in zip(told, faults, strict=True):
        assert line.startswith(f"{path}:{fault}"), told
    assert caught.value.hint


def test_faults_are_told_in_the_order_of_their_lines(tmp_path: Path) -> None:
    text = (
        '[server]\nworkers = 65\nclient_seconds = 0\n[storage]\nurl = "x"\n[zoo]\n[expiry]\n'
        'timestamp = "2d"\nsnapshot = "1d"\n[notary]\nsnapshot = "60"\n'
    )
    path = write(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(path, {"TABELLION_SERVER__LOG_LEVEL": "loud"})
    told = caught.value.message.split("\n")
    places = [line.removeprefix(f"{path}:").split(":")[0] for line in told]
    assert places == ["2", "3", "5", "6", "8", "11", "TABELLION_SERVER__LOG_LEVEL"], told
    assert 'its unit: "60s" for seconds' in told[5]


@pytest.mark.parametrize(
    ("url", "key", "told"),
    [
        (
            "sqlite:///a.db",
            "replicas = 1",
            "for Redis or Valkey, but storage.url is sqlite://; mend one",
        ),
        ("sqlite:///a.db", 'durability = "always"', "for Redis or Valkey"),
        ("sqlite:///a.db", 'ca_file = "ca.pem"', "for Redis or Valkey"),
        ("sqlite:///a.db", 'password_file = "p"', "for PostgreSQL, Redis or Valkey"),
        ("sqlite:///a.db", 'sentinel_password_file = "p"', "for Redis or Valkey"),
        ("sqlite:///a.db", "connections = 20", "for PostgreSQL, Redis or Valkey"),
        (
            "sqlite:///a.db",
            "prepared_statements = false",
            "for PostgreSQL, but storage.url is sqlite",
        ),
        ("postgresql://h/db", "replicas = 1", "for Redis or Valkey, but storage.url is postgres"),
        (
            "postgres://h/db",
            'ca_file = "ca.pem"',
            "for Redis or Valkey, but storage.url is postgres",
        ),
        (
            "rediss://h",
            "prepared_statements = false",
            "for PostgreSQL, but storage.url is rediss://",
        ),
        ("redis://h", 'ca_file = "ca.pem"', "for TLS: write rediss://"),
        ("valkey+cluster://h", 'ca_file = "ca.pem"', "for TLS"),
        ("redis://h", 'sentinel_password_file = "p"', "for redis.sentinel://"),
    ],
)
def test_what_the_stores_engine_would_ignore_is_refused(
    tmp_path: Path, url: str, key: str, told: str
) -> None:
    path = write(tmp_path, f'[storage]\nurl = "{url}"\n{key}\n')
    name = key.split(maxsplit=1)[0]
    with pytest.raises(ConfigurationError, match=rf":3: storage.{name}: it's {told}"):
        load_settings(path, {})


@pytest.mark.parametrize(
    ("url", "keys"),
    [
        ("sqlite:///a.db", "connections = 10\nprepared_statements = true"),
        ("postgresql://h/db", 'connections = 20\nprepared_statements = false\npassword_file="p"'),
        ("valkeys+cluster://h", 'ca_file = "c"\nreplicas = 1\ndurability = "none"'),
        ("rediss+sentinel://h/s", 'ca_file = "c"\nsentinel_password_file = "p"'),
    ],
)
def test_what_the_stores_engine_uses_is_taken(tmp_path: Path, url: str, keys: str) -> None:
    assert load_settings(write(tmp_path, f'[storage]\nurl = "{url}"\n{keys}\n'), {})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("sslmod=verify-full", "there's no option 'sslmod'; is it sslmode?"),
        ("sslmode=verify-full&statement_timeout=5", "no option 'statement_timeout'"),
        ("sslmode=verify_full", "sslmode is one of disable, .*verify-full"),
        ("sslmode", "NAME=VALUE"),
    ],
)
def test_an_option_that_postgresql_would_not_know_is_refused(
    tmp_path: Path, options: str, told: str
) -> None:
    path = write(tmp_path, f'[storage]\nurl = "postgresql://u:geheim@h/db?{options}"\n')
    with pytest.raises(ConfigurationError, match=f":2: storage.url: .*{told}") as caught:
        load_settings(path, {})
    assert "geheim" not in caught.value.message


def test_what_is_no_file_is_no_password_file_and_nobody_is_told_to_change_its_mode() -> None:
    with pytest.raises(ConfigurationError, match="others may read it") as caught:
        read_password(Path("/dev/null"))
    assert caught.value.hint == "give a file that holds the password alone"


def test_a_certificate_is_verified_by_a_ca_that_is_there_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PGSSLROOTCERT", raising=False)
    ca = tmp_path / "ca.pem"
    url = "postgresql://h/db?sslmode="
    for more, told in (("", "names no CA"), (f"&sslrootcert={ca}", f"there is no file {ca}")):
        settings = load_settings(
            write(tmp_path, f'[storage]\nurl = "{url}verify-full{more}"\n'), {}
        )
        with pytest.raises(ConfigurationError, match=told) as caught:
            check_files(settings)
        assert "sslrootcert=FILE" in caught.value.hint
    ca.touch()
    check_files(settings)
    monkeypatch.setenv("PGSSLROOTCERT", str(ca))
    for mode in ("verify-ca", "verify-full", "require"):
        check_files(load_settings(write(tmp_path, f'[storage]\nurl = "{url}{mode}"\n'), {}))


def test_other_machines_may_only_reach_a_server_that_says_who_may_write(tmp_path: Path) -> None:
    path = write(tmp_path, '[server]\nlisten = "0.0.0.0:4443"\n')
    with pytest.raises(ConfigurationError, match="write_token_file"):
        load_settings(path, {})
    token = tmp_path / "token"
    token.write_text("x" * 32)
    environ = {"TABELLION_SERVER__WRITE_TOKEN_FILE": str(token)}
    token.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        load_settings(path, environ)
    token.chmod(0o600)
    settings = load_settings(path, environ)
    assert settings.write_token == "x" * 32
    assert "xxx" not in repr(settings)


@pytest.mark.parametrize(
    "text", ["[server", "server = 1", "listen = 1", "\x00", "a=" + "[" * 9999, "a=" + "1" * 9999]
)
def test_a_broken_file_is_one_clear_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError):
        load_settings(write(tmp_path, text), {})
    with pytest.raises(ConfigurationError, match="can't be read"):
        load_settings(tmp_path / "none.toml", {})


def test_every_address_and_every_unknown_variable_is_a_fault(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('[server]\nlisten = ["127.0.0.1:99999", "host:x", 5, "localhost:1"]\n')
    environ = {"TABELLION_BOGUS__X": "1", "TABELLION_CLIENT__ENGINE": "docker", "OTHER__X": "1"}
    with pytest.raises(ConfigurationError) as caught:
        load_settings(file, environ)
    for part in ("'127.0.0.1:99999'", "'host:x'", "a text in quotes", "TABELLION_BOGUS__X"):
        assert part in caught.value.message
    assert "localhost" not in caught.value.message
    assert "CLIENT" not in caught.value.message


@pytest.mark.parametrize(
    "url", ["mysql://u:geheim@h/db", "geheim", "sqlite:///", "sqlite://geheim", "://geheim", "//"]
)
def test_an_address_of_no_engine_is_refused_and_not_repeated(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"2: storage.url: .*sqlite:///") as caught:
        load_settings(write(tmp_path, f'[storage]\nurl = "{url}"\n'), {})
    assert "geheim" not in caught.value.message


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:geheim/x@h/db",
        "postgresql://u:geheim#x@h/db",
        "postgresql://u:12/geheim@h/db",
        "postgresql://u:geheim@h",
        "postgresql://u:geheim@h/db/more",
        "postgresql://u:geheim@h:port/db",
        "postgres://u:geheim@[::1/db",
    ],
)
def test_a_database_address_that_cannot_be_read_is_refused_and_not_repeated(
    tmp_path: Path, url: str
) -> None:
    with pytest.raises(ConfigurationError, match=r"2: storage.url: ") as caught:
        load_settings(write(tmp_path, f'[storage]\nurl = "{url}"\n'), {})
    assert "geheim" not in caught.value.message


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://u:geheim@h:5432/db?sslmode=verify-full", "postgresql://u@h:5432/db"),
        ("postgres://h1:1,[::1]:2/db?password=geheim", "postgres://h1:1,[::1]:2/db"),
        ("postgresql:///db?host=/run/postgresql", "postgresql:///db"),
        ("postgresql://u%40x:ge%2Fheim@h/db", "postgresql://u%40x@h/db"),
    ],
)
def test_a_database_address_is_told_without_its_password(
    tmp_path: Path, url: str, name: str
) -> None:
    text = f'[storage]\nurl = "{url}"\npassword_file = "secret"\nconnections = 3\n'
    settings = load_settings(write(tmp_path, text), {})
    assert settings.store_name == name
    assert settings.sqlite_path is None
    assert settings.storage_password_file == tmp_path / "secret"
    assert "heim" not in repr(settings)
    with pytest.raises(ConfigurationError, match=r"2: storage.connections: "):
        load_settings(write(tmp_path, "[storage]\nconnections = 2\n"), {})
