# The commands of a developer: `make help` lists them.
# `make quick` runs as an ordinary user and installs nothing. Demo and tests build networks: they need root, install the
# Debian packages they lack and list them. On a kernel without ipip they run in User-mode Linux.

TOPOLOGY ?= two-racks
LAB      := target/debug/heliograph-lab
# For test programs without the lab's library: cargo runs them where the kernel has ipip.
RUNNER   := --config "target.'cfg(unix)'.runner = ['$(CURDIR)/$(LAB)', 'run']"

# For `make cluster`. TOPOLOGY=two-racks needs a kernel with ipip. SERVICES=--services adds CoreDNS.
NODES    ?= 3
SERVICES ?=
ifeq ($(origin TOPOLOGY),file)
cluster: TOPOLOGY := flat
endif

# The image holds nothing but our programs, linked statically with Rust's C library.
STATIC   := $(shell uname -m)-unknown-linux-musl
IMAGE    := target/heliograph-image.tar

# A test that cannot run here adds a line to this file (or fails, with CI=true). The list is printed at the end.
export HELIOGRAPH_SKIPPED := $(CURDIR)/target/skipped
define list_skipped
	@if [ -s $(HELIOGRAPH_SKIPPED) ]; then echo; echo "SKIPPED, and so not tested:"; cat $(HELIOGRAPH_SKIPPED); fi
endef

.DEFAULT_GOAL := demo
.PHONY: help demo quick gates words test test-bgp test-agent test-cni test-e2e test-cluster check bench scale audit \
	setup build lab forget-skipped cluster cluster-down conformance image manifests

help: ## this list
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/\1|\2/p' Makefile | while IFS='|' read -r target text; do \
		printf '  make %-14s %s\n' "$$target" "$$text"; done
	@echo
	@echo "demo, setup, cluster, conformance and the tests (except quick and test-cluster) need root, and install the Debian"
	@echo "packages they lack."

demo: ## two racks, four nodes, eight pods, every pair pinged (TOPOLOGY=reflectors, TOPOLOGY=kubernetes)
demo: lab
	$(call prepare,$(if $(filter kubernetes,$(TOPOLOGY)),cluster,demo),cargo build --workspace --bins)
	$(LAB) demo --topology $(TOPOLOGY)

quick: ## format, lints, words, unit tests, simulation, fuzz corpora, docs; no root, nothing installed
quick: check gates words
	cargo test --workspace --lib --bins --test sim --test corpus

# Without the lab and its kernel, so for every platform of the crate.
gates:
	cargo check -p heliograph-bgp --no-default-features
	cargo check -p heliograph-bgp --no-default-features --features tokio
	cargo test --quiet -p heliograph-bgp -p heliograph-bfd --doc
	@# The fuzz targets are crates of their own and need a nightly compiler to run; that they compile shows on any. The
	@# variable keeps the fuzzer itself, in C++, from being compiled.
	@for fuzz in bgp/fuzz bgp/bfd/fuzz; do \
		echo "cargo check: fuzz targets of $$fuzz"; \
		CUSTOM_LIBFUZZER_PATH=/none/libfuzzer.a cargo check --quiet --locked --target-dir target/fuzz \
			--manifest-path $$fuzz/Cargo.toml || exit 1; done

words:
	.ci/words

test: ## everything, as CI runs it
test: lab forget-skipped
	$(call prepare,tests,cargo test --workspace --no-run)
	$(MAKE) --no-print-directory check gates words
	cargo test --workspace
	cargo test --workspace --test tunnel $(RUNNER) -- --ignored
	$(list_skipped)

test-bgp: ## heliograph-bgp and heliograph-bfd, other BGP daemons included
test-bgp: lab forget-skipped
	$(LAB) setup --for bgp
	cargo test -p heliograph-bgp -p heliograph-bfd
	$(list_skipped)

test-agent: ## the agent, in network namespaces and with a real API server
test-agent: lab forget-skipped
	$(call prepare,agent,cargo test -p heliograph-agent --no-run)
	cargo test -p heliograph-agent
	cargo test -p heliograph-agent --test tunnel $(RUNNER) -- --ignored
	$(list_skipped)

