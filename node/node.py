"""The library: wrap your own training loop, call `step()` after each optimizer step, and you are in a mesh.

    with Node(model, optimizer=optimizer, peers=["10.0.0.2:50051"]) as node:
        for batch in loader:
            ...                 # forward, backward, optimizer.step(), as ever
            node.step()         # every `local_steps` calls: publish, gather, merge

The event loop that serves peers runs in a thread of its own; the round itself runs inside `step()`, so your
loop and the merge never touch the model at the same time.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
from google.protobuf.message import Message
from torch import Tensor, nn

from ..protocol.errors import ConfigError
from .config import NodeConfig, load, parse, put
from .daemon import Daemon
from .exposure import check_dialable, check_exposure
from .participant import Participant
from .round import exchange
from .tasks import TrainReport
from .workload import LoopWorkload

T = TypeVar("T")


class Node:
    """A member of a mesh around a model that you train yourself. Use it as a context manager."""

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
        calibration: Callable[[], Iterable[Tensor]] | None = None,
        config: NodeConfig | str | Path | None = None,
        peers: Sequence[str] = (),
        name: str | None = None,
        listen: str | None = None,
        data_dir: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Describe the node; nothing is opened before `with`.

        config: a NodeConfig or a TOML file; the other arguments and `settings` (dotted keys, as in
        {"schedule.local_steps": 50}) go over it. Without `data_dir` (and none in the configuration file) a temporary
        folder is used and nothing outlives the process. Raises ConfigError.
        """
        self._config = _configure(config, peers, name, listen, data_dir, settings or {})
        self._forget: Callable[[], object] = lambda: None
        if config is None and data_dir is None and "node.data_dir" not in (settings or {}):
            folder = tempfile.mkdtemp(prefix="peermerge-")
            self._config = _configure(self._config, (), None, None, folder, {})
            self._forget = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        check_exposure(self._config)
        check_dialable(self._config)
        self._workload = LoopWorkload(model, optimizer, evaluate, calibration)
        self._device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self._steps = 0
        self._daemon: Daemon | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Open the door and meet the peers. Raises ConfigError the second time, and what else prevents it."""
        if self._loop is not None:
            raise ConfigError("a Node is entered once: make another one with the same data_dir to go on")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="peermerge", daemon=True)
        self._thread.start()
        try:
            self._run(self._begin())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Serve the last version until the neighbours have it, save, close."""
        if kind is None and self._daemon is not None:
            self._run(self._daemon.linger())
        self.close()

    @property
    def address(self) -> str:
        """Where peers reach this node."""
        return self._node.membership.me.address

    @property
    def round(self) -> int:
        """The round under way."""
        return self._node.round

    @property
    def finished(self) -> bool:
        """Whether the schedule's rounds are over; further steps only train."""
        return self._node.last_round

    def step(self) -> bool:
        """Count one optimizer step; at the end of a round publish, gather and merge. Return whether one ended."""
        node = self._node
        self._steps += 1
        if node.last_round or self._steps < node.schedule.local_steps:
            return False
        report = TrainReport(self._steps, 0, 0.0)
        self._steps = 0
        if self._daemon is not None:
            self._daemon.check()
        self._run(exchange(node, node.plan(), report))
        return True

    def status(self) -> dict[str, Any]:
        """Return the status as plain data: the fields of `StatusReply` in wire.proto by name."""
        if self._daemon is None:
            raise ConfigError("use `with Node(...) as node:` first")
        return _fields(self._daemon.status.reply())

    def close(self) -> None:
        """Save and close; called by `with`."""
        if self._loop is None or self._thread is None or not self._thread.is_alive():
            return
        if self._daemon is not None:
            self._run(self._daemon.end())
            self._daemon = None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._forget()

    @property
    def _node(self) -> Participant:
        if self._daemon is None or self._daemon.node is None:
            raise ConfigError("use `with Node(...) as node:` first")
        return self._daemon.node

    async def _begin(self) -> None:
        self._daemon = Daemon(self._config, lambda: self._workload)
        await self._daemon.begin(self._device)

    def _run(self, job: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            job.close()
            raise ConfigError("use `with Node(...) as node:` first")
        return asyncio.run_coroutine_threadsafe(job, self._loop).result()


def _configure(
    config: NodeConfig | str | Path | None,
    peers: Sequence[str],
    name: str | None,
    listen: str | None,
    data_dir: str | Path | None,
    settings: Mapping[str, Any],
) -> NodeConfig:
    over: dict[str, Any] = dict(settings)
    given = {"node.name": name, "node.listen": listen, "node.data_dir": str(data_dir) if data_dir else None}
    over |= {key: value for key, value in given.items() if value is not None}
    if peers:
        over["membership.peers"] = list(peers)
    if not isinstance(config, NodeConfig):
        return load(NodeConfig, Path(config) if config else None, over)
    data = config.model_dump(exclude_unset=True)
    for key, value in over.items():
        put(data, key, value)
    return parse(NodeConfig, data, "Node(...)")


def _fields(message: Message) -> dict[str, Any]:
    """Return a message's fields by name. protobuf's own JSON form would write 64-bit integers as strings."""
    return {field.name: _plain(getattr(message, field.name)) for field in message.DESCRIPTOR.fields}


def _plain(value: object) -> object:
    if isinstance(value, Message):
        return _fields(value)
    if isinstance(value, Mapping):
        return dict(value)
    return [_plain(each) for each in value] if isinstance(value, Sequence) and not isinstance(value, str) else value
