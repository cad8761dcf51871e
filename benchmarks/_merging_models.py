"""Write a random Llama-shaped model and four fine-tunes of it as Hugging Face folders: what merging tools are timed on.

Run as a program (`_merging_models.py FOLDER LAYERS HIDDEN MLP WORDS`), so that what it needs of memory is nobody
else's. All is bfloat16 and drawn with fixed seeds; the first two fine-tunes differ from the base by dense noise, the
other two in one entry of twenty.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

BASE = "base"
TUNED = ("dense-1", "dense-2", "sparse-1", "sparse-2")
NAMES = (BASE, *TUNED)
DENSE_NOISE, SPARSE_NOISE = 5e-4, 2e-3
SHARE = 0.05
"""Of the entries that a sparse fine-tune changes."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama's dimensions; input and output embeddings are two tensors."""

    layers: int = 12
    hidden: int = 768
    mlp: int = 2048
    words: int = 32000

    @property
    def parameters(self) -> int:
        """Return the number of entries in all tensors."""
        return sum(prod(size) for _, size in self.tensors())

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield names and shapes as Hugging Face's implementation has them."""
        yield "model.embed_tokens.weight", (self.words, self.hidden)
        for number in range(self.layers):
            layer = f"model.layers.{number}"
            for name in "qkvo":
                yield f"{layer}.self_attn.{name}_proj.weight", (self.hidden, self.hidden)
            yield f"{layer}.mlp.gate_proj.weight", (self.mlp, self.hidden)
            yield f"{layer}.mlp.up_proj.weight", (self.mlp, self.hidden)
            yield f"{layer}.mlp.down_proj.weight", (self.hidden, self.mlp)
            yield f"{layer}.input_layernorm.weight", (self.hidden,)
            yield f"{layer}.post_attention_layernorm.weight", (self.hidden,)
        yield "model.norm.weight", (self.hidden,)
        yield "lm_head.weight", (self.words, self.hidden)

    def config(self) -> dict[str, object]:
        """Return the content of config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "torch_dtype": "bfloat16",
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "intermediate_size": self.mlp,
            "vocab_size": self.words,
            "num_attention_heads": self.hidden // 64,
            "num_key_value_heads": self.hidden // 64,
            "tie_word_embeddings": False,
        }


def weights(shape: Shape, name: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of the base or of a fine-tune, by name."""
    of_base, noise = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1 + NAMES.index(name))
    for tensor, size in shape.tensors():
        base = torch.ones(size) if len(size) == 1 else 0.02 * torch.randn(size, generator=of_base)
        base = base.to(torch.bfloat16)
        if name.startswith("dense"):
            base = (base.float() + DENSE_NOISE * torch.randn(size, generator=noise)).to(torch.bfloat16)
        elif name.startswith("sparse"):
            changed = torch.rand(size, generator=noise) < SHARE
            base = (base.float() + SPARSE_NOISE * torch.randn(size, generator=noise) * changed).to(torch.bfloat16)
        yield tensor, base


def write_folder(folder: Path, shape: Shape) -> None:
    """Write the model that the folder is named after; config.json comes last, so that a folder with one is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(weights(shape, folder.name)), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(shape.config(), indent=1) + "\n")


def main() -> None:
    """Write what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("dimensions", type=int, nargs=4)
    given = parser.parse_args()
    for name in NAMES:
        if not (given.folder / name / "config.json").exists():
            write_folder(given.folder / name, Shape(*given.dimensions))


if __name__ == "__main__":
    main()
