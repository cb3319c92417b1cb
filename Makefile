# Two commands to know: `make demo` and `make test`. Both do their own set-up.
# PIP_ARGS: extra arguments of pip, say an index that holds CPU builds of torch (see README).
PY ?= python3
B := .venv/bin

.venv/pyvenv.cfg:
	$(PY) -m venv .venv || { echo "A virtual environment cannot be made; on Debian: apt-get install python3-venv"; rm -rf .venv; exit 1; }
.venv/.core: pyproject.toml constraints.txt | .venv/pyvenv.cfg
	$(B)/pip install -q $(PIP_ARGS) -c constraints.txt -e . && touch $@
.venv/.dev: pyproject.toml constraints.txt | .venv/pyvenv.cfg
	$(B)/pip install -q $(PIP_ARGS) -c constraints.txt -e '.[dev]' && touch $@ .venv/.core

.PHONY: demo test test-slow check bench lock
demo: .venv/.core
	$(B)/gansmith train digits --minutes 1 --out runs/demo --fresh
	$(B)/gansmith sample runs/demo -n 100 --grid runs/demo/grid.png
	@echo "Look at runs/demo/grid.png: digits that nobody wrote. Next: $(B)/gansmith train YOUR_PICTURES/ --minutes 10"

check: .venv/.dev
	$(B)/ruff check src tests benchmarks
	$(B)/ruff format --check src tests benchmarks
	$(B)/mypy
test: check
	OMP_NUM_THREADS=1 $(B)/python -m pytest -n 2 -m "not slow" --cov=gansmith --cov-report=term:skip-covered
test-slow: check
	OMP_NUM_THREADS=1 $(B)/python -m pytest -n 2 -m slow

lock: .venv/.dev   # maintainers: renew the pins from what is installed
	$(B)/pip freeze --exclude-editable | sed 's/+cpu//' > constraints.txt

# Ours against torch-fidelity and prdc, which the package itself never needs: renews tests/data/oracle, then times both.
O := .venv-oracle
ORACLE := torch-fidelity==0.4.0 prdc==0.2 torchvision==0.28.0
.PHONY: oracle
oracle: $(O)/.done
	$(O)/bin/python benchmarks/oracle.py
$(O)/.done: pyproject.toml constraints.txt
	$(PY) -m venv $(O) && echo '*' > $(O)/.gitignore
	$(O)/bin/pip install -q $(PIP_ARGS) -c constraints.txt -e . tqdm
	$(O)/bin/pip install -q $(PIP_ARGS) --no-deps $(ORACLE) && touch $@
