"""Assembly: from a recipe to a running, resumable run. The only place where the parts are built and put together.

A run folder belongs to one launch at a time (the lock says whose), says how it ended (``outcome.json``, because launchers swallow exit codes), and
can be asked again: a finished run says so, an unfinished one goes on from its newest whole checkpoint.
"""

import fcntl
import json
import os
import platform
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from typing_extensions import override

from trainer import checkpoint
from trainer.control.steer import initial_state, needs_worth
from trainer.evaluate.heldout import Reader, all_documents, fixed_samples, plan_steer, summary
from trainer.evaluate.worth import WorthCounts, sized
from trainer.loop import Engine, Outcome, Run, RunState, starting_facts, train
from trainer.mixture.ledger import BatchSize, Fact, Ledger, Segment, Shares, Topology, from_record, to_record
from trainer.mixture.plan import Cells, Plan, accumulation
from trainer.monitor.journal import AppendOnlyFile, Journal, JournalWriter, SilentJournal, cut, read
from trainer.recipe import LoadedRecipe, Recipe, differences, load_recipe, resolved_yaml
from trainer.records import UserError

if TYPE_CHECKING:
    from trainer.data.store import PreparedData
    from trainer.engines.accelerate import AccelerateEngine
    from trainer.monitor.progress import TerminalProgress

DONE, FAILED, BAD_INPUT, GUARD_STOPPED, INTERRUPTED = 0, 1, 2, 3, 75
EXIT_CODES = {"finished": DONE, "stopped-by-guard": GUARD_STOPPED, "interrupted": INTERRUPTED, "failed": FAILED}
PROMPT_TOKENS, SAMPLE_TOKENS, NUM_SAMPLES = 12, 48, 4
VERSIONS = ("torch", "accelerate", "transformers", "datasets", "numpy", "deepspeed", "pytorch-lightning", "wandb")


def fit(recipe_path: Path, overrides: list[str], folder: Path | None, replay: Path | None) -> int:
    """Train the recipe in its run folder, or go on with it; the exit code."""
    loaded = load_recipe(recipe_path, overrides)
    folder = folder or Path("runs") / loaded.recipe.name
    if _is_finished(folder, loaded.recipe):
        return DONE
    is_main = int(os.environ.get("RANK", "0")) == 0
    with _locked(folder) if is_main else _unlocked():
        if is_main:
            (folder / "outcome.json").unlink(missing_ok=True)
        try:
            outcome = _fit(loaded, folder, replay)
        except UserError as error:
            _write_outcome(folder, state="failed", step=None, reason=str(error), exit_code=BAD_INPUT)
            if is_main:
                raise
            return BAD_INPUT
        except Exception as error:
            text = traceback.format_exc()
            if _write_outcome(folder, state="failed", step=None, reason=repr(error), exit_code=FAILED, trace=text):
                print(text, file=sys.stderr)  # noqa: T201 - the root cause, once: the rank that failed first prints it
                print(f"the run failed: {error}\nsee {folder / 'outcome.json'}", file=sys.stderr)  # noqa: T201
            return FAILED
        if is_main:
            code = EXIT_CODES[outcome.state]
            _write_outcome(folder, state=outcome.state, step=outcome.step, reason=outcome.reason, exit_code=code)
            _tell(folder)
        return EXIT_CODES[outcome.state]


def evaluate(folder: Path) -> int:
    """Print the held-out figures of the newest checkpoint."""
    from trainer.inspection import held_out_figures
    from trainer.monitor.journal import jsonable

    print(json.dumps(jsonable(held_out_figures(folder)), indent=1))  # noqa: T201
    return DONE


def audit(folder: Path, asked: int | str, as_json: bool) -> int:
    """Print which samples a step used, or which steps used a sample."""
    from trainer.inspection import open_run, show_sample, show_step

    run = open_run(folder)
    print(show_step(run, asked, as_json=as_json) if isinstance(asked, int) else show_sample(run, asked, as_json=as_json))  # noqa: T201
    return DONE


def explain(folder: Path, step: int) -> int:
    """Print why the shares of a step were what they were."""
    from trainer.monitor.explain import explain as in_words

    print(in_words(read(folder / "journal.jsonl"), read(folder / "ledger.jsonl"), step))  # noqa: T201
    return DONE


