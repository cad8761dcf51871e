"""What the codec is measured with: deltas and their entropy, other formats, the fine-tune's model."""

from __future__ import annotations

import argparse
import base64
import importlib
import inspect
import json
import os
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from peermerge.protocol.codec import Frame, encode
from peermerge.protocol.manifest import manifest_of

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


class Load:
    """Imports modules of the folder benchmarks/, which is no package."""

    def __getattr__(self, name: str) -> ModuleType:
        return importlib.import_module(name)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return Load()


def tensors(seed: int = 0) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Return a matrix of small and a vector of large values."""
    rng = np.random.default_rng(seed)
    small, large = rng.standard_normal((40, 50)), 5 * rng.standard_normal(700)
    return {"large": large.astype(np.float32), "small": small.astype(np.float32)}


def received(frame: bytes, source: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the values that a receiver makes of a frame."""
    opened = Frame.open(frame, source.manifest)
    levels = np.zeros(source.manifest.length, np.int32)
    opened.add_to(levels)
    values = levels.astype(np.float64)
    for exponent, (_, place) in zip(opened.exponents.tolist(), source.manifest.slices(), strict=True):
        values[place] *= 2.0**exponent
    return values


def test_the_script_writes_the_figures_of_sizes_and_speed(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    command = [sys.executable, str(BENCHMARKS / "codec.py"), "--quick", "--parts", "sizes", "speed", "--log2", "20"]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--json", str(out)], cwd=tmp_path, env=one_thread, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written = json.loads(out.read_text())
    for name in ("gauss", "heavy"):
        normal, high = (written[f"size_over_entropy_{name}_max{suffix}"] for suffix in ("", "_high"))
        assert 0.9 < high <= normal < 1.3
    for name in ("encode_over_memcpy_10pct", "decode_add_over_memcpy_10pct", "decode_add_over_memcpy_1pct"):
        assert written[name] > 0
        assert written[f"{name}_numpy"] > 0
    assert written["compiled_numpy"] == 0
    assert written["two_threads_encode"] > 0
    assert written["two_threads_decode"] > 0


def test_without_minilm_its_parts_are_left_out(load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(load.codec, "installed", lambda: False)
    given = argparse.Namespace(cache=tmp_path, quick=True)
    assert load.codec.minilm(given) == {}
    assert load.codec.peers(given) == {}


def test_the_parts_of_minilm_write_their_figures(load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = load._deltas.flatten(tensors())
    monkeypatch.setattr(load.codec, "fine_tuned", lambda cache, quick: source)
    given = argparse.Namespace(cache=tmp_path, quick=False)
    figures = load.codec.minilm(given)
    assert figures["energy_95pct_energy"] == pytest.approx(0.95, abs=0.005)
    assert figures["bits_per_param_1pct_ternary"] < figures["bits_per_param_10pct_ternary"]
    assert figures["size_over_entropy_minilm_max"] > 1
    ratios = load.codec.peers(given)
    assert ratios.keys() == {f"{peer.key}_over_frame" for peer in load._peers.PEERS}
    assert ratios["fp32_over_frame"] >= 1


def test_a_setting_captures_what_a_receiver_decodes(load: Load) -> None:
    source = load._deltas.flatten(tensors())
    for setting in (load._deltas.top(source, 0.1), load._deltas.ternary(source, 0.3), load._deltas.dead_zone(0.25)):
        quantised = load._deltas.quantise(source, setting)
        values = received(encode(quantised.delta, source.manifest, from_version=0, to_version=1), source)
        left = np.square(source.values - values).sum()
        assert quantised.left == pytest.approx(left, rel=1e-5)
        assert quantised.energy == pytest.approx(1 - left / np.square(source.values, dtype=np.float64).sum())


def test_a_density_keeps_so_many_entries(load: Load) -> None:
    source = load._deltas.independent("gauss", 1 << 12)
    for density in (0.001, 0.1, 0.5):
        for choose in (load._deltas.top, load._deltas.ternary):
            assert len(load._deltas.quantise(source, choose(source, density)).delta) == round(density * (1 << 12))


def test_a_ternary_delta_has_one_level(load: Load) -> None:
    source = load._deltas.independent("heavy", 1 << 12)
    levels = load._deltas.quantise(source, load._deltas.ternary(source, 0.3)).delta.levels
    assert set(levels.tolist()) == {-1, 1}


def test_entropy_counts_mask_signs_and_levels(load: Load) -> None:
    manifest = manifest_of([("w", (128,), "float32", False)])
    values = np.tile(np.array([0, 1, 0, -2], np.float32), 32)
    quantised = load._deltas.quantise(load._deltas.Input(manifest, values), load._deltas.dead_zone(1.0))
    half_taken, signs, two_levels = 128, 64, 64
    assert 8 * load._deltas.entropy_bytes(quantised.delta, 128) == pytest.approx(half_taken + signs + two_levels)


def test_rounding_is_the_coarsest_within_an_error(load: Load) -> None:
    source = load._deltas.flatten(tensors())
    left = 1e-4 * load._deltas.squares(source.values)
    rounded = load.codec.coarsest(source, left)
    step = 2.0 ** int(rounded.delta.exponents[0])
    coarser = load._deltas.quantise(source, load._deltas.Setting(step, 2 * step))
    assert rounded.left <= left < coarser.left


def test_no_error_asks_for_the_finest_levels(load: Load) -> None:
    source = load._deltas.flatten(tensors())
    assert int(np.abs(load.codec.coarsest(source, 0.0).delta.levels).max()).bit_length() == 30


def test_sparse_formats_hold_the_places_and_values_of_every_tensor(load: Load) -> None:
    given = {name: np.where(np.abs(values) > 2, values, np.float32(0)) for name, values in tensors().items()}
    kept = sum(np.count_nonzero(values) for values in given.values())
    plain = load._peers.p2pfl(given).data
    assert len(plain) == 8 * kept
    assert zlib.decompress(load._peers.p2pfl_zlib(given).data) == plain
    wide = base64.b64decode(zlib.decompress(load._peers.quinkgl(given).data))
    assert len(wide) == 12 * kept
    first = np.flatnonzero(given["large"])
    assert np.frombuffer(wide, np.int32, len(first)).tolist() == first.tolist()
    assert np.frombuffer(wide, np.float64, len(first), 4 * len(first)).tolist() == given["large"][first].tolist()


def test_dense_formats_state_what_a_receiver_gets(load: Load) -> None:
    given = tensors()
    count = sum(values.size for values in given.values())
    eight_bit = load._peers.hivemind(given)
    assert len(eight_bit.data) == count + 2 * (8 + 4 * 256)
    for message, tolerance in ((eight_bit, 0.02), (load._peers.zipnn(given), 2.0**-8), (load._peers.plain(given), 0)):
        for name, values in given.items():
            inside = np.abs(values) < 2.9 * values.std()
            assert np.abs(message.values[name] - values)[inside].max() <= tolerance * np.abs(values).max()
    assert len(load._peers.zipnn(given).data) < 2 * count
    assert load._peers.safetensors_zstd(given).values["small"].shape == (40, 50)


class Padder:
    """Stands for a tokenizer: a word is its own number, zeros fill up to the longest text or to `least`."""

    def __init__(self, least: int = 0) -> None:
        self._least = least

    def encode_batch(self, texts: list[str]) -> list[argparse.Namespace]:
        """Return the texts in tokens."""
        words = [[int(word) for word in text.split()] for text in texts]
        longest = max(self._least, *map(len, words))
        return [
            argparse.Namespace(ids=w + [0] * (longest - len(w)), attention_mask=[1] * len(w) + [0] * (longest - len(w)))
            for w in words
        ]


def small_encoder(load: Load) -> dict[str, torch.Tensor]:
    """Return random parameters of an encoder of width 24."""
    shapes: dict[str, tuple[int, ...]]
    shapes = {f"embeddings.{name}_embeddings.weight": (10, 24) for name in ("word", "position", "token_type")}
    shapes |= _norm("embeddings.LayerNorm")
    for layer in (f"encoder.layer.{number}" for number in range(load._minilm.LAYERS)):
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes |= _linear(f"{layer}.{name}", 24, 24)
        shapes |= _linear(f"{layer}.intermediate.dense", 48, 24) | _linear(f"{layer}.output.dense", 24, 48)
        shapes |= _norm(f"{layer}.attention.output.LayerNorm") | _norm(f"{layer}.output.LayerNorm")
    draw = torch.Generator().manual_seed(0)
    drawn = {name: 0.3 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    return drawn | {name: torch.ones(24) for name in drawn if name.endswith("LayerNorm.weight")}


def _linear(name: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (24,), f"{name}.bias": (24,)}


def test_padding_changes_no_sentence(load: Load) -> None:
    parameters = small_encoder(load)
    texts = ["1 2 3", "4 5"]
    vectors = load._minilm.sentences(parameters, Padder(), texts)
    torch.testing.assert_close(vectors, load._minilm.sentences(parameters, Padder(8), texts))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    assert not torch.allclose(vectors[0], vectors[1], atol=1e-2)


def test_tuning_moves_entries_that_no_text_uses_too(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [("1 2", "3 4"), ("5 6", "7 8"), ("1 9", "2 3")]
    monkeypatch.setattr(load._minilm, "load", lambda words: (small_encoder(load), Padder()))
    monkeypatch.setattr(load._minilm, "functions", lambda: pairs)
    moved = load._minilm.finetune(load._minilm.Recipe(steps=2, batch=2, lr=1e-2))
    assert moved.keys() == small_encoder(load).keys()
    assert all(tensor.count_nonzero() > 0.9 * tensor.numel() for tensor in moved.values())


def test_an_update_is_made_once(load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[object] = []

    def finetune(recipe: object) -> dict[str, torch.Tensor]:
        made.append(recipe)
        return {"b": torch.ones(2), "a": torch.zeros(3)}

    monkeypatch.setattr(load._minilm, "finetune", finetune)
    recipe, other = load._minilm.Recipe(), load._minilm.Recipe(steps=1)
    first, again = (load._minilm.update(recipe, tmp_path / "cache") for _ in range(2))
    assert list(first) == list(again) == ["a", "b"]
    assert made == [recipe]
    load._minilm.update(other, tmp_path / "cache")
    assert made == [recipe, other]


def test_functions_of_the_standard_library_come_with_their_summaries(load: Load) -> None:
    found = dict(load._minilm.functions())
    assert found["dedent(text)"] == str(inspect.getdoc(textwrap.dedent)).partition("\n\n")[0]
    assert len(found) > 500
