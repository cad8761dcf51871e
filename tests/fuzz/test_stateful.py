"""A replica that follows frames of every kind beside the same thing in plain integers, step by step."""

from __future__ import annotations

from random import Random

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from peermerge.node.state import State
from peermerge.protocol.codec import Frame
from peermerge.protocol.errors import FrameError

from ..protocol.plain_decoder import Refused, plain_decode
from .draft import parse
from .forge import Entry, forge
from .mutate import mutate
from .seeds import MODELS

MODEL = MODELS["layers"]
TENSORS = list(MODEL.slices())
PLACES = [place for _, part in TENSORS for place in range(part.start, part.stop)]
FLOOR, LIMIT, PRIME = -40, 1 << 30, (1 << 61) - 1

exponents = st.lists(st.integers(FLOOR, FLOOR + 12) | st.integers(FLOOR - 1, 97), min_size=6, max_size=6)
magnitudes = st.integers(1, 9) | st.integers(1, LIMIT - 1)
levels = st.builds(lambda size, negative: -size if negative else size, magnitudes, st.booleans())
deltas = st.dictionaries(st.sampled_from(PLACES), levels, max_size=12).map(lambda entries: sorted(entries.items()))


class Follower(RuleBasedStateMachine):
    """`state` is the real one; `levels` (place to level) and `grid` (an exponent per tensor) are ours."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State(MODEL, np.full(len(TENSORS), FLOOR, np.int8))
        self.levels: dict[int, int] = {}
        self.grid = [97] * len(TENSORS)
        self.newest: bytes | None = None

    @rule(entries=deltas, exponents=exponents, seed=st.integers(0, 1 << 32))
    def follow(self, entries: list[Entry], exponents: list[int], seed: int) -> None:
        self.take(forge(MODEL, entries, 12, Random(seed), exponents))

    @rule(entries=deltas, exponents=exponents, seed=st.integers(0, 1 << 32))
    def follow_damaged(self, entries: list[Entry], exponents: list[int], seed: int) -> None:
        draft = parse(forge(MODEL, entries, 12, Random(seed), exponents))
        self.take(mutate(draft, draft, Random(seed)))

    @precondition(lambda self: self.newest is not None)
    @rule()
    def take_back(self) -> None:
        self.take(self.newest or b"", undo=True)
        self.newest = None

    def take(self, frame: bytes, *, undo: bool = False) -> None:
        """Take a frame, or take it back, on both sides: they must agree whether it can be."""
        wanted = self.foretold(frame, undo=undo)
        try:
            change = self.state.prepare(Frame.open(frame, MODEL), undo=undo)
        except FrameError:
            change = None
        assert (change is None) == (wanted is None)
        if change and wanted:
            self.state.apply(change)
            self.levels, self.grid = wanted
            self.newest = frame

    def foretold(self, frame: bytes, *, undo: bool) -> tuple[dict[int, int], list[int]] | None:
        """Return levels and grid after a frame, by the README's rules; None if it must be refused."""
        try:
            _, exponents, entries = plain_decode(frame, MODEL)
        except Refused:
            return None
        grid = [min(pair) for pair in zip(self.grid, exponents, strict=True)]
        levels = {
            place: level << self.grid[t] - grid[t] for place, level in self.levels.items() for t in [tensor(place)]
        }
        for place, level in entries:
            shift = exponents[tensor(place)] - grid[tensor(place)]
            if shift > 30:
                return None
            levels[place] = levels.get(place, 0) + ((-level if undo else level) << shift)
        fits = min(exponents) >= FLOOR and all(abs(level) < LIMIT for level in levels.values())
        return ({place: level for place, level in levels.items() if level}, grid) if fits else None

    @invariant()
    def both_hold_the_same(self) -> None:
        places = np.flatnonzero(self.state.levels).tolist()
        assert {place: int(self.state.levels[place]) for place in places} == self.levels
        assert self.state.exponents.tolist() == self.grid
        values = (level * 2 ** (self.grid[tensor(place)] + 126) * key(place) for place, level in self.levels.items())
        assert self.state.digest == sum(values) % PRIME


def tensor(place: int) -> int:
    """Return the number of the tensor of a place."""
    return max(t for t, (_, part) in enumerate(TENSORS) if part.start <= place)


def key(place: int) -> int:
    """Return what an entry's value is multiplied by in a state's digest."""
    z = (place + 0x9E3779B97F4A7C15) % (1 << 64)
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % (1 << 64)
    z = (z ^ z >> 27) * 0x94D049BB133111EB % (1 << 64)
    return z >> 33 | 1


TestFollower = Follower.TestCase
TestFollower.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
