"""Real runs of the real command line, small enough that a suite can afford dozens: how they are written, started and
read back.

A single process is forked from a server that has imported torch and transformers once (start-up falls from 8 s to under
1 s) and then calls the same ``main`` as the command; several processes go through ``accelerate launch``. Nothing of the
trainer is replaced.
"""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.sharing import WORKER, free_port

ACCELERATE = str(Path(sys.executable).with_name("accelerate"))
PATIENCE_S = 240.0
POLL_S = 0.002
EVALUATE_EVERY, SAVE_EVERY = 5, 10

RECIPE = f"""\
name: together
seed: 5
model:
  architecture: llama
  config:
    hidden_size: 32
    intermediate_size: 64
    num_hidden_layers: 2
    num_attention_heads: 2
    tie_word_embeddings: true
data:
  sequence_length: 32
  tokenizer: {{train_bpe: 300}}
  sources:
    real: {{kind: real, path: real.jsonl, id_column: title, slice: topic, license: CC0-1.0}}
    good: {{kind: synthetic, path: good.jsonl, id_column: title, license: CC0-1.0}}
    bad: {{kind: synthetic, path: bad.jsonl, id_column: title, license: CC0-1.0}}
  held_out: {{kind: bucket, source: real, by: title, of: 5, validation: [3], test: [4]}}
mixture:
  global_batch: 12
  shares: {{real: 0.5, good: 0.25, bad: 0.25}}
control:
  policy:
    kind: schedule
    points:
      - {{at: 0.3, shares: {{real: 0.4, good: 0.45, bad: 0.15}}}}
      - {{at: 0.7, shares: {{real: 0.7, good: 0.3, bad: 0}}}}
  guard: {{min_documents: 8}}
evaluation:
  every_steps: {EVALUATE_EVERY}
  validation_documents: 24
  source_samples: 4
  source_value: {{enabled: "on", samples_per_step: 2, held_out_samples: 4}}
training:
  steps: 50
  micro_batch: 3
  learning_rate: 3.0e-3
  schedule: {{kind: cosine, warmup_steps: 5}}
  precision: fp32
checkpoint: {{every_steps: {SAVE_EVERY}, keep: 2}}
tracking: {{trackers: []}}
"""

ALIGNED = ["control.policy={kind: pike}", "evaluation.gradient_alignment={every_evaluations: 2, samples: 8}"]
# A cap below four epochs has the run measure how fast the model forgets.
PRICED = [
    "control.policy={kind: priced, warm_up: 0.1, estimators: [dither, source_value, alignment], advanced: {z: 0.5}}",
    "evaluation.gradient_alignment={samples: 8}",
    "mixture.max_epochs={real: 3}",
]
FEEDBACK = ["control.policy={kind: feedback, warm_up: 0.1, min_evaluations: 2, z: 0.5, margin: 0.0}"]


def write_recipe(folder: Path, *, num_documents: int = 200) -> Path:
    """A recipe file with its data next to it: 200 real documents of 4 topics, 100 of each of two synthetic sources."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate(
        {"real": num_documents, "good": num_documents // 2, "bad": num_documents // 2}.items()
    ):
        write_documents(folder / f"{name}.jsonl", seed, count)
    path = folder / "together.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def write_documents(file: Path, seed: int, count: int) -> None:
    """So many documents of 8 to 22 words from a vocabulary of the seed's own."""
    generator = random.Random(seed)
    words = ["".join(generator.choice("bdfklmnprst") + generator.choice("aeiou") for _ in range(3)) for _ in range(120)]
    rows = (
        {
            "title": f"{file.stem} {number}",
            "topic": ("rivers", "towns", "birds", "tools")[number % 4],
            "text": " ".join(
                generator.choices(words, weights=[1 / (rank + 3) for rank in range(120)], k=generator.randint(8, 22))
            ),
        }
        for number in range(count)
    )
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


# Starting


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (negative: the signal that killed it) and all it printed."""

    code: int
    output: str


@dataclass
class Live:
    """A command that runs in a process of its own."""

    process: Any  # multiprocessing's or subprocess's: both have pid
    log: Path

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    def code(self) -> int | None:
        """Exit code; None while it runs."""
        if isinstance(self.process, subprocess.Popen):
            return self.process.poll()
        code: int | None = self.process.exitcode
        return code

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, patience_s: float = PATIENCE_S) -> Ended:
        deadline = time.monotonic() + patience_s
        while (code := self.code()) is None:
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
                raise TimeoutError(
                    f"still running after {patience_s:g} s:\n{self.log.read_text(errors='replace')[-3000:]}"
                )
            time.sleep(POLL_S)
        return Ended(code, self.log.read_text(errors="replace"))


def _server() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "trainer.commands.fit",
            "trainer.engines.engine",
            "trainer.tools.audit",
            "trainer.data.prepare",
            "trainer.report.html",
            "transformers.models.llama.modeling_llama",
        ]
    )
    return context


def _become_command(arguments: list[str], variables: dict[str, str], log: str, strike: "Strike | None") -> None:
    """The forked process's body: the command line, with its output in a file."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(variables)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores it
    if strike is not None:
        _watch_writes(strike)
    from trainer.commands.cli import main

    sys.argv = ["trainer", *arguments]
    main()


@dataclass(frozen=True)
class Strike:
    """A process kills itself with signal 9 right after it has written its ``count``-th journal line of a kind; its
    first step line it marks by touching ``alive``.
    """

    alive: Path
    kind: str = ""
    count: int = 0


