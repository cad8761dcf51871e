"""The work of a merge: for each tensor its method, weights and contributors, merged whole or by entries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ...protocol.errors import ConfigError
from ..merging import MergeMethod, Piece, Site
from ..merging.rows import Rows, Source, merge_parts, merge_rows, with_base
from ..merging.sparse import Entries, merge_sparse
from ..merging.state_dicts import draw
from ..merging.steps import Followed
from .delta_file import DeltaFile
from .depth import depths
from .known import known_method
from .matching import Model, Plan
from .reading import Checkpoint
from .recipe import Recipe
from .settings import evaluate, evaluated


@dataclass(frozen=True, slots=True)
class Call:
    """Tensors that a method merges at once, of which models, with which weights."""

    method: MergeMethod
    names: tuple[str, ...]
    contributors: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Completed:
    """Stands for a model that lacks tensors: there it has a tied one, or is the base."""

    model: Model
    tied: Mapping[str, str]

    def fill(self, name: str, row: Tensor, ground: Tensor | None) -> None:
        """See `merging.rows.Source`."""
        own = self.tied.get(name, name)
        if own in self.model.tensors:
            self.model.fill(own, row, ground)
        else:
            row.zero_()


@dataclass(frozen=True, slots=True)
class _Base:
    """Stands for the base, and says so in errors."""

    model: Checkpoint

    def fill(self, name: str, row: Tensor, ground: Tensor | None) -> None:
        """See `merging.rows.Source`."""
        with _of_the_base():
            self.model.fill(name, row, ground)

    def fill_part(self, name: str, start: int, row: Tensor, ground: Tensor | None) -> None:
        """See `merging.rows.PartSource`."""
        with _of_the_base():
            self.model.fill_part(name, start, row, ground)


@contextmanager
def _of_the_base() -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"the base: {error}") from error


class Work:
    """One merge: models, what is to be done for each tensor, and the rows it is done in."""

    def __init__(
        self,
        recipe: Recipe,
        plan: Plan,
        base: Checkpoint | None,
        models: Sequence[Model],
        statistics: Mapping[str, Sequence[Checkpoint]],
        device: torch.device,
    ) -> None:
        self.recipe = recipe
        self.base = base
        self.models = models
        self.statistics = statistics
        self.plan = plan
        self.rows = Rows(device)
        self.sparse = 0
        first = base or models[0]
        self.tensors = first.tensors
        self.depths = depths(first.tensors)
        self._methods: dict[str, MergeMethod] = {}

    def settings(self, name: str) -> tuple[MergeMethod, tuple[float, ...]]:
        """Return the method and the models' weights for a tensor."""
        depth = self.depths.get(name, 0.0)
        parameters = evaluated(self.recipe.parameters, name, depth)
        key = repr(sorted(parameters.items()))
        if key not in self._methods:
            method = known_method(self.recipe.method, parameters, self.recipe.after).counted(self.tensors)
            self._check(method)
            self._methods[key] = method
        weights = [evaluate(model.weight, name, depth, 1.0) for model in self.recipe.models]
        if bad := [weight for weight in weights if isinstance(weight, bool) or not isinstance(weight, int | float)]:
            raise ConfigError(f"weight {bad[0]!r} of tensor {name!r}: give a number")
        return self._methods[key], tuple(map(float, weights))

    def _check(self, method: MergeMethod) -> None:
        """Raise ConfigError if the method lacks what it needs, or has values for other models than there are."""
        paths = [str(model.path) for model in self.recipe.models]
        if "base" in method.needs and self.base is None:
            two = f"; between two models one is the base: --base {' '.join(paths)}" if len(paths) == 2 else ""
            raise ConfigError(
                f"{self.recipe.method} compares models with their base: name one, --base and the model that they "
                f"started from{two}"
            )
        if absent := method.needs - {"base"} - self.statistics.keys():
            raise ConfigError(
                f"{self.recipe.method} needs what was measured of the models: give --statistics {min(absent)}=FILE "
                "once per model, in their order"
            )
        for kind in sorted(self.statistics.keys() - method.needs):
            raise ConfigError(f"--statistics {kind}: {self.recipe.method} does not look at them: leave them out")
        rule = method.method if isinstance(method, Followed) else method
        for key in (field.name for field in fields(rule) if field.init):  # type: ignore[arg-type]
            value = getattr(rule, key)
            if isinstance(value, tuple) and len(value) != len(paths):
                raise ConfigError(
                    f"{key} = {list(value)}: {len(value)} values for {len(paths)} models: give one for all, or one each"
                )

    def _check_measured(self) -> None:
        """Raise ConfigError if statistics are of other tensors than those that are merged."""
        for kind, files in self.statistics.items():
            for file in files:
                if not file.tensors.keys() & self.plan.contributors.keys():
                    raise ConfigError(
                        f"--statistics {kind}: {file.path} has no tensor of a name that is merged, such as "
                        f"{min(self.plan.contributors)!r}: name them as in the models"
                    )

    def calls(self) -> list[Call]:
        """Return the calls that merge all tensors. Raises ConfigError if one that sees all would differ among them."""
        each = [
            Call(method, (name,), contributors, weights)
            for name, contributors in self.plan.contributors.items()
            for method, weights in [self.settings(name)]
        ]
        self._check_measured()
        if all(call.method.scope == "tensor" for call in each):
            return each
        first = each[0]
        for call in each:
            if (call.method, call.contributors, call.weights) != (first.method, first.contributors, first.weights):
                raise ConfigError(
                    f"{self.recipe.method} looks at all tensors at once: parameters, weights and models cannot differ "
                    f"between {first.names[0]!r} and {call.names[0]!r}"
                )
        return [Call(first.method, tuple(sorted(self.plan.contributors)), first.contributors, first.weights)]

    def merged(self, call: Call) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors of a call merged, flat, in float32; each is valid until the next is asked for."""
        method, names, contributors, weights = call.method, call.names, call.contributors, call.weights
        pieces = tuple(Piece(name, self.tensors[name].shape) for name in names)
        site = Site(
            tuple(weights[i] for i in contributors),
            pieces,
            tuple(draw(self.recipe.seed, i, names) for i in contributors),
            statistics=self._measured(names, contributors),
        )
        deltas = [m for i in contributors if isinstance(m := self.models[i], DeltaFile)]
        if self.base is not None and len(deltas) == len(contributors) and _suit(method, site, deltas):
            self.sparse += len(names)
            yield from self._by_entries(method, site, deltas, self.base)
            return
        models = [self.models[i] for i in contributors]
        whole = [model for model in models if isinstance(model, Checkpoint) and names[0] in model.tensors]
        if method.elementwise and len(whole) == len(models) and self.rows.device.type == "cpu":
            yield names[0], merge_parts(method, whole, self.base and _Base(self.base), site, self.rows)
            return
        sources: list[Source] = [self._completed(self.models[i]) for i in contributors]
        flat = merge_rows(method, sources, self.base and _Base(self.base), site, self.rows)
        for piece, part in zip(pieces, flat.split([piece.size for piece in pieces]), strict=True):
            yield piece.name, part

    def _completed(self, model: Model) -> _Completed:
        return _Completed(model, self.plan.tied.get(str(model.path), {}))

    def _entries(self, site: Site, deltas: Sequence[DeltaFile], base: Checkpoint) -> list[Entries]:
        """Return each delta file's entries in the flat vector of the site."""
        parts: list[list[Entries]] = [[] for _ in deltas]
        start = 0
        for piece in site.pieces:
            ground = self.rows.filled(0, _Base(base), [piece])
            for delta, found in zip(deltas, parts, strict=True):
                one = delta.entries(piece.name, ground)
                found.append(Entries(one.index + start if start else one.index, one.values))
            start += piece.size
        return [_joined(found) for found in parts]

    def _by_entries(
        self, method: MergeMethod, site: Site, deltas: Sequence[DeltaFile], base: Checkpoint
    ) -> Iterator[tuple[str, Tensor]]:
        """Merge entries, and add them to the base tensor by tensor."""
        entries = self._entries(site, deltas, base)
        alone = len(site.pieces) == 1
        result = merge_sparse(method, entries, with_base(method, site, self.rows.take(0, site.size)) if alone else site)
        start = 0
        for piece in site.pieces:
            row = self.rows.take(0, piece.size) if alone else self.rows.filled(0, _Base(base), [piece])
            begin, end = torch.searchsorted(result.index, torch.tensor([start, start + piece.size]).to(row.device))
            row[result.index[begin:end] - start] += result.values[begin:end]
            yield piece.name, row
            start += piece.size

    def _measured(self, names: Sequence[str], contributors: Sequence[int]) -> dict[str, tuple[Tensor, ...]]:
        """Return what all contributors measured of a single tensor."""
        [name, *others] = names
        return {
            kind: tuple(files[i].read(name).to(self.rows.device, torch.float32) for i in contributors)
            for kind, files in self.statistics.items()
            if not others and all(name in files[i].tensors for i in contributors)
        }


def _suit(method: MergeMethod, site: Site, deltas: Sequence[DeltaFile]) -> bool:
    """Say whether entries are enough, and few. A base of several tensors would have to be there whole."""
    names = [piece.name for piece in site.pieces]
    whole_base = "base" in method.needs and len(names) > 1
    if not deltas or not method.sparse or whole_base or any(n not in d.tensors for n in names for d in deltas):
        return False
    return sum(delta.count(name) for name in names for delta in deltas) <= site.size


def _joined(parts: Sequence[Entries]) -> Entries:
    if len(parts) == 1:
        return parts[0]
    return Entries(torch.cat([part.index for part in parts]), torch.cat([part.values for part in parts]))
