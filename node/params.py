"""A model's tensors as one flat vector: the task vector tau = theta - base. Nothing else touches names.

tau is kept in float32 whatever the model's type: bfloat16 weights would swallow half of a correction of
a thousandth. Live weights are the cast of base + tau; `collect` adds to tau what training changed in them.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..protocol.errors import ConfigError, EnvelopeError
from ..protocol.manifest import Manifest, manifest_of
from .state import State
from .vectors import HostVector, Vector
from .vectors_torch import TensorVector

VARIANCE_FLOOR = 1e-7
"""Also positive in float16."""


def live_tensors(
    model: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = (), *, buffers: bool = True
) -> dict[str, Tensor]:
    """Return what takes part: trainable parameters (tied ones once) and, if asked, float buffers.

    Buffers that a state dict leaves out are derived from the rest and stay out here too.
    """
    found: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if buffers:
        kept = model.state_dict().keys()
        found |= {name: b for name, b in model.named_buffers() if b.is_floating_point() and name in kept}
    return {
        name: tensor.data
        for name, tensor in found.items()
        if (not include or _matches(name, include)) and not _matches(name, exclude)
    }


def ties(model: nn.Module) -> dict[str, str]:
    """Return every further name of a tied parameter or buffer, with the name under which it takes part."""
    first: dict[int, str] = {}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    owners = {name: first.setdefault(id(tensor), name) for name, tensor in named}
    return {name: owner for name, owner in owners.items() if name != owner}


def describe(model: nn.Module, tensors: Mapping[str, Tensor]) -> Manifest:
    """Return the manifest of a model's live tensors: 1-D ones and buffers are published in full.

    Raises ConfigError if nothing takes part, or a tensor of a type that cannot.
    """
    if not tensors:
        raise ConfigError("no tensor takes part: check include and exclude, and that parameters require gradients")
    buffers = {name for name, _ in model.named_buffers()}
    try:
        return manifest_of(
            (name, tuple(t.shape), str(t.dtype).removeprefix("torch."), name in buffers or t.ndim <= 1)
            for name, t in tensors.items()
        )
    except EnvelopeError as error:
        raise ConfigError(f"this model cannot be published as it is ({error.detail}): exclude that tensor") from error


class Parameters:
    """Live tensors, their base, and tau in the flat index space of the manifest."""

    def __init__(self, tensors: Mapping[str, Tensor], manifest: Manifest, device: torch.device) -> None:
        self.manifest = manifest
        self.live = [tensors[spec.name] for spec in self.manifest.tensors]
        self.base = torch.zeros(self.manifest.length, device=device)
        self.tau = torch.zeros(self.manifest.length, device=device)
        self.device = device
        self.adopt({name: t.detach() for name, t in tensors.items()})

    def adopt(self, base: Mapping[str, Tensor]) -> None:
        """Take these weights as the base and as the live weights; tau becomes zero.

        Raises ConfigError if a tensor is missing, has another shape or is not finite.
        """
        for (spec, place), live in zip(self.manifest.slices(), self.live, strict=True):
            if spec.name not in base:
                raise ConfigError(f"the base has no tensor {spec.name!r}; it is for another model")
            tensor = base[spec.name]
            if tuple(tensor.shape) != spec.shape:
                raise ConfigError(f"base tensor {spec.name!r} has shape {tuple(tensor.shape)}, the model {spec.shape}")
            if not torch.isfinite(tensor).all():
                raise ConfigError(
                    f"base tensor {spec.name!r} is not finite: choose another base, or exclude the tensor"
                )
            live.copy_(tensor.to(live.dtype))
            self.base[place] = live.flatten().to(self.device, torch.float32)
        self.tau.zero_()
        raw = {n: _bytes(t) for n, t in zip((s.name for s in self.manifest.tensors), self.live, strict=True)}
        self.base_digest = self.manifest.base_digest(raw)

    def collect(self) -> float:
        """Add to tau what changed in the live weights since they were last written; return its norm.

        The norm is over the tensors that are not published in full.
        """
        total = 0.0
        for t in range(len(self.live)):
            moved = self.moved(t)
            self.tau[self.place(t)] += moved
            if not self.manifest.tensors[t].full:
                total += float(moved.double().square().sum())
        return math.sqrt(total)

    def moved(self, t: int) -> Tensor:
        """Return what changed in live tensor t since it was last written, flat."""
        place, live = self.place(t), self.live[t]
        written = (self.base[place] + self.tau[place]).to(live.dtype).float()
        return live.flatten().to(self.device, torch.float32) - written

    def write(self) -> None:
        """Make the live weights the cast of base + tau."""
        for t in range(len(self.live)):
            self.show(t, self.tau[self.place(t)])

    def show(self, t: int, tau: Tensor) -> None:
        """Make live tensor t the cast of base + the given task vector (variances stay positive)."""
        spec, place, live = self.manifest.tensors[t], self.place(t), self.live[t]
        value = self.base[place] + tau
        if spec.name.endswith("running_var"):
            value = value.clamp_min(VARIANCE_FLOOR)
        live.copy_(value.view(live.shape).to(live.dtype))

    def place(self, t: int) -> slice:
        """Return where tensor t lies in a flat vector."""
        return self.manifest.places[t]

    def beyond(self, state: State) -> Vector:
        """Return tau - P where it lies: on the host or on the device."""
        change = self.tau.clone()
        for t, (_, place) in enumerate(self.manifest.slices()):
            change[place] -= state.tensor(t, self.device)
        return HostVector(change.numpy()) if self.device.type == "cpu" else TensorVector(change)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the live tensors that take part, by name."""
        return dict(zip((s.name for s in self.manifest.tensors), self.live, strict=True))


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file; views are made contiguous, tied storage is written per name.

    Raises ConfigError if the file cannot be written.
    """
    try:
        save_file({n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}, path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot be written: {error}") from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; raises ConfigError if it is none."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: not a readable safetensors file: {error}") from error


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
