# Every recipe is one or two lines; what is longer is Rust. `make` alone prints this list.

CARGO ?= cargo
# Captures for `make captures`, seconds per target for `make fuzz`, seeds for `make sim`.
DIR ?= fixtures/pcaps
T ?= 30
SEEDS ?= 1000
PREFIX ?= /usr/local

# Needed to build: a C compiler for BPF (libclang comes with it), libelf and zlib for libbpf, which
# xsk-rs builds, m4 for its dispatcher, and libbpf's headers for the steering program.
BUILD := clang libelf-dev zlib1g-dev libbpf-dev m4 pkg-config
# Needed by demo and tests, which do without where there is no root.
LAB := iproute2 ethtool util-linux apache2-bin curl wrk iperf3 iputils-ping \
	python3-grpcio protobuf-compiler protobuf-compiler-grpc libprotobuf-dev

present = $(shell dpkg-query -W -f '$${db:Status-Abbrev} $${Package}\n' $(1) 2>/dev/null | sed -n 's/^ii  *//p')
missing = $(filter-out $(call present,$(1)),$(1))
apt = DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends
ROOT := $(filter 0,$(shell id -u))

.PHONY: help setup build demo test check fmt lint doc unit e2e loom conform captures sim stress fuzz bench matrix instructions stages manual deb install clean

help: ## Print this list
	@sed -nE 's/^([a-z0-9]+):[^#]*## (.*)/  make \1\t\2/p' Makefile | expand -t 18

setup: ## Install the Debian packages that build, demo and tests need
	@$(if $(call missing,$(BUILD) $(LAB)),$(if $(ROOT),$(apt) $(call missing,$(BUILD) $(LAB)) || { apt-get update -qq && $(apt) $(call missing,$(BUILD) $(LAB)); },echo "missing packages: $(call missing,$(BUILD) $(LAB)) (make setup as root installs them)"; $(if $(call missing,$(BUILD)),false,true)),true)

build: setup ## Build xvsd, xvsadm and xvs-bench as they are shipped, into target/release
	$(CARGO) build --release --workspace --bins

demo: setup ## Real HTTP through nat, dr, ipip, fullnat in network namespaces (root), else a replay
	$(CARGO) build -q --profile quick --workspace --bins
	target/quick/xvs-bench demo

test: setup ## Everything that CI needs
	$(CARGO) run -q -p xvs-bench -- suite fmt lint doc unit loom conform captures

check: fmt lint doc unit ## What must pass before a commit

fmt: ## Is every source file formatted?
	find dataplane control bench -name '*.rs' -not -path '*/target/*' -exec rustfmt --edition 2024 --check {} +

lint: ## Is clippy content?
	$(CARGO) clippy -q --workspace --all-targets --all-features -- -D warnings

doc: ## Does the documentation build, with every link?
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc -q --workspace --no-deps --all-features

unit: ## All tests of the workspace; those in namespaces need root
	$(CARGO) build -q --workspace --bins
	$(CARGO) test -q --workspace --all-features --no-fail-fast

e2e: ## Only the end-to-end tests, with the 1 GB downloads and long runs
	$(CARGO) build -q --profile quick --workspace --bins
	XVS_E2E=long $(CARGO) test --profile quick -p xvs-bench --test e2e -- --nocapture

conform: ## Judge xvs by the recordings of Linux IPVS
	$(CARGO) run -q -p xvs-bench -- conform fixtures/golden

captures: ## Replay every capture below DIR=fixtures/pcaps
	$(CARGO) run -q -p xvs-bench -- replay --in $(DIR)

loom: ## The flow table under all interleavings of a few steps
	RUSTFLAGS="--cfg loom" $(CARGO) test -q --target-dir target/loom -p xvs-dataplane --release --lib loom

sim: ## SEEDS=1000 runs of every simulated scenario; SEED=n repeats one
	SIM_SEEDS=$(SEEDS) $(if $(SEED),SIM_SEED=$(SEED)) $(CARGO) test --profile quick -p xvs-dataplane --test sim

stress: ## The flow table under mass: slots reused, and a control that must fail
	XVS_STRESS_HITS=100000000 $(CARGO) test --release -p xvs-dataplane --test flow_stress

fuzz: ## Fuzz each target for T=30 seconds, starting from all captures (nightly)
	$(CARGO) fuzz --version >/dev/null 2>&1 || $(CARGO) install -q --locked cargo-fuzz
	cd dataplane/fuzz && $(CARGO) +nightly run -q --bin seeds -- ../../fixtures
	cd dataplane && for t in wire pipeline rules; do $(CARGO) +nightly fuzz run $$t -- -max_total_time=$(T) -max_len=8192 || exit 1; done

bench: build ## The pipeline, and the wire beside its peers (root): target/bench/report.html
	rm -f target/bench/*.json
	target/release/xvs-bench report

matrix: ## What a packet costs for every method, family and table size, medians of five rounds
	$(CARGO) run --release -q -p xvs-bench -- pipeline --matrix --rounds 5

instructions: ## How many instructions a packet takes (callgrind), held against ceilings
	@$(if $(call missing,valgrind),$(if $(ROOT),$(apt) valgrind,echo "missing package: valgrind"; false))
	$(CARGO) run --release -q -p xvs-bench -- pipeline --instructions

stages: ## What each stage of a packet's way costs by itself (criterion)
	$(CARGO) bench -q -p xvs-bench --bench stages

manual: setup ## Manual pages, completions and the configuration's JSON schema, into target/manual
	$(CARGO) run -q -p xvs-control --example manual -- target/manual

deb: manual ## A Debian package, into target/debian
	$(CARGO) deb --version >/dev/null 2>&1 || $(CARGO) install -q --locked cargo-deb
	$(CARGO) deb -q --strip -p xvs-control

install: build manual ## Install programs, manual pages and completions below PREFIX=/usr/local
	install -D -t $(DESTDIR)$(PREFIX)/sbin target/release/xvsd target/release/xvsadm
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man8 target/manual/xvsd.8 target/manual/xvsadm.8
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man5 target/manual/xvsd.toml.5
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/bash-completion/completions target/manual/xvsadm

clean: ## Remove what was built
	$(CARGO) clean
