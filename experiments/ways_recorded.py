"""Recorded solutions of other models as answers to verify: taken in as files, held against the known answers.

The solutions are those published with GSM8K (openai/grade-school-math, MIT; ``example_model_solutions.jsonl``): four
models' answers to each problem, each with a label of whether it is right, which the verification is compared with.
"""

import json
import lzma
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from trainer.synthesis.pool import Pool, RoundRecord

MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
NUM_PROBLEMS = 250
RECIPE = """
name: recorded
model:
  architecture: llama
  config: {hidden_size: 64, intermediate_size: 172, num_hidden_layers: 2, num_attention_heads: 4}
data:
  sequence_length: 128
  tokenizer: {train_bpe: 1024}
  sources:
    problems: {kind: real, share: 1.0, path: problems.jsonl, id_column: id, provenance: [answer], license: MIT}
  held_out: {kind: share, source: problems, validation: 0.1, test: 0.1}
synthesis:
  pool: pool
  sources: [problems]
  generator:
    kind: files
    path: solutions.jsonl
    written_by: recorded
    license: MIT
    columns: {text: text, source_id: source_id, generator: generator}
  requests: 100000
  graders: [{kind: mathematics, answer_column: answer}]
  paths: {distinct: true, most_per_row: 4}
mixture: {global_batch: 8}
training: {steps: 10, micro_batch: 8, learning_rate: 1.0e-3, precision: fp32}
"""


def recorded(solutions: Path, folder: Path) -> dict[str, Any]:
    """Verify the solutions of the first problems; what was kept, and how often that agrees with the labels."""
    folder.mkdir(parents=True, exist_ok=True)
    with lzma.open(solutions, "rt", encoding="utf-8") as stream:
        problems = [json.loads(line) for line in stream][:NUM_PROBLEMS]
    write(folder / "problems.jsonl", [_problem(number, each) for number, each in enumerate(problems)])
    rows = [_solution(number, each, model) for number, each in enumerate(problems) for model in MODELS]
    write(folder / "solutions.jsonl", rows)
    (folder / "recorded.yaml").write_text(RECIPE)
    if not Pool(folder / "pool").records():
        command = [sys.executable, "-m", "trainer", "synthesize", str(folder / "recorded.yaml")]
        subprocess.run(command, check=True)
    (record,) = Pool(folder / "pool").records()
    return {**_agreement(record, rows, folder), "arm": "recorded solutions of GSM8K, verified"}


def _problem(number: int, problem: dict[str, Any]) -> dict[str, str]:
    answer = problem["ground_truth"].rsplit("A:", 1)[-1].strip()
    return {"id": f"p{number}", "text": f"{problem['question']}\n{problem['ground_truth']}", "answer": answer}


def _solution(number: int, problem: dict[str, Any], model: str) -> dict[str, Any]:
    own = problem[model]
    return {"text": own["solution"], "source_id": f"p{number}", "generator": model, "is_correct": own["is_correct"]}


def _agreement(record: RoundRecord, rows: Sequence[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Of what was kept, the share that is labeled right; of what was dropped as wrong, the share labeled wrong."""
    labels = {(row["source_id"], row["text"].strip()): row["is_correct"] for row in rows}
    name = Pool(folder / "pool").shard_file(1, 0, 1).name
    kept = pq.read_table(folder / "pool" / "rows" / name).to_pylist()
    rejected = pq.read_table(folder / "pool" / "rejected" / name).to_pylist()
    wrong = [row for row in rejected if row["dropped_by"] == "grader mathematics"]

    def right(rows: Sequence[dict[str, Any]]) -> int:
        return sum(bool(labels[row["source_id"], row["text"]]) for row in rows)

    return {
        "made": record.requests,
        "accepted": record.accepted,
        "dropped": dict(record.dropped),
        "generator": record.generator,
        "kept_labeled_right": right(kept) / len(kept),
        "dropped_labeled_wrong": 1 - right(wrong) / len(wrong),
        "dropped_looked_at": len(wrong),
    }


def write(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """One row a line."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
