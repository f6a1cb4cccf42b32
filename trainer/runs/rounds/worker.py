"""The process that makes a round beside the training: ``python -m trainer.runs.rounds.worker RUN STORE STAGE ...``.

It has the recipe, the prepared data and the pool of the run, and none of its devices. It runs at low priority, ends
with the run that started it, and whatever happens to it the run goes on.
"""

import argparse
import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainer.base.atomic import write_text
from trainer.base.errors import UserError
from trainer.base.failures import in_words
from trainer.base.records import Kind
from trainer.data.made_segment import write_made_segment
from trainer.data.prior_value.prepared import segment_values, with_end
from trainer.data.prior_value.record import PriorValue
from trainer.data.store import PreparedData, PreparedSegment, open_prepared
from trainer.recipe import Recipe, load_recipe
from trainer.runs.rounds.buying import Lot, Purchase, purchase
from trainer.runs.rounds.documents import documents_of
from trainer.runs.rounds.files import Made, RoundFiles, RoundState
from trainer.synthesis.config import SynthesisConfig
from trainer.synthesis.context import Shard
from trainer.synthesis.generators import GENERATORS, Generator
from trainer.synthesis.generators.config import RunConfig
from trainer.synthesis.generators.run_model import RunModel
from trainer.synthesis.pool import Pool, RoundRecord
from trainer.synthesis.requests import Asked, PromptRow
from trainer.synthesis.responses import OtherRequestsError
from trainer.synthesis.round import plan_asking, run_round, with_training_rows

PRIORITY = 10  # of nice: training comes first
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h
POLL_S = 0.5
_COUNTS = (
    "requests", "accepted", "prompt_tokens", "completion_tokens", "accepted_tokens", "seconds", "cost", "joules",
    "gpu_seconds", "cached", "not_asked", "stitched",
)  # fmt: skip
_LOT = "(lot)"  # stands for the source that is valued; no source can have this name


def main(arguments: list[str]) -> int:
    """Makes one stage of a round: ``plan`` (the requests alone) or ``make``. Says what is wrong in its last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("stage", choices=("plan", "make"))
    parser.add_argument("generation", type=int)
    parser.add_argument("step", type=int)
    parser.add_argument("parent", type=int)
    given = parser.parse_args(arguments)
    _end_with(given.parent)
    os.nice(PRIORITY)
    try:
        recipe = load_recipe(given.run / "recipe.yaml", [], on_this_machine=False).recipe
        stage = _plan if given.stage == "plan" else _make
        stage(recipe, RoundFiles(given.run), given.store, given.generation, given.step)
    except (UserError, OSError) as error:
        _log(in_words(error))
        return 2
    return 0


def _end_with(parent: int) -> None:
    """From here on this process ends when ``parent`` does, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def own_config(recipe: Recipe, files: RoundFiles) -> SynthesisConfig:
    """The recipe's synthesis, with the run's own pool."""
    assert recipe.synthesis is not None
    return recipe.synthesis.model_copy(update={"pool": files.pool.resolve()})


def _generator(recipe: Recipe, config: SynthesisConfig, step: int) -> Generator:
    if isinstance(config.generator, RunConfig):
        return RunModel(config.generator, name=recipe.name, weights=f"step-{step:08d}")
    return GENERATORS.resolve(config.generator.kind)(config.generator)


def _plan(recipe: Recipe, files: RoundFiles, store: Path, generation: int, step: int) -> None:
    """Writes the requests of a round that the run's own model answers."""
    config, seed = own_config(recipe, files), recipe.seed
    identity = _generator(recipe, config, step).identity()

    def plan(training: Iterator[PromptRow]) -> list[Asked]:
        return plan_asking(config, training, identity, seed=seed, generation=generation)[0]

    asked, *_ = with_training_rows(config, recipe.data, plan, seed=seed, base=files.run)
    write_text(files.asked(generation, step), json.dumps([asdict(item.request) for item in asked]))


