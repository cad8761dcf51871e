"""What a run came to: result.json in the data directory, for benchmarks and people."""

from __future__ import annotations

import json
from typing import Any

from ..protocol.errors import DegradedError
from .participant import Participant

FILE = "result.json"


def write_result(node: Participant, warnings: list[str]) -> None:
    """Write the file; a disk that refuses it costs no more than that."""
    try:
        node.storage.write(FILE, json.dumps(_result(node, warnings), indent=1).encode(), durable=False)
    except DegradedError as error:
        node.events.emit("degraded", round=node.round, reason=str(error))


def _result(node: Participant, warnings: list[str]) -> dict[str, Any]:
    return {
        "node": node.name,
        "round": node.round,
        "rounds": node.schedule.rounds,
        "finished_rounds": node.round,
        "version": node.log.version,
        "epoch": node.log.epoch,
        "metrics": node.progress.metrics,
        "bytes_out": node.peers.bytes_out,
        "bytes_in": node.peers.bytes_in,
        "frame_bytes": node.progress.frame_bytes,
        "exchange_s": node.progress.exchange_s,
        "exchange_rounds": node.progress.exchanges,
        "consensus": node.progress.consensus,
        "omega": node.omega.value,
        "residue": node.progress.residue,
        "unpaid_weight": node.progress.unpaid_weight,
        "links": {name: record.bytes_out for name, record in sorted(node.peers.items())},
        "skipped": {name: dict(record.skipped) for name, record in sorted(node.peers.items())},
        "warnings": warnings,
    }
