from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from peermerge.node.config import NodeConfig, SimulationConfig
from peermerge.node.template import template, toml

SCALARS = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@pytest.mark.parametrize("model", [NodeConfig, SimulationConfig])
def test_the_template_parses_back_to_the_defaults(model: type[BaseModel]) -> None:
    assert model.model_validate(tomllib.loads(template(model))) == model()


@pytest.mark.parametrize("model", [NodeConfig, SimulationConfig])
def test_every_key_stands_in_the_template(model: type[BaseModel]) -> None:
    lines = template(model).splitlines()
    for name, field in model.model_fields.items():
        if isinstance(field.default, BaseModel):
            assert f"[{name}]" in lines
            for key in type(field.default).model_fields:
                assert any(line.removeprefix("# ").startswith(f"{key} =") for line in lines), key


def test_keys_are_explained_by_their_docstrings_and_choices_by_their_types() -> None:
    text = template(NodeConfig)
    assert "# Training steps between two rounds.\nlocal_steps = 10" in text
    assert 'One of "sync", "async".' in text
    assert 'One of "measured", or a number.' in text
    assert "# What is trained.\n[task]" in text


def test_a_key_without_a_default_value_is_commented_out() -> None:
    assert "\n# advertise =\n" in template(NodeConfig)


def test_comments_are_short_enough_to_read() -> None:
    assert max(map(len, template(NodeConfig).splitlines())) <= 100


@given(VALUES)
def test_any_value_survives_toml(value: object) -> None:
    assert tomllib.loads(f"v = {toml(value)}") == {"v": value}


def test_what_toml_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="NoneType"):
        toml(None)
