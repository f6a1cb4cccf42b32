"""`python -m tests.synthesis.bad_days`: what becomes of a round on a bad day of its endpoint, its judge or its disk.

Each day is a real round of the real command against real HTTP servers; where it ended with an error, all is well again
and the same command is given once more. With names of days only those.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cases.commands import WarmCommands
from tests.synthesis.kill9 import answers_in, write_recipe
from tests.synthesis.openai_server import HANGS_UP, MODEL, Answer, OpenAIServer, completion, good, text_of
from trainer.synthesis.pool import Pool

REQUESTS = 30
PATIENCE_S = 2.0  # of the command on the day when the server is slow
SECTION = """\
synthesis:
  pool: pool
  sources: [real]
  prompts: [{{template: "{{{{ text }}}}", name: whole}}]
  generator: {{kind: endpoint, url: "{url}", model: {model}, license: MIT, max_concurrency: 4, retries: 1,
    pause_s: 0.01, opens_after: 4, give_up_after: 6, timeout_s: 30}}
  sampling: {{max_new_tokens: 20}}
  requests: {requests}
"""
JUDGE = """\
  graders: [{{kind: judge, model: {{kind: endpoint, url: "{url}", model: {model}, license: MIT, retries: 0,
    give_up_after: 3, timeout_s: 30}}}}]
  grading: {{rows: 20}}
"""


class Day:
    """Answers of a server: ``bad`` until it ``is_well``, to one prompt of ``every``, after some; else ``well``."""

    def __init__(
        self,
        bad: Callable[[str], Answer],
        *,
        after: int = 0,
        every: int = 1,
        well: Callable[[str, int], Answer] = good,
    ) -> None:
        self.bad, self.after, self.every, self.well = bad, after, every, well
        self.is_well, self.calls = False, 0

    def __call__(self, prompt: str, number: int) -> Answer:
        self.calls += 1
        is_struck = self.calls > self.after and int(text_of(prompt)[:2], 16) % self.every == 0
        return self.bad(prompt) if is_struck and not self.is_well else self.well(prompt, number)


def _another_model(prompt: str) -> Answer:
    return completion("a text", model="other")


def _no_day() -> Day:
    return Day(lambda prompt: good(prompt, 1))


def _tens(prompt: str, number: int = 1) -> Answer:
    return completion('{"accuracy": 10, "language": 10, "content": 10}')


def _late(prompt: str) -> Answer:
    time.sleep(4 * PATIENCE_S)
    return good(prompt, 1)


def _ten_times_too_long(prompt: str) -> Answer:
    status, body = completion("word " * 200)[:2]
    body["usage"] = {"prompt_tokens": 11, "completion_tokens": 200, "total_tokens": 211}
    return status, body


@dataclass(frozen=True)
class Case:
    """A bad day, how the command ends on it, and words that it says."""

    day: Callable[[], Day]
    exit_code: int
    says: str
    sets: Sequence[str] = ()  # of the first command
    judge: Callable[[], Day] | None = None  # the day of a judge that grades the texts
    file_bytes: int | None = None  # no file of the first command grows beyond it


CASES: dict[str, Case] = {
    "dead at start": Case(lambda: Day(lambda prompt: HANGS_UP), 2, "calls in a row failed"),
    "dies midway": Case(lambda: Day(lambda prompt: HANGS_UP, after=12), 2, "calls in a row failed"),
    "every answer is a 500": Case(lambda: Day(lambda prompt: (500, {})), 2, "calls in a row failed"),
    "half of the answers are a 500": Case(
        lambda: Day(lambda prompt: (500, {}), every=2), 2, "What was answered is kept"
    ),
    "garbage instead of JSON": Case(lambda: Day(lambda prompt: (200, b"<html>")), 2, "calls in a row failed"),
    "another model answers": Case(lambda: Day(_another_model), 2, "another model answered: other"),
    "empty texts": Case(lambda: Day(lambda prompt: completion(" "), every=2), 0, "empty text"),
    "refusals": Case(lambda: Day(lambda prompt: completion("", finish="content_filter"), every=2), 0, "refused"),
    "cut off": Case(lambda: Day(lambda prompt: completion("a b c", finish="length"), every=2), 0, "cut off"),
    "ten times too long": Case(lambda: Day(_ten_times_too_long, every=2), 0, "longer than max_new_tokens"),
    "one text whatever is asked": Case(
        lambda: Day(lambda prompt: completion("the same words again")), 0, "the generator is stuck"
    ),
    "key refused": Case(lambda: Day(lambda prompt: (401, {})), 2, "calls in a row failed"),
    "asks to wait two hours": Case(
        lambda: Day(lambda prompt: (429, {}, {"Retry-After": "7200"}), after=5), 2, "asks to wait 7200 s"
    ),
    "slower than timeout_s from the 13th call on": Case(
        lambda: Day(_late, after=12), 2, "calls in a row failed", sets=[f"synthesis.generator.timeout_s={PATIENCE_S}"]
    ),
    "disk full": Case(_no_day, 2, "no room for the answers of the round", file_bytes=4096),
    "a judge that always says 10": Case(_no_day, 0, "LOST ITS VOTE: agreement 0.50", judge=lambda: Day(_tens)),
    "a judge that says nothing of use": Case(
        _no_day, 0, "no verdict on 100%", judge=lambda: Day(lambda prompt: completion("All texts are lovely."))
    ),
    "a judge that dies midway": Case(
        _no_day, 2, "the grader 'judge' failed", judge=lambda: Day(lambda prompt: HANGS_UP, after=12, well=_tens)
    ),
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a round on a bad day and after it."""

    output: str
    kept: int  # answers in the log after the first command
    asked_again: int  # of those, by the second
    requests: int
    accepted: int
    dropped: int


