"""How clients connect, as far as that can be told without a broker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.kafka_broker import make_certificate


def test_an_encrypted_key_is_refused_and_no_terminal_asked_for_its_password(tmp_path: Path) -> None:
    cafile, _ = make_certificate(tmp_path)
    encrypt = f"rsa -aes256 -passout pass:secret -in {tmp_path / 'server.key'} -out {tmp_path / 'encrypted.key'}"
    subprocess.run(["openssl", *encrypt.split()], check=True, capture_output=True)
    files = {"ssl_cafile": cafile, "ssl_certfile": cafile, "ssl_keyfile": tmp_path / "encrypted.key"}
    code = f"""
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # its terminal from now on
from stream_worker.connection import ssl_context
from stream_worker.settings import load_settings
ssl_context(load_settings(security_protocol="SSL", **{ ({name: str(path) for name, path in files.items()}) }))
"""
    ours, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=terminal,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert "ssl_keyfile cannot be used (SSLError)" in process.communicate(timeout=60)[1]
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(terminal)
