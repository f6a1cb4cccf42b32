"""Asks for the texts of a round and keeps each answer as it comes, within the price that the recipe allows."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from trainer.base.errors import UserError
from trainer.base.failures import in_words, warn
from trainer.data.filters.duplicates import words_hash
from trainer.synthesis.cost import Budget
from trainer.synthesis.energy import EnergyMeter
from trainer.synthesis.generators.protocol import Admitting, Generator, Request
from trainer.synthesis.responses import Responses

_SYNC_EVERY_S = 2.0
_STUCK_SHARE, _FEWEST_TEXTS = 0.5, 20


@runtime_checkable
class Progress(Protocol):
    """Is told how many texts there are, of how many."""

    def __call__(self, done: int, total: int, /) -> None:
        """So many texts are there."""
        ...


def ask(
    generator: Generator, requests: Sequence[Request], responses: Responses, progress: Progress, budget: Budget
) -> None:
    """Until all are answered, have failed, or the price allows no more. An answer survives a kill of the process as
    soon as it came, and the loss of power within two seconds. ``UserError`` where the generator breaks off.
    """
    names = {request.id for request in requests}
    done = names & responses.completions.keys()
    progress(len(done), len(requests))
    if len(done) == len(names):
        return
    budget.settle(responses.completions.values())
    if isinstance(generator, Admitting):
        generator.admit_by(budget.admit)
    synced_s, meter = time.monotonic(), EnergyMeter()
    try:
        for answer in generator.generate(requests, frozenset(done)):
            completion = replace(answer, joules=meter.joules(answer.seconds))
            responses.add([completion], durable=False)
            budget.settle([completion])
            done |= {completion.request_id} & responses.completions.keys()
            progress(len(done), len(requests))
            if time.monotonic() - synced_s >= _SYNC_EVERY_S:
                responses.sync()
                synced_s = time.monotonic()
            if budget.is_spent:
                break
    except (UserError, OSError) as error:
        if isinstance(error, UserError) or error.filename is not None:
            raise  # says what to do; or a full disk
        raise _broken_off(error) from error
    except Exception as error:  # whatever a generator from outside does
        raise _broken_off(error) from error
    finally:
        responses.sync()


def _broken_off(error: Exception) -> UserError:
    remedy = "What was answered is kept: run it again to resume"
    return UserError(f"the generator failed: {in_words(error)}", remedy=remedy)


def allow_failures(
    requests: Sequence[Request], responses: Responses, budget: Budget, *, max_failed_share: float
) -> None:
    """Takes the calls that failed at every try as answered, by their failure. ``UserError`` where they are more than
    ``max_failed_share``, or an answer is missing that the price allowed: the shard then waits to be run again.
    """
    missing = [request.id for request in requests if request.id not in responses.completions]
    failed = {name: responses.failed[name] for name in missing if name in responses.failed}
    if len(failed) > max_failed_share * len(requests) or (len(missing) > len(failed) and not budget.is_limited):
        remedy = "What was answered is kept: run it again to ask for the rest"
        words = next((f", the last one: {answer.error}" for answer in reversed(failed.values())), "")
        raise UserError(f"{len(missing)} of {len(requests)} texts could not be had{words}", remedy=remedy)
    responses.completions |= failed


def tell_where_stuck(texts: Sequence[str]) -> None:
    """Warns where the generator gives one text, or one beginning, whatever it is asked."""
    for what, names in (
        ("the same text", [words_hash(text) for text in texts if text.strip()]),
        ("texts that begin alike", [" ".join(text.split()[:6]) for text in texts if text.strip()]),
    ):
        if len(names) >= _FEWEST_TEXTS:
            (_, count), *_ = Counter(names).most_common(1)
            if count > _STUCK_SHARE * len(names):
                warn(f"the generator is stuck: {count} of {len(names)} answers are {what}")
                return