def run_case(case: Case, folder: Path, synthesize: Callable[..., str]) -> Outcome:
    """The round on the bad day, and again when the server is well."""
    day, judge_day = case.day(), (case.judge or _no_day)()
    server, judge = OpenAIServer(day), OpenAIServer(judge_day)
    try:
        recipe = write_recipe(folder, 3 * REQUESTS)
        section = SECTION.format(url=server.url, model=MODEL, requests=REQUESTS)
        section += JUDGE.format(url=judge.url, model=MODEL) if case.judge else ""
        recipe.write_text(recipe.read_text() + section)
        sets = [word for value in case.sets for word in ("--set", value)]
        output = synthesize(recipe, *sets, expected=case.exit_code, file_bytes=case.file_bytes)
        kept, calls = answers_in(folder / "pool"), sum(server.calls.values())
        day.is_well = judge_day.is_well = True
        if case.exit_code:
            synthesize(recipe)
            calls = sum(server.calls.values()) - calls
        (record,) = Pool(folder / "pool").records()
    finally:
        server.close()
        judge.close()
    return Outcome(
        output=output,
        kept=len(kept),
        asked_again=calls - (REQUESTS - len(kept)) if case.exit_code else 0,
        requests=record.requests,
        accepted=record.accepted,
        dropped=sum(record.dropped.values()),
    )


def main() -> None:
    commands = WarmCommands()

    def synthesize(*arguments: object, expected: int = 0, file_bytes: int | None = None) -> str:
        words, folder = [str(word) for word in arguments], Path(str(arguments[0])).parent
        ended = commands.run(
            ["synthesize", *words], folder=folder, environment={}, streams=folder, file_bytes=file_bytes
        )
        assert ended.exit_code == expected, ended
        return ended.stdout + ended.stderr

    columns = (
        "bad day", "exit code", "the command says", "answers kept", "of those sent again", "requests = rows + dropped",
    )  # fmt: skip
    print("| " + " | ".join(columns) + " |")
    print("| --- " * len(columns) + "|")
    for name in sys.argv[1:] or CASES:
        case = CASES[name]
        with tempfile.TemporaryDirectory() as folder:
            outcome = run_case(case, Path(folder), synthesize)
        counts = f"{outcome.requests} = {outcome.accepted} + {outcome.dropped}"
        again = (outcome.kept, outcome.asked_again) if case.exit_code else ("", "")
        row = (name, case.exit_code, case.says, *again, counts)
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
    commands.close()


if __name__ == "__main__":
    main()
