"""What evaluation and evidence cost in the quickstart at their defaults, from token counts: no clock is asked.

An evaluation is a forward over held-out documents and a few samples of each source; evidence about the sources is a few
trial steps, or the gradients of a few samples; both are measured here whether or not the policy needs them.
All are counted in tokens trained (forward and backward) over those that the run trains.
"""

from pathlib import Path

from benchmarks.figures import Figure, Result, figure
from trainer.data.prepare import prepare
from trainer.data.store import PreparedData
from trainer.evaluate.evidence.measurement import GRADIENT_ALIGNMENT, SOURCE_VALUE
from trainer.evaluate.held_out import evaluation_cost_tokens, plan_validation
from trainer.evaluate.measurements import plan_measurements
from trainer.recipe import Recipe, load_recipe
from trainer.runs.build import held_out_text, measured_run

RECIPE = Path(__file__).parents[1] / "recipes" / "quickstart.yaml"
EVALUATION_AT_MOST, EVIDENCE_AT_MOST, ALIGNMENT_AT_MOST, STEERED_AT_MOST = 0.05, 0.10, 0.05, 0.10


def run(rounds: int = 1) -> Result:
    """Counts, which no round changes."""
    recipe = load_recipe(RECIPE, ["evaluation.gradient_alignment.enabled='on'"]).recipe
    return costs(recipe, prepare(recipe.data, seed=recipe.seed, base=RECIPE.parent))


def costs(recipe: Recipe, data: PreparedData) -> Result:
    """All costs as parts of the training."""
    length, num_sources = data.sequence_length, len(data.sources)
    interval_tokens = recipe.mixture.global_batch * length * recipe.evaluation.every_steps
    documents = plan_validation(
        data.validation,
        recipe.evaluation,
        interval_tokens=interval_tokens,
        seed=recipe.seed,
        num_sources=num_sources,
        sequence_length=length,
    )
    evaluation = evaluation_cost_tokens(
        data.validation,
        documents,
        num_sources=num_sources,
        source_samples=recipe.evaluation.source_samples,
        sequence_length=length,
    )
    text = held_out_text(recipe, data, data.validation)
    planned = plan_measurements(measured_run(recipe, sequence_length=length), text=text, sources=data.segments)
    measured_after: list[int] = []
    source_value = alignment = 0.0
    if (values := planned.get(SOURCE_VALUE)) is not None:
        times = values.times
        measured_after = [step for step in range(times.start, times.end + 1) if times.due(step, step)]
        source_value = len(measured_after) * values.cost_tokens
    if (gradients := planned.get(GRADIENT_ALIGNMENT)) is not None:
        measurements = [step for step in range(1, recipe.training.steps) if gradients.times.due(step, step)]
        alignment = len(measurements) * gradients.cost_tokens
    trained_tokens = recipe.mixture.global_batch * length * recipe.training.steps
    read, trial_steps, aligned = evaluation / interval_tokens, source_value / trained_tokens, alignment / trained_tokens
    return Result(
        title="compute of evaluation and evidence over that of the training, from token counts",
        figures=[
            _part("one evaluation of held-out documents", read, EVALUATION_AT_MOST),
            _part("evidence about the sources", trial_steps, EVIDENCE_AT_MOST),
            _part("alignment of the sources", aligned, ALIGNMENT_AT_MOST),
            _part("evaluations and alignments", read + aligned, STEERED_AT_MOST),
            _part("evaluations and trial steps", read + trial_steps),
        ],
        details={
            "interval_tokens": interval_tokens,
            "evaluation_cost_tokens": evaluation,
            "source_value_cost_tokens": source_value,
            "alignment_cost_tokens": alignment,
            "source_value_measured_after_steps": measured_after,
            "documents": len(documents),
        },
    )


def _part(name: str, value: float, most: float | None = None) -> Figure:
    return figure(f"{name}, part of the training", [value], "ratio", at_most=most)
