"""`python -m tests.synthesis.bad_days`: what becomes of a round when its endpoint has a bad day, one row for each.

Each day is a real round of the real command against a real HTTP server; then the server is well again and the same
command is given once more.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.cases.commands import WarmCommands
from tests.synthesis.kill9 import answers_in, write_recipe
from tests.synthesis.openai_server import HANGS_UP, MODEL, Answer, OpenAIServer, completion, good, text_of
from trainer.synthesis.pool import Pool

REQUESTS = 30
SECTION = """\
synthesis:
  pool: pool
  sources: [real]
  prompts: [{{template: "{{{{ text }}}}", name: whole}}]
  generator: {{kind: endpoint, url: "{url}", model: {model}, license: MIT, max_concurrency: 4, retries: 1,
    pause_s: 0.01, opens_after: 4, give_up_after: 6, timeout_s: {timeout_s}}}
  sampling: {{max_new_tokens: 20}}
  requests: {requests}
"""


class Day:
    """Answers of a server: ``bad`` until ``heal`` is called, to the prompts that ``strikes`` names, after some."""

    def __init__(self, bad: Callable[[str], Answer], *, after: int = 0, every: int = 1) -> None:
        self.bad, self.after, self.every, self.is_well, self.calls = bad, after, every, False, 0

    def __call__(self, prompt: str, number: int) -> Answer:
        self.calls += 1
        is_struck = self.calls > self.after and int(text_of(prompt)[:2], 16) % self.every == 0
        return self.bad(prompt) if is_struck and not self.is_well else good(prompt, number)


def _another_model(prompt: str) -> Answer:
    return completion("a text", model="other")


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
    ends_whole: bool = True  # the second command ends the round
    sets: Sequence[str] = field(default=())


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
    day = case.day()
    server = OpenAIServer(day)
    try:
        recipe = write_recipe(folder, 3 * REQUESTS)
        section = SECTION.format(url=server.url, model=MODEL, requests=REQUESTS, timeout_s=30)
        recipe.write_text(recipe.read_text() + section)
        output = synthesize(recipe, expected=case.exit_code)
        kept, calls = answers_in(folder / "pool"), sum(server.calls.values())
        day.is_well = True
        if case.exit_code:
            synthesize(recipe)
            calls = sum(server.calls.values()) - calls
        (record,) = Pool(folder / "pool").records()
    finally:
        server.close()
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

    def synthesize(recipe: Path, *, expected: int = 0) -> str:
        folder = recipe.parent
        ended = commands.run(["synthesize", str(recipe)], folder=folder, environment={}, streams=folder)
        assert ended.exit_code == expected, ended
        return ended.stdout + ended.stderr

    columns = (
        "bad day", "exit code", "the command says", "answers kept", "of those asked again", "requests, rows, dropped",
    )  # fmt: skip
    print("| " + " | ".join(columns) + " |")
    print("| --- " * len(columns) + "|")
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            outcome = run_case(case, Path(folder), synthesize)
        counts = f"{outcome.requests} = {outcome.accepted} + {outcome.dropped}"
        row = (name, case.exit_code, case.says, outcome.kept, outcome.asked_again, counts)
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
    commands.close()


if __name__ == "__main__":
    main()
