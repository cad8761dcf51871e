"""The coordinator's files in deploy/ parse, agree with each other, and run: the very commands, as processes."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from peermerge.coordinator.server import SERVICE

from ..coordinator.worlds import CoordinatorProcess, calling, claim, eventually

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PORT, METRICS = 50050, 9465
NAME = "peermerge-coordinator"


def compose() -> dict[str, Any]:
    service: dict[str, Any] = yaml.safe_load((DEPLOY / "coordinator.compose.yaml").read_text())["services"]
    return service["coordinator"]  # type: ignore[no-any-return]


def kubernetes() -> dict[str, dict[str, Any]]:
    return {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "coordinator.kubernetes.yaml").read_text())}


def unit() -> ConfigParser:
    parser = ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(DEPLOY / f"{NAME}.service")
    return parser


def commands() -> dict[str, list[str]]:
    """Return the command line of every way to run it."""
    (container,) = kubernetes()["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    service = compose()
    _, *systemd = shlex.split(unit()["Service"]["ExecStart"])
    assert service["entrypoint"] == container["command"] == [NAME]
    return {
        "compose": shlex.split(service["command"]),
        "kubernetes": [word for argument in container["args"] for word in argument.split("=")],
        "systemd": systemd,
    }


def test_kubernetes_names_and_ports_fit_together() -> None:
    objects = kubernetes()
    stateful, service = objects["StatefulSet"]["spec"], objects["Service"]
    labels = stateful["template"]["metadata"]["labels"]
    assert labels == service["spec"]["selector"] == stateful["selector"]["matchLabels"]
    assert objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    assert stateful["serviceName"] == service["metadata"]["name"] == NAME
    (container,) = stateful["template"]["spec"]["containers"]
    probes = [container[kind]["grpc"] for kind in ("livenessProbe", "readinessProbe")]
    assert {probe["port"] for probe in probes} == {PORT}
    assert {probe.get("service", SERVICE.full_name) for probe in probes} == {SERVICE.full_name}
    assert [port["containerPort"] for port in container["ports"]] == [PORT, METRICS]
    assert [port["port"] for port in service["spec"]["ports"]] == [PORT, METRICS]


def test_the_nodes_may_reach_it() -> None:
    (rule, _) = kubernetes()["NetworkPolicy"]["spec"]["ingress"]
    nodes = next(
        each for each in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()) if each["kind"] == "StatefulSet"
    )
    assert rule["from"] == [{"podSelector": nodes["spec"]["selector"]}]


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    service = unit()["Service"]
    assert service["DynamicUser"] == service["NoNewPrivileges"] == "yes"
    assert service["StateDirectory"] == NAME
    if (analyze := shutil.which("systemd-analyze")) is None:
        return
    copy = tmp_path / f"{NAME}.service"
    text = (DEPLOY / f"{NAME}.service").read_text()
    copy.write_text(text.replace(f"/opt/peermerge/bin/{NAME}", sys.executable))
    done = subprocess.run([analyze, "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False)
    assert str(copy.name) not in done.stderr, done.stderr


@pytest.mark.parametrize("way", ["compose", "kubernetes", "systemd"])
async def test_its_commands_run(tmp_path: Path, way: str) -> None:
    words = commands()[way]
    assert words[0] == "start"
    assert words[words.index("--listen") + 1] == f"0.0.0.0:{PORT}"
    running = CoordinatorProcess(tmp_path, *(word.replace(str(METRICS), "0") for word in words[1:]))
    running.flags = (*running.flags, "--listen", "127.0.0.1:0", "--data-dir", str(running.data))
    try:
        await running.start().ready()
        async with calling(running.address) as caller:
            await caller.join(claim("alice"))
        running.signal(signal.SIGTERM)
        assert running.wait() == 0, running.said
    finally:
        running.kill()
    assert await eventually(lambda: list(running.data.glob("roster.sqlite")), "the roster is kept")