def report(folders: list[Path], output: Path | None) -> int:
    """Write one HTML file about one or several runs."""
    from trainer.monitor.report import write_report

    output = output or folders[0] / "report.html"
    write_report(folders, output)
    print(output)  # noqa: T201
    return DONE


def _fit(loaded: LoadedRecipe, folder: Path, replay: Path | None) -> Outcome:
    from trainer.data.prepare import prepare
    from trainer.engines.accelerate import check_launch
    from trainer.monitor.progress import TerminalProgress

    recipe = loaded.recipe
    check_launch()
    is_main = int(os.environ.get("RANK", "0")) == 0
    if is_main:
        _check_recipe_unchanged(folder, recipe)
    note = _prepare_note if is_main else None
    data = prepare(recipe.data, base=loaded.folder, seed=recipe.seed, is_main=is_main, progress=note)
    engine = _build_engine(recipe, data)
    saved = _newest_checkpoint(folder, engine)
    ledger = _open_ledger(folder, recipe, data, engine, saved)
    state = _starting_state(recipe, ledger, saved)
    if saved is not None:
        engine.restore(saved.folder)
    with ExitStack() as stack:
        progress = stack.enter_context(TerminalProgress(recipe.training.steps)) if is_main else None
        journal = stack.enter_context(_journal(folder, recipe, progress))
        stop_asked = stack.enter_context(_signals())
        run = _assemble(
            loaded, data, engine, ledger=ledger, journal=journal, folder=folder, state=state, replay=replay, stop_asked=stop_asked
        )
        stack.callback(run.stream.close)
        _write_start(run, recipe, data, saved)
        started_s = time.monotonic()
        state, outcome = train(run, state)
        if outcome.state == "finished":
            _final_figures(run, recipe, data, state)
        journal.write(
            "finish",
            state.step,
            state=outcome.state,
            reason=outcome.reason,
            seconds=time.monotonic() - started_s,
            tokens=state.tokens,
        )
    engine.close()
    return outcome


# The parts


def _build_engine(recipe: Recipe, data: "PreparedData") -> "AccelerateEngine":
    from trainer.engines.accelerate import AccelerateEngine
    from trainer.model.build import build_model

    model = build_model(
        recipe.model,
        vocabulary_size=data.vocabulary_size,
        end_of_document=data.end_of_document,
        sequence_length=data.sequence_length,
        seed=recipe.seed,
    )
    return AccelerateEngine(model, recipe.training, seed=recipe.seed)


@contextmanager
def _journal(folder: Path, recipe: Recipe, progress: "TerminalProgress | None") -> Iterator[JournalWriter]:
    """The journal with its views (terminal, W&B) on the main rank, a silent one elsewhere."""
    from trainer.monitor.wandb import WandbMirror

    if progress is None:
        yield SilentJournal()
        return
    mirror = WandbMirror(recipe.monitor.wandb, folder, name=recipe.name, recipe=recipe.model_dump(mode="json"), warn=_warn)
    journal = Journal(folder / "journal.jsonl", [progress.note, mirror.note])
    try:
        yield journal
    finally:
        journal.close()
        mirror.finish()


def _assemble(
    loaded: LoadedRecipe,
    data: "PreparedData",
    engine: Engine,
    *,
    ledger: "RecordedLedger",
    journal: JournalWriter,
    folder: Path,
    state: RunState,
    replay: Path | None,
    stop_asked: Callable[[], bool],
) -> Run:
    from trainer.data.stream import Stream

    recipe = loaded.recipe
    plan = Plan(recipe.seed, ledger)
    segments = {name: source.segments for name, source in data.sources.items()}
    interval_tokens = recipe.mixture.global_batch * data.sequence_length * recipe.evaluation.every_steps
    stream = Stream(
        plan,
        {(name, number): segment for name, parts in segments.items() for number, segment in enumerate(parts)},
        state=plan.state(state.step + 1),
        cells=Cells(rank=engine.rank, world_size=engine.world_size, micro_batch=recipe.training.micro_batch),
        sequence_length=data.sequence_length,
        padding=data.end_of_document,
        max_epochs={} if replay else recipe.mixture.max_epochs,
        pin_memory=engine.device.type == "cuda",
    )
    return Run(
        seed=recipe.seed,
        training=recipe.training,
        evaluation=recipe.evaluation,
        control=recipe.control,
        checkpoint=recipe.checkpoint,
        folder=folder,
        engine=engine,
        stream=stream,
        plan=plan,
        ledger=ledger,
        journal=journal,
        reader=_reader(recipe, data, interval_tokens),
        worth=_worth_counts(recipe, data, interval_tokens),
        worth_sources=segments,
        steer_part=data.steer,
        replay=_replayed(replay),
        stop_asked=stop_asked,
        ledger_offset=ledger.sync,
        warn=_warn if engine.is_main else _ignore,
    )


