"""Writes recipes/data/arithmetic.jsonl.xz: sums and differences of three one-digit numbers, worked out step by step.

``python -m experiments.make_arithmetic``
"""

import json
import lzma
import random
from pathlib import Path

FILE = Path(__file__).parents[1] / "recipes" / "data" / "arithmetic.jsonl.xz"
NUM_PROBLEMS, SEED = 2000, 17


def problem(numbers: tuple[int, ...], signs: tuple[str, ...]) -> dict[str, str]:
    """A question, its answer, and the answer worked out from left to right."""
    written = str(numbers[0]) + "".join(f" {sign} {number}" for sign, number in zip(signs, numbers[1:], strict=True))
    total, steps = numbers[0], []
    for sign, number in zip(signs, numbers[1:], strict=True):
        result = total + number if sign == "+" else total - number
        steps.append(f"{total} {sign} {number} = {result}")
        total = result
    solution = f"{', '.join(steps)}. The answer is {total}."
    return {
        "id": written,
        "question": f"What is {written}?",
        "answer": str(total),
        "text": f"What is {written}?\n{solution}",
        "minus": str(signs.count("-")),
    }


def main() -> None:
    """Writes the file."""
    generator, rows = random.Random(SEED), dict[str, dict[str, str]]()
    while len(rows) < NUM_PROBLEMS:
        numbers = tuple(generator.randint(1, 9) for _ in range(3))
        row = problem(numbers, tuple(generator.choice("+-") for _ in range(2)))
        rows[row["id"]] = row
    with lzma.open(FILE, "wt", encoding="utf-8", preset=9) as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows.values())


if __name__ == "__main__":
    main()
