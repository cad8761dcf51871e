"""What `peermerge doctor` looks at: every check returns one finding, with the cure where something is wrong."""

from __future__ import annotations

import asyncio
import importlib
import os
import platform
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from ...protocol.errors import PeermergeError
from ...protocol.output import duration, size

ROUND_TRIP_S = 5.0
SLOW_IMPORT_S = 15.0
FREE_BYTES = 1_000_000_000
PROBE = b"peermerge doctor"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, how it stands, and what to do about it."""

    name: str
    level: Literal["ok", "warn", "fail"]
    text: str
    cure: str = ""


def python() -> Finding:
    """Name the interpreter."""
    return Finding("python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}")


def torch_import() -> Finding:
    """Import torch and time it."""
    started = time.perf_counter()
    try:
        importlib.import_module("torch")
    except (ImportError, OSError) as error:
        return Finding("torch", "fail", str(error), "install torch for this machine: https://pytorch.org/get-started")
    took = time.perf_counter() - started
    text = f"{version('torch')}, imported in {duration(took)}"
    if took > SLOW_IMPORT_S:
        return Finding("torch", "warn", text, "put the virtual environment on a local disk")
    return Finding("torch", "ok", text)


def cuda() -> Finding:
    """Name the GPUs that torch can use."""
    try:
        import torch
    except (ImportError, OSError):
        return Finding("cuda", "warn", "unknown without torch")
    if not torch.cuda.is_available():
        hint = "" if shutil.which("nvidia-smi") is None else "there is a driver: install a torch built for CUDA"
        return Finding("cuda", "warn" if hint else "ok", "none; nodes train on the CPU", hint)
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return Finding("cuda", "ok", f"{torch.version.cuda}: {names}")


def compiled() -> Finding:
    """Say whether the codec's inner loops are compiled."""
    from ...protocol.loops import COMPILED

    if COMPILED:
        return Finding("codec", "ok", "compiled loops")
    cure = "install a C compiler and Python's headers (gcc, python3-dev), then install peermerge again"
    return Finding("codec", "warn", "numpy alone: frames take about three times as long", cure)


def threads() -> Finding:
    """Compare the threads of numerical libraries with the cores."""
    cores, setting = os.cpu_count() or 1, os.environ.get("OMP_NUM_THREADS")
    text = f"{setting or f'one per core ({cores})'}"
    if setting is not None and setting.isdigit() and int(setting) > cores:
        return Finding("threads", "warn", f"{text} on {cores} cores", f"set OMP_NUM_THREADS to at most {cores}")
    hint = "" if setting else "; with several nodes on one machine set OMP_NUM_THREADS=1"
    return Finding("threads", "ok", text + hint)


def packages() -> Finding:
    """Look for everything that Peermerge needs installed."""
    names = [line.split(";")[0] for line in requires("peermerge") or () if "extra ==" not in line]
    found = {name: _version(name) for name in sorted(_bare(name) for name in names)}
    if missing := [name for name, number in found.items() if number is None]:
        return Finding("packages", "fail", f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    shown = ("grpcio", "protobuf", "numpy", "safetensors", "zstandard")
    return Finding("packages", "ok", ", ".join(f"{name} {found[name]}" for name in shown if name in found))


def extras() -> Finding:
    """Look for what only the tasks on real data and the examples need."""
    found = {name: _version(name) for name in ("scikit-learn", "matplotlib")}
    if missing := [name for name, number in found.items() if number is None]:
        return Finding("extras", "warn", f"missing: {', '.join(missing)}", "pip install 'peermerge[examples]'")
    return Finding("extras", "ok", ", ".join(f"{name} {number}" for name, number in found.items()))


def loopback() -> Finding:
    """Send a message to ourselves over gRPC, as nodes do."""
    try:
        took = asyncio.run(_round_trip())
    except PeermergeError as error:
        return Finding("grpc", "fail", str(error), "allow TCP connections on 127.0.0.1, and update grpcio")
    return Finding("grpc", "ok", f"round trip over 127.0.0.1 in {duration(took)}")


def storage() -> Finding:
    """Write a small file durably, as every round does, where nodes keep their data by default."""
    from ..storage import DiskStorage

    try:
        with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".peermerge-doctor-") as folder:
            disk = DiskStorage(Path(folder))
            started = time.perf_counter()
            disk.write("probe", PROBE)
            took = time.perf_counter() - started
            disk.close()
    except (OSError, PeermergeError) as error:
        return Finding("storage", "fail", str(error), "run nodes in a folder that you may write to, or give --data-dir")
    return Finding("storage", "ok", f"durable write in {Path.cwd()} in {duration(took)}")


def space() -> Finding:
    """Look at the free space there."""
    free = shutil.disk_usage(Path.cwd()).free
    level: Literal["ok", "warn"] = "ok" if free >= FREE_BYTES else "warn"
    cure = "" if level == "ok" else "free some, or give --data-dir on another disk; `peermerge plan` says how much"
    return Finding("space", level, f"{size(free)} free", cure)


CHECKS: tuple[Callable[[], Finding], ...] = (
    python,
    packages,
    extras,
    torch_import,
    cuda,
    compiled,
    threads,
    loopback,
    storage,
    space,
)


class _Echo:
    """A peer that answers every greeting with itself."""

    async def hello(self, request: bytes) -> bytes:
        """Return the request."""
        return request

    async def gossip(self, request: bytes) -> bytes:
        """Return the request."""
        return request

    async def pull(self, request: bytes) -> AsyncIterator[bytes]:
        """Yield the request."""
        yield request


async def _round_trip() -> float:
    from ...protocol.grpc_transport import GrpcTransport

    transport = GrpcTransport("127.0.0.1:0")
    try:
        await transport.serve(_Echo())
        started = time.perf_counter()
        await transport.hello(transport.address, PROBE, timeout_s=ROUND_TRIP_S)
        return time.perf_counter() - started
    finally:
        await transport.close()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _bare(requirement: str) -> str:
    """Return the name at the start of a requirement such as `grpcio>=1.71`."""
    return requirement.split("[")[0].rstrip("0123456789.,<>=!~ ")
