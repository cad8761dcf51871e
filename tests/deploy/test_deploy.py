"""What deploy/ holds parses, agrees with itself, and runs: the very commands, as processes."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from peermerge.node import metrics
from peermerge.node.config import NodeConfig, load
from peermerge.protocol.grpc_channels import PEER_SERVICE

from ..integration.daemons import NodeProcess, end, free_ports

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
SHARED = tomllib.loads((DEPLOY / "node.toml").read_text())
CONFIG = "/etc/peermerge/node.toml"
PORT = 50051
ROUNDS = 2
QUICK: dict[str, Any] = {
    "schedule.rounds": ROUNDS,
    "node.stay": False,
    "node.metrics": "127.0.0.1:0",
    "membership.wait_s": 30.0,
    "round.ceiling_s": 20.0,
}


def compose() -> dict[str, Any]:
    """Return the services of compose.yaml; `<<` is resolved."""
    services: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    return services


def kubernetes() -> dict[str, dict[str, Any]]:
    """Return the objects of kubernetes.yaml by kind."""
    return {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}


def unit() -> ConfigParser:
    """Return the systemd unit."""
    parser = ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(DEPLOY / "peermerge-node.service")
    return parser


def containerfile(instruction: str) -> list[str]:
    """Return what follows an instruction, once per line that has it."""
    text = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
    return re.findall(rf"^{instruction} +(.*)$", text, re.MULTILINE)


def option(command: list[str], name: str) -> list[str]:
    """Return the values of an option of a command."""
    return [value for flag, value in pairwise(command) if flag == name]


def test_the_shared_file_is_a_nodes_configuration() -> None:
    config = load(NodeConfig, DEPLOY / "node.toml", {})
    assert config.node.listen == f"0.0.0.0:{PORT}"
    assert config.node.insecure
    assert config.task.count == config.membership.expect == len(compose())


def test_the_image_copies_what_is_there_and_runs_as_somebody_else() -> None:
    sources = [source for line in containerfile("COPY(?! --from)") for source in line.split()[:-1]]
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert {"node", "protocol", "coordinator", "README.md", "pyproject.toml"} <= set(sources)
    assert containerfile("USER") == ["peermerge"]
    assert containerfile("VOLUME") == [SHARED["node"]["data_dir"]]
    assert json.loads(containerfile("ENTRYPOINT")[0]) == ["peermerge"]
    assert json.loads(containerfile("CMD")[0])[:2] == ["node", "start"]
    assert f'"peermerge", "status", "127.0.0.1:{PORT}"' in (DEPLOY / "Containerfile").read_text()
    ports = {PORT, int(SHARED["node"]["metrics"].rpartition(":")[2])}
    assert set(map(int, containerfile("EXPOSE")[0].split())) == ports


def test_every_compose_service_names_itself_and_greets_all_others() -> None:
    services = compose()
    for name, service in services.items():
        command = shlex.split(service["command"])
        assert command[:2] == ["node", "start"]
        assert option(command, "--name") == [name]
        assert option(command, "--advertise") == [f"{name}:{PORT}"]
        assert option(command, "--peer") == [f"{other}:{PORT}" for other in services if other != name]
        assert f"./node.toml:{CONFIG}:ro" in service["volumes"]
        assert f"{name}:{SHARED['node']['data_dir']}" in service["volumes"]
    shards = [option(shlex.split(service["command"]), "--set") for service in services.values()]
    assert shards == [[f"task.index={i}"] for i in range(len(services))]


def test_kubernetes_says_the_same_as_the_shared_file() -> None:
    objects = kubernetes()
    assert tomllib.loads(objects["ConfigMap"]["data"]["node.toml"]) == SHARED
    assert objects["StatefulSet"]["spec"]["replicas"] == SHARED["task"]["count"]


def test_kubernetes_names_and_ports_fit_together() -> None:
    objects = kubernetes()
    service, stateful = objects["Service"], objects["StatefulSet"]["spec"]
    name = service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"], "nodes meet before they are ready"
    assert stateful["serviceName"] == name
    labels = stateful["template"]["metadata"]["labels"]
    assert labels == service["spec"]["selector"] == stateful["selector"]["matchLabels"]
    (node,) = stateful["template"]["spec"]["containers"]
    assert f"--advertise=$(POD_NAME).{name}:{PORT}" in node["args"]
    assert f"--peer={objects['StatefulSet']['metadata']['name']}-0.{name}:{PORT}" in node["args"]
    probes = [node[kind]["grpc"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")]
    assert {probe["port"] for probe in probes} == {PORT}
    assert {probe.get("service", PEER_SERVICE) for probe in probes} == {PEER_SERVICE}
    assert PORT in [port["containerPort"] for port in node["ports"]]
    claims = {claim["metadata"]["name"] for claim in stateful["volumeClaimTemplates"]}
    volumes = {volume["name"] for volume in stateful["template"]["spec"]["volumes"]} | claims
    assert {mount["name"] for mount in node["volumeMounts"]} == volumes


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    service = unit()["Service"]
    assert service["DynamicUser"] == service["NoNewPrivileges"] == "yes"
    assert service["StateDirectory"] == "peermerge"
    assert service["Restart"] == "on-failure"
    if (analyze := shutil.which("systemd-analyze")) is None:
        return
    copy = tmp_path / "peermerge-node.service"
    text = (DEPLOY / "peermerge-node.service").read_text()
    copy.write_text(text.replace("/opt/peermerge/bin/peermerge", sys.executable))
    done = subprocess.run([analyze, "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False)
    assert str(copy.name) not in done.stderr, done.stderr


def test_alerts_speak_of_metrics_that_exist() -> None:
    peers = [*metrics.PEER_GAUGES, *(f"{name}_total" for name in metrics.PEER_COUNTERS)]
    known = {f"peermerge_{name}" for name in metrics.GAUGES} | {f"peermerge_peer_{name}" for name in peers}
    rules = yaml.safe_load((DEPLOY / "peermerge-alerts.yml").read_text())["groups"][0]["rules"]
    used = {name for rule in rules for name in re.findall(r"peermerge_\w+", rule["expr"])}
    assert used
    assert used <= known
    scrape = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"][0]
    port = SHARED["node"]["metrics"].rpartition(":")[2]
    assert scrape["static_configs"][0]["targets"] == [f"{name}:{port}" for name in compose()]


@pytest.mark.slow
def test_the_commands_of_compose_and_systemd_run(tmp_path: Path) -> None:
    services = compose()
    *ports, own = free_ports(len(services) + 1)
    addresses = {name: f"127.0.0.1:{port}" for name, port in zip(services, ports, strict=True)}
    nodes = [NodeProcess(tmp_path, name, address, QUICK) for name, address in addresses.items()]
    lone = NodeProcess(tmp_path, "lone", f"127.0.0.1:{own}", QUICK | {"membership.expect": 1, "task.count": 1})
    words = shlex.split(unit()["Service"]["ExecStart"])
    places = {"%S/peermerge": str(lone.data), "%l": "lone", "%H": "127.0.0.1", str(PORT): str(own)}
    try:
        for node in nodes:
            node.start(*_arguments(services[node.name]["command"], {f"{n}:{PORT}": a for n, a in addresses.items()}))
        # A node may find itself among its peers.
        lone.start(*_arguments(shlex.join(words[1:]), places), "--peer", lone.address)
        assert [node.wait(60) for node in [*nodes, lone]] == [0] * 5, [node.said for node in [*nodes, lone]]
    finally:
        end([*nodes, lone])
    for node in nodes:
        assert node.result["finished_rounds"] == ROUNDS
        assert set(node.result["links"]) >= set(services) - {node.name}
    assert lone.result["finished_rounds"] == ROUNDS


def _arguments(command: str, places: dict[str, str]) -> list[str]:
    """Return what follows `node start` in a command, with the places of this machine put in."""
    for written, here in (places | {CONFIG: str(DEPLOY / "node.toml")}).items():
        command = command.replace(written, here)
    words = shlex.split(command)
    assert words[:2] == ["node", "start"]
    return words[2:]
