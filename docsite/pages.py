"""Generated text inside pages: whole pages, or the part between two markers."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs"


def between_markers(text: str, name: str, block: str) -> str:
    """``text`` with what stands between ``<!-- generated: name -->`` and ``<!-- end -->`` replaced by ``block``."""
    pattern = re.compile(rf"(<!-- generated: {re.escape(name)} -->\n)(.*?)(<!-- end -->)", flags=re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"no block {name!r}")
    return pattern.sub(lambda match: f"{match[1]}\n{block.strip()}\n\n{match[3]}", text)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; pipes and line breaks inside cells are escaped."""
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def code(text: object) -> str:
    """``text`` as inline code; empty stays empty."""
    return f"`{text}`" if str(text) else ""
