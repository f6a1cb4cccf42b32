"""What n-grams say of a source before the run against what training says: ``python -m experiments.prior``.

Scarce real text (``scarce`` of the text laboratory) and one synthetic source in halves, 300 steps. A source's measured
value follows from its test loss: 1 where it is that of fresh real text, 0 where it is that of one template repeated,
and between them by the tokens that a loss linear in log tokens asks for. The first sources are those that the rule was
chosen on, the others were written down here before it was run on them.

``python -m experiments.prior [--run] [--only NAMES]``: without ``--run`` the table of the stored cells.
"""

import argparse
import json
import lzma
import os
import random
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from math import exp, log
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from experiments.cells import ROOT, commit, result, run
from experiments.scenarios import SCARCE, UNGUARDED, WIKIPEDIA, in_thousandths, made
from experiments.wiki_smollm2 import introductions
from trainer.control.priced.repeats import effective_tokens
from trainer.data.prepare import prepare
from trainer.recipe import load_recipe

RECIPE = Path(__file__).with_name("text.yaml")
RESULTS = Path(__file__).parent / "results" / "prior.json"
RUNS = Path(os.environ.get("PRIOR_LAB_RUNS", ROOT / "runs" / "prior-lab"))
STEPS, SEED, REAL_TOKENS = 300, 17, 49_634
DRAWN_TOKENS = STEPS * 32 * 64 // 2  # of each of the two
COVERED_Z = 1.645  # 90 %
PIECE_WORDS = 12
Texts = Iterable[str]


def some(part: int, parts: int = 10) -> list[str]:
    """One part of the introductions of Wikipedia, in file order, whoever holds them."""
    return list(introductions().values())[part::parts]


def of_file(name: str) -> list[dict[str, Any]]:
    """The rows of a synthetic source of the quickstart."""
    with lzma.open(ROOT / "recipes" / "data" / f"{name}.jsonl.xz", "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def template() -> Texts:
    """One sentence with a number in it."""
    return [f"This is entry number {n} of the list of entries, and it has the number {n}." for n in range(6000)]


def pieces(texts: list[str], words: int) -> Texts:
    """The texts cut into pieces of so many words, all pieces in random order, in documents of eight pieces."""
    split = [text.split() for text in texts]
    cut = [" ".join(ws[i : i + words]) for ws in split for i in range(0, len(ws), words)]
    random.Random(SEED).shuffle(cut)
    return [" ".join(cut[i : i + 8]) for i in range(0, len(cut), 8)]


def by_trigrams(texts: list[str]) -> Texts:
    """Texts drawn from the word trigrams of others."""
    rng, after = random.Random(SEED), defaultdict[tuple[str, str], list[str]](list)
    for text in texts:
        words = ["", "", *text.split(), ""]
        for first, second, third in zip(words, words[1:], words[2:], strict=False):
            after[first, second].append(third)
    for _ in range(len(texts)):
        words = ["", ""]
        while len(words) < 150 and (word := rng.choice(after[words[-2], words[-1]])):
            words.append(word)
        yield " ".join(words[2:])


def disguised(texts: list[str]) -> Texts:
    """Texts in which every fourth word is another's."""
    rng, vocabulary = random.Random(SEED), " ".join(texts).split()
    for text in texts:
        yield " ".join(rng.choice(vocabulary) if place % 4 == 3 else word for place, word in enumerate(text.split()))


def held_out() -> list[str]:
    """All introductions: among them the validation documents, which a leak holds in disguise."""
    return list(introductions().values())


def python_reference() -> Texts:
    """The language reference of Python, in paragraphs."""
    return [part for text in topics.values() for part in re.split(r"\n\s*\n", text) if len(part) > 200]


def backwards(texts: list[str]) -> Texts:
    """The sentences of each text in reverse order."""
    return [" ".join(reversed(re.split(r"(?<=\.)\s+", text))) for text in texts]


def chat() -> Texts:
    """Entries as the answers of an assistant."""
    return [
        f"User: Tell me about {row['source_title']}.\nAssistant: {row['text']}\nUser: Thank you!\nAssistant: Any time."
        for row in of_file("written")
        if row["prompt_template"] == "entry"
    ]


def half_and_half() -> Texts:
    """Useful entries and shuffled ones by turns: a source of which half is bad."""
    useful, shuffled = ([row["text"] for row in of_file(name)] for name in ("written", "scrambled"))
    return [text for pair in zip(useful, shuffled, strict=False) for text in pair][: len(useful)]


KNOWN: dict[str, str | Callable[[], Texts]] = {  # the rule was chosen on these
    "fresh": "kind: synthetic, " + WIKIPEDIA.format(of=40, buckets="[10, 20, 30, 1, 11, 21, 31]"),
    "rephrase": made("written", ", where: {prompt_template: rephrase}"),
    "entry": made("written", ", where: {prompt_template: entry}"),
    "scrambled": made("scrambled"),
    "invented": made("invented"),
    "template": template,
    "trigrams": lambda: by_trigrams(some(1)),
}
NEW: dict[str, str | Callable[[], Texts]] = {  # written down before the rule was run on them
    "python reference": python_reference,  # another domain
    "pieces": lambda: pieces(some(3), PIECE_WORDS),  # real text cut up
    "backwards": lambda: backwards(some(4)),  # real sentences in a wrong order
    "leak": lambda: disguised(held_out()),  # holds the validation documents in disguise
    "chat": chat,  # useful text in another form
    "half bad": half_and_half,
    "noisy": lambda: disguised(some(6)),  # real text with every fourth word wrong
}
SOURCES = {**KNOWN, **NEW}


def cell(name: str) -> list[str]:
    """The overrides of a source's run."""
    source = SOURCES[name]
    if not isinstance(source, str):
        file = RUNS / "sources" / f"{name.replace(' ', '-')}.jsonl"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(json.dumps({"text": text}) + "\n" for text in source() if text.strip()))
        source = f"kind: synthetic, path: {file}, license: CC-BY-SA-4.0"
    schedule = f"training.schedule={{kind: cosine, warmup_steps: {STEPS // 6}}}"
    return [
        f"seed={SEED}",
        f"data.sources={{real: {{kind: real, {SCARCE}}}, made: {{{source}}}}}",
        in_thousandths({"real": 0.5, "made": 0.5}),
        UNGUARDED,
        f"training.steps={STEPS}",
        schedule,
    ]


