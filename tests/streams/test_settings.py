from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.errors import SettingsError
from streams.settings import DECLARED, Settings, environment_with, load


def refusal(flags: dict[str, object], environ: dict[str, str], config: Path | None = None) -> str:
    with pytest.raises(SettingsError) as raised:
        load(flags, environ, config)
    return str(raised.value)


def toml(path: Path, text: str) -> Path:
    file = path / "crm.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_without_any_source_the_defaults_hold() -> None:
    settings = load({}, {})
    assert settings == Settings()
    assert settings.broker == "kafka://127.0.0.1:9092"
    assert settings.web_host == "127.0.0.1"


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    file = toml(tmp_path, "web_port = 1\npartitions = 1\nsegments = 2\n")
    settings = load({"web_port": 3}, {"CRM_WEB_PORT": "2", "CRM_PARTITIONS": "2"}, file)
    assert (settings.web_port, settings.partitions, settings.segments) == (3, 2, 2)
    assert settings.chunk_records == Settings().chunk_records


def test_a_flag_that_was_not_given_does_not_count() -> None:
    assert load({"web_port": None}, {"CRM_WEB_PORT": "2"}).web_port == 2


def test_other_variables_are_left_alone() -> None:
    assert load({}, {"CRM_DATA": "/somewhere", "WEB_PORT": "abc"}) == Settings()


def test_each_type_is_read_from_the_environment() -> None:
    settings = load(
        {},
        {
            "CRM_DATA_DIR": "/var/lib/crm",
            "CRM_CHECKPOINT_SECONDS": "0.5",
            "CRM_EXCLUDE_BOUGHT": "no",
            "CRM_SEED": "7",
            "CRM_TLS_CA_FILE": "/ca.pem",
        },
    )
    assert settings.data_dir == Path("/var/lib/crm")
    assert settings.checkpoint_seconds == 0.5
    assert settings.exclude_bought is False
    assert settings.seed == 7
    assert settings.tls_ca_file == Path("/ca.pem")


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"CRM_WEB_PORT": "abc"}, "CRM_WEB_PORT=abc: must be a whole number"),
        ({"CRM_WEB_PORT": "65536"}, "CRM_WEB_PORT=65536: must be between 0 and 65535"),
        ({"CRM_CHECKPOINT_SECONDS": "x"}, "CRM_CHECKPOINT_SECONDS=x: must be a number"),
        ({"CRM_EXCLUDE_BOUGHT": "maybe"}, "CRM_EXCLUDE_BOUGHT=maybe: must be true or false"),
        (
            {"CRM_LOG_LEVEL": "loud"},
            "CRM_LOG_LEVEL=loud: must be one of debug, info, warning, error",
        ),
        ({"CRM_APP_ID": "a b"}, "CRM_APP_ID=a b: must be 1 to 64 letters"),
        ({"CRM_WEB_HOST": " "}, "CRM_WEB_HOST= : must not be empty"),
        ({"CRM_GUARANTEE": "at_most_once"}, "CRM_GUARANTEE=at_most_once: must be one of exactly"),
        (
            {"CRM_GUARANTEE": "exactly_once", "CRM_CHANGELOG": "false"},
            "guarantee=exactly_once: needs the changelog",
        ),
        ({"CRM_STANDBY": "1", "CRM_CHANGELOG": "no"}, "standby=1: needs the changelog"),
        ({"CRM_STANDBY": "2"}, "CRM_STANDBY=2: must be between 0 and 1"),
        (
            {"CRM_MAX_CUSTOMERS": "1000", "CRM_PARTITIONS": "2"},
            "max_customers=1000: must be at least partitions times chunk_records, 4000",
        ),
        ({"CRM_CHURN_ALERT_THRESHOLD": "nan"}, "CRM_CHURN_ALERT_THRESHOLD=nan: must be between 0"),
        ({"CRM_CHECKPOINT_SECONDS": "inf"}, "CRM_CHECKPOINT_SECONDS=inf: must be between 0.01"),
    ],
)
def test_a_bad_value_is_one_line_that_names_its_source(environ: dict[str, str], line: str) -> None:
    told = refusal({}, environ)
    assert told.startswith(line)
    assert "\n" not in told


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("web_prot = 1", "web_prot: there is no such setting"),
        ("web_port = '1'", "web_port=1: must be a whole number"),
        ("web_port = true", "web_port=True: must be a whole number"),
        ("web_port = 1.0", "web_port=1.0: must be a whole number"),
        ("exclude_bought = 1", "exclude_bought=1: must be true or false"),
        ("broker = ['a']", "broker=['a']: must be text"),
        ("[web]\nport = 1", "web: there is no such setting"),
        ("web_port = ", "is not TOML"),
    ],
)
def test_a_bad_line_of_the_file_is_named(tmp_path: Path, text: str, line: str) -> None:
    file = toml(tmp_path, text)
    assert refusal({}, {}, file).startswith(f"{file}: {line}")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "cannot be read" in refusal({}, {}, tmp_path / "none.toml")