def _reader(recipe: Recipe, data: "PreparedData", interval_tokens: int) -> Reader:
    documents = plan_steer(
        data.steer,
        recipe.evaluation,
        interval_tokens=interval_tokens,
        seed=recipe.seed,
        num_sources=len(data.sources),
        sequence_length=data.sequence_length,
    )
    segments = {name: source.segments for name, source in data.sources.items()}
    return Reader(
        part=data.steer,
        documents=documents,
        samples=fixed_samples(segments, num_samples=recipe.evaluation.source_samples, seed=recipe.seed),
        sequence_length=data.sequence_length,
        end_of_document=data.end_of_document,
        document_batch=recipe.evaluation.document_batch,
    )


def _worth_counts(recipe: Recipe, data: "PreparedData", interval_tokens: int) -> WorthCounts | None:
    """How much is measured for the worth of the sources; None when nobody asks for it."""
    enabled = recipe.evaluation.worth.enabled
    if enabled == "off" or (enabled == "auto" and not needs_worth(recipe.control)):
        return None
    return sized(
        recipe.evaluation.worth,
        num_sources=len(data.sources),
        sequence_length=data.sequence_length,
        interval_tokens=interval_tokens,
    )


class RecordedLedger(Ledger):
    """A ledger whose facts also go to a file (on the main rank), line by line, as they are taken."""

    def __init__(self, facts: Sequence[Fact], file: AppendOnlyFile | None) -> None:
        self._file: AppendOnlyFile | None = None
        super().__init__(facts)
        self._file = file

    @override
    def append(self, fact: Fact) -> None:
        super().append(fact)
        if self._file is not None:
            self._file.append(to_record(fact))

    def sync(self) -> int:
        """Wait until all facts are on the disk; the offset they reach."""
        return self._file.sync() if self._file is not None else 0


def _open_ledger(
    folder: Path, recipe: Recipe, data: "PreparedData", engine: Engine, saved: checkpoint.Checkpoint | None
) -> RecordedLedger:
    """The ledger as of the checkpoint (or of the beginning), on all ranks; the main rank cuts its files back first."""
    records: list[dict[str, Any]] = []
    path, journal = folder / "ledger.jsonl", folder / "journal.jsonl"
    if engine.is_main:
        for file, key in ((path, "ledger_offset"), (journal, "journal_offset")):
            if file.exists():
                cut(file, int(saved.state[key]) if saved else 0)
        records = list(read(path)) if path.exists() else []
    facts = [from_record(record) for record in engine.broadcast(records)]
    ledger = RecordedLedger(facts, AppendOnlyFile(path) if engine.is_main else None)
    step = saved.step + 1 if saved else 1
    if not facts:
        for fact in [*_segment_facts(data), *starting_facts(recipe.mixture.global_batch, recipe.mixture.shares_in_millionths())]:
            ledger.append(fact)
    else:
        _check_same_data(ledger, data)
    size = [fact.global_batch for fact in ledger.facts if isinstance(fact, BatchSize)][-1]
    if size != recipe.mixture.global_batch:
        ledger.append(BatchSize(step=step, global_batch=recipe.mixture.global_batch))
    topology = Topology(
        step=step,
        world_size=engine.world_size,
        micro_batch=recipe.training.micro_batch,
        accumulation=accumulation(recipe.mixture.global_batch, engine.world_size, recipe.training.micro_batch),
    )
    known = [fact for fact in ledger.facts if isinstance(fact, Topology)]
    if not known or (known[-1].world_size, known[-1].micro_batch, known[-1].accumulation) != (
        topology.world_size,
        topology.micro_batch,
        topology.accumulation,
    ):
        ledger.append(topology)
    return ledger