def measure(name: str) -> dict[str, Any] | None:
    """The prior value of a source, and its run; None where the run did not finish."""
    overrides = cell(name)
    loaded = load_recipe(RECIPE, overrides)
    value = prepare(loaded.recipe.data, base=loaded.folder, seed=SEED).prior_values.get("made")
    folder = RUNS / name.replace(" ", "-")
    if result(folder) is None:
        run(folder, overrides, RECIPE)
    figures = result(folder)
    if figures is None or value is None:
        return None
    return {"commit": commit(), "prior": value.to_json(), "test_nats_per_token": figures["test_nats_per_token"]}


def measured_values(stored: dict[str, Any]) -> dict[str, float]:
    """By the test losses, in fresh real tokens; nothing before fresh text and the template are measured."""
    if not {"fresh", "template"} <= stored.keys():
        return {}
    best, worst = (stored[name]["test_nats_per_token"] for name in ("fresh", "template"))
    base = effective_tokens(REAL_TOKENS, DRAWN_TOKENS)
    efolds = log((base + DRAWN_TOKENS) / base)
    return {
        name: base * (exp(efolds * (worst - row["test_nats_per_token"]) / (worst - best)) - 1) / DRAWN_TOKENS
        for name, row in stored.items()
    }


def table(stored: dict[str, Any]) -> list[str]:
    """A row a source, and what they say together."""
    from scipy.stats import spearmanr

    values = measured_values(stored)
    rows = ["| source | new | by n-grams | word order | test loss | by training | within 90 % |"]
    rows += ["| --- | --- | --- | --- | --- | --- | --- |"]
    within = {}
    for name in sorted(stored, key=lambda name: stored[name]["test_nats_per_token"]):
        prior, loss = stored[name]["prior"], stored[name]["test_nats_per_token"]
        order = "" if prior["order_contrast"] is None else f"{prior['order_contrast']:.2f}"
        by_training = f"{values[name]:.2f}" if values else ""
        if values:
            within[name] = abs(values[name] - prior["mean"]) <= COVERED_Z * prior["error"]
        said = f"{prior['measured']:.2f} ± {prior['error']:.2f}"
        is_within = {True: "yes", False: "no"}.get(within.get(name, 0), "")
        cells = [name, "new" if name in NEW else "", said, order, f"{loss:.3f}", by_training, is_within]
        rows.append(f"| {' | '.join(cells)} |")
    for which, names in (("all", list(values)), ("new", [name for name in values if name in NEW])):
        if len(names) > 3:
            rank = spearmanr([stored[name]["prior"]["measured"] for name in names], [values[name] for name in names])
            held = sum(within[name] for name in names)
            rows.append(f"\n{which}: rank correlation {rank.statistic:.2f}; 90 % intervals hold {held} of {len(names)}")
    return rows


def main() -> int:
    """Run what was requested, store, and print the table; 1 where a cell is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="run the cells that are missing")
    parser.add_argument("--only", default="", help="run only these (several: with commas)")
    arguments = parser.parse_args()
    stored = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    wanted = arguments.only.split(",") if arguments.only else list(SOURCES)
    for name in (name for name in wanted if arguments.run and name not in stored):
        if (row := measure(name)) is not None:
            stored[name] = row
            RESULTS.write_text(json.dumps(dict(sorted(stored.items())), indent=1) + "\n")
    print("\n".join(table(stored)))
    missing = [name for name in SOURCES if name not in stored]
    print(f"\nmissing: {', '.join(missing) or 'none'}")
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())
