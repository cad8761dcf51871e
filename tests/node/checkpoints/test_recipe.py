from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from peermerge.node.checkpoints.depth import along, depths
from peermerge.node.checkpoints.known import known_method, translated
from peermerge.node.checkpoints.merging import merge
from peermerge.node.checkpoints.recipe import Recipe, read_recipe
from peermerge.node.checkpoints.settings import Cases, Gradient, evaluate
from peermerge.node.merging import make_method
from peermerge.node.merging.aliases import Alias
from peermerge.node.merging.state_dicts import merge_state_dicts
from peermerge.protocol.errors import ConfigError

from .models import llama, load, same, save, tuned

TOML = """
base = "base.safetensors"
method = "ties"
dtype = "float32"
seed = 3
ignore = ["*.one"]

[parameters]
density = { gradient = [0.2, 0.6] }
scale = 0.7

[[models]]
path = "m1.safetensors"
weight = { cases = [{ match = "*mlp*", value = 0.5 }, { value = 1.0 }] }

[[models]]
path = "m2.safetensors"

[[after]]
step = "lines"
alpha = 1.0
beta = 0.0
blocks = 2
"""
TIES = """
merge_method: ties
base_model: base.safetensors
models:
  - model: base.safetensors
  - model: m1.safetensors
    parameters: {weight: 0.5, density: 0.6}
  - model: m2.safetensors
    parameters: {weight: [0.25, 1.0], density: 0.3}
parameters:
  normalize: false
  lambda: 0.8
  int8_mask: true
dtype: bfloat16
out_dtype: float32
tokenizer_source: union
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a base and two models."""
    base = llama(0)
    for name, model in {"base": base, "m1": tuned(base, 1), "m2": tuned(base, 2)}.items():
        save(tmp_path / f"{name}.safetensors", model)
    return tmp_path


