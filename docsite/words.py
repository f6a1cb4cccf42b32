"""The words of the public text: retired words, what to write instead, and where they still stand.

``python -m docsite.words`` checks README, docs, recipes, launch files, examples and CHANGELOG, and of ``trainer`` every
string (messages, reasons, help texts, descriptions, keys of journal and ledger) and the docstrings that a user sees.
``--all`` adds every docstring and comment of ``trainer``. Exit code 1 when a retired word is there, each with its file
and line.
"""

import argparse
import ast
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from docsite.pages import ROOT

TEXTS = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/**/*.md",
    "recipes/**/*.yaml",
    "recipes/**/*.md",
    "launch/**/*.md",
    "launch/**/*.yaml",
    "launch/**/*.sbatch",
    "examples/**/*.py",
    "examples/**/*.md",
    "examples/**/*.yaml",
)
# Docstrings that a user reads: of the API, of the configurations (the recipe reference), of the commands.
PUBLIC_DOCSTRINGS = ("trainer/__init__.py", "trainer/lightning/", "config.py", "trainer/commands/cli.py")

_STEMS = "normal|vector|token|optim|initial|memor|recogn|summar|organ|util|random|serial|synchron|material|general"
# Pattern, replacement. Patterns are precise where a word is also right in another sense.
RETIRED = (
    (
        r"\b(?:an?|the|each|every|this|that|last|next|one|first|two|three|\d+|healthy|held-out) readings?\b",
        "evaluation",
    ),
    (r"\breadings\b", "evaluations"),
    (r"\b(?:the|no|its|by|each|what|measured|of) worth\b(?! (?:a|the|of a fresh|no more)\b)", "source value"),
    (r"\bworths\b|\bworth of (?:a|the|each|its|sources?)\b|\bworth (?:was|were|is|has)\b", "source value"),
    (r"\brehears\w*", "trial steps"),
    (r"\bfadings?\b", "forgetting"),
    (r"\ballowances?\b", "real-data budget"),
    (r"\b(?:pay|pays|paid|paying) for\b", "allow, limit, cost"),
    (r"\bheld for\b", "prior value"),
    (r"\bguilty\b|\bguilt\b|\baccus\w*|\bcondemn\w*|\bculprits?\b", "attributed"),
    (r"\bsuspects?\b", "suspected source"),
    (r"\bblam\w+", "attribution"),
    (r"(?<!\.)\bproofs?\b(?! of concept)|\bproven\b|\bprov(?:e|es|ed)\b", "evidence, shown"),
    (r"\bclues?\b|\bhints? of\b", "finding"),
    (r"\b(?:go|goes|going|went|gone) on\b", "resume, continue"),
    (r"\bask(?:ed)? again\b", "run again"),
    (r"\bbeside\b", "next to, alongside"),
    (r"\bseldom\b", "rarely"),
    (r"\bat hand\b", "available"),
    (r"\bmend(?:s|ed|ing)?\b", "fix"),
    (r"(?<!-)\bat once\b", "immediately, in one go, at a time"),
    (r"\bloudly\b", "with a warning"),
    (
        r"(?<![Tt]here )\b(?:is|was) no (?!longer|more|less|need|one|other|such|further|evidence|reason)[a-z]",
        "is not a",
    ),
    (r"\bheld by\b|\bHeld by\b", "limited by"),
    (r"\bbroken off\b", "interrupted"),
    (r"\bh(?:eld|olds?|olding) (?:it |them |him |the run )?up\b", "stalls"),
    (r"\bst(?:ands|ood|anding) still\b", "stalls"),
    (r"\bset aside\b|\bsets aside\b", "moved aside"),
    (r"\bthrow(?:n|s)? away\b|\bthrew away\b", "discarded"),
    (r"\bworst (?:tenth|decile)\b", "tail loss (worst 10 %)"),
    (r"`fed`|\bfed (?:equal|line|lines|part)\b", "batch hash"),
    (r"\b(?:steer|report) (?:documents|part|loss)\b|`steer`", "validation / test documents"),
    (r"\bsigns? of life\b|\bpulses?\b", "heartbeat"),
    (r"\blags?\b", "deficit"),
    (r"\bdealt\b|\bdeals\b", "drawn, distributed"),
    (r"\bone's own\b", "your own"),
    (r"\boutlooks?\b", "horizon"),
    (r"\bcolou?rs?\b(?<!color)(?<!colors)", "color"),
    (r"\bbehaviours?\b|\bneighbour\w*|\bfavour\w*|\bhonour\w*|\bcentres?\b|\bgrey\b", "American spelling"),
    (r"\blicences?\b|\blabelled\b|\bmodelled\b|\bcancelled\b|\bjournalled\b|\btravelled\b", "American spelling"),
    (rf"\b(?:{_STEMS})is(?:es?|ed|ing|ation|ers?)\b", "American spelling (-ize)"),
)
PATTERNS = tuple((re.compile(pattern, re.IGNORECASE), instead) for pattern, instead in RETIRED)


@dataclass(frozen=True)
class Hit:
    """A retired word in the public text."""

    file: str
    line: int
    word: str
    instead: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.word!r} -> {self.instead}"


def hits_in(text: str, file: str, first_line: int = 1) -> list[Hit]:
    """The retired words in a text whose first line has this number."""
    hits = []
    for pattern, instead in PATTERNS:
        for match in pattern.finditer(text):
            hits.append(Hit(file, first_line + text.count("\n", 0, match.start()), match[0], instead))
    return hits


def strings(path: Path, *, with_docstrings: bool) -> Iterator[tuple[int, str]]:
    """Line and text of every string of a module; of its docstrings where asked.

    Names of random streams (``SOMETHING_STREAM = ...``) are left out: nobody sees them, and results depend on them.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings, streams = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).rstrip(")").endswith("_STREAM"):
            streams |= {id(inner) for inner in ast.walk(node.value)}
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                docstrings.add(id(first.value))
    for node in ast.walk(tree):
        is_string = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_string and id(node) not in streams and (with_docstrings or id(node) not in docstrings):
            yield node.lineno, node.value


def _comments(path: Path) -> Iterator[tuple[int, str]]:
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


def check(*, everything: bool = False) -> list[Hit]:
    """All hits, by file and line."""
    hits = []
    for path in sorted({path for pattern in TEXTS for path in ROOT.glob(pattern)}):
        hits += hits_in(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))
    for path in sorted((ROOT / "trainer").rglob("*.py")):
        file = str(path.relative_to(ROOT))
        is_public = file.startswith(PUBLIC_DOCSTRINGS) or file.endswith("config.py")
        for line, text in strings(path, with_docstrings=everything or is_public):
            hits += hits_in(text, file, line)
        for line, text in _comments(path) if everything else ():
            hits += hits_in(text, file, line)
    return sorted(set(hits), key=lambda hit: (hit.file, hit.line, hit.word))


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m docsite.words", description=__doc__)
    parser.add_argument("--all", action="store_true", help="every docstring and comment of trainer, too")
    hits = check(everything=parser.parse_args().all)
    for hit in hits:
        sys.stdout.write(f"{hit}\n")
    return int(bool(hits))


if __name__ == "__main__":
    sys.exit(main())
