import math
from typing import Any

import pytest
import torch

from peermerge.node.merging import Piece, Site, make_method
from peermerge.node.merging.arithmetic import TaskArithmetic
from peermerge.node.merging.layers import Layers
from peermerge.node.merging.lines import Lines
from peermerge.node.merging.state_dicts import merge_state_dicts
from peermerge.node.merging.steps import Followed, Step
from peermerge.node.merging.ties import Ties
from peermerge.protocol.errors import ConfigError

NAMES = ["embed.weight", "model.layers.0.q", "model.layers.1.q", "model.layers.2.q", "norm.weight"]


def scaled(step: Step, names: list[str] = NAMES) -> dict[str, float]:
    """Return what becomes of a one in every tensor."""
    method = Followed(TaskArithmetic(), (step,))
    return {k: float(v) for k, v in merge_state_dicts(method, [{name: torch.ones(()) for name in names}]).items()}


def test_lines_grow_with_the_block_and_start_at_alpha() -> None:
    assert list(scaled(Lines(3, 0.25, 0.5)).values()) == [0.25, 0.25, 0.5, 0.75, 0.25]


def test_lines_scale_every_tensor_where_all_are_merged_as_one_vector() -> None:
    model = {name: torch.ones(()) for name in NAMES}
    method = Followed(Ties(1.0, scope="global"), (Lines(3, 0.25, 0.5),))
    assert [float(x) for x in merge_state_dicts(method, [model]).values()] == [0.25, 0.25, 0.5, 0.75, 0.25]


def test_a_single_block_is_the_first() -> None:
    assert scaled(Lines(1, 0.25, 0.5), ["layers.0.q"]) == {"layers.0.q": 0.25}


def test_without_blocks_lines_scale_all_by_alpha() -> None:
    assert scaled(Lines(3, 0.25, 0.5), ["a", "b.1.c"]) == {"a": 0.25, "b.1.c": 0.25}


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("model.layers.11.self_attn.q_proj.weight", 11),
        ("layers.3.weight", 3),
        ("bert.encoder.layer.4.output.dense.weight", 4),
        ("transformer.h.5.mlp.c_fc.weight", 5),
        ("visual.transformer.resblocks.6.ln_1.weight", 6),
        ("encoder.block.7.layer.1.DenseReluDense.wi.weight", 7),
        ("blocks.8.attn.qkv.weight", 8),
        ("features.1.0.weight", None),
        ("model.players.1.weight", None),
        ("layers.weight", None),
    ],
)
def test_a_block_is_the_number_after_a_word_for_it(name: str, number: int | None) -> None:
    assert Lines(12).number(name) == number


def test_the_block_pattern_is_a_choice() -> None:
    assert Lines(2, block=r"^features\.(\d+)\.").number("features.1.0.weight") == 1


def test_numbers_beyond_the_last_block_are_no_blocks() -> None:
    assert scaled(Lines(2, 0.25, 0.5), ["layers.5.q"]) == {"layers.5.q": 0.25}


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"alpha": math.nan}, "alpha = nan"),
        ({"beta": math.inf}, "beta = inf"),
        ({"blocks": 0}, "blocks = 0"),
        ({"block": "("}, "block = "),
        ({"block": r"layers\.\d+"}, "group"),
    ],
)
def test_impossible_lines_are_refused(parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Lines(**{"blocks": 2, **parameters})


def test_lines_count_the_blocks_in_names_unless_they_are_given() -> None:
    assert Lines(alpha=0.25, beta=0.5).counted(NAMES) == Lines(3, 0.25, 0.5)
    assert Lines(block=r"^f\.(\d+)").counted(["f.4.x", "layers.9.x"]).blocks == 5
    assert Lines(7).counted(NAMES).blocks == 7
    with pytest.raises(ConfigError, match="blocks=NUMBER"):
        Lines().counted(["embed.weight"])


def test_lines_that_nobody_counted_name_the_cure() -> None:
    with pytest.raises(ConfigError, match="blocks=NUMBER"):
        scaled(Lines())


def test_layers_take_the_factor_of_the_first_pattern_that_matches() -> None:
    step = Layers((("*.layers.1.*", 0.5), ("*.layers.*", 0.0), ("norm.?eight", 2.0)))
    assert list(scaled(step).values()) == [1.0, 0.0, 0.5, 0.0, 2.0]


def test_layers_keep_ones_own_in_a_round() -> None:
    method = make_method("weighted-mean", {}, [{"step": "layers", "factors": [["own.*", 0.0]]}])
    for name, moved in (("own.head", 0.0), ("trunk", 1.0)):
        site = Site((0.5, 0.5), (Piece(name, (2,)),))
        assert method.correct([torch.tensor([2.0, 2.0])], site).tolist() == [moved] * 2


def test_layers_refuse_a_factor_that_is_no_number() -> None:
    with pytest.raises(ConfigError, match="nan"):
        Layers((("*", math.nan),))


def test_steps_follow_in_order_and_leave_nothing_where_nobody_contributes() -> None:
    after: list[dict[str, Any]] = [
        {"step": "lines", "alpha": 0.5, "beta": 0.0, "blocks": 1},
        {"step": "layers", "factors": [["*", 3]]},
    ]
    method = make_method("weighted-mean", {}, after)
    site = Site((1.0,), (Piece("w", (1,)),))
    assert method.merge([torch.tensor([2.0])], site).tolist() == [3.0]
    assert method.merge([], Site((), (Piece("w", (1,)),))).shape == ()
