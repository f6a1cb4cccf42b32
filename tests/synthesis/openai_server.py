"""A small HTTP server with the OpenAI API, for tests, on good days and bad ones: its answers follow from the prompt."""

import hashlib
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any] | tuple[int, Any, dict[str, str]]  # status, body (bytes, or a value for JSON), headers
HANGS_UP: Answer = (0, b"")
MODEL = "tiny-writer"


class _Server(ThreadingHTTPServer):
    request_queue_size = 256  # connections that come at once and wait to be taken


class OpenAIServer:
    """``answer(prompt, number of this prompt's calls so far)`` decides what comes back."""

    def __init__(self, answer: Callable[[str, int], Answer], *, delay_s: float = 0.0) -> None:
        self.answer, self.delay_s = answer, delay_s
        self.calls: Counter[str] = Counter()
        self.payloads: list[Any] = []
        self.at_once = self.most_at_once = 0
        self.clock = itertools.count(1)  # a list of models is dated by the call at many servers
        self.lock = threading.Lock()
        self.server = _Server(("127.0.0.1", 0), self._handler())
        self.server.handle_error = lambda *arguments: None  # a client that was killed is no news
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                data = [{"id": MODEL, "object": "model", "created": next(outer.clock), "owned_by": "test"}]
                self._send(200, {"object": "list", "data": data})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                prompt = body["messages"][-1]["content"]
                with outer.lock:
                    outer.payloads.append(body)
                    outer.calls[prompt] += 1
                    number = outer.calls[prompt]
                    outer.at_once += 1
                    outer.most_at_once = max(outer.most_at_once, outer.at_once)
                time.sleep(outer.delay_s)
                answer = outer.answer(prompt, number)
                with outer.lock:
                    outer.at_once -= 1
                self._send(*answer)

            def _send(self, status: int, answer: Any, headers: dict[str, str] | None = None) -> None:
                if not status:  # the connection ends without an answer
                    self.close_connection = True
                    return
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: object) -> None:
                pass

        return Handler


def text_of(prompt: str) -> str:
    digest = hashlib.sha256(prompt.encode()).hexdigest()
    return " ".join(digest[place : place + 4] for place in range(0, 40, 4))


def completion(text: str | None, *, finish: str = "stop", usage: bool = True, model: str = MODEL) -> Answer:
    message = {"role": "assistant", "content": text}
    tokens = {"prompt_tokens": 11, "completion_tokens": 10, "total_tokens": 21}
    return 200, {
        "id": "c", "object": "chat.completion", "created": 1, "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        **({"usage": tokens} if usage else {}),
    }  # fmt: skip


def good(prompt: str, number: int) -> Answer:
    return completion(text_of(prompt))
