"""What a run says of itself: at the start where and on what it runs, at the end final figures, model and texts."""

import os
import platform
import shutil
import socket
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.base.heartbeat import beat
from trainer.evaluate.held_out import summary, whole_part
from trainer.evaluate.ports import Devices, Engine
from trainer.recipe import Recipe
from trainer.tracking.figures import SourceFacts
from trainer.tracking.schema import FinishLine, SampleLine, StartLine, TestLine
from trainer.training import checkpoint
from trainer.training.run import Outcome, Run, RunState

if TYPE_CHECKING:
    from trainer.data.store import PreparedData

PROMPT_TOKENS, SAMPLE_TOKENS, NUM_SAMPLES = 12, 48, 4
JOB = {  # what SLURM tells a job of itself: the way from a curve, or a run folder, to the job's logs
    "slurm_job": "SLURM_JOB_ID",
    "slurm_array": "SLURM_ARRAY_JOB_ID",
    "slurm_array_task": "SLURM_ARRAY_TASK_ID",
    "slurm_restarts": "SLURM_RESTART_COUNT",
    "slurm_nodes": "SLURM_JOB_NODELIST",
    "slurm_cluster": "SLURM_CLUSTER_NAME",
}
VERSIONS = ("torch", "accelerate", "transformers", "datasets", "numpy", "deepspeed", "pytorch-lightning", "wandb")


def write_start(run: Run, recipe: Recipe, data: "PreparedData", saved: checkpoint.Checkpoint | None) -> None:
    """Check the space for checkpoints, and journal what this launch is: sources, environment, what it goes on from."""
    parameters = run.engine.num_parameters
    if run.engine.is_main:
        checkpoint.require_space(run.folder / "checkpoints", 12 * parameters, recipe.checkpoint.keep)
    line = StartLine(
        step=saved.step if saved else 0,
        recipe_name=recipe.name,
        world_size=run.engine.world_size,
        parameters=parameters,
        resumed_from=saved.folder.name if saved else None,
        store=str(data.folder),
        quarantine=data.quarantine,
        contamination=data.contamination,
        sources={
            name: SourceFacts(
                kind=source.kind,
                license=source.license,
                num_samples=sum(segment.num_samples for segment in source.segments),
                num_tokens=sum(segment.num_tokens for segment in source.segments),
                num_documents=sum(segment.num_documents for segment in source.segments),
            )
            for name, source in data.sources.items()
        },
        validation_documents=len(run.reader.documents),
        environment=environment_of(run.engine),
    )
    run.journal.write(line)


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
    """The figures nobody steered by, sample texts, and the model as transformers loads it."""
    reader = whole_part(
        data.test,
        sequence_length=data.sequence_length,
        end_of_document=data.end_of_document,
        document_batch=recipe.evaluation.micro_batch,
    )
    figures = summary(reader.read(engine, step=state.step, live={}))
    run.journal.write(TestLine(step=state.step, figures=figures))
    beat("finishing")
    _write_model(engine, run.folder / "model", data.tokenizer_folder)
    engine.broadcast(None)  # who waits for the texts has the whole patience of the watchdog for them
    beat()
    prompts = [
        [data.end_of_document, *_beginning(data, int(document))] for document in run.reader.documents[:NUM_SAMPLES]
    ]
    texts = engine.continuations(prompts, num_tokens=SAMPLE_TOKENS, seed=recipe.seed)
    if engine.is_main:
        for prompt, text in zip(prompts, texts, strict=True):
            run.journal.write(SampleLine(step=state.step, prompt=data.decode(prompt[1:]), text=data.decode(text)))


def write_finish(run: Run, state: RunState, outcome: Outcome, *, seconds: float) -> None:
    """Journal how the run ended."""
    how, why = outcome.state, outcome.reason
    run.journal.write(FinishLine(step=state.step, state=how, reason=why, seconds=seconds, tokens=state.tokens))


def _write_model(engine: Engine, folder: Path, tokenizer: Path) -> None:
    """Aside, and in place when it is whole: a run that is killed meanwhile leaves no half of a model there."""
    aside = folder.with_name(f".{folder.name}.partial")
    if engine.is_main:
        shutil.rmtree(aside, ignore_errors=True)
    engine.save_model(aside)
    if engine.is_main:
        shutil.copytree(tokenizer, aside, dirs_exist_ok=True)
        if folder.exists():  # of fewer steps
            shutil.rmtree(folder)
        aside.rename(folder)


def _beginning(data: "PreparedData", document: int) -> list[int]:
    start, end = data.validation.offsets[document], data.validation.offsets[document + 1]
    return [int(token) for token in data.validation.tokens[start : min(end, start + PROMPT_TOKENS)]]
