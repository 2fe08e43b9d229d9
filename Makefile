# Everything a developer does. `make demo` and `make test` prepare the machine themselves and say what they install.
# They need root, as they build networks; on a kernel without ipip they run in User-mode Linux.

TOPOLOGY ?= two-racks
LAB      := target/debug/heliograph-lab
# For test programs that know nothing of the lab: cargo runs them where ipip is to be had.
RUNNER   := --config "target.'cfg(unix)'.runner = ['$(CURDIR)/$(LAB)', 'run']"

# For `make cluster`: TOPOLOGY=two-racks needs a kernel with ipip, and says what to do without one. SERVICES=--services
# adds CoreDNS.
NODES    ?= 3
SERVICES ?=
ifeq ($(origin TOPOLOGY),file)
cluster: TOPOLOGY := flat
endif

# What of Rust's C library there is without a shared object: the image holds nothing but our programs.
STATIC   := $(shell uname -m)-unknown-linux-musl
IMAGE    := target/heliograph-image.tar

.PHONY: demo test test-cluster check bench scale audit build cluster cluster-down conformance image manifests

demo: build
	$(LAB) setup $(if $(filter kubernetes,$(TOPOLOGY)),--cluster)
	$(LAB) demo --topology $(TOPOLOGY)

# The end-to-end tests use the binaries of the same profile, so these are built first.
test: build
	$(LAB) setup --tests
	$(MAKE) --no-print-directory check
	cargo test --workspace
	cargo test -p heliograph-agent --test tunnel $(RUNNER) -- --ignored

# What of the tests takes no more than kubectl, on a cluster of KUBECONFIG's: kind, k3s, `make cluster`. Without a pod
# network, or with Heliograph; its nodes need our image (`make image`).
test-cluster:
	@test -n "$$KUBECONFIG" || { echo "KUBECONFIG is not set: which cluster?"; exit 2; }
	cargo test -p heliograph-e2e --test any_cluster -- --nocapture

# A whole Kubernetes on this machine, left running. Builds it once: about 6 minutes on 2 idle cores.
cluster: build
	$(LAB) setup --cluster
	$(LAB) cluster up --nodes $(NODES) --topology $(TOPOLOGY) $(SERVICES)

# Kubernetes' own tests of the network on a cluster of their own; writes docs/conformance.md.
conformance: build
	$(LAB) setup --tests
	$(LAB) conformance

cluster-down:
	$(LAB) cluster down

build:
	cargo build --workspace --bins

# The container image as a tar, made without a builder: `ctr -n k8s.io image import`, `docker load`, `podman load`.
image:
	@rustup target list --installed | grep -q $(STATIC) || rustup target add $(STATIC)
	@command -v musl-gcc >/dev/null || { \
		echo "musl-gcc is missing: installing musl-tools, which compiles the C of the TLS library"; \
		apt-get update --quiet=2 && apt-get install --yes --quiet=2 --no-install-recommends musl-tools; }
	CC_$(subst -,_,$(STATIC))=musl-gcc cargo build --release --target $(STATIC) -p heliograph-agent -p heliograph-cni --bins
	cargo run --quiet -p heliograph-e2e --bin heliograph-lab -- image target/$(STATIC)/release $(IMAGE)

# The kinds as their types say, and all that users apply in one file; tests see that both are up to date.
manifests:
	mkdir -p target
	cargo run --quiet -p heliograph-agent --bin heliograph -- crds > target/crds.yaml
	mv target/crds.yaml manifests/crds.yaml
	for part in manifests/crds.yaml $(addprefix manifests/base/,namespace.yaml rbac.yaml daemonset.yaml); do \
		echo ---; cat $$part; done > manifests/install.yaml

check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

bench:
	cargo bench --workspace

# Five thousand simulated speakers that all announce: more memory than a test may take.
scale:
	cargo test -p heliograph-bgp --test scale -- --ignored --nocapture

audit:
	@cargo deny --version >/dev/null 2>&1 || { \
		echo "cargo-deny is missing: installing it with cargo"; cargo install --locked cargo-deny; }
	cargo deny check licenses bans sources
