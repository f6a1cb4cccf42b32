"""What the probes of a model cost, before any data is prepared: a model of the shape of SmolLM2-135M, random weights.

Processor seconds, for other work shares the machine; the reading of the files is in the seconds beside it. Importing
torch and transformers is not: every command that trains does that.
"""

import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.figures import Result, alternated, figure
from trainer.model.config import ModelConfig
from trainer.model.files import check_finite
from trainer.model.probes import Vocabulary, check_loading, probe

SHAPE = {
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
}
LENGTH = 2048


def run(rounds: int = 5) -> Result:
    """Measures, and reports the figures."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**SHAPE))
        num_parameters = sum(parameter.numel() for parameter in model.parameters())
        model.save_pretrained(folder)
        del model
        config = ModelConfig(pretrained=folder)
        vocabulary = Vocabulary(size=SHAPE["vocab_size"])
        probe(config, vocabulary, sequence_length=LENGTH)  # imports the architecture
        whole = partial(probe, config, vocabulary, sequence_length=LENGTH)
        parts: dict[str, Callable[[], object]] = {
            "all probes": whole,
            "names and shapes": partial(check_loading, folder),
            "every number is finite": partial(check_finite, Path(folder)),
        }
        taken = alternated({name: partial(_timed, part) for name, part in parts.items()}, rounds)
    figures = [
        figure(name, [processor for processor, _ in taken[name]], "processor s", at_most=5.0 if part is whole else None)
        for name, part in parts.items()
    ]
    clock = figure("all probes, by the clock", [seconds for _, seconds in taken["all probes"]], "s")
    return Result(
        title="Probes of the model before data",
        figures=[*figures, clock],
        details={"parameters": num_parameters, "sequence_length": LENGTH, **SHAPE},
    )


def _timed(part: Callable[[], object]) -> tuple[float, float]:
    """Processor seconds and seconds."""
    processor, clock = time.process_time(), time.perf_counter()
    part()
    return time.process_time() - processor, time.perf_counter() - clock
