# Every target sets itself up: .venv, the packages of requirements.txt, the system libraries (scripts/setup.sh).
# PYTHON=python3.12 make test   picks the Python that .venv is made with
# TORCH_INDEX=URL make demo     one more package index, for a CPU build of torch (200 MB instead of several GB)
PY := .venv/bin/python

.PHONY: help setup demo test learn bench figures lint

help:
	@echo "make demo     train a world model and its agent in minutes, and leave videos of the agent and its dream"
	@echo "make test     the fast tests"
	@echo "make learn    the slow tests: that every agent learns"
	@echo "make bench    the speed scripts; tables go to benchmarks/speed"
	@echo "make figures  redraw the tables and plots of the READMEs from the stored results"

setup:
	@bash scripts/setup.sh

demo: setup
	@$(PY) scripts/demo.py

test: setup
	@$(PY) -m pytest -m "not slow" -q -n auto --dist loadfile --durations=15 --durations-min=0.5

learn: setup
	@$(PY) -m pytest -m slow -q --durations=0

bench: setup
	@$(PY) -m benchmarks.speed

figures: setup
	@$(PY) -m benchmarks.figures

lint: setup
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
