# Forebay's commands.  Each one sets up what it needs: a virtual environment in .venv and, as root on Debian or
# Ubuntu, the package fuse3; the tests also rsync, Ceph and, in .venv, Azurite.  Nothing is installed outside of these.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := src tests bench demo
AZURITE := azurite@3.37.0

.PHONY: help setup check test demo bench format clean

help:
	@echo "make demo    set up and run the walk-through: a real S3 server, a mount, a training, a table of results"
	@echo "make test    set up, check and run every test"
	@echo "make check   formatting, lint, types"
	@echo "make bench   measure against the bare kernel, bare clients and rivals; write bench/results/"

setup: $(VENV)/.dev fuse tools

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[demo]'
	@touch $@

# fusermount3, with which a user who is not root mounts; root needs no more than the kernel.
.PHONY: fuse
fuse:
	@command -v fusermount3 >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends fuse3 >/dev/null; \
	  else echo "fusermount3 is missing: sudo apt-get install fuse3" >&2; fi; }

# What the tests read a mount with, and the servers they read from, beside what is everywhere or comes with pip.
TOOLS := rsync openssh-client openssh-server nginx-light libnginx-mod-http-dav-ext apache2-bin
.PHONY: tools
tools:
	@PATH="$$PATH:/usr/sbin"; { command -v rsync && command -v ssh-keygen && command -v sshd && command -v nginx && command -v apache2 && \
	  test -e /usr/lib/nginx/modules/ngx_http_dav_ext_module.so; } >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(TOOLS) >/dev/null; \
	  else echo "the tests need more: sudo apt-get install $(TOOLS)" >&2; fi; }

# Microsoft's emulator of Azure Blob Storage; the node that runs it comes as a wheel.
.PHONY: azurite
azurite: $(VENV)/azurite/$(AZURITE)

$(VENV)/azurite/$(AZURITE): $(VENV)/.dev
	$(BIN)/npm install --prefix $(VENV)/azurite --omit=dev --omit=optional --ignore-scripts \
	  --no-audit --no-fund --loglevel=error $(AZURITE)
	@touch $@

# A real Ceph, for the tests of its object gateway and of CephFS: 67 MB to fetch, a minute to install.
CEPH := ceph-mon ceph-osd ceph-mds radosgw
.PHONY: ceph
ceph:
	@(for program in $(CEPH); do command -v $$program >/dev/null || exit 1; done) || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(CEPH) >/dev/null; \
	  else echo "the tests need Ceph: sudo apt-get install --no-install-recommends $(CEPH)" >&2; fi; }

check: setup
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy

test: azurite ceph check
	$(BIN)/pytest

demo: $(VENV)/.demo fuse
	$(BIN)/python demo/run.py

bench: $(VENV)/.demo $(VENV)/.dev fuse
	$(BIN)/python bench/run.py

format: setup
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

clean:
	rm -rf $(VENV) build dist demo/out .mypy_cache .pytest_cache .ruff_cache .hypothesis
