# The two commands are `make book` and `make test`; each sets up what it needs first. `make help` lists the others.
# Options, e.g. `make train RECIPE=s4-lenet5 SEED=3`:
RECIPE  ?= s4-lenet5
SEED    ?= 0
PROFILE ?= stored
NAME    ?= mnist
JOBS    ?= all
MINUTES ?= 10

.DEFAULT_GOAL := help
.PHONY: help env kernels book test fuzz data chapters train plan reproduce bench bench-kernels lab clean pins

# What a recipe starts, and what that starts in turn, comes from .venv.
IN_ENV = PATH="$(CURDIR)/.venv/bin:$$PATH"

help:
	@echo "make env        set up .venv: Python packages (pinned, checked by hash), bnnlib editable"
	@echo "make book       run every chapter from the stored results, build the book: build/html/index.html"
	@echo "make test       run the tests"
	@echo "make fuzz       attack the library with random input   MINUTES=10  (a SEED of your own: ARGS='--seed 1')"
	@echo "make kernels    compile the native kernels and list those that this CPU can run"
	@echo "make data       fetch a data set                    NAME=mnist (or cifar10, tiny-imagenet)"
	@echo "make chapters   run the chapters into build/        PROFILE=stored (or quick, demo, full)  SEED=0"
	@echo "make train      train one recipe, write its record  RECIPE=s4-lenet5  SEED=0  PROFILE=full"
	@echo "make plan       what has no record yet, and the hours it takes"
	@echo "make reproduce  train -> records -> chapters -> book, where something is missing  JOBS=all (CPU cores)"
	@echo "make bench      measure kernels, networks and training on this machine into results/bench/ and results/verified/"
	@echo "make bench-kernels  measure the kernels alone, minutes    ARGS=--layers: layers only, printed and not kept"
	@echo "make lab        open copies of the chapters in JupyterLab: build/lab/00-start.ipynb"
	@echo "make clean      remove what was built; .venv, data and run folders stay"
	@echo "PYTHON=/path/to/python and CXX=compiler choose those of make env."
	@echo "ARGS=... is handed on, e.g. make test ARGS='-k quantizers'."

env:
	@./setup_env.sh

kernels: env
	@$(IN_ENV) python -m bnnlib.ops

book: kernels
	@$(IN_ENV) python -m bnnlib.chapters run --profile stored
	@$(IN_ENV) python -m bnnlib.book

# One thread a worker: the workers share the cores.
test: kernels
	@$(IN_ENV) OMP_NUM_THREADS=1 python -m pytest -n auto --maxprocesses 8 $(ARGS)

# What a finding prints reproduces it.
fuzz: kernels
	@$(IN_ENV) python -m bnnlib.fuzz --minutes $(MINUTES) $(ARGS)

data: env
	@$(IN_ENV) python -m bnnlib.data fetch $(NAME)

chapters: kernels
	@$(IN_ENV) python -m bnnlib.chapters run --profile $(PROFILE) --seed $(SEED) $(ARGS)

# Training knows no stored profile: its default is full.
train: env
	@$(IN_ENV) python -m bnnlib.train $(RECIPE) --seed $(SEED) --profile $(if $(filter quick demo,$(PROFILE)),$(PROFILE),full) $(ARGS)

plan: env
	@$(IN_ENV) python -m bnnlib plan $(ARGS)

reproduce: kernels
	@$(IN_ENV) snakemake --cores $(JOBS) $(ARGS)

bench-kernels: kernels
	@$(IN_ENV) python -m bnnlib.bench $(ARGS)

bench: bench-kernels
	@$(IN_ENV) python -m bnnlib.bench_deploy $(ARGS)
	@$(IN_ENV) python -m bnnlib bench training $(ARGS)
	@$(IN_ENV) python -m bnnlib.verify $(ARGS)

lab: kernels
	@$(IN_ENV) python -m bnnlib lab $(ARGS)

clean:
	rm -rf build .pytest_cache .hypothesis .ruff_cache .snakemake
	find bnnlib kernels tests -name __pycache__ -prune -exec rm -rf {} +
	find bnnlib kernels \( -name '*.so' -o -name '.rendered.*' \) -exec rm -f {} +

# For maintainers, after a change in pyproject.toml; ARGS=--upgrade takes the newest versions.
pins: env
	@$(IN_ENV) uv pip compile pyproject.toml --extra train --extra book --extra test --extra dev --universal --python-version 3.11 \
	    --generate-hashes --no-emit-index-url --no-annotate --quiet \
	    --custom-compile-command "make pins" --output-file requirements.txt $(ARGS)
