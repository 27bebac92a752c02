# Everything a developer or CI does, from a fresh clone, with Python >= 3.11, make and a C
# compiler. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# make test PLONE=6.1 PYTHON=python3.12: the line of Plone chooses the versions of all packages, and
# each combination has an environment of its own.
PLONE ?= 6.2
PYTHON ?= python3
CONSTRAINTS := constraints$(if $(PLONE:6.2=),-$(PLONE)).txt

# PYTHON is a command or a path. Without such a command, it is looked for where pyenv and uv install.
INSTALLED := $(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/*/bin/$(PYTHON) \
	$(or $(UV_PYTHON_INSTALL_DIR),$(HOME)/.local/share/uv/python)/*/bin/$(PYTHON))
INTERPRETER = $(or $(shell for found in $(PYTHON) $(INSTALLED); do \
	"$$found" -c '' 2>/dev/null && { echo "$$found"; break; }; done), \
	$(error $(PYTHON) is not found; CONTRIBUTING.rst says where to get it))
ifeq ($(PLONE) $(PYTHON),6.2 python3)
VENV ?= .venv
else
VENV ?= .venvs/plone$(PLONE)-python$(shell $(INTERPRETER) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
endif
VENV := $(VENV)
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := demo,test,lint,bench,docs,release
TESTS ?= tests
DOMAIN := collective.taskqueue
LOCALES := src/collective/taskqueue/site/locales
CATALOGUES := $(wildcard $(LOCALES)/*/LC_MESSAGES/$(DOMAIN).po)

# Processes that run tests at the same time. Many tests of the whole suite wait for a server or
# for another thread, so two processes for each core pay.
CORES := $(shell nproc 2>/dev/null || echo 2)
WORKERS ?= $(shell echo $$((2 * $(CORES))))

# Without bytecode, each of the hundreds of processes that the tests start compiles all of Zope.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 24

.PHONY: install
install: $(STAMP) ## Create the environment; PLONE=6.1 and PYTHON=python3.12 choose another one

$(STAMP): pyproject.toml setup.py examples/demo/setup.py $(CONSTRAINTS) $(CATALOGUES)
	@$(INTERPRETER) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(INTERPRETER) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint $(CONSTRAINTS) \
		--editable '.[$(EXTRAS)]' --editable examples/demo
	touch $@

.PHONY: demo
demo: $(STAMP) ## A Plone site that queues and runs tasks before your eyes; ONCE=1, STORAGE=sql|redis
	STORAGE=$(STORAGE) $(BIN)/python examples/demo/show.py $(if $(ONCE),--once)

.PHONY: example-compose-local
example-compose-local: $(STAMP) services ## The processes of examples/compose, without Docker; DATABASE=zeo
	DATABASE=$(DATABASE) PYTHONPATH=tests:examples/demo $(BIN)/python examples/compose/local

# A package of Debian: $(1) has to be there, $(2) is its name; $(3) follows its installation.
define service
	@$(1) || { \
	  if [ $$(id -u) = 0 ]; then SUDO=; elif sudo -n true 2>/dev/null; then SUDO=sudo; \
	  else echo '$(2) is missing; type: sudo apt-get install $(2)' >&2; exit 1; fi; \
	  command -v apt-get >/dev/null || { echo '$(2) is missing; install it' >&2; exit 1; }; \
	  $$SUDO apt-get update -qq && $$SUDO apt-get install -qq -y $(2)$(if $(3), && { $(3); }); }
endef

# The package starts one for the whole machine, at each boot, which a developer does not expect.
IDLE_POOLER := $$SUDO systemctl disable --quiet --now pgbouncer 2>/dev/null || true

.PHONY: services
services: ## What the tests start, from Debian's packages: Redis, PostgreSQL, PgBouncer, systemd's check
	$(call service,command -v redis-server >/dev/null,redis-server)
	$(call service,ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || command -v postgres >/dev/null,postgresql)
	$(call service,PATH="$$PATH:/usr/sbin" command -v pgbouncer >/dev/null,pgbouncer,$(IDLE_POOLER))
	$(call service,command -v systemd-analyze >/dev/null,systemd)

.PHONY: quick
quick: $(STAMP) ## The unit tests, in less than a minute; they need no server
	$(BIN)/python -m pytest --quiet --numprocesses $(CORES) tests/unit

.PHONY: test
test: $(STAMP) services ## The whole suite; TESTS=tests/rest for a part of it, WORKERS=1 for one process
	$(BIN)/python -m pytest --numprocesses $(WORKERS) $(TESTS)

# Apart from the suite proper: tracing slows every race down, and real races are tested. What
# tests/acceptance and tests/crash run, processes of their own run, which are not traced.
TRACED := tests/unit tests/storages tests/integration tests/rest

.PHONY: coverage
coverage: $(STAMP) services ## The lines that no test runs, less than one in twenty; takes minutes
	rm -f .coverage .coverage.*
	$(BIN)/python -m coverage run -m pytest $(TRACED)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

# The servers and workers are killed at more than a thousand moments; takes minutes.
.PHONY: crash
crash: $(STAMP) services ## Kill processes at every step, a thousand times, and count what is lost
	PYTHONPATH=tests $(BIN)/python -m crash

.PHONY: lint
lint: $(STAMP) ## Style, types, who imports whom, declared dependencies, and the examples
	$(BIN)/ruff check src tests benchmarks docs examples setup.py
	$(BIN)/ruff format --check src tests benchmarks docs examples setup.py
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/kubernetes-validate --strict --quiet examples/kubernetes/*.yaml
	$(BIN)/hadolint examples/compose/Dockerfile
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec examples/compose/docker-compose.yml
	$(MAKE) dependencies

# Not among the dependencies: what the extras redis, sql and postgresql bring, imported where a
# queue is configured for them; what the extra test brings, imported in testing/; and two modules
# of Python that the tool takes for packages.
OPTIONAL := msgpack psycopg redis* sqlalchemy* \
	hypothesis* plone.app.testing* plone.testing* pytest io.* itertools.*

.PHONY: dependencies
dependencies: $(STAMP) ## Whether pyproject.toml declares each distribution that the code imports
	$(BIN)/pip-missing-reqs --requirements-file pyproject.toml \
		$(foreach module,$(OPTIONAL),--ignore-module '$(module)') src

.PHONY: format
format: $(STAMP) ## Bring the code into its form
	$(BIN)/ruff check --fix src tests benchmarks docs examples setup.py
	$(BIN)/ruff format src tests benchmarks docs examples setup.py

.PHONY: docs
docs: $(STAMP) ## The documentation as a site, in .cache/docs; a warning is an error
	$(BIN)/python -m sphinx -E -W -n --keep-going -q docs .cache/docs

# With the setuptools of constraints.txt: in an environment of its own, build takes the newest.
# The last step shows that the extras bring what the code imports, testing/ excepted.
IMPORT_ALL := import importlib, pkgutil, collective.taskqueue as package; \
	names = [name for _, name, _ in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]; \
	[importlib.import_module(name) for name in names if ".testing" not in name]

.PHONY: dist
dist: $(STAMP) ## Build what is released into dist/; check, install and import it
	rm -rf dist .cache/dist
	$(BIN)/check-manifest --no-build-isolation
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*
	$(BIN)/towncrier build --draft --version 0 > /dev/null
	$(BIN)/python -m venv .cache/dist
	$(BIN)/uv pip install --quiet --python .cache/dist/bin/python --constraint $(CONSTRAINTS) \
		"$$(echo dist/*.whl)[redis,sql,postgresql]"
	@cd .cache/dist && bin/python -c '$(IMPORT_ALL)'

# A changed text is left untranslated: a guess from a similar one would have to be found.
.PHONY: locales
locales: $(STAMP) ## Bring the catalogues up to date with the code; then translate what is new
	$(BIN)/pot-create --domain $(DOMAIN) --package-name $(DOMAIN) --no-linenumbers --sort-by-file \
		--output $(LOCALES)/$(DOMAIN).pot src
	$(BIN)/pybabel update --domain $(DOMAIN) --input-file $(LOCALES)/$(DOMAIN).pot \
		--output-dir $(LOCALES) --no-fuzzy-matching --ignore-obsolete

.PHONY: bench
bench: $(STAMP) services ## Measure: ratios against a baseline or a peer in the same run
	missed=0; for part in benchmarks benchmarks.shared benchmarks.web benchmarks.sql benchmarks.slots \
	    benchmarks.lists benchmarks.start benchmarks.threads; do \
	  $(BIN)/python -m $$part || missed=1; done; exit $$missed

# Versions that only some machines need become sections with the same condition. Buildout
# overlooks the versions of its own packages unless their names are written with dots.
versions.cfg: constraints.txt
	{ echo '# Made from constraints.txt by make.' && printf '\n[versions]\n' && \
	  sed -nE -e '/^zc-/s/-/./g' -e 's/^(\S+)==(\S+)$$/\1 = \2/p' $< && \
	  sed -nE 's/^(\S+)==(\S+) ; (.+)$$/\n[versions:\3]\n\1 = \2/p' $<; } > $@

# Paths are those of this folder, wherever the file is: eggs, parts and bin are shared.
CONFIG ?= buildout.cfg

.PHONY: buildout
buildout: versions.cfg ## Build an instance with buildout, as an integrator would; CONFIG=examples/buildout/…
	test -x .cache/buildout/bin/buildout || $(INTERPRETER) -m venv .cache/buildout
	.cache/buildout/bin/python -m pip install --quiet -r requirements-buildout.txt
	.cache/buildout/bin/buildout -c $(CONFIG) buildout:directory=$(CURDIR)

# Another line of Plone has the versions of constraints.txt, but for what its own file rules out.
RESOLVE := uv pip compile --quiet --no-annotate --no-header --python-version 3.11 --universal \
	--all-extras --output-file

.PHONY: constraints
constraints: ## Resolve all versions anew, or those of PLONE=6.1; test before you commit them
	test -x .venv/bin/uv || $(MAKE) install PLONE=6.2 VENV=.venv
ifeq ($(PLONE),6.2)
	.venv/bin/$(RESOLVE) $(CONSTRAINTS) --upgrade pyproject.toml constraints.in
	$(MAKE) versions.cfg
else
	cp constraints.txt $(CONSTRAINTS)
	.venv/bin/$(RESOLVE) $(CONSTRAINTS) pyproject.toml $(CONSTRAINTS:.txt=.in)
endif

.PHONY: clean
clean: ## Remove all that can be made again
	rm -rf .venv .venvs .cache .demo .tox build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage*