def _segment_facts(data: "PreparedData") -> list[Fact]:
    return [
        Segment(
            step=1, source=source.name, kind=source.kind, segment=number, num_samples=segment.num_samples, fingerprint=segment.fingerprint
        )
        for source in data.sources.values()
        for number, segment in enumerate(source.segments)
    ]


def _check_same_data(ledger: Ledger, data: "PreparedData") -> None:
    """The prepared segments must be those the run began with: other bytes under the same name would be another run."""
    prepared = {(fact.source, fact.segment): fact for fact in _segment_facts(data) if isinstance(fact, Segment)}
    for fact in ledger.facts:
        if isinstance(fact, Segment):
            now = prepared.get((fact.source, fact.segment))
            if now is None or (now.fingerprint, now.num_samples) != (fact.fingerprint, fact.num_samples):
                raise UserError(
                    f"the data of source {fact.source} is not what this run began with",
                    got=f"{now.num_samples} samples, fingerprint {now.fingerprint[:12]}" if now else "no such segment",
                    remedy=f"Bring back the {fact.num_samples} samples with fingerprint {fact.fingerprint[:12]}, or start a new --run folder",
                )


def _newest_checkpoint(folder: Path, engine: Engine) -> checkpoint.Checkpoint | None:
    """The newest whole checkpoint, found once by the main rank: all ranks must resume from the same one."""
    found: checkpoint.Checkpoint | UserError | None = None
    if engine.is_main:
        checkpoint.clean(folder / "checkpoints")
        try:
            found = checkpoint.latest(folder / "checkpoints", warn=_warn)
        except UserError as error:
            found = error
    found = engine.broadcast(found)
    if isinstance(found, UserError):
        raise found
    return found


def _starting_state(recipe: Recipe, ledger: Ledger, saved: checkpoint.Checkpoint | None) -> RunState:
    if saved is None:
        kinds = {fact.source: fact.kind for fact in ledger.facts if isinstance(fact, Segment)}
        return RunState(control=initial_state(recipe.control, recipe.mixture.shares_in_millionths(), kinds))
    fields = {key: saved.state[key] for key in ("step", "position", "tokens", "control", "anchor", "skipped_in_a_row")}
    return RunState(**fields)


def _replayed(run: Path | None) -> dict[int, list[Fact]] | None:
    """Another run's decisions by the step they govern from; None when nothing is replayed."""
    if run is None:
        return None
    facts: dict[int, list[Fact]] = {}
    for record in read(run / "ledger.jsonl"):
        fact = from_record(record)
        if isinstance(fact, Shares | BatchSize) and fact.step > 1:
            facts.setdefault(fact.step, []).append(fact)
    return facts


# The run folder


def _is_finished(folder: Path, recipe: Recipe) -> bool:
    path = folder / "outcome.json"
    if not path.is_file():
        return False
    outcome = json.loads(path.read_text())
    if outcome["state"] != "finished" or _planned_steps(folder) != recipe.training.steps:
        return False
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"{folder} is finished ({outcome['reason']}); see {folder / 'report.html'}, or choose another --run folder")  # noqa: T201
    return True


def _planned_steps(folder: Path) -> int | None:
    path = folder / "recipe.yaml"
    return load_recipe(path, [], on_this_machine=False).recipe.training.steps if path.is_file() else None


