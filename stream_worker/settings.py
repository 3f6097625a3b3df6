"""Every setting of Vitalcast, in one frozen class: from flags, VITALCAST_* variables and a TOML file, in that order."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from model.manifest import DEFAULT_ARTIFACT
from stream_worker.limits import AlertLimits, completed

DEFAULT_CONFIG: Final = Path("vitalcast.toml")

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


# As long as no guessing over a network can be expected to find it, if chosen at random.
MIN_TOKEN_LENGTH: Final = 16
REDACTED: Final = "***"
_SECRET: Final = frozenset({"sasl_username", "view_token"})
LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class SettingsError(Exception):
    """A setting that cannot be used; the message is one line for the user."""


class Settings(BaseSettings):
    """Defaults hold for adult intensive care with one reading a second to one in five minutes."""

    model_config = SettingsConfigDict(env_prefix="VITALCAST_", env_nested_delimiter="__", frozen=True, extra="forbid")

    # Kafka
    bootstrap_servers: str = "127.0.0.1:9092"
    app_id: str = Field("vitalcast", pattern=r"^[A-Za-z0-9._-]{1,200}$")
    readings_topic: str = "vitals.readings"
    forecasts_topic: str = "vitals.forecasts"
    alerts_topic: str = "vitals.alerts"
    dead_letters_topic: str = "vitals.dead-letters"
    security_protocol: SecurityProtocol = "PLAINTEXT"
    ssl_cafile: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    sasl_mechanism: SaslMechanism | None = None
    sasl_username: str | None = None
    sasl_password_file: Path | None = None
    delivery: Literal["exactly_once", "at_least_once"] = "exactly_once"
    # Kafka's own default is 45 s; an ICU should not wait that long for another worker to take over.
    session_timeout_s: float = Field(10.0, ge=1)
    # A name of its own, kept over restarts, lets a worker rejoin at once instead of after its session's end.
    instance_id: str | None = Field(None, pattern=r"^[A-Za-z0-9._-]{1,200}$")
    # Kafka gives the members of a group 60 s to meet, and the last chunks have 20 s; reading the state is not counted.
    rebalance_within_s: float = Field(120.0, gt=0)
    # Records handed over at once, at most: only a backlog fills a chunk, which then takes a quarter of a second.
    chunk_records: int = Field(8192, ge=1, le=65_536)

    # Model
    model: Path = DEFAULT_ARTIFACT
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # A second artifact that sees the same readings and is scored beside the first, but never published.
    shadow_model: Path | None = None
    emit: Literal["reading", "step"] = "reading"
    # Whether each stay's bands learn from their own past errors, or stay as the model gives them.
    calibration: Literal["adaptive", "none"] = "adaptive"

    # Time, in seconds
    grace_s: float = Field(10.0, ge=0)
    stale_after_s: float = Field(900.0, gt=0)
    reset_after_s: float = Field(21_600.0, gt=0)
    evict_after_s: float = Field(86_400.0, gt=0)
    max_future_s: float = Field(300.0, ge=0)
    heartbeat_s: float = Field(10.0, gt=0)
    min_observed_steps: int = Field(30, ge=1)

    # Bad input
    max_message_bytes: int = Field(65_536, ge=256)
    dead_letter_limit: float = Field(0.99, gt=0, le=1)
    dead_letter_payload: bool = False

    # Alerts
    # What is raised beyond it makes the kinds that only advise rarer (docs/alerts.md); 0: no budget.
    alert_budget_per_patient_day: float = Field(20.0, ge=0)
    # Alerts of the NEWS2 score too. Off: in intensive care most patients have 5 points or more most of the time.
    news2: bool = False
    # Limits by care unit ("default" for all others), then by signal; what is not given is as by default.
    limits: Annotated[dict[str, AlertLimits], AfterValidator(completed)] = Field({}, validate_default=True)

    # HTTP
    http_host: str = "127.0.0.1"
    http_port: int = Field(9464, ge=0, le=65_535)

    # The live page: patient data, so for others than this machine it needs a token, and TLS in front of it.
    view_host: str = "127.0.0.1"
    view_port: int = Field(8765, ge=0, le=65_535)
    view_token: SecretStr | None = Field(None, min_length=MIN_TOKEN_LENGTH)

    # Logs
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["auto", "json", "console"] = "auto"

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.stale_after_s >= self.reset_after_s or self.reset_after_s > self.evict_after_s:
            raise ValueError("stale_after_s < reset_after_s <= evict_after_s must hold")
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

    Raises: SettingsError with one line that names the setting.
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
        first = error.errors(include_input=False, include_url=False)[0]
        name = ".".join(map(str, first["loc"])) or "settings"
        raise SettingsError(f"{name}: {first['msg'].removeprefix('Value error, ')}") from error
    return Settings.model_construct(**dict(values))
