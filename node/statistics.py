"""What merge methods ask about a node's tensors: measured after training, and read from what neighbours sent."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..protocol.blob import Blob
from ..protocol.entropy import Buffer
from ..protocol.errors import ConfigError
from ..protocol.limits import MAX_ATTACHMENT_BYTES, MAX_STATISTIC
from ..protocol.manifest import Manifest, TensorSpec
from ..protocol.statistics import KINDS, Statistics, Values, count, max_statistics_bytes, norm, pack, sides
from .merging import MergeMethod
from .params import Parameters
from .tasks.classify import evaluating
from .workload import Workload

DECAY = 0.9
"""Of the average of squared progress over rounds."""


def wire_kind(kind: str) -> str:
    """Return what a kind of statistics is called on the wire: names there have no underscores."""
    return kind.replace("_", "-")


def kinds_of(method: MergeMethod) -> frozenset[str]:
    """Return the kinds of statistics that a method needs; raises ConfigError if a node cannot provide them."""
    kinds = method.needs - {"base"}
    if unknown := sorted(kind for kind in kinds if wire_kind(kind) not in KINDS):
        raise ConfigError(f"merge.method: no node measures {', '.join(unknown)}")
    if kinds and method.scope == "global":
        raise ConfigError("merge.after: statistics are of single tensors; leave out the step over the whole model")
    return kinds


@dataclass(frozen=True, slots=True)
class Measured:
    """One contributor's statistics of one kind, tensor by tensor as merge methods take them."""

    statistics: Statistics
    scale: float

    @classmethod
    def open(cls, data: Buffer | Blob, kind: str, manifest: Manifest) -> Measured:
        """Check what was received; raises FrameError. Fisher information is divided by its norm over the model."""
        opened = Statistics.open(data, wire_kind(kind), manifest)
        return cls(opened, norm(opened) or 1.0 if kind == "fisher" else 1.0)

    def __contains__(self, t: int) -> bool:
        """Whether tensor t was measured."""
        return t in self.statistics

    def tensor(self, t: int, device: torch.device) -> Tensor:
        """Return what was measured of tensor t: flat and as long as the tensor, or a square matrix of inputs."""
        if self.statistics.kind == "gram":
            return torch.from_numpy(_square(self.statistics.values(t))).to(device)
        rows, columns = (sums.astype(np.float64) for sums in self.statistics.sums(t))
        if not (whole := columns.sum()):  # nothing bounds the rows then: the norm leaves them out
            return torch.zeros(len(rows) * len(columns), device=device)
        factors = rows / self.scale, columns / whole
        return torch.outer(*(torch.from_numpy(factor.astype(np.float32)).to(device) for factor in factors)).reshape(-1)


class Measuring:
    """Measures what a node's merge method needs, and remembers how far its tensors moved."""

    def __init__(self, kinds: Collection[str], workload: Workload, params: Parameters) -> None:
        """Raise ConfigError if a kind of statistics of this model would be too large to travel."""
        for kind in sorted(kinds):
            if max_statistics_bytes(wire_kind(kind), params.manifest) >= MAX_ATTACHMENT_BYTES:
                raise ConfigError(
                    f"merge.method: {kind} of this model takes {MAX_ATTACHMENT_BYTES} bytes or more; "
                    "exclude the widest layers, or choose a method that needs less"
                )
        self.kinds = kinds
        self.warnings: list[str] = []
        """What a person should know of the latest measurement."""
        self._workload = workload
        self._params = params
        self._progress: dict[int, Values] = {}

    def measure(self) -> dict[str, bytes]:
        """Return the statistics, packed, by kind; call it after training, before `params.collect`.

        Tensors of which nothing can be said are left out: they are merged by the mean.
        """
        specs = self._params.manifest.tensors
        packed = {}
        warnings = []
        for kind in sorted(self.kinds):
            wire = wire_kind(kind)
            possible = {t: spec for t, spec in enumerate(specs) if count(wire, spec)}
            found = self._products(possible) if kind == "gram" else self._squares(possible)
            sound = {t: values for t, values in found.items() if (np.abs(values) <= MAX_STATISTIC).all()}
            packed[kind] = pack(wire, sound, self._params.manifest)
            if not sound:
                cure = "; it takes linear layers, and inputs that `calibration` yields" if kind == "gram" else ""
                warnings.append(f"UNMEASURED: {kind} of no tensor, so all are merged by the mean{cure}")
        self.warnings = warnings
        return packed

    def _squares(self, specs: Mapping[int, TensorSpec]) -> dict[int, Values]:
        """Return sums of the optimizer's averages of squared gradients.

        Where it keeps none (as SGD): of squared progress in a round, averaged over rounds. That is what gradients did,
        in units of its own, so methods that compare nodes of both kinds must normalise.
        """
        moments = self._workload.second_moments()
        if moments:
            known = {t: moments[spec.name] for t, spec in specs.items() if spec.name in moments}
            return {t: _sums(moment, specs[t]) for t, moment in known.items() if moment.numel() == specs[t].size}
        for t, spec in specs.items():
            new = _sums(self._params.moved(t).square(), spec)
            old = self._progress.get(t, new)
            self._progress[t] = (DECAY * old + (1 - DECAY) * new).astype(np.float32)
        return dict(self._progress)

    def _products(self, specs: Mapping[int, TensorSpec]) -> dict[int, Values]:
        # The model itself, which may be a layer, has no name.
        layers = {f"{name}.weight".lstrip("."): layer for name, layer in self._workload.model.named_modules()}
        linear = {t: layer for t, spec in specs.items() if isinstance(layer := layers.get(spec.name), nn.Linear)}
        return input_products(self._workload.model, linear, self._workload.calibration(), self._params.device)


@torch.no_grad()
def input_products(
    model: nn.Module, layers: Mapping[int, nn.Module], batches: Iterable[Tensor], device: torch.device
) -> dict[int, Values]:
    """Return X^T X / n of the inputs of some layers over batches, as lower triangles, by the layers' numbers."""
    sums: dict[int, Tensor] = {}
    rows: dict[int, int] = {}

    def watch(t: int, _layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = next((value for value in (*inputs, *named.values()) if isinstance(value, Tensor)), None)
        if given is None:
            return
        x = given.detach().reshape(-1, given.shape[-1]).float()
        sums[t] = sums[t].addmm_(x.T, x) if t in sums else x.T @ x
        rows[t] = rows.get(t, 0) + len(x)

    hooks = [layer.register_forward_pre_hook(partial(watch, t), with_kwargs=True) for t, layer in layers.items()]
    try:
        with evaluating(model):
            for batch in batches if layers else ():
                model(batch.to(device))
    finally:
        for hook in hooks:
            hook.remove()
    return {t: _triangle(total / max(1, rows[t])) for t, total in sums.items()}


def _sums(squares: Tensor, spec: TensorSpec) -> Values:
    matrix = squares.detach().reshape(sides(spec)).float()
    sums: Values = torch.cat([matrix.sum(1), matrix.sum(0)]).cpu().numpy()
    return sums


def _triangle(square: Tensor) -> Values:
    rows = square.cpu().numpy()
    return np.concatenate([rows[i, : i + 1] for i in range(len(rows))])


def _square(triangle: Values) -> Values:
    """Return the symmetric matrix of a lower triangle, which lies row by row."""
    side = (math.isqrt(8 * len(triangle) + 1) - 1) // 2
    square, start = np.empty((side, side), np.float32), 0
    for i in range(side):
        square[i, : i + 1] = square[: i + 1, i] = triangle[start : start + i + 1]
        start += i + 1
    return square
