"""The repository's pages, and what can be read out of them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(p for d in ("docs", "deploy", "node", "protocol") for p in (ROOT / d).rglob("*.md"))]
)


def python_blocks(page: Path) -> list[str]:
    """Return the fenced Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    """Return the `peermerge` command lines of a page's indented blocks, continued lines joined, comments gone."""
    text = page.read_text().replace("\\\n", " ")
    lines = re.findall(r"^ {4,}(peermerge [a-z].*)$", text, re.MULTILINE)
    return [re.sub(r"\s+#.*$", "", line) for line in lines]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
