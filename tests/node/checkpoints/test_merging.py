from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from peermerge.node.checkpoints.delta_index import read_index
from peermerge.node.checkpoints.encoding import encode
from peermerge.node.checkpoints.merging import merge
from peermerge.node.checkpoints.reading import Checkpoint
from peermerge.node.checkpoints.recipe import Recipe
from peermerge.node.config import PublishConfig, parse
from peermerge.node.merging import METHODS, make_method
from peermerge.node.merging.rows import BLOCK
from peermerge.node.merging.state_dicts import merge_state_dicts
from peermerge.protocol.errors import ConfigError

from .models import State, llama, load, merged, same, save, tuned

BASE = llama(0)
MODELS = [tuned(BASE, seed) for seed in (1, 2, 3)]
HEAD, EMBED = "lm_head.weight", "model.embed_tokens.weight"
NEEDY = {name for name in METHODS if make_method(name, {}).needs - {"base"}}
"""Methods that need what was measured of the models."""


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Write the base and the models."""
    return [save(tmp_path / f"m{i}.safetensors", model) for i, model in enumerate([BASE, *MODELS])]


def pmd(base: Path, fine: Path, publish: PublishConfig | None = None) -> Path:
    out = fine.with_suffix(f".{publish.density if publish else 'all'}.pmd")
    with Checkpoint.open(base) as before, Checkpoint.open(fine) as after:
        encode(before, after, out, publish)
    return out


@pytest.mark.parametrize("method", ["weighted-mean", "ties", "dare-ties", "slerp"])
def test_files_are_merged_as_state_dicts_are(tmp_path: Path, paths: list[Path], method: str) -> None:
    count = 1 if method == "slerp" else 3
    weights = [1.0, 2.0, 0.5][:count]
    expected = merge_state_dicts(make_method(method, {}), MODELS[:count], base=BASE, weights=weights, seed=7)
    merged(tmp_path / "out.safetensors", paths[1 : count + 1], base=paths[0], method=method, weights=weights, seed=7)
    assert same(load(tmp_path / "out.safetensors"), expected)


def test_methods_that_see_all_tensors_get_them_at_once(tmp_path: Path, paths: list[Path]) -> None:
    parameters = {"scope": "global", "density": 0.3}
    expected = merge_state_dicts(make_method("ties", parameters), MODELS, base=BASE)
    merged(tmp_path / "out.safetensors", paths[1:], base=paths[0], method="ties", parameters=parameters)
    assert same(load(tmp_path / "out.safetensors"), expected)
    local = merge_state_dicts(make_method("ties", {"density": 0.3}), MODELS, base=BASE)
    assert not same(expected, local)


def test_without_a_base_models_are_merged_as_they_are(tmp_path: Path, paths: list[Path]) -> None:
    merged(tmp_path / "out.safetensors", paths[1:3], weights=[3.0, 1.0])
    expected = merge_state_dicts(make_method("weighted-mean", {}), MODELS[:2], weights=[3.0, 1.0])
    assert same(load(tmp_path / "out.safetensors"), expected)
    with pytest.raises(ConfigError, match=r"name one.*--base \S+m1\.safetensors \S+m2\.safetensors$"):
        merged(tmp_path / "none.safetensors", paths[1:3], method="slerp")
    assert not (tmp_path / "none.safetensors.partial").exists()


@pytest.mark.parametrize("method", ["weighted-mean", "ties", "task-arithmetic"])
def test_the_base_merged_with_itself_is_the_base(tmp_path: Path, paths: list[Path], method: str) -> None:
    merged(tmp_path / "out.safetensors", [paths[0]] * 3, base=paths[0], method=method)
    assert same(load(tmp_path / "out.safetensors"), BASE)


@pytest.mark.parametrize("publish", [None, PublishConfig(density=0.2, selection="tensor")], ids=["all", "sparse"])
def test_one_model_merged_is_that_model(tmp_path: Path, publish: PublishConfig | None) -> None:
    base, fine = llama(0, torch.float32), tuned(llama(0, torch.float32), 1, density=0.1)
    paths = [save(tmp_path / "base.safetensors", base), save(tmp_path / "fine.safetensors", fine)]
    delta = pmd(paths[0], paths[1], publish)
    merged(tmp_path / "out.safetensors", [delta], base=paths[0])
    found = load(tmp_path / "out.safetensors")
    for name, tensor in fine.items():
        torch.testing.assert_close(found[name], tensor, atol=0 if publish is None else 2e-3, rtol=1e-6)


# ---- Delta files ----


@pytest.mark.parametrize(
    ("method", "density"),
    [*((name, 0.1) for name in sorted(METHODS.keys() - NEEDY)), ("ties", None), ("weighted-mean", None)],
)
def test_delta_files_are_merged_by_entries_as_whole_vectors_are(
    tmp_path: Path, method: str, density: float | None
) -> None:
    base = llama(0, torch.float32)
    there = save(tmp_path / "base.safetensors", base)
    publish = None if density is None else PublishConfig(density=density, selection="tensor")
    deltas, models = [], []
    for seed in range(1, 4):
        fine = save(tmp_path / f"fine{seed}.safetensors", tuned(base, seed, density=0.15))
        deltas.append(pmd(there, fine, publish))
        models.append(restored(there, deltas[-1], tmp_path / f"again{seed}.safetensors"))
    by_entries = merged(tmp_path / "sparse.safetensors", deltas, base=there, method=method)
    whole = merged(tmp_path / "dense.safetensors", models, base=there, method=method)
    assert whole.sparse == 0
    assert bool(by_entries.sparse) == make_method(method, {}).sparse
    sparse, dense = load(tmp_path / "sparse.safetensors"), load(tmp_path / "dense.safetensors")
    for name, tensor in dense.items():
        torch.testing.assert_close(sparse[name], tensor, rtol=1e-5, atol=1e-7)


def restored(base: Path, delta: Path, out: Path) -> Path:
    merged(out, [delta], base=base)
    return out


def test_global_methods_merge_entries_of_all_tensors(tmp_path: Path) -> None:
    base = llama(0, torch.float32)
    there = save(tmp_path / "base.safetensors", base)
    fine = [save(tmp_path / f"f{seed}.safetensors", tuned(base, seed, density=0.1)) for seed in (1, 2)]
    keys: dict[str, Any] = {"base": there, "method": "ties", "parameters": {"scope": "global", "density": 0.05}}
    by_entries = merged(tmp_path / "sparse.safetensors", [pmd(there, path) for path in fine], **keys)
    merged(tmp_path / "dense.safetensors", fine, **keys)
    assert by_entries.sparse == len(base)
    assert same(load(tmp_path / "sparse.safetensors"), load(tmp_path / "dense.safetensors"))


def test_delta_files_and_checkpoints_mix(tmp_path: Path, paths: list[Path]) -> None:
    mixed = [pmd(paths[0], paths[1]), paths[2]]
    assert merged(tmp_path / "mixed.safetensors", mixed, base=paths[0], method="ties").sparse == 0
    merged(tmp_path / "plain.safetensors", paths[1:3], base=paths[0], method="ties")
    assert same(load(tmp_path / "mixed.safetensors"), load(tmp_path / "plain.safetensors"))


def test_delta_files_need_their_base(tmp_path: Path, paths: list[Path]) -> None:
    delta = pmd(paths[0], paths[1])
    with pytest.raises(ConfigError, match="give --base"):
        merged(tmp_path / "out.safetensors", [delta, delta])
    with pytest.raises(ConfigError, match="not that of the base"):
        merged(tmp_path / "out.safetensors", [delta], base=paths[2])


@pytest.mark.parametrize("density", [0.1, 1.0])
@pytest.mark.parametrize(
    ("method", "parameters"), [("ties", {}), ("breadcrumbs", {}), ("weighted-mean", {}), ("ties", {"scope": "global"})]
)
def test_a_lossless_delta_file_merges_as_its_model_bit_for_bit(
    tmp_path: Path, method: str, parameters: dict[str, Any], density: float
) -> None:
    base = llama(0)
    there = save(tmp_path / "base.safetensors", base)
    fine = []
    for seed in (1, 2):
        model = tuned(base, seed, 0.1, density)
        model[EMBED][0, :3] = 1e-20  # far from any grid that serves the others: a patch
        fine.append(save(tmp_path / f"f{seed}.safetensors", model))
    deltas = [pmd(there, path) for path in fine]
    assert any(record.patched for record in read_index(deltas[0]).tensors)
    keys: dict[str, Any] = {"base": there, "method": method, "parameters": parameters, "dtype": "float32"}
    merged(tmp_path / "deltas.safetensors", deltas, **keys)
    merged(tmp_path / "mixed.safetensors", [deltas[0], fine[1]], **keys)
    merged(tmp_path / "models.safetensors", fine, **keys)
    for name in ("deltas", "mixed"):
        assert same(load(tmp_path / f"{name}.safetensors"), load(tmp_path / "models.safetensors")), name


# ---- What does not fit ----


def test_all_that_does_not_fit_is_told_at_once_with_the_flags_to_copy(tmp_path: Path, paths: list[Path]) -> None:
    norm, one, embed = "model.norm.weight", "model.one", "model.embed_tokens.weight"
    odd = {name: tensor for name, tensor in MODELS[0].items() if name not in (norm, one)}
    odd |= {embed: torch.zeros(26, 8, dtype=torch.bfloat16), "added": torch.ones(1)}
    with pytest.raises(ConfigError) as caught:
        merged(tmp_path / "out.safetensors", [save(tmp_path / "odd.safetensors", odd)], base=paths[0])
    text = str(caught.value)
    assert f"2 tensors {norm!r}, {one!r} are missing" in text
    assert f"--ignore {norm} --ignore {one} " in text
    assert f"--ignore {embed} takes the base's" in text
    assert "'added' is not in" in text


def test_models_without_a_common_name_are_refused(tmp_path: Path, paths: list[Path]) -> None:
    other = save(tmp_path / "other.safetensors", {"x": torch.ones(1)})
    with pytest.raises(ConfigError, match="is this the base"):
        merged(tmp_path / "out.safetensors", [other], base=paths[0], missing="skip", extra="drop")
    with pytest.raises(ConfigError, match="no tensor is left to be merged: ignored"):
        merged(tmp_path / "out.safetensors", paths[1:], base=paths[0], ignore=["*"])


def test_a_pattern_that_matches_nothing_is_refused(tmp_path: Path, paths: list[Path]) -> None:
    with pytest.raises(ConfigError, match=r"--ignore model\.nrm\.weight .*'model\.norm\.weight'"):
        merged(tmp_path / "out.safetensors", paths[1:], base=paths[0], ignore=["model.nrm.weight"])


def test_what_is_not_finite_names_the_flag_and_the_base(tmp_path: Path, paths: list[Path]) -> None:
    bad = save(tmp_path / "bad.safetensors", MODELS[0] | {"model.one": torch.tensor([float("nan")]).bfloat16()})
    with pytest.raises(ConfigError, match=r"^\S+bad\.safetensors: 'model\.one' \(--ignore model\.one"):
        merged(tmp_path / "out.safetensors", [bad], base=paths[0])
    with pytest.raises(ConfigError, match=r"^the base: \S+bad\.safetensors: 'model\.one'"):
        merged(tmp_path / "out.safetensors", paths[1:], base=bad)


def test_quantised_weights_are_called_so(tmp_path: Path) -> None:
    quantised = {"a": torch.ones(2), "w": torch.ones(2).to(torch.float8_e4m3fn)}
    paths = [save(tmp_path / "base.safetensors", {"a": torch.ones(2), "w": torch.ones(2)})]
    with pytest.raises(ConfigError, match=r"'w' \(float8_e4m3fn\) is quantised"):
        merged(tmp_path / "out.safetensors", [save(tmp_path / "q.safetensors", quantised)], base=paths[0])


def test_a_base_that_is_a_delta_file_is_to_be_applied_first(tmp_path: Path, paths: list[Path]) -> None:
    with pytest.raises(ConfigError, match="delta apply"):
        merged(tmp_path / "out.safetensors", paths[1:], base=pmd(paths[0], paths[1]))


def test_values_for_each_model_are_as_many_as_models(tmp_path: Path, paths: list[Path]) -> None:
    keys: dict[str, Any] = {"base": paths[0], "method": "ties", "parameters": {"density": [0.2, 0.5]}}
    with pytest.raises(ConfigError, match=r"density = \[0\.2, 0\.5\]: 2 values for 3 models"):
        merged(tmp_path / "out.safetensors", paths[1:], **keys)
    assert not (tmp_path / "out.safetensors.partial").exists()


# ---- Tied weights ----


def twice(model: State, head: torch.Tensor | None = None) -> State:
    return model | {HEAD: model[EMBED].clone() if head is None else head}


@pytest.mark.parametrize("as_deltas", [False, True])
def test_a_tensor_that_is_repeated_everywhere_is_merged_once(tmp_path: Path, as_deltas: bool) -> None:
    paths = [save(tmp_path / f"m{i}.safetensors", twice(model)) for i, model in enumerate([BASE, *MODELS])]
    models = [pmd(paths[0], path) for path in paths[1:]] if as_deltas else paths[1:]
    told = merged(tmp_path / "out.safetensors", models, base=paths[0], method="dare-ties")
    assert told.repeated == {HEAD: EMBED}
    found = load(tmp_path / "out.safetensors")
    assert torch.equal(found[HEAD], found[EMBED])
    assert same(found, twice(merge_state_dicts(make_method("dare-ties", {}), MODELS, base=BASE)))


def test_equal_matrices_that_a_model_parts_are_merged_apart(tmp_path: Path) -> None:
    paths = [save(tmp_path / "base.safetensors", twice(BASE))]
    paths.append(save(tmp_path / "parted.safetensors", twice(MODELS[0], MODELS[1][EMBED])))
    assert merged(tmp_path / "out.safetensors", paths[1:], base=paths[0]).repeated == {}
    assert torch.equal(load(tmp_path / "out.safetensors")[HEAD], MODELS[1][EMBED])


def test_the_configuration_ties_what_a_model_parts(tmp_path: Path) -> None:
    base = save(tmp_path / "base", twice(BASE), 1)
    model = save(tmp_path / "parted", twice(MODELS[0], MODELS[1][EMBED]), 1)
    assert merged(tmp_path / "out", [model], base=base).repeated == {HEAD: EMBED}
    assert same(load(tmp_path / "out"), twice(MODELS[0]))


# ---- What does not fit, tensor by tensor ----


def test_a_missing_tensor_is_an_error_or_a_choice(tmp_path: Path, paths: list[Path]) -> None:
    name = "model.norm.weight"
    less = save(tmp_path / "less.safetensors", {n: t for n, t in MODELS[1].items() if n != name})
    models = [paths[1], less]
    with pytest.raises(ConfigError, match=r"less\.safetensors: tensor 'model\.norm\.weight' is missing"):
        merged(tmp_path / "out.safetensors", models, base=paths[0])
    told = merged(tmp_path / "based.safetensors", models, base=paths[0], missing="base")
    assert told.missing == {str(less): [name]}
    half = BASE[name].float() + (MODELS[0][name].float() - BASE[name].float()) / 2
    assert torch.equal(load(tmp_path / "based.safetensors")[name], half.to(torch.bfloat16))
    merged(tmp_path / "skipped.safetensors", models, base=paths[0], missing="skip")
    assert torch.equal(load(tmp_path / "skipped.safetensors")[name], MODELS[0][name])
    with pytest.raises(ConfigError, match="needs a base"):
        merged(tmp_path / "out.safetensors", models, missing="base")


def test_a_tensor_missing_as_it_is_tied_is_the_models_own(tmp_path: Path) -> None:
    embed, head = "model.embed_tokens.weight", "lm_head.weight"
    base = save(tmp_path / "base.safetensors", BASE | {head: BASE[embed].clone()})
    models = [save(tmp_path / "tied.safetensors", MODELS[0])]
    with pytest.raises(ConfigError, match=r"--missing tied takes its 'model\.embed_tokens\.weight'"):
        merged(tmp_path / "out.safetensors", models, base=base)
    told = merged(tmp_path / "out.safetensors", models, base=base, missing="tied")
    assert told.tied == {str(models[0]): {head: embed}}
    assert same(load(tmp_path / "out.safetensors"), MODELS[0] | {head: MODELS[0][embed]})
    less = save(tmp_path / "less.safetensors", {n: t for n, t in MODELS[0].items() if n != "model.norm.weight"})
    with pytest.raises(ConfigError, match=r"'model\.norm\.weight' is missing: --missing base"):
        merged(tmp_path / "none.safetensors", [less], base=base, missing="tied", extra="drop")


def test_a_tensor_that_nobody_has_is_the_bases_by_choice(tmp_path: Path, paths: list[Path]) -> None:
    name = "model.norm.weight"
    less = save(tmp_path / "less.safetensors", {n: t for n, t in MODELS[1].items() if n != name})
    told = merged(tmp_path / "out.safetensors", [less], base=paths[0], missing="skip")
    assert told.kept == {name: "no model has it"}
    assert torch.equal(load(tmp_path / "out.safetensors")[name], BASE[name])


def test_an_extra_tensor_is_an_error_or_a_choice_and_a_tied_one_is_told(tmp_path: Path, paths: list[Path]) -> None:
    more = MODELS[1] | {"lm_head.weight": MODELS[1]["model.embed_tokens.weight"].clone()}
    models = [paths[1], save(tmp_path / "more.safetensors", more)]
    with pytest.raises(ConfigError, match=r"'lm_head\.weight' \(a copy of 'model\.embed_tokens\.weight'\)"):
        merged(tmp_path / "out.safetensors", models, base=paths[0])
    told = merged(tmp_path / "out.safetensors", models, base=paths[0], extra="drop")
    assert told.dropped == {str(models[1]): ["lm_head.weight"]}
    assert load(tmp_path / "out.safetensors").keys() == BASE.keys()


def test_another_vocabulary_is_an_error_or_the_bases(tmp_path: Path, paths: list[Path]) -> None:
    name = "model.embed_tokens.weight"
    longer = MODELS[1] | {name: torch.cat([MODELS[1][name], torch.zeros(2, 8, dtype=torch.bfloat16)])}
    models = [paths[1], save(tmp_path / "longer.safetensors", longer)]
    with pytest.raises(ConfigError, match=r"shape \(26, 8\).*\(24, 8\): another vocabulary"):
        merged(tmp_path / "out.safetensors", models, base=paths[0])
    told = merged(tmp_path / "out.safetensors", models, base=paths[0], ignore=["*embed*"])
    assert told.kept == {name: "ignored"}
    assert torch.equal(load(tmp_path / "out.safetensors")[name], BASE[name])
    other = MODELS[1] | {"model.norm.weight": torch.zeros(4, 2, dtype=torch.bfloat16)}
    with pytest.raises(ConfigError, match=r"\(4, 2\).*--ignore model\.norm\.weight"):
        merged(tmp_path / "none.safetensors", [save(tmp_path / "o.safetensors", other)], base=paths[0])


@pytest.mark.parametrize("as_delta", [False, True])
def test_integers_are_kept_if_equal_and_else_an_error_or_the_bases(tmp_path: Path, as_delta: bool) -> None:
    def written(name: str, model: State, steps: int) -> Path:
        return save(tmp_path / f"{name}.safetensors", model | {"steps": torch.tensor(steps)})

    base, same_, other = written("base", BASE, 5), written("same", MODELS[0], 5), written("other", MODELS[1], 6)
    if as_delta:
        same_, other = pmd(base, same_), pmd(base, other)
    assert merged(tmp_path / "a.safetensors", [same_], base=base).kept == {"steps": "not of weights"}
    with pytest.raises(ConfigError, match=r"'steps' \(int64\).*differs.*--integers base"):
        merged(tmp_path / "b.safetensors", [same_, other], base=base)
    merged(tmp_path / "b.safetensors", [same_, other], base=base, integers="base")
    assert load(tmp_path / "b.safetensors")["steps"] == 5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_by_file_and_tensor(tmp_path: Path, paths: list[Path], value: float) -> None:
    bad = MODELS[1] | {"model.norm.weight": MODELS[1]["model.norm.weight"].clone()}
    bad["model.norm.weight"][3] = value
    with pytest.raises(ConfigError, match=r"bad\.safetensors: 'model\.norm\.weight'.*not finite"):
        merged(tmp_path / "out.safetensors", [paths[1], save(tmp_path / "bad.safetensors", bad)], base=paths[0])
    assert not (tmp_path / "out.safetensors").exists()


def test_large_finite_values_are_not_taken_for_infinities(tmp_path: Path) -> None:
    base, fine = {"a": torch.zeros(9)}, {"a": torch.full((9,), 3e38)}
    there = [save(tmp_path / "b.safetensors", base), save(tmp_path / "f.safetensors", fine)]
    merged(tmp_path / "out.safetensors", there[1:], base=there[0])
    assert same(load(tmp_path / "out.safetensors"), fine)


def test_types_may_differ_and_the_result_has_the_bases_or_the_one_asked_for(tmp_path: Path, paths: list[Path]) -> None:
    wide = save(tmp_path / "wide.safetensors", {name: tensor.float() for name, tensor in MODELS[0].items()})
    merged(tmp_path / "a.safetensors", [wide], base=paths[0])
    assert same(load(tmp_path / "a.safetensors"), MODELS[0])
    merged(tmp_path / "b.safetensors", [wide], base=paths[0], dtype="float32", ignore=["*norm*"])
    assert {tensor.dtype for tensor in load(tmp_path / "b.safetensors").values()} == {torch.float32}


# ---- Settings ----


def test_weights_differ_by_name_and_depth(tmp_path: Path, paths: list[Path]) -> None:
    weights: list[Any] = [
        {"cases": [{"match": "*mlp*", "value": 0.0}, {"match": "*.layers.*", "value": {"gradient": [1.0, 0.0]}}]},
        {"cases": [{"match": "*mlp*", "value": 1.0}, {"match": "*.layers.*", "value": {"gradient": [0.0, 1.0]}}]},
    ]
    merged(tmp_path / "out.safetensors", paths[1:3], base=paths[0], weights=weights)
    found = load(tmp_path / "out.safetensors")
    first, second = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight"
    assert torch.equal(found[first], MODELS[0][first])
    assert torch.equal(found[second], MODELS[1][second])
    mlp = "model.layers.0.mlp.down_proj.weight"
    assert torch.equal(found[mlp], MODELS[1][mlp])
    mean = merge_state_dicts(make_method("weighted-mean", {}), MODELS[:2], base=BASE)
    assert torch.equal(found["model.norm.weight"], mean["model.norm.weight"])


def test_parameters_differ_by_depth_and_by_model(tmp_path: Path, paths: list[Path]) -> None:
    scale = {"gradient": [0.0, 1.0]}
    merged(tmp_path / "a.safetensors", paths[1:2], base=paths[0], method="task-arithmetic", parameters={"scale": scale})
    found = load(tmp_path / "a.safetensors")
    for name in BASE:
        assert torch.equal(found[name], (MODELS[0] if ".1." in name else BASE)[name]), name
    each: dict[str, Any] = {"density": {"each": [0.5, {"gradient": [0.25, 0.25]}]}}
    merged(tmp_path / "b.safetensors", paths[1:3], base=paths[0], method="ties", parameters=each)
    expected = merge_state_dicts(make_method("ties", {"density": (0.5, 0.25)}), MODELS[:2], base=BASE)
    assert same(load(tmp_path / "b.safetensors"), expected)


def test_what_sees_all_tensors_cannot_differ_among_them(tmp_path: Path, paths: list[Path]) -> None:
    parameters = {"scope": "global", "density": {"gradient": [0.1, 0.5]}}
    with pytest.raises(ConfigError, match="all tensors at once"):
        merged(tmp_path / "out.safetensors", paths[1:], base=paths[0], method="ties", parameters=parameters)


def test_names_of_other_libraries_lead_to_the_same_merge(tmp_path: Path, paths: list[Path]) -> None:
    theirs = {"density": 0.3, "lambda": 0.5, "normalize": False}
    ours = {"density": 0.3, "scale": 0.5, "aggregate": "sum"}
    merged(tmp_path / "a.safetensors", paths[1:], base=paths[0], method="mergekit:ties", parameters=theirs)
    merged(tmp_path / "b.safetensors", paths[1:], base=paths[0], method="ties", parameters=ours)
    assert same(load(tmp_path / "a.safetensors"), load(tmp_path / "b.safetensors"))
    with pytest.raises(ConfigError, match="did you mean 'mergekit:ties'"):
        merged(tmp_path / "c.safetensors", paths[1:], base=paths[0], method="mergekit:tise")
    with pytest.raises(ConfigError, match="did you mean 'mergekit:linear', which is weighted-mean here"):
        merged(tmp_path / "c.safetensors", paths[1:], base=paths[0], method="linear")


def test_statistics_are_asked_for_by_name(tmp_path: Path, paths: list[Path]) -> None:
    with pytest.raises(ConfigError, match="give --statistics"):
        merged(tmp_path / "out.safetensors", paths[1:], base=paths[0], method=min(NEEDY))


def test_statistics_weigh_entries(tmp_path: Path, paths: list[Path]) -> None:
    fishers = [{name: torch.rand(t.shape) for name, t in BASE.items()} for _ in range(2)]
    files = [save(tmp_path / f"fisher{i}.safetensors", fisher) for i, fisher in enumerate(fishers)]
    keys: dict[str, Any] = {"base": paths[0], "method": "fisher", "statistics": {"fisher": files}}
    merged(tmp_path / "out.safetensors", paths[1:3], **keys)
    expected = merge_state_dicts(make_method("fisher", {}), MODELS[:2], base=BASE, statistics={"fisher": fishers})
    assert same(load(tmp_path / "out.safetensors"), expected)
    with pytest.raises(ConfigError, match="2 files for 3 models"):
        merged(tmp_path / "none.safetensors", paths[1:], **keys)


def test_statistics_that_nothing_is_made_of_are_refused(tmp_path: Path, paths: list[Path]) -> None:
    fisher = save(tmp_path / "fisher.safetensors", {name: torch.ones(t.shape) for name, t in BASE.items()})
    other = save(tmp_path / "other.safetensors", {f"module.{name}": torch.ones(t.shape) for name, t in BASE.items()})
    keys: dict[str, Any] = {"base": paths[0], "method": "fisher"}
    with pytest.raises(ConfigError, match="--statistics gram: fisher does not look at them"):
        merged(tmp_path / "a.safetensors", paths[1:2], **keys, statistics={"fisher": [fisher], "gram": [fisher]})
    with pytest.raises(ConfigError, match=r"other\.safetensors has no tensor of a name that is merged"):
        merged(tmp_path / "b.safetensors", paths[1:2], **keys, statistics={"fisher": [other]})


def test_lines_count_the_blocks_of_the_base(tmp_path: Path, paths: list[Path]) -> None:
    keys: dict[str, Any] = {"base": paths[0]}
    merged(tmp_path / "counted.safetensors", paths[1:], **keys, after=[{"step": "lines"}])
    merged(tmp_path / "given.safetensors", paths[1:], **keys, after=[{"step": "lines", "blocks": 2}])
    assert same(load(tmp_path / "counted.safetensors"), load(tmp_path / "given.safetensors"))
    assert not same(load(tmp_path / "given.safetensors"), BASE)


# ---- Output ----


@pytest.mark.parametrize("shard_bytes", [None, 250])
def test_folders_get_shards_index_and_what_stands_beside_the_weights(tmp_path: Path, shard_bytes: int | None) -> None:
    base = save(tmp_path / "base", BASE, 3)
    (base / "original").mkdir()
    (base / "consolidated.bin").write_text("weights")
    models = [save(tmp_path / f"m{i}", model, 1) for i, model in enumerate(MODELS)]
    told = merged(tmp_path / "out", models, shard_bytes, base=base, method="ties")
    assert told.left_behind == ["consolidated.bin", "original"]
    expected = merge_state_dicts(make_method("ties", {}), MODELS, base=BASE)
    assert same(load(tmp_path / "out"), expected)
    with Checkpoint.open(tmp_path / "out") as found:
        assert [extra.name for extra in found.extras] == ["config.json", "tokenizer.json"]
        assert (len(found.files) == 3) == (shard_bytes is None)
        sizes = [sum(t.nbytes for t in found.tensors.values() if t.file == file) for file in found.files]
        assert shard_bytes is None or max(sizes) <= 384
    assert json.loads((tmp_path / "out" / "peermerge.json").read_text())["merged"] == told.merged == len(BASE)
    with safe_open(found.files[0], "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_what_exists_is_never_overwritten(tmp_path: Path, paths: list[Path]) -> None:
    before = paths[1].read_bytes()
    with pytest.raises(ConfigError, match="exists"):
        merged(paths[1], paths[1:], base=paths[0])
    with pytest.raises(ConfigError, match="there is no folder"):
        merged(tmp_path / "absent" / "out.safetensors", paths[1:], base=paths[0])
    for name in ("out.json", "out.yaml", "out.gguf"):
        with pytest.raises(ConfigError, match=r"\.safetensors file or a folder"):
            merged(tmp_path / name, paths[1:], base=paths[0])
        assert not (tmp_path / f"{name}.partial").exists()
    assert paths[1].read_bytes() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("sparse", [False, True])
def test_a_device_gives_what_the_processor_gives(tmp_path: Path, sparse: bool) -> None:
    base = llama(0, torch.float32)
    paths = [save(tmp_path / "base.safetensors", base)]
    for seed in (1, 2, 3):
        paths.append(save(tmp_path / f"fine{seed}.safetensors", tuned(base, seed, density=0.1)))
    models = [pmd(paths[0], path) for path in paths[1:]] if sparse else paths[1:]
    recipe = parse(Recipe, {"base": paths[0], "method": "ties", "models": [{"path": path} for path in models]}, "test")
    merge(recipe, tmp_path / "cpu.safetensors")
    assert bool(merge(recipe, tmp_path / "cuda.safetensors", device="cuda").sparse) == sparse
    for name, tensor in load(tmp_path / "cpu.safetensors").items():
        torch.testing.assert_close(load(tmp_path / "cuda.safetensors")[name], tensor)


@pytest.mark.parametrize("method", [name for name in METHODS if make_method(name, {}).elementwise])
@pytest.mark.parametrize("relative", [True, False])
def test_long_tensors_merged_in_parts_are_those_merged_whole(tmp_path: Path, method: str, relative: bool) -> None:
    random = torch.Generator().manual_seed(5)
    models = [
        {"long": torch.randn(2 * BLOCK + 77, generator=random).bfloat16(), "one": torch.ones(1)} for _ in range(4)
    ]
    paths = [save(tmp_path / f"{i}.safetensors", model) for i, model in enumerate(models)]
    out = tmp_path / "out.safetensors"
    merged(out, paths[1:], base=paths[0] if relative else None, method=method)
    whole = merge_state_dicts(make_method(method, {}), models[1:], base=models[0] if relative else None)
    assert same(load(out), whole)
