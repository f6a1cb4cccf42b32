"""The five known ways of training on synthetic data, each by its shipped recipe, small: what was made, kept, gained.

``python -m experiments.ways [WAY ...] [--writer MODEL]`` runs ways (distilled, mostly-synthetic, verified, principled,
textbooks-and-rewrites; verified-recorded) and stores what came of each; then it prints the table of all that is stored,
which is also written to docs/results/ways.md. ``--writer``: a folder with an instruction model, for the two before;
``--solutions``: the recorded solutions of GSM8K, for the last. Every run is an
ordinary `trainer fit`, every round a `trainer synthesize`; all arms of a way train on equally many tokens. One seed:
differences below about 0.02 nats say nothing. Exit 1 while a way is missing.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.cells import ROOT, result, run
from experiments.ways_recorded import recorded
from trainer.synthesis.pool import Pool, RoundRecord
from trainer.tracking.schema import StepLine, read_journal

RESULTS = Path(__file__).parent / "results" / "ways.json"
PAGE = ROOT / "docs" / "results" / "ways.md"
RUNS = Path(os.environ.get("WAYS_RUNS", ROOT / "runs" / "ways"))
RECIPES = ROOT / "recipes"
# Smaller than the recipes, so that all of it takes minutes: sizes alone are changed.
SMALL = (
    "model.config.hidden_size=64",
    "model.config.intermediate_size=172",
    "model.config.num_hidden_layers=2",
    "data.sequence_length=64",
    "mixture.global_batch=16",
    "training.steps=300",
    "training.learning_rate=3.0e-3",
    "evaluation.every_steps=100",
    "checkpoint.every_steps=300",
)
TOLERANCE_NATS = 0.05  # of mostly-synthetic
REAL_PRICE, SYNTHETIC_PRICE = 10.0, 0.5  # of a million tokens, for comparing costs: licensed text, and a small model's

Row = dict[str, Any]


def fitted(way: str, arm: str, recipe: str, *overrides: str) -> Row:
    """An arm's run: its held-out loss, its tokens, its seconds."""
    folder, began_s = RUNS / way / arm, time.monotonic()
    run(folder, overrides, RECIPES / f"{recipe}.yaml")
    figures = result(folder)
    assert figures is not None, (folder / "log.txt").read_text()[-2000:]
    lines = read_journal(folder / "journal.jsonl")
    tokens = sum(line.tokens for line in lines if isinstance(line, StepLine))
    return {
        "arm": arm,
        "command": f"trainer fit recipes/{recipe}.yaml",
        "commit": figures["commit"],
        "test_nats_per_token": figures["test_nats_per_token"],
        "test_bits_per_byte": figures["test_bits_per_byte"],
        "trained_tokens": tokens,
        "epochs": figures["epochs"],
        "seconds": round(time.monotonic() - began_s, 1),
    }


def verified_recorded(options: argparse.Namespace) -> list[Row]:
    """Solutions that other models wrote long ago."""
    if options.solutions is None:
        raise SystemExit("verified-recorded needs --solutions, the recorded solutions of GSM8K (xz)")
    return [recorded(options.solutions, RUNS / "verified-recorded")]


def made(way: str, recipe: str, *words: str) -> RoundRecord:
    """A round by the command, in a pool of the way's own."""
    pool = RUNS / way / "pool"
    command = [sys.executable, "-m", "trainer", "synthesize", str(RECIPES / f"{recipe}.yaml"), *words]
    subprocess.run([*command, "--set", f"synthesis.pool={pool}"], cwd=ROOT, check=not Pool(pool).records())
    return Pool(pool).records()[-1]


def of_round(record: RoundRecord) -> Row:
    """What is told of a round."""
    return {
        "made": record.requests,
        "accepted": record.accepted,
        "made_tokens": record.completion_tokens,
        "accepted_tokens": record.accepted_tokens,
        "dropped": dict(record.dropped),
        "generation_seconds": round(record.seconds, 1),
        "generator": record.generator,
    }


