"""The stage that grades: it writes each row's ``scores``, and drops what a grader that has a vote drops."""

from collections.abc import Sequence
from typing import Any

from trainer.synthesis.context import RoundContext
from trainer.synthesis.funnel import Funnel, Reason
from trainer.synthesis.graders.config import name_of
from trainer.synthesis.graders.kept import Kept
from trainer.synthesis.graders.panel import Examiner, graded
from trainer.synthesis.graders.protocol import Grade, Surroundings
from trainer.synthesis.graders.record import GraderRecord
from trainer.synthesis.licenses import together
from trainer.synthesis.requests import PromptRow, columns_of
from trainer.synthesis.rows import Row


def grade(rows: Sequence[Row], context: RoundContext, funnel: Funnel) -> list[Row]:
    """The rows that no grader drops, with their scores. Verdicts of a grader that lost its vote are left out."""
    configs, shard = context.config.graders, context.shard
    if not configs:
        return list(rows)
    responses = context.pool.responses_file(shard.generation, shard.number, shard.of)
    surroundings = Surroundings(
        base=context.base,
        generator=context.config.generator,
        real=[_real_row(row, context) for row in context.prompt_rows],
        answers=responses.with_suffix(".answers.jsonl"),
    )
    examiner = Examiner(
        limits=context.config.grading,
        real=[_real_row(row, context) for row in context.set_aside],
        seed=context.seed,
        generation=shard.generation,
    )
    shown = [{**row, "prompt_row": context.source_columns[row["id"]]} for row in rows]
    with Kept(responses.with_suffix(".grades.jsonl")) as kept:
        outcome = graded(configs, shown, examiner, surroundings, kept)
    funnel.graders = [record for record, _ in outcome.grades]
    funnel.verifier = outcome.verifier
    judges = sorted({record.license for record in funnel.graders if record.license})
    terms = together(judges) if judges else None
    kept_rows: list[Row] = []
    for place, row in enumerate(rows):
        verdicts = [(record, grades[place]) for record, grades in outcome.grades]
        scores = {name: score for _, each in verdicts for name, score in each.scores.items()}
        scored = {**row, "scores": {**row["scores"], **scores}, "judge_license": terms}
        reason = _dropped_by(verdicts)
        if reason is None:
            kept_rows.append(scored)
        else:
            funnel.drop(scored, reason)
    return kept_rows


def judges_of(graders: Sequence[Any]) -> dict[str, str]:
    """The models that let rows in, and their terms. What these ask of derivatives concerns no row: a verdict is no part
    of its text. The generator as its own judge is no party more.
    """
    terms = {name_of(config): getattr(getattr(config, "model", None), "license", None) for config in graders}
    return {f"grader {name}": str(license_text) for name, license_text in terms.items() if license_text is not None}


def _dropped_by(verdicts: Sequence[tuple[GraderRecord, Grade]]) -> Reason | None:
    """The first grader with a vote that drops the row, and why."""
    for record, each in verdicts:
        if record.has_vote and each.verdict == "drop":
            return f"grader {record.name}", each.reason or "no reason given"
    return None


def _real_row(row: PromptRow, context: RoundContext) -> dict[str, Any]:
    """A real row as graders are shown it: as if it had been written from itself."""
    document = row.document
    return {
        "text": document.text,
        "id": f"real:{row.source}:{document.id}",
        "slice": document.slice,
        "source": row.source,
        "source_id": document.id,
        "prompt": "",
        "generator": context.identity.name,
        "generator_weights": context.identity.weights,
        "prompt_row": columns_of(document),
    }
