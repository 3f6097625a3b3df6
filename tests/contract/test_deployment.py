"""What Kubernetes and systemd are given: valid by their own rules, and in accord with the worker."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prometheus_client import CollectorRegistry

from stream_worker.health import Health, bind, serve
from stream_worker.settings import Settings, load_settings

DEPLOY = Path(__file__).parents[2] / "deploy"
MANIFEST: list[dict[str, Any]] = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "vitalcast.yaml").read_text()))
BY_KIND = {document["kind"]: document for document in MANIFEST}
UNIT = DEPLOY / "vitalcast.service"


def pod(kind: str) -> dict[str, Any]:
    """The pods that a document makes."""
    spec: dict[str, Any] = BY_KIND[kind]["spec"]["template"]["spec"]
    return spec


async def served_paths() -> set[str]:
    """What a worker answers over HTTP."""
    runner = await serve(bind("127.0.0.1", 0), Health(), CollectorRegistry())
    paths = {resource.canonical for resource in runner.app.router.resources()}
    await runner.cleanup()
    return paths


@pytest.mark.parametrize("document", MANIFEST, ids=lambda document: document["kind"])
def test_kubernetes_takes_the_manifest(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, "1.33", strict=True)


def test_its_settings_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "kafka").mkdir()
    for name in ("ca.crt", "password"):
        (tmp_path / "kafka" / name).touch()
    text = BY_KIND["ConfigMap"]["data"]["vitalcast.toml"].replace("/etc/vitalcast", str(tmp_path))
    (tmp_path / "vitalcast.toml").write_text(text)
    assert load_settings(tmp_path / "vitalcast.toml").security_protocol == "SASL_SSL"


def test_its_probes_and_users_are_those_of_the_image() -> None:
    (worker,) = pod("StatefulSet")["containers"]
    assert worker["ports"][0]["containerPort"] == Settings.model_fields["http_port"].default
    probes = [worker[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
    assert {probe["path"] for probe in probes} <= asyncio.run(served_paths())
    user = re.search(r"^USER (\d+):", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert user is not None
    assert {str(pod(kind)["securityContext"]["runAsUser"]) for kind in ("Job", "StatefulSet")} == {user[1]}


def test_the_job_of_one_image_is_gone_before_the_next_is_applied() -> None:
    assert BY_KIND["Job"]["spec"]["ttlSecondsAfterFinished"] <= 600  # while it is there, `apply` of another image fails


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    program, *arguments = parser["Service"]["ExecStart"].split()
    assert arguments == ["worker", "--config", "/etc/vitalcast/vitalcast.toml"]
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here (systemd)")
    here = tmp_path / UNIT.name
    here.write_text(UNIT.read_text().replace(program, "/bin/true"))  # it wants the program to be there
    done = subprocess.run(["systemd-analyze", "verify", here], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
