"""How every run starts and ends: where and on what it runs, final figures, model and texts, its outcome."""

import json
import os
import platform
import shutil
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.base.atomic import replace_folder, write_text
from trainer.base.errors import UserError
from trainer.base.failures import in_words, warn
from trainer.base.formatting import figure
from trainer.base.heartbeat import beat
from trainer.evaluate.held_out import evaluator_of_all, summary
from trainer.evaluate.ports import Devices, Engine
from trainer.recipe import Recipe
from trainer.runs.build import held_out_text
from trainer.runs.folder import EXIT_CODES, MODEL, MODEL_MARK, write_outcome
from trainer.runs.guard_notice import Sight, blindness
from trainer.tracking.figures import SourceFacts
from trainer.tracking.guard_verdict import guard_verdict
from trainer.tracking.schema import FinishLine, RateLine, SampleLine, StartLine, TestLine, read_journal
from trainer.training import checkpoint
from trainer.training.rate_jump import RateJump
from trainer.training.run import HeldOutEvaluator, Outcome, Run, RunState

if TYPE_CHECKING:
    from trainer.data.store import PreparedData

PROMPT_TOKENS, SAMPLE_TOKENS, NUM_SAMPLES = 12, 48, 4
JOB = {  # what SLURM says of a job: the way from a curve, or a run folder, to its logs
    "slurm_job": "SLURM_JOB_ID",
    "slurm_array": "SLURM_ARRAY_JOB_ID",
    "slurm_array_task": "SLURM_ARRAY_TASK_ID",
    "slurm_restarts": "SLURM_RESTART_COUNT",
    "slurm_nodes": "SLURM_JOB_NODELIST",
    "slurm_cluster": "SLURM_CLUSTER_NAME",
}
VERSIONS = ("torch", "accelerate", "transformers", "datasets", "numpy", "deepspeed", "pytorch-lightning", "wandb")


def write_start(
    run: Run,
    saved: checkpoint.Checkpoint | None,
    *,
    recipe_name: str,
    sources: Mapping[str, SourceFacts],
    data: "PreparedData | None" = None,
) -> None:
    """Journal what this launch is: its sources, its prepared data if it has any, and what it resumes from."""
    line = StartLine(
        step=saved.step if saved else 0,
        recipe_name=recipe_name,
        world_size=run.devices.world_size,
        parameters=run.devices.num_parameters,
        resumed_from=saved.folder.name if saved else None,
        sources=sources,
        validation_documents=len(run.data.evaluator.documents),
        environment=_environment(run),
        guard_blind=_why_blind(run, None if data is None else len(data.validation.offsets) - 1),
        store=None if data is None else str(data.folder),
        rows={} if data is None else {name: account.to_json() for name, account in data.rows.items()},
        prior_values={} if data is None else {name: value.to_json() for name, value in data.prior_values.items()},
        tokenizer={} if data is None else data.tokenizer.to_json(),
    )
    run.io.journal.write(line)


def _why_blind(run: Run, held_out: int | None) -> str | None:
    if not run.settings.control.guard.enabled:
        return "control.guard.enabled is false"
    if run.settings.replays:
        return "the decisions of another run are replayed"
    sight = Sight(documents=len(run.data.evaluator.documents), held_out=held_out)
    settings = run.settings
    return blindness(settings.control.guard, settings.evaluation, num_steps=settings.num_steps, sight=sight)


def prepared_sources(data: "PreparedData") -> dict[str, SourceFacts]:
    """What the start line says of prepared sources."""
    return {
        name: SourceFacts(
            kind=source.kind,
            license=source.license,
            num_samples=sum(segment.num_samples for segment in source.segments),
            num_tokens=sum(segment.num_tokens for segment in source.segments),
            num_documents=sum(segment.num_documents for segment in source.segments),
        )
        for name, source in data.sources.items()
    }


def write_rate_jump(run: Run, state: RunState, jump: RateJump, *, choice: str) -> None:
    """Journal a jump of the learning rate, and tell it with the choices."""
    line = RateLine(
        step=state.step,
        learning_rate_before=jump.before,
        learning_rate_by_schedule=jump.by_schedule,
        learning_rate=jump.after,
        choice=choice,
    )
    run.io.journal.write(line)
    rates = f"{figure(jump.before)} at step {state.step}, {figure(jump.after)} at step {state.step + 1}"
    if jump.change.how != "accept":
        by_schedule = f"the schedule has {figure(jump.by_schedule)}"
        run.io.warn(f"learning rate: {rates}; {by_schedule}, training.rate_jump is {choice}")
        return
    run.io.warn(
        f"learning rate: {rates}, {figure(jump.factor)} times as much, by the schedule under the new training.steps. "
        "What the falling rate has settled may be lost. To choose otherwise press Ctrl-C and run the same command with "
        f"--set training.rate_jump=hold, which takes the rate back to {figure(jump.before)} or below, or =rewarm, "
        "which raises it slowly from there to the schedule"
    )


def _environment(run: Run) -> dict[str, Any]:
    try:
        return environment_of(run.devices)
    except Exception as error:  # noqa: BLE001 -- broken metadata of some package must not fail a run
        run.io.warn(f"the journal does not say where this runs: {in_words(error)}")
        return {}


