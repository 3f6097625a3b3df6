"""How each Kafka client connects: one set of TLS and SASL settings, two dialects."""

from __future__ import annotations

import socket
import ssl
from typing import Any, Final

from stream_worker.settings import Settings, SettingsError

CONNECT_WITHIN_S: Final = 5.0


class BrokerUnreachableError(Exception):
    """No broker answers at the configured address; the message is one line for the user."""


def ssl_context(settings: Settings) -> ssl.SSLContext | None:
    """The TLS context, with hostname checks; None without TLS.

    Raises: SettingsError if a certificate or key cannot be used.
    """
    if not settings.security_protocol.endswith("SSL"):
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ssl_cafile)
        if settings.ssl_certfile and settings.ssl_keyfile:
            # A word, if an empty one: for that of an encrypted key OpenSSL would ask the terminal, each time, and wait.
            context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, password="")
    except (ssl.SSLError, OSError) as error:
        raise SettingsError(
            f"ssl_cafile, ssl_certfile or ssl_keyfile cannot be used ({type(error).__name__})"
        ) from error
    return context


def _sasl(settings: Settings) -> dict[str, Any]:
    password = settings.sasl_password()
    if password is None:
        return {}
    return {
        "sasl_mechanism": settings.sasl_mechanism,
        "sasl_plain_username": settings.sasl_username,
        "sasl_plain_password": password.get_secret_value(),
    }


def aiokafka_config(settings: Settings) -> dict[str, Any]:
    """Keyword arguments of an aiokafka client."""
    return {
        "bootstrap_servers": settings.bootstrap_servers,
        "security_protocol": settings.security_protocol,
        "ssl_context": ssl_context(settings),
        **_sasl(settings),
    }


def kafka_python_config(settings: Settings) -> dict[str, Any]:
    """Keyword arguments of a kafka-python client."""
    config = aiokafka_config(settings)
    config["bootstrap_servers"] = settings.bootstrap_servers.split(",")
    return config


def check_broker(settings: Settings) -> None:
    """Return once one of the bootstrap servers accepts a connection, and TLS with it where that is set.

    Raises: BrokerUnreachableError; SettingsError if an address is not HOST:PORT.
    """
    context = ssl_context(settings)
    for server in settings.bootstrap_servers.split(","):
        host, _, port = server.strip().rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
            raise SettingsError(f"bootstrap_servers: {server!r} is not HOST:PORT")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), CONNECT_WITHIN_S) as connection:
                if context is not None:
                    context.wrap_socket(connection, server_hostname=host.strip("[]")).close()
        except ssl.SSLCertVerificationError as error:
            # The clients would only say that they could not connect.
            raise BrokerUnreachableError(f"{server}: its certificate is refused: {error.verify_message}") from error
        except ssl.SSLError as error:
            raise BrokerUnreachableError(f"{server} does not answer in TLS as security_protocol has it") from error
        except UnicodeError as error:  # no name that there could be
            raise SettingsError(f"bootstrap_servers: {server!r} is not HOST:PORT") from error
        except OSError:
            continue
        return
    raise BrokerUnreachableError(f"no Kafka broker answers at {settings.bootstrap_servers}")