def test_a_whole_number_will_do_for_a_number(tmp_path: Path) -> None:
    settings = load({}, {}, toml(tmp_path, "shutdown_seconds = 5\ndata_dir = 'here'"))
    assert settings.shutdown_seconds == 5.0
    assert isinstance(settings.shutdown_seconds, float)
    assert settings.data_dir == Path("here")


def test_a_bad_flag_is_named_as_the_flag() -> None:
    assert refusal({"web_port": -1}, {}).startswith("--web-port=-1: ")


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("kafka://127.0.0.1:9092", ["127.0.0.1:9092"]),
        ("kafka://a,b:1/", ["a:9092", "b:1"]),
        ("kafka://[::1]:9093", ["[::1]:9093"]),
        (
            "kafka://broker-1.example, broker-2.example:19092",
            ["broker-1.example:9092", "broker-2.example:19092"],
        ),
    ],
)
def test_broker_urls_become_addresses(url: str, servers: list[str]) -> None:
    assert Settings(broker=url).bootstrap_servers() == servers


NO_BROKER_URLS = """
127.0.0.1:9092
http://a:1
kafka://
kafka://a:0
kafka://a:70000
kafka://a:b
kafka://a,,b
kafka://user@a
"""


@pytest.mark.parametrize("url", ["", *NO_BROKER_URLS.split()])
def test_what_is_not_a_broker_url_is_refused(url: str) -> None:
    with pytest.raises(SettingsError):
        Settings(broker=url)


def test_a_secret_is_never_shown() -> None:
    settings = Settings(security_protocol="SASL_SSL", sasl_username="crm", sasl_password="geheim")
    assert "geheim" not in repr(settings)
    assert settings.client_security()["sasl_plain_password"] == "geheim"
    assert "geheim" not in refusal({"sasl_password": ["geheim"]}, {})


def test_sasl_needs_user_and_password() -> None:
    assert "sasl_username and sasl_password" in refusal({}, {"CRM_SECURITY_PROTOCOL": "SASL_SSL"})


def test_a_key_needs_its_certificate() -> None:
    assert refusal({}, {"CRM_TLS_KEY_FILE": "/key.pem"}).startswith("tls_key_file")


def test_tls_is_used_where_the_protocol_says_so() -> None:
    assert Settings().ssl_context() is None
    assert Settings().client_security() == {"security_protocol": "PLAINTEXT"}
    security = Settings(security_protocol="SSL").client_security()
    assert security["ssl_context"].check_hostname


@pytest.mark.parametrize("name", ["tls_ca_file", "tls_cert_file"])
def test_a_certificate_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "bad.pem").write_text("no certificate")
    for file in ("none.pem", "bad.pem"):
        values: dict[str, Any] = {name: tmp_path / file}
        settings = Settings(security_protocol="SSL", **values)
        with pytest.raises(SettingsError, match=name):
            settings.ssl_context()


def test_a_child_gets_the_settings_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRM_SEGMENTS", "3")
    monkeypatch.setenv("CRM_SEED", "3")
    wanted = {"seed": 4, "data_dir": Path("/here"), "exclude_bought": False, "web_port": 0}
    settings = load({}, environment_with(wanted))
    assert settings == Settings(
        segments=3, seed=4, data_dir=Path("/here"), exclude_bought=False, web_port=0
    )


@pytest.mark.parametrize("name", sorted(DECLARED))
def test_every_setting_has_a_line_of_help_and_a_good_default(name: str) -> None:
    about = DECLARED[name].about
    assert about.help.endswith(".")
    assert (about.low is None) == (about.high is None)
    if DECLARED[name].kind in (int, float):
        assert about.low is not None, "a number has a range"


@given(
    st.integers() | st.floats() | st.text() | st.booleans() | st.none() | st.lists(st.integers())
)
def test_whatever_is_given_is_taken_or_refused_in_one_line(value: object) -> None:
    for name in ("web_port", "checkpoint_seconds", "exclude_bought", "log_level", "seed"):
        try:
            settings = load({name: value}, {})
        except SettingsError as error:
            told: str | None = str(error)
        else:
            told = None
            taken = getattr(settings, name)
            assert taken == value or value is None
            assert type(taken) is DECLARED[name].kind
        assert told is None or told.startswith("--")
