"""The base from peers: whole, in parts, after breaks and restarts, and never what is not the one that was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as save_bytes
from torch import Tensor

from peermerge.node.base import FILE, kept_base, read_base, sizes
from peermerge.node.budget import Budget
from peermerge.node.config import MembershipConfig, NodeConfig, RoundConfig
from peermerge.node.fetch import BaseFetch, Partial
from peermerge.node.gather import Identity
from peermerge.node.membership import Roster
from peermerge.node.peers import Peers
from peermerge.node.service import PeerService
from peermerge.node.storage import MemoryStorage
from peermerge.protocol.clock import VirtualClock, run_virtual
from peermerge.protocol.errors import (
    ConfigError,
    DataDirError,
    DegradedError,
    EnvelopeError,
    FrameError,
    PeerError,
    Refusal,
    TransportError,
)
from peermerge.protocol.manifest import Manifest, manifest_of
from peermerge.protocol.members import Member
from peermerge.protocol.memory_transport import MemoryNetwork
from peermerge.protocol.messages import Point, PullRequest
from peermerge.protocol.parts import ANY_BASE, BASE_TAGS, TAG_BASE, AnnouncedBase, base_messages, pull_parts

from .worlds import all_bytes, publisher

MANIFEST = manifest_of(
    [
        ("small", (3,), "bfloat16", True),
        ("weight", (300, 1000), "float32", False),
        ("empty", (0, 3), "float32", False),
        ("last", (5,), "float64", True),
    ]
)
WHOLE = sum(sizes(MANIFEST))
CONFIG = NodeConfig(membership=MembershipConfig(wait_s=5.0), round=RoundConfig(min_rate_bytes_s=1e5))


def tensors(seed: int) -> dict[str, Tensor]:
    """Return weights, and a tensor that does not take part."""
    draw = torch.Generator().manual_seed(seed)
    found = {s.name: torch.randn(s.shape, generator=draw).to(getattr(torch, s.dtype)) for s in MANIFEST.tensors}
    return found | {"personal": torch.full((7,), 3.0)}


def storage(seed: int) -> MemoryStorage:
    """Return a data directory with a base."""
    kept = MemoryStorage()
    kept.write(FILE, save_bytes(tensors(seed)))
    return kept


def digest(seed: int) -> bytes:
    blob = kept_base(storage(seed), MANIFEST)
    assert blob is not None
    hasher = MANIFEST.base_hash()
    hasher.update(all_bytes(blob))
    return hasher.digest()


def identity(name: str, base: bytes, manifest: Manifest = MANIFEST) -> Identity:
    return Identity("net", "run", name, 1, base, manifest)


def service(name: str, seed: int, kept: MemoryStorage | None = None) -> PeerService:
    found = storage(seed) if kept is None else kept
    me, budget = identity(name, digest(seed)), Budget(VirtualClock(), 0)
    roster = Roster(Member(name, name), [])
    base = lambda: kept_base(found, MANIFEST)  # noqa: E731
    return PeerService(me, publisher(), roster, Peers(), lambda _: Point(), budget, base=base)


Change = Callable[[AsyncIterator[bytes]], AsyncGenerator[bytes, None]]


@dataclass
class Bent:
    """A peer whose answers are changed on their way."""

    inner: PeerService
    change: Change

    async def hello(self, request: bytes) -> bytes:
        return await self.inner.hello(request)

    async def gossip(self, request: bytes) -> bytes:
        return await self.inner.gossip(request)

    def pull(self, request: bytes) -> AsyncIterator[bytes]:
        return self.change(self.inner.pull(request))


async def world(network: MemoryNetwork, **peers: PeerService | Bent) -> None:
    for name, peer in peers.items():
        await network.transport(name).serve(peer)


def searching(network: MemoryNetwork, folder: Path, base: bytes = ANY_BASE, **config: object) -> BaseFetch:
    mine = CONFIG.model_copy(update=config)
    return BaseFetch(identity("new", base), mine, network.transport("new"), VirtualClock(), folder)


def among(*addresses: str) -> Callable[[], Awaitable[Iterable[str]]]:
    """Return what says that these are known."""

    async def known() -> Iterable[str]:
        return addresses

    return known


def breaking(*counts: int) -> Change:
    """Return a change that breaks each stream off behind so many messages, and any further at once."""
    left = list(counts)

    async def change(stream: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        for _ in range(left.pop(0) if left else 0):
            yield await anext(stream)
        raise TransportError(Refusal.TRANSPORT, "gone")

    return change


def is_right(path: Path, seed: int) -> bool:
    found, expected = read_base(path, MANIFEST), tensors(seed)
    return all(torch.equal(found[name], expected[name]) for name in found) and "personal" not in found


def test_a_base_is_one_run_of_bytes_without_what_does_not_take_part() -> None:
    blob = kept_base(storage(0), MANIFEST)
    assert blob is not None
    whole = b"".join(tensors(0)[s.name].flatten().view(torch.uint8).numpy().tobytes() for s in MANIFEST.tensors)
    assert len(blob) == WHOLE == len(whole)
    assert all_bytes(blob) == whole
    for offset, size in ((0, 0), (0, 1), (5, 10), (WHOLE - 41, 41), (6, WHOLE - 6), (WHOLE, 0)):
        assert bytes(blob.read(offset, size)) == whole[offset : offset + size]
    for offset, size in ((-1, 1), (WHOLE, 1), (0, WHOLE + 1)):
        with pytest.raises(FrameError):
            blob.read(offset, size)
    raw = {spec.name: part.encode() for spec, part in zip(MANIFEST.tensors, ("", "", "", ""), strict=True)}
    assert MANIFEST.base_digest(raw) == MANIFEST.base_hash().digest()


def test_a_base_file_that_is_damaged_or_of_another_model_is_not_served() -> None:
    for data in (b"", b"\xff" * 8, (3).to_bytes(8, "little") + b"{}x", (2).to_bytes(8, "little") + b"{}"):
        kept = MemoryStorage()
        kept.write(FILE, data)
        with pytest.raises(DataDirError, match="damaged"):
            kept_base(kept, MANIFEST)
    other = MemoryStorage()
    other.write(FILE, save_bytes(tensors(0) | {"last": torch.zeros(6, dtype=torch.float64)}))
    with pytest.raises(DataDirError, match="another model"):
        kept_base(other, MANIFEST)
    assert kept_base(MemoryStorage(), MANIFEST) is None


def test_a_newcomer_takes_what_the_first_peer_has_or_the_base_that_it_names(tmp_path: Path) -> None:
    async def program() -> None:
        network = MemoryNetwork()
        await world(network, alice=service("alice", 1), bob=service("bob", 2))
        first = await searching(network, tmp_path / "any").fetch(among("alice", "bob"))
        assert is_right(first, 1)
        assert first.name == digest(1).hex()
        named = await searching(network, tmp_path / "named", digest(2)).fetch(among("alice", "bob"))
        assert is_right(named, 2)

    run_virtual(program())


def test_a_broken_transfer_goes_on_with_another_peer_and_after_a_restart(tmp_path: Path) -> None:
    async def program() -> None:
        network = MemoryNetwork()
        await world(network, alice=Bent(service("alice", 1), breaking(1)))
        short = searching(network, tmp_path, digest(1), membership=MembershipConfig(wait_s=0.1))
        with pytest.raises(TransportError, match="no base from alice"):
            await short.fetch(among("alice"))
        part = (tmp_path / digest(1).hex()).stat().st_size
        assert 0 < part < WHOLE
        await world(network, bob=service("bob", 1))
        again = searching(network, tmp_path)
        assert is_right(await again.fetch(among("bob")), 1)
        assert again.received < WHOLE - part + 1000, "only what was missing came"
        kept = searching(network, tmp_path)
        assert is_right(await kept.fetch(among("nobody")), 1), "what is whole is asked for no more"
        assert kept.received == 0

        await world(network, carol=Bent(service("carol", 1), breaking(1)))
        third = searching(network, tmp_path / "third")
        assert is_right(await third.fetch(among("carol", "bob")), 1)
        assert third.received < WHOLE + 1000

    run_virtual(program())


def test_what_an_earlier_transfer_left_damaged_is_fetched_anew_and_nobody_is_blamed(tmp_path: Path) -> None:
    async def program() -> None:
        network = MemoryNetwork()
        await world(network, alice=service("alice", 1))
        for left in (bytes(1000), bytes(WHOLE), bytes(WHOLE + 5)):
            (tmp_path / digest(1).hex()).write_bytes(left)
            assert is_right(await searching(network, tmp_path).fetch(among("alice")), 1)
            (tmp_path / digest(1).hex()).unlink()

    run_virtual(program())


def test_a_peer_that_sends_something_else_is_left_for_the_next(tmp_path: Path) -> None:
    async def flipped(stream: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        async for message in stream:
            yield message[:-1] + bytes([message[-1] ^ 1])

    async def longer(stream: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        async for message in stream:
            yield message + b"C\x01\x00\x00\x00x"

    async def twice(stream: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        message = await anext(stream)
        yield message
        yield message

    async def no_head(stream: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        yield b"C\x01\x00\x00\x00x"

    kept = kept_base(storage(1), MANIFEST)
    assert kept is not None
    first = next(base_messages(AnnouncedBase(1 << 60, MANIFEST.digest, digest(1)), kept, 0, 1 << 20))
    foreign = next(base_messages(AnnouncedBase(WHOLE, bytes(32), digest(1)), kept, 0, 1 << 20))

    async def huge(stream: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        yield first

    async def other_model(stream: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        yield foreign

    async def frame(stream: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        yield b"E\x01\x00\x00\x00x"

    async def program() -> None:
        for change in (flipped, longer, twice, no_head, huge, other_model, frame):
            network = MemoryNetwork()
            await world(network, evil=Bent(service("evil", 1), change), good=service("good", 1))
            folder = tmp_path / change.__name__
            short = searching(network, folder, membership=MembershipConfig(wait_s=0.1))
            with pytest.raises((ConfigError, PeerError), match="evil"):
                await short.fetch(among("evil"))
            assert sum(path.stat().st_size for path in folder.glob("*")) <= WHOLE
            assert is_right(await searching(network, folder).fetch(among("evil", "good")), 1)

    run_virtual(program())


def test_a_peer_that_hangs_is_left_for_the_next(tmp_path: Path) -> None:
    async def hang(stream: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        await asyncio.sleep(10_000)
        yield b""

    async def program() -> None:
        network = MemoryNetwork()
        await world(network, hung=Bent(service("hung", 1), hang), good=service("good", 1))
        clock = VirtualClock()
        assert is_right(await searching(network, tmp_path).fetch(among("hung", "good")), 1)
        assert clock.now() < 20

    run_virtual(program())


def test_peers_with_other_bases_are_a_configuration_error_at_once(tmp_path: Path) -> None:
    async def program() -> None:
        network = MemoryNetwork()
        await world(network, alice=service("alice", 1))
        with pytest.raises(ConfigError, match=r'BASE_MISMATCH.*node\.base = "peers"'):
            await searching(network, tmp_path, digest(2)).fetch(among("alice"))
        await world(network, empty=service("empty", 1, MemoryStorage()))
        short = searching(network, tmp_path, membership=MembershipConfig(wait_s=0.1))
        with pytest.raises(TransportError, match="no file of the base"):
            await short.fetch(among("empty"))
        assert list(tmp_path.glob("*")) == []

    run_virtual(program())


def test_nobody_to_ask_is_a_configuration_error_that_names_three_cures(tmp_path: Path) -> None:
    async def program() -> None:
        cures = r"membership\.peers.*membership\.coordinator.*node\.base"
        clock, network = VirtualClock(), MemoryNetwork()
        with pytest.raises(ConfigError, match=cures):
            await searching(network, tmp_path).fetch(among())
        assert clock.now() == 0
        introduced = MembershipConfig(coordinator="somewhere:1", wait_s=5.0)
        with pytest.raises(ConfigError, match=cures):
            await searching(network, tmp_path, membership=introduced).fetch(among())
        assert clock.now() >= 5, "a coordinator may still name somebody"

    run_virtual(program())


def test_who_becomes_known_while_nobody_answers_is_asked_too(tmp_path: Path) -> None:
    async def program() -> None:
        clock, network = VirtualClock(), MemoryNetwork()
        await world(network, alice=service("alice", 1))

        async def known() -> Iterable[str]:
            return ["nobody"] if clock.now() < 2 else ["nobody", "alice"]

        assert is_right(await searching(network, tmp_path).fetch(known), 1)

    run_virtual(program())


def test_a_full_disk_is_said_and_what_came_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fired = []

    def full(self: Partial, chunk: memoryview) -> None:
        fired.append(len(chunk))
        monkeypatch.undo()
        self._file.close()
        self._file = open("/dev/full", "wb")  # noqa: SIM115
        self.add(chunk)

    async def program() -> None:
        network = MemoryNetwork()
        await world(network, alice=service("alice", 1))
        monkeypatch.setattr(Partial, "add", full)
        with pytest.raises(DegradedError, match="make room"):
            await searching(network, tmp_path).fetch(among("alice"))
        assert is_right(await searching(network, tmp_path).fetch(among("alice")), 1)

    run_virtual(program())
    assert fired
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DegradedError):
        Partial(tmp_path / "file", MANIFEST, digest(1))


def test_a_base_goes_out_within_the_bandwidth_and_is_counted() -> None:
    async def program() -> None:
        clock = VirtualClock()
        found = storage(1)
        peers = Peers()
        roster = Roster(Member("alice", "alice"), [])
        roster.learn([Member("new", "new")])
        me, budget = identity("alice", digest(1)), Budget(clock, 100_000)
        serving = PeerService(
            me, publisher(), roster, peers, lambda _: Point(), budget, base=lambda: kept_base(found, MANIFEST)
        )
        asked = PullRequest(network="net", run="run", name="new", incarnation=1, have=Point(), base=ANY_BASE)
        messages = [message async for message in serving.pull(asked.encode())]
        assert clock.now() == pytest.approx(WHOLE / 100_000, rel=0.05)
        assert peers["new"].bytes_out == sum(map(len, messages))
        assert peers["new"].served == (0, 0)
        tags = [tag for message in messages for tag, _ in pull_parts(message, BASE_TAGS)]
        assert tags.count(TAG_BASE) == 1
        for base, offset in ((digest(1), WHOLE), (digest(1), 7)):
            again = replace(asked, base=base, partial=digest(1), offset=offset)
            parts = [p async for m in serving.pull(again.encode()) for p in _payloads(m)]
            assert sum(map(len, parts[1:])) == WHOLE - offset
        for partial, offset in ((bytes(32), 7), (digest(1), WHOLE + 1)):
            anew = replace(asked, partial=partial, offset=offset)
            parts = [p async for m in serving.pull(anew.encode()) for p in _payloads(m)]
            assert sum(map(len, parts[1:])) == WHOLE
        with pytest.raises(EnvelopeError, match="BASE_MISMATCH"):
            await anext(aiter(serving.pull(replace(asked, base=b"x" * 32).encode())))

    run_virtual(program())


def _payloads(message: bytes) -> list[bytes]:
    return [bytes(payload) for _, payload in pull_parts(message, BASE_TAGS)]
