"""WUDI: the vector that interferes least with what every contributor's matrix does."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .linalg import adam, check_descent
from .matrices import MatrixMethod
from .method import check_finite


@dataclass(frozen=True, slots=True)
class Wudi(MatrixMethod):
    """WUDI-Merging (Cheng et al., arXiv 2503.08099), for matrices; others: weighted mean.

    From the sum of the deltas, `steps` steps of Adam at a learning `rate` reduce sum_i |(tau - d_i) d_i^T|^2 /
    |d_i|^2: the rows of a delta stand for the inputs that its layer sees. The result comes times scale. A delta that
    is 0 asks for nothing. Adam moves an entry by about the rate a step: choose it by the size of the deltas.
    """

    scale: float = 1.0
    steps: int = 300
    rate: float = 1e-5

    def __post_init__(self) -> None:
        """Refuse what is no descent."""
        check_finite("scale", self.scale)
        check_descent(self.steps, self.rate)

    def merge_matrices(self, stack: Tensor) -> Tensor:
        """Return where the descent ends."""
        squares = stack.square().sum((1, 2), keepdim=True)
        grams = stack.mT @ stack / squares.where(squares > 0, 1.0)
        common, target = grams.sum(0), (stack @ grams).sum(0)
        return adam(stack.sum(0), lambda tau: (tau @ common).sub_(target).mul_(2), self.steps, self.rate)
