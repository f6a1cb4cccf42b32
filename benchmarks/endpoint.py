"""Tokens per second through a round's client of an endpoint, over the same server driven bare at the same concurrency.

The bare driver is what one writes in ten lines: asyncio, the `openai` client, a semaphore. The server waits for each
token and computes nothing, so its speed is its own and not this machine's; it runs in a process of its own. The two
take turns, and a ratio is that of two neighbors. Ours keeps every answer in a log on the disk as a round does.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import Result, alternated, figure, ratios
from trainer.synthesis.asking import ask
from trainer.synthesis.cost import Budget
from trainer.synthesis.generators import Request, Sampling
from trainer.synthesis.generators.config import EndpointConfig
from trainer.synthesis.generators.endpoint import endpoint
from trainer.synthesis.responses import Responses

CONCURRENCY, REQUESTS, TOKENS, TOKEN_S = 32, 320, 50, 0.02
MODEL = "waiting"


def run(rounds: int = 7) -> Result:
    """Alternates the two drivers; the first turn of each, which warms up, is not counted."""
    server = subprocess.Popen([sys.executable, "-m", "benchmarks.endpoint"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        ours, bare = measure(url, rounds)
    finally:
        server.kill()
        server.wait()
    return Result(
        title="client of an endpoint",
        figures=[
            figure("tokens/s through the loop / bare asyncio + openai", ratios(ours, bare), "ratio", at_least=0.95)
        ],
        details={
            "tokens_per_s": {"loop": ours, "bare": bare},
            "server": f"waits {TOKEN_S} s per token, {TOKENS} tokens per answer",
            "requests": REQUESTS,
            "concurrency": CONCURRENCY,
        },
    )


def measure(url: str, rounds: int) -> tuple[list[float], list[float]]:
    """Tokens per second of the loop and of the bare driver, turn by turn."""
    sampling = Sampling(temperature=0.8, top_p=0.95, max_new_tokens=TOKENS)
    asked = [
        Request(id=f"r{number}", prompt=f"write about {number}", sampling=sampling, seed=number)
        for number in range(REQUESTS)
    ]
    rates = alternated(
        {"bare": lambda: asyncio.run(driven_bare(url, asked)), "loop": lambda: through_the_loop(url, asked)},
        rounds + 1,
    )
    return rates["loop"][1:], rates["bare"][1:]


def through_the_loop(url: str, requests: Sequence[Request]) -> float:
    """Tokens per second of a round's asking: client, log on the disk, budget."""
    config = EndpointConfig(url=url, model=MODEL, max_concurrency=CONCURRENCY)
    with tempfile.TemporaryDirectory() as folder, Responses(Path(folder) / "log.jsonl", requests) as responses:
        began_s = time.perf_counter()
        ask(endpoint(config), requests, responses, lambda done, total: None, Budget(None, None))
        seconds = time.perf_counter() - began_s
        return sum(answer.completion_tokens for answer in responses.completions.values()) / seconds


async def driven_bare(url: str, requests: Sequence[Request]) -> float:
    """Tokens per second of the `openai` client under a semaphore."""
    from openai import AsyncOpenAI

    limit = asyncio.Semaphore(CONCURRENCY)

    async def one(client: AsyncOpenAI, request: Request) -> int:
        async with limit:
            answer = await client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": request.prompt}],
                temperature=request.sampling.temperature,
                top_p=request.sampling.top_p,
                max_tokens=request.sampling.max_new_tokens,
                seed=request.seed,
            )
            return answer.usage.completion_tokens if answer.usage else 0

    began_s = time.perf_counter()
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        tokens = sum(await asyncio.gather(*(one(client, request) for request in requests)))
    return tokens / (time.perf_counter() - began_s)


async def serve() -> None:
    """A server that waits for each token: prints its port, and answers until it is killed."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _head(reader):
            body = json.loads(await reader.readexactly(int(head["content-length"])))
            await asyncio.sleep(TOKEN_S * body["max_tokens"])
            usage = {
                "prompt_tokens": 5,
                "completion_tokens": body["max_tokens"],
                "total_tokens": 5 + body["max_tokens"],
            }
            message = {"role": "assistant", "content": "word " * body["max_tokens"]}
            content = json.dumps(
                {
                    "id": "c", "object": "chat.completion", "created": 1, "model": MODEL, "usage": usage,
                    "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                }
            ).encode()  # fmt: skip
            head_lines = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
            writer.write(head_lines.encode())
            writer.write(content)
            await writer.drain()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def _head(reader: asyncio.StreamReader) -> dict[str, Any]:
    """The headers of the next request; none at the end of the connection."""
    try:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:-2]
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return {}
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


if __name__ == "__main__":
    asyncio.run(serve())
