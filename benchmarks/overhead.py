"""What evaluation and evidence cost in the quickstart at their defaults, from token counts: no clock is asked.

An evaluation is a forward over held-out documents and a few samples of each source; evidence about the sources is a few
trial steps, or the gradients of a few samples; both are measured here whether or not the policy needs them.
All are counted in tokens trained (forward and backward) over those that the run trains.
"""

from pathlib import Path

from benchmarks.figures import Figure, Result, figure
from trainer.data.prepare import prepare
from trainer.data.store import PreparedData
from trainer.evaluate.evidence.gradient_alignment import TokenAlignment, cost_tokens
from trainer.evaluate.evidence.source_value import TokenSourceValue
from trainer.evaluate.held_out import evaluation_cost_tokens, plan_validation
from trainer.recipe import Recipe, load_recipe
from trainer.runs.build import alignment_plan, source_value_plan

RECIPE = Path(__file__).parents[1] / "recipes" / "quickstart.yaml"
EVALUATION_AT_MOST, EVIDENCE_AT_MOST, ALIGNMENT_AT_MOST, STEERED_AT_MOST = 0.05, 0.10, 0.05, 0.10


def run(rounds: int = 1) -> Result:
    """Counts, which no round changes."""
    recipe = load_recipe(RECIPE, ["evaluation.alignment.enabled='on'"]).recipe
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
    plan = source_value_plan(recipe, data)
    measured_after: list[int] = []
    source_value = 0.0
    if plan is not None:
        times = plan.times
        measured_after = [step for step in range(times.start, times.end + 1) if times.due(step, step)]
        assert isinstance(plan.measure, TokenSourceValue)
        source_value = len(measured_after) * plan.measure.counts.cost_tokens(
            num_sources=num_sources, sequence_length=length
        )
    gradients = alignment_plan(recipe, data)
    alignment = 0
    if gradients is not None:
        assert isinstance(gradients.measure, TokenAlignment)
        samples = gradients.measure.num_samples
        measurements = [step for step in range(1, recipe.training.steps) if gradients.times.due(step, step)]
        alignment = len(measurements) * cost_tokens(samples, num_sources=num_sources, sequence_length=length)
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
