"""Suites of tasks for one sentence encoder: MiniLM's top three layers tuned per task, everything below them frozen.

The head of a task is the pre-trained embedding of one short text per class, frozen, so that what is merged is all that
tasks learnt: 5.3 M parameters. What the frozen layers say of a text is computed once.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import _merging_tasks as tasks
import torch
from _merging_suites import Parameters, Part, Suite
from _minilm import INSTALL, LAYERS, Tokenizer, Watch, embed, installed, load, pooled, sentences, through, tokenized
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

SUITES: dict[str, Sequence[str]] = {
    "sentiment": ("tweets", "movie", "amazon", "nyt"),
    "different": ("movie", "spam", "nouns", "verbs"),
}
"""Domains of one task, and tasks that have little in common."""
NEEDS = f"{INSTALL}; {tasks.NEEDS}"
FROZEN = range(3)
TUNED = range(3, LAYERS)
WORDS = 32
SCALE = 15.0
"""Of cosines in the softmax."""
SIZES = (1600, 200, 400)
CHOSEN_ON = slice(0, None, 2)
"""Of the validation texts: a coefficient moves all tasks' scores together, so half of them will do."""
BATCH = 32
STEPS = 100
LR = 2e-4
CHUNK = 50
"""Texts that are evaluated together."""
MEASURED = 64
"""Training texts on which an expert measures."""
ROUND_STEPS = 10
"""Of training in one round of gossip."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Texts behind the frozen layers, the shortest first: states (texts, tokens, 384), and their classes."""

    states: Tensor
    present: Tensor
    labels: Tensor

    def only(self, texts: Tensor | slice) -> Seen:
        """Return some of the texts, as long as the longest of them."""
        longest = int(self.present[texts].sum(1).max())
        return Seen(self.states[texts, :longest], self.present[texts, :longest], self.labels[texts])


class Prepared:
    """A task behind the frozen layers; what is not asked for is not computed."""

    def __init__(self, task: tasks.Task, look: Callable[[tasks.Examples], Seen], head: Tensor) -> None:
        self._task, self._look, self.head = task, look, head

    @cached_property
    def train(self) -> Seen:
        """Return what is trained on."""
        return self._look(self._task.train)

    @cached_property
    def sample(self) -> Seen:
        """Return the part of it on which experts measure what methods ask for."""
        some = self._task.train
        return self._look(tasks.Examples(some.texts[:MEASURED], some.labels[:MEASURED]))

    @cached_property
    def validation(self) -> Seen:
        """Return what coefficients are chosen on."""
        return self._look(self._task.validation).only(CHOSEN_ON)

    @cached_property
    def test(self) -> Seen:
        """Return what scores are reported on."""
        return self._look(self._task.test)

    def logits(self, p: Parameters, seen: Seen, watch: Watch = None) -> Tensor:
        """Return the classes' logits of a few texts."""
        return SCALE * pooled(through(p, seen.states, seen.present, TUNED, watch), seen.present) @ self.head.T


class Encoder:
    """The pre-trained model and what it makes of tasks."""

    def __init__(self, seed: int, cache: Path) -> None:
        self._seed, self._cache = seed, cache
        self._whole, self._tokenizer = load(WORDS)
        top = tuple(f"encoder.layer.{layer}." for layer in TUNED)
        self.base = {name: tensor for name, tensor in self._whole.items() if name.startswith(top)}

    def prepare(self, name: str) -> Prepared:
        """Return a task behind the frozen layers."""
        task = tasks.load(name, self._seed, SIZES, self._cache)
        with torch.no_grad():
            head = sentences(self._whole, self._tokenizer, task.prompts)
        return Prepared(task, partial(see, self._whole, self._tokenizer), head)

    def expert(self, name: str, prepared: Prepared) -> tuple[Parameters, Parameters]:
        """Return the model tuned for a task and Adam's second moments at its end, from the cache if they are there."""
        settings = f"{name} {self._seed} {SIZES} {BATCH} {STEPS} {LR} {SCALE} {tasks.TASKS[name]}"
        path = self._cache / f"merging-{name}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}.safetensors"
        if not path.exists():
            tuned, moments = tune(prepared, self.base, STEPS, self._seed)
            both = {f"tuned.{n}": t for n, t in tuned.items()} | {f"moments.{n}": t for n, t in moments.items()}
            unfinished = path.with_suffix(".part")
            save_file(both, unfinished)
            unfinished.replace(path)
        stored = load_file(path)
        tuned, moments = ({n: stored[f"{kind}.{n}"] for n in self.base} for kind in ("tuned", "moments"))
        return tuned, moments