def written(folder: Path, text: str, name: str = "recipe.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_recipe_says_all_that_flags_say(folder: Path) -> None:
    recipe, notices = read_recipe(written(folder, TOML, "recipe.toml"))
    assert (recipe.base, recipe.method, recipe.seed, notices) == (folder / "base.safetensors", "ties", 3, [])
    told = merge(recipe, folder / "out.safetensors")
    assert told.kept == {"model.one": "ignored"}
    found = load(folder / "out.safetensors")
    base, models = llama(0), [tuned(llama(0), 1), tuned(llama(0), 2)]
    for name in base.keys() - {"model.one"}:
        method = make_method("ties", {"density": 0.6 if ".1." in name else 0.2, "scale": 0.7})
        weights = [0.5 if "mlp" in name else 1.0, 1.0]
        wide = {name: base[name].float()}
        expected = merge_state_dicts(method, [{name: m[name]} for m in models], base=wide, weights=weights, seed=3)
        torch.testing.assert_close(found[name], expected[name])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models = [", "not valid TOML"),
        ("", "models"),
        ("models = []", "models"),
        ("metod = 'ties'\nmodels = [{path = 'a'}]", "did you mean 'method'"),
        ("models = [{path = 'a', weigth = 1}]", "unknown key 'models.0.weigth'"),
        ("models = [{path = 'a', weight = {gradient = []}}]", "gradient"),
        ("models = [{path = 'a', weight = nan}]", "weight"),
        ("models = [{path = 'a'}]\ndtype = 'int8'", "dtype"),
        ("models = [{path = 'a'}]\nmissing = 'drop'", "missing"),
    ],
)
def test_a_wrong_recipe_is_named_with_the_cure(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_recipe(written(tmp_path, text, "recipe.toml"))
    assert "recipe.toml" in str(caught.value)


def test_paths_may_begin_at_home_and_types_have_short_names(tmp_path: Path) -> None:
    text = "base = '~/base'\nmodels = [{path = '~/a'}]\ndtype = 'bf16'\nstatistics = {fisher = ['~/f']}"
    recipe, _ = read_recipe(written(tmp_path, text, "recipe.toml"))
    home = Path.home()
    assert (recipe.base, recipe.models[0].path, recipe.statistics) == (
        home / "base",
        home / "a",
        {"fisher": [home / "f"]},
    )
    assert recipe.dtype == "bfloat16"


def test_a_recipe_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent"):
        read_recipe(tmp_path / "absent.toml")


def test_gradients_are_piecewise_linear_over_the_blocks_and_first_elsewhere() -> None:
    names = ["embed.weight", *(f"model.layers.{n}.w" for n in range(5)), "vision.blocks.0.w", "norm.weight"]
    found = depths(names)
    assert found == {f"model.layers.{n}.w": n / 4 for n in range(5)} | {"vision.blocks.0.w": 1.0}
    gradient = Gradient(gradient=[0.0, 1.0, 0.0])
    values = [evaluate(gradient, name, found.get(name, 0.0)) for name in names]
    assert values == [0.0, 0.0, 0.5, 1.0, 0.5, 0.0, 0.0, 0.0]
    assert along([3.0], 0.4) == 3.0


def test_the_first_case_that_matches_counts_and_none_is_not_set() -> None:
    cases = Cases.model_validate({"cases": [{"match": "*.mlp.*", "value": 1}, {"match": "*.0.*", "value": 2}]})
    assert evaluate(cases, "layers.0.mlp.up", 0.0) == 1
    assert evaluate(cases, "layers.0.attn", 0.0) == 2
    assert evaluate(cases, "norm", 0.0, "absent") == "absent"


def test_names_values_and_complements_of_other_libraries_are_translated() -> None:
    alias = Alias(
        "ties",
        {"variant": "official"},
        {"lambda": "scale", "drop": "1 - density", "normalize": "aggregate"},
        {"normalize": {True: "mean", False: "sum"}},
    )
    theirs: dict[str, Any] = {"lambda": 0.5, "drop": [0.25, 0.5], "normalize": False, "rescale": True}
    assert translated(alias, theirs) == {
        "variant": "official",
        "scale": 0.5,
        "density": [0.75, 0.5],
        "aggregate": "sum",
        "rescale": True,
    }
    wrong: list[dict[str, Any]] = [{"drop": "half"}, {"normalize": "yes"}, {"normalize": []}]
    for bad in wrong:
        with pytest.raises(ConfigError, match=next(iter(bad))):
            translated(alias, bad)
    with pytest.raises(ConfigError, match=r"mergekit:ties \(ties here\)"):
        known_method("mergekit:ties", {"densty": 0.5})


# ---- mergekit ----


def test_mergekits_recipe_is_read_with_weights_densities_and_gradients(folder: Path) -> None:
    recipe, notices = read_recipe(written(folder, TIES))
    assert notices == ["tokenizer_source has no effect: the tokenizer is the base's"]
    merge(recipe, folder / "out.safetensors")
    found = load(folder / "out.safetensors")
    base, models = llama(0), [tuned(llama(0), 1), tuned(llama(0), 2)]
    method = make_method("ties", {"density": (0.6, 0.3), "scale": 0.8, "aggregate": "sum"})
    for name in base:
        weights = [0.5, 1.0 if ".1." in name else 0.25]
        wide = {name: base[name].float()}
        expected = merge_state_dicts(method, [{name: m[name]} for m in models], base=wide, weights=weights)
        torch.testing.assert_close(found[name], expected[name])


def test_mergekits_filters_are_parts_of_names(folder: Path) -> None:
    text = """
merge_method: linear
models:
  - model: m1.safetensors
    parameters: {weight: [{filter: mlp, value: 0}, {filter: "norm[", value: 9}, {value: 1}]}
  - model: m2.safetensors
    parameters: {weight: [{filter: mlp, value: 1e0}, {value: 0}]}
"""
    merge(read_recipe(written(folder, text))[0], folder / "out.safetensors")
    first, second = tuned(llama(0), 1), tuned(llama(0), 2)
    chosen = {name: (second if "mlp" in name else first)[name] for name in first}
    assert same(load(folder / "out.safetensors"), chosen)


def test_a_slice_of_everything_is_a_merge_of_models(folder: Path) -> None:
    text = """
merge_method: slerp
base_model: base.safetensors
slices:
  - sources:
      - {model: base.safetensors, layer_range: [0, 2]}
      - {model: m1.safetensors, layer_range: [0, 2]}
parameters:
  t: [{filter: self_attn, value: [0, 1]}, {value: 0.5}]
"""
    recipe, _ = read_recipe(written(folder, text))
    assert [model.path.name for model in recipe.models] == ["m1.safetensors"]
    merge(recipe, folder / "out.safetensors")
    found, fine = load(folder / "out.safetensors"), tuned(llama(0), 1)
    name = "model.layers.1.self_attn.q_proj.weight"
    torch.testing.assert_close(found[name], fine[name])
    half = merge_state_dicts(make_method("slerp", {"t": 0.5}), [fine], base=llama(0))
    assert torch.equal(found["model.norm.weight"], half["model.norm.weight"])
    with pytest.raises(ConfigError, match=r"layer_range \[0, 1\].*have 2 layers"):
        read_recipe(written(folder, text.replace("[0, 2]", "[0, 1]")))


def test_methods_without_a_base_merge_it_as_one_of_the_models(folder: Path) -> None:
    models = "models: [{model: m1.safetensors}, {model: m2.safetensors}]"
    text = f"merge_method: karcher\nbase_model: base.safetensors\n{models}"
    recipe, _ = read_recipe(written(folder, text))
    assert recipe.base is None
    assert [model.path.stem for model in recipe.models] == ["m1", "m2", "base"]
    listed, _ = read_recipe(written(folder, text.replace("m1", "base")))
    assert [model.path.stem for model in listed.models] == ["base", "m2"]
    with pytest.raises(ConfigError, match="merges the base_model, too"):
        read_recipe(written(folder, text.replace("karcher", "linear")))


def test_weights_that_mergekit_does_not_look_at_have_no_effect(folder: Path) -> None:
    models = "models: [{model: m1.safetensors, parameters: {weight: 3}}]"
    text = f"merge_method: sce\nbase_model: base.safetensors\n{models}"
    recipe, notices = read_recipe(written(folder, text))
    assert recipe.models[0].weight == 1.0
    assert notices == ["weight has no effect: mergekit's sce merges models as equals"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("merge_method: ties", "merge_method: della_quadratic"), "della_quadratic is not supported; these are"),
        (("merge_method: ties", "x: 1"), "no merge_method"),
        (("base_model: base.safetensors\n", ""), "ties needs a base_model"),
        (("tokenizer_source", "modules"), "modules is not supported"),
        (("m1.safetensors", "m1.safetensors+lora"), "adapters are not supported"),
        (("weight: 0.5, density: 0.6", "weight: 0.5"), "density is given for some models"),
        (("[0.25, 1.0]", "[a, b]"), "only numbers can change with depth"),
        (("models:\n", "models: 3\nmore:\n"), "more is not supported"),
        (("parameters:\n  normalize", "parameters: 5\ntokenizer:\n  normalize"), "parameters is not supported"),
        (("base_model: base.safetensors", "base_model: {model: x}"), "base_model is not supported"),
        (("- model: m2.safetensors", "- module: m2.safetensors"), "give its path"),
        (("merge_method: ties", "merge_method: [ties"), "not valid YAML"),
        (("merge_method: ties", "merge_method: !!python/object:os.system ties"), "not valid YAML"),
    ],
    ids=range(13),
)
def test_what_is_not_supported_is_named(folder: Path, change: tuple[str, str], message: str) -> None:
    assert change[0] in TIES
    with pytest.raises(ConfigError, match=message):
        read_recipe(written(folder, TIES.replace(*change)))


def test_recipes_are_data() -> None:
    schema = Recipe.model_json_schema()
    assert set(schema["required"]) == {"models"}


def test_the_recipe_on_the_page_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "merging-files.md").read_text()
    block = page[page.index('    base = "base"') :].partition("\n\nA weight")[0]
    recipe, _ = read_recipe(written(tmp_path, "\n".join(line[4:] for line in block.splitlines()), "recipe.toml"))
    assert set(Recipe.model_fields) == recipe.model_fields_set


def test_a_mistyped_key_of_a_model_is_told_by_its_nearest(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('[[models]]\npath = "a"\nweigth = 1.0\n')
    with pytest.raises(ConfigError, match=r"models\.0\.weigth'; did you mean 'weight'"):
        read_recipe(tmp_path / "recipe.toml")
