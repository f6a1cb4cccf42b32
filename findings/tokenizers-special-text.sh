#!/usr/bin/env bash
# tokenizers 0.23.3, transformers 5.23.0: `encode_special_tokens = True` (text that spells a special token is encoded as
# text) is a setting of the object, not of the tokenizer.
# Expected by many: a tokenizer that is saved and loaded, or sent to a worker, encodes the same text to the same ids.
# Seen: after save and load, after pickle, and in the PreTrainedTokenizerFast made from it, the text
# "see <|endoftext|> here" holds the end-of-text id again: a document forges its own end. transformers' own
# `split_special_tokens=True` is saved.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check 'tokenizers==0.23.3' 'transformers==5.23.0'
cat >run.py <<'PY'
import pickle
import sys

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

END, TEXT = "<|endoftext|>", "see <|endoftext|> here"
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
alphabet = pre_tokenizers.ByteLevel.alphabet()
tokenizer.train_from_iterator(
    ["the end"], trainers.BpeTrainer(vocab_size=300, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
)
tokenizer.encode_special_tokens = True
tokenizer.save("tokenizer.json")
fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)
split = PreTrainedTokenizerFast(tokenizer_file="tokenizer.json", eos_token=END, split_special_tokens=True)
split.save_pretrained("split")
seen = {
    "as set": 0 in tokenizer.encode(TEXT).ids,
    "saved and loaded": 0 in Tokenizer.from_file("tokenizer.json").encode(TEXT).ids,
    "pickled": 0 in pickle.loads(pickle.dumps(tokenizer)).encode(TEXT).ids,
    "in transformers": 0 in fast(TEXT)["input_ids"],
    "split_special_tokens, saved and loaded": 0 in AutoTokenizer.from_pretrained("split")(TEXT)["input_ids"],
}
for what, forged in seen.items():
    print(f"{what}: the text {'holds' if forged else 'does not hold'} the end-of-text id")
sys.exit(list(seen.values()) != [False, True, True, True, False])
PY
HF_HUB_OFFLINE=1 venv/bin/python run.py