@torch.no_grad()
def see(p: Parameters, tokenizer: Tokenizer, examples: tasks.Examples) -> Seen:
    """Send texts through the frozen layers."""
    ids, present = tokenized(tokenizer, examples.texts)
    order = present.sum(1).argsort(stable=True)
    ids, present, labels = ids[order], present[order], torch.tensor(examples.labels)[order]
    parts = []
    for chunk in torch.arange(len(ids)).split(CHUNK):
        there = present[chunk, : int(present[chunk].sum(1).max())]
        x = through(p, embed(p, ids[chunk, : there.shape[1]]), there, FROZEN)
        parts.append(pad(x, (0, 0, 0, ids.shape[1] - x.shape[1])))
    return Seen(torch.cat(parts), present, labels)


def tune(prepared: Prepared, start: Parameters, steps: int, seed: int) -> tuple[Parameters, Parameters]:
    """Tune with AdamW on one cycle of the learning rate; return the model and Adam's second moments."""
    tuned = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    optimizer = torch.optim.AdamW(tuned.values(), lr=LR, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    drawn = batches(len(prepared.train.labels), random.Random(seed))
    for _ in range(steps):
        seen = prepared.train.only(next(drawn))
        optimizer.zero_grad()
        cross_entropy(prepared.logits(tuned, seen), seen.labels).backward()
        optimizer.step()
        schedule.step()
    return (
        {name: tensor.detach() for name, tensor in tuned.items()},
        {name: optimizer.state[tensor]["exp_avg_sq"] for name, tensor in tuned.items()},
    )


def batches(length: int, draw: random.Random) -> Iterator[Tensor]:
    """Yield batches without end. Eight at a time are drawn and cut by length, which spares padding."""
    while True:
        order = draw.sample(range(length), length)
        for start in range(0, length - 8 * BATCH + 1, 8 * BATCH):
            pool = sorted(order[start : start + 8 * BATCH])
            cut = [pool[i : i + BATCH] for i in range(0, len(pool), BATCH)]
            yield from (torch.tensor(batch) for batch in draw.sample(cut, len(cut)))


def accuracy(prepared: Prepared, p: Parameters, seen: Seen) -> float:
    """Return the share of texts that get their class, with matrices multiplied in bfloat16, which halves the time."""
    chunks = torch.arange(len(seen.labels)).split(CHUNK)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        guesses = torch.cat([prepared.logits(p, seen.only(chunk)).argmax(1) for chunk in chunks])
    return int((guesses == seen.labels).sum()) / len(seen.labels)


def suite(name: str, seed: int, cache: Path) -> Suite:
    """Return a suite of sentence tasks; its experts are tuned if they are not in the cache folder."""
    if not installed():
        raise SystemExit(f"the suites of sentences need {NEEDS}")
    encoder = Encoder(seed, cache)
    prepared = [encoder.prepare(task) for task in SUITES[name]]
    tuned = [encoder.expert(task, there) for task, there in zip(SUITES[name], prepared, strict=True)]
    experts, moments = zip(*tuned, strict=True)
    measured = [measure(there, expert, seed) for there, expert in zip(prepared, experts, strict=True)]
    statistics = {kind: tuple(of_expert[kind] for of_expert in measured) for kind in measured[0]}

    def scored(model: Parameters, task: int, part: Part) -> float:
        there = prepared[task]
        return accuracy(there, model, there.validation if part == "validation" else there.test)

    def continued(model: Parameters, task: int, round_: int) -> Parameters:
        return tune(prepared[task], model, ROUND_STEPS, 1000 * seed + round_)[0]

    statistics["second_moment"] = moments
    return Suite(name, seed, tuple(SUITES[name]), encoder.base, experts, statistics, scored, continued)


def measure(prepared: Prepared, expert: Parameters, seed: int) -> dict[str, Parameters]:
    """Return the diagonal of the Fisher information and every matrix's mean outer product of inputs.

    On a few training texts; the classes of the Fisher information are drawn from the model's own answer.
    """
    generator = torch.Generator().manual_seed(seed)
    fisher = {name: torch.zeros_like(tensor) for name, tensor in expert.items()}
    grams: Parameters = {}
    for text in torch.arange(MEASURED).split(1):
        seen = prepared.sample.only(text)

        def watch(name: str, inputs: Tensor) -> None:
            rows = inputs.detach().flatten(0, 1)
            grams[name] = grams.get(name, torch.zeros(())) + rows.T @ rows / len(rows) / MEASURED

        watched = {name: tensor.clone().requires_grad_() for name, tensor in expert.items()}
        chances = prepared.logits(watched, seen, watch).log_softmax(1)[0]
        drawn = torch.multinomial(chances.exp().detach(), 1, generator=generator)
        chances[drawn].sum().backward()
        for name, tensor in watched.items():
            if tensor.grad is not None:
                fisher[name] += tensor.grad.square() / MEASURED
    return {"fisher": fisher, "gram": grams}
