"""Every setting of Vitalcast, in one frozen class: from flags, VITALCAST_* variables and a TOML file, in that order."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource
from pydantic_settings import SettingsError as UnreadableVariableError

from model.manifest import DEFAULT_ARTIFACT, ArtifactError, read_manifest
from schemas.signals import VITALS_BY_NAME
from stream_worker.limits import AlertLimits, Seconds, completed

DEFAULT_CONFIG: Final = Path("vitalcast.toml")
ENV_PREFIX: Final = "VITALCAST_"
ENV_NESTED: Final = "__"
# What Kubernetes sets for Services called vitalcast or vitalcast-something, and what tests and benchmarks read.
_NOT_OURS: Final = re.compile(r"VITALCAST_((\w+_)?SERVICE_(HOST|PORT)(_\w+)?|(\w+_)?PORT(_\d+_\w+)?|(TEST|BENCH)_\w+)")

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
TopicName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")]  # what Kafka takes


# As long as no guessing over a network can be expected to find it, if chosen at random.
MIN_TOKEN_LENGTH: Final = 16
REDACTED: Final = "***"
_SECRET: Final = frozenset({"sasl_username", "view_token"})
LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class SettingsError(Exception):
    """A setting that cannot be used; the message is one line for the user."""


class Settings(BaseSettings):
    """Defaults suit adult intensive care with one reading a second to one in five minutes."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=ENV_NESTED,
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,  # `vitalcast settings` shows them
    )

    bootstrap_servers: str = "127.0.0.1:9092"
    """Kafka brokers as HOST:PORT, separated by commas."""
    app_id: str = Field("vitalcast", pattern=r"^[A-Za-z0-9._-]{1,200}$")
    """Consumer group, and prefix of the state's topic. Workers with the same app_id share the partitions."""
    readings_topic: TopicName = "vitals.readings"
    """What you send. The worker writes to the three below."""
    forecasts_topic: TopicName = "vitals.forecasts"
    alerts_topic: TopicName = "vitals.alerts"
    dead_letters_topic: TopicName = "vitals.dead-letters"
    security_protocol: SecurityProtocol = "PLAINTEXT"
    """PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."""
    ssl_cafile: Path | None = None
    """CA certificates (PEM) that the brokers' certificates are checked against."""
    ssl_certfile: Path | None = None
    """This client's certificate, if the brokers ask for one."""
    ssl_keyfile: Path | None = None
    """The key of ssl_certfile, unencrypted."""
    sasl_mechanism: SaslMechanism | None = None
    """PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512."""
    sasl_username: str | None = None
    """The user to connect as."""
    sasl_password_file: Path | None = None
    """A file that contains the password and nothing else."""
    delivery: Literal["exactly_once", "at_least_once"] = "exactly_once"
    """at_least_once: without transactions, so a crash repeats outputs."""
    session_timeout_s: Seconds = Field(10.0, ge=1)
    """Others take over from a worker that is silent for so long. Kafka's default of 45 s is too long for an ICU."""
    instance_id: str | None = Field(None, pattern=r"^[A-Za-z0-9._-]{1,200}$")
    """A worker's own name, kept over restarts, so that it rejoins at once instead of when its session has expired."""
    rebalance_within_s: Seconds = Field(120.0, gt=0)
    """A rebalance that takes longer ends the worker. Kafka gives a group 60 s to meet; the last chunks have 20 s."""
    chunk_records: int = Field(8192, ge=1, le=65_536)
    """Most records handed over at once. Only a backlog fills a chunk, which then takes a quarter of a second."""

    model: Path = DEFAULT_ARTIFACT
    """Folder of the model artifact. SIGHUP reads it again."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs; auto: on a GPU if there is one."""
    shadow_model: Path | None = None
    """A second artifact that sees the same readings and is scored beside the first, but never published."""
    emit: Literal["reading", "step"] = "reading"
    """A forecast for each accepted reading, or only for those that close a step."""
    calibration: Literal["adaptive", "none"] = "adaptive"
    """Whether each stay's bands learn from their own past errors, or stay as the model gives them."""

    grace_s: Seconds = Field(10.0, ge=0)
    """A step closes this long after its end, by the stay's own clock; readings after that are late. At most a step."""
    stale_after_s: Seconds = Field(900.0, gt=0)
    """A stay without a reading for this long is silent: the alert no_data."""
    reset_after_s: Seconds = Field(21_600.0, gt=0)
    """After a gap of this length a stay begins anew; its alert limits stay."""
    evict_after_s: Seconds = Field(86_400.0, gt=0)
    """A stay without a reading for this long is forgotten."""
    max_future_s: Seconds = Field(300.0, ge=0)
    """A reading may be observed this far ahead of the clock."""
    heartbeat_s: Seconds = Field(10.0, ge=1)  # timers run once a second
    """How often each partition's heartbeat is written to the alerts topic."""
    min_observed_steps: int = Field(30, ge=1)
    """Forecasts are `warming_up` until this many steps of the window have a value. Lower it if readings are rarer."""

    max_message_bytes: int = Field(65_536, ge=256)
    """A larger record becomes a dead letter."""
    dead_letter_limit: float = Field(0.99, gt=0, le=1)
    """The worker ends when this share of a partition's last 10,000 records are dead letters, late ones aside."""
    dead_letter_payload: bool = False
    """Whether dead letters contain the record itself, patient data included."""

    alert_budget_per_patient_day: float = Field(20.0, ge=0, allow_inf_nan=False)
    """If more alerts are raised, announcements and anomalies become rarer (docs/alerts.md); 0: no budget."""
    news2: bool = False
    """Also alert on the NEWS2 score. In intensive care most patients have 5 points or more most of the time."""
    limits: Annotated[dict[str, AlertLimits], AfterValidator(completed)] = Field({}, validate_default=True)
    """Alert limits by care unit ("default" for all others), then by signal; what is not given keeps its default."""

    http_host: str = "127.0.0.1"
    """Address of metrics and health."""
    http_port: int = Field(9464, ge=0, le=65_535)
    """Port of metrics and health; 0: any free one."""

    view_host: str = "127.0.0.1"
    """Address of the live page. It shows patient data: for other machines, set a token and put TLS in front."""
    view_port: int = Field(8765, ge=0, le=65_535)
    """Port of the live page; 0: any free one."""
    view_token: SecretStr | None = Field(None, min_length=MIN_TOKEN_LENGTH)
    """What viewers enter to see the live page."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Messages of this level and above are logged."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """auto: readable text in a terminal, otherwise one JSON object a line."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.stale_after_s >= self.reset_after_s or self.reset_after_s > self.evict_after_s:
            raise ValueError("stale_after_s < reset_after_s <= evict_after_s must hold")
        topics = (self.readings_topic, *self.output_topics, self.changelog_topic)
        if len(set(topics)) < len(topics):
            raise ValueError("each topic needs a name of its own: what is written to one is not to be read as another")
        return self

    @model_validator(mode="after")
    def _check_connection(self) -> Self:
        uses_tls = self.security_protocol.endswith("SSL")
        tls = {"ssl_cafile": self.ssl_cafile, "ssl_certfile": self.ssl_certfile, "ssl_keyfile": self.ssl_keyfile}
        if not uses_tls and (given := [name for name, value in tls.items() if value]):
            raise ValueError(f"{', '.join(given)} without security_protocol SSL or SASL_SSL would not be used")
        if uses_tls and self.ssl_cafile is None:
            raise ValueError(f"security_protocol {self.security_protocol} needs ssl_cafile")
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise ValueError("ssl_certfile and ssl_keyfile go together")
        sasl = {
            "sasl_mechanism": self.sasl_mechanism,
            "sasl_username": self.sasl_username,
            "sasl_password_file": self.sasl_password_file,
        }
        uses_sasl = self.security_protocol.startswith("SASL")
        if uses_sasl and (missing := [name for name, value in sasl.items() if not value]):
            raise ValueError(f"security_protocol {self.security_protocol} needs {', '.join(missing)}")
        if not uses_sasl and (given := [name for name, value in sasl.items() if value]):
            raise ValueError(f"{', '.join(given)} without a SASL security_protocol would not be used")
        for name, path in {**tls, "sasl_password_file": self.sasl_password_file}.items():
            if path is not None and not path.is_file():
                raise ValueError(f"{name}: no such file")
        return self

    @property
    def changelog_topic(self) -> str:
        """Where Faust keeps the table's state."""
        return f"{self.app_id}-stays-changelog"

    @property
    def output_topics(self) -> tuple[str, str, str]:
        """The topics the worker writes besides its state."""
        return self.forecasts_topic, self.alerts_topic, self.dead_letters_topic

    def sasl_password(self) -> SecretStr | None:
        """The password in sasl_password_file, without the newline an editor leaves.

        Raises: SettingsError if the file cannot be read.
        """
        if self.sasl_password_file is None:
            return None
        try:
            return SecretStr(self.sasl_password_file.read_text(encoding="utf-8").rstrip("\r\n"))
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"sasl_password_file: cannot be read ({type(error).__name__})") from error

    def redacted(self) -> dict[str, Any]:
        """All settings as plain values, for logs and `vitalcast settings`; who connects is REDACTED."""
        plain = self.model_dump(mode="json")
        return {name: REDACTED if name in _SECRET and value else value for name, value in plain.items()}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags first, then the environment; the TOML file is added by `load_settings`."""
        return init_settings, env_settings


def load_settings(config: Path | None = None, **flags: Any) -> Settings:
    """Settings from `flags` (None = not given), the environment, and the TOML file `config` (default: vitalcast.toml).

    Raises: SettingsError with one line that names the setting; ArtifactError if limits need a model nobody can read.
    """
    path = config or DEFAULT_CONFIG
    if config is not None and not path.is_file():
        raise SettingsError(f"settings file {path}: no such file")

    class WithFile(Settings):
        @classmethod
        def settings_customise_sources(cls, settings_cls: type[BaseSettings], *args: Any, **kw: Any) -> Any:
            chain = super().settings_customise_sources(settings_cls, *args, **kw)
            return (*chain, TomlConfigSettingsSource(settings_cls, toml_file=path))

    try:
        values = WithFile(**{name: value for name, value in flags.items() if value is not None})
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"settings file {path}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path}: cannot be read ({type(error).__name__})") from error
    except ValidationError as error:
        raise SettingsError(_told(error)) from error
    except UnreadableVariableError as error:
        found = re.search(r'field "(\w+)"', str(error))
        raise SettingsError(f"the variable {_variable(found[1] if found else '*')} must be JSON") from error
    _check_limited_signals(values)
    return Settings.model_construct(values.model_fields_set, **dict(values))


def _check_limited_signals(settings: Settings) -> None:
    """Raises: SettingsError if there are limits of what is neither a vital sign nor known to the model.

    ArtifactError if there are such, and the model cannot be read: that may pass.
    """
    limited = {signal for limits in settings.limits.values() for signal in limits.root}
    if limited <= VITALS_BY_NAME.keys():
        return
    try:
        known = {signal.name for signal in read_manifest(settings.model).inputs}
    except ArtifactError as error:
        raise ArtifactError(f"limits of what is no vital sign: {error}") from error
    if unknown := sorted(limited - VITALS_BY_NAME.keys() - known):
        raise SettingsError(f"limits: neither vital signs nor inputs of the model: {', '.join(unknown)}")


def _told(error: ValidationError) -> str:
    """The first fault in one line, with the setting's name and without its value."""
    first = error.errors(include_input=False, include_url=False)[0]
    name = ".".join(map(str, first["loc"])) or "settings"
    match first["type"]:
        case "extra_forbidden":
            return f"{name}: no such setting" + ("" if len(first["loc"]) > 1 else _guess(name))
        case "too_short":
            return f"{name}: must have at least {first['ctx']['min_length']} characters"
    return f"{name}: {first['msg'].removeprefix('Value error, ')}"


def _variable(setting: str) -> str:
    return ENV_PREFIX + setting.upper()


def _guess(name: str, write: Callable[[str], str] = str) -> str:
    """What may be meant by a setting that does not exist, in the words of `write`; nothing if nothing is near."""
    near = get_close_matches(name, Settings.model_fields, 1)
    return f"; is it {write(near[0])}?" if near else ""


def doubtful_variables(names: Iterable[str]) -> list[str]:
    """One line for each variable of the environment that looks like ours and does nothing, or less than it seems."""
    told = []
    for name in sorted(name for name in names if name.startswith(ENV_PREFIX)):
        setting, _, below = name.removeprefix(ENV_PREFIX).lower().partition(ENV_NESTED)
        if setting not in Settings.model_fields:
            if not _NOT_OURS.fullmatch(name):
                told.append(f"{name}: no such setting" + _guess(setting, _variable))
        elif setting == "limits" and below and (unit := below.partition(ENV_NESTED)[0]) != "default":
            told.append(f"{name}: holds for a care unit {unit!r} in lower case; others need the settings file")
    return told