def environment_of(engine: Devices) -> dict[str, Any]:
    """Host, device and versions."""
    installed = {
        dist.metadata["Name"].lower(): dist.version for dist in metadata.distributions() if dist.metadata["Name"]
    }
    return {
        "host": socket.gethostname(),
        "device": str(engine.device),
        "python": platform.python_version(),
        "system": platform.platform(),
        **{name: installed[name] for name in VERSIONS if name in installed},
        **{name: os.environ[variable] for name, variable in JOB.items() if variable in os.environ},
    }


def write_final_figures(run: Run, engine: Engine, recipe: Recipe, data: "PreparedData", state: RunState) -> None:
    """The figures on the test part, sample texts, and the model as transformers loads it."""
    write_test(run, evaluator_of_all(held_out_text(recipe, data, data.test)), state)
    beat("finishing")
    _write_model(engine, run.io.folder / MODEL, data.tokenizer_folder, mark={"run": recipe.name, "step": state.step})
    engine.broadcast(None)  # the ranks that wait for the texts have the whole time-out of the watchdog
    beat()
    for line in _samples(run, engine, data, step=state.step, seed=recipe.seed):
        run.io.journal.write(line)


def _samples(run: Run, engine: Engine, data: "PreparedData", *, step: int, seed: int) -> list[SampleLine]:
    """(all) Texts that the model writes, within the length that it was trained on; none off the main rank, and none
    where it cannot write: they are for a person to look at.
    """
    length = data.sequence_length
    before = [data.end_of_document] if data.begin_of_document is None else []
    prompts = [
        [*before, *_beginning(data, int(document))][: length - 1]
        for document in run.data.evaluator.documents[:NUM_SAMPLES]
    ]
    num_tokens = min(SAMPLE_TOKENS, length - max(map(len, prompts), default=0))
    try:
        texts = engine.continuations(prompts, num_tokens=num_tokens, seed=seed)
        return [
            SampleLine(step=step, prompt=data.decode(prompt[1:]), text=data.decode(text))
            for prompt, text in zip(prompts, texts, strict=engine.is_main)
        ]
    except Exception as error:  # noqa: BLE001 -- a decoration must not turn a finished run into a failed one
        run.io.warn(f"the model wrote no sample texts: {in_words(error)}")
        return []


def write_test(run: Run, evaluator: HeldOutEvaluator, state: RunState) -> None:
    """Journal the figures on the test part, which neither policy nor guard has seen."""
    evaluation = evaluator.evaluate(run.devices, step=state.step, live={})
    run.io.journal.write(TestLine(step=state.step, figures=summary(evaluation)))


def write_finish(run: Run, state: RunState, outcome: Outcome, *, seconds: float) -> None:
    """Journal how the run ended."""
    how, why = outcome.state, outcome.reason
    run.io.journal.write(FinishLine(step=state.step, state=how, reason=why, seconds=seconds, tokens=state.tokens))


def write_ending(folder: Path, outcome: Outcome) -> int:
    """Write ``outcome.json`` and, where a step was made, the report (main rank); the exit code."""
    code, guard = EXIT_CODES[outcome.state], None
    if outcome.step:
        with suppress(UserError, OSError):  # a journal that cannot be read is no reason to lack an outcome
            guard = guard_verdict(read_journal(folder / "journal.jsonl")).text
    write_outcome(folder, state=outcome.state, step=outcome.step, reason=outcome.reason, exit_code=code, guard=guard)
    if outcome.step:
        try:
            from trainer.report.html import write_report

            write_report([folder], folder / "report.html")
        except Exception as error:  # noqa: BLE001 -- a view must not turn a finished run into a failed one
            warn(f"report.html could not be written: {in_words(error)}")
    return code


def _write_model(engine: Engine, folder: Path, tokenizer: Path, *, mark: Mapping[str, Any]) -> None:
    """Write the model to a temporary folder and rename it when complete: a killed run leaves no half of a model.

    One that is there already, from a run that had ended with fewer steps, is replaced; a user's own is set aside.
    """
    aside = folder.with_name(f".{folder.name}.partial")
    if engine.is_main:
        shutil.rmtree(aside, ignore_errors=True)
    engine.save_model(aside)
    if engine.is_main:
        for file in tokenizer.iterdir():
            shutil.copyfile(file, aside / file.name)  # not its mode: the prepared data may be read-only, the user's not
        write_text(aside / MODEL_MARK, json.dumps(mark) + "\n", durable=False)
        if folder.exists() and not (folder / MODEL_MARK).is_file():  # it came while the run went on
            kept = folder.with_name(f"{folder.name}.not-of-this-run.{int(time.time())}")
            folder.rename(kept)
            warn(f"{folder} was written by no run: it is now {kept}")
        replace_folder(aside, folder)


def _beginning(data: "PreparedData", document: int) -> list[int]:
    start, end = data.validation.offsets[document], data.validation.offsets[document + 1]
    return [int(token) for token in data.validation.tokens[start : min(end, start + PROMPT_TOKENS)]]
