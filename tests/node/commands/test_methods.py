from __future__ import annotations

import json

import pytest

from peermerge.node.merging import METHODS, STEPS
from peermerge.node.merging.aliases import ALIASES

from .command_line import run


def test_all_methods_and_steps_are_listed() -> None:
    done = run("methods")
    assert done.code == 0
    assert all(name in done.out for name in [*METHODS, *STEPS])


def test_each_has_a_line_of_its_own_under_its_family() -> None:
    lines = run("methods").out.splitlines()
    for family, name in (("Means", "weighted-mean"), ("Robust rules", "clip"), ("Steps after a method", "lines")):
        assert lines[lines.index(family) + 1].split()[0] == name
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    assert listed == [*METHODS, *STEPS]


def test_what_is_listed_is_data_too() -> None:
    found = {entry["name"]: entry for entry in json.loads(run("methods", "--json").out)}
    assert found.keys() == METHODS.keys() | STEPS.keys()
    assert found["slerp"]["needs"] == ["base"]
    assert found["ties"]["parameters"]["density"] == 0.2
    assert "mergekit:ties" in found["ties"]["aliases"]
    assert {entry["kind"] for entry in found.values()} == {"method", "step"}
    assert all(entry["summary"] and entry["scope"] in ("tensor", "global") for entry in found.values())


def test_every_alias_leads_to_one_of_ours_and_its_own_names_to_parameters() -> None:
    for name, alias in ALIASES.items():
        one = json.loads(run("methods", name, "--json").out)
        assert one["name"] == alias.method
        ours = {key.removeprefix("1 - ") for key in alias.names.values()} | alias.parameters.keys()
        assert ours <= one["parameters"].keys() | {"weights"}, name


def test_one_method_is_told_whole() -> None:
    done = run("methods", "ties")
    assert "arXiv 2306.01708" in done.out
    assert "density = 0.2" in done.out
    assert "aggregate = 'mean' (choose from 'mean', 'sum', 'max')" in done.out
    assert "lambda is scale" in run("methods", "mergekit:ties").out


@pytest.mark.parametrize("name", ["tise", "mergekit:tise"])
def test_a_mistyped_method_is_corrected(name: str) -> None:
    done = run("methods", name)
    assert done.code == 2
    assert "did you mean" in done.err


def test_another_librarys_name_leads_to_ours() -> None:
    assert "did you mean 'mergekit:linear', which is weighted-mean here?" in run("methods", "linear").err
