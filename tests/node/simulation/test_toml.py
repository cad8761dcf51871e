"""What is written as TOML is read back as it was."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peermerge.node.config import NodeConfig, parse
from peermerge.node.simulation.toml import dumps

text = st.text(st.characters(codec="utf-8"), max_size=8)
scalars = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | text
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3))


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(text, values, max_size=4))
def test_any_document_survives(data: dict[str, object]) -> None:
    assert tomllib.loads(dumps(data)) == data


def test_a_node_s_configuration_survives() -> None:
    config = parse(NodeConfig, {"node": {"name": "n1"}, "task": {"arguments": {"partition": "iid"}}}, "here")
    assert parse(NodeConfig, tomllib.loads(dumps(config.model_dump(mode="json"))), "there") == config


def test_what_is_none_is_left_out() -> None:
    assert dumps({"a": None, "b": 1}) == "b = 1\n"


def test_what_toml_cannot_say_is_an_error() -> None:
    with pytest.raises(TypeError, match="a set has no place"):
        dumps({"a": {1}})
