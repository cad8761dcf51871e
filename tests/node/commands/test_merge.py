from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file, save_file

from peermerge.node.commands.merge import measured, step
from peermerge.protocol.errors import ConfigError

from .command_line import run


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    """Write a base and two models that moved one entry each."""
    values = ([0.0, 0.0, 1.0], [1.0, 0.0, 1.0], [0.0, 3.0, 1.0])
    paths = [str(tmp_path / f"m{i}.safetensors") for i in range(3)]
    for path, value in zip(paths, values, strict=True):
        save_file({"a": torch.tensor(value), "steps": torch.tensor(4)}, path)
    return paths


def test_models_are_merged_and_the_rest_is_told(models: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    done = run("merge", "--base", models[0], "--weights", "1,3", *models[1:], "-o", str(out))
    assert (done.code, done.err) == (0, "")
    assert done.out == f"{out}: 1 tensors merged\nas in the base (not of weights): steps\n"
    assert load_file(out)["a"].tolist() == [0.25, 2.25, 1.0]


def test_parameters_steps_and_type_are_set_by_flags(models: list[str], tmp_path: Path) -> None:
    out = str(tmp_path / "out.safetensors")
    flags = ["--method", "task-arithmetic", "--set", "scale=2", "--after", "lines:alpha=0.5,beta=0,blocks=1"]
    done = run("merge", "--base", models[0], *flags, "--dtype", "float16", *models[1:], "-o", out, "--json")
    assert json.loads(done.out)["recipe"]["after"] == [{"step": "lines", "alpha": 0.5, "beta": 0, "blocks": 1}]
    assert load_file(out)["a"].tolist() == [1.0, 3.0, 1.0]
    assert load_file(out)["a"].dtype == torch.float16


def test_changes_of_nothing_are_noted(models: list[str], tmp_path: Path) -> None:
    done = run("merge", "--method", "ties", *models[1:], "-o", str(tmp_path / "out.safetensors"))
    assert done.err.startswith("note: ties merges the weights themselves")


def test_without_a_base_the_first_model_is_said_to_decide(models: list[str], tmp_path: Path) -> None:
    done = run("merge", *models[1:], "-o", str(tmp_path / "out.safetensors"))
    assert f"names, types and configuration: as in {models[1]}, the first model" in done.out
    assert f"as in {models[1]} (not of weights): steps" in done.out


def test_tied_weights_are_told(tmp_path: Path) -> None:
    path = str(tmp_path / "tied.safetensors")
    save_file({"embed": torch.eye(2), "head": torch.eye(2)}, path)
    done = run("merge", "--base", path, path, "-o", str(tmp_path / "out.safetensors"), "--dtype", "fp16")
    assert "1 tensors merged" in done.out
    assert "merged once and written twice, as they are tied: head as embed" in done.out
    assert load_file(tmp_path / "out.safetensors")["head"].dtype == torch.float16


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_named(models: list[str], tmp_path: Path) -> None:
    done = run("merge", *models, "-o", str(tmp_path / "out.safetensors"), "--device", "cuda")
    assert done.code == 2
    assert "there is no CUDA device here" in done.err


def test_a_recipe_takes_no_flags_beside_it(models: list[str], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('models = [{path = "m1.safetensors"}, {path = "m2.safetensors", weight = 3}]')
    done = run("merge", str(recipe), "-o", str(tmp_path / "out.safetensors"))
    assert done.code == 0
    assert load_file(tmp_path / "out.safetensors")["a"].tolist() == [0.25, 2.25, 1.0]
    for flag in ("--method=ties", "--weights=1", "--set=density=0.5"):
        done = run("merge", str(recipe), flag, "-o", str(tmp_path / "other.safetensors"))
        assert done.code == 2
        assert flag.partition("=")[0] in done.err


def test_mergekits_recipe_notes_what_has_no_effect(models: list[str], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yml"
    recipe.write_text("merge_method: linear\nchat_template: auto\nmodels: [{model: m1.safetensors}]")
    done = run("merge", str(recipe), "-o", str(tmp_path / "out.safetensors"))
    assert done.err == "note: chat_template has no effect: the chat template is the base's\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "tise"], "did you mean 'ties'"),
        (["--set", "densty=1", "--method", "ties"], "did you mean 'density'"),
        (["--set", "density"], "write key=value"),
        (["--weights", "1"], "1 numbers for 2 models"),
        (["--weights", "1,x"], "write numbers"),
        (["--weights", "1,nan"], "error: --weights 1,nan: write finite numbers"),
        (["--missing", "drop"], "missing"),
        (["--dtype", "int8"], "dtype"),
        (["--shard-size", "big"], "5GB"),
        (["--statistics", "fisher"], "KIND=FILE"),
        (["--after", "lins"], "lines"),
        (["--method", "fisher"], "--statistics"),
        (["--device", "quantum"], "quantum"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_flags_are_the_users_to_mend(models: list[str], tmp_path: Path, flags: list[str], message: str) -> None:
    done = run("merge", "--base", models[0], *flags, *models[1:], "-o", str(tmp_path / "out.safetensors"))
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "out.safetensors").exists()


def test_an_interruption_says_that_the_merge_goes_on(models: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    with patch("peermerge.node.commands.progress.BytesBar.told", side_effect=[None, KeyboardInterrupt]):
        done = run("merge", "--base", models[0], *models[1:], "-o", str(out))
    assert done.code == 130
    assert "out.safetensors.partial keeps what is done" in done.err
    assert "1 found from an earlier run" in run("merge", "--base", models[0], *models[1:], "-o", str(out)).out


def test_options_with_several_parts_are_read() -> None:
    assert step("lines") == {"step": "lines"}
    assert measured(["fisher=a", "gram=b", "fisher=c=d"]) == {"fisher": ["a", "c=d"], "gram": ["b"]}
    with pytest.raises(ConfigError):
        measured(["fisher="])
