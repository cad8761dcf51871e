"""The assignment problem: who is paired with whom so that the sum of what pairs are worth is largest."""

from __future__ import annotations

import torch
from torch import Tensor

from ...protocol.errors import ConfigError


def best_assignment(worth: Tensor) -> Tensor:
    """Return the column assigned to each row of a square matrix, by the Hungarian method in scipy, on the CPU.

    Raises ConfigError if scipy is not installed.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ConfigError("alignment needs scipy: pip install 'peermerge[alignment]'") from error
    columns = linear_sum_assignment(worth.cpu().numpy(), maximize=True)[1]
    return torch.as_tensor(columns, device=worth.device)
