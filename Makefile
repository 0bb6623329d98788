# Forebay's commands.  Each one sets up what it needs: a virtual environment in .venv and, as root on Debian or
# Ubuntu, the package fuse3; the tests also the servers that they read from, see `servers`.  Nothing else is installed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := src tests bench demo
AZURITE := azurite@3.37.0
# PyTorch without CUDA, 190 MB to fetch, of the version that pyproject.toml names; that of PyPI brings gigabytes of CUDA,
# which neither tests nor demo need, and is taken where this index cannot be reached.
PYTORCH := --index-url https://download.pytorch.org/whl/cpu --no-deps --retries 0
TORCH_CPU := torch==2.13.0 $(PYTORCH)
TORCHVISION_CPU := torchvision==0.28.0 $(PYTORCH)

.PHONY: help setup check test test-frameworks demo bench format clean

help:
	@echo "make demo    set up and run the walk-through: a real S3 server, a mount, a training, a table of results"
	@echo "make test    set up, check and run every test"
	@echo "make test-frameworks   the tests with PyTorch, TensorFlow, JAX and Caffe's formats; installs 3 GB"
	@echo "make check   formatting, lint, types"
	@echo "make bench   measure against the bare kernel, bare clients and rivals; write bench/results/"

setup: $(VENV)/.dev fuse

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH_CPU) 2>/dev/null || true
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

$(VENV)/.frameworks: $(VENV)/.dev pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCHVISION_CPU) 2>/dev/null || true
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev,frameworks]'
	@touch $@

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH_CPU) 2>/dev/null || true
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[demo]'
	@touch $@

# Install packages if the shell test says that they are missing.
define packages
	@PATH="$$PATH:/usr/sbin"; { $(1); } >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(2) >/dev/null; \
	  else echo "$(3) more: sudo apt-get install --no-install-recommends $(2)" >&2; fi; }
endef

# fusermount3, with which a user who is not root mounts; root needs no more than the kernel.
.PHONY: fuse
fuse:
	$(call packages,command -v fusermount3,fuse3,mounting needs)

# What the tests read a mount with, and the real servers that they read from, beside those that come with pip: sshd,
# nginx, Apache, Ceph (67 MB to fetch), Java and libraries for HDFS, whose jars are fetched once into the user's cache.
PROGRAMS := rsync git vim ssh-keygen sshd nginx apache2 ceph-mon ceph-osd ceph-mds radosgw java
FILES := /usr/lib/nginx/modules/ngx_http_dav_ext_module.so /usr/share/java/jersey1-json.jar
PACKAGES := rsync git vim openssh-client openssh-server nginx-light libnginx-mod-http-dav-ext apache2-bin \
  ceph-mon ceph-osd ceph-mds radosgw default-jre-headless libcommons-daemon-java libjersey1-core-java \
  libjersey1-server-java libjersey1-servlet-java libjersey1-json-java libjsr311-api-java
.PHONY: servers
servers: $(VENV)/azurite/$(AZURITE)
	$(call packages,$(foreach one,$(PROGRAMS),command -v $(one) &&) ls $(FILES),$(PACKAGES),the tests need)
	@$(BIN)/python -m forebay.testing.hdfs_jars

# Microsoft's emulator of Azure Blob Storage; the node that runs it comes as a wheel.
$(VENV)/azurite/$(AZURITE): $(VENV)/.dev
	$(BIN)/npm install --prefix $(VENV)/azurite --omit=dev --omit=optional --ignore-scripts \
	  --no-audit --no-fund --loglevel=error $(AZURITE)
	@touch $@

check: setup
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy

test: check servers
	$(BIN)/pytest --numprocesses 2 --dist loadfile --max-worker-restart 2  # most tests wait for servers: two at a time take little more than half the time

# A group of its own, in no other: what it installs is larger than all the rest, and takes a second or ten to import.
test-frameworks: $(VENV)/.frameworks fuse
	$(BIN)/pytest tests/frameworks

demo: $(VENV)/.demo fuse
	$(BIN)/python demo/run.py

bench: $(VENV)/.demo $(VENV)/.frameworks fuse
	$(BIN)/python bench/run.py

format: setup
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

clean:
	rm -rf $(VENV) build dist demo/out .mypy_cache .pytest_cache .ruff_cache .hypothesis
