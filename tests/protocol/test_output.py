from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peermerge.protocol.output import duration, plain, size


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1500, "1.5 kB"), (999_999, "1 MB"), (123_456_789, "123 MB")],
)
def test_sizes_have_three_digits(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 ms"), (1, "1.0 s"), (90, "1 min 30 s"), (7260, "2 h 01 min")])
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.text())
def test_plain_text_is_printable_and_of_the_same_length(text: str) -> None:
    assert plain(text).isprintable()
    assert len(plain(text)) == len(text)
