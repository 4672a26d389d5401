# The commands of this project. `make demo` and `make test` do everything, on a fresh machine too.
SHELL := /bin/sh
export PATH := $(CURDIR)/node_modules/node/bin:$(CURDIR)/node_modules/.bin:$(PATH)
NODE := node_modules/node/bin/node
ADDON := native/binding/meltemi.node
CNI := native/target/meltemi-cni
RUST := $(shell find native -name target -prune -o \( -name '*.rs' -o -name Cargo.toml \) -print) native/Cargo.lock
TS := $(shell find src test -name '*.ts')

.PHONY: build demo test bench bench-control-plane lint format generate fuzz image crds chart clean

build: dist/.built $(ADDON) $(CNI)

demo: build
	bin/prerequisites run
	$(NODE) --enable-source-maps dist/test/demo/main.js $(if $(KEEP),--keep)

# SUITES narrows the run, for example: make test SUITES="unit rust"
test: build
	bin/prerequisites test
	$(if $(or $(if $(SUITES),,all),$(filter cluster,$(SUITES))),test/cluster/build >/dev/null)
	$(NODE) --enable-source-maps dist/test/run.js $(SUITES)

# PEER adds a ztunnel binary that you have: make bench PEER="--peer-ztunnel /path/to/ztunnel"
bench: build
	bin/prerequisites test
	$(NODE) --enable-source-maps dist/test/bench/main.js $(PEER)

# Churn, snapshots and memory with 10,000 pods on a real API server. QUICK=1 is shorter: make bench-control-plane QUICK=1
bench-control-plane: dist/.built
	bin/prerequisites cluster
	$(NODE) --enable-source-maps dist/test/bench/control-plane/main.js $(if $(QUICK),--quick)

# A Kubernetes cluster that stays: NODES=2 PROXY=nftables CLUSTER=meltemi; the last line is its KUBECONFIG. docs/cluster.md
CLUSTERS := $(NODE) --enable-source-maps dist/test/cluster/harness/main.js
export CLUSTER NODES PROXY TAINTS

cluster: dist/.built
	@bin/prerequisites cluster
	@$(CLUSTERS) up

# TAR is a docker-archive, or several.
cluster-load: dist/.built
	@$(CLUSTERS) load $(TAR)

cluster-down: dist/.built
	@$(CLUSTERS) down

test-cluster: build
	bin/prerequisites test
	test/cluster/build >/dev/null
	$(NODE) --enable-source-maps dist/test/run.js cluster

# The same tests on a cluster that you have, kind or another: make test-kind KUBECONFIG=~/.kube/config
test-kind: build
	bin/prerequisites test
	TEST_KUBECONFIG="$(or $(KUBECONFIG),$(HOME)/.kube/config)" $(NODE) --enable-source-maps dist/test/run.js cluster

lint: node_modules/.installed
	biome check .
	cd native && cargo fmt --check && cargo clippy --all-targets --quiet -- -D warnings

format: node_modules/.installed
	biome check --write .
	cd native && cargo fmt

generate: node_modules/.installed
	buf generate

# The product's image as a docker-archive, made without a registry; its path is the last line.
image: build
	@daemonset/images/build

# The definitions of custom resources, out of the Go modules that publish them.
crds: build/crds/.made

build/crds/.made: daemonset/crds/fetch daemonset/crds/list daemonset/crds/go.mod
	daemonset/crds/fetch build/crds
	touch $@

# The chart for Helm, with the definitions; its path is the last line.
chart: crds
	@daemonset/chart-archive

# SECONDS_EACH is how long each target runs; what is found lies in native/fuzz/artifacts.
fuzz:
	set -e; for target in $$(ls native/fuzz/corpus); do native/fuzz/run.sh $$target $(or $(SECONDS_EACH),60); done

clean:
	rm -rf build dist node_modules native/target $(ADDON)

node_modules/.installed: package.json package-lock.json
	bin/prerequisites build
	npm install --no-save --no-audit --no-fund --loglevel=error # ci is stricter than registries that lack foreign platforms allow
	touch $@

dist/.built: node_modules/.installed tsconfig.json $(TS)
	tsc -p tsconfig.json
	touch $@

$(ADDON): node_modules/.installed $(RUST)
	npm run --silent build:native
	touch $@

$(CNI): node_modules/.installed $(RUST)
	npm run --silent build:cni
	touch $@