test-cni: ## the CNI plugin
test-cni: forget-skipped
	cargo test -p heliograph-cni
	$(list_skipped)

test-e2e: ## whole networks and clusters
test-e2e: lab forget-skipped
	$(call prepare,tests,cargo build --workspace --bins)
	cargo test -p heliograph-e2e
	$(list_skipped)

# The tests that need only kubectl, on a cluster of KUBECONFIG's: kind, k3s, `make cluster`. Without a pod network, or
# with Heliograph; its nodes need our image (`make image`).
test-cluster: ## tests on the cluster of KUBECONFIG (kind, k3s, `make cluster`); no root
	@test -n "$$KUBECONFIG" || { echo "KUBECONFIG is not set: which cluster?"; exit 2; }
	cargo test -p heliograph-e2e --test any_cluster -- --nocapture

cluster: ## a whole Kubernetes on this machine, left running (NODES=3, SERVICES=--services)
cluster: lab
	$(call prepare,cluster,cargo build --workspace --bins)
	$(LAB) cluster up --nodes $(NODES) --topology $(TOPOLOGY) $(SERVICES)

cluster-down: ## removes the cluster of `make cluster`
	$(LAB) cluster down

conformance: ## Kubernetes' own network tests on a cluster made for them; writes docs/conformance.md
conformance: lab
	$(call prepare,tests,cargo build --workspace --bins)
	$(LAB) conformance

setup: ## installs and builds all that demo and tests need
setup: lab
	$(LAB) setup --for tests

build: ## all programs
	cargo build --workspace --bins

# The lab first: it builds kernel and Kubernetes while cargo builds the rest. Of the whole workspace, so that its
# dependencies have the features, and are compiled, once.
lab:
	cargo build --workspace --bin heliograph-lab

# $(call prepare,PURPOSE,COMMAND): prepares the machine and builds at the same time.
define prepare
	@echo '$(2) & $(LAB) setup --for $(1)'; \
	$(LAB) setup --for $(1) & setup=$$!; \
	$(2) || { kill $$setup; wait $$setup; exit 1; }; \
	wait $$setup
endef

forget-skipped:
	@mkdir -p target && rm -f $(HELIOGRAPH_SKIPPED)

image: ## target/heliograph-image.tar, for `ctr -n k8s.io image import`, `docker load`, `podman load`
	@rustup target list --installed | grep -q $(STATIC) || rustup target add $(STATIC)
	@command -v musl-gcc >/dev/null || { \
		echo "musl-gcc is missing: installing musl-tools, which compiles the C of the TLS library"; \
		apt-get update --quiet=2 && apt-get install --yes --quiet=2 --no-install-recommends musl-tools; }
	CC_$(subst -,_,$(STATIC))=musl-gcc cargo build --release --target $(STATIC) -p heliograph-agent -p heliograph-cni --bins
	cargo run --quiet -p heliograph-e2e --bin heliograph-lab -- image target/$(STATIC)/release $(IMAGE)

# Tests check that these files are up to date.
manifests: ## manifests/*.yaml and docs/reference/*.md, from the code
	HELIOGRAPH_UPDATE=1 cargo test --quiet -p heliograph-agent --lib -- api::crds status::metrics
	for part in manifests/crds.yaml $(addprefix manifests/base/,namespace.yaml rbac.yaml daemonset.yaml); do \
		echo ---; cat $$part; done > manifests/install.yaml

check: ## format, lints, docs
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

bench: ## the benchmarks of docs/performance.md
	cargo bench --workspace

scale: ## five thousand simulated speakers; takes many GB of memory
	cargo test -p heliograph-bgp --test scale -- --ignored --nocapture

audit: ## licences and sources of all dependencies
	@cargo deny --version >/dev/null 2>&1 || { \
		echo "cargo-deny is missing: installing it with cargo"; cargo install --locked cargo-deny; }
	cargo deny check licenses bans sources
