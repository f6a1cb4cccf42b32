"""The fenced code blocks of the documentation."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STARTING = (ROOT / "README.md", *sorted((ROOT / "docs" / "getting-started").glob("*.md")))
GUIDES = tuple(sorted((ROOT / "docs").glob("[ceg]*/*.md")))  # concepts, extend, guides


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, line, language and text."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """Page and line, for test ids."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(pages: tuple[Path, ...], *languages: str) -> list[Block]:
    """The blocks of these languages, in order."""
    return [block for page in pages for block in _of_page(page) if block.language in languages]


def _of_page(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        yield Block(page, text.count("\n", 0, match.start()) + 1, match[1], match[2])


def commands(pages: tuple[Path, ...]) -> list[tuple[str, str]]:
    """(page and line of the block, command) of every shell command, comments taken off."""
    commands = []
    for block in blocks(pages, "sh"):
        for line in block.text.splitlines():
            for command in re.sub(r"\s+#.*$", "", line).split(" && "):
                if command.strip() and not command.startswith("#"):
                    commands.append((block.name, command.strip()))
    return commands
