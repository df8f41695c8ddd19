"""Every setting, declared once; the one reader of the environment.

A setting is a field of `Settings`: its default, its help text and its range stand together, and
the command line takes its options from here. Where a setting comes from, strongest first: a flag,
the environment (``CRM_WEB_PORT`` for `web_port`), the TOML file given with ``--config`` (flat keys
with the names of the fields), the default.
"""

import os
import re
import ssl
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from streams.declared import About, Declared, declare
from streams.errors import SettingsError

ENVIRONMENT_PREFIX = "CRM_"
BROKER_SCHEME = "kafka://"
DEFAULT_BROKER = "kafka://127.0.0.1:9092"
DEFAULT_APP_ID = "crm-streams"
DEFAULT_PORT = 9092

_SASL_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_SECURITY_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_MAX_CATEGORY_NAMES = 1_000
_LOG_LEVELS = ("debug", "info", "warning", "error")
_APP_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:/@\[\]]+)(:(?P<port>\d{1,5}))?")


def _addresses(url: str) -> list[str]:
    """Split a broker URL into addresses; an empty list where it is not one."""
    if not url.startswith(BROKER_SCHEME):
        return []
    addresses = []
    for part in url.removeprefix(BROKER_SCHEME).removesuffix("/").split(","):
        match = _ADDRESS.fullmatch(part.strip())
        if match is None or not 1 <= int(match["port"] or DEFAULT_PORT) <= 65_535:
            return []
        addresses.append(f"{match['host']}:{match['port'] or DEFAULT_PORT}")
    return addresses


def _complaint_about_broker(url: str) -> str | None:
    return None if _addresses(url) else "must look like kafka://host:port[,host:port]"


def _complaint_about_app_id(app_id: str) -> str | None:
    if _APP_ID.fullmatch(app_id):
        return None
    return "must be 1 to 64 letters, digits, dots, dashes and underscores"


