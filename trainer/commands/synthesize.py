"""One round of synthesis, from a recipe."""

import re
import time
from pathlib import Path

from trainer.base.errors import RunFolderError, UserError
from trainer.base.failures import say
from trainer.base.formatting import duration
from trainer.recipe import LoadedRecipe, load_recipe
from trainer.synthesis.config import SynthesisConfig
from trainer.synthesis.context import Shard
from trainer.synthesis.gate_record import gate_in_words
from trainer.synthesis.graders import GraderRecord
from trainer.synthesis.pool import Pool, RoundRecord
from trainer.synthesis.recipe_guard import recipe_fingerprint
from trainer.synthesis.round import run_round

_SAY_EVERY_S = 10.0


def synthesize(
    recipe: Path, overrides: list[str], *, run: Path | None, shard: str | None, generation: int | None
) -> None:
    """Makes one shard of one round and says what became of it. Raises ``UserError``."""
    # What a source of the pool reads may not be there yet, so files are looked for where they are read.
    loaded = load_recipe(recipe, overrides, on_this_machine=False)
    config = _config(loaded, run)
    pool = Pool(loaded.folder / config.pool.expanduser())
    part = _shard(shard, generation, pool)
    pool.refuse_other(part.generation, part.of, recipe_fingerprint(config, loaded.recipe.seed))
    if pool.shard(part.generation, part.number):
        say(f"shard {part.number} of {part.of} of generation {part.generation} is in the pool already")
        return
    record = run_round(
        config, loaded.recipe.data, part, seed=loaded.recipe.seed, base=loaded.folder, progress=_Progress()
    )
    for line in in_words(record):
        say(line)
    if record.requests and not record.accepted:
        what = f"generation {record.generation} added no row to the pool"
        raise UserError(what, got=next(iter(record.dropped), None), remedy=f"Look at {pool.folder / 'rejected'}")
    say(f"the rows are in {pool.rows}; a source reads them with `path: {config.pool}/rows`")


def _config(loaded: LoadedRecipe, run: Path | None) -> SynthesisConfig:
    config = loaded.recipe.synthesis
    if config is None:
        remedy = "Add one: pool, sources, prompts and a generator"
        raise UserError("the recipe has no section `synthesis`", got=loaded.recipe.name, remedy=remedy)
    if run is None:
        return config
    model = run / "model"
    if not run.is_dir():
        raise RunFolderError("there is no such run folder", got=str(run), remedy="Give --from the folder of a run")
    if not model.is_dir():
        remedy = "A finished run has it; train it to its end first"
        raise RunFolderError("the run has no folder `model`", got=str(run), remedy=remedy)
    if "model" not in type(config.generator).model_fields or config.generator.kind != "transformers":
        remedy = "Use it with synthesis.generator.kind: transformers"
        raise UserError("--from has no effect on this generator", got=config.generator.kind, remedy=remedy)
    generator = config.generator.model_copy(update={"model": str(model.resolve())})
    return config.model_copy(update={"generator": generator})


def _shard(text: str | None, generation: int | None, pool: Pool) -> Shard:
    if text is None:
        return Shard(generation=pool.next_generation() if generation is None else generation)
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not int(match[1]) < int(match[2]) <= 100_000:
        raise UserError("--shard is not I/N", got=text, remedy="Write 0/8 to 7/8 for eight parts")
    if generation is None:
        remedy = "A task that is started again must not begin another round: add --generation 1"
        raise UserError("--shard needs --generation", got=text, remedy=remedy)
    return Shard(generation=generation, number=int(match[1]), of=int(match[2]))


class _Progress:
    """Says how far the round is, now and then, with the time that is left."""

    def __init__(self) -> None:
        self._began_s = self._last_s = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        now_s = time.monotonic()
        if self._first is None:
            self._first = done
            say(f"{total} texts to write" + (f", {done} of them are there from before" if done else ""))
        elif done == total or now_s - self._last_s >= _SAY_EVERY_S:
            self._last_s = now_s
            rate = (done - self._first) / max(now_s - self._began_s, 1e-9)
            left = f", {duration((total - done) / rate)} left" if rate > 0 and done < total else ""
            say(f"{done} of {total} texts{left}")


def in_words(record: RoundRecord) -> list[str]:
    """What became of the requests, a line each."""
    lines = [
        f"generation {record.generation}: {record.requests} requests, {record.accepted} rows accepted "
        f"({record.accepted_tokens} tokens of {record.completion_tokens} written) by {record.generator}"
    ]
    lines += cost_in_words(record)
    if record.stitched is not None:
        lines.append(f"  stitched into {record.stitched} documents")
    if record.gate is not None:
        lines += gate_in_words(record.gate)
    if record.quarantined is not None:
        lines.append(f"  quarantined by the gate, and not trained on: {record.quarantined}")
    lines += [f"  dropped, {reason}: {count}" for reason, count in record.dropped.items()]
    lines += [f"  kept and counted, {reason}: {count}" for reason, count in record.noted.items()]
    return lines + [line for grader in record.graders for line in grader_in_words(grader)] + verifier_in_words(record)


def cost_in_words(record: RoundRecord) -> list[str]:
    """What the round cost, where the recipe has prices, and whether that ended it."""
    lines = []
    if record.cost is not None:
        per_million = f", {1e6 * record.cost / record.accepted_tokens:.4g} per million accepted tokens"
        sources = ", ".join(f"{name} {cost:.4g}" for name, cost in record.cost_by_source.items())
        cached = f"; {record.cached} answers were cached" if record.cached else ""
        lines.append(
            f"  cost: {record.cost:.4g} {record.currency} ({sources}){per_million if record.accepted_tokens else ''}"
            f"; {record.gpu_seconds:.1f} GPU-seconds{cached}"
        )
    if record.joules is not None:
        lines.append(f"  energy of this machine's GPUs: {record.joules / 3600:.4g} Wh")
    if record.not_asked:
        lines.append(f"  ended by synthesis.max_cost: {record.not_asked} requests were not asked; raise it for more")
    return lines


def grader_in_words(grader: GraderRecord) -> list[str]:
    """How a grader did on labeled rows, and whether it has a vote."""
    found = ", ".join(f"{fault} {share.value:.2f}" for fault, share in grader.found.items())
    told = ", ".join(
        f"{what} {value}"
        for what, value in (
            ("calibration error", grader.calibration_error),
            ("self-preference", grader.self_preference),
            ("length bias", grader.length_bias),
            ("position bias", grader.position_bias),
        )
        if value is not None
    )
    vote = "has a vote" if grader.has_vote else f"LOST ITS VOTE: {'; '.join(grader.lost_vote_for)}"
    line = (
        f"  grader {grader.name}: agreement {grader.agreement}; found of {found}; {told or 'no bias measured'}; {vote}"
    )
    return [line, *(f"    no verdict on {count} rows: {reason}" for reason, count in grader.abstained.items())]


def verifier_in_words(record: RoundRecord) -> list[str]:
    """What the graders with a vote do together."""
    bound = record.verifier
    if bound is None:
        return []
    return [
        f"  graders together keep {bound.kept_right} of good and {bound.kept_wrong} of bad labeled rows: filtered rows "
        f"teach while fewer than {bound.breaking_error} of those written are wrong",
        f"  wrong rows: {bound.wrong_before} of those written, {bound.wrong_after} of those kept; a row written is "
        f"worth {bound.gain} clean rows more than without grading",
    ]
