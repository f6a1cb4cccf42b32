"""`python -m tests.synthesis.kill9 --kills 20`: kills a round with SIGKILL at moments spread over it, and counts.

The round asks a real HTTP server, which notes every call. A row is lost when the finished pool lacks it, doubled when
it has it twice, asked for twice when a request whose answer was in the log of the round is called again. Calls that
were in flight at a kill have no answer in the log, and are sent again: they are counted apart.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from tests.cases.commands import WarmCommands
from tests.conftest import TINY_RECIPE
from tests.synthesis.openai_server import MODEL, OpenAIServer, good

SECTION = """\
synthesis:
  pool: pool
  sources: [real]
  prompts: [{{template: "{{{{ text }}}}", name: whole}}]
  generator: {{kind: endpoint, url: "{url}", model: {model}, license: MIT, max_concurrency: {concurrency}}}
  requests: {requests}
"""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What kills did to a round."""

    kills: int  # that struck
    requests: int
    rows: int
    lost: int
    doubled: int
    asked_twice: int
    asked_again_in_flight: int

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.doubled or self.asked_twice)

    def table(self) -> str:
        head = "| kills | requests | rows in the pool | lost | doubled | asked twice | cut off in flight, sent again |"
        values = (
            self.kills, self.requests, self.rows, self.lost, self.doubled, self.asked_twice, self.asked_again_in_flight,
        )  # fmt: skip
        return "\n".join([head, "| --- " * len(values) + "|", "| " + " | ".join(map(str, values)) + " |"])


def answers_in(pool: Path) -> set[str]:
    """Ids of requests whose answers the unfinished round has."""
    lines = [
        line
        for file in sorted((pool / "unfinished").glob("generation-*.jsonl"))
        if not file.name.endswith((".answers.jsonl", ".grades.jsonl"))  # of graders
        for line in file.read_bytes().split(b"\n")[1:-1]
    ]
    return {json.loads(line)["request_id"] for line in lines}


def write_recipe(folder: Path, documents: int) -> Path:
    """A small recipe over documents of random syllables, each of which can be asked about once."""
    generator = random.Random(1)
    for name in ("real", "good", "bad"):
        rows = [
            {"title": f"{name} {number}", "topic": "a", "text": " ".join(_word(generator) for _ in range(30))}
            for number in range(documents if name == "real" else 20)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = folder / "tiny.yaml"
    file.write_text(TINY_RECIPE)
    return file


def _word(generator: random.Random) -> str:
    return "".join(generator.choice("bdfklmnprst") + generator.choice("aeiou") for _ in range(4))


def run_with_kills(
    commands: WarmCommands, folder: Path, *, kills: int, requests: int, seed: int, concurrency: int = 4
) -> Outcome:
    """Starts the round again and again, and kills it once it has a random number of further answers."""
    server = OpenAIServer(good, delay_s=0.05)
    try:
        base = write_recipe(folder, 2 * requests)
        file = folder / "killed.yaml"
        section = SECTION.format(url=server.url, model=MODEL, requests=requests, concurrency=concurrency)
        file.write_text(base.read_text() + section)
        return _run(commands, file, server, kills=kills, requests=requests, chance=random.Random(seed))
    finally:
        server.close()


def _run(
    commands: WarmCommands, recipe: Path, server: OpenAIServer, *, kills: int, requests: int, chance: random.Random
) -> Outcome:
    pool, struck = recipe.parent / "pool", 0
    called_though_kept: list[tuple[set[str], set[str]]] = []  # ids in the log at a start, prompts called after it
    for threshold in [*sorted(chance.sample(range(1, requests - 4), kills)), None]:
        kept, before = answers_in(pool), Counter(server.calls)
        struck += _start(commands, recipe, threshold, chance)
        called_though_kept.append((kept, {prompt for prompt in server.calls if server.calls[prompt] > before[prompt]}))
    rows = [row for each in sorted((pool / "rows").glob("*")) for row in pq.read_table(each).to_pylist()]
    prompts = {row["id"].partition("-")[2]: row["prompt"] for row in rows}
    asked_twice = sum(
        len({prompts[name] for name in kept if name in prompts} & called) for kept, called in called_though_kept
    )
    names = Counter(row["id"] for row in rows)
    return Outcome(
        kills=struck,
        requests=requests,
        rows=len(rows),
        lost=requests - len(names),
        doubled=sum(count - 1 for count in names.values()),
        asked_twice=asked_twice,
        asked_again_in_flight=sum(server.calls.values()) - len(server.calls) - asked_twice,
    )


def _start(commands: WarmCommands, recipe: Path, threshold: int | None, chance: random.Random) -> bool:
    """Runs the command; kills it when its log has ``threshold`` answers. Whether it was killed."""
    folder = recipe.parent
    pid = commands.begin(["synthesize", str(recipe)], folder=folder, environment={}, streams=folder)
    with ThreadPoolExecutor(1) as pool:
        end = pool.submit(commands.wait)
        while not end.done():
            if threshold is not None and len(answers_in(folder / "pool")) >= threshold:
                time.sleep(chance.uniform(0, 0.05))
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                return end.result(timeout=60) != 0
            time.sleep(0.005)
    return False


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.synthesis.kill9", description=str(__doc__).split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments, commands = parser.parse_args(), WarmCommands()
    with tempfile.TemporaryDirectory() as folder:
        outcome = run_with_kills(
            commands, Path(folder), kills=arguments.kills, requests=arguments.requests, seed=arguments.seed
        )
    commands.close()
    print(outcome.table())
    sys.exit(not outcome.is_clean)


if __name__ == "__main__":
    main()
