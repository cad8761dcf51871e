"""The language task: domains are dealt like classes, bytes are learnt, training resumes exactly."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from peermerge.node.tasks import Shard, load_task
from peermerge.node.tasks.corpus import BLOCK, DOMAINS, load
from peermerge.node.tasks.gpt import ByteGPT
from peermerge.protocol.errors import ConfigError

CPU = torch.device("cpu")
WHOLE = Shard()
NETWORK = {"width": 16, "layers": 1, "heads": 2, "context": 16}
SMALL = {**NETWORK, "domain_bytes": 60_000, "test_size": 12, "batch": 4}


def small_task(shard: Shard = WHOLE, **arguments: object) -> Any:
    return load_task("bytes-gpt", shard, {**SMALL, **arguments})


def test_the_default_has_840_thousand_parameters() -> None:
    assert sum(parameter.numel() for parameter in ByteGPT(128, 4, 4, 128).parameters()) == 842_496


def test_the_future_does_not_change_the_past() -> None:
    model = small_task().model()
    text = torch.arange(12).reshape(1, 12)
    changed = text.clone()
    changed[0, 8:] += 100
    one, other = model(text), model(changed)
    assert one.shape == (1, 12, 256)
    torch.testing.assert_close(one[:, :8], other[:, :8])
    assert not torch.allclose(one[:, 8:], other[:, 8:])


def test_bytes_are_learnt_and_measured_in_bits() -> None:
    task = small_task(lr=1e-2)
    model = task.model()
    before = task.evaluate(model, CPU)
    report = task.train(model, 40, CPU)
    after = task.evaluate(model, CPU)
    assert 7.5 < before["bits_per_byte"] < 8.5
    assert after["bits_per_byte"] < before["bits_per_byte"] - 1
    assert after["accuracy"] > before["accuracy"]
    assert after["bits_per_byte"] == pytest.approx(after["loss"] / math.log(2))
    assert report.samples == 160


def test_resuming_equals_not_having_stopped() -> None:
    task, resumed = small_task(), small_task()
    model, other = task.model(), resumed.model()
    task.train(model, 3, CPU)
    resumed.load_state_dict(task.state_dict())
    other.load_state_dict(model.state_dict())
    task.train(model, 3, CPU)
    resumed.train(other, 3, CPU)
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), other.parameters(), strict=True))


def test_a_corpus_has_equally_much_of_every_domain_and_a_part_for_testing() -> None:
    corpus = load(("python", "manual", "cpp"), 100_000)
    assert corpus.blocks.shape == (len(corpus.domains), BLOCK)
    assert len(set(np.bincount(corpus.domains).tolist())) == 1
    test, train = corpus.part(test=True), corpus.part(test=False)
    assert len(test.domains) * 9 == len(train.domains)
    assert set(test.domains.tolist()) == {0, 1, 2}


def test_three_nodes_are_experts_of_one_domain_each() -> None:
    corpus = load(tuple(DOMAINS), SMALL["domain_bytes"]).part(test=False)
    for index in range(3):
        own = {bytes(block.tolist()) for block in corpus.blocks[torch.from_numpy(corpus.domains == index)]}
        inputs = torch.cat(list(small_task(Shard(index, 3)).calibration()))
        assert all(any(bytes(row.tolist()) in block for block in own) for row in inputs)


def test_many_nodes_share_a_domain() -> None:
    reports = [(task := small_task(Shard(index, 8))).train(task.model(), 1, CPU) for index in range(8)]
    assert all(report.samples == 4 for report in reports)


@pytest.mark.parametrize(
    "arguments", [{"domains": ["klingon"]}, {"domains": []}, {"domain_bytes": 100}, {"context": 4_096}, {"heads": 3}]
)
def test_a_value_that_cannot_work_is_refused_by_name(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        small_task(**arguments)