def sets(overrides: Sequence[str]) -> list[str]:
    """Words of a command."""
    return [word for override in overrides for word in ("--set", override)]


def distilled(_: argparse.Namespace) -> list[Row]:
    """A teacher on all real text, then the same small student on scarce text with and without it."""
    everything = "data.sources.wikipedia.sample={by: title, of: 10, buckets: [0, 1, 2, 3, 4, 5, 6, 7]}"
    only = ("data.sources.wikipedia.share=1.0", "data.sources.written.share=0.0")
    big = [override for override in SMALL if not override.startswith("model.config")]
    teacher = fitted("distilled", "teacher", "mostly-synthetic", *big, *only, everything, "training.steps=400")
    model = RUNS / "distilled" / "teacher" / "model"
    common = (*SMALL, f"data.tokenizer.pretrained={model}")
    taught = fitted("distilled", "with teacher", "distilled", *common, f"data.teacher.model={model}")
    alone = fitted("distilled", "text alone", "distilled", *common, "data.teacher=null", "training.teacher_weight=null")
    return [teacher, alone, taught]


def mostly_synthetic(_: argparse.Namespace) -> list[Row]:
    """All real text, then less and less of it beside synthetic text, at equal tokens."""
    rows = []
    for buckets, share in ((64, 1.0), (16, 0.5), (8, 0.35), (4, 0.2), (2, 0.1), (1, 0.05)):
        taken = [bucket for bucket in range(80) if bucket % 10 < 8][:buckets]
        overrides = (
            f"data.sources.wikipedia.sample={{by: title, of: 80, buckets: {taken}}}",
            f"data.sources.wikipedia.share={share}",
            f"data.sources.written.share={round(1 - share, 6)}",
        )
        row = fitted("mostly-synthetic", f"{buckets} of 64 parts real", "mostly-synthetic", *SMALL, *overrides)
        rows.append({**row, "real_part": buckets / 64, "real_share": share})
    return rows


def verified(_: argparse.Namespace) -> list[Row]:
    """A solver on few solutions, a round that it writes, and a new model on both."""
    solver = fitted("verified", "solutions alone", "solver")
    record = made("verified", "verified", "--from", str(RUNS / "verified" / "solutions alone"))
    rows = RUNS / "verified" / "pool" / "rows"
    both = fitted("verified", "with verified answers", "verified", f"data.sources.verified.path={rows}")
    return [solver, {**both, **of_round(record)}]


def written_by(
    way: str, sources: Sequence[str], real: Mapping[str, float], *sizes: str
) -> Callable[[argparse.Namespace], list[Row]]:
    """A way whose round an instruction model writes: its real sources alone, and with what was written."""

    def rows(options: argparse.Namespace) -> list[Row]:
        writer = options.writer
        if writer is None:
            raise SystemExit(f"{way} needs --writer, a folder with an instruction model")
        record = made(way, way, *sets([f"synthesis.generator.model={writer}", *sizes]))
        pool = RUNS / way / "pool" / "rows"
        paths = [f"data.sources.{name}.path={pool}" for name in sources]
        without = [f"data.sources.{name}.share=0.0" for name in sources]
        shares = [f"data.sources.{name}.share={share}" for name, share in real.items()]
        alone = fitted(way, "real text alone", way, *SMALL, *paths, *without, *shares)
        whole = fitted(way, "with what was written", way, *SMALL, *paths)
        return [alone, {**whole, **of_round(record)}]

    return rows


WAYS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "textbooks-and-rewrites": written_by(
        "textbooks-and-rewrites",
        ("taught", "rewrites"),
        {"wikipedia": 0.333333, "code": 0.444444, "books": 0.222223},
        "synthesis.requests=80",
        "synthesis.sampling.max_new_tokens=96",
    ),
    "verified": verified,
    "verified-recorded": verified_recorded,
    "principled": written_by(
        "principled", ("revised",), {"wikipedia": 1.0}, "synthesis.requests=32", "synthesis.sampling.max_new_tokens=80"
    ),
    "distilled": distilled,
    "mostly-synthetic": mostly_synthetic,
}


