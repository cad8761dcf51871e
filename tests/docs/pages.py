"""The repository's pages, and what can be read out of them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("docs", "deploy", "node", "protocol")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a page in one language; those in a list lose its indent."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def commands(page: Path) -> list[str]:
    """Return the `peermerge` command lines of a page's indented blocks, continued lines joined, comments gone."""
    text = page.read_text().replace("\\\n", " ")
    lines = re.findall(r"^ {4,}(peermerge [a-z].*)$", text, re.MULTILINE)
    return [re.sub(r"\s+#.*$", "", line) for line in lines]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
