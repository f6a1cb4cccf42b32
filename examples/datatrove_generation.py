"""Texts by datatrove's inference runner, to be taken in by a generator of kind `files`.

    pip install datatrove==0.10.1 aiofiles aiosqlite httpx orjson "xxhash<4"
    python examples/datatrove_generation.py real.jsonl written --url http://127.0.0.1:8000/v1 --model NAME

reads rows with `text` and an id column, asks the server about each, and writes jsonl that `trainer synthesize` reads.
On a cluster replace `LocalPipelineExecutor` by datatrove's `SlurmPipelineExecutor`, and `endpoint` by `vllm`, which
starts a server in each task.
"""

import argparse
from pathlib import Path

PROMPT = "Rewrite the following text in other words. Keep every fact and add none. Write only the new text.\n\n"


async def rewrite(document, generate):
    """One rollout: what is asked about a document."""
    return await generate(
        {"messages": [{"role": "user", "content": PROMPT + document.text}], "max_tokens": 256, "temperature": 0.8}
    )


def main() -> None:
    """Runs it in one process."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.inference.run_inference import InferenceConfig, InferenceRunner
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("rows", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--id-column", default="title")
    parser.add_argument("--limit", type=int, default=-1)
    arguments = parser.parse_args()
    reader = JsonlReader(
        str(arguments.rows.parent), glob_pattern=arguments.rows.name, id_key=arguments.id_column, limit=arguments.limit
    )
    config = InferenceConfig(
        server_type="endpoint",
        endpoint_url=arguments.url.removesuffix("/v1"),
        model_name_or_path=arguments.model,
        max_concurrent_generations=8,
        rollouts_per_document=2,
    )
    writer = JsonlWriter(str(arguments.out), output_filename="${rank}.jsonl", compression=None)
    runner = InferenceRunner(
        rollout_fn=rewrite,
        config=config,
        output_writer=writer,
    )
    LocalPipelineExecutor(pipeline=[reader, runner], tasks=1, logging_dir=str(arguments.out / "logs")).run()


if __name__ == "__main__":
    main()