def names_in(text: str | None) -> tuple[str, ...]:
    """Split names that are separated by commas.

    Examples
    --------
    >>> names_in("garden, office"), names_in(None)
    (('garden', 'office'), ())
    """
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def _complaint_about_names(text: str) -> str | None:
    if 1 <= len(names_in(text)) <= _MAX_CATEGORY_NAMES:
        return None
    return f"must be 1 to {_MAX_CATEGORY_NAMES} names, separated by commas"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a worker, a command and a test are told; immutable, checked when built.

    Raises
    ------
    SettingsError
        For a value of the wrong type, out of its range, or at odds with another.

    Examples
    --------
    >>> Settings(partitions=4).partitions
    4
    >>> Settings(web_port=99_999)
    Traceback (most recent call last):
    streams.errors.SettingsError: web_port=99999: must be between 0 and 65535
    """

    broker: Annotated[
        str,
        About(
            "Broker addresses: kafka://host:port[,host:port]; port 9092 if not given.",
            complaint=_complaint_about_broker,
        ),
    ] = DEFAULT_BROKER
    app_id: Annotated[
        str,
        About(
            "Name of the application: its consumer group and internal topics.",
            complaint=_complaint_about_app_id,
        ),
    ] = DEFAULT_APP_ID
    data_dir: Annotated[Path, About("Directory of the local state.")] = Path("data")
    web_host: Annotated[str, About("Address that the REST interface listens on.")] = "127.0.0.1"
    web_port: Annotated[
        int, About("Port of the REST interface; 0 takes a free one.", 0, 65_535)
    ] = 6066
    partitions: Annotated[int, About("Partitions of every customer-keyed topic.", 1, 1_024)] = 8
    guarantee: Annotated[
        str | None,
        About(
            "Delivery guarantee of outputs; if not given, the best that the broker offers.",
            choices=("exactly_once", "at_least_once"),
        ),
    ] = None
    changelog: Annotated[
        bool,
        About("Copy the state to the changelog topic; without it a lost disk is a lost state."),
    ] = True
    standby: Annotated[
        int, About("Workers that keep a warm copy of each partition's state on disk.", 0, 1)
    ] = 0
    checkpoint_seconds: Annotated[float, About("Seconds between checkpoints.", 0.01, 60)] = 0.2
    recommend_every_seconds: Annotated[
        float,
        About("A customer gets at most one recommendation list in this many seconds.", 0, 3_600),
    ] = 1.0
    list_length: Annotated[int, About("Items of a recommendation list.", 1, 100)] = 10
    list_share_while_behind: Annotated[
        float,
        About("Share of a worker's time for recommendation lists while it has a backlog.", 0, 1),
    ] = 0.02
    exclude_bought: Annotated[bool, About("Leave out what the customer has bought already.")] = True
    dismissed_days: Annotated[
        int, About("Days for which an item that a customer dismissed is left out.", 1, 3_650)
    ] = 90
    max_impressions: Annotated[
        int,
        About(
            "An item shown this often without a click or conversion is left out; 0: never.", 0, 255
        ),
    ] = 0
    impression_window_days: Annotated[
        int, About("Days, from the first impression on, that max_impressions counts in.", 1, 365)
    ] = 7
    exclude_seen: Annotated[
        bool, About("Leave out what the customer has looked at lately, too.")
    ] = False
    repeatable_categories: Annotated[
        str | None,
        About(
            "Categories of which nothing is left out for that, separated by commas.",
            complaint=_complaint_about_names,
        ),
    ] = None
    unrepeatable_categories: Annotated[
        str | None,
        About(
            "Categories of which what was bought is left out in any case, separated by commas.",
            complaint=_complaint_about_names,
        ),
    ] = None
    max_rules: Annotated[int, About("Business rules that a worker keeps.", 1, 10_000)] = 1_000
    policy_candidates: Annotated[
        int,
        About("Items of which rules, diversity and novelty make a list, if there are any.", 1, 500),
    ] = 40
    max_per_category: Annotated[
        int, About("Items of one category in a list; 0 sets no bound.", 0, 100)
    ] = 0
    diversity: Annotated[
        float, About("How much likeness within a list counts against an item; 0 is off.", 0, 1)
    ] = 0.0
    min_new_items: Annotated[
        int, About("Items of a list that are new, where there are some.", 0, 100)
    ] = 0
    new_item_events: Annotated[
        int, About("An item with fewer recent events than this is new.", 1, 1_000_000)
    ] = 10
    allowed_lateness_seconds: Annotated[
        int, About("How long windows wait for late events, in event time.", 0, 30 * 86_400)
    ] = 600
    max_customers: Annotated[
        int, About("Rows of customers that a worker keeps in memory.", 1_000, 100_000_000)
    ] = 1_000_000
    max_items: Annotated[int, About("Items that the models of a worker know.", 100, 10_000_000)] = (
        50_000
    )
    chunk_records: Annotated[int, About("Records of one batch, at most.", 1, 100_000)] = 2_000
    chunk_bytes: Annotated[int, About("Bytes of one batch, at most.", 1 << 10, 256 << 20)] = 4 << 20
    churn_horizon_days: Annotated[
        int, About("A customer who does nothing for this many days has churned.", 1, 3_650)
    ] = 90
    churn_alert_threshold: Annotated[
        float, About("Churn probability from which an alert is raised.", 0, 1)
    ] = 0.7
    churn_cooldown_days: Annotated[
        int, About("Days between two churn alerts for one customer.", 0, 3_650)
    ] = 30
    segments: Annotated[int, About("Customer segments to learn.", 2, 64)] = 6
    sweep_every_hours: Annotated[
        int, About("Hours of event time between two looks at every customer.", 1, 24 * 365)
    ] = 24
    session_gap_minutes: Annotated[
        int, About("A session ends after this many minutes without a click.", 1, 24 * 60)
    ] = 30
    models_sync_seconds: Annotated[
        float,
        About("Seconds between two exchanges of what the workers' models learned.", 0.1, 3_600),
    ] = 5.0
    models_save_seconds: Annotated[
        float, About("Seconds between two saves of the models.", 0.1, 3_600)
    ] = 15.0
    models_snapshot_seconds: Annotated[
        float,
        About("Seconds between two snapshots of the models for workers that join.", 1, 86_400),
    ] = 300.0
    session_timeout_seconds: Annotated[
        float, About("The group gives up a worker that is silent for this long.", 1, 1_800)
    ] = 10.0
    rebalance_timeout_seconds: Annotated[
        float, About("Time that workers have to hand over partitions.", 1, 3_600)
    ] = 60.0
    watchdog_seconds: Annotated[
        float,
        About("A worker with a backlog but no progress for this long ends itself.", 1, 86_400),
    ] = 60.0
    shutdown_seconds: Annotated[float, About("Deadline of an orderly shutdown.", 1, 3_600)] = 30.0
    seed: Annotated[int, About("Seed of every random draw.", 0, 2**63 - 1)] = 1
    log_level: Annotated[str, About("Least severity that is logged.", choices=_LOG_LEVELS)] = "info"
    security_protocol: Annotated[
        str, About("How to talk to the broker.", choices=_SECURITY_PROTOCOLS)
    ] = "PLAINTEXT"
    tls_ca_file: Annotated[
        Path | None, About("Certificates (PEM) to trust instead of the system's.")
    ] = None
    tls_cert_file: Annotated[Path | None, About("Client certificate (PEM).")] = None
    tls_key_file: Annotated[Path | None, About("Key of the client certificate (PEM).")] = None
    sasl_mechanism: Annotated[str, About("SASL mechanism.", choices=_SASL_MECHANISMS)] = "PLAIN"
    sasl_username: Annotated[str | None, About("SASL user.")] = None
    sasl_password: Annotated[str | None, About("SASL password.", secret=True)] = field(
        default=None, repr=False
    )

    def __post_init__(self) -> None:
        for name, declared in DECLARED.items():
            value = getattr(self, name)
            declared.check(value, declared.shown(name, value))
        if self.tls_key_file is not None and self.tls_cert_file is None:
            raise SettingsError("tls_key_file: needs tls_cert_file, the certificate it belongs to")
        for name, value in (("guarantee", "exactly_once"), ("standby", 1)):
            if getattr(self, name) == value and not self.changelog:
                raise SettingsError(f"{name}={value}: needs the changelog; do not switch it off")
        if self.max_customers < self.partitions * self.chunk_records:
            raise SettingsError(
                f"max_customers={self.max_customers}: must be at least partitions times "
                f"chunk_records, {self.partitions * self.chunk_records}, so that a batch finds room"
            )
        if self._uses_sasl and (self.sasl_username is None or self.sasl_password is None):
            raise SettingsError(
                f"security_protocol={self.security_protocol}: needs sasl_username and sasl_password"
            )

    @property
    def _uses_sasl(self) -> bool:
        return self.security_protocol.startswith("SASL")

    def bootstrap_servers(self) -> list[str]:
        """Return the broker's addresses as Kafka clients take them.

        Examples
        --------
        >>> Settings(broker="kafka://a:9092,b").bootstrap_servers()
        ['a:9092', 'b:9092']
        """
        return _addresses(self.broker)

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return the TLS context, or None where `security_protocol` is without TLS.

        Raises
        ------
        SettingsError
            Where a file cannot be read or does not hold what it should.
        """
        if not self.security_protocol.endswith("SSL"):
            return None
        try:
            context = ssl.create_default_context(cafile=self.tls_ca_file)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(f"tls_ca_file={self.tls_ca_file}: {error}") from error
        if self.tls_cert_file is not None:
            try:
                context.load_cert_chain(self.tls_cert_file, self.tls_key_file)
            except (OSError, ssl.SSLError) as error:
                raise SettingsError(f"tls_cert_file={self.tls_cert_file}: {error}") from error
        return context

    def client_security(self) -> dict[str, Any]:
        """Return the keyword arguments of every aiokafka client that say how to connect.

        Examples
        --------
        >>> Settings().client_security()
        {'security_protocol': 'PLAINTEXT'}
        """
        security: dict[str, Any] = {"security_protocol": self.security_protocol}
        context = self.ssl_context()
        if context is not None:
            security["ssl_context"] = context
        if self._uses_sasl:
            security["sasl_mechanism"] = self.sasl_mechanism
            security["sasl_plain_username"] = self.sasl_username
            security["sasl_plain_password"] = self.sasl_password
        return security


