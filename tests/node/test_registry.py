from dataclasses import dataclass

import pytest

from peermerge.node.registry import make
from peermerge.protocol.errors import ConfigError


@dataclass(frozen=True)
class Spoon:
    length: float
    shape: tuple[tuple[int, ...], ...] = ()
    silver: bool = False


KITCHEN: dict[str, type[Spoon]] = {"spoon": Spoon}


def test_lists_become_tuples_and_integers_pass_as_floats() -> None:
    spoon = make("tool", KITCHEN, "spoon", {"length": 3, "shape": [[1, 2], [3]]})
    assert spoon == Spoon(3.0, ((1, 2), (3,)))
    assert isinstance(spoon.length, float)


def test_a_mistyped_name_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="unknown tool 'spon': did you mean 'spoon'"):
        make("tool", KITCHEN, "spon", {"length": 1.0})


def test_a_strange_name_is_answered_with_all_names() -> None:
    with pytest.raises(ConfigError, match="choose from spoon"):
        make("tool", KITCHEN, "xyz", {})


def test_a_mistyped_parameter_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="no parameter 'lenght': did you mean 'length'"):
        make("tool", KITCHEN, "spoon", {"lenght": 1.0})


def test_a_missing_parameter_is_named() -> None:
    with pytest.raises(ConfigError, match="needs length"):
        make("tool", KITCHEN, "spoon", {"silver": True})


@pytest.mark.parametrize(
    ("key", "value"), [("length", "3"), ("length", True), ("silver", 1), ("shape", [["a"]]), ("shape", None)]
)
def test_a_value_of_the_wrong_type_is_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"spoon.*{key} = "):
        make("tool", KITCHEN, "spoon", {"length": 1.0} | {key: value})
