"""Held-out figures of a checkpoint, computed now."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.base.errors import UserError
from trainer.base.json_values import jsonable
from trainer.tools.run_view import open_run
from trainer.training import checkpoint


def held_out_figures(folder: Path, warn: Callable[[str], None]) -> dict[str, Any]:
    """Held-out figures of the newest complete checkpoint on both parts, computed now; ``warn`` names damaged ones."""
    from trainer.data.whole import open_whole
    from trainer.engines import open_evaluation_engine
    from trainer.evaluate.held_out import evaluator_of_all, summary
    from trainer.model.build import build_model
    from trainer.runs.build import held_out_text

    run = open_run(folder)
    if run.store is None:
        raise UserError("the journal does not say where the prepared data are", file=folder / "journal.jsonl")
    data = open_whole(run.store)
    saved = checkpoint.latest(folder / "checkpoints", warn=warn)
    if saved is None:
        raise UserError(f"{folder} has no checkpoint yet", remedy=f"Train first: trainer fit RECIPE --run {folder}")
    model = build_model(
        run.recipe.model,
        vocabulary_size=data.vocabulary_size,
        end_of_document=data.end_of_document,
        begin_of_document=data.begin_of_document,
        sequence_length=data.sequence_length,
        seed=run.recipe.seed,
    )
    engine = open_evaluation_engine(model, run.recipe.training)
    engine.restore(saved.folder)
    figures: dict[str, Any] = {"step": saved.step}
    for name, part in (("validation", data.validation), ("test", data.test)):
        evaluator = evaluator_of_all(held_out_text(run.recipe, data, part))
        figures[name] = jsonable(summary(evaluator.evaluate(engine, step=saved.step, live={})))
    return figures


def show_held_out(figures: dict[str, Any]) -> str:
    """Held-out figures as a table a person reads: both parts, then the slices, worst first."""
    lines = [f"after step {figures['step']}: loss in nats per token ± standard error, bits per byte, documents"]
    for part in ("validation", "test"):
        figures_of_part = figures[part]
        error = f" ± {figures_of_part['standard_error']:.4f}" if figures_of_part["standard_error"] is not None else ""
        bits = "-" if figures_of_part["bits_per_byte"] is None else f"{figures_of_part['bits_per_byte']:.4f}"
        lines.append(
            f"{part:<12}{figures_of_part['nats_per_token']:.4f}{error}   {bits}   "
            f"{figures_of_part['documents']} documents"
        )
        unit = "nats per token" if figures_of_part["bits_per_byte"] is None else "bits per byte"
        key = unit.replace(" ", "_")
        by_loss = sorted(figures_of_part["slices"].items(), key=lambda item: -float(item[1][key]))
        lines += [f"  {slice_[key]:.4f} {unit}  {name} ({slice_['documents']})" for name, slice_ in by_loss]
    return "\n".join(lines)