def table(stored: dict[str, list[Row]]) -> list[str]:
    """The page: every way with its arms, and the least real data within the tolerance."""
    lines = [
        "# The five ways, measured",
        "",
        "By `python -m experiments.ways`, at sizes that take minutes on two CPU cores, one seed. Test is real text",
        "that nobody trained or decided on. All arms of a way have one tokenizer and train on equally many tokens.",
        "",
        "| way | arm | made | accepted | trained tokens | test nats/token | generation s | training s |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for way, rows in stored.items():
        for row in rows:
            cells = [way, row["arm"], row.get("made", ""), row.get("accepted", ""), row.get("trained_tokens", "")]
            loss = row.get("test_nats_per_token")
            shown = "" if loss is None else f"{loss:.3f}"
            cells += [shown, row.get("generation_seconds", ""), row.get("seconds", "")]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return [*lines, "", *_least(stored.get("mostly-synthetic", [])), *_dropped(stored)]


def _least(rows: list[Row]) -> list[str]:
    if not rows:
        return []
    whole = rows[0]
    within = [row for row in rows if row["test_nats_per_token"] <= whole["test_nats_per_token"] + TOLERANCE_NATS]
    best = min(within, key=lambda row: row["real_part"])

    def cost(row: Row) -> float:
        drawn, share = row["trained_tokens"] / 1e6, row["real_share"]
        return drawn * (share * REAL_PRICE / max(row["epochs"]["wikipedia"], 1) + (1 - share) * SYNTHETIC_PRICE)

    loss, all_real = best["test_nats_per_token"], whole["test_nats_per_token"]
    text = (
        f"**Least real data** within {TOLERANCE_NATS} nats of all-real: {best['arm']}, {loss:.3f} "
        f"against {all_real:.3f}. At {REAL_PRICE:g} a million real tokens, each bought once, and "
        f"{SYNTHETIC_PRICE:g} a million synthetic ones, "
        f"it costs {cost(best):.3f}, all-real {cost(whole):.3f}."
    )
    return [text, ""]


def _labels(row: Row) -> str:
    return (
        f" Labeled right: {row['kept_labeled_right']:.1%} of the kept; labeled wrong: "
        f"{row['dropped_labeled_wrong']:.1%} of the {row['dropped_looked_at']} dropped ones that can be looked at."
    )


def _dropped(stored: dict[str, list[Row]]) -> list[str]:
    lines = []
    for way, rows in stored.items():
        for row in rows:
            if row.get("dropped"):
                reasons = "; ".join(f"{reason}: {count}" for reason, count in row["dropped"].items())
                lines.append(f"**{way}**, dropped of {row['made']} by {row['generator']}: {reasons}.")
                lines[-1] += _labels(row) if "kept_labeled_right" in row else ""
                lines.append("")
    return lines


def read_stored() -> dict[str, list[Row]]:
    """What earlier runs stored."""
    stored: dict[str, list[Row]] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    return stored


def main() -> int:
    """Run what was asked for, store it, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ways", nargs="*", choices=[*WAYS, []], help="ways to run; none: the table alone")
    parser.add_argument("--writer", help="folder with an instruction model")
    parser.add_argument("--solutions", type=Path, help="the recorded solutions of GSM8K, xz")
    arguments = parser.parse_args()
    stored = read_stored()
    for way in arguments.ways:
        rows = WAYS[way](arguments)
        stored = {**read_stored(), way: rows}  # as it is now: ways may run side by side
        RESULTS.write_text(json.dumps({name: stored[name] for name in WAYS if name in stored}, indent=1) + "\n")
    lines = table({name: stored[name] for name in WAYS if name in stored})
    PAGE.write_text("\n".join(lines).rstrip() + "\n")
    print("\n".join(lines))
    return int(bool(WAYS.keys() - stored.keys()))


if __name__ == "__main__":
    sys.exit(main())
