"""The client of an endpoint against a server that really generates: `transformers serve` on loopback."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sharing import free_port
from tests.synthesis.chat_model import write_model
from trainer.synthesis.generators import Request, Sampling
from trainer.synthesis.generators.config import EndpointConfig
from trainer.synthesis.generators.endpoint import endpoint

PATIENCE_S = 180.0


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """URL and model name of a server."""
    folder = tmp_path_factory.mktemp("served") / "model"
    write_model(folder)
    port = free_port()
    log = (folder.parent / "serve.log").open("wb")
    server = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("transformers")),
            *("serve", str(folder), "--port", str(port), "--device", "cpu"),
        ],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=log,
        stderr=log,
    )
    try:
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, (folder.parent / "serve.log").read_text()
                assert time.monotonic() < deadline_s, (folder.parent / "serve.log").read_text()
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}/v1", str(folder)
    finally:
        server.kill()
        server.wait()
        log.close()


@pytest.mark.slow
def test_a_server_of_transformers_writes_what_is_asked_of_it(served: tuple[str, str]) -> None:
    url, model = served
    config = EndpointConfig(url=url, model=model, max_concurrency=2)
    assert endpoint(config).identity().name == model
    requests = [
        Request(
            id=f"r{number}",
            prompt=f"say {number}",
            sampling=Sampling(temperature=0.9, top_p=0.95, max_new_tokens=12),
            seed=number,
        )
        for number in range(6)
    ]
    given = {answer.request_id: answer for answer in endpoint(config).generate(requests, frozenset())}
    assert sorted(given) == [f"r{number}" for number in range(6)]
    assert {answer.error for answer in given.values()} == {None}
    assert all(answer.text for answer in given.values())
    assert all(answer.counted == "told" and 0 < answer.completion_tokens <= 12 for answer in given.values())
    assert all(answer.prompt_tokens > 0 for answer in given.values())
