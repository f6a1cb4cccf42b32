"""A row of the pool: a generated text with all that made it."""

from dataclasses import asdict
from typing import Any

from trainer.synthesis.generators.protocol import Identity
from trainer.synthesis.licenses import together
from trainer.synthesis.pool import Row
from trainer.synthesis.prompts import render
from trainer.synthesis.requests import Asked
from trainer.synthesis.turns import Conversation

__all__ = ["Row", "row_id", "row_of"]


def row_id(item: Asked, generation: int) -> str:
    """The name of the row that a request makes, in the pool."""
    return f"{generation}-{item.request.id}"


def row_of(conversation: Conversation, identity: Identity, generation: int) -> dict[str, Any]:
    """The row that a request and its answer make. The stages after it fill in scores, filters and the judge's terms."""
    item, completion = conversation.item, conversation.answer
    sampling, answer = item.request.sampling, completion.text.strip()
    has_more = item.row is not None and bool(answer)  # no answer is no row, whatever stands around it
    return {
        "text": render(str(item.row), {**item.columns, "answer": answer}) if has_more else answer,
        "answer": answer if has_more else None,
        "turns": [asdict(turn) for turn in conversation.turns],
        "messages": None,
        "id": row_id(item, generation),
        "slice": item.slice,
        "generation": generation,
        "generator": identity.name,
        "generator_weights": identity.weights,
        "prompt_name": item.prompt_label,
        "prompt_template": item.template,
        "prompt": item.request.prompt,
        "source": item.source,
        "source_id": item.prompt_id,
        "parents": [f"{item.source}:{item.prompt_id}"],
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_new_tokens": sampling.max_new_tokens,
        "seed": item.request.seed,
        "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "tokens_counted": completion.counted,
        "seconds": completion.seconds,
        "cost": None,
        "scores": {},
        "filters": [],
        "judge_license": None,
        "error": completion.error,
        **item.lineage,
        "license": together((item.license, item.lineage.get("license", identity.license))),
    }
