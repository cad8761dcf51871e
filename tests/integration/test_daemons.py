"""Nodes as processes that run undisturbed: they finish, say how they are, and obey."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from peermerge.node.export import export
from peermerge.node.params import load_tensors
from peermerge.protocol import wire_pb2 as wire

from .daemons import DEADLINE_S, NodeProcess, end, eventually, free_ports, has_ipv6, mesh, refused

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeProcess]]:
    """Three nodes, one of them on IPv6 where there is any, that have run four rounds and go on serving."""
    folder = tmp_path_factory.mktemp("finished")
    addresses = [f"127.0.0.1:{port}" for port in free_ports(3)]
    if has_ipv6():
        addresses[2] = f"[::1]:{free_ports(1, '::1')[0]}"
    nodes = []
    for i, address in enumerate(addresses):
        settings: dict[str, Any] = {"schedule.rounds": 4, "node.stay": True, "task.index": i, "task.count": 3}
        settings |= {"membership.expect": 3, "membership.peers": addresses[:i][-1:]}
        nodes.append(NodeProcess(folder, f"n{i}", address, settings))
    nodes[0].settings["node.metrics"] = f"127.0.0.1:{free_ports(1)[0]}"
    try:
        for node in nodes:
            node.start()
        for node in nodes:
            node.until(3)
            eventually(partial(node.events, "finished"), f"{node.name} finishes")
        yield nodes
    finally:
        end(nodes)


def test_four_nodes_finish_their_rounds_and_learn(tmp_path: Path) -> None:
    with mesh(tmp_path, 4, schedule__rounds=8, schedule__local_steps=5) as nodes:
        for node in nodes:
            node.start()
        assert [node.wait() for node in nodes] == [0] * 4
        for node in nodes:
            assert [event["round"] for event in node.events()] == list(range(8))
            assert {name for event in node.events() for name in event["merged"]} == {n.name for n in nodes} - {
                node.name
            }
            assert node.result["finished_rounds"] == 8
            assert node.result["warnings"] == []
            assert node.result["metrics"]["accuracy"] > 0.2


def test_the_mean_can_be_exported_beside_a_running_node(finished: list[NodeProcess], tmp_path: Path) -> None:
    node, others = finished[1], [finished[0], finished[2]]
    said = export(node.data, tmp_path / "mean.safetensors", mean=True)
    assert said["contributors"] == [node.name, *(other.name for other in others)]
    base, mean = load_tensors(node.data / "base.safetensors"), load_tensors(tmp_path / "mean.safetensors")
    assert base.keys() == mean.keys()
    assert any(not torch.equal(base[name], mean[name]) for name in base)
    assert all(torch.isfinite(tensor).all() for tensor in mean.values())


def test_status_tells_rounds_peers_and_traffic(finished: list[NodeProcess]) -> None:
    for node in finished:
        status = node.status()
        assert (status.node, status.address, status.phase) == (node.name, node.address, "finished")
        assert (status.round, status.rounds, status.version, status.epoch, status.incarnation) == (4, 4, 4, 1, 1)
        assert list(status.members) == [n.name for n in finished]
        assert not status.warnings
        assert status.bytes_in > 0
        assert status.bytes_out > 0
        assert {peer.name: peer.merged for peer in status.peers} == {n.name: 4 for n in finished if n is not node}


def test_peers_are_listed_by_themselves(finished: list[NodeProcess]) -> None:
    reply: wire.PeersReply = finished[0].call("Status", "Peers")
    assert {peer.name: peer.address for peer in reply.peers} == {n.name: n.address for n in finished[1:]}


def test_a_watch_begins_with_the_status_as_it_is(finished: list[NodeProcess]) -> None:
    with grpc.insecure_channel(finished[0].address) as channel:
        watch = channel.unary_stream(
            "/peermerge.v1.Status/Watch",
            request_serializer=wire.StatusRequest.SerializeToString,
            response_deserializer=wire.StatusReply.FromString,
        )
        stream = watch(wire.StatusRequest(), timeout=DEADLINE_S)
        assert next(stream).node == "n0"
        stream.cancel()


def test_health_checks_say_serving(finished: list[NodeProcess]) -> None:
    with grpc.insecure_channel(finished[1].address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for service in ("", "peermerge.v1.Peer"):
            reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE_S)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_the_services(finished: list[NodeProcess]) -> None:
    with grpc.insecure_channel(finished[1].address) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        reply = next(stub.ServerReflectionInfo(asked, timeout=DEADLINE_S))
    names = {service.name for service in reply.list_services_response.service}
    assert {"peermerge.v1.Peer", "peermerge.v1.Status", "peermerge.v1.Control", "grpc.health.v1.Health"} <= names


def test_the_metrics_page_shows_the_status(finished: list[NodeProcess]) -> None:
    with urlopen(f"http://{finished[0].settings['node.metrics']}/metrics", timeout=DEADLINE_S) as reply:
        page = reply.read().decode()
    assert "peermerge_round 4.0" in page
    assert 'peermerge_peer_merged_total{peer="n1"} 4.0' in page
    assert 'peermerge_metric{name="accuracy"}' in page


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
def test_nodes_on_ipv6_and_ipv4_meet(finished: list[NodeProcess]) -> None:
    assert finished[2].address.startswith("[::1]:")
    assert {peer.address for peer in finished[0].status().peers} == {finished[1].address, finished[2].address}


def test_a_port_in_use_is_a_configuration_error(finished: list[NodeProcess], tmp_path: Path) -> None:
    code, said = refused(tmp_path, node__listen=finished[0].address)
    assert code == 2
    assert finished[0].address in said


def test_a_metrics_port_in_use_is_a_configuration_error(finished: list[NodeProcess], tmp_path: Path) -> None:
    code, said = refused(tmp_path, node__metrics=finished[0].settings["node.metrics"])
    assert code == 2
    assert "metrics" in said


def test_a_data_directory_belongs_to_one_process(finished: list[NodeProcess], tmp_path: Path) -> None:
    code, said = refused(tmp_path, node__data_dir=str(finished[0].data))
    assert code == 3
    assert "another process" in said


def test_an_unknown_task_is_named_with_the_nearest_known(tmp_path: Path) -> None:
    code, said = refused(tmp_path, task__name="digit", task__arguments={})
    assert code == 2
    assert "did you mean 'digits'" in said


def test_other_base_weights_are_refused_with_the_cure(finished: list[NodeProcess], tmp_path: Path) -> None:
    code, said = refused(tmp_path, membership__peers=[finished[0].address], seed=1)
    assert code == 2
    assert "BASE_MISMATCH" in said
    assert "node.base" in said


def test_one_base_file_makes_other_seeds_fit(finished: list[NodeProcess], tmp_path: Path) -> None:
    base = str(finished[0].data / "base.safetensors")
    node = NodeProcess(tmp_path, "guest", "127.0.0.1:0", {"membership.peers": [finished[0].address], "seed": 1})
    try:
        assert node.start(node__base=base, schedule__rounds=1, node__linger_s=0.0).wait() == 0
    finally:
        node.kill()


def test_another_model_is_refused(finished: list[NodeProcess], tmp_path: Path) -> None:
    other = {"width": 2, "hidden": 8}
    code, said = refused(tmp_path, membership__peers=[finished[0].address], task__arguments=other)
    assert code == 2
    assert "MANIFEST_MISMATCH" in said


def test_another_run_is_refused(finished: list[NodeProcess], tmp_path: Path) -> None:
    code, said = refused(tmp_path, membership__peers=[finished[0].address], run="other")
    assert code == 2
    assert "NETWORK_MISMATCH" in said


def test_a_name_that_is_taken_is_refused(finished: list[NodeProcess], tmp_path: Path) -> None:
    code, said = refused(tmp_path, membership__peers=[finished[0].address], node__name="n0")
    assert code == 2
    assert "DUPLICATE_ID" in said


def test_plain_text_beyond_this_machine_needs_consent(tmp_path: Path) -> None:
    code, said = refused(tmp_path, node__listen="0.0.0.0:0")
    assert code == 2
    assert "insecure" in said


def test_control_pauses_resumes_saves_and_ends_a_node(tmp_path: Path) -> None:
    with mesh(tmp_path, 2, schedule__rounds=0, log__checkpoint_every=0) as (one, two):
        for node in (one, two):
            node.start()
        one.until(1)
        assert one.call("Control", "Pause").message.startswith("pausing")
        eventually(lambda: one.status().phase == "paused", "it pauses")
        paused = one.status()
        assert two.status().node == "n1"
        one.call("Control", "Checkpoint")
        assert (one.data / "checkpoints" / f"{paused.round:09d}.safetensors").exists()
        assert one.status().round == paused.round
        one.call("Control", "Resume")
        one.until(paused.round + 1)
        for node in (one, two):
            assert node.call("Control", "Leave").message == "leaving"
            assert node.wait() == 0


def test_a_paused_node_can_be_ended(tmp_path: Path) -> None:
    with mesh(tmp_path, 1, schedule__rounds=0) as (node,):
        node.start().until(1)
        node.call("Control", "Pause")
        eventually(lambda: node.status().phase == "paused", "it pauses")
        assert node.stop() == 0


def test_a_bandwidth_cap_slows_a_node_and_it_still_finishes(tmp_path: Path) -> None:
    cap = 20_000
    over = {"publish__lossless": True, "round__ceiling_s": 10.0, "node__bandwidth_bytes_s": cap}
    with mesh(tmp_path, 2, schedule__rounds=6, **over) as nodes:
        for node in nodes:
            node.start()
        assert [node.wait() for node in nodes] == [0, 0]
        for node in nodes:
            times = [event["time"] for event in node.events()]
            sent = node.events()[-1]["bytes_out"] - node.events()[0]["bytes_out"]
            assert times[-1] - times[0] > 0.7 * sent / cap
            assert len(node.events()[-1]["merged"]) == 1
