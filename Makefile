# Every target does the set-up it needs by itself: a machine with python3 (3.11 or newer) and make is enough.
#   make demo    train the quickstart recipe        make test    the tests (make faults: the slow ones)
#   make check   lint, types, imports, words, pages  make bench   measurements against other loaders and loops
#   make docs    the documentation, into build/docs: generated pages are written anew, a warning is an error
#   make parity  one recipe under every engine and launch: the same samples, decisions and losses
#   make study   which source helps or hurts, and what control gains (40 runs, an hour or two; resumes where it stopped)
#   make lab     control under known conditions: environments against their closed forms, every policy in worlds whose
#                best possible is known, the guard's calibration (20 minutes), and the table of the runs on text
#   make self-learning  five generations that train on what they wrote: replaced, accumulated, and with our brake (half an
#                hour; resumes where it stopped)
#   make faults  kill -9 at twenty moments of a run, compared with an uninterrupted twin; fifteen other faults, five
#                times each; a run that SLURM warns, preempts and loses nodes of; then the slow tests
#   make fuzz    5,000 mutated recipes, and 10,000 random rows in every format and compression

BIN := .venv/bin
SETUP := .venv/set-up-done

# Tests run on all cores, those of one file in one process: they share what is expensive to prepare.
# One thread per process: with two, the threads wait for each other as soon as anything else uses a core.
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 WANDB_MODE=offline
# glibc keeps the pages of large logits instead of handing them back each step: up to 1.5 times faster on a CPU.
CPU_ENV := MALLOC_TOP_PAD_=200000000 MALLOC_MMAP_THRESHOLD_=2000000000 MALLOC_TRIM_THRESHOLD_=2000000000 TOKENIZERS_PARALLELISM=false

.PHONY: install demo test check docs bench lab parity study self-learning faults fuzz

install: $(SETUP)

$(SETUP): pyproject.toml constraints.txt
	@sh .ci/set-up
	@touch $@

demo: install
	$(CPU_ENV) $(BIN)/trainer fit recipes/quickstart.yaml

test: install
	$(TEST_ENV) $(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m docsite.words
	$(BIN)/python -m docsite --check

docs: install
	$(BIN)/python -m docsite.picture
	$(BIN)/python -m docsite
	$(BIN)/zensical build --strict --clean

bench: install
	$(TEST_ENV) $(BIN)/python -m benchmarks

lab: install
	$(TEST_ENV) $(BIN)/python -m pytest tests/experiments
	$(TEST_ENV) $(BIN)/python -m experiments
	$(TEST_ENV) $(BIN)/python -m experiments.guard_table
	$(CPU_ENV) OMP_NUM_THREADS=1 $(BIN)/python -m experiments.text --again

parity: install
	$(TEST_ENV) $(BIN)/python -m tests.together.parity
	$(TEST_ENV) $(BIN)/python -m tests.together.parity --precision bf16 --micro-batches 32

study: install
	$(CPU_ENV) OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.study

self-learning: install
	$(CPU_ENV) OMP_NUM_THREADS=1 $(BIN)/python -m experiments.self_learning --run

faults: install
	$(TEST_ENV) $(BIN)/python -m tests.together.kill9 --kills 20
	$(TEST_ENV) $(BIN)/python -m tests.together.faults --times 5
	$(TEST_ENV) $(BIN)/python -m tests.tools.slurm.proof
	$(TEST_ENV) $(BIN)/python -m pytest -m slow

fuzz: install
	$(TEST_ENV) $(BIN)/python -m pytest tests/fuzz -n auto