def _make(recipe: Recipe, files: RoundFiles, store: Path, generation: int, step: int) -> None:
    """Makes the round, or what is missing of it, lot by lot as far as that pays, and the segment of its rows."""
    config, state = own_config(recipe, files), files.state(generation)
    pool, data = Pool(files.pool.resolve()), open_prepared(store, check_sizes=False)
    shards = 1 if config.lot is None else -(-config.requests // config.lot)
    generator = _generator(recipe, config, step)

    def made(number: int) -> RoundRecord:
        if (shard := pool.shard(generation, number)) is not None:
            return RoundRecord.from_json(shard.record)
        try:
            return written(number)
        except OtherRequestsError as error:
            if error.file is None or isinstance(generator, RunModel):  # the run plans and writes anew
                raise
            _log(f"{in_words(error)}: it begins anew")
            Path(error.file).unlink()
            return written(number)

    def written(number: int) -> RoundRecord:
        return run_round(
            config,
            recipe.data,
            Shard(generation=generation, number=number, of=shards),
            seed=recipe.seed,
            base=files.run,
            progress=_say,
            generator=generator,
        )

    takedowns = 0

    def packed(num_shards: int) -> PreparedSegment | None:
        nonlocal takedowns
        takedowns = len(pool.manifest().takedowns)
        return write_made_segment(files.segment(generation), documents_of(pool, generation, num_shards), data)

    # The first lot alone is valued, also where a killed process had made more of them.
    records, segment = [made(0)], packed(1)
    bought: Purchase | None = None
    value: PriorValue | None = None
    if shards > 1 and segment is not None:
        value = _value_of(segment, data)
        bought = purchase(_lot(records[0], value, state), most=shards - 1)
        records += [made(number) for number in range(1, 1 + bought.more)]
        segment = packed(len(records)) if bought.is_drawn else None
    files.write_made(
        Made(
            generation=generation,
            record=summed(records),
            fingerprint=None if segment is None else segment.fingerprint,
            num_samples=0 if segment is None else segment.num_samples,
            value=None if value is None else {"value": value.mean, "standard_error": value.error},
            reason=None if bought is None else bought.reason,
            takedowns=takedowns,
        )
    )


def _lot(record: RoundRecord, value: PriorValue | None, state: RoundState) -> Lot:
    return Lot(
        requests=record.requests,
        accepted_tokens=record.accepted_tokens,
        paid_tokens=record.prompt_tokens + record.completion_tokens,
        value=value,
        held_tokens=state.held_tokens,
        demand_tokens=state.demand_tokens,
        real_epochs=state.real_epochs,
    )


def _value_of(segment: PreparedSegment, data: PreparedData) -> PriorValue | None:
    """What a token of the segment is worth beside the real text that the run began with."""
    kinds: dict[str, Kind] = {name: source.kind for name, source in data.sources.items() if source.kind == "real"}
    segments = {name: {name: data.sources[name].segments[0]} for name in kinds}
    validation = with_end(data.validation.tokens, data.validation.offsets.tolist(), data.end_of_document)
    values = segment_values(
        {**kinds, _LOT: "synthetic"},
        {**segments, _LOT: {_LOT: segment}},
        validation,
        data.tokenizer_folder,
        note=lambda what, number: _log(f"{what}, {number} documents"),
    )
    return values.get(_LOT)


def summed(records: Sequence[RoundRecord]) -> dict[str, Any]:
    """The records of the shards of a round as one: what is counted is added up."""
    whole = dict(records[0].to_json())
    for record in records[1:]:
        for name in _COUNTS:
            if (count := getattr(record, name)) is not None:
                whole[name] = (whole[name] or 0) + count
        for name in ("dropped", "noted", "cost_by_source"):
            counts: dict[str, float] = getattr(record, name)
            whole[name] = {key: whole[name].get(key, 0) + counts.get(key, 0) for key in {**whole[name], **counts}}
        whole["quarantined"] = whole["quarantined"] or record.quarantined
    return whole


def _say(done: int, total: int) -> None:
    if done in (0, total) or done % 100 == 0:
        _log(f"{done} of {total} texts")


def _log(text: str) -> None:
    """A line of the round's log."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
