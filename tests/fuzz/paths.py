"""Every way by which a stranger's frame reaches us, and what must hold on each: the check that all engines share."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from time import thread_time

import numpy as np
import numpy.typing as npt

from peermerge.node.log import chain_link, chain_start
from peermerge.node.replicas import Replicas
from peermerge.node.state import State
from peermerge.protocol.blob import FileBlob
from peermerge.protocol.codec import Frame, Part, encode
from peermerge.protocol.delta import Delta
from peermerge.protocol.errors import FrameError
from peermerge.protocol.limits import MAX_LEVEL, MIN_EXPONENT
from peermerge.protocol.manifest import Manifest
from peermerge.protocol.messages import Header

from ..protocol.plain_decoder import Refused, plain_decode, read_tables

ACCEPTED = "accepted"
BASE = bytes(32)
PLAIN_BYTES, PLAIN_PLACES = 1 << 13, 1 << 17
"""The plain decoder is asked about frames of at most so many bytes, of models of at most so many places."""


class Broken(AssertionError):
    """A path did something else than take a valid frame or refuse another by name."""


@dataclass(frozen=True)
class Outcome:
    """What became of a frame: `ACCEPTED` or the refusal's name, whether its tables passed, a digest of what it held.

    seconds: processor time of the slowest path, without our own checks.
    """

    name: str
    tables: bool
    content: bytes = b""
    seconds: float = 0.0


def take(frame: bytes, manifest: Manifest) -> Outcome:
    """Decode a frame by the paths of a round: part by part, into an accumulator, into a state.

    Raises Broken where they differ or an accepted frame breaks a rule, and whatever a path raises but FrameError.
    """
    frames: list[Frame] = []
    name, opening = attempt(lambda: frames.append(Frame.open(frame, manifest)))
    if name != ACCEPTED:
        return Outcome(name, tables=False, seconds=opening)
    opened = frames[0]
    levels, state = np.zeros(manifest.length, np.int32), State(manifest, free_floors(manifest))
    parts: list[Part] = []
    attempts = (
        attempt(lambda: parts.extend(opened.parts())),
        attempt(lambda: opened.add_to(levels)),
        attempt(lambda: state.prepare(opened)),
    )
    names, seconds = [name for name, _ in attempts], opening + max(seconds for _, seconds in attempts)
    if len(set(names)) > 1:
        raise Broken(f"parts, add_to, prepare: {names}")
    if names[0] != ACCEPTED:
        return Outcome(names[0], tables=True, seconds=seconds)
    delta = whole(opened, parts)
    check_parts(parts, manifest)
    if len(delta) != opened.header.entries or not np.array_equal(levels, dense(delta, manifest)):
        raise Broken("parts, add_to and the header's number of entries differ")
    content = digest(delta.exponents, delta.index, delta.levels)
    return Outcome(ACCEPTED, tables=True, content=content, seconds=seconds)


def take_again(frame: bytes, manifest: Manifest, outcome: Outcome) -> None:
    """Decode a frame by the other paths; raise Broken unless they come to the same outcome.

    The plain decoder, two threads, a file, a published state there and back, a replica, and its content encoded anew.
    """
    if len(frame) <= PLAIN_BYTES and manifest.length <= PLAIN_PLACES and not agree(plainly(frame, manifest), outcome):
        raise Broken(f"the plain decoder: {plainly(frame, manifest)}, the real one: {outcome}")
    replicate(frame, manifest, outcome)
    if not outcome.tables:
        return
    opened = Frame.open(frame, manifest)
    filed = Frame.open(file_of(frame), manifest)
    parts: list[Part] = []
    names = [attempt(lambda: parts.extend(opened.parts(threads=2)))[0], attempt(lambda: list(filed.parts()))[0]]
    if names != [outcome.name] * 2:
        raise Broken(f"from memory: {outcome.name}, by two threads and from a file: {names}")
    if outcome.name == ACCEPTED:
        delta = whole(opened, parts)
        publish(opened, delta, manifest)
        again = encode(delta, manifest, from_version=0, to_version=1)
        if take(again, manifest).content != outcome.content:
            raise Broken("encoded anew it is another delta")


def memory(frame: bytes, manifest: Manifest) -> int:
    """Return the most bytes that decoding a frame takes at one time, without frame and accumulators."""
    levels, state = np.zeros(manifest.length, np.int32), State(manifest, free_floors(manifest))

    def decode() -> None:
        opened = Frame.open(frame, manifest)
        deque(opened.parts(), maxlen=0)
        opened.add_to(levels)
        state.prepare(opened)

    tracemalloc.start()
    try:
        attempt(decode)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def attempt(action: Callable[[], object]) -> tuple[str, float]:
    """Return `ACCEPTED` or the name of the refusal, and the seconds of this thread that it took."""
    began = thread_time()
    try:
        action()
        name = ACCEPTED
    except FrameError as error:
        name = error.refusal.name
    return name, thread_time() - began


def plainly(frame: bytes, manifest: Manifest) -> Outcome:
    """Decode a frame by the decoder that was written from README.md alone."""
    try:
        read_tables(frame, manifest)
    except Refused as refused:
        return Outcome(refused.name, tables=False)
    try:
        _, exponents, entries = plain_decode(frame, manifest)
    except Refused as refused:
        return Outcome(refused.name, tables=True)
    index, levels = zip(*entries, strict=True) if entries else ((), ())
    return Outcome(ACCEPTED, tables=True, content=digest(exponents, index, levels))


def agree(one: Outcome, other: Outcome) -> bool:
    """Say whether two decoders mean the same: the same name too, unless a body may break several rules at once."""
    named = one.name == other.name or (one.tables and ACCEPTED not in (one.name, other.name))
    return named and (one.tables, one.content) == (other.tables, other.content)


def publish(opened: Frame, delta: Delta, manifest: Manifest) -> None:
    """Bring a frame into a state and out again; raise Broken unless the state and its digest follow."""
    state = State(manifest, free_floors(manifest))
    state.apply(state.prepare(opened))
    fresh = State(manifest, state.floors, state.levels.copy(), state.exponents)
    if not np.array_equal(state.levels, dense(delta, manifest)) or fresh.digest != state.digest:
        raise Broken("a state does not hold what was applied to it, or its digest is another's")
    state.apply(state.prepare(opened, undo=True))
    if state.levels.any() or state.digest:
        raise Broken("a frame that was taken back left something behind")


def replicate(frame: bytes, manifest: Manifest, outcome: Outcome) -> None:
    """Follow a peer by a frame whose header is right; raise Broken unless it is refused, or applied, as a whole."""
    replicas = Replicas(manifest, free_floors(manifest), BASE)
    sha256 = hashlib.sha256(frame).digest()
    state = State(manifest, free_floors(manifest))
    expected = state.prepare(Frame.open(frame, manifest)).digest if outcome.name == ACCEPTED else 0
    header = Header(
        network="n",
        run="r",
        view=0,
        sender="a",
        incarnation=1,
        epoch=1,
        version=1,
        from_version=0,
        round=0,
        base=BASE,
        manifest=manifest.digest,
        chain=chain_link(chain_start(manifest.digest, BASE, "a", 1), sha256),
        state=expected,
        frame_bytes=len(frame),
        frame_sha256=sha256,
    )
    name, _ = attempt(lambda: replicas.apply("a", header, frame))
    if name != outcome.name or (replicas.get("a") is not None) != (name == ACCEPTED):
        raise Broken(f"decoded: {outcome.name}, as a replica: {name}")


def free_floors(manifest: Manifest) -> npt.NDArray[np.int8]:
    """Return floors that forbid no grid."""
    return np.full(len(manifest.tensors), MIN_EXPONENT, np.int8)


def file_of(frame: bytes) -> FileBlob:
    """Return a frame that lies in a file."""
    descriptor = os.memfd_create("frame")
    os.write(descriptor, frame)
    return FileBlob(descriptor, 0, len(frame))


def whole(opened: Frame, parts: Iterable[Part]) -> Delta:
    """Return all parts as one delta."""
    index, levels = [np.empty(0, np.int64)], [np.empty(0, np.int32)]
    for part in parts:
        index.append(part.places.astype(np.int64) + part.start)
        levels.append(part.levels)
    return Delta(opened.exponents, np.concatenate(index), np.concatenate(levels))


def dense(delta: Delta, manifest: Manifest) -> npt.NDArray[np.int32]:
    """Return the levels of all places."""
    levels = np.zeros(manifest.length, np.int32)
    levels[delta.index] = delta.levels
    return levels


def digest(exponents: npt.ArrayLike, index: npt.ArrayLike, levels: npt.ArrayLike) -> bytes:
    """Return the SHA-256 of what a frame holds: exponents (int8), places (int64) and levels (int32), little-endian."""
    types = ((exponents, "i1"), (index, "<i8"), (levels, "<i4"))
    return hashlib.sha256(b"".join(np.asarray(values, kind).tobytes() for values, kind in types)).digest()


@cache
def owners(manifest: Manifest) -> npt.NDArray[np.int32]:
    """Return the number of the tensor that each place belongs to, -1 in the padding."""
    tensors = np.full(manifest.length, -1, np.int32)
    for number, (_, places) in enumerate(manifest.slices()):
        tensors[places] = number
    return tensors


def check_parts(parts: Iterable[Part], manifest: Manifest) -> None:
    """Raise Broken unless places ascend inside tensors, levels are in range and runs say whose they are."""
    end = 0
    for part in parts:
        if part.start < end or part.places.dtype != np.int32 or part.levels.dtype != np.int32:
            raise Broken("parts overlap or have another type")
        end = part.start + part.size
        if not (part.places[0] >= 0 and part.places[-1] < part.size and (np.diff(part.places) > 0).all()):
            raise Broken("places do not ascend inside their segment")
        if not part.levels.all() or max(part.levels.max(), -part.levels.min()) > MAX_LEVEL:
            raise Broken("a level is zero or too large")
        named = np.concatenate([np.full(run.end - run.begin, run.tensor) for run in part.runs])
        if not np.array_equal(owners(manifest)[part.start + part.places], named):
            raise Broken("an entry is in the padding or is said to be another tensor's")
