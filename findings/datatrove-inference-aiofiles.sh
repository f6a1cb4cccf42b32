#!/usr/bin/env bash
# datatrove 0.10.1: its inference runner takes a document that it cannot save for a warning, and the job for complete.
# Its extra `inference` asks for vLLM and SGLang, which an endpoint does not need; whoever installs the rest by hand and
# forgets `aiofiles`, which is imported when the first document is saved, meets it.
# Expected: an error before the first call is paid for, or a job that fails and can be run again.
# Seen: all 10 calls are made and answered, 10 warnings are logged, nothing is written, the exit code is 0 and the task
# is noted as complete: with `aiofiles` installed the same job does nothing, and only another log folder makes it write.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
  datatrove==0.10.1 aiosqlite==0.22.1 httpx==0.28.1 orjson==3.13.0 xxhash==3.8.2
cat >run.py <<'PY'
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.inference.run_inference import InferenceConfig, InferenceRunner
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

calls = []


class Server(BaseHTTPRequestHandler):
    """Answers as a server of the OpenAI API does."""

    def do_GET(self):
        self.send({"object": "list", "data": [{"id": "m", "object": "model"}]})

    def do_POST(self):
        calls.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        message = {"role": "assistant", "content": "other words"}
        usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self.send({"id": "c", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage})

    def send(self, answer):
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


async def rewrite(document, generate):
    return await generate({"messages": [{"role": "user", "content": document.text}], "max_tokens": 8})


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = InferenceConfig(
        server_type="endpoint",
        endpoint_url=f"http://127.0.0.1:{server.server_port}",
        model_name_or_path="m",
        max_concurrent_generations=4,
    )
    writer = JsonlWriter("out", output_filename="${rank}.jsonl", compression=None)
    runner = InferenceRunner(rollout_fn=rewrite, config=config, output_writer=writer)
    LocalPipelineExecutor([JsonlReader("in"), runner], tasks=1, logging_dir=sys.argv[1]).run()
    written = sum(len(file.read_text().splitlines()) for file in Path("out").glob("*.jsonl"))
    print(len(calls), "calls,", written, "written")
PY
mkdir in
for number in 0 1 2 3 4 5 6 7 8 9; do
  echo "{\"id\": \"$number\", \"text\": \"document $number\"}"
done >in/rows.jsonl
without=$(venv/bin/python run.py log 2>errors) || { tail -n 5 errors; exit 1; }
warnings=$(grep -c 'Failed to save document: No module named' errors || true)
venv/bin/pip install --quiet --disable-pip-version-check aiofiles==25.1.0
again=$(venv/bin/python run.py log 2>errors) || { tail -n 5 errors; exit 1; }
fresh=$(venv/bin/python run.py another-log 2>errors) || { tail -n 5 errors; exit 1; }
echo "10 documents; without aiofiles: $without, $warnings warnings; with it, the same job again: $again; with another log folder: $fresh"
[ "$without, $warnings" = "10 calls, 0 written, 10" ] && [ "$again" = "0 calls, 0 written" ] && [ "$fresh" = "10 calls, 10 written" ]
