"""A byte-level language model: the GPT of Radford et al. 2019, small."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, scaled_dot_product_attention

BYTES = 256


class Block(nn.Module):
    """Causal attention and a feed-forward layer, each on normalised input and added to the stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, stream: Tensor) -> Tensor:
        """Map [batch, time, width] to the same shape."""
        stream = stream + self.attend(self.norm1(stream))
        change: Tensor = self.down(gelu(self.up(self.norm2(stream))))
        return stream + change

    def attend(self, stream: Tensor) -> Tensor:
        """Let every place look at itself and at what came before."""
        heads = self.qkv(stream).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(-2))
        return out


class ByteGPT(nn.Module):
    """Predict the next byte; the embedding is also the output layer."""

    def __init__(self, width: int, layers: int, heads: int, context: int) -> None:
        super().__init__()
        self.token = nn.Embedding(BYTES, width)
        self.place = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.apply(_initialise)

    def forward(self, text: Tensor) -> Tensor:
        """Map bytes [batch, time] to logits [batch, time, 256]."""
        stream = self.token(text) + self.place(torch.arange(text.shape[1], device=text.device))
        logits: Tensor = linear(self.norm(self.blocks(stream)), self.token.weight)
        return logits


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
