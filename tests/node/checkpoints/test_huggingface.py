"""A folder as transformers writes it goes through encode, apply and merge, and loads with equal logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from peermerge.node.checkpoints.applying import apply
from peermerge.node.checkpoints.delta_file import DeltaFile
from peermerge.node.checkpoints.encoding import encode
from peermerge.node.checkpoints.reading import Checkpoint

from .models import merged

transformers: Any = pytest.importorskip("transformers")


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Write a tiny Llama, bfloat16, tied, in shards, and a fine-tune of it."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=96,
        tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "base", max_shard_size="10KB")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 1e-2)
    model.save_pretrained(tmp_path / "fine", max_shard_size="10KB")
    return [tmp_path / "base", tmp_path / "fine"]


def logits(folder: Path) -> torch.Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    with torch.no_grad():
        out: torch.Tensor = model(torch.arange(12).reshape(2, 6)).logits
    return out


def test_a_fine_tune_comes_back_with_equal_logits(folders: list[Path], tmp_path: Path) -> None:
    base, fine = folders
    with Checkpoint.open(base) as before, Checkpoint.open(fine) as after:
        assert len(before.files) > 1
        assert "lm_head.weight" not in before.tensors
        encode(before, after, tmp_path / "x.pmd")
        with DeltaFile(tmp_path / "x.pmd", before) as delta:
            apply(delta, tmp_path / "out")
    assert torch.equal(logits(tmp_path / "out"), logits(fine))
    assert not torch.equal(logits(base), logits(fine))
    merged(tmp_path / "alone", [tmp_path / "x.pmd"], base=base)
    assert torch.equal(logits(tmp_path / "alone"), logits(fine))


@pytest.mark.parametrize("method", ["weighted-mean", "ties"])
def test_a_base_merged_with_itself_has_equal_logits(folders: list[Path], tmp_path: Path, method: str) -> None:
    merged(tmp_path / "out", [folders[0]] * 2, 8000, base=folders[0], method=method)
    assert torch.equal(logits(tmp_path / "out"), logits(folders[0]))
