"""Text of several domains that every installation already has, cut into blocks of bytes."""

from __future__ import annotations

import pydoc_data.topics
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...protocol.errors import ConfigError
from .partition import Indices

BLOCK: Final = 2_048
"""Bytes a block: what is dealt to nodes; no window crosses a border."""
TEST_EVERY: Final = 10


class Corpus(NamedTuple):
    """Blocks of text, uint8 [blocks, BLOCK], and the number of the domain each is from."""

    blocks: Tensor
    domains: Indices

    def part(self, test: bool) -> Corpus:
        """Return every tenth block, which no node trains on, or all the others."""
        chosen = (np.arange(len(self.domains)) % TEST_EVERY == 0) == test
        return Corpus(self.blocks[torch.from_numpy(chosen)], self.domains[chosen])


@lru_cache(maxsize=2)
def load(domains: tuple[str, ...], domain_bytes: int) -> Corpus:
    """Return as many blocks of each domain, `domain_bytes` at most; all nodes of a process share them."""
    unknown = [domain for domain in domains if domain not in DOMAINS]
    if unknown or not domains:
        raise ConfigError(f"domains {unknown}: choose some of {', '.join(DOMAINS)}")
    texts = [_take(DOMAINS[domain](), domain_bytes) for domain in domains]
    blocks = min(len(text) for text in texts) // BLOCK // TEST_EVERY * TEST_EVERY
    if not blocks:
        raise ConfigError(f"domain_bytes {domain_bytes}: at least {BLOCK * TEST_EVERY} are needed of each domain")
    text = b"".join(text[: blocks * BLOCK] for text in texts)
    tensor = torch.frombuffer(bytearray(text), dtype=torch.uint8).reshape(-1, BLOCK)
    return Corpus(tensor, np.repeat(np.arange(len(domains)), blocks))


def _take(pieces: Iterable[bytes], size: int) -> bytes:
    text = bytearray()
    for piece in pieces:
        text += piece
        if len(text) >= size:
            break
    return bytes(text[:size])


def _files(folder: Path, pattern: str) -> Iterator[bytes]:
    return (path.read_bytes() for path in sorted(folder.glob(pattern)))


def _python() -> Iterator[bytes]:
    return _files(Path(sysconfig.get_path("stdlib")), "*.py")


def _manual() -> Iterator[bytes]:
    return (text.encode() for _, text in sorted(pydoc_data.topics.topics.items()))


def _cpp() -> Iterator[bytes]:
    return _files(Path(torch.__file__).parent / "include" / "c10", "**/*.h")


DOMAINS: Final[dict[str, Callable[[], Iterable[bytes]]]] = {"python": _python, "manual": _manual, "cpp": _cpp}
"""The standard library's sources, Python's help topics, and the C++ headers of torch."""
