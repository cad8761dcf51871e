"""A recorded case of a reference library, opened: what it merged, and with which parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from peermerge.node.merging import MergeMethod
from peermerge.node.merging.state_dicts import merge_state_dicts

StateDict = Mapping[str, Tensor]


@dataclass(frozen=True)
class Case:
    """One entry of an index of recorded outputs, with its inputs in memory."""

    id: str
    library: str
    method: str
    parameters: Mapping[str, Any]
    names: tuple[str, ...]
    """The inputs but the base, in order."""
    base: StateDict
    with_base: bool
    """Whether the library was given the base."""
    models: tuple[StateDict, ...]
    statistics: Mapping[str, Tensor]
    """What was measured of the models, and inputs that are no models: adapters, permuted networks, a covariance."""

    @classmethod
    def of(
        cls,
        case: Mapping[str, Any],
        base: StateDict | None,
        models: Mapping[str, StateDict] | StateDict | Sequence[StateDict],
        statistics: StateDict | None,
    ) -> Case:
        """Open an index entry: the base is told from the models by its name among the inputs."""
        inputs = list(case["inputs"])
        names = [name for name in inputs if name != "base"]
        if isinstance(models, Mapping):
            given = {name: model for name, model in models.items() if isinstance(model, Mapping)}
            loose = {name: tensor for name, tensor in models.items() if isinstance(tensor, Tensor)}
        else:
            given = dict(zip(inputs if len(models) == len(inputs) else names, models, strict=False))
            loose = {}
        if not any(name.startswith("ft") for name in names):
            # What is no set of models may come as one file of prefixed names, or as one mapping for each prefix.
            loose |= {f"{prefix}.{name}": t for prefix, model in given.items() for name, t in model.items()}
            loose |= dict(base or {})
        return cls(
            id=str(case["id"]),
            library=str(case["library"]),
            method=str(case["method"]),
            parameters=dict(case["parameters"]),
            names=tuple(names),
            base=dict(base or {}),
            with_base="base" in inputs,
            models=tuple(given[name] for name in names if name in given),
            statistics={**loose, **dict(statistics or {})},
        )

    @property
    def keys(self) -> Iterator[str]:
        """Yield the names under which a rule may stand, the longest first."""
        yield f"{self.library}/{self.method}"
        yield f"{self.library}/{self.method.split(': ')[-1]}"
        yield f"{self.library}/{self.method.split(':')[0].split(' ')[0]}"
        yield self.id
        yield "/".join(self.id.split("/")[:2])

    def weights(self, default: float = 1.0, key: str = "weight") -> list[float]:
        """Return one number per model of a parameter that is given for each, for all, or not at all."""
        return [float(value) for value in self.each(key, default)]

    def each(self, key: str, default: Any = None) -> list[Any]:
        """Return a parameter's value for each model."""
        value = self.parameters.get(key, default)
        return [value.get(name, default) if isinstance(value, Mapping) else value for name in self.names]

    def one(self, key: str, default: Any = None) -> Any:
        """Return a parameter's value where all models share it."""
        values = self.each(key, default)
        if any(value != values[0] for value in values):
            raise ValueError(f"{self.id}: {key} differs between models")
        return values[0]

    def per_model(self, prefix: str) -> list[dict[str, Tensor]]:
        """Return statistics called `<prefix>.<i>.<name>` as one mapping per model."""
        return [
            {
                name.split(".", 2)[2]: tensor
                for name, tensor in self.statistics.items()
                if name.startswith(f"{prefix}.{i}.")
            }
            for i in range(len(self.names))
        ]

    def merged(
        self,
        method: MergeMethod,
        *,
        weights: Sequence[float] | None = None,
        relative: bool = True,
        statistics: Mapping[str, Sequence[StateDict]] | None = None,
        seed: int = 0,
    ) -> dict[str, Tensor]:
        """Merge the models by a method, relative to the base unless told otherwise."""
        base = self.base if relative else None
        return merge_state_dicts(method, self.models, base=base, weights=weights, statistics=statistics, seed=seed)

    def repeated(self, method: MergeMethod, *, weights: Sequence[float] | None = None, runs: int) -> dict[str, Tensor]:
        """Return mean and standard deviation of every tensor over runs with seeds of their own, and `runs`."""
        results = [self.merged(method, weights=weights, seed=seed) for seed in range(runs)]
        found: dict[str, Tensor] = {"runs": torch.tensor(runs)}
        for name in (n for n, tensor in self.base.items() if tensor.is_floating_point()):
            stacked = torch.stack([result[name].double() for result in results])
            found[f"mean.{name}"], found[f"std.{name}"] = stacked.mean(0), stacked.std(0)
        return found
