import pytest
import torch

from peermerge.node.merging import Piece, Site, make_method
from peermerge.node.merging.emr import Emr, agreement, apply, rescaler, unify
from peermerge.protocol.errors import ConfigError

from .places import merged

ROWS = [torch.tensor([3.0, -1.0, 2.0]), torch.tensor([-1.0, -4.0, -2.0])]
SITE = Site((1.0, 1.0), (Piece("a", (2,)), Piece("b", ()), Piece("c", (0,))))


def test_the_unified_vector_is_the_largest_of_the_elected_sign_and_draws_elect_minus() -> None:
    assert unify(ROWS, [1.0, 1.0]).tolist() == [3, -4, -2]
    assert unify(ROWS, [1.0, 4.0]).tolist() == [-1, -4, -2]


def test_masks_hold_where_signs_agree() -> None:
    unified = unify(ROWS, [1.0, 1.0])
    assert [agreement(row, unified).tolist() for row in ROWS] == [[True, True, False], [False, True, True]]


def test_rescalers_compare_means_of_magnitudes_tensor_by_tensor() -> None:
    unified = unify(ROWS, [1.0, 1.0])
    # First: (2 + 2) / (3.5 + 0); second: (2.5 + 2) / (2 + 2).
    assert [float(rescaler(row, unified, SITE)) for row in ROWS] == pytest.approx([4 / 3.5, 4.5 / 4])


def test_a_task_is_rebuilt_from_the_vector_its_mask_and_its_scale() -> None:
    assert apply(ROWS[1], unify(ROWS, [1.0, 1.0]), SITE).tolist() == pytest.approx([0, -4.5, -2.25])


def test_a_task_that_agrees_nowhere_is_the_base() -> None:
    rows = [torch.tensor([1.0]), torch.tensor([-5.0])]
    assert apply(rows[0], unify(rows, [1.0, 1.0]), Site((1.0, 1.0), (Piece("a", (1,)),))).tolist() == [0]


def test_the_merge_is_the_unified_vector_times_the_mean_rescaler() -> None:
    factor = (4 / 3.5 + 4.5 / 4) / 2
    assert Emr().merge(ROWS, SITE).tolist() == pytest.approx([3 * factor, -4 * factor, -2 * factor])


def test_a_lone_contributor_is_merged_whole() -> None:
    assert merged(Emr(), ROWS[:1], "base").tolist() == ROWS[0].tolist()


def test_whole_models_are_compared() -> None:
    assert make_method("emr", {}).scope == "global"


def test_a_scale_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="scale = nan"):
        make_method("emr", {"scale": float("nan")})
