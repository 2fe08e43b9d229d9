# Everything a developer does. `make demo` and `make test` prepare the machine themselves and say what they install.
# They need root, as they build networks; on a kernel without ipip they run in User-mode Linux.

TOPOLOGY ?= two-racks
LAB      := target/debug/heliograph-lab
# For test programs that know nothing of the lab: cargo runs them where ipip is to be had.
RUNNER   := --config "target.'cfg(unix)'.runner = ['$(CURDIR)/$(LAB)', 'run']"

# For `make cluster` a topology is `flat` or `two-racks`; SERVICES=--services adds kube-proxy and CoreDNS.
NODES    ?= 3
SERVICES ?=
ifeq ($(origin TOPOLOGY),file)
cluster: TOPOLOGY := flat
endif

.PHONY: demo test check bench scale audit build cluster cluster-down

demo: build
	$(LAB) setup
	$(LAB) demo --topology $(TOPOLOGY)

# The end-to-end tests use the binaries of the same profile, so these are built first.
test: build
	$(LAB) setup --tests
	$(MAKE) --no-print-directory check
	cargo test --workspace
	cargo test -p heliograph-agent --test tunnel $(RUNNER) -- --ignored

# A whole Kubernetes on this machine, left running. Builds it once: about 6 minutes on 2 idle cores.
cluster: build
	$(LAB) setup --cluster
	$(LAB) cluster up --nodes $(NODES) --topology $(TOPOLOGY) $(SERVICES)

cluster-down:
	$(LAB) cluster down

build:
	cargo build --workspace --bins

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
