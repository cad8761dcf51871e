import pytest
import torch

from peermerge.node.merging import make_method
from peermerge.node.merging.sce import Sce
from peermerge.protocol.errors import ConfigError

from .places import merged

ROWS = [torch.tensor([4.0, 1.0, -1.0, 0.0]), torch.tensor([2.0, -2.0, 1.0, 0.0])]


def test_coefficients_come_from_all_entries_at_density_one() -> None:
    # Mean squares 18 / 4 and 9 / 4: coefficients 2 / 3 and 1 / 3. Entry 1 elects minus, entry 2 (a draw) plus.
    result = merged(Sce(density=1.0), ROWS, "base")
    assert result.tolist() == pytest.approx([10 / 3, -2.0, 1.0, 0.0])


def test_the_selection_shapes_the_coefficients_and_the_paper_merges_the_rest_too() -> None:
    # Variances 1, 2.25, 1, 0: of three that vary one is selected, where squares are 1 and 4.
    result = merged(Sce(density=0.5), ROWS, "base")
    assert result.tolist() == pytest.approx([(4 + 4 * 2) / 5, -2.0, 1.0, 0.0])


def test_mergekit_erases_what_was_not_selected() -> None:
    assert merged(Sce(density=0.5, variant="mergekit"), ROWS, "base").tolist() == [0, -2, 0, 0]


def test_mergekit_weighs_typical_fine_tunes_alike() -> None:
    rows = [row * 2.0**-12 for row in ROWS]
    paper, mergekit = (merged(Sce(1.0, variant), rows, "base")[0] * 2**12 for variant in ("paper", "mergekit"))
    assert float(paper) == pytest.approx(10 / 3)
    assert float(mergekit) == pytest.approx(3.0)


def test_equal_contributors_vary_nowhere_and_are_merged_alike() -> None:
    rows = [torch.tensor([0.1, -0.7, 0.3])] * 3
    torch.testing.assert_close(merged(Sce(density=0.5), rows, "base"), rows[0])
    assert merged(Sce(density=0.5, variant="mergekit"), rows, "base").tolist() == [0, 0, 0]


def test_a_lone_contributor_is_merged_whole() -> None:
    assert merged(Sce(), ROWS[:1], "base").tolist() == ROWS[0].tolist()


def test_equal_variances_are_selected_from_the_front() -> None:
    rows = [torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])]
    assert merged(Sce(density=0.5, variant="mergekit"), rows, "base").tolist() == [1, 1, 0, 0]


def test_the_number_selected_is_counted_in_single_precision() -> None:
    rows = [torch.arange(1.0, 101.0), torch.zeros(100)]
    result = merged(Sce(density=0.29, variant="mergekit"), rows, "base")
    assert int((result != 0).sum()) == 29


def test_weights_count_in_signs_and_coefficients() -> None:
    rows = [torch.tensor([1.0, 2.0]), torch.tensor([-2.0, 1.0])]
    result = merged(Sce(density=1.0), rows, "base", weights=[3.0, 1.0])
    # 3 * 1 outweighs 2; mean squares are equal, so coefficients are 3 / 4 and 1 / 4.
    assert result.tolist() == pytest.approx([1.0, 1.75])


@pytest.mark.parametrize("shape", [(1,), (), (0,)])
@pytest.mark.parametrize("variant", ["paper", "mergekit"])
def test_tiny_and_empty_tensors(variant: str, shape: tuple[int, ...]) -> None:
    rows = [torch.full(shape, value).view(-1) for value in (3.0, 1.0)]
    result = merged(make_method("sce", {"density": 1.0, "variant": variant}), rows, "base", shape=shape)
    assert result.tolist() == pytest.approx([2.8] * len(rows[0]))


def test_long_vectors_are_merged_as_short_ones() -> None:
    random = torch.Generator().manual_seed(3)
    short = [torch.randn(50, generator=random) for _ in range(3)]
    expected = merged(Sce(density=1.0), short, "base")
    torch.testing.assert_close(merged(Sce(density=1.0), [row.repeat(2000) for row in short], "base")[-50:], expected)


def test_a_density_that_is_no_share_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"density = 1\.1"):
        Sce(density=1.1)
