# make demo   score the example clips; installs what that needs into .venv first
# make demo-stereo  a simulated stereo video to 3D tracks (docs/stereo4d.md)
# make test   install everything, run the tests and the linter
# make lint   the linter alone
# make clean  remove .venv, caches and the demo's output
#
# Variables: PYTHON=python3.12 (3.11 or newer), VENV=.venv, WORKERS=2,
#            TESTS="tests/test_geometry.py -k lift" (arguments for pytest)

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
TESTS ?=

PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip install --no-input --disable-pip-version-check
# One thread for each test process, so that WORKERS processes share the cores
# instead of fighting for them. NPROC is what XLA sizes its thread pool by.
TEST_THREADS := NPROC=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
TEST_LAYERS := requirements-dev.txt requirements-tf.txt
TEST_STAMP := $(VENV)/.installed-test

.PHONY: demo demo-stereo test lint clean help
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | sed -n "1,8p"

demo: $(VENV)/.installed-mini
	$(PY) inference.py --preset=mini --video_path=data --output_dir=outputs/demo \
	  --overwrite
	@echo "example_teleport is example_video, but for a cylinder that is elsewhere from"
	@echo "one frame to the next (frame 44): it scores lower. Where and when: outputs/demo"

demo-stereo: $(VENV)/.installed-mini
	$(PY) synthetic.py --stereo --num_scenes=1 --num_frames=32 --height=384 \
	  --width=384 --fps=15 --out_dir=outputs/demo-stereo
	$(PY) -m stereo4d.run --video=outputs/demo-stereo/scene_000000_sbs.mp4 \
	  --size=384 --fov_bounds=-30,30 --output_folder=outputs/demo-stereo

# The tests run even if the linter complains; either one failing fails the target.
test: $(TEST_STAMP)
	@status=0; \
	$(PY) -m ruff check . || status=1; \
	$(TEST_THREADS) $(PY) -m pytest -n $(WORKERS) --dist loadgroup \
	  --no-loadscope-reorder $(TESTS) || status=1; \
	exit $$status

lint: $(TEST_STAMP)
	$(PY) -m ruff check .

# A stamp is written only after its step succeeded, so an interrupted one is redone.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "3DSPA needs Python 3.11 or newer; name one: make PYTHON=python3.11" >&2; \
	  exit 1; }
	@$(PYTHON) -m venv "$(VENV)" || { \
	  echo "could not make $(VENV); on Debian or Ubuntu: apt install python3-venv" >&2; \
	  exit 1; }
	@touch "$@"

$(VENV)/.installed-mini: requirements-mini.txt | $(VENV)/.created
	$(PIP_INSTALL) -r requirements-mini.txt
	@touch "$@"

$(TEST_STAMP): $(wildcard requirements*.txt) | $(VENV)/.created
	$(PIP_INSTALL) $(addprefix -r ,$(TEST_LAYERS))
	@touch "$@" "$(VENV)/.installed-mini"

clean:
	rm -rf "$(VENV)" outputs/demo .pytest_cache .ruff_cache .hypothesis build \
	  3dspa.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
