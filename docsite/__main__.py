"""Write the generated pages and blocks; with ``--check`` only say which are stale, and exit with 1 if any is."""

import argparse
import sys
from functools import partial

from docsite import api_reference, cli_reference, journal_reference, recipe_reference, results
from docsite.pages import PAGES, ROOT, between_markers

WHOLE = {
    "reference/recipe.md": recipe_reference.page,
    "reference/cli.md": cli_reference.page,
    "reference/journal.md": journal_reference.page,
    "reference/python-api.md": api_reference.page,
}


EXAMPLES = {
    "extend/policy.md": "policy.py",
    "extend/filter.md": "filter.py",
    "extend/tracker.md": "tracker.py",
}


def _code(file: str) -> str:
    """A file of the example package, as a code block."""
    path = ROOT / "examples" / "plugin" / "hybrid_trainer_example" / file
    return f"```python\n{path.read_text(encoding='utf-8').strip()}\n```"


def made() -> dict[str, str]:
    """Every generated page by its path under docs/."""
    pages = {path: write() for path, write in WHOLE.items()}
    blocks_by_page = {**results.BLOCKS, **{page: {"example": partial(_code, file)} for page, file in EXAMPLES.items()}}
    for path, blocks in blocks_by_page.items():
        text = (PAGES / path).read_text(encoding="utf-8")
        for name, write in blocks.items():
            text = between_markers(text, name, write())
        pages[path] = text
    return pages


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m docsite", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; name the pages that are stale")
    check = parser.parse_args().check
    stale = []
    for path, text in made().items():
        file = PAGES / path
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            stale.append(path)
            if not check:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
    for path in stale:
        sys.stdout.write(f"docs/{path}: {'stale, run `make docs`' if check else 'written'}\n")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