def _check_recipe_unchanged(folder: Path, recipe: Recipe) -> None:
    """Show what differs from the recipe the run began with, and refuse what would make it another experiment."""
    path = folder / "recipe.yaml"
    if path.is_file():
        changed = differences(load_recipe(path, [], on_this_machine=False).recipe, recipe)
        refused = [difference for difference in changed if not difference.allowed]
        if refused:
            raise UserError(
                f"the recipe is not the one this run began with: {'; '.join(map(str, refused))}",
                remedy="Go on with the old values, or start the new ones in another --run folder",
                file=path,
            )
    aside = folder / ".recipe.yaml.partial"
    aside.write_text(resolved_yaml(recipe))
    aside.rename(path)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the run folder: a second launch on it is refused and told who has it. The lock dies with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as file:
        _take_lock(file, folder)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def _take_lock(file: IO[str], folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise UserError(
            f"the run folder {folder} is in use", got=file.read(), remedy="Wait for it, stop it, or choose another --run folder"
        ) from None


@contextmanager
def _unlocked() -> Iterator[None]:
    yield


def _write_outcome(folder: Path, *, state: str, step: int | None, reason: str, exit_code: int, trace: str | None = None) -> bool:
    """Write ``outcome.json`` unless a rank has already written how the run ended; whether this one did."""
    outcome = {
        "state": state,
        "step": step,
        "reason": reason,
        "exit_code": exit_code,
        "rank": int(os.environ.get("RANK", "0")),
        "host": socket.gethostname(),
        "traceback": trace,
    }
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".outcome.{os.getpid()}.partial"
    aside.write_text(json.dumps(outcome, indent=1))
    try:
        os.link(aside, folder / "outcome.json")
    except FileExistsError:
        return False
    finally:
        aside.unlink()
    return True


# What is written at the start and at the end


def _write_start(run: Run, recipe: Recipe, data: "PreparedData", saved: checkpoint.Checkpoint | None) -> None:
    parameters = run.engine.num_parameters
    if run.engine.is_main:
        checkpoint.require_space(run.folder / "checkpoints", 12 * parameters, recipe.checkpoint.keep)
    run.journal.write(
        "start",
        saved.step if saved else 0,
        recipe_name=recipe.name,
        world_size=run.engine.world_size,
        parameters=parameters,
        resumed_from=saved.folder.name if saved else None,
        store=str(data.folder),
        quarantine=data.quarantine,
        contamination=data.contamination,
        segments={
            name: {
                "kind": source.kind,
                "license": source.license,
                "num_samples": sum(segment.num_samples for segment in source.segments),
                "num_tokens": sum(segment.num_tokens for segment in source.segments),
                "num_documents": sum(segment.num_documents for segment in source.segments),
            }
            for name, source in data.sources.items()
        },
        steer_documents=len(run.reader.documents),
        environment=_environment(run.engine),
    )


def _environment(engine: Engine) -> dict[str, Any]:
    installed = {dist.metadata["Name"].lower(): dist.version for dist in metadata.distributions() if dist.metadata["Name"]}
    return {
        "host": socket.gethostname(),
        "device": str(engine.device),
        "python": platform.python_version(),
        "system": platform.platform(),
        **{name: installed[name] for name in VERSIONS if name in installed},
    }


def _final_figures(run: Run, recipe: Recipe, data: "PreparedData", state: RunState) -> None:
    """The figures nobody steered by, sample texts, and the model as transformers loads it."""
    reader = Reader(
        part=data.report,
        documents=all_documents(data.report),
        samples={},
        sequence_length=data.sequence_length,
        end_of_document=data.end_of_document,
        document_batch=recipe.evaluation.document_batch,
    )
    run.journal.write("report", state.step, part="report", **summary(reader.read(run.engine, step=state.step)))
    run.engine.save_model(run.folder / "model")
    if run.engine.is_main:
        shutil.copytree(data.tokenizer_folder, run.folder / "model", dirs_exist_ok=True)
        prompts = [[data.end_of_document, *_beginning(data, int(document))] for document in run.reader.documents[:NUM_SAMPLES]]
        for prompt, text in zip(prompts, run.engine.continuations(prompts, num_tokens=SAMPLE_TOKENS, seed=recipe.seed), strict=True):
            run.journal.write("sample", state.step, prompt=data.decode(prompt[1:]), text=data.decode(text))


def _beginning(data: "PreparedData", document: int) -> list[int]:
    start, end = data.steer.offsets[document], data.steer.offsets[document + 1]
    return [int(token) for token in data.steer.tokens[start : min(end, start + PROMPT_TOKENS)]]


def _tell(folder: Path) -> None:
    """The report and the summary table, from the run folder alone."""
    from rich.console import Console

    from trainer.monitor.progress import summary_table
    from trainer.monitor.report import write_report

    try:
        write_report([folder], folder / "report.html")
    except OSError as error:  # a full disk must not turn a finished run into a failed one
        _warn(f"report.html could not be written: {error}")
    Console().print(summary_table(read(folder / "journal.jsonl")))


# Signals


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """SIGTERM and SIGUSR1 set a flag and nothing else: the step ends, the state is saved, the run exits with 75."""
    received: list[int] = []

    def note(number: int, _frame: object) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _prepare_note(what: str, documents: int) -> None:
    print(f"preparing data: {what}, {documents} documents", file=sys.stderr)  # noqa: T201


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)  # noqa: T201


def _ignore(_text: str) -> None:
    """Only the main rank warns."""