def _watch_writes(strike: Strike) -> None:
    write, num_writes = os.write, Counter[str]()

    def watched(descriptor: int, data: bytes) -> int:
        num_bytes = write(descriptor, data)
        kind = data.partition(b'{"kind":"')[2].partition(b'"')[0].decode()
        num_writes[kind] += 1
        if kind == "step" and num_writes[kind] == 1:
            strike.alive.touch()
        if kind == strike.kind and num_writes[kind] == strike.count:
            os.kill(os.getpid(), signal.SIGKILL)
        return num_bytes

    os.write = watched


def variables(cache: Path) -> dict[str, str]:
    """Environment of every command here."""
    return {
        "HYBRID_TRAINER_CACHE": str(cache),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }


@dataclass(frozen=True)
class Place:
    """A recipe with its data, the cache of prepared stores, and room for run folders."""

    folder: Path
    recipe: Path

    def log(self) -> Path:
        logs = self.folder / f"logs-{WORKER}"
        logs.mkdir(exist_ok=True)
        log = logs / f"{len(list(logs.iterdir())):04d}.txt"
        log.touch()
        return log

    def command(self, *arguments: str, strike: Strike | None = None, extra: dict[str, str] | None = None) -> Live:
        """`trainer ARGUMENTS` in one process."""
        log, given = self.log(), {**variables(self.folder / "cache"), **(extra or {})}
        process = _server().Process(target=_become_command, args=(list(arguments), given, str(log), strike))
        process.start()
        return Live(process, log)

    def fit(self, run: Path, *sets: str, more: Sequence[str] = (), **how: Any) -> Live:
        """`trainer fit` in one process."""
        return self.command("fit", str(self.recipe), "--run", str(run), *more, *_sets(sets), **how)

    def launch(
        self,
        run: Path,
        *sets: str,
        options: Sequence[str] | None = None,
        processes: int = 1,
        extra: dict[str, str] | None = None,
        program: str = "trainer",
    ) -> Live:
        """`accelerate launch OPTIONS -m PROGRAM fit`; the options for so many processes on CPUs if none are given."""
        if options is None:
            where = f"--multi_gpu --num_processes {processes} --num_machines 1 --main_process_port {free_port()}"
            options = f"{where} --mixed_precision no --dynamo_backend no".split()
            extra = {"ACCELERATE_USE_CPU": "true", **(extra or {})}
        words = [
            ACCELERATE,
            "launch",
            *options,
            "-m",
            program,
            "fit",
            str(self.recipe),
            "--run",
            str(run),
            *_sets(sets),
        ]
        return self.process(words, extra)

    def process(self, words: Sequence[str], extra: dict[str, str] | None = None) -> Live:
        """Any command line, as a shell would start it."""
        log = self.log()
        given = {**os.environ, **variables(self.folder / "cache"), "PYTHONPATH": str(Path.cwd()), **(extra or {})}
        with log.open("w") as file:
            return Live(subprocess.Popen(words, stdout=file, stderr=file, env=given), log)


def _sets(sets: Sequence[str]) -> list[str]:
    return [word for override in sets for word in ("--set", override)]


# Evaluation back


def lines(run: Path, kind: str | None = None, file: str = "journal.jsonl") -> list[dict[str, Any]]:
    """Complete journal lines, of one kind or all; also during the run."""
    path = run / file
    raw = path.read_bytes() if path.exists() else b""
    parsed = [json.loads(line) for line in raw.splitlines(keepends=True) if line.endswith(b"\n")]
    return [line for line in parsed if kind is None or line["kind"] == kind]


def by_step(run: Path, field: str) -> dict[int, Any]:
    """A field of the step lines, by step."""
    return {line["step"]: line[field] for line in lines(run, "step")}


def decisions(run: Path) -> list[dict[str, Any]]:
    """Decision lines as written."""
    return lines(run, "decision")


def outcome(run: Path) -> dict[str, Any]:
    """The run's own word on how it ended."""
    outcome_fields: dict[str, Any] = json.loads((run / "outcome.json").read_text())
    return outcome_fields


def wait_until(live: Live, condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> bool:
    """Wait for a condition; False when the process ended before it came true."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if live.code() is not None:
            return False
        if time.monotonic() > deadline:
            live.send(signal.SIGKILL)
            raise TimeoutError(f"waited {patience_s:g} s in vain:\n{live.log.read_text(errors='replace')[-3000:]}")
        time.sleep(POLL_S)
    return True


def reached(run: Path, step: int) -> Callable[[], bool]:
    """Whether the journal has the step."""
    return lambda: any(line["step"] >= step for line in lines(run, "step"))


def predicted(run: Path) -> dict[int, int]:
    """``batch_hash`` by step from the ledger and the prepared store alone."""
    from trainer.tools.audit import predicted_batch_hash
    from trainer.tools.run_view import open_run

    opened = open_run(run)
    data = opened.prepared()
    assert data is not None
    return {step: predicted_batch_hash(opened, step, data) for step in range(1, opened.last_step + 1)}


def weights(run: Path) -> tuple[str, dict[str, bytes]]:
    """Name of the last checkpoint, and the bytes of its weights and optimizer state by tensor name, whole whoever wrote
    them.
    """
    folder = max((run / "checkpoints").glob("step-*"))
    return folder.name, {name: tensor.numpy().tobytes() for name, tensor in saved_tensors(folder).items()}


def saved_tensors(folder: Path) -> dict[str, Any]:
    """Every tensor of a checkpoint, put together from the parts that the ranks wrote."""
    import torch
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    from trainer.engines.checkpoint_io import read

    stored = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    tensors = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in stored.items()}
    read(folder, tensors)
    return tensors
