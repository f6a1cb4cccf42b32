"""How much machine-written text the calibrated count finds in a source called real, against the truth.

A draw halves the titles that a model wrote about: rows on one half are the machine's reference, those on the other half
are planted; the introductions of Wikipedia are halved likewise. A pool has 1,000 documents, a known part of them
planted. Shown are the mean estimate, how wide its interval is, and how many of the intervals (95 %) hold the truth. The
last rows plant text of a kind that the reference does not have: there the estimate has to be a lower bound.

``python -m experiments.machine_text [--run] [--draws 40]``: without ``--run`` the table of what is stored. Draws of the
same code that are stored are not drawn again, so it can be stopped at any time.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from experiments.cells import commit
from experiments.wiki_smollm2 import introductions, machine_texts
from trainer.base.atomic import write_text
from trainer.base.records import FloatArray
from trainer.data.machine_text.count import estimate
from trainer.data.machine_text.texts import score_texts

RESULTS = Path(__file__).parent / "results" / "machine_text.json"
SHARES = (0.0, 0.02, 0.05, 0.2, 0.5)
HEAD = "| planted | true share | mean estimate | mean interval | intervals that hold it | below it | draws |"
POOL_DOCUMENTS, REFERENCE_DOCUMENTS, CANDIDATES = 1000, 2500, 2000
CELLS = [("same", share) for share in SHARES] + [("foreign", 0.2), ("foreign", 0.5)]
FOREIGN = "entry_hot"  # sampled at temperature 1.3, untruncated


def draw(seed: int) -> list[dict[str, Any]]:
    """One estimate for every share and kind of planted text."""
    rng = np.random.default_rng(seed)
    rows, real = machine_texts(), introductions()
    titles = rng.permutation(sorted({row.title for row in rows}))
    reference_titles, planted_titles = (set(part.tolist()) for part in np.array_split(titles, 2))
    others = rng.permutation([title for title in real if title not in reference_titles | planted_titles])
    half = len(others) // 2
    reference = _texts(rng, [*others[:half], *sorted(reference_titles)], REFERENCE_DOCUMENTS)
    planted = {
        "same": [row.text for row in rows if row.title in planted_titles and row.prompt != FOREIGN],
        "foreign": [row.text for row in rows if row.prompt == FOREIGN],
    }
    clean = _texts(rng, [*others[half:], *sorted(planted_titles)], CANDIDATES)
    machine = [row.text for row in rows if row.title in reference_titles and row.prompt != FOREIGN]
    labeled, scored = score_texts(reference, machine, {"clean": clean, **planted}, seed=seed)
    hits = {name: text.hits for name, text in scored.items()}
    return [
        {"kind": kind, "true": share}
        | asdict(estimate(labeled, _pool(rng, hits["clean"], hits[kind], share), seed=seed))
        for kind, share in CELLS
    ]


def _texts(rng: np.random.Generator, titles: list[str], num: int) -> list[str]:
    return [introductions()[title] for title in rng.permutation(titles)[:num].tolist() if title in introductions()]


def _pool(rng: np.random.Generator, clean_N: FloatArray, planted_N: FloatArray, share: float) -> FloatArray:
    num = round(share * POOL_DOCUMENTS)
    planted = rng.choice(planted_N, min(num, len(planted_N)), replace=False)
    if len(planted) < num:  # few rows of this kind: a smaller pool of the same share
        return np.concatenate([planted, rng.choice(clean_N, round(len(planted) * (1 - share) / share), replace=False)])
    return np.concatenate([planted, rng.choice(clean_N, POOL_DOCUMENTS - num, replace=False)])


def table(results: dict[str, Any]) -> list[str]:
    """Markdown: one row for each share."""
    lines = [
        HEAD,
        f"|{' --- |' * 7}",
    ]
    for kind, true in dict.fromkeys((cell["kind"], cell["true"]) for cell in results["cells"]):
        cells = [cell for cell in results["cells"] if (cell["kind"], cell["true"]) == (kind, true)]
        low, high, share = (np.array([cell[name] for cell in cells]) for name in ("low", "high", "share"))
        held, below = (low <= true) & (true <= high), low <= true
        name = "text like the reference" if kind == "same" else "incoherent text, not in the reference"
        lines.append(
            f"| {name} | {true:.0%} | {share.mean():.1%} | {low.mean():.1%} to {high.mean():.1%} | {held.mean():.0%} "
            f"| {below.mean():.0%} | {len(cells)} |"
        )
    same = [cell for cell in results["cells"] if cell["kind"] == "same"]
    held = np.mean([cell["low"] <= cell["true"] <= cell["high"] for cell in same])
    rates = [np.mean([cell[name] for cell in same]) for name in ("true_positive_rate", "false_positive_rate")]
    return [*lines, "", f"Of all {len(same)} intervals on text like the reference {held:.1%} hold the truth. "
            f"Documents are told badly (TPR {rates[0]:.2f}, FPR {rates[1]:.2f}), their number well."]  # fmt: skip


def draw_missing(num_draws: int) -> None:
    """Draws what this commit has not stored, and stores after every draw."""
    code, stored = commit(), json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    cells = stored["cells"] if stored.get("commit") == code and not code.endswith("-dirty") else []
    for seed in range(len(cells) // len(CELLS), num_draws):
        cells += draw(seed)
        write_text(RESULTS, json.dumps({"commit": code, "cells": cells}, indent=1) + "\n")
        print(f"draw {seed + 1} of {num_draws}", file=sys.stderr, flush=True)


def main() -> int:
    """Run what was requested, store, print; 1 where fewer than 90 % of the intervals hold the truth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="draw anew")
    parser.add_argument("--draws", type=int, default=40)
    arguments = parser.parse_args()
    if arguments.run:
        draw_missing(arguments.draws)
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    print("\n".join(table(results)))
    same = [cell for cell in results["cells"] if cell["kind"] == "same"]
    return int(np.mean([cell["low"] <= cell["true"] <= cell["high"] for cell in same]) < 0.9)


if __name__ == "__main__":
    sys.exit(main())
