from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from peermerge.node.params import Parameters, describe, live_tensors, load_tensors, save_tensors, ties
from peermerge.node.state import State
from peermerge.protocol.delta import Delta
from peermerge.protocol.errors import ConfigError

from .worlds import Tied, framed

CPU = torch.device("cpu")


def parameters(model: nn.Module, *include: str, exclude: tuple[str, ...] = (), buffers: bool = True) -> Parameters:
    tensors = live_tensors(model, include, exclude, buffers=buffers)
    return Parameters(tensors, describe(model, tensors), CPU)


def test_rule_19_tied_weights_take_part_once_and_frozen_ones_not_at_all() -> None:
    assert list(live_tensors(Tied())) == [
        "embed.weight",
        "norm.weight",
        "norm.bias",
        "head.bias",
        "norm.running_mean",
        "norm.running_var",
    ]
    assert ties(Tied()) == {"head.weight": "embed.weight"}


def test_rule_19_filters_choose_by_name_and_counters_and_derived_buffers_stay_local() -> None:
    assert list(live_tensors(Tied(), ["head*", "norm*"], ["*bias"])) == [
        "norm.weight",
        "norm.running_mean",
        "norm.running_var",
    ]
    assert list(live_tensors(Tied(), exclude=["norm.*", "head.*"])) == ["embed.weight"]
    assert "norm.running_var" not in live_tensors(Tied(), buffers=False)
    assert not any("num_batches" in name or "scratch" in name for name in live_tensors(Tied()))


def test_rule_19_and_3_the_manifest_marks_buffers_and_one_dimensional_tensors_as_full() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    model.register_buffer("matrix", torch.ones(2, 2))
    model.register_parameter("scale", nn.Parameter(torch.tensor(1.0)))
    manifest = describe(model, live_tensors(model))
    assert {t.name: t.full for t in manifest.tensors} == {
        "scale": True,
        "0.weight": False,
        "0.bias": True,
        "1.weight": True,
        "1.bias": True,
        "matrix": True,
        "1.running_mean": True,
        "1.running_var": True,
    }
    assert {t.dtype for t in manifest.tensors} == {"float32"}


def test_nothing_to_publish_and_types_that_cannot_be_are_the_users_to_mend() -> None:
    with pytest.raises(ConfigError, match="include and exclude"):
        parameters(Tied(), "nothing*")
    model = nn.Module()
    model.register_parameter("w", nn.Parameter(torch.zeros(2, dtype=torch.complex64)))
    with pytest.raises(ConfigError, match=r"w: complex64.*exclude"):
        parameters(model)


def test_tau_collects_what_training_changed_and_writing_gives_it_back() -> None:
    model = Tied()
    params = parameters(model)
    before = model.embed.weight.detach().clone()
    params.collect()
    assert not params.tau.any()
    with torch.no_grad():
        model.embed.weight += 0.25
    params.collect()
    params.collect()
    place = next(p for s, p in params.manifest.slices() if s.name == "embed.weight")
    torch.testing.assert_close(params.tau[place], torch.full((24,), 0.25))
    params.tau[place] *= 2
    params.write()
    torch.testing.assert_close(model.embed.weight.detach(), before + 0.5)
    assert model.head.weight is model.embed.weight
    published = State(params.manifest, np.full(len(params.manifest.tensors), -40, np.int8))
    change = params.beyond(published)
    everything = slice(0, params.manifest.length)
    assert np.array_equal(change.take(everything), params.tau.numpy())
    half = Delta(
        np.full(len(params.manifest.tensors), -3, np.int8), np.arange(place.start, place.stop), np.full(24, 2, np.int32)
    )
    published.apply(published.prepare(framed(half, params.manifest)))
    np.testing.assert_allclose(params.beyond(published).take(place), 0.25, rtol=1e-6)


