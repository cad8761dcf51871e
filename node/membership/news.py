"""What is still to be told of members: the newest in every message, the rest in turn, each so many times."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

FRESH = 4
"""So many of the newest are told in every message: a death is not delayed by a thousand arrivals before it."""


class News:
    """Names about which something is new. Adding one and taking one cost the same however many there are."""

    def __init__(self) -> None:
        self._fresh: OrderedDict[str, int] = OrderedDict()
        """How many times each is still to be told, the newest last."""
        self._rest: OrderedDict[str, int] = OrderedDict()
        """The same, the one that waits longest first."""

    def add(self, name: str, times: int) -> None:
        """Tell of somebody so many times from now on."""
        self._rest.pop(name, None)
        self._fresh[name] = times
        self._fresh.move_to_end(name)
        if len(self._fresh) > FRESH:
            older, left = self._fresh.popitem(last=False)
            self._rest[older] = left

    def take(self, most: int) -> Iterator[str]:
        """Yield names to tell of in one message."""
        for name in list(reversed(self._fresh))[:most]:
            self._put(self._fresh, name, self._fresh[name] - 1)
            most -= 1
            yield name
        for _ in range(min(most, len(self._rest))):
            name, times = self._rest.popitem(last=False)
            self._put(self._rest, name, times - 1)
            yield name

    def _put(self, names: OrderedDict[str, int], name: str, times: int) -> None:
        if times:
            names[name] = times
        else:
            names.pop(name, None)

    def __len__(self) -> int:
        """How many there are to tell of."""
        return len(self._fresh) + len(self._rest)
