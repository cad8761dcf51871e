"""What is new is told often enough, and the newest is never kept waiting."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from peermerge.node.membership.news import FRESH, News


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 5), max_size=20), st.integers(1, 8))
def test_each_is_told_exactly_as_often_as_asked(times: dict[str, int], most: int) -> None:
    news, told = News(), Counter[str]()
    for name, count in times.items():
        news.add(name, count)
    while len(news):
        message = list(news.take(most))
        assert 0 < len(message) == len(set(message)) <= most
        told.update(message)
    assert told == times


def test_the_newest_is_in_every_message_however_many_wait() -> None:
    news = News()
    for number in range(1000):
        news.add(f"n{number}", 30)
    news.add("dead", 30)
    messages = [list(news.take(8)) for _ in range(30)]
    assert all("dead" in message for message in messages)
    assert len({name for message in messages for name in message}) == FRESH + 30 * (8 - FRESH)
    assert "dead" not in set(news.take(8))


def test_what_is_new_again_is_told_as_often_again() -> None:
    news = News()
    news.add("a", 2)
    assert list(news.take(8)) == ["a"]
    news.add("a", 2)
    assert [list(news.take(8)) for _ in range(3)] == [["a"], ["a"], []]
