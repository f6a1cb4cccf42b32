"""Self-learning: five generations of models that train on what the models before them wrote, with a brake and without.

Generation 0 trains on scarce real text alone. Each later one is a new model, trained from scratch on as many tokens by
``trainer fit``, after the model before it has written a round by ``trainer synthesize`` (it continues real training
texts, as in Shumailov 2024, arXiv:2305.17493) into the pool of its arm. ``replace`` trains on the newest round alone,
``accumulate`` on real text and all rounds in proportion to their size (Gerstgrasser 2024, arXiv:2404.01413), ``ours``
on such a pool, sampled cooler and filtered, with floors, shares steered by held-out text, and the guard. ``smollm2`` is
one generation under the same brake whose text another, pretrained model wrote about titles alone.

``python -m experiments.self_learning [--run] [--jobs 2] [--only PREFIX]``: without ``--run`` the table of the stored
cells; exit 1 where one is missing or a figure is not what the page says. Run folders and pools stay: what was
interrupted resumes.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from experiments.cells import ROOT, commit, result
from experiments.generated_text import distinct, rare_words, words_covered
from experiments.self_learning_table import FIRST, OTHER, claims, plot, table

RECIPE = Path(__file__).with_name("self_learning.yaml")
RUNS = Path(os.environ.get("SELF_LEARNING_RUNS", ROOT / "runs" / "self-learning"))
RESULTS = Path(__file__).parent / "results" / "self_learning.json"
PLOT = ROOT / "docs" / "img" / "self-learning.svg"
SEEDS = (17, 18, 19)
NUM_GENERATIONS = 5  # after generation 0
GRAM_WORDS, NUM_GRAMS = 2, 8_000  # diversity: different pairs of words among so many

POOL = "kind: synthetic, path: {pool}/rows, slice: slice, license: CC-BY-SA-4.0 AND Apache-2.0, {of}"
UNSTEERED = ("control.policy={kind: constant}", "control.guard={enabled: false}")
STEERED = (
    "control.policy={kind: priced, floors: {pool: 0.2}, real_floor: 0.5}",
    "control.guard={enabled: true}",
    "evaluation={every_steps: 20, source_value: {every_evaluations: 2}}",
    "checkpoint={every_steps: 120, keep: 2}",
)
FILTERS = "[{kind: length, min_words: 20}, {kind: repetition}, {kind: near_duplicate}]"
WRITTEN = ROOT / "recipes" / "data" / "written.jsonl.xz"
RECORDED = (
    f"synthesis.generator={{kind: files, path: {WRITTEN}, written_by: SmolLM2-135M-Instruct, "
    "license: CC-BY-SA-4.0 AND Apache-2.0, columns: {prompt_name: prompt_template, slice: topic, seed: seed, "
    "temperature: temperature, finish_reason: finished}}",
    "synthesis.sources=[]",
    "synthesis.prompts=[]",
    "synthesis.requests=5000",
)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What a generation trains on, and what its round is asked for."""

    says: str
    real_share: float | None = None  # at the start; None: in proportion to size
    reads: str = "generations: accumulate"  # of the pool
    control: tuple[str, ...] = UNSTEERED
    synthesis: tuple[str, ...] = ()
    generations: int = NUM_GENERATIONS