DECLARED: dict[str, Declared] = declare(Settings)
"""Every setting by name."""


def load(
    flags: Mapping[str, object], environ: Mapping[str, str], config: Path | None = None
) -> Settings:
    """Gather the settings: flags, then the environment, then the TOML file, then defaults.

    Parameters
    ----------
    flags
        Values by field name; None means that the flag was not given.
    environ
        The environment; only names with the prefix ``CRM_`` are read.
    config
        The TOML file.

    Raises
    ------
    SettingsError
        One line that names where the offending value came from.

    Examples
    --------
    >>> load({"web_port": None}, {"CRM_WEB_PORT": "7000"}).web_port
    7000
    >>> load({}, {"CRM_WEB_PORT": "abc"})
    Traceback (most recent call last):
    streams.errors.SettingsError: CRM_WEB_PORT=abc: must be a whole number
    """
    values: dict[str, Any] = {}
    if config is not None:
        for name, raw in _read_toml(config).items():
            if name not in DECLARED:
                raise SettingsError(f"{config}: {name}: there is no such setting")
            values[name] = DECLARED[name].take(raw, f"{config}: {name}")
    for name, declared in DECLARED.items():
        variable = ENVIRONMENT_PREFIX + name.upper()
        if variable in environ:
            values[name] = declared.parse(environ[variable], variable)
    for name, raw in flags.items():
        if raw is not None:
            values[name] = DECLARED[name].take(raw, "--" + name.replace("_", "-"))
    return Settings(**values)


def load_here(flags: Mapping[str, object], config: Path | None = None) -> Settings:
    """Gather the settings in this process's own environment; see `load`."""
    return load(flags, os.environ, config)


def environment_with(values: Mapping[str, object]) -> dict[str, str]:
    """Return this process's environment for a child that shall have other settings.

    Parameters
    ----------
    values
        Settings by field name.

    Examples
    --------
    >>> environment_with({"web_port": 7000})["CRM_WEB_PORT"]
    '7000'
    """
    ours = {ENVIRONMENT_PREFIX + name.upper(): str(value) for name, value in values.items()}
    assert DECLARED.keys() >= values.keys(), "only settings can be set"
    return {**os.environ, **ours}


def _read_toml(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: is not TOML: {error}") from error