def test_rule_3_a_correction_never_makes_a_variance_negative() -> None:
    model = Tied()
    params = parameters(model)
    params.tau -= 5
    params.write()
    buffers = dict(model.norm.named_buffers())
    assert (buffers["running_var"] > 0).all()
    assert (buffers["running_mean"] == -5).all()
    params.collect()
    params.write()
    assert (buffers["running_var"] > 0).all()
    half = nn.BatchNorm1d(4).half()
    params = parameters(half)
    params.tau -= 5
    params.write()
    assert (dict(half.named_buffers())["running_var"] > 0).all()


def test_rule_13_tau_of_a_bfloat16_model_keeps_corrections_that_its_weights_would_swallow() -> None:
    model = nn.Linear(8, 8).bfloat16()
    nn.init.ones_(model.weight)
    params = parameters(model)
    naive = model.weight.detach().clone()
    for _ in range(100):
        params.collect()
        params.tau += 1e-3
        params.write()
        naive += 1e-3
    assert params.tau.dtype == torch.float32
    place = next(p for s, p in params.manifest.slices() if s.name == "weight")
    torch.testing.assert_close(params.tau[place], torch.full((64,), 0.1))
    torch.testing.assert_close(model.weight.float(), torch.full((8, 8), 1.1), rtol=2**-8, atol=0)
    assert (naive == 1).all()


def test_a_base_is_taken_up_whole_and_has_a_digest_of_its_own() -> None:
    one, other = parameters(Tied()), parameters(Tied())
    assert one.base_digest == other.base_digest
    other.tau += 1
    base = {name: tensor.detach() + 1 for name, tensor in Tied().state_dict().items()}
    other.adopt(base)
    assert not other.tau.any()
    assert one.base_digest != other.base_digest
    assert torch.equal(other.state_dict()["embed.weight"], base["embed.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm.bias": None}, "no tensor 'norm.bias'"),
        ({"norm.bias": torch.zeros(5)}, r"shape \(5,\)"),
        ({"norm.bias": torch.tensor([0, 1, 2, torch.inf])}, "not finite"),
        ({"norm.bias": torch.tensor([0, 1, 2, torch.nan])}, "not finite"),
    ],
)
def test_a_base_that_does_not_fit_names_the_tensor(change: dict[str, torch.Tensor | None], message: str) -> None:
    base = {n: t for n, t in (dict(Tied().state_dict()) | change).items() if t is not None}
    with pytest.raises(ConfigError, match=message):
        parameters(Tied()).adopt(base)


def test_empty_and_0d_tensors_and_other_types_are_fine() -> None:
    model = nn.Module()
    for name, tensor in {
        "a": torch.zeros(0, 3),
        "b": torch.tensor(2.0),
        "c": torch.ones(3, dtype=torch.float64),
    }.items():
        model.register_parameter(name, nn.Parameter(tensor))
    params = parameters(model)
    params.tau += 1
    params.write()
    assert params.state_dict()["b"].item() == 3.0
    assert params.state_dict()["c"].dtype == torch.float64


def test_safetensors_files_hold_views_and_tied_tensors_by_name(tmp_path: Path) -> None:
    matrix = torch.arange(6.0).view(2, 3)
    save_tensors(tmp_path / "f.safetensors", {"a": matrix, "b": matrix, "t": matrix.T})
    loaded = load_tensors(tmp_path / "f.safetensors")
    assert torch.equal(loaded["t"], matrix.T)
    assert torch.equal(loaded["a"], loaded["b"])


def test_files_that_cannot_be_read_or_written_are_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_tensors(tmp_path / "missing")
    (tmp_path / "text").write_text("not a tensor")
    with pytest.raises(ConfigError, match="not a readable safetensors file"):
        load_tensors(tmp_path / "text")
    with pytest.raises(ConfigError, match="not a readable safetensors file"):
        load_tensors(tmp_path)
    with pytest.raises(ConfigError, match="cannot be written"):
        save_tensors(tmp_path / "missing" / "f", {"a": torch.ones(1)})
