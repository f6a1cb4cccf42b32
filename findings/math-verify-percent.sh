#!/usr/bin/env bash
# math-verify 0.9.0: a percentage is verified against its value and against its number.
# Expected by many: verify(gold, answer) says that two answers are equal, so what equals the same thing is equal.
# Seen: 50% against 0.5 and 50% against 50 are both verified, 0.5 against 50 is not. A gold answer in percent accepts an
# answer that is wrong by a factor of a hundred.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check 'math-verify==0.9.0'
cat >run.py <<'PY'
import sys

from math_verify import parse, verify

PAIRS = [(r"$50\%$", "$0.5$"), (r"$50\%$", "$50$"), ("$0.5$", "$50$")]
seen = [verify(parse(gold), parse(answer)) for gold, answer in PAIRS]
for pair, verified in zip(PAIRS, seen, strict=True):
    print(*pair, "verified" if verified else "not verified")
sys.exit(seen != [True, True, False])
PY
venv/bin/python run.py
