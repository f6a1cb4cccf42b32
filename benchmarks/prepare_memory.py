"""Measures the peak resident memory of preparing a large jsonl source and of one epoch of reads from it.

    python benchmarks/prepare_memory.py --megabytes 4000 --folder /var/tmp/prepare-memory

Prints one JSON line: resident megabytes after the imports, at the peak of preparation, at the peak of the reads, and
seconds.

The text is drawn word by word from a Zipf distribution over 50,000 words, so that neither the tokenizer's cache nor the
contamination index meets an easier text than prose.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

WORDS = 50_000
DOCUMENT_WORDS = 300
READ_SAMPLES = 4096


def write_source(file: Path, megabytes: float) -> None:
    """Writes a jsonl file of at least so many megabytes; keeps one that is there already."""
    if file.exists() and file.stat().st_size >= megabytes * 1e6:
        return
    random = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    weights = 1.0 / np.arange(1, len(letters) + 1)
    lengths = 2 + random.poisson(4, size=WORDS)
    words = ["".join(random.choice(letters, size=length, p=weights / weights.sum())) for length in lengths]
    rank_weights = np.cumsum(1.0 / np.arange(1, WORDS + 1))
    with file.open("w", encoding="utf-8") as stream:
        number = 0
        while stream.tell() < megabytes * 1e6:
            drawn = np.searchsorted(rank_weights, random.random((256, DOCUMENT_WORDS)) * rank_weights[-1])
            for row in drawn.tolist():
                text = " ".join([words[place] for place in row])
                stream.write(f'{{"id": {number}, "text": "{text}"}}\n')
                number += 1


def peak_megabytes() -> float:
    """Highest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def measure(folder: Path, megabytes: float) -> dict[str, Any]:
    """Prepares the file, reads one epoch in random order, and returns the figures. For a fresh process."""
    import datasets  # noqa: F401  (part of the imports that are not counted)
    import torch  # noqa: F401

    from trainer.data.config import DataConfig
    from trainer.data.prepare import prepare

    imports = peak_megabytes()
    config = DataConfig.model_validate(
        {
            "sequence_length": 512,
            "tokenizer": {"train_bpe": 8192, "max_training_bytes": 16_000_000},
            "sources": {"web": {"kind": "real", "path": f"web-{megabytes:g}.jsonl", "id_column": "id"}},
            "held_out": {"kind": "share", "source": "web", "validation": 0.002, "test": 0.002},
            "cache": "cache",
        }
    )
    start = time.monotonic()
    data = prepare(config, seed=0, base=folder)
    prepared = peak_megabytes()
    prepare_s = time.monotonic() - start
    segment = data.sources["web"].segments[0]
    order = np.random.default_rng(0).permutation(segment.num_samples)
    total, start = 0, time.monotonic()
    for first in range(0, len(order), READ_SAMPLES):
        total += int(segment.gather(order[first : first + READ_SAMPLES]).sum())
    return {
        "source_megabytes": round((folder / f"web-{megabytes:g}.jsonl").stat().st_size / 1e6),
        "num_tokens": segment.num_tokens,
        "imports_megabytes": round(imports),
        "prepare_peak_megabytes": round(prepared),
        "read_peak_megabytes": round(peak_megabytes()),
        "above_imports_megabytes": round(peak_megabytes() - imports),
        "prepare_s": round(prepare_s, 1),
        "read_s": round(time.monotonic() - start, 1),
        "checksum": total,
    }


def run(folder: Path, megabytes: float) -> dict[str, Any]:
    """Writes the source, then measures in a fresh process, whose peak is nobody else's."""
    folder.mkdir(parents=True, exist_ok=True)
    write_source(folder / f"web-{megabytes:g}.jsonl", megabytes)
    command = [sys.executable, __file__, "--measure", "--folder", str(folder), "--megabytes", str(megabytes)]
    process = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description="peak resident memory of preparation")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--megabytes", type=float, default=200)
    parser.add_argument("--measure", action="store_true", help="only measure (the file is there)")
    arguments = parser.parse_args()
    print(json.dumps((measure if arguments.measure else run)(arguments.folder, arguments.megabytes)))


if __name__ == "__main__":
    main()
