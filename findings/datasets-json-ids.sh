#!/usr/bin/env bash
# datasets 5.2.0 on pyarrow 26.0.1: JSON Lines with unsigned 64-bit numbers (hashes as ids). pyarrow reads a column of
# integers as float64 as soon as one of them is 2^63 or more; datasets then casts to the type that was asked for.
# Expected by many: features={"id": uint64} reads uint64, or fails.
# Seen: the ids 2^63 + 1, 2^63 + 2 and 2^53 + 1 become 2^63, 2^63 and 2^53, with type uint64, and without a word: two
# documents have one id. Without features the column is float64; as a string it is 9.223372036854776e+18. Without the
# large ids in the file the small one is kept.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check 'datasets==5.2.0' 'pyarrow==26.0.1'
cat >run.py <<'PY'
import json
import sys
from pathlib import Path

import datasets
from datasets import Features, Value, load_dataset

datasets.disable_progress_bars()
LARGE, SMALL = [2**63 + 1, 2**63 + 2], 2**53 + 1


def read(ids: list[int], kind: str | None) -> list[object]:
    file = Path(f"{len(ids)}.jsonl")
    file.write_text("".join(json.dumps({"id": number}) + "\n" for number in ids))
    features = Features({"id": Value(kind)}) if kind else None
    return load_dataset("json", data_files=str(file), features=features, split="train")["id"][:]


seen = {
    "uint64": read([*LARGE, SMALL], "uint64"),
    "string": read([*LARGE, SMALL], "string"),
    "no features": read([*LARGE, SMALL], None),
    "uint64, only the small one": read([SMALL], "uint64"),
}
print("written:", [*LARGE, SMALL])
for what, ids in seen.items():
    print(f"read as {what}: {ids}")
rounded = [2**63, 2**63, 2**53]
as_text = ["9.223372036854776e+18", "9.223372036854776e+18", "9.007199254740992e+15"]
sys.exit(list(seen.values()) != [rounded, as_text, [float(number) for number in rounded], [SMALL]])
PY
HF_HUB_OFFLINE=1 HF_HOME=$folder/hf venv/bin/python run.py
