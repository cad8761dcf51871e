"""Localize: learn which few entries of a task vector carry its skill, on the data of whoever trained it.

The data-free version, the largest entries, is the method `localize`. Here the sender looks for a better mask with its
own loss; what it sends is its task vector under that mask, which `localize` with density 1 stitches at the receiver.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .method import check_finite, check_share
from .trim import keep_largest


def learn_mask(
    base: Tensor,
    delta: Tensor,
    gradient: Callable[[Tensor], Tensor],
    *,
    density: float = 0.01,
    lr: float = 1e7,
    sparsity: float = 10.0,
    bias: float = 5.0,
    epochs: int = 10,
) -> Tensor:
    """Return the mask of the entries to send, a bool tensor like `delta` (Localize-and-Stitch, arXiv 2408.13656).

    Minimises loss(base + sigmoid(S) * delta) + sparsity * sum(sigmoid(S)) over S, which starts at +bias for the top
    `density` of |delta| and at -bias elsewhere, by plain gradient steps: S -= (lr * g * delta + sparsity) *
    sigmoid'(S). The mask is sigmoid(S) > 1/2, where delta is not 0.

    gradient: returns the mean gradient of the loss over the data at given flat weights; called once an epoch. The
    authors' code adds sparsity * sign(S) * sigmoid'(S) instead of taking the penalty's gradient off, which drives S
    away from 0 on both sides; this is the paper's rule. Their lr and sparsity, 1e7 and 10, suit task vectors of
    language models (entries of 1e-4 and gradients of 1e-4).
    """
    check_share("density", density, one=True)
    for key, value in (("lr", lr), ("sparsity", sparsity), ("bias", bias)):
        check_finite(key, value)
    start = keep_largest(delta, max(1, int(density * delta.numel())))
    scores = torch.where(start, bias, -bias).to(delta.dtype)
    for _ in range(epochs):
        share = scores.sigmoid()
        scores -= (lr * gradient(base + share * delta) * delta + sparsity) * share * (1 - share)
    return (scores > 0) & (delta != 0)