ARMS = {
    "replace": Arm(says="the newest round alone, no brake", real_share=0.0, reads="generations: replace"),
    "accumulate": Arm(says="real text and all rounds by size, no brake"),
    "ours": Arm(
        says="real text and all rounds, filtered, floored, steered and guarded",
        real_share=0.75,
        control=STEERED,
        synthesis=("synthesis.sampling.temperature=[0.7]", f"synthesis.filters={FILTERS}"),
    ),
    OTHER: Arm(
        says="real text and entries by SmolLM2-135M-Instruct, the same brake",
        real_share=0.5,
        reads="where: {prompt_name: entry}",  # from titles alone: rephrasings hold the text of other real documents
        control=STEERED,
        synthesis=(*RECORDED, f"synthesis.filters={FILTERS}"),
        generations=1,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One generation of an arm, with one seed."""

    arm: str
    generation: int
    seed: int

    @property
    def name(self) -> str:
        """What it is stored under."""
        return f"{self.arm}-{self.generation}/{self.seed}"

    @property
    def own_seed(self) -> int:
        """Of its training and of the round it trains on: another in each generation, the same in every arm."""
        return self.seed + 1000 * self.generation

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return RUNS / self.name

    @property
    def pool(self) -> Path:
        """The pool of its arm and seed."""
        return RUNS / "pools" / f"{self.arm}-{self.seed}"

    @property
    def before(self) -> "Cell":
        """The generation whose model writes what this one trains on."""
        arm = self.arm if self.generation > 1 else FIRST
        return Cell(arm=arm, generation=self.generation - 1, seed=self.seed)

    def training(self) -> list[str]:
        """Overrides of the recipe for ``trainer fit``."""
        own = [f"seed={self.own_seed}", "tracking.trackers=[]"]
        if self.arm == FIRST:
            return [*own, *UNSTEERED]
        arm, first = ARMS[self.arm], Cell(arm=FIRST, generation=0, seed=self.seed)
        real = 1 / (1 + self.generation) if arm.real_share is None else arm.real_share
        return [
            *own,
            f"data.tokenizer={{pretrained: {first.folder / 'model'}}}",
            f"data.sources.pool={{share: {1 - real:.6f}, {POOL.format(pool=self.pool, of=arm.reads)}}}",
            f"data.sources.real.share={real:.6f}",
            *arm.control,
        ]

    def writing(self) -> list[str]:
        """Overrides of the recipe for ``trainer synthesize``, of the round that it trains on."""
        return [f"seed={self.own_seed}", f"synthesis.pool={self.pool}", *ARMS[self.arm].synthesis]


def cells() -> dict[str, Cell]:
    """Every cell by its name, those that others begin with first."""
    firsts = [Cell(arm=FIRST, generation=0, seed=seed) for seed in SEEDS]
    later = [
        Cell(arm=name, generation=generation, seed=seed)
        for seed in SEEDS
        for name, arm in ARMS.items()
        for generation in range(1, arm.generations + 1)
    ]
    return {cell.name: cell for cell in [*firsts, *later]}


# Running: in this process, one cell after the other


def make(cell: Cell) -> dict[str, Any]:
    """Write a cell's round and train it, unless that was done; what is stored of it."""
    from trainer import fit
    from trainer.commands.synthesize import synthesize

    if result(cell.folder) is None:
        if cell.arm != FIRST:
            own_model = None if cell.arm == OTHER else cell.before.folder
            synthesize(RECIPE, cell.writing(), run=own_model, shard=None, generation=cell.generation)
        fit(RECIPE, cell.training(), cell.folder)
    figures = result(cell.folder)
    if figures is None:
        raise SystemExit(f"{cell.name} did not finish, see {cell.folder}")
    return {"seed": cell.seed, **figures, "commit": commit(), "text": _measured(cell)}


def _measured(cell: Cell) -> dict[str, float]:
    """Diversity of the text that came new with this generation: its round, or the real text of generation 0."""
    training, validation = _real_texts(cell.seed)
    texts = training if cell.arm == FIRST else _round(cell)
    rare = rare_words(validation)
    return {
        "distinct": distinct(texts, num_words=GRAM_WORDS, num_grams=NUM_GRAMS),
        "tail_coverage": words_covered(texts, rare, num_words=NUM_GRAMS),
    }


def _round(cell: Cell) -> list[str]:
    """The texts of the round in the pool."""
    files = sorted((cell.pool / "rows").glob(f"generation-{cell.generation:04d}.*.parquet"))
    return [text for file in files for text in pq.read_table(file, columns=["text"]).column("text").to_pylist()]


@cache
def _real_texts(seed: int) -> tuple[list[str], list[str]]:
    """Of training and validation documents."""
    from trainer.tools.run_view import open_run

    data = open_run(Cell(arm=FIRST, generation=0, seed=seed).folder).prepared()
    if data is None:
        raise SystemExit("the prepared data of generation 0 are gone: delete its folder, and it is trained again")
    segment = data.sources["real"].segments[0]
    training = [data.decode(segment.document_tokens(number)) for number in range(segment.num_documents)]
    return training, [data.decode(data.validation.document_tokens(n)) for n in range(len(data.validation.ids))]


def run_missing(wanted: Sequence[Cell], jobs: int) -> None:
    """In processes of their own, ``jobs`` at a time: first what others begin with, then a chain of generations each."""
    chains: dict[tuple[str, int], list[Cell]] = {}
    for cell in wanted:
        chains.setdefault((cell.arm, cell.seed), []).append(cell)
    firsts = [chain for (arm, _), chain in chains.items() if arm == FIRST]
    others = [chain for (arm, _), chain in chains.items() if arm != FIRST]
    for of_one_time in (firsts, others):
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(_run_chain, of_one_time))


def _run_chain(chain: Sequence[Cell]) -> None:
    names = [cell.name for cell in chain]
    log = RUNS / f"{chain[0].arm}-{chain[0].seed}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as stream:
        command = [sys.executable, "-m", "experiments.self_learning", "--make", *names]
        code = subprocess.run(command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, check=False).returncode
    print(f"{chain[0].arm}, seed {chain[0].seed}: exit {code}{f', see {log}' if code else ''}", flush=True)


def _stored(folder: Path) -> dict[str, Any]:
    return {name: json.loads(figures.read_text()) for name in cells() if (figures := folder / f"{name}.json").is_file()}


def main(words: Sequence[str] | None = None, results: Path = RESULTS) -> int:
    """Run what was requested, store, and print the table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="run the cells that are missing")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="run only cells whose name starts so (several: with commas)")
    parser.add_argument("--make", nargs="+", default=(), help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    for name in arguments.make:
        figures = make(cells()[name])
        (RUNS / f"{name}.json").write_text(json.dumps(figures))
    if arguments.make:
        return 0
    stored = json.loads(results.read_text()) if results.is_file() else {}
    if arguments.run:
        only = tuple(arguments.only.split(","))
        run_missing(
            [cell for name, cell in cells().items() if name.startswith(only) and name not in stored], arguments.jobs
        )
        stored |= _stored(RUNS)
        results.write_text(json.dumps(dict(sorted(stored.items())), indent=1) + "\n")
        plot(stored, PLOT)
    return report(stored)


def report(stored: Mapping[str, Any]) -> int:
    """Prints table and claims; 1 where a cell is missing or a claim does not hold."""
    print("\n".join(table(stored)))
    held = claims(stored)
    for words, holds in held.items():
        print(f"{'holds' if holds else 'DOES NOT HOLD'}: {words}")
    missing = [name for name in cells() if name not in stored]
    print(f"\n{len(cells()) - len(missing)} of {len(cells())} cells are stored")
    if missing:
        print(f"missing: {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}")
    return int(bool(missing) or not all(held.values()))


if __name__ == "__main__":
    sys.exit(main())
