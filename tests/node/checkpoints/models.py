"""Models as files, small enough to write in a test."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from peermerge.node.checkpoints.merging import Report, merge
from peermerge.node.checkpoints.recipe import Recipe
from peermerge.node.config import parse

State = dict[str, Tensor]


def llama(seed: int, dtype: torch.dtype = torch.bfloat16) -> State:
    """Draw two blocks of a model with Llama's names, tied: without an lm_head."""
    random = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (24, 8)}
    for block in range(2):
        shapes |= {
            f"model.layers.{block}.self_attn.q_proj.weight": (8, 8),
            f"model.layers.{block}.mlp.down_proj.weight": (8, 12),
            f"model.layers.{block}.input_layernorm.weight": (8,),
        }
    shapes |= {"model.norm.weight": (8,), "model.scale": (), "model.empty": (0, 8), "model.one": (1,)}
    return {name: (torch.randn(shape, generator=random) * 0.05).to(dtype) for name, shape in shapes.items()}


def tuned(base: Mapping[str, Tensor], seed: int, size: float = 1e-3, density: float = 1.0) -> State:
    """Move a share of the entries of a model a little."""
    random = torch.Generator().manual_seed(seed)

    def moved(tensor: Tensor) -> Tensor:
        change = torch.randn(tensor.shape, generator=random) * size
        return (tensor.float() + change * (torch.rand(tensor.shape, generator=random) < density)).to(tensor.dtype)

    return {name: moved(tensor) if tensor.is_floating_point() else tensor for name, tensor in base.items()}


def save(path: Path, tensors: State, shards: int = 0) -> Path:
    """Write one file, or (with `shards`) a folder as Hugging Face has them."""
    if not shards:
        save_file(tensors, path, metadata={"format": "pt"})
        return path
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": True}))
    (path / "tokenizer.json").write_text("{}")
    names = list(tensors)
    where: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = names[number::shards]
        save_file({name: tensors[name] for name in part}, path / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": where}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


def load(path: Path) -> State:
    """Read a file, or all shards of a folder."""
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Say whether two models are equal bit for bit, in names, shapes and types."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and one[name].shape == other[name].shape and raw(one[name]) == raw(tensor)
        for name, tensor in other.items()
    )


def raw(tensor: Tensor) -> bytes:
    """Return a tensor's bytes."""
    return tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()


def merged(out: Path, models: Sequence[Path], shard_bytes: int | None = None, **keys: object) -> Report:
    """Merge files by a recipe's keys, as equals unless `weights` says otherwise."""
    weights = keys.pop("weights", [1.0] * len(models))
    assert isinstance(weights, Sequence)
    inputs = [{"path": path, "weight": weight} for path, weight in zip(models, weights, strict=True)]
    return merge(parse(Recipe, {**keys, "models": inputs}, "test"), out, shard_bytes=shard_bytes)
