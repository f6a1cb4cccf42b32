#!/usr/bin/env bash
# transformers 5.23.0: `add_bos_token: true` in a folder's tokenizer_config.json has no effect beside a tokenizer.json;
# the same words as an argument, or set on the object, have.
# Expected by many: what `from_pretrained` takes as an argument and what stands in tokenizer_config.json mean the same, as
# they do for `padding_side` or `split_special_tokens`, and saving a tokenizer keeps what its configuration said.
# Seen: no text begins with the token, the object says False, and saving the tokenizer drops the setting from the file.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check 'tokenizers==0.23.3' 'transformers==5.23.0'
cat >run.py <<'PY'
import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

BEGIN = "<s>"
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
alphabet = pre_tokenizers.ByteLevel.alphabet()
tokenizer.train_from_iterator(
    ["the cat"], trainers.BpeTrainer(vocab_size=300, special_tokens=[BEGIN], initial_alphabet=alphabet, show_progress=False)
)
Path("given").mkdir()
tokenizer.save("given/tokenizer.json")
configuration = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BEGIN, "add_bos_token": True}
configuration["padding_side"] = "left"
Path("given/tokenizer_config.json").write_text(json.dumps(configuration))


def begins(tokenizer) -> bool:
    return tokenizer("the cat")["input_ids"][0] == tokenizer.bos_token_id


configured = AutoTokenizer.from_pretrained("given")
argument = AutoTokenizer.from_pretrained("given", add_bos_token=True)
configured.save_pretrained("saved")
seen = {
    "add_bos_token in tokenizer_config.json: a text begins with it": begins(configured),
    "add_bos_token in tokenizer_config.json: the object says so": bool(configured.add_bos_token),
    "add_bos_token in tokenizer_config.json: still there when saved": "add_bos_token"
    in json.loads(Path("saved/tokenizer_config.json").read_text()),
    "padding_side in tokenizer_config.json: taken": configured.padding_side == "left",
    "add_bos_token as an argument: a text begins with it": begins(argument),
}
for what, holds in seen.items():
    print(f"{what}: {'yes' if holds else 'no'}")
sys.exit(list(seen.values()) != [False, False, False, True, True])
PY
HF_HUB_OFFLINE=1 venv/bin/python run.py
